//! PROXY headers: trusted peers, and headers for backends.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use tcplb::{
    model::{self, ProxyMode, ProxyVersion},
    proxy::{accounting::CloseReason, proxy_protocol},
};

use crate::{limits::networks, relay::transfer, rig::*};

const V1: &[u8] = b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 2000\r\n";
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    [V2_SIGNATURE, &[0x20 | command, family], &(block.len() as u16).to_be_bytes(), block].concat()
}

fn v2_tcp4() -> Vec<u8> {
    v2(1, 0x11, &[192, 0, 2, 1, 192, 0, 2, 2, 3, 232, 7, 208])
}

const TRUSTED: [u8; 4] = [127, 0, 6, 1];
const OTHER: [u8; 4] = [127, 0, 7, 1];

/// A rig that trusts the peers of 127.0.6.0/24.
fn rig(mode: ProxyMode, backend: SocketAddr) -> Rig {
    Rig::with(&[backend], |listener, _| listener.proxy_protocol = Some(trusting(mode)))
}

fn trusting(mode: ProxyMode) -> model::ProxyProtocol {
    model::ProxyProtocol { mode, trusted: networks(&["127.0.6.0/24"]) }
}

fn header_at(backend: &mut TcpStream) -> Option<(SocketAddr, SocketAddr)> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut bytes = std::io::Cursor::new(read_exactly(backend, 28));
    let header = runtime.block_on(proxy_protocol::read_header(&mut bytes)).unwrap();
    header.addresses.map(|addresses| (addresses.source, addresses.destination))
}

#[test]
fn a_header_of_a_trusted_peer_is_taken_off_and_names_the_client() {
    for mode in [ProxyMode::Optional, ProxyMode::Required] {
        let backend = Backend::new();
        let rig = rig(mode, backend.address);
        let with_fields = v2(1, 0x11, &[&[192, 0, 2, 1, 192, 0, 2, 2, 3, 232, 7, 208][..], &[0; 700]].concat());
        for header in [V1.to_vec(), v2_tcp4(), with_fields] {
            let mut client = connect_from(TRUSTED, rig.address());
            client.write_all(&[&header[..], b"payload"].concat()).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(read_to_end(backend.accept()), b"payload");
            assert_eq!(read_to_end(client), b"");
        }
        wait_until("all are logged", || rig.logged().len() == 3);
        for line in rig.logged() {
            assert!(line.contains("peer=127.0.6.1:") && line.contains("client=192.0.2.1:1000"), "{line}");
        }
    }
}

#[test]
fn a_header_may_come_in_pieces_of_any_size() {
    let backend = Backend::new();
    let rig = rig(ProxyMode::Required, backend.address);
    for header in [V1.to_vec(), v2_tcp4()] {
        let mut client = connect_from(TRUSTED, rig.address());
        for byte in &header {
            client.write_all(&[*byte]).unwrap();
            thread::sleep(Duration::from_millis(1));
        }
        let served = backend.accept();
        passes(&client, &served, b"payload");
        passes(&served, &client, b"answer");
    }
}

#[test]
fn mode_trust_and_first_bytes_decide_on_admission() {
    #[derive(Debug)]
    enum Outcome {
        Served,
        Reset(CloseReason),
    }
    use Outcome::{Reset, Served};
    use ProxyMode::{Optional, Required};
    let (header, second) = (V1.to_vec(), [V1, V1].concat());
    let local = v2(0, 0, &[]);
    let too_long = v2(1, 0x11, &[0; 4090]);
    for (mode, source, first, expected) in [
        (Required, TRUSTED, &header[..], Served),
        (Required, TRUSTED, &local, Served),
        (Required, TRUSTED, b"PROXY UNKNOWN\r\n", Served),
        (Required, TRUSTED, b"SELECT 1;\n", Reset(CloseReason::ProxyInvalid)),
        (Required, TRUSTED, b"PROXY TCP4 192.0.2.1\r\n", Reset(CloseReason::ProxyInvalid)),
        (Required, TRUSTED, &too_long, Reset(CloseReason::ProxyInvalid)),
        (Required, TRUSTED, &second, Reset(CloseReason::ProxyUntrusted)),
        (Required, OTHER, &header, Reset(CloseReason::ProxyUntrusted)),
        (Required, OTHER, b"SELECT 1;\n", Reset(CloseReason::ProxyUntrusted)),
        (Optional, TRUSTED, &header, Served),
        (Optional, TRUSTED, b"SELECT 1;\n", Reset(CloseReason::ProxyInvalid)),
        (Optional, TRUSTED, &second, Reset(CloseReason::ProxyUntrusted)),
        (Optional, OTHER, b"SELECT 1;\n", Served),
        (Optional, OTHER, &header, Reset(CloseReason::ProxyUntrusted)),
        (Optional, OTHER, &v2_tcp4(), Reset(CloseReason::ProxyUntrusted)),
    ] {
        let rig = rig(mode, Backend::echo());
        let mut client = connect_from(source, rig.address());
        // The connection of a refused peer may already be reset.
        let sent = client.write_all(first);
        match expected {
            Served => {
                client.write_all(b"last").unwrap();
                client.shutdown(Shutdown::Write).unwrap();
                assert!(read_to_end(&client).ends_with(b"last"), "{mode:?} {source:?} {first:?}");
                rig.wait_closed(CloseReason::Complete, 1);
            }
            Reset(reason) => {
                if sent.is_ok() {
                    is_reset(&client);
                }
                rig.wait_closed(reason, 1);
            }
        }
    }
}

