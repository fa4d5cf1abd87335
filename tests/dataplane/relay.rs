//! Bytes in transit: all of them arrive in order, with backpressure.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    thread,
    time::{Duration, Instant},
};

use crate::{rig::*, sockets::queued};
use tcplb::proxy::accounting::CloseReason;

/// The number of bytes that the proxy may hold in one direction, apart from the kernel's buffers: a buffer, or a pipe.
pub const HELD: usize = 128 << 10;
const HELD_IN_PIPE: usize = 1 << 20;

#[test]
fn a_receiver_that_stops_reading_stops_the_sender() {
    for (pipes, held) in [(0, HELD), (16, HELD_IN_PIPE)] {
        let backend = Backend::new();
        let rig = Rig::sized(Size { pipes, ..Size::default() }, &[backend.address], |_, _| {});
        stops_the_sender(&rig, &backend, held);
    }
}

fn stops_the_sender(rig: &Rig, backend: &Backend, most: usize) {
    for reversed in [false, true] {
        let (client, served) = rig.connect_to(backend);
        is_connected(&client, &served);
        let (sender, receiver) = if reversed { (&served, &client) } else { (&client, &served) };
        let sent = fill(sender, || {
            let bytes = rig.bytes();
            bytes.0 + bytes.1
        });
        is_held(sent, &client, &served, most);

        sender.shutdown(Shutdown::Write).unwrap();
        let received = read_to_end(receiver);
        assert!(received.len() == sent && received.iter().all(|byte| *byte == b'x'), "nothing is lost");
        receiver.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(sender), b"");
    }
    rig.wait_closed(CloseReason::Complete, 2);
}

/// Checks that the proxy holds at most this many of the sent bytes: the others are in the kernel or at the other end.
pub fn is_held(sent: usize, client: &TcpStream, served: &TcpStream, most: usize) {
    let ports = [client.local_addr().unwrap().port(), served.peer_addr().unwrap().port()];
    let held = || sent as i64 - queued(&ports) as i64;
    // The kernel's table is not a consistent snapshot: bytes move between the ends of a connection while it is read.
    wait_until_or(
        || format!("at most {most} bytes of {sent} are held: {}", held()),
        || (0..=most as i64).contains(&held()),
    );
}

/// Sends until no byte has moved, here and in the proxy, for a number of checks. Returns the number of bytes sent.
pub fn fill(mut sender: &TcpStream, moved: impl Fn() -> u64) -> usize {
    sender.set_nonblocking(true).unwrap();
    let (mut sent, mut last, mut still) = (0, (0, 0), 0);
    wait_until("the sender is stopped", || {
        loop {
            match sender.write(&[b'x'; 16 << 10]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        let now = (sent, moved());
        still = if now == last { still + 1 } else { 0 };
        last = now;
        still == 100
    });
    sender.set_nonblocking(false).unwrap();
    sent
}

#[test]
fn everything_arrives_in_order_both_ways_at_once() {
    const LENGTH: usize = 3 << 20;
    // With copies, with too few pipes for all connections, and with enough.
    for pipes in [0, 2, 16] {
        let backend = Backend::serving(|stream| {
            transfer(stream, 1, 2, LENGTH);
        });
        let rig = Rig::sized(Size { pipes, ..Size::default() }, &[backend], |_, _| {});
        let address = rig.address();
        thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(move || transfer(connect(address), 2, 1, LENGTH));
            }
        });
        rig.wait_closed(CloseReason::Complete, 6);
        assert_eq!(rig.bytes(), (6 * LENGTH as u64, 6 * LENGTH as u64));
    }
}

/// Sends the bytes of one seed and checks those of another, in pieces of any size with occasional pauses.
pub fn transfer(stream: TcpStream, sent: u64, expected: u64, length: usize) {
    thread::scope(|scope| {
        scope.spawn(|| {
            send_pattern(&stream, sent, length);
            stream.shutdown(Shutdown::Write).unwrap();
        });
        assert_eq!(receive_pattern(&stream, expected), length);
    });
}

