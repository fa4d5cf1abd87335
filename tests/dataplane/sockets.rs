//! The kernel's view of the sockets of this process.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, SocketAddr},
    os::fd::{BorrowedFd, OwnedFd},
    thread,
    time::Duration,
};

use socket2::SockRef;
use tcplb::model::Keepalive;

use crate::rig::*;

/// The number of bytes in the kernel, sent or received, of IPv4 connections with any of these ports.
pub fn queued(ports: &[u16]) -> usize {
    let port = |end: &str| u16::from_str_radix(end.split_once(':').unwrap().1, 16).unwrap();
    queued_where(|end| ports.contains(&port(end)))
}

/// The number of bytes in the kernel for connections with any of these addresses.
pub fn queued_at(addresses: &[SocketAddr]) -> usize {
    let hex = |address: &SocketAddr| match address.ip() {
        IpAddr::V4(ip) => format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), address.port()),
        IpAddr::V6(ip) => panic!("{ip} is no IPv4 address"),
    };
    let ends: BTreeSet<String> = addresses.iter().map(hex).collect();
    queued_where(|end| ends.contains(end))
}

/// `is_wanted` is called for each end of a connection, in the kernel's notation.
fn queued_where(is_wanted: impl Fn(&str) -> bool) -> usize {
    let table = fs::read_to_string("/proc/self/net/tcp").unwrap();
    let hex = |field: &str| usize::from_str_radix(field, 16).unwrap();
    table
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields[3] != LISTENS && [fields[1], fields[2]].into_iter().any(&is_wanted))
        .map(|fields| fields[4].split(':').map(hex).sum::<usize>())
        .sum()
}

const LISTENS: &str = "0A";

/// A duplicate of the socket of this process with this local and peer address.
fn socket_between(local: SocketAddr, peer: SocketAddr) -> OwnedFd {
    let numbers =
        fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    numbers
        .filter_map(|number: i32| {
            // SAFETY: the descriptor is duplicated at once, which fails if it was closed in between. The duplicate is
            // checked below.
            unsafe { BorrowedFd::borrow_raw(number) }.try_clone_to_owned().ok()
        })
        .find(|fd| {
            let socket = SockRef::from(fd);
            let is = |address: std::io::Result<socket2::SockAddr>, wanted| {
                address.is_ok_and(|address| address.as_socket() == Some(wanted))
            };
            is(socket.local_addr(), local) && is(socket.peer_addr(), peer)
        })
        .expect("a socket between these addresses")
}

/// Keepalive, and the user timeout, which is set last.
fn keepalive_of(socket: &OwnedFd) -> Option<(Keepalive, Option<Duration>)> {
    let socket = SockRef::from(socket);
    assert!(socket.tcp_nodelay().unwrap());
    let user_timeout = socket.tcp_user_timeout().unwrap();
    if !socket.keepalive().unwrap() {
        assert_eq!(user_timeout, None);
        return None;
    }
    let keepalive = Keepalive {
        idle: socket.tcp_keepalive_time().unwrap(),
        interval: socket.tcp_keepalive_interval().unwrap(),
        probes: socket.tcp_keepalive_retries().unwrap() as u8,
    };
    Some((keepalive, user_timeout))
}

#[test]
fn both_sides_have_keepalive_and_a_user_timeout_to_match() {
    let backend = Backend::new();
    let client_side = Keepalive { idle: Duration::from_secs(20), interval: Duration::from_secs(5), probes: 3 };
    let backend_side = Keepalive { idle: Duration::from_secs(30), interval: Duration::from_secs(7), probes: 2 };
    let mut rig = Rig::with(&[backend.address], |listener, upstream| {
        listener.keepalive = Some(client_side);
        upstream.keepalive = Some(backend_side);
    });
    let has = |rig: &Rig, ours, theirs| {
        let (client, served) = rig.connect_to(&backend);
        is_connected(&client, &served);
        assert_eq!(keepalive_of(&socket_between(rig.address(), client.local_addr().unwrap())), ours);
        let dialled = socket_between(served.peer_addr().unwrap(), backend.address);
        wait_until("the connection to the backend has lasted", || keepalive_of(&dialled) == theirs);
    };
    let ours = Some((client_side, Some(Duration::from_secs(35))));
    let theirs = Some((backend_side, Some(Duration::from_secs(44))));
    has(&rig, ours, theirs);

    // New connections have the current settings.
    rig.change_listener(|listener| listener.keepalive = Some(backend_side));
    rig.change_upstream(|upstream| upstream.keepalive = Some(client_side));
    has(&rig, theirs, ours);
    rig.change_listener(|listener| listener.keepalive = None);
    has(&rig, None, ours);

    rig.change_upstream(|upstream| upstream.keepalive = None);
    let (client, served) = rig.connect_to(&backend);
    is_connected(&client, &served);
    // Long-lived settings would be in effect by now.
    thread::sleep(Duration::from_secs(2));
    assert_eq!(keepalive_of(&socket_between(served.peer_addr().unwrap(), backend.address)), None);
}
