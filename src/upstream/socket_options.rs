use std::{io, os::fd::AsFd, time::Duration};

use socket2::{SockRef, TcpKeepalive};

use crate::model::Keepalive;

/// Sets TCP_NODELAY, which every proxied socket has from the start.
pub fn set_nodelay(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).set_tcp_nodelay(true)
}

/// Delivers urgent bytes in line with the others, instead of losing them (RFC 6093, section 6).
pub fn set_urgent_inline(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).set_out_of_band_inline(true)
}

/// Enables keepalive probes if configured.
///
/// TCP_USER_TIMEOUT is set to the time the probes take to give up, so that a dead peer is detected as soon with
/// unacknowledged data as on an idle connection (tcp(7)).
pub fn set_keepalive(socket: &impl AsFd, keepalive: Option<Keepalive>) -> io::Result<()> {
    let Some(keepalive) = keepalive else { return Ok(()) };
    let socket = SockRef::from(socket);
    let probes = TcpKeepalive::new()
        .with_time(keepalive.idle)
        .with_interval(keepalive.interval)
        .with_retries(keepalive.probes.into());
    socket.set_tcp_keepalive(&probes)?;
    socket.set_tcp_user_timeout(Some(user_timeout(keepalive)))
}

fn user_timeout(keepalive: Keepalive) -> Duration {
    keepalive.idle.saturating_add(keepalive.interval.saturating_mul(keepalive.probes.into()))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn socket() -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        TcpStream::connect(listener.local_addr().unwrap()).unwrap()
    }

    #[test]
    fn probes_and_the_user_timeout_give_up_at_the_same_time() {
        let socket = socket();
        let keepalive = Keepalive { idle: Duration::from_secs(60), interval: Duration::from_secs(15), probes: 4 };
        set_keepalive(&socket, Some(keepalive)).unwrap();
        let socket = SockRef::from(&socket);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(60));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(15));
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 4);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(120)));
    }

    #[test]
    fn without_keepalive_a_silent_connection_is_left_alone() {
        let socket = socket();
        set_keepalive(&socket, None).unwrap();
        assert!(!SockRef::from(&socket).keepalive().unwrap());
        assert_eq!(SockRef::from(&socket).tcp_user_timeout().unwrap(), None);
    }
}
