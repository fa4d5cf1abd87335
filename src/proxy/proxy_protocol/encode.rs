use std::net::{IpAddr, SocketAddr};

use proxy_header::{ProxiedAddress, ProxyHeader};

use super::MAX_V1;
use crate::model::ProxyVersion;

/// What a backend is told of a client: `source` is its address, `destination` the one it connected to.
///
/// IPv4-mapped IPv6 addresses are sent as the IPv4 ones they map. A header has room for one family only: where the two
/// differ, the IPv4 one is sent as an IPv4-mapped IPv6 address.
pub fn encode(version: ProxyVersion, source: SocketAddr, destination: SocketAddr) -> Box<[u8]> {
    let (source, destination) = in_one_family(source, destination);
    let header = ProxyHeader::with_address(ProxiedAddress::stream(source, destination));
    let mut bytes = [0; MAX_V1];
    let length = match version {
        ProxyVersion::V1 => header.encode_to_slice_v1(&mut bytes),
        ProxyVersion::V2 => header.encode_to_slice_v2(&mut bytes),
    }
    .expect("one family, no additional fields: at most 104 bytes");
    bytes[..length].into()
}

fn in_one_family(source: SocketAddr, destination: SocketAddr) -> (SocketAddr, SocketAddr) {
    let (from, to) = match (source.ip().to_canonical(), destination.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V6(to)) => (from.to_ipv6_mapped().into(), to.into()),
        (IpAddr::V6(from), IpAddr::V4(to)) => (from.into(), to.to_ipv6_mapped().into()),
        same => same,
    };
    (SocketAddr::new(from, source.port()), SocketAddr::new(to, destination.port()))
}
