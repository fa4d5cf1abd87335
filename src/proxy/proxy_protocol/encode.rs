use std::net::{IpAddr, SocketAddr};

use proxy_header::{ProxiedAddress, ProxyHeader, SslInfo, Tlv};

use super::limits::MAX_V1;
use crate::{
    model::ProxyVersion,
    proxy::tls::{Agreed, ClientTls},
};

/// Encodes the header for a backend: `source` is the client's address, `destination` the one it connected to. Version 2
/// adds the client's TLS: server name, application protocol and identity
/// ([specification](https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt) 2.2).
///
/// IPv4-mapped IPv6 addresses are sent as the IPv4 ones they map. A header has room for one family only: where the two
/// differ, the IPv4 one is sent as an IPv4-mapped IPv6 address.
pub fn encode(
    version: ProxyVersion,
    source: SocketAddr,
    destination: SocketAddr,
    tls: Option<&ClientTls>,
) -> Box<[u8]> {
    let (source, destination) = in_one_family(source, destination);
    let addresses = ProxiedAddress::stream(source, destination);
    if let (ProxyVersion::V2, Some(tls)) = (version, tls) {
        let mut bytes = Vec::new();
        let header = ProxyHeader::with_tlvs(Some(addresses), fields(tls));
        header.encode_v2(&mut bytes).expect("one family, fields of less than a kilobyte");
        return bytes.into();
    }
    let header = ProxyHeader::with_address(addresses);
    let mut bytes = [0; MAX_V1];
    let length = match version {
        ProxyVersion::V1 => header.encode_to_slice_v1(&mut bytes),
        ProxyVersion::V2 => header.encode_to_slice_v2(&mut bytes),
    }
    .expect("one family, no additional fields: at most 104 bytes");
    bytes[..length].into()
}

fn fields(tls: &ClientTls) -> impl Iterator<Item = Tlv<'_>> {
    let protocol = tls.agreed.as_ref().and_then(|agreed| agreed.protocol.as_deref());
    let fields = [
        protocol.map(|protocol| Tlv::Alpn(protocol.into())),
        tls.server_name.as_deref().map(|name| Tlv::Authority(name.into())),
        tls.agreed.as_ref().map(|agreed| Tlv::Ssl(ssl(agreed))),
    ];
    fields.into_iter().flatten()
}

fn ssl(agreed: &Agreed) -> SslInfo<'_> {
    /// The value for clients without a certificate: the specification requires a number other than 0.
    const NOT_VERIFIED: u32 = 1;

    let is_known = agreed.identity.is_some();
    let mut ssl = SslInfo::new(true, is_known && !agreed.resumed, is_known, if is_known { 0 } else { NOT_VERIFIED });
    let version = match agreed.version {
        "TLS1.2" => "TLSv1.2",
        _ => "TLSv1.3",
    };
    ssl.append_tlv(Tlv::SslVersion(version.into()));
    if let Some(name) = agreed.identity.as_ref().and_then(|identity| identity.common_name.as_deref()) {
        ssl.append_tlv(Tlv::SslCn(name.into()));
    }
    ssl
}

fn in_one_family(source: SocketAddr, destination: SocketAddr) -> (SocketAddr, SocketAddr) {
    let (from, to) = match (source.ip().to_canonical(), destination.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V6(to)) => (from.to_ipv6_mapped().into(), to.into()),
        (IpAddr::V6(from), IpAddr::V4(to)) => (from.into(), to.to_ipv6_mapped().into()),
        same => same,
    };
    (SocketAddr::new(from, source.port()), SocketAddr::new(to, destination.port()))
}
