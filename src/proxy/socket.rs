//! Listening sockets.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    os::fd::AsFd,
    time::Duration,
};

use rustix::io::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tracing::warn;

use crate::{model::Keepalive, tcp::accept::is_exhausted, upstream::socket_options};

/// The length of each socket's accept queue; the kernel's `net.core.somaxconn` caps it.
pub const BACKLOG: i32 = 4096;

/// The sharing of an address with other sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Only sockets that are opened together share the address: a port in use by another process is an error.
    Exclusive,
    /// Any socket of the same user with SO_REUSEPORT shares the address, such as another one of this process.
    Shared,
}

/// Opens `count` sockets (at least one) on one address, like [`open_one`]; the kernel spreads connections over them. For
/// port 0 the kernel chooses one port for all.
///
/// The first exclusive socket is bound and listens *without* SO_REUSEPORT, which is set only before the others join:
/// with it from the start, or set before it listens, a second process could silently take a part of the connections
/// instead of getting "address in use".
pub fn open(address: SocketAddr, count: usize, sharing: Sharing) -> io::Result<Vec<TcpListener>> {
    let first = open_one(address, sharing)?;
    SockRef::from(&first).set_reuse_port(true).map_err(in_call("setsockopt"))?;
    let mut sockets = vec![first];
    for _ in 1..count {
        sockets.push(join(&sockets[0])?);
    }
    Ok(sockets)
}

/// Opens one socket. `[::]` accepts IPv4 connections too, and falls back to `0.0.0.0` on a host without IPv6.
pub fn open_one(address: SocketAddr, sharing: Sharing) -> io::Result<TcpListener> {
    let is_any = address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    match listen_on(address, sharing) {
        Err(error) if is_any && (error.kind() == io::ErrorKind::AddrNotAvailable || lacks_ipv6()) => {
            listen_on((Ipv4Addr::UNSPECIFIED, address.port()).into(), sharing)
        }
        opened => opened,
    }
}

/// Opens one more socket on the address of one that is open already.
pub fn join(first: &TcpListener) -> io::Result<TcpListener> {
    listen_on(first.local_addr().map_err(in_call("getsockname"))?, Sharing::Shared)
}

/// Sets the options that accepted connections inherit without a system call: TCP_NODELAY, SO_OOBINLINE, keepalive and
/// TCP_USER_TIMEOUT. May be called again with other settings.
pub fn set_inherited_options(socket: &impl AsFd, keepalive: Option<Keepalive>) -> io::Result<()> {
    let set = || {
        if keepalive.is_none() {
            SockRef::from(socket).set_tcp_user_timeout(Some(Duration::ZERO))?;
            SockRef::from(socket).set_keepalive(false)?;
        }
        socket_options::set_nodelay(socket)?;
        socket_options::set_urgent_inline(socket)?;
        socket_options::set_keepalive(socket, keepalive)
    };
    set().map_err(in_call("setsockopt"))
}

/// Names the system call of an error, unless the error is a port in use. [`cannot_listen`] explains errors of bind(2),
/// which stay as they are.
pub fn in_call(call: &'static str) -> impl FnOnce(io::Error) -> io::Error {
    move |error| match error.kind() {
        io::ErrorKind::AddrInUse => error,
        _ => io::Error::other(format!("{call}: {error}")),
    }
}

/// The reason why an address cannot be listened on, and the remedy.
pub fn cannot_listen(address: SocketAddr, error: &io::Error) -> String {
    let (ip, port) = (address.ip(), address.port());
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("port {port} is in use on {ip} by another process: stop it, or choose another port")
        }
        io::ErrorKind::PermissionDenied if port < first_unprivileged_port() => {
            let first = first_unprivileged_port();
            format!(
                "no permission for port {port}: choose a port of {first} or higher, or grant the capability \
                 NET_BIND_SERVICE"
            )
        }
        io::ErrorKind::PermissionDenied => {
            format!(
                "no permission to bind {address}: {error}: allow it in the sandbox or security policy of this host \
                 (seccomp, SELinux, Landlock), or choose another port"
            )
        }
        io::ErrorKind::AddrNotAvailable => {
            format!(
                "{ip} is not an address of this host: write an address of this host, or remove `address` to listen on \
                 all"
            )
        }
        _ => format!("{address}: {error}"),
    }
}

