use std::{cell::Cell, pin::pin};

use futures::FutureExt;
use rustls::{
    CipherSuiteCommon, HandshakeKind, SupportedCipherSuite, SupportedProtocolVersion, Tls12CipherSuite,
    Tls13CipherSuite,
    crypto::{CryptoProvider, aws_lc_rs},
    version::{TLS12, TLS13},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::*;
use crate::{
    model::TlsClientConfig,
    proxy::tls::{
        ServerTls,
        tests::{CertificateIssuer, tls},
    },
};

const NAME: &str = "db.example.com";
const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// The configurations of both sides.
struct Sides {
    server: ServerTls,
    client: Arc<ClientConfig>,
}

impl Sides {
    fn new(version: &'static SupportedProtocolVersion) -> Self {
        let authority = CertificateIssuer::new();
        let server = ServerTls::new(&tls(&[&authority.certificate(&[NAME])])).unwrap();
        Self { server, client: Arc::new(authority.client_of(&[version])) }
    }

    /// The handshake of a client of tokio-rustls.
    fn client(&self, stream: DuplexStream) -> tokio_rustls::Connect<DuplexStream> {
        TlsConnector::from(self.client.clone()).connect(name(), stream)
    }

    /// A server of this module and a client of tokio-rustls, over a stream that takes `size` bytes at once.
    async fn with_server(&self, size: usize) -> (client::TlsStream<DuplexStream>, ServerStream<DuplexStream>) {
        let (near, far) = duplex(size);
        let (client, server) = tokio::join!(self.client(near), self.server.accept(far, |_| Ok(())));
        (client.unwrap(), server.unwrap().0)
    }

    /// A client of this module and a server of tokio-rustls.
    async fn with_client(&self, size: usize) -> (ClientStream<DuplexStream>, server::TlsStream<DuplexStream>) {
        let (near, far) = duplex(size);
        let acceptor = TlsAcceptor::from(self.server.config());
        let connecting = ClientStream::connect(self.client.clone(), name(), near);
        let (client, server) = tokio::join!(connecting, acceptor.accept(far));
        (client.unwrap(), server.unwrap())
    }
}

fn name() -> ServerName<'static> {
    ServerName::try_from(NAME).unwrap()
}

fn bytes(count: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(count as u64);
    (0..count).map(|_| random.u8(..)).collect()
}

/// Sends `sent` in pieces, ends the stream, and returns everything that the peer sends.
async fn talk(stream: impl AsyncRead + AsyncWrite + Unpin, sent: &[u8], piece: usize) -> Vec<u8> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let write = async {
        for piece in sent.chunks(piece) {
            writer.write_all(piece).await.unwrap();
            writer.flush().await.unwrap();
        }
        writer.shutdown().await.unwrap();
    };
    let read = async {
        let mut received = Vec::new();
        let mut buffer = vec![0; piece];
        loop {
            match reader.read(&mut buffer).await.unwrap() {
                0 => return received,
                count => received.extend_from_slice(&buffer[..count]),
            }
        }
    };
    tokio::join!(write, read).1
}

#[tokio::test]
async fn bytes_arrive_in_order_with_streams_and_pieces_of_any_size() {
    for version in VERSIONS {
        let sides = Sides::new(version);
        for (size, piece, count) in [
            (1, 7, 2_000),
            (5, 1, 500),
            (29, 4_000, 30_000),
            (1_000, 100_000, 300_000),
            (20_000, 64, 30_000),
            (400_000, 300_000, 3_000_000),
        ] {
            let (up, down) = (bytes(count), bytes(count + 1));
            let (near, far) = duplex(size);
            let (client, server) = (sides.client(near), sides.server.accept(far, |_| Ok(())));
            let received = tokio::join!(
                client.then(|client| talk(client.unwrap(), &up, piece)),
                server.then(|server| talk(server.unwrap().0, &down, piece)),
            );
            assert!(received == (down.clone(), up.clone()), "server: {version:?}, {size}, {piece}");

            let (near, far) = duplex(size);
            let client = ClientStream::connect(sides.client.clone(), name(), near);
            let server = TlsAcceptor::from(sides.server.config()).accept(far);
            let received = tokio::join!(
                client.then(|client| talk(client.unwrap(), &up, piece)),
                server.then(|server| talk(server.unwrap(), &down, piece)),
            );
            assert!(received == (down, up), "client: {version:?}, {size}, {piece}");
        }
    }
}