/// Like [`transfer`], for a stream that cannot be shared between threads: alternately sends a piece and reads what can
/// be read without waiting.
pub fn transfer_over(
    mut client: rustls::StreamOwned<rustls::ClientConnection, TcpStream>,
    sent: u64,
    expected: u64,
    length: usize,
) {
    let (mut out, mut back, mut ended) = (0, 0, false);
    let mut chunk = vec![0; 64 << 10];
    client.sock.set_nonblocking(true).unwrap();
    wait_until("everything has come", || {
        if out < length && !client.conn.wants_write() {
            let piece: Vec<u8> = (out..out + piece(length - out)).map(|at| pattern(sent, at)).collect();
            out += client.conn.writer().write(&piece).unwrap();
            if out == length {
                client.conn.send_close_notify();
            }
        }
        while client.conn.wants_write() && client.conn.write_tls(&mut client.sock).is_ok() {}
        loop {
            match client.read(&mut chunk) {
                Ok(0) => {
                    ended = true;
                    break;
                }
                Ok(count) => {
                    for byte in &chunk[..count] {
                        assert_eq!(*byte, pattern(expected, back), "byte {back}");
                        back += 1;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        ended && out == length && !client.conn.wants_write()
    });
    assert_eq!(back, length);
}

pub fn send_pattern(mut stream: impl Write, seed: u64, length: usize) {
    let mut at = 0;
    while at < length {
        let end = at + piece(length - at);
        let chunk: Vec<u8> = (at..end).map(|at| pattern(seed, at)).collect();
        stream.write_all(&chunk).unwrap();
        at = end;
    }
}

/// Returns the number of bytes before a clean end, all of which must be correct.
pub fn receive_pattern(mut stream: impl Read, seed: u64) -> usize {
    let (mut at, mut chunk) = (0, vec![0; 128 << 10]);
    loop {
        let size = piece(chunk.len());
        let count = stream.read(&mut chunk[..size]).unwrap();
        if count == 0 {
            return at;
        }
        for byte in &chunk[..count] {
            assert_eq!(*byte, pattern(seed, at), "byte {at}");
            at += 1;
        }
        if fastrand::u8(..) == 0 {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A byte that depends on its position in the stream.
fn pattern(seed: u64, at: usize) -> u8 {
    ((at as u64 + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// The size of a piece, mostly small or mostly large.
fn piece(most: usize) -> usize {
    let bound = if fastrand::bool() { 2048 } else { 256 << 10 };
    fastrand::usize(1..=bound.min(most))
}

#[test]
fn a_half_closed_client_still_receives_the_whole_answer() {
    let backend = Backend::new();
    let rig = Rig::new(&[backend.address]);
    let (client, served) = rig.connect_to(&backend);
    passes(&client, &served, b"question");
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&served), b"");
    thread::scope(|scope| {
        scope.spawn(move || send_pattern(&served, 1, 2 << 20));
        assert_eq!(receive_pattern(&client, 1), 2 << 20);
    });
    rig.wait_closed(CloseReason::Complete, 1);
}

#[test]
fn a_half_closed_backend_still_receives_client_data() {
    let backend = Backend::new();
    let rig = Rig::new(&[backend.address]);
    let (client, served) = rig.connect_to(&backend);
    passes(&served, &client, b"greeting");
    served.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&client), b"");
    thread::scope(|scope| {
        scope.spawn(move || send_pattern(&client, 1, 2 << 20));
        assert_eq!(receive_pattern(&served, 1), 2 << 20);
    });
    rig.wait_closed(CloseReason::Complete, 1);
}

#[test]
fn a_saturating_connection_does_not_starve_others() {
    let echo = Backend::echo();
    let rig = Rig::sized(Size { workers: 1, ..Size::default() }, &[echo], |_, _| {});
    let address = rig.address();
    let small = rig.connect();
    is_echoed(&small);
    let bulk: Vec<TcpStream> = (0..4).map(|_| rig.connect()).collect();
    let mut waits = Vec::new();
    thread::scope(|scope| {
        for stream in &bulk {
            scope.spawn(|| while (&mut &*stream).write_all(&[0; 256 << 10]).is_ok() {});
            scope.spawn(|| io::copy(&mut &*stream, &mut io::sink()));
        }
        wait_until("the worker is busy", || rig.bytes().1 > 16 << 20);
        for _ in 0..100 {
            let (moved, started) = (rig.bytes().0, Instant::now());
            is_echoed(&small);
            waits.push((rig.bytes().0 - moved, started.elapsed()));
        }
        is_echoed(connect(address));
        bulk.iter().for_each(|stream| stream.shutdown(Shutdown::Both).unwrap());
    });
    waits.sort();
    let (moved, latency) = waits[50];
    println!("until a byte came back: median {latency:?}, {} MiB of the others", moved >> 20);
    // The connection waits for its turn twice, once for each direction, while each of the four others empties a pipe,
    // fills it and empties it again.
    assert!(moved <= (2 * 4 * 2) << 20, "{moved} bytes of the others");
}

#[test]
fn bytes_are_counted_while_they_move() {
    let backend = Backend::new();
    let rig = Rig::new(&[backend.address]);
    let (client, served) = rig.connect_to(&backend);
    passes(&client, &served, b"12345");
    passes(&served, &client, b"123");
    wait_until("they are counted", || rig.bytes() == (5, 3));
    assert_eq!(rig.active(), 1);
    drop((client, served));
    rig.wait_closed(CloseReason::Complete, 1);
    wait_until("it is logged", || rig.logged().len() == 1);
    let line = &rig.logged()[0];
    assert!(line.contains("bytes_to_backend=5 bytes_to_client=3") && line.contains("attempts=1"), "{line}");
}
