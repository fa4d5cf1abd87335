//! TCP urgent data: its bytes arrive in line, and its mark does not end the connection.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    num::NonZeroU16,
    thread,
};

use socket2::SockRef;
use tcplb::{model::Preconnect, proxy::accounting::CloseReason};

use crate::rig::*;

/// Sends these parts with an urgent byte behind each part except the last.
fn send_parts(mut sender: &TcpStream, parts: &[Vec<u8>]) -> io::Result<()> {
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            SockRef::from(sender).send_out_of_band(b"!")?;
        }
        sender.write_all(part)?;
    }
    Ok(())
}

fn joined(parts: &[Vec<u8>]) -> Vec<u8> {
    parts.join(&b'!')
}

/// A connection whose backend has sent an urgent byte. If several arrive before the first is noticed, the kernel may
/// drop some.
fn connect_to(rig: &Rig, backend: &Backend) -> (TcpStream, TcpStream) {
    let (client, served) = rig.connect_to(backend);
    is_connected(&client, &served);
    SockRef::from(&served).send_out_of_band(b"!").unwrap();
    assert_eq!(read_exactly(&client, 1), b"!");
    (client, served)
}

/// With copies and with pipes, from the client and from the backend.
fn in_all_ways(check: impl Fn(&Rig, &TcpStream, &TcpStream)) {
    for pipes in [0, 16] {
        let backend = Backend::new();
        let rig = Rig::sized(Size { pipes, ..Size::default() }, &[backend.address], |_, _| {});
        for reversed in [false, true] {
            let (client, served) = connect_to(&rig, &backend);
            let (sender, receiver) = if reversed { (&served, &client) } else { (&client, &served) };
            check(&rig, sender, receiver);
        }
    }
}

#[test]
fn bytes_around_urgent_ones_all_arrive_before_a_clean_end() {
    for length in [0, 3, 300_000] {
        let parts = [vec![b'a'; length], vec![b'b'; length], vec![b'c'; length]];
        in_all_ways(|rig, sender, receiver| {
            let before = rig.closed(CloseReason::Complete);
            thread::scope(|scope| {
                scope.spawn(|| {
                    send_parts(sender, &parts).unwrap();
                    sender.shutdown(Shutdown::Write).unwrap();
                });
                assert!(read_to_end(receiver) == joined(&parts), "{length}");
            });
            receiver.shutdown(Shutdown::Write).unwrap();
            assert_eq!(read_to_end(sender), b"");
            rig.wait_closed(CloseReason::Complete, before + 1);
        });
    }
}

#[test]
fn bytes_behind_an_urgent_one_wait_for_nothing_more_from_the_sender() {
    for length in [1, 300_000] {
        let parts = [vec![b'a'; length], vec![b'b'; length]];
        let all = joined(&parts);
        in_all_ways(|_, sender, receiver| {
            for _ in 0..3 {
                thread::scope(|scope| {
                    scope.spawn(|| send_parts(sender, &parts).unwrap());
                    assert!(read_exactly(receiver, all.len()) == all, "{length}");
                });
            }
            is_connected(sender, receiver);
        });
    }
}

#[test]
fn a_reset_behind_an_urgent_byte_is_no_clean_end() {
    for pipes in [0, 16] {
        let backend = Backend::new();
        let rig = Rig::sized(Size { pipes, ..Size::default() }, &[backend.address], |_, _| {});
        let (client, served) = rig.connect_to(&backend);
        let parts = [vec![b'a'; 300_000], vec![b'b'; 300_000]];
        thread::scope(|scope| {
            scope.spawn(|| send_parts(&client, &parts).unwrap());
            assert!(read_exactly(&served, 600_001) == joined(&parts));
        });
        SockRef::from(&client).send_out_of_band(b"!").unwrap();
        assert_eq!(read_exactly(&served, 1), b"!");
        reset(client);
        is_reset(&served);
        rig.wait_closed(CloseReason::ClientReset, 1);
    }
}

#[test]
fn a_storm_of_urgent_bytes_in_both_directions_loses_none() {
    for pipes in [0, 16] {
        let mut random = fastrand::Rng::with_seed(7);
        let backend = Backend::new();
        let rig = Rig::sized(Size { pipes, ..Size::default() }, &[backend.address], |_, _| {});
        for _ in 0..4 {
            let (client, served) = connect_to(&rig, &backend);
            let mut parts = || -> Vec<Vec<u8>> {
                let part =
                    |byte| vec![byte; if random.u8(..8) == 0 { random.usize(..400_000) } else { random.usize(..9) }];
                (0..100).map(part).collect()
            };
            let (up, down) = (parts(), parts());
            let ends = |stream: &TcpStream, sent: &[Vec<u8>], expected: &[Vec<u8>]| {
                thread::scope(|scope| {
                    scope.spawn(|| {
                        send_parts(stream, sent).unwrap();
                        stream.shutdown(Shutdown::Write).unwrap();
                    });
                    assert!(read_to_end(stream) == joined(expected), "{pipes} pipes");
                });
            };
            thread::scope(|scope| {
                scope.spawn(|| ends(&client, &up, &down));
                ends(&served, &down, &up);
            });
        }
        rig.wait_closed(CloseReason::Complete, 4);
    }
}

#[test]
fn a_greeting_with_an_urgent_byte_in_a_preconnected_socket_reaches_the_client_whole() {
    let backend = Backend::new();
    let rig = Rig::with(&[backend.address], |_, upstream| {
        let per_endpoint = NonZeroU16::MIN;
        upstream.connect.preconnect = Some(Preconnect { per_endpoint, idle_timeout: WAIT_LIMIT * 10 });
    });
    let served = backend.accept();
    let endpoint = rig.endpoint(backend.address);
    wait_until("the pool is full", || endpoint.pool_figures().idle == 1);
    send_parts(&served, &[b"hel".to_vec(), b"lo".to_vec()]).unwrap();
    let mut client = rig.connect();
    assert_eq!(read_exactly(&client, 6), b"hel!lo");
    client.write_all(b"thanks").unwrap();
    assert_eq!(read_exactly(&served, 6), b"thanks");
    served.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    assert_eq!(endpoint.pool_figures().hits, 1);
}