#[tokio::test]
async fn an_idle_stream_holds_no_buffer() {
    let (mut client, mut server) = Sides::new(&TLS13).with_server(300_000).await;
    client.write_all(&bytes(100_000)).await.unwrap();
    server.read_exact(&mut vec![0; 100_000]).await.unwrap();
    server.write_all(&bytes(100_000)).await.unwrap();
    client.read_exact(&mut vec![0; 100_000]).await.unwrap();
    assert!(futures::poll!(pin!(server.read_u8())).is_pending());
    assert_eq!((server.incomplete.capacity(), server.decrypted.capacity(), server.unsent.capacity()), (0, 0, 0));

    let (raw, _) = client.get_mut();
    raw.write_all(&[23, 3, 3, 1, 0, 0]).await.unwrap();
    assert!(futures::poll!(pin!(server.read_u8())).is_pending());
    assert_eq!(server.incomplete, [23, 3, 3, 1, 0, 0], "the beginning of a record");
}

#[tokio::test]
async fn a_slow_reader_makes_its_writer_wait() {
    let (mut client, mut server) = Sides::new(&TLS13).with_server(10_000).await;
    let sent = bytes(1_000_000);
    let written = futures::poll!(pin!(server.write(&sent)));
    assert!(matches!(written, Poll::Ready(Ok(MAX_WRITE))), "{written:?}");
    assert!(server.unsent.len() > MAX_WRITE - 10_000);
    assert!(futures::poll!(pin!(server.write(&sent))).is_pending());
    assert!(server.unsent.len() < MAX_WRITE, "nothing more is encrypted");
    let mut received = vec![0; MAX_WRITE];
    let (read, flushed) = tokio::join!(client.read_exact(&mut received), server.flush());
    read.unwrap();
    flushed.unwrap();
    assert!(received == sent[..MAX_WRITE]);
}

#[tokio::test]
async fn bytes_that_the_stream_no_longer_accepts_are_discarded() {
    let (client, mut server) = Sides::new(&TLS13).with_server(10_000).await;
    assert!(matches!(futures::poll!(pin!(server.write(&bytes(100_000)))), Poll::Ready(Ok(100_000))));
    assert!(server.unsent.len() > 80_000);
    drop(client);
    server.flush().await.unwrap_err();
    assert_eq!(server.unsent.capacity(), 0);
}

#[tokio::test]
async fn tickets_go_with_the_first_data_or_before_the_end() {
    let sides = Sides::new(&TLS13);
    let (mut client, mut server) = sides.with_server(100_000).await;
    server.flush().await.unwrap();
    assert!(futures::poll!(pin!(client.read_u8())).is_pending());
    assert_eq!(client.get_ref().1.tls13_tickets_received(), 0);
    let tickets = server.unsent.len();
    assert!(tickets > 100, "{tickets}");
    server.write_all(b"data").await.unwrap();
    let mut packet = [0; 10_000];
    let count = client.get_mut().0.read(&mut packet).await.unwrap();
    assert!(count > tickets, "{count} bytes in one write, with the {tickets} of the tickets");

    let (mut client, mut server) = sides.with_server(100_000).await;
    server.shutdown().await.unwrap();
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(client.get_ref().1.tls13_tickets_received(), 2);
}

#[tokio::test]
async fn an_end_is_clean_only_with_close_notify() {
    for version in VERSIONS {
        let sides = Sides::new(version);
        let (mut client, mut server) = sides.with_server(10_000).await;
        client.shutdown().await.unwrap();
        assert_eq!(server.read(&mut [0; 9]).await.unwrap(), 0);
        server.write_all(b"after the end").await.unwrap();
        server.shutdown().await.unwrap();
        let mut received = String::new();
        client.read_to_string(&mut received).await.unwrap();
        assert_eq!(received, "after the end");
        assert_eq!(server.read(&mut [0; 9]).await.unwrap(), 0);

        let (mut client, mut server) = sides.with_server(10_000).await;
        client.write_all(b"data").await.unwrap();
        drop(client);
        let mut received = Vec::new();
        let error = server.read_to_end(&mut received).await.unwrap_err();
        assert_eq!((error.kind(), &*received), (io::ErrorKind::UnexpectedEof, &b"data"[..]), "{version:?}");

        let (mut client, server) = sides.with_client(10_000).await;
        drop(server);
        let error = client.read(&mut [0; 9]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}

#[tokio::test]
async fn new_keys_of_the_peer_are_used_and_answered() {
    let (mut client, mut server) = Sides::new(&TLS13).with_server(10_000).await;
    for round in 0..10 {
        client.get_mut().1.refresh_traffic_keys().unwrap();
        client.write_all(&[round]).await.unwrap();
        assert_eq!(server.read_u8().await.unwrap(), round);
        server.write_all(&[round]).await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), round);
    }
}

