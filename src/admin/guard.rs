//! Protection of the admin pages against browsers that other sites direct here: the permitted hosts, and the headers of
//! every response.

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use axum::{
    extract::{Request, State},
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
        header::{
            ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
            X_FRAME_OPTIONS,
        },
        uri::Authority,
    },
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::printable::printable;

/// Answered for any host name: probes reveal only whether the process is healthy, and a load balancer in front may use
/// any name.
const PROBES: [&str; 3] = ["/livez", "/readyz", "/lb-ready"];

/// Forbids inline scripts and styles, frames and external content. The script and the style have pages of their own, and
/// the script may request pages.
const CONTENT_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
     connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// The host names for which the admin pages are answered, in addition to IP addresses and `localhost`.
///
/// Other names are refused because of DNS rebinding: a web page whose name is made to resolve to this process's address
/// could otherwise read the pages. The browser puts that name into the Host header.
#[derive(Clone, Debug, Default)]
pub struct AllowedHosts(Arc<BTreeSet<String>>);

impl AllowedHosts {
    /// Accepts these names, and the name of the host or pod.
    pub fn new(names: &[String]) -> Self {
        let own = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
        let names = names.iter().cloned().chain(own);
        Self(Arc::new(names.map(|name| normal(&name)).filter(|name| !name.is_empty()).collect()))
    }

    fn contains(&self, host: &str) -> bool {
        let is_address = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            // Without the zone, which names an interface (RFC 6874).
            Some(v6) => v6.split('%').next().is_some_and(|address| address.parse::<Ipv6Addr>().is_ok()),
            None => host.parse::<IpAddr>().is_ok(),
        };
        let host = normal(host);
        is_address || host == "localhost" || self.0.contains(&host)
    }
}

/// In lower case, without the final dot.
fn normal(name: &str) -> String {
    let name = name.trim();
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// Refuses requests for other hosts, and adds the headers of every response.
pub async fn guard(hosts: State<AllowedHosts>, request: Request, next: Next) -> Response {
    let mut response = match refusal(&hosts, &request) {
        Some(refusal) => refusal,
        None => next.run(request).await,
    };
    add_headers(response.headers_mut());
    response
}

fn refusal(hosts: &AllowedHosts, request: &Request) -> Option<Response> {
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        return Some((StatusCode::METHOD_NOT_ALLOWED, [(ALLOW, "GET, HEAD")]).into_response());
    }
    if PROBES.contains(&request.uri().path()) {
        return None;
    }
    // An HTTP/1.0 client may omit the host. No browser does.
    let named = request.headers().get_all(HOST).iter().map(HeaderValue::as_bytes);
    let named = named.chain(request.uri().authority().map(|authority| authority.as_str().as_bytes()));
    named.into_iter().find_map(|named| match Authority::try_from(named) {
        Ok(authority) if !is_host_and_port(&authority) => Some(malformed()),
        Ok(authority) if hosts.contains(authority.host()) => None,
        Ok(authority) => Some(misdirected(authority.host())),
        Err(_) => Some(malformed()),
    })
}

/// False for an authority with other parts: user information, or text between the host and the port.
fn is_host_and_port(authority: &Authority) -> bool {
    let rest = authority.as_str().strip_prefix(authority.host());
    // RFC 3986 permits an empty port.
    rest.is_some_and(|rest| rest.is_empty() || rest == ":" || rest.starts_with(':') && authority.port_u16().is_some())
}

fn malformed() -> Response {
    (StatusCode::BAD_REQUEST, "the Host header is not a host with an optional port\n").into_response()
}

fn misdirected(host: &str) -> Response {
    let host = printable(host, 253);
    let sentence = format!(
        "the admin pages do not answer requests for host `{host}`: use an IP address or localhost, or start tcplb with \
         --admin-host {host}\n"
    );
    (StatusCode::MISDIRECTED_REQUEST, sentence).into_response()
}

fn add_headers(headers: &mut HeaderMap) {
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, CONTENT_POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (CACHE_CONTROL, "no-store"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}
