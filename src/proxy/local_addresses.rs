//! The addresses of this host.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
};

/// Answers are remembered: a host's addresses hardly change, and there may be many endpoints.
#[derive(Debug, Default)]
pub struct LocalAddresses(HashMap<IpAddr, bool>);

impl LocalAddresses {
    pub fn contain(&mut self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        if ip.is_loopback() || ip.is_unspecified() {
            return true;
        }
        if let Some(known) = self.0.get(&ip) {
            return *known;
        }
        let is_local = match can_bind(ip) {
            Some(true) => !can_bind_anywhere(ip) || is_source_of_itself(ip),
            Some(false) => false,
            // Asked again the next time.
            None => return false,
        };
        self.0.insert(ip, is_local);
        is_local
    }
}

/// `None`: there is no descriptor or port to find out.
fn can_bind(ip: IpAddr) -> Option<bool> {
    match UdpSocket::bind((ip, 0)) {
        Ok(_) => Some(true),
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => Some(false),
        Err(_) => None,
    }
}

/// True if sockets may be bound to addresses of others (`net.ipv4.ip_nonlocal_bind`).
fn can_bind_anywhere(ip: IpAddr) -> bool {
    // For documentation (RFC 5737, RFC 3849).
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
    fn own_addresses_are_told_from_others() {
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
            for _ in 0..2 {
                assert_eq!(local.contain(address.parse().unwrap()), expected, "{address}");
            }
        }
        assert!(is_source_of_itself(Ipv4Addr::LOCALHOST.into()));
        assert!(!is_source_of_itself(Ipv4Addr::new(192, 0, 2, 7).into()));
    }
}
