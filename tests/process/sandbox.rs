//! Sandboxes that refuse system calls which the program can do without.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    process::Command,
    thread,
};

use rustix::io::Errno;

use crate::harness::{Tcplb, WAIT_LIMIT, free_address, lacks};

/// Runs a command that gets the error of the first argument for each IPv6 socket.
const WITHOUT_IPV6: &str = r#"
import ctypes, os, platform, struct, sys
socket = {"x86_64": 41, "aarch64": 198}[platform.machine()]
program = [
    (0x20, 0, 0, 0),                            # the system call
    (0x15, 0, 3, socket),
    (0x20, 0, 0, 16),                           # its first argument, the address family
    (0x15, 0, 1, 10),
    (0x06, 0, 0, 0x50000 | int(sys.argv[1])),   # SECCOMP_RET_ERRNO
    (0x06, 0, 0, 0x7fff0000),                   # SECCOMP_RET_ALLOW
]
code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
class Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_char_p)]
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0          # PR_SET_NO_NEW_PRIVS
assert libc.prctl(22, 2, ctypes.byref(Filter(len(program), code)), 0, 0) == 0
os.execvp(sys.argv[2], sys.argv[2:])
"#;

/// Enough bytes for the use of pipes where they are available.
const LENGTH: usize = 4 << 20;

/// The program under strace, which fails a system call with an error. `None`: this is not possible here.
fn refusing(injection: &str, listen: SocketAddr, backend: SocketAddr) -> Option<Tcplb> {
    let strace = |arguments: &[&str]| {
        let mut command = Command::new("strace");
        command
            .args(["-D", "-f", "-qq", "-o", "/dev/null", "--seccomp-bpf", "-e", "trace=splice,pipe2,accept,accept4"])
            .args(arguments);
        command
    };
    if !strace(&["true"]).status().is_ok_and(|status| status.success()) {
        lacks("strace");
        return None;
    }
    let admin = free_address();
    let mut command = strace(&[]);
    command.args(["-e", &format!("inject={injection}")]);
    command.arg(env!("CARGO_BIN_EXE_tcplb")).args(["standalone", "--workers", "1", "--admin", &admin.to_string()]);
    command.args(["--listen", &listen.to_string(), "--backend", &backend.to_string()]);
    Some(Tcplb::spawn(command, admin).ready())
}

fn bytes() -> Vec<u8> {
    (0..LENGTH).map(|at| (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0]).collect()
}

/// A server that sends to every client, and receives from it, at the same time.
fn exchanging() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        listener.incoming().map_while(Result::ok).for_each(|stream| drop(thread::spawn(|| exchange(stream))))
    });
    address
}

/// Sends all bytes and an end, and receives the same from the peer.
fn exchange(stream: TcpStream) {
    stream.set_read_timeout(Some(WAIT_LIMIT)).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            (&stream).write_all(&bytes()).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
        });
        let mut received = Vec::new();
        (&stream).read_to_end(&mut received).unwrap();
        assert!(received == bytes(), "{} of {LENGTH} bytes", received.len());
    });
}

#[test]
fn large_transfers_are_copied_where_splice_is_refused() {
    for injection in [
        "splice:error=ENOSYS",
        "splice:error=EPERM",
        "splice:error=EACCES",
        "splice:error=EINVAL",
        // After a successful test: when a pipe is filled, and when one is drained.
        "splice:error=ENOSYS:when=3+",
        "splice:error=EINVAL:when=4+",
        "splice:error=EACCES:when=3+",
        "splice:error=EACCES:when=4+",
        "pipe2:error=EPERM",
        "pipe2:error=EACCES",
    ] {
        let (listen, backend) = (free_address(), exchanging());
        let Some(mut tcplb) = refusing(injection, listen, backend) else { return };
        for _ in 0..3 {
            exchange(TcpStream::connect(listen).unwrap());
        }
        let is_logged = |line: &&String| line.contains("large transfers are copied");
        tcplb.logged("large transfers are copied");
        tcplb.signal("TERM");
        let (_, output) = tcplb.ended();
        assert_eq!(tcplb.seen.iter().filter(is_logged).count(), 1, "{injection}: {:#?}", tcplb.seen);
        assert_eq!(output.matches("reason=complete").count(), 3, "{injection}: {output}");
    }
}

#[test]
fn connections_are_accepted_where_accept4_is_refused() {
    for error in ["ENOSYS", "EPERM", "EACCES"] {
        let (listen, backend) = (free_address(), exchanging());
        let Some(tcplb) = refusing(&format!("accept4:error={error}"), listen, backend) else { return };
        exchange(TcpStream::connect(listen).unwrap());
        assert!(!tcplb.seen.iter().any(|line| line.contains("cannot accept")), "{error}: {:#?}", tcplb.seen);
    }
}

#[test]
fn a_refused_accept_is_reported_and_tried_again() {
    let (listen, backend) = (free_address(), exchanging());
    // The admin thread has its own count, and also recovers.
    let Some(mut tcplb) = refusing("accept,accept4:error=EPERM:when=1..3000", listen, backend) else { return };
    exchange(TcpStream::connect(listen).unwrap());
    let line = tcplb.logged("cannot accept connections for now");
    assert!(line.contains("listener=") && line.contains("allow the system calls accept4 and accept"), "{line}");
    tcplb.logged("accepting connections again");
}

#[test]
fn all_addresses_are_those_of_ipv4_where_ipv6_sockets_are_refused() {
    let python = || Command::new("/usr/bin/python3");
    if !python().arg("-V").status().is_ok_and(|status| status.success()) {
        return lacks("python3");
    }
    for errno in [Errno::PERM, Errno::ACCESS, Errno::INVAL, Errno::PROTONOSUPPORT] {
        let (listen, admin, backend) = (free_address(), free_address(), exchanging());
        let mut command = python();
        command.args(["-c", WITHOUT_IPV6, &errno.raw_os_error().to_string(), env!("CARGO_BIN_EXE_tcplb")]);
        command.args(["standalone", "--workers", "2", "--admin", &format!("[::]:{}", admin.port())]);
        command.args(["--listen", &format!("[::]:{}", listen.port()), "--backend", &backend.to_string()]);
        let mut tcplb = Tcplb::spawn(command, admin).ready();
        tcplb.logged("IPv6 sockets are refused");
        exchange(TcpStream::connect(listen).unwrap());
    }
}
