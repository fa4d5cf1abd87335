use std::{io, net::SocketAddr};

use rustix::io::Errno;
use tokio::net::{TcpSocket, TcpStream};

use super::socket_options;
use crate::model::Keepalive;

/// Opens a TCP connection with the options of every proxied socket. The caller bounds the time.
pub async fn dial(address: SocketAddr, keepalive: Option<Keepalive>) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket_options::configure(&socket, keepalive)?;
    socket.connect(address).await
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