#[tokio::test]
async fn a_violation_comes_after_the_data_before_it_and_is_answered_by_an_alert() {
    let sides = Sides::new(&TLS13);
    let forged: Vec<u8> = [&[23, 3, 3, 0, 32][..], &[0; 32]].concat();

    let (mut client, mut server) = sides.with_server(10_000).await;
    client.write_all(b"data").await.unwrap();
    client.get_mut().0.write_all(&forged).await.unwrap();
    let mut received = Vec::new();
    for _ in 0..2 {
        let error = server.read_to_end(&mut received).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(error.get_ref().unwrap().downcast_ref(), Some(&Error::DecryptError));
    }
    assert_eq!(received, b"data");
    let alert = client.read(&mut [0]).await.unwrap_err();
    assert_eq!(alert.to_string(), "received fatal alert: BadRecordMac");
    server.shutdown().await.unwrap();

    let (near, far) = duplex(1_000);
    let refused = tokio::join!(sides.server.accept(near, |_| Ok(())), async {
        let (mut reader, mut writer) = tokio::io::split(far);
        writer.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let mut alert = [0; 7];
        reader.read_exact(&mut alert).await.unwrap();
        assert_eq!(alert[0], 21, "{alert:?} is an alert");
    });
    assert_eq!(refused.0.unwrap_err().kind(), io::ErrorKind::InvalidData);
}

