//! [GoLB](https://github.com/Gzimvra/GoLB)'s `config.json`.
//!
//! Its numbers are whole seconds and counts. Missing or non-positive values have their defaults. `request_timeout`
//! limits one connection attempt to a server and one health check; it never ends a connection. Both connection limits
//! apply to each client address. One failed check removes a server, one passed check restores it. The only algorithm is
//! round robin, whatever `algorithm` contains.

use std::{fmt::Write, net::IpAddr, time};

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::conversion::{Conversion, ConvertError};
use crate::api::{
    Access, ActiveCheck, AddressPort, Backend, CertificateFiles, CertificateRef, Connect, Duration, HealthCheck,
    Limits, Listener, ListenerTls, LoadBalancing, Network, Rate, TcpLoadBalancer, TcpLoadBalancerSpec,
};

/// Converts the text of a `config.json` into a manifest of a load balancer named `golb`.
pub fn golb(text: &str) -> Result<Conversion, ConvertError> {
    let config = read(text)?;
    let mut remarks = Remarks::default();
    let spec = spec(config, &mut remarks);
    match spec {
        Some(spec) if remarks.problems.is_empty() => {
            let manifest = manifest(spec, &remarks);
            Ok(Conversion { manifest, warnings: remarks.warnings })
        }
        _ => Err(ConvertError(remarks.problems)),
    }
}

#[derive(Deserialize)]
struct Config {
    listen_addr: Option<String>,
    accept_tls: Option<bool>,
    tls_cert_file: Option<String>,
    tls_key_file: Option<String>,
    algorithm: Option<String>,
    health_check_interval: Option<Value>,
    request_timeout: Option<Value>,
    max_concurrent_connections: Option<Value>,
    max_connections_per_minute: Option<Value>,
    ip_filter_mode: Option<String>,
    ip_filter_list: Option<Vec<String>>,
    servers: Option<Vec<GolbServer>>,
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(expecting = "an object with an address")]
struct GolbServer {
    address: Option<String>,
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

#[derive(Default)]
struct Remarks {
    /// The interpretation of fields.
    notes: Vec<&'static str>,
    /// Settings that were not converted exactly.
    warnings: Vec<String>,
    /// Settings that cannot be converted.
    problems: Vec<String>,
}

impl Remarks {
    /// A positive whole number. A missing or non-positive value is GoLB's default.
    fn number(&mut self, field: &str, value: Option<Value>, default: u32, most: u32) -> u32 {
        let value = value.unwrap_or(Value::Null);
        match value.as_i64() {
            Some(number) if number > i64::from(most) => {
                self.problems.push(format!("{field}: {number} is too large, write at most {most}"));
                default
            }
            Some(number) if number > 0 => u32::try_from(number).unwrap_or(most),
            None if !value.is_null() => {
                self.problems.push(format!("{field}: {value} is not a number that GoLB accepts, write an integer"));
                default
            }
            _ => {
                self.warnings.push(format!("{field} is not set, using GoLB's default, {default}"));
                default
            }
        }
    }