/// The first port that needs no capability.
fn first_unprivileged_port() -> u16 {
    let setting = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    setting.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1024)
}

fn listen_on(address: SocketAddr, sharing: Sharing) -> io::Result<TcpListener> {
    let socket =
        Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP)).map_err(in_call("socket"))?;
    socket.set_nonblocking(true).map_err(in_call("fcntl"))?;
    set_sharing(&socket, address, sharing).map_err(in_call("setsockopt"))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG).map_err(in_call("listen"))?;
    Ok(socket.into())
}

fn set_sharing(socket: &Socket, address: SocketAddr, sharing: Sharing) -> io::Result<()> {
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(address.ip() != IpAddr::V6(Ipv6Addr::UNSPECIFIED))?;
    }
    if sharing == Sharing::Shared {
        socket.set_reuse_port(true)?;
    }
    Ok(())
}

/// True if this host does not support IPv6, or a sandbox refuses its sockets.
fn lacks_ipv6() -> bool {
    let refused = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP)).err();
    let refused = refused.filter(|error| !is_exhausted(error));
    if let Some(error) = &refused
        && error.raw_os_error() != Some(Errno::AFNOSUPPORT.raw_os_error())
    {
        warn!(%error, "IPv6 sockets are refused (seccomp?): `[::]` listens on IPv4 only");
    }
    refused.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_port_in_use_is_an_error_even_if_its_sockets_could_share_it() {
        let sockets = open(address("127.0.0.1:0"), 3, Sharing::Exclusive).unwrap();
        let taken = sockets[0].local_addr().unwrap();
        assert!(sockets.iter().all(|socket| socket.local_addr().unwrap() == taken));
        assert_eq!(open(taken, 1, Sharing::Exclusive).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let everywhere = (Ipv6Addr::UNSPECIFIED, taken.port()).into();
        assert_eq!(open(everywhere, 1, Sharing::Exclusive).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert!(open(taken, 1, Sharing::Shared).is_ok(), "sockets of one owner may share on request");
    }

    #[test]
    fn the_unspecified_ipv6_address_takes_ipv4_too() {
        let socket = open(address("[::]:0"), 1, Sharing::Exclusive).unwrap().remove(0);
        let port = socket.local_addr().unwrap().port();
        socket.set_nonblocking(false).unwrap();
        let _client = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (_, peer) = socket.accept().unwrap();
        assert!(peer.ip().to_canonical().is_loopback());
    }

    #[test]
    fn the_advice_for_a_port_follows_only_an_error_of_bind() {
        let refused = || io::Error::from(Errno::ACCESS);
        let sentence = cannot_listen(address("[::]:65535"), &refused());
        assert!(sentence.contains("no permission to bind [::]:65535: Permission denied"), "{sentence}");
        assert!(sentence.contains("security policy") && !sentence.contains("NET_BIND_SERVICE"), "{sentence}");
        let sentence = cannot_listen(address("[::1]:1"), &in_call("socket")(refused()));
        assert_eq!(sentence, "[::1]:1: socket: Permission denied (os error 13)");
        if first_unprivileged_port() > 1 {
            assert!(cannot_listen(address("[::1]:1"), &refused()).contains("NET_BIND_SERVICE"));
        }
        let in_use = in_call("listen")(Errno::ADDRINUSE.into());
        assert!(cannot_listen(address("[::1]:1"), &in_use).starts_with("port 1 is in use"));
    }

    #[test]
    fn a_single_socket_cannot_be_joined() {
        let single = open_one(address("127.0.0.1:0"), Sharing::Exclusive).unwrap();
        assert_eq!(join(&single).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
