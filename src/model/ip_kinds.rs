//! Kinds of IP addresses, in every notation.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Metadata services of clouds that are not link-local: AWS, Google, Alibaba, Azure, Oracle. Where a pod has such an
/// address, the cloud does not use it.
pub const METADATA: [IpAddr; 5] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
];

/// The kind of a special address, which no backend may have.
pub fn special(ip: IpAddr) -> Option<&'static str> {
    let (this_network, link_local, broadcast) = match ip {
        IpAddr::V4(v4) => (v4.octets()[0] == 0, v4.is_link_local(), v4.is_broadcast()),
        IpAddr::V6(v6) => (v6.is_unspecified(), v6.is_unicast_link_local(), false),
    };
    [
        (this_network, "an unspecified address"),
        (ip.is_loopback(), "a loopback address"),
        (link_local, "a link-local address"),
        (ip.is_multicast(), "a multicast address"),
        (broadcast, "a broadcast address"),
    ]
    .into_iter()
    .find_map(|(is, kind)| is.then_some(kind))
}

/// The kind of an address that cannot be connected to.
pub fn unconnectable(ip: IpAddr) -> Option<&'static str> {
    let ip = ip.to_canonical();
    match ip {
        // The manifest has no syntax for the interface.
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some("an IPv6 link-local address"),
        _ if ip.is_loopback() => None,
        IpAddr::V4(v4) if v4.is_link_local() => None,
        _ => special(ip),
    }
}

/// The kind of an address at which no client can reach a listener.
pub fn unreachable(ip: IpAddr) -> Option<&'static str> {
    let ip = ip.to_canonical();
    // The unspecified address stands for all addresses of the host.
    if ip.is_unspecified() { None } else { unconnectable(ip) }
}

/// The address, and the IPv4 address that a gateway or a tunnel would translate it to.
pub fn forms(ip: IpAddr) -> impl Iterator<Item = IpAddr> {
    let ip = ip.to_canonical();
    let embedded = match ip {
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) => embedded(v6).map(IpAddr::V4),
    };
    [ip].into_iter().chain(embedded)
}

fn embedded(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let [.., s6, s7] = ip.segments();
    match ip.segments() {
        // `::` and `::1` are addresses of their own.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        // IPv4-compatible (RFC 4291), translated (RFC 2765), NAT64 (RFC 6052, RFC 8215).
        [0, 0, 0, 0, 0, 0, _, _] | [0, 0, 0, 0, 0xffff, 0, _, _] => Some(joined(s6, s7)),
        [0x64, 0xff9b, 0, 0, 0, 0, _, _] | [0x64, 0xff9b, 1, ..] => Some(joined(s6, s7)),
        // 6to4 (RFC 3056), Teredo (RFC 4380).
        [0x2002, high, low, ..] => Some(joined(high, low)),
        [0x2001, 0, ..] => Some(joined(!s6, !s7)),
        _ => None,
    }
}

fn joined(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_lead_nowhere_are_known_also_within_ipv6() {
        for (address, expected) in [
            ("0.0.0.0", "an unspecified address"),
            ("0.255.0.1", "an unspecified address"),
            ("::", "an unspecified address"),
            ("::ffff:0.0.0.0", "an unspecified address"),
            ("224.0.0.1", "a multicast address"),
            ("239.255.255.255", "a multicast address"),
            ("::ffff:224.0.0.1", "a multicast address"),
            ("ff02::1", "a multicast address"),
            ("255.255.255.255", "a broadcast address"),
            ("::ffff:255.255.255.255", "a broadcast address"),
            ("fe80::1", "an IPv6 link-local address"),
            ("febf:ffff::1", "an IPv6 link-local address"),
            ("169.254.1.1", ""),
            ("127.0.0.1", ""),
            ("::1", ""),
            ("::ffff:127.0.0.1", ""),
            ("10.0.0.1", ""),
            ("240.0.0.1", ""),
            ("fec0::1", ""),
            ("2001:db8::1", ""),
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(unconnectable(address).unwrap_or_default(), expected, "{address}");
            let expected = if address.to_canonical().is_unspecified() { "" } else { expected };
            assert_eq!(unreachable(address).unwrap_or_default(), expected, "{address}");
        }
    }

    #[test]
    fn special_addresses_are_known_in_every_form() {
        for (address, expected) in [
            ("0.0.0.0", "an unspecified address"),
            ("0.1.2.3", "an unspecified address"),
            ("::", "an unspecified address"),
            ("127.8.9.1", "a loopback address"),
            ("::1", "a loopback address"),
            ("169.254.169.254", "a link-local address"),
            ("fe80::1", "a link-local address"),
            ("febf::1", "a link-local address"),
            ("224.0.0.1", "a multicast address"),
            ("ff02::1", "a multicast address"),
            ("255.255.255.255", "a broadcast address"),
            ("::ffff:169.254.169.254", "a link-local address"),
            ("::ffff:0:169.254.169.254", "a link-local address"),
            ("::169.254.169.254", "a link-local address"),
            ("64:ff9b::169.254.169.254", "a link-local address"),
            ("64:ff9b:1::a9fe:a9fe", "a link-local address"),
            ("2002:a9fe:a9fe::1", "a link-local address"),
            ("2001:0:1:2:3:4:5601:5601", "a link-local address"),
            ("2002:7f00:1::", "a loopback address"),
            ("10.0.0.1", ""),
            ("240.0.0.1", ""),
            ("2001:db8::1", ""),
            ("fd00::1", ""),
            ("64:ff9b::10.0.0.1", ""),
        ] {
            let found = forms(address.parse().unwrap()).find_map(special);
            assert_eq!(found.unwrap_or_default(), expected, "{address}");
        }
    }
}
