use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    ops::RangeInclusive,
    os::fd::AsFd,
    sync::OnceLock,
    time::Duration,
};

use rustix::io::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::socket_options;
use crate::tcp::TcpSocket;

/// Opens a TCP connection. The caller bounds the time, and sets keepalive on long-lived connections.
///
/// # Errors
/// [`is_local`] recognises errors of this host, which are not failures of the address.
pub async fn dial(address: SocketAddr) -> io::Result<TcpSocket> {
    try_dial(address).await.map_err(|error| explained(error, address))
}

async fn try_dial(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))
        .map_err(without_socket)?;
    socket_options::set_nodelay(&socket)?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => return Err(error),
        _ => {}
    }
    let socket = TcpSocket::new(socket.into())?;
    socket.connected().await?;
    // Only a local port can be both ends, and endpoints rarely have such a port.
    if local_ports().contains(&address.port()) {
        refuse_itself(&socket, address)?;
    }
    Ok(socket)
}

/// Refuses a connection to `peer` whose ends are the same (simultaneous open, RFC 9293, section 3.5): nothing listens at a local
/// port of this host, and the kernel has chosen it as the source. The port is free again at once.
fn refuse_itself(socket: &impl AsFd, peer: SocketAddr) -> io::Result<()> {
    let socket = SockRef::from(socket);
    if socket.local_addr()?.as_socket() != Some(peer) {
        return Ok(());
    }
    socket.set_linger(Some(Duration::ZERO))?;
    Err(io::Error::new(io::ErrorKind::ConnectionRefused, "nothing listens there, and the connection reached itself"))
}

/// The ports that the kernel chooses for outgoing connections, read once. All, if they are unknown.
fn local_ports() -> &'static RangeInclusive<u16> {
    static PORTS: OnceLock<RangeInclusive<u16>> = OnceLock::new();
    PORTS.get_or_init(|| {
        let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
        let mut ports = text.split_whitespace().map(str::parse);
        match (ports.next(), ports.next()) {
            (Some(Ok(first)), Some(Ok(last))) => first..=last,
            _ => 0..=u16::MAX,
        }
    })
}

/// True if a dial failed for lack of descriptors, memory or local ports, which is not a failure of the address. A
/// missing route or a firewall rule is not local: other addresses may still be reachable.
pub fn is_local(error: &io::Error) -> bool {
    const LOCAL: [Errno; 6] =
        [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS, Errno::NOSPC, Errno::ADDRNOTAVAIL];
    // Explained errors have no code.
    error.raw_os_error().is_some_and(|code| LOCAL.iter().any(|local| local.raw_os_error() == code))
}

/// Explains errors that look local, but concern the route to this address.
#[cold]
fn explained(error: io::Error, address: SocketAddr) -> io::Error {
    let explanation = match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::ADDRNOTAVAIL) if !has_source_for(address.ip()) => "this host has no source address for it",
        // EINVAL: a blackhole route.
        Some(Errno::PERM | Errno::ACCESS | Errno::INVAL) => "a firewall, route or policy of this host blocks it",
        _ => return error,
    };
    io::Error::new(error.kind(), format!("{explanation}: {error}"))
}

/// Explains why there is no socket for the family of an address, unless something is exhausted. Endpoints of the other
/// family may still be reachable.
#[cold]
fn without_socket(error: io::Error) -> io::Error {
    if is_local(&error) {
        return error;
    }
    let explanation = "this host does not support its address family, or a sandbox (seccomp) refuses it";
    io::Error::new(error.kind(), format!("{explanation}: {error}"))
}

/// True if this host has a local address for connections to `ip`. If so, EADDRNOTAVAIL means that all ports are in use.
fn has_source_for(ip: IpAddr) -> bool {
    let any: IpAddr = if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // Without descriptors or ports for this test, assume that there is one.
    let Ok(socket) = UdpSocket::bind((any, 0)) else { return true };
    // Nothing is sent.
    socket.connect((ip, 9)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_refused_connection_is_reported() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(dial(address).await.unwrap().into_std().peer_addr().unwrap(), address);
        drop(listener);
        assert_eq!(dial(address).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn a_connection_to_itself_is_refused_and_leaves_the_port_free() {
        for any_port in ["127.0.0.1:0", "[::1]:0"] {
            let any_port: SocketAddr = any_port.parse().unwrap();
            let socket = Socket::new(Domain::for_address(any_port), Type::STREAM, None).unwrap();
            socket.bind(&any_port.into()).unwrap();
            let own = socket.local_addr().unwrap();
            socket.connect(&own).unwrap();
            let peer = own.as_socket().unwrap();
            let error = refuse_itself(&socket, peer).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
            assert!(!is_local(&error));
            drop(socket);
            let server = Socket::new(Domain::for_address(any_port), Type::STREAM, None).unwrap();
            server.bind(&own).unwrap();
            server.listen(1).unwrap();
            let client = std::net::TcpStream::connect(peer).unwrap();
            refuse_itself(&client, peer).unwrap();
        }
    }

    #[test]
    fn only_local_shortages_are_local_errors() {
        for (errno, local) in [
            (Errno::MFILE, true),
            (Errno::NFILE, true),
            (Errno::NOMEM, true),
            (Errno::NOBUFS, true),
            (Errno::ADDRNOTAVAIL, true),
            (Errno::NOSPC, true),
            (Errno::PERM, false),
            (Errno::ACCESS, false),
            (Errno::AFNOSUPPORT, false),
            (Errno::INVAL, false),
            (Errno::CONNREFUSED, false),
            (Errno::CONNRESET, false),
            (Errno::TIMEDOUT, false),
            (Errno::HOSTUNREACH, false),
            (Errno::NETUNREACH, false),
        ] {
            assert_eq!(is_local(&io::Error::from(errno)), local, "{errno:?}");
        }
        assert!(!is_local(&io::ErrorKind::TimedOut.into()));
    }

    #[test]
    fn a_refused_socket_concerns_one_address_family() {
        for errno in [Errno::AFNOSUPPORT, Errno::PERM, Errno::ACCESS, Errno::INVAL, Errno::PROTONOSUPPORT] {
            let error = without_socket(errno.into());
            assert!(!is_local(&error) && error.to_string().contains("its address family"), "{error}");
        }
        assert!(is_local(&without_socket(Errno::MFILE.into())));
    }

    #[test]
    fn a_missing_local_address_differs_from_missing_ports() {
        let explained = |address: &str| explained(Errno::ADDRNOTAVAIL.into(), address.parse().unwrap());
        assert!(is_local(&explained("127.0.0.1:1")), "there is an address, so that ports are missing");
        // A link-local address is unreachable without its interface, on any host.
        let error = explained("[fe80::1]:1");
        assert!(!is_local(&error) && error.to_string().contains("no source address for it"), "{error}");
    }

    #[test]
    fn a_firewall_refusal_concerns_one_address() {
        for errno in [Errno::PERM, Errno::ACCESS, Errno::INVAL] {
            let error = explained(errno.into(), "192.0.2.1:1".parse().unwrap());
            assert!(!is_local(&error) && error.to_string().contains("blocks it"), "{error}");
        }
        assert_eq!(explained(Errno::CONNREFUSED.into(), "192.0.2.1:1".parse().unwrap()).raw_os_error(), Some(111));
    }
}