    /// The value of a successful `read`, or a problem that names the field.
    fn parsed<T>(&mut self, field: &str, read: Result<T, String>) -> Option<T> {
        read.map_err(|problem| self.problems.push(format!("{field}: {problem}"))).ok()
    }
}

fn read(text: &str) -> Result<Config, ConvertError> {
    let refused = |sentence: String| ConvertError(vec![sentence]);
    let value: Value = serde_json::from_str(text).map_err(|error| refused(format!("the file is not JSON: {error}")))?;
    let Value::Object(fields) = value else {
        return Err(refused(
            "the file is not a GoLB configuration: write a JSON object with listen_addr and servers".into(),
        ));
    };
    // Go ignores the case of field names.
    let fields: Map<_, _> = fields.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
    serde_path_to_error::deserialize(Value::Object(fields))
        .map_err(|error| refused(format!("{}: {}", error.path(), error.inner())))
}

fn spec(config: Config, remarks: &mut Remarks) -> Option<TcpLoadBalancerSpec> {
    for field in config.unknown.keys() {
        remarks.warnings.push(format!("{field} is not a field of GoLB and was ignored"));
    }
    check_algorithm(config.algorithm.as_deref(), remarks);
    let tls = tls(&config, remarks);
    let access = access(config.ip_filter_mode.as_deref(), config.ip_filter_list.unwrap_or_default(), remarks);
    let limits = limits(config.max_concurrent_connections, config.max_connections_per_minute, remarks);
    let interval = remarks.number("health_check_interval", config.health_check_interval, 10, 3600);
    let timeout = remarks.number("request_timeout", config.request_timeout, 5, 3600);
    let addresses = addresses(config.servers.unwrap_or_default(), remarks);
    let connect = connect(timeout, addresses.len());
    let (address, port) = listen_address(config.listen_addr, remarks)?;
    remarks.notes.push("request_timeout limits one attempt to connect, and one health check, as in GoLB.");
    Some(TcpLoadBalancerSpec {
        listeners: vec![Listener { port, address, tls, access, limits: Some(limits), ..Listener::default() }],
        backends: vec![Backend { addresses: Some(addresses), ..Backend::default() }],
        load_balancing: Some(LoadBalancing::default()),
        health_check: Some(HealthCheck { active: Some(active_check(interval, timeout)), passive: None }),
        connect: Some(connect),
        ..TcpLoadBalancerSpec::default()
    })
}

fn check_algorithm(algorithm: Option<&str>, remarks: &mut Remarks) {
    match algorithm {
        None | Some("" | "round_robin") => {}
        Some(other) => remarks.warnings.push(format!(
            "algorithm: GoLB ignores `{other}` and uses round robin, and so does this manifest; for another algorithm \
             write RoundRobin, LeastConnections, PowerOfTwo, Random or Maglev below"
        )),
    }
}

/// `host:port` as Go listens on it. An empty host and an unspecified address mean all addresses of both families.
fn listen_address(text: Option<String>, remarks: &mut Remarks) -> Option<(Option<IpAddr>, u16)> {
    let text = text.filter(|text| !text.is_empty()).unwrap_or_else(|| {
        remarks.warnings.push("listen_addr is not set, using GoLB's default, :8080".into());
        ":8080".into()
    });
    let wrong = || format!("`{text}` is not an address: write an IP address and a port, or a port alone (:4000)");
    let read = || {
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let address = match host {
            "" => None,
            "localhost" => Some(IpAddr::from([127, 0, 0, 1])),
            host => Some(host.parse::<IpAddr>().map_err(|_| wrong())?).filter(|address| !address.is_unspecified()),
        };
        Ok((address, port))
    };
    remarks.parsed("listen_addr", read())
}

fn tls(config: &Config, remarks: &mut Remarks) -> Option<ListenerTls> {
    let file = |path: &Option<String>| path.clone().filter(|path| !path.is_empty());
    let files = [("tls_cert_file", file(&config.tls_cert_file)), ("tls_key_file", file(&config.tls_key_file))];
    if config.accept_tls != Some(true) {
        for (field, _) in files.iter().filter(|(_, path)| path.is_some()) {
            remarks.warnings.push(format!("{field} was ignored, because accept_tls is false"));
        }
        return None;
    }
    for (field, path) in &files {
        match path {
            None => remarks
                .problems
                .push(format!("{field} is not set, but accept_tls is true: write the path of the PEM file")),
            Some(path) if !path.starts_with('/') => remarks.warnings.push(format!(
                "{field}: `{path}` is now relative to the folder of the manifest, not to the working directory"
            )),
            Some(_) => {}
        }
    }
    let [certificate, key] = files.map(|(_, path)| path);
    let files = CertificateFiles { certificate: certificate?, key: key? };
    Some(ListenerTls {
        certificate_refs: vec![CertificateRef { name: None, files: Some(files) }],
        ..ListenerTls::default()
    })
}

fn access(mode: Option<&str>, list: Vec<String>, remarks: &mut Remarks) -> Option<Access> {
    let mode = mode.unwrap_or_default().to_ascii_lowercase();
    let networks: Vec<Network> = list
        .iter()
        .enumerate()
        .filter_map(|(index, text)| network(&format!("ip_filter_list[{index}]"), text, remarks))
        .collect();
    if networks.is_empty() {
        // GoLB accepts every client in all modes.
        if !matches!(mode.as_str(), "" | "none") {
            remarks
                .warnings
                .push("ip_filter_mode was ignored, because ip_filter_list is empty: all clients may connect".into());
        }
        return None;
    }
    match mode.as_str() {
        "allow" => Some(Access { allow: networks, deny: Vec::new() }),
        "deny" => Some(Access { allow: Vec::new(), deny: networks }),
        "" | "none" => {
            remarks
                .warnings
                .push("ip_filter_list was ignored, because ip_filter_mode is none: all clients may connect".into());
            None
        }
        other => {
            remarks.problems.push(format!(
                "ip_filter_mode: `{other}` is not a mode, and GoLB then accepts all clients: write allow, deny or none"
            ));
            None
        }
    }
}

fn network(field: &str, text: &str, remarks: &mut Remarks) -> Option<Network> {
    let network: Network = remarks.parsed(field, text.trim().parse())?;
    if text.parse::<IpNet>().is_ok() {
        remarks.warnings.push(format!(
            "{field}: GoLB compares whole addresses, so `{text}` had no effect there, but it has one here"
        ));
    }
    Some(network)
}

fn limits(concurrent: Option<Value>, per_minute: Option<Value>, remarks: &mut Remarks) -> Limits {
    const MOST: u32 = 10_000_000;
    remarks.notes.push("Both limits count each client by itself, as in GoLB: an IPv4 address, or an IPv6 /64.");
    remarks
        .notes
        .push("newConnectionsPerSource allows a burst of its count, then the same number per minute at an even rate.");
    let per_minute = remarks.number("max_connections_per_minute", per_minute, 50, MOST);
    Limits {
        max_connections_per_source: Some(remarks.number("max_concurrent_connections", concurrent, 10, MOST)),
        new_connections_per_source: Some(Rate { count: per_minute, per: seconds(60), burst: None }),
        ..Limits::default()
    }
}

fn addresses(servers: Vec<GolbServer>, remarks: &mut Remarks) -> Vec<AddressPort> {
    const MOST: usize = 64;
    if servers.is_empty() {
        remarks
            .problems
            .push("servers is empty: write at least one, for example {\"address\": \"127.0.0.1:5001\"}".into());
    }
    if servers.len() > MOST {
        remarks.problems.push(format!("servers: there are {}, write at most {MOST}", servers.len()));
    }
    let mut addresses = Vec::new();
    for (index, server) in servers.into_iter().enumerate() {
        for field in server.unknown.keys() {
            remarks.warnings.push(format!("servers[{index}].{field} is not a field of GoLB and was ignored"));
        }
        let field = format!("servers[{index}].address");
        let Some(address) = server_address(&field, server.address.unwrap_or_default(), remarks) else { continue };
        if addresses.contains(&address) {
            remarks.warnings.push(format!("{field}: {address} is a duplicate and was ignored"));
        } else {
            addresses.push(address);
        }
    }
    addresses
}

fn server_address(field: &str, text: String, remarks: &mut Remarks) -> Option<AddressPort> {
    // Go connects to the local machine if there is no host.
    let text = if text.starts_with(':') { format!("localhost{text}") } else { text };
    remarks.parsed(field, text.parse())
}

fn active_check(interval: u32, timeout: u32) -> ActiveCheck {
    ActiveCheck {
        interval: Some(seconds(interval)),
        timeout: Some(seconds(timeout.min(interval))),
        healthy_after: Some(1),
        unhealthy_after: Some(1),
        ..ActiveCheck::default()
    }
}

/// Every server is tried, each with the full timeout.
fn connect(timeout: u32, servers: usize) -> Connect {
    let attempts = u16::try_from(servers.clamp(1, 10)).unwrap_or(10);
    Connect {
        timeout: Some(seconds(timeout)),
        deadline: Some(seconds(timeout * u32::from(attempts))),
        attempts: Some(attempts),
        preconnect: None,
    }
}

fn seconds(count: u32) -> Duration {
    Duration(time::Duration::from_secs(count.into()))
}

fn manifest(spec: TcpLoadBalancerSpec, remarks: &Remarks) -> String {
    let mut text = String::from("# Converted from a GoLB configuration.\n");
    let notes = remarks.notes.iter().copied();
    for remark in notes.chain(remarks.warnings.iter().map(String::as_str)) {
        // A line break in a quoted text must not end the comment.
        let remark = remark.replace(char::is_control, " ");
        writeln!(text, "# - {remark}").expect("a String takes all");
    }
    text + &serde_saphyr::to_string(&TcpLoadBalancer::new("golb", spec)).expect("a manifest is YAML")
}

#[cfg(test)]
mod tests;
