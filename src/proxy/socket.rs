//! Listening sockets.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    os::fd::AsFd,
    time::Duration,
};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::{model::Keepalive, upstream::socket_options};

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

/// Opens `count` sockets (at least one) on one address; the kernel spreads connections over them.
///
/// `[::]` accepts IPv4 connections too, and falls back to `0.0.0.0` on a host without IPv6. For port 0 the kernel
/// chooses one port for all.
///
/// The first exclusive socket is bound and listens *without* SO_REUSEPORT, which is set only before the others join:
/// with it from the start, or set before it listens, a second process could silently take a part of the connections
/// instead of getting "address in use".
pub fn open(address: SocketAddr, count: usize, sharing: Sharing) -> io::Result<Vec<TcpListener>> {
    match open_on(address, count, sharing) {
        Err(error) if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && lacks_ipv6(&error) => {
            open_on((Ipv4Addr::UNSPECIFIED, address.port()).into(), count, sharing)
        }
        opened => opened,
    }
}

/// Opens one more socket on the address of one that is open already.
pub fn join(first: &TcpListener) -> io::Result<TcpListener> {
    Ok(listen_on(first.local_addr()?, Sharing::Shared)?.into())
}

/// Sets the options that accepted connections inherit without a system call: TCP_NODELAY, SO_OOBINLINE, keepalive and
/// TCP_USER_TIMEOUT. May be called again with other settings.
pub fn set_inherited_options(socket: &impl AsFd, keepalive: Option<Keepalive>) -> io::Result<()> {
    if keepalive.is_none() {
        SockRef::from(socket).set_tcp_user_timeout(Some(Duration::ZERO))?;
        SockRef::from(socket).set_keepalive(false)?;
    }
    socket_options::set_nodelay(socket)?;
    socket_options::set_urgent_inline(socket)?;
    socket_options::set_keepalive(socket, keepalive)
}

fn open_on(address: SocketAddr, count: usize, sharing: Sharing) -> io::Result<Vec<TcpListener>> {
    let first: TcpListener = listen_on(address, sharing)?.into();
    let mut sockets = Vec::with_capacity(count);
    for _ in 1..count {
        sockets.push(join(&first)?);
    }
    sockets.insert(0, first);
    Ok(sockets)
}

fn listen_on(address: SocketAddr, sharing: Sharing) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(address.ip() != IpAddr::V6(Ipv6Addr::UNSPECIFIED))?;
    }
    if sharing == Sharing::Shared {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_reuse_port(true)?;
    Ok(socket)
}

fn lacks_ipv6(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(rustix::io::Errno::from_raw_os_error);
    matches!(code, Some(rustix::io::Errno::AFNOSUPPORT | rustix::io::Errno::ADDRNOTAVAIL))
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
}