#[tokio::test]
async fn nothing_is_sent_after_a_violation_within_a_handshake_message() {
    let sides = Sides::new(&TLS13);
    let (near, far) = duplex(10_000);
    let (client, server) = tokio::join!(
        ClientStream::connect(sides.client.clone(), name(), near),
        ServerStream::accept(sides.server.config(), far, |_| Ok(()))
    );
    let (mut client, mut server) = (client.unwrap(), server.unwrap());
    // Behind data, the first bytes of a handshake message, and then a record of another type.
    client.write_all(b"data").await.unwrap();
    server.read_exact(&mut [0; 4]).await.unwrap();
    let sealed = |client: &mut ClientStream<_>, bytes: &[u8]| {
        let mut output = vec![0; 1_000];
        let count = client.encrypt(bytes, &mut output).unwrap();
        output.truncate(count);
        output
    };
    let data = sealed(&mut client, b"more");
    let forged = [&[22, 3, 3, 0, 3, 24, 0, 0][..], &sealed(&mut client, b"data")].concat();
    client.get_mut().write_all(&[data, forged].concat()).await.unwrap();
    let mut read = [0; 10];
    assert_eq!(server.read(&mut read).await.unwrap(), 4);
    assert_eq!(server.write(b"answer").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    assert_eq!(server.read(&mut read).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    server.shutdown().await.unwrap();
    let alert = client.read(&mut read).await.unwrap_err();
    assert!(alert.to_string().starts_with("received fatal alert"), "{alert}");
}

/// The provider with cipher suites whose keys may encrypt only a few records.
fn with_short_lived_keys() -> Arc<CryptoProvider> {
    const RECORDS: u64 = 20;
    let mut provider = aws_lc_rs::default_provider();
    for suite in &mut provider.cipher_suites {
        *suite = match suite {
            SupportedCipherSuite::Tls12(tls12) => {
                let common = CipherSuiteCommon { confidentiality_limit: RECORDS, ..common(&tls12.common) };
                let suite = Tls12CipherSuite {
                    common,
                    kx: tls12.kx,
                    sign: tls12.sign,
                    prf_provider: tls12.prf_provider,
                    aead_alg: tls12.aead_alg,
                };
                SupportedCipherSuite::Tls12(Box::leak(Box::new(suite)))
            }
            SupportedCipherSuite::Tls13(tls13) => {
                let common = CipherSuiteCommon { confidentiality_limit: RECORDS, ..common(&tls13.common) };
                let suite = Tls13CipherSuite {
                    common,
                    hkdf_provider: tls13.hkdf_provider,
                    aead_alg: tls13.aead_alg,
                    quic: tls13.quic,
                };
                SupportedCipherSuite::Tls13(Box::leak(Box::new(suite)))
            }
        };
    }
    Arc::new(provider)
}

fn common(suite: &CipherSuiteCommon) -> CipherSuiteCommon {
    CipherSuiteCommon {
        suite: suite.suite,
        hash_provider: suite.hash_provider,
        confidentiality_limit: suite.confidentiality_limit,
    }
}

#[tokio::test]
async fn used_up_keys_are_replaced_or_end_the_session() {
    for version in VERSIONS {
        let authority = CertificateIssuer::new();
        let server = ServerTls::new(&tls(&[&authority.certificate(&[NAME])])).unwrap();
        let config = Arc::new(authority.client_with(with_short_lived_keys(), &[version]));
        let (near, far) = duplex(100_000);
        let (client, server) =
            tokio::join!(ClientStream::connect(config, name(), near), server.accept(far, |_| Ok(())));
        let (mut client, mut server) = (client.unwrap(), server.unwrap().0);
        let mut byte = [0];
        let mut written = 0;
        let refused = loop {
            if written == 100 {
                break None;
            }
            if let Err(error) = client.write(b"?").await {
                break Some(error.kind());
            }
            written += 1;
            server.read_exact(&mut byte).await.unwrap();
        };
        if version.version == ProtocolVersion::TLSv1_3 {
            assert_eq!(refused, None, "new keys are agreed");
            continue;
        }
        assert!(written < 20, "{written} records with one key");
        assert_eq!(refused, Some(io::ErrorKind::InvalidData));
        assert!(client.read(&mut byte).await.is_err());
        client.shutdown().await.unwrap();
        assert_eq!(server.read(&mut byte).await.unwrap(), 0, "close_notify");
    }
}

#[tokio::test]
async fn a_long_message_leaves_no_memory_behind() {
    let (_, mut server) = Sides::new(&TLS13).with_server(1_000).await;
    server.keep(&[0; 60_000]);
    server.keep(&[0; 7]);
    assert_eq!((server.incomplete.len(), server.incomplete.capacity()), (7, 7));
}

#[tokio::test]
async fn after_the_handshake_only_an_incomplete_record_is_kept() {
    let (_client, mut server) = Sides::new(&TLS13).with_server(1_000).await;
    let largest = 5 + RECORD + 2048;
    server.keep(&vec![23; largest - 1]);
    assert!(futures::poll!(pin!(server.read_u8())).is_pending());
    assert_eq!(server.held(), largest - 1);
    server.keep(&vec![23; largest]);
    let error = server.read_u8().await.unwrap_err();
    assert_eq!(error.get_ref().unwrap().downcast_ref(), Some(&Error::PeerSentOversizedRecord));
    assert_eq!(server.incomplete.capacity(), 0);
}

#[tokio::test]
async fn the_memory_of_a_handshake_is_bounded() {
    let sides = Sides::new(&TLS13);
    let (near, mut far) = duplex(200_000);
    // A ClientHello of 65,000 bytes that never ends.
    let hello = [&[1, 0, 253, 232][..], &[0; 16_380]].concat();
    for fragment in [&hello[..], &[0; 16_384], &[0; 16_384], &[0; 15_000]] {
        far.write_all(&[22, 3, 1]).await.unwrap();
        far.write_all(&(fragment.len() as u16).to_be_bytes()).await.unwrap();
        far.write_all(fragment).await.unwrap();
    }
    let largest = Cell::new(0);
    let mut accepting = pin!(sides.server.accept(near, |received| {
        largest.set(received);
        Ok(())
    }));
    assert!(futures::poll!(&mut accepting).is_pending());
    far.write_all(&[22, 3, 1, 64, 0]).await.unwrap();
    far.write_all(&[0; 16_384]).await.unwrap();
    assert!(accepting.await.is_err());
    assert!(largest.get() < MAX_INCOMPLETE + 20_000, "{largest:?}");

    let (near, mut far) = duplex(200_000);
    far.write_all(&[22, 3, 1, 64, 0]).await.unwrap();
    let full = |received| if received > 3 { Err(io::Error::other("full")) } else { Ok(()) };
    assert_eq!(sides.server.accept(near, full).await.unwrap_err().to_string(), "full");
}

#[tokio::test]
async fn the_requested_name_is_known_also_for_resumed_sessions() {
    for version in VERSIONS {
        let sides = Sides::new(version);
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let (near, far) = duplex(10_000);
            let (client, server) = tokio::join!(sides.client(near), sides.server.accept(far, |_| Ok(())));
            let ((mut server, requested), mut client) = (server.unwrap(), client.unwrap());
            assert_eq!((server.state().handshake_kind(), requested.as_deref()), (Some(kind), Some(NAME)));
            server.write_all(b"!").await.unwrap();
            client.read_u8().await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_session_whose_keys_differ_is_not_resumed_again() {
    let sides = Sides::new(&TLS12);
    let config = TlsClientConfig::new(ClientConfig::clone(&sides.client), None);
    let kind = async || {
        let (near, far) = duplex(10_000);
        let acceptor = TlsAcceptor::from(sides.server.config());
        let connecting = ClientStream::connect(config.config.clone(), name(), near);
        let (client, _server) = tokio::join!(connecting, acceptor.accept(far));
        client.unwrap().state().handshake_kind().unwrap()
    };
    assert_eq!(kind().await, HandshakeKind::Full);
    config.forget_undecryptable_session(&name(), &Error::HandshakeNotComplete);
    assert_eq!(kind().await, HandshakeKind::Resumed);
    config.forget_undecryptable_session(&name(), &Error::DecryptError);
    assert_eq!(kind().await, HandshakeKind::Full);
}
