//! Addresses of clients, each used once, so that the access log names the client even if its connection fails early.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use tokio::net::TcpSocket;

/// The number of client addresses in 127.0.0.0/8.
const HOSTS: u32 = 4096;
const FIRST_PORT: u32 = 10_000;
const PORTS: u32 = 50_000;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A socket with the next address that is free.
pub fn bind() -> io::Result<(TcpSocket, SocketAddr)> {
    loop {
        let (socket, address) = (TcpSocket::new_v4()?, source(NEXT.fetch_add(1, Relaxed)));
        // Another program may listen on this port of all addresses.
        socket.set_reuseaddr(true)?;
        match socket.bind(address) {
            Ok(()) => return Ok((socket, address)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
    }
}

fn source(number: u32) -> SocketAddr {
    let host = Ipv4Addr::from_bits(Ipv4Addr::new(127, 2, 0, 1).to_bits() + number % HOSTS);
    let port = FIRST_PORT + number / HOSTS % PORTS;
    SocketAddr::from((host, port as u16))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_is_used_once() {
        assert_eq!(source(0), "127.2.0.1:10000".parse().unwrap());
        assert_eq!(source(4095), "127.2.16.0:10000".parse().unwrap());
        assert_eq!(source(4096), "127.2.0.1:10001".parse().unwrap());
        assert_eq!(source(HOSTS * PORTS - 1).port(), 59_999);
    }
}
