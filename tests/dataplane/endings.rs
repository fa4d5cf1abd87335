//! Ends of connections: an interrupted transfer never looks complete, and bytes that were sent before an end arrive.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    os::fd::AsFd,
    thread,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tcplb::proxy::accounting::CloseReason;

use crate::{
    relay::{receive_pattern, send_pattern},
    rig::*,
};

#[test]
fn a_reset_by_the_client_resets_the_backend() {
    let backend = Backend::new();
    let rig = Rig::new(&[backend.address]);
    let (client, served) = rig.connect_to(&backend);
    is_connected(&client, &served);
    reset(client);
    is_reset(&served);
    rig.wait_closed(CloseReason::ClientReset, 1);
}

#[test]
fn a_reset_by_the_backend_resets_the_client() {
    let backend = Backend::new();
    let rig = Rig::new(&[backend.address]);
    let (client, served) = rig.connect_to(&backend);
    is_connected(&client, &served);
    reset(served);
    is_reset(&client);
    rig.wait_closed(CloseReason::BackendReset, 1);
}

#[test]
fn a_reset_after_a_half_close_is_not_a_clean_end() {
    let backend = Backend::new();
    let rig = Rig::new(&[backend.address]);
    let (client, served) = rig.connect_to(&backend);
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&served), b"");
    passes(&served, &client, b"half an ans");
    reset(served);
    is_reset(&client);
    rig.wait_closed(CloseReason::BackendReset, 1);

    let (client, served) = rig.connect_to(&backend);
    served.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&client), b"");
    passes(&client, &served, b"half an upl");
    reset(client);
    is_reset(&served);
    rig.wait_closed(CloseReason::ClientReset, 1);
}

/// Fills a connection in the direction from `sender`, since the other end does not read.
fn fill(mut sender: &TcpStream) {
    sender.set_nonblocking(true).unwrap();
    let mut blocked = 0;
    wait_until("nothing more can be sent", || {
        match sender.write(&[b'x'; 64 << 10]) {
            Ok(_) => blocked = 0,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => blocked += 1,
            Err(error) => panic!("{error}"),
        }
        blocked == 50
    });
    sender.set_nonblocking(false).unwrap();
}

/// Waits for a reset without reading anything.
fn sees_a_reset(stream: &TcpStream) {
    wait_until("the reset is seen", || {
        let mut asked = [PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::empty())];
        poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap();
        asked[0].revents().contains(PollFlags::ERR)
    });
}

#[test]
fn a_client_that_resets_is_noticed_while_the_backend_reads_nothing() {
    let backend = Backend::new();
    let rig = Rig::new(&[backend.address]);
    let (client, served) = rig.connect_to(&backend);
    fill(&client);
    reset(client);
    sees_a_reset(&served);
    rig.wait_closed(CloseReason::ClientReset, 1);
}

#[test]
fn a_backend_that_resets_is_noticed_while_the_client_reads_nothing() {
    let backend = Backend::new();
    let rig = Rig::new(&[backend.address]);
    let (client, served) = rig.connect_to(&backend);
    fill(&served);
    reset(served);
    sees_a_reset(&client);
    rig.wait_closed(CloseReason::BackendReset, 1);
}

#[test]
fn a_reset_is_noticed_while_neither_side_reads() {
    let backend = Backend::new();
    let rig = Rig::new(&[backend.address]);
    let (client, served) = rig.connect_to(&backend);
    fill(&served);
    fill(&client);
    reset(client);
    sees_a_reset(&served);

    let (client, served) = rig.connect_to(&backend);
    fill(&served);
    fill(&client);
    reset(served);
    sees_a_reset(&client);
    rig.wait_closed(CloseReason::ClientReset, 1);
    rig.wait_closed(CloseReason::BackendReset, 1);
}

#[test]
fn a_broken_client_of_a_stalled_backend_is_closed() {
    let backend = Backend::new();
    let rig = Rig::new(&[backend.address]);
    let (client, mut served) = rig.connect_to(&backend);
    fill(&client);
    reset(client);
    // The proxy writes these bytes to a dead socket, and so detects the failure by writing.
    while served.write_all(b"are you there?").is_ok() {
        thread::yield_now();
    }
    rig.wait_closed(CloseReason::ClientReset, 1);
}

