//! The addresses of this host, and those of local prefixes (`ip route add local`).

use std::{
    collections::HashMap,
    io, mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
};

use super::routing_table::has_local_route;

/// Cached answers for the addresses of endpoints: there may be many endpoints, and every change of one queries all of
/// them.
#[derive(Debug, Default)]
pub struct LocalAddresses(HashMap<IpAddr, bool>);

impl LocalAddresses {
    /// True if this is an address of this host; taken from the `previous` answers if possible.
    pub fn contain(&mut self, ip: IpAddr, previous: &Self) -> bool {
        let ip = ip.to_canonical();
        if ip.is_loopback() || ip.is_unspecified() {
            return true;
        }
        let previous_answer = || previous.0.get(&ip).copied();
        *self.0.entry(ip).or_insert_with(|| previous_answer().unwrap_or_else(|| is_local(ip).unwrap_or(false)))
    }

    /// Refreshes all answers. True if one has changed.
    pub fn refresh(&mut self) -> bool {
        let mut changed = false;
        for (ip, known) in &mut self.0 {
            let answer = is_local(*ip).unwrap_or(*known);
            changed |= mem::replace(known, answer) != answer;
        }
        changed
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// `None`: unknown for lack of a descriptor or port.
fn is_local(ip: IpAddr) -> Option<bool> {
    // A sandbox may refuse to read routes. Sockets show the same, except IPv6 addresses of local prefixes.
    has_local_route(ip).or_else(|| Some(can_bind(ip)? && (!can_bind_anywhere(ip) || is_source_of_itself(ip))))
}

/// `None`: unknown for lack of a descriptor or port.
fn can_bind(ip: IpAddr) -> Option<bool> {
    match UdpSocket::bind((ip, 0)) {
        Ok(_) => Some(true),
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => Some(false),
        Err(_) => None,
    }
}

/// True if sockets may be bound to non-local addresses (`net.ipv4.ip_nonlocal_bind`).
fn can_bind_anywhere(ip: IpAddr) -> bool {
    // Addresses for documentation (RFC 5737, RFC 3849).
    let foreign: IpAddr = match ip {
        IpAddr::V4(_) => Ipv4Addr::new(192, 0, 2, 1).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    };
    can_bind(foreign) == Some(true)
}

/// Connections to one of a host's own addresses come from that address.
fn is_source_of_itself(ip: IpAddr) -> bool {
    let any: IpAddr = if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let source = UdpSocket::bind((any, 0)).and_then(|socket| {
        // Nothing is sent.
        socket.connect((ip, 9))?;
        socket.local_addr()
    });
    source.is_ok_and(|source| source.ip() == ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_addresses_are_recognised() {
        let mut local = LocalAddresses::default();
        for (address, expected) in [
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("0.0.0.0", true),
            ("192.0.2.7", false),
            ("2001:db8::7", false),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(local.contain(address, &LocalAddresses::default()), expected, "{address}");
        }
        assert!(!local.refresh());
        assert!(is_source_of_itself(Ipv4Addr::LOCALHOST.into()));
        assert!(!is_source_of_itself(Ipv4Addr::new(192, 0, 2, 7).into()));
    }

    #[test]
    fn answers_are_cached_until_refreshed_and_dropped_when_unused() {
        let foreign = "192.0.2.7".parse().unwrap();
        // A cached answer for an address that this host had before.
        let previous = LocalAddresses([(foreign, true)].into());
        let mut local = LocalAddresses::default();
        assert!(local.contain(foreign, &previous));
        assert!(local.refresh());
        assert!(!local.contain(foreign, &previous));
        assert!(!local.refresh());
        let mut next = LocalAddresses::default();
        next.contain(Ipv4Addr::LOCALHOST.into(), &local);
        assert!(next.is_empty());
    }
}
