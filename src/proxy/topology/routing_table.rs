//! Routes of this host, from the kernel: a request of rtnetlink(7).

use std::net::IpAddr;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const NLM_F_REQUEST: u16 = 1;
const RTA_DST: u16 = 1;
const RTN_LOCAL: u8 = 2;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// The sizes of `struct nlmsghdr`, `struct rtmsg` and `struct rtattr`.
const HEADER: u16 = 16;
const ROUTE: u16 = 12;
const ATTRIBUTE: u16 = 4;

/// True if this host delivers packets for an address to itself: it is one of its addresses, or in a local prefix (`ip
/// route add local`). `None`: there is no route, or the kernel does not answer.
pub fn has_local_route(ip: IpAddr) -> Option<bool> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None).ok()?;
    send(&socket, &request(ip), SendFlags::empty()).ok()?;
    let mut answer = [0_u8; (HEADER + ROUTE) as usize];
    // The kernel has answered before the request returns.
    recv(&socket, &mut answer, RecvFlags::DONTWAIT).ok()?;
    // The type of the message is at 4 in its header, and that of the route at 7 behind it.
    let is_route = answer[4..6] == RTM_NEWROUTE.to_ne_bytes();
    is_route.then(|| answer[usize::from(HEADER) + 7] == RTN_LOCAL)
}

/// Asks for the route of packets from this host.
fn request(ip: IpAddr) -> Vec<u8> {
    let (family, bits, address) = match ip {
        IpAddr::V4(ip) => (AF_INET, 32_u8, ip.octets().to_vec()),
        IpAddr::V6(ip) => (AF_INET6, 128_u8, ip.octets().to_vec()),
    };
    let attribute = ATTRIBUTE + u16::from(bits / 8);
    let mut request = Vec::new();
    request.extend(u32::from(HEADER + ROUTE + attribute).to_ne_bytes());
    request.extend(RTM_GETROUTE.to_ne_bytes());
    request.extend(NLM_F_REQUEST.to_ne_bytes());
    // The sequence number and the port of the sender.
    request.extend([0; 8]);
    request.extend([family, bits]);
    request.extend([0; ROUTE as usize - 2]);
    request.extend(attribute.to_ne_bytes());
    request.extend(RTA_DST.to_ne_bytes());
    request.extend(address);
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_prefixes_of_this_host_have_local_routes() {
        assert_eq!(has_local_route([127, 0, 0, 1].into()), Some(true));
        assert_eq!(has_local_route([127, 9, 9, 9].into()), Some(true));
        // For documentation (RFC 5737, RFC 3849). There may be no route.
        assert_ne!(has_local_route([192, 0, 2, 7].into()), Some(true));
        assert_ne!(has_local_route([0x2001, 0xdb8, 0, 0, 0, 0, 0, 7].into()), Some(true));
    }
}
