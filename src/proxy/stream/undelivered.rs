//! The bytes that the kernel has accepted to send and the peer has not acknowledged.

#![expect(unsafe_code, reason = "no library asks for SIOCOUTQ")]

use std::{ffi::c_int, os::fd::AsFd};

use rustix::ioctl::{Getter, Opcode, ioctl};

/// asm-generic/ioctls.h, where it is called TIOCOUTQ.
const SIOCOUTQ: Opcode = 0x5411;

/// The number of bytes written to a TCP socket and not acknowledged by its peer (tcp(7)); 0 if the kernel does not
/// report it.
pub fn undelivered(socket: impl AsFd) -> usize {
    // SAFETY: SIOCOUTQ takes no input and writes one int, to the place that `Getter` provides for it.
    let answer = unsafe { ioctl(socket, Getter::<SIOCOUTQ, c_int>::new()) };
    answer.ok().and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    #[test]
    fn counts_bytes_that_the_peer_has_not_acknowledged() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        assert_eq!(undelivered(&near), 0);
        near.set_nonblocking(true).unwrap();
        let mut sent = 0;
        while let Ok(count) = near.write(&[0; 64 << 10]) {
            sent += count;
        }
        assert!((1..=sent).contains(&undelivered(&near)), "{} of {sent}", undelivered(&near));
        far.read_exact(&mut vec![0; sent]).unwrap();
        while undelivered(&near) > 0 {
            std::thread::yield_now();
        }
    }
}