#[test]
fn without_proxy_protocol_a_header_is_passed_on_like_any_bytes() {
    let backend = Backend::new();
    let rig = Rig::new(&[backend.address]);
    let (client, served) = rig.connect_to(&backend);
    passes(&client, &served, V1);
    passes(&client, &served, &v2_tcp4());
}

#[test]
fn a_header_has_a_deadline() {
    let backend = Backend::new();
    let rig = Rig::with(&[backend.address], |listener, _| {
        listener.proxy_protocol = Some(trusting(ProxyMode::Required));
        // Longer than a busy machine takes to send the first bytes.
        listener.timeouts.handshake = Duration::from_secs(2);
    });
    let mut silent = connect_from(TRUSTED, rig.address());
    let mut trickling = connect_from(TRUSTED, rig.address());
    trickling.write_all(b"PROXY TC").unwrap();
    assert_eq!(silent.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    is_reset(trickling);
    rig.wait_closed(CloseReason::ProxyInvalid, 2);
    assert!(backend.accept_now().is_none(), "no backend is dialled before the client is known");
}

#[test]
fn a_direct_client_that_says_nothing_gets_the_greeting_of_a_server_that_speaks_first() {
    let backend = Backend::new();
    let rig = rig(ProxyMode::Optional, backend.address);
    let client = connect_from(OTHER, rig.address());
    let served = backend.accept();
    passes(&served, &client, b"220 hello\r\n");
    passes(&client, &served, b"PRO");
    passes(&client, &served, b"VERB\r\n");
}

#[test]
fn a_forged_header_is_cut_off_before_its_signature_is_complete_however_it_is_split() {
    let backend = Backend::new();
    let rig = rig(ProxyMode::Optional, backend.address);
    let mut cut = 0;
    for (header, signature) in [(V1.to_vec(), 6), (v2_tcp4(), V2_SIGNATURE.len())] {
        let two = (1..header.len()).map(|at| vec![at]);
        let every_byte = std::iter::once((1..signature + 1).collect());
        for splits in two.chain(every_byte) {
            let client = connect_from(OTHER, rig.address());
            let served = backend.accept();
            let mut from = 0;
            for at in splits.into_iter().chain([header.len()]) {
                if (&client).write_all(&header[from..at]).is_err() {
                    break;
                }
                if at < signature {
                    // Bytes that are not a signature yet arrive, which also keeps the pieces apart.
                    assert_eq!(read_exactly(&served, at - from), &header[from..at]);
                }
                from = at;
            }
            let seen = read_to_reset(&served);
            assert_eq!(seen, b"", "nothing that completes a signature arrives");
            cut += 1;
        }
    }
    rig.wait_closed(CloseReason::ProxyUntrusted, cut);
}

#[test]
fn a_trusted_peer_cannot_pass_on_the_header_that_its_client_sends() {
    let backend = Backend::new();
    let rig = rig(ProxyMode::Required, backend.address);
    for forged in [V1.to_vec(), v2_tcp4()] {
        for split in [0, 1, 5] {
            let client = connect_from(TRUSTED, rig.address());
            (&client).write_all(&[V1, &forged[..split]].concat()).unwrap();
            let served = backend.accept();
            assert_eq!(read_exactly(&served, split), &forged[..split]);
            let _ = (&client).write_all(&forged[split..]);
            is_reset(&served);
        }
    }
    rig.wait_closed(CloseReason::ProxyUntrusted, 6);
}

#[test]
fn headers_to_backends_have_the_client_and_the_destination() {
    for (version, length) in [(ProxyVersion::V1, None), (ProxyVersion::V2, Some(28))] {
        let backend = Backend::new();
        let rig = Rig::with(&[backend.address], |_, upstream| backend_of(upstream).proxy_protocol = Some(version));
        let (client, mut served) = rig.connect_to(&backend);
        let addresses = (client.local_addr().unwrap(), rig.address());
        match length {
            Some(_) => assert_eq!(header_at(&mut served), Some(addresses)),
            None => {
                let (from, to) = addresses;
                let line = format!("PROXY TCP4 {} {} {} {}\r\n", from.ip(), to.ip(), from.port(), to.port());
                assert_eq!(read_exactly(&served, line.len()), line.as_bytes());
            }
        }
        is_connected(&client, &served);
    }
}

#[test]
fn client_data_follows_the_header() {
    const LENGTH: usize = 3 << 20;
    // With copies, and with pipes.
    for pipes in [0, 16] {
        let backend = Backend::serving(|mut stream| {
            assert!(header_at(&mut stream).is_some());
            transfer(stream, 1, 2, LENGTH);
        });
        let rig = Rig::sized(Size { pipes, ..Size::default() }, &[backend], |_, upstream| {
            backend_of(upstream).proxy_protocol = Some(ProxyVersion::V2);
        });
        transfer(connect(rig.address()), 2, 1, LENGTH);
        rig.wait_closed(CloseReason::Complete, 1);
    }
}

#[test]
fn backends_get_the_client_address_from_a_trusted_peer() {
    let backend = Backend::new();
    let rig = Rig::with(&[backend.address], |listener, upstream| {
        listener.proxy_protocol = Some(trusting(ProxyMode::Required));
        backend_of(upstream).proxy_protocol = Some(ProxyVersion::V2);
    });
    let mut client = connect_from(TRUSTED, rig.address());
    client.write_all(V1).unwrap();
    let mut served = backend.accept();
    let header = header_at(&mut served);
    assert_eq!(header, Some(("192.0.2.1:1000".parse().unwrap(), "192.0.2.2:2000".parse().unwrap())));
    is_connected(&client, &served);
    drop((client, served));

    let mut checking = connect_from(TRUSTED, rig.address());
    checking.write_all(&v2(0, 0, &[])).unwrap();
    let mut served = backend.accept();
    let header = header_at(&mut served);
    assert_eq!(header, Some((checking.local_addr().unwrap(), rig.address())), "one that speaks for itself is itself");
}

#[test]
fn access_and_limits_are_for_the_announced_client() {
    let rig = Rig::with(&[Backend::echo()], |listener, _| {
        listener.proxy_protocol = Some(trusting(ProxyMode::Required));
        listener.access.deny = networks(&["192.0.2.66/32"]);
        listener.limits.max_connections_per_source = some(1);
    });
    let connect = |client: &str| {
        let mut stream = connect_from(TRUSTED, rig.address());
        write!(stream, "PROXY TCP4 {client} 192.0.2.2 1000 2000\r\n").unwrap();
        stream
    };
    let first = connect("192.0.2.1");
    is_echoed(&first);
    is_echoed(connect("192.0.2.9"));
    is_reset(connect("192.0.2.1"));
    is_reset(connect("192.0.2.66"));
    rig.wait_closed(CloseReason::SourceFull, 1);
    rig.wait_closed(CloseReason::AccessDenied, 1);
    // The peer's own connections (LOCAL) count against no source.
    let checks: Vec<_> = (0..3)
        .map(|_| {
            let mut stream = connect_from(TRUSTED, rig.address());
            stream.write_all(&v2(0, 0, &[])).unwrap();
            is_echoed(&stream);
            stream
        })
        .collect();
    is_echoed(&first);
    drop(checks);
}

#[test]
fn a_connection_made_in_advance_gets_its_header_when_it_gets_its_client() {
    let backend = Backend::new();
    let rig = Rig::with(&[backend.address], |_, upstream| {
        backend_of(upstream).proxy_protocol = Some(ProxyVersion::V2);
        upstream.connect.preconnect =
            Some(model::Preconnect { per_endpoint: std::num::NonZeroU16::MIN, idle_timeout: WAIT_LIMIT * 10 });
    });
    let mut served = backend.accept();
    let endpoint = rig.endpoint(backend.address);
    wait_until("the pool is full", || endpoint.pool_figures().idle == 1);
    is_silent(&served);
    let client = rig.connect();
    assert_eq!(header_at(&mut served), Some((client.local_addr().unwrap(), rig.address())));
    is_connected(&client, &served);
}
