//! Connections from many addresses, so that ports are not exhausted.

#![expect(unsafe_code, reason = "no library sets IP_BIND_ADDRESS_NO_PORT")]

use std::{
    ffi::c_int,
    io,
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsRawFd,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use tokio::net::{TcpSocket, TcpStream};

/// The number of client addresses in 127.0.0.0/8.
const SOURCES: u32 = 4096;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Connects from the next address.
pub async fn connect(server: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    choose_port_at_connect(&socket)?;
    let source = Ipv4Addr::from_bits(Ipv4Addr::new(127, 1, 0, 1).to_bits() + NEXT.fetch_add(1, Relaxed) % SOURCES);
    socket.bind((source, 0).into())?;
    let stream = socket.connect(server).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Chooses the port for the pair of addresses. A port for the source address alone would stay in use for a minute.
fn choose_port_at_connect(socket: &TcpSocket) -> io::Result<()> {
    let on: c_int = 1;
    // SAFETY: the descriptor is open, and the option takes an int that lives until the call returns.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of::<c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
