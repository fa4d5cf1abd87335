use std::{io, net::SocketAddr};

use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use super::socket_options;
use crate::tcp::TcpSocket;

/// Opens a TCP connection. The caller bounds the time, and sees to keepalive if it lasts.
pub async fn dial(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket_options::set_nodelay(&socket)?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => return Err(error),
        _ => {}
    }
    let socket = TcpSocket::new(socket.into())?;
    socket.connected().await?;
    Ok(socket)
}

/// Whether a dial failed for want of something here (descriptors, memory, ports, permission), which says nothing about
/// the endpoint.
pub fn is_local(error: &io::Error) -> bool {
    const LOCAL: [Errno; 7] =
        [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS, Errno::ADDRNOTAVAIL, Errno::PERM, Errno::ACCESS];
    error.raw_os_error().is_some_and(|code| LOCAL.iter().any(|local| local.raw_os_error() == code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_that_is_refused_says_so() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(dial(address).await.unwrap().into_std().peer_addr().unwrap(), address);
        drop(listener);
        assert_eq!(dial(address).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn only_what_is_missing_here_is_local() {
        for (errno, local) in [
            (Errno::MFILE, true),
            (Errno::NFILE, true),
            (Errno::NOMEM, true),
            (Errno::NOBUFS, true),
            (Errno::ADDRNOTAVAIL, true),
            (Errno::PERM, true),
            (Errno::ACCESS, true),
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
}
