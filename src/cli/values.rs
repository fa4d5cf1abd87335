//! Values of flags.

use std::{fmt, net::IpAddr, ops::RangeInclusive, str::FromStr};

use clap::ValueEnum;

use crate::{
    api::{ipv4_notation, port_number},
    model::{ObjectKey, ip_kinds::unreachable},
};

/// A listening address that clients can reach. Without a host: all addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenAddress {
    pub host: Option<IpAddr>,
    pub port: u16,
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is not an address to listen on: write :4000, 127.0.0.1:4000 or [::1]:4000, with a port from 1 \
                 to 65535 without leading zeros, and no scope (`%`)"
            )
        };
        if let Ok(address) = text.parse::<std::net::SocketAddr>() {
            // The parser accepts leading zeros in the port, and an IPv6 scope, which would be lost.
            return match text.rsplit(':').next().and_then(port_number) {
                Some(port) if !text.contains('%') => Ok(Self { host: Some(bindable(address.ip())?), port }),
                _ => Err(wrong()),
            };
        }
        let port = port_number(text.strip_prefix(':').unwrap_or(text));
        port.map(|port| Self { host: None, port }).ok_or_else(|| ipv4_notation::<Self>(text).unwrap_or_else(wrong))
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host {
            Some(host) => std::net::SocketAddr::new(host, self.port).fmt(f),
            None => write!(f, ":{}", self.port),
        }
    }
}

impl ListenAddress {
    pub fn socket_address(&self) -> std::net::SocketAddr {
        (self.host.unwrap_or(std::net::Ipv6Addr::UNSPECIFIED.into()), self.port).into()
    }
}

/// The address of a host to listen on.
///
/// # Errors
/// A sentence with the correct notation.
pub fn listen_ip(text: &str) -> Result<IpAddr, String> {
    let wrong = || format!("`{text}` is not an IP address: write for example 127.0.0.1, 0.0.0.0 or ::1");
    bindable(text.parse().map_err(|_| ipv4_notation::<IpAddr>(text).unwrap_or_else(wrong))?)
}

/// The address in its canonical form: an IPv6 socket cannot be bound to an IPv4-mapped address.
///
/// # Errors
/// A sentence, if no client can reach the address.
fn bindable(ip: IpAddr) -> Result<IpAddr, String> {
    let ip = ip.to_canonical();
    match unreachable(ip) {
        None => Ok(ip),
        Some(kind) => Err(format!(
            "{ip} is {kind}, at which no client can reach this process: write an address of this host, for example \
             127.0.0.1, or 0.0.0.0 or :: for all addresses"
        )),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminAddress {
    Off,
    At(std::net::SocketAddr),
}

pub fn admin_address(text: &str) -> Result<AdminAddress, String> {
    if text == "off" {
        return Ok(AdminAddress::Off);
    }
    let address = text.parse::<ListenAddress>().map_err(|error| format!("{error}; `off` disables the admin pages"))?;
    Ok(AdminAddress::At(address.socket_address()))
}

/// The clients that may read tenant data on the admin pages of a process without an API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LocalAuthorization {
    /// Clients at loopback addresses.
    Loopback,
    /// All clients that can connect.
    None,
}

/// The clients that may read tenant data on the admin pages of a controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ClusterAuthorization {
    /// Clients at loopback addresses, and clients with a token that the API server accepts.
    Kubernetes,
    /// All clients that can connect.
    None,
}

/// A number, or `unlimited`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota(pub Option<u32>);

impl FromStr for Quota {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == UNLIMITED {
            return Ok(Self(None));
        }
        let number =
            text.parse().map_err(|_| format!("`{text}` is not a number: write for example 100, or {UNLIMITED}"));
        number.map(|number| Self(Some(number)))
    }
}

impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(number) => number.fmt(f),
            None => f.write_str(UNLIMITED),
        }
    }
}

const UNLIMITED: &str = "unlimited";

/// A host name as in a Host header, without the port.
pub fn host_name(text: &str) -> Result<String, String> {
    let valid = (1..=253).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    valid
        .then(|| text.to_owned())
        .ok_or_else(|| format!("`{text}` is not a host name: write for example tcplb.example.com"))
}

pub fn port_range(text: &str) -> Result<RangeInclusive<u16>, String> {
    let wrong = || format!("`{text}` is not a port range: write for example 20000-24999, or 443");
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |text: &str| port_number(text).ok_or_else(wrong);
    let (first, last) = (port(first)?, port(last)?);
    if first <= last { Ok(first..=last) } else { Err(wrong()) }
}

pub fn label(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
    pair.map(|(key, value)| (key.to_owned(), value.to_owned()))
        .ok_or_else(|| format!("`{text}` is not a label: write for example app.kubernetes.io/name=tcplb"))
}