#[test]
fn a_half_closed_client_of_a_stalled_backend_is_not_considered_broken() {
    let backend = Backend::new();
    let rig = Rig::new(&[backend.address]);
    let (client, served) = rig.connect_to(&backend);
    served.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&client), b"");
    fill(&client);
    client.shutdown(Shutdown::Write).unwrap();
    // Longer than the detection of a reset.
    thread::sleep(std::time::Duration::from_millis(2500));
    assert!(!read_to_end(&served).is_empty());
    rig.wait_closed(CloseReason::Complete, 1);
}

#[test]
fn an_error_response_during_an_upload_reaches_the_client() {
    let backend = Backend::new();
    let rig = Rig::new(&[backend.address]);
    for words in [&b"ERROR: too big"[..], &[b'e'; 200_000]] {
        let (client, mut served) = rig.connect_to(&backend);
        thread::scope(|scope| {
            let uploading = scope.spawn(|| {
                loop {
                    if let Err(error) = (&client).write_all(&[0; 16 << 10]) {
                        return error.kind();
                    }
                }
            });
            read_exactly(&served, 100_000);
            let all = rig.bytes().1 + words.len() as u64;
            served.write_all(words).unwrap();
            wait_until("they have been passed on", || rig.bytes().1 == all);
            // Closing with unread bytes causes a reset.
            drop(served);
            let mut heard = Vec::new();
            let outcome = (&client).read_to_end(&mut heard);
            assert!(heard == words, "the whole of them");
            // The first of the two operations reports the reset; the other one may see an end.
            let reset = |kind| kind == io::ErrorKind::ConnectionReset;
            assert!(reset(uploading.join().unwrap()) || outcome.is_err_and(|error| reset(error.kind())));
        });
    }
    rig.wait_closed(CloseReason::BackendReset, 2);
}

#[test]
fn data_before_a_backend_reset_reaches_a_slow_client() {
    const LENGTH: usize = 300_000;
    let backend = Backend::new();
    let rig = Rig::new(&[backend.address]);
    let client = rig.connect();
    let served = backend.accept();
    is_connected(&client, &served);
    thread::scope(|scope| {
        scope.spawn(|| (&served).write_all(&[b'e'; LENGTH]).unwrap());
        wait_until("the proxy has passed it on", || rig.bytes().1 > LENGTH as u64);
    });
    reset(served);
    assert_eq!(read_to_reset(&client).len(), LENGTH);
    rig.wait_closed(CloseReason::BackendReset, 1);
}

#[test]
fn an_answer_that_ends_early_arrives_although_the_client_goes_on_sending() {
    let backend = Backend::new();
    let rig = Rig::new(&[backend.address]);
    let (client, mut served) = rig.connect_to(&backend);
    (&client).write_all(b"upload").unwrap();
    read_exactly(&served, 1);
    served.write_all(b"no, thanks").unwrap();
    served.shutdown(Shutdown::Write).unwrap();
    wait_until("the answer has been passed on", || rig.bytes().1 == 10);
    // Unread bytes turn the close into a reset.
    drop(served);
    send_pattern(&client, 1, 4 << 20);
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&client), b"no, thanks");
    rig.wait_closed(CloseReason::BackendReset, 1);
}

#[test]
fn data_before_a_clean_end_reaches_a_slow_reader() {
    const LENGTH: usize = 1 << 20;
    let backend = Backend::new();
    let rig = Rig::new(&[backend.address]);
    let client = rig.connect();
    let served = backend.accept();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&served), b"");
    send_pattern(&served, 1, LENGTH);
    drop(served);
    rig.wait_closed(CloseReason::Complete, 1);
    assert_eq!(receive_pattern(&client, 1), LENGTH, "the connection was closed before any of it was read");
}

#[test]
fn a_client_that_leaves_before_the_connect_is_recorded() {
    let backend = Backend::new();
    let rig = Rig::new(&[backend.address]);
    for _ in 0..50 {
        reset(rig.connect());
        drop(rig.connect());
    }
    wait_until("all are accepted", || rig.accepted() == 100);
    // Closes each of the backend's ends, as an echo server does.
    wait_until("all have ended", || {
        while let Some(mut served) = backend.accept_now() {
            let _ = served.read(&mut [0]);
        }
        rig.active() == 0
    });
}