/// The workload of a controller's replicas, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkloadName {
    Deployment(String),
    DaemonSet(String),
}

pub fn workload(text: &str) -> Result<WorkloadName, String> {
    match text.split_once('/') {
        Some(("Deployment", name)) if !name.is_empty() => Ok(WorkloadName::Deployment(name.to_owned())),
        Some(("DaemonSet", name)) if !name.is_empty() => Ok(WorkloadName::DaemonSet(name.to_owned())),
        _ => Err(format!("`{text}` is not a workload: write Deployment/NAME or DaemonSet/NAME")),
    }
}

pub fn object_key(text: &str) -> Result<ObjectKey, String> {
    let pair = text.split_once('/').filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty());
    pair.map(|(namespace, name)| ObjectKey::new(namespace, name))
        .ok_or_else(|| format!("`{text}` is not an object name: write NAMESPACE/NAME, for example shop/postgres"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_a_number_or_unlimited() {
        for (text, quota) in [("0", Some(0)), ("100", Some(100)), ("4294967295", Some(u32::MAX)), ("unlimited", None)] {
            assert_eq!(text.parse(), Ok(Quota(quota)));
            assert_eq!(Quota(quota).to_string(), text);
        }
        for text in ["", "-1", "none", "4294967296"] {
            assert!(text.parse::<Quota>().unwrap_err().contains("write for example 100, or unlimited"), "{text}");
        }
    }

    #[test]
    fn mapped_addresses_are_listened_on_as_ipv4() {
        for (text, expected) in [
            ("[::ffff:127.0.0.1]:9000", "127.0.0.1:9000"),
            ("[::ffff:0.0.0.0]:9000", "0.0.0.0:9000"),
            ("[::1]:9000", "[::1]:9000"),
            (":9000", "[::]:9000"),
        ] {
            assert_eq!(text.parse::<ListenAddress>().unwrap().socket_address().to_string(), expected);
            assert_eq!(admin_address(text), Ok(AdminAddress::At(expected.parse().unwrap())));
        }
        assert_eq!(listen_ip("::ffff:127.0.0.1"), Ok([127, 0, 0, 1].into()));
        assert_eq!(admin_address("off"), Ok(AdminAddress::Off));
    }

    #[test]
    fn addresses_that_no_client_can_reach_are_not_listened_on() {
        for (text, kind) in [
            ("224.0.0.1", "224.0.0.1 is a multicast address"),
            ("::ffff:224.0.0.1", "224.0.0.1 is a multicast address"),
            ("ff02::1", "ff02::1 is a multicast address"),
            ("255.255.255.255", "255.255.255.255 is a broadcast address"),
            ("fe80::1", "fe80::1 is an IPv6 link-local address"),
            ("0.0.0.1", "0.0.0.1 is an unspecified address"),
        ] {
            let with_port = std::net::SocketAddr::new(text.parse().unwrap(), 9000).to_string();
            let errors = [
                listen_ip(text).unwrap_err(),
                with_port.parse::<ListenAddress>().unwrap_err(),
                admin_address(&with_port).unwrap_err(),
            ];
            for error in errors {
                assert!(error.starts_with(kind) && error.contains("write an address of this host"), "{text}: {error}");
            }
        }
        assert!(listen_ip("localhost").unwrap_err().contains("write for example 127.0.0.1"));
        assert!(admin_address("on").unwrap_err().ends_with("`off` disables the admin pages"));
    }

    #[test]
    fn addresses_in_other_notations_are_refused_with_the_address_to_write() {
        let errors = [
            listen_ip("2130706433").unwrap_err(),
            "0x7f.0.0.1:9000".parse::<ListenAddress>().unwrap_err(),
            admin_address("127.0.0.01:9000").unwrap_err(),
        ];
        for (error, instead) in errors.iter().zip(["127.0.0.1", "127.0.0.1:9000", "127.0.0.1:9000; `off` disables"]) {
            assert!(error.contains(&format!("write {instead}")), "{error}");
        }
    }

    #[test]
    fn ports_have_one_spelling() {
        assert_eq!(port_range("20000-24999"), Ok(20000..=24999));
        assert_eq!(":4000".parse::<ListenAddress>().map(|address| address.port), Ok(4000));
        for text in ["0", "+80", "080", "80-", "-80", "65536", "90-80", " 80"] {
            assert!(port_range(text).unwrap_err().contains("write for example 20000-24999"), "{text}");
        }
        for text in [":0", ":+80", ":080", "080", ":65536", "127.0.0.1:080", "[fe80::1%2]:80", ""] {
            assert!(text.parse::<ListenAddress>().unwrap_err().contains("write :4000"), "{text}");
        }
    }
}
