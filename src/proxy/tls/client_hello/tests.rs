use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::FutureExt;
use proptest::prelude::*;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion,
    crypto::aws_lc_rs,
    pki_types::ServerName,
    version::{TLS12, TLS13},
};
use tokio::io::{AsyncWriteExt, ReadBuf, duplex};

use super::*;

/// The first bytes that a rustls client sends.
fn sent_by_rustls(name: &str, version: &'static SupportedProtocolVersion) -> Vec<u8> {
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

fn with_length(width: usize, bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_be_bytes()[4 - width..], bytes].concat()
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &with_length(2, content)].concat()
}

fn server_name(name: &[u8]) -> Vec<u8> {
    extension(0, &with_length(2, &[&[0][..], &with_length(2, name)].concat()))
}

/// A ClientHello with these extensions, as a handshake message.
fn message(extensions: &[u8]) -> Vec<u8> {
    let body = [&[3, 3][..], &[7; 32], &with_length(1, &[]), &with_length(2, &[0x13, 1]), &[1, 0]].concat();
    [&[1][..], &with_length(3, &[body, with_length(2, extensions)].concat())].concat()
}

/// The message in records of at most `size` bytes.
fn in_records(message: &[u8], size: usize) -> Vec<u8> {
    message.chunks(size).flat_map(|chunk| [&[22, 3, 1][..], &with_length(2, chunk)].concat()).collect()
}

/// The outcome for a client that sends only these bytes, and the bytes read.
fn read_of(bytes: &[u8]) -> (Result<ClientHello, HelloError>, Vec<u8>) {
    let (mut stream, mut read) = (bytes, Vec::new());
    let result = read_client_hello(&mut stream, &mut read).now_or_never().unwrap();
    (result, read)
}

fn name_in(bytes: &[u8]) -> Option<String> {
    read_of(bytes).0.unwrap().server_name.map(Into::into)
}

#[test]
fn the_server_name_of_real_clients_is_found() {
    for version in [&TLS12, &TLS13] {
        let hello = sent_by_rustls("db.example.com", version);
        assert_eq!(name_in(&hello).as_deref(), Some("db.example.com"), "{version:?}");
        assert_eq!(name_in(&sent_by_rustls("192.0.2.1", version)), None, "no name is sent for an address");
    }
    assert!(sent_by_rustls("db.example.com", &TLS13).len() > 1216, "with a post-quantum key share");
}

#[test]
fn names_are_compared_in_lower_case_and_without_a_final_dot() {
    for (sent, name) in [(&b"DB.Example.COM"[..], "db.example.com"), (b"db.example.com.", "db.example.com")] {
        assert_eq!(name_in(&in_records(&message(&server_name(sent)), 1000)).as_deref(), Some(name));
    }
}

#[test]
fn an_address_is_no_name_and_undefined_name_types_are_ignored() {
    for address in [&b"192.0.2.1"[..], b"192.0.2.1.", b"2001:db8::1", b"[::1]"] {
        assert_eq!(name_in(&in_records(&message(&server_name(address)), 1000)), None, "{address:?}");
    }
    let with_another = extension(0, &with_length(2, b"\0\0\x01a\x07what this is, is not known"));
    assert_eq!(name_in(&in_records(&message(&with_another), 1000)).as_deref(), Some("a"));
}

#[test]
fn names_that_are_too_long_are_refused() {
    for (labels, is_name) in [(126, true), (127, false), (30_000, false)] {
        let name = format!("a{}", ".a".repeat(labels));
        let hello = in_records(&message(&server_name(name.as_bytes())), 1000);
        assert_eq!(read_of(&hello).0.is_ok(), is_name, "{} bytes", name.len());
    }
}

#[test]
fn a_client_hello_without_extensions_has_no_server_name() {
    let without = [&[3, 3][..], &[7; 32], &with_length(1, &[]), &with_length(2, &[0, 47]), &[1, 0]].concat();
    let message = [&[1][..], &with_length(3, &without)].concat();
    assert_eq!(name_in(&in_records(&message, 1000)), None);
}

#[test]
fn bytes_that_are_no_client_hello_are_refused_at_once() {
    for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"SSH-2.0-OpenSSH\r\n", &[0], &[22, 2], &[22, 3, 1, 0, 0], &[0x80, 46, 1]]
    {
        let (mut near, mut far) = duplex(100);
        far.write_all(bytes).now_or_never().unwrap().unwrap();
        // The other end is open, and sends nothing more.
        let result = read_client_hello(&mut near, &mut Vec::new()).now_or_never();
        assert!(matches!(result, Some(Err(HelloError::Invalid))), "{bytes:?}: {result:?}");
    }
    // A ServerHello.
    assert!(matches!(read_of(&in_records(&[2, 0, 0, 0], 10)).0, Err(HelloError::Invalid)));
}

#[test]
fn a_malformed_client_hello_is_refused() {
    let twice = [server_name(b"a.example"), server_name(b"b.example")].concat();
    let two_in_one = extension(0, &with_length(2, b"\0\0\x01a\0\0\x01b"));
    let (other_kind, cut) = (extension(0, &with_length(2, b"\x01\0\x01a")), &server_name(b"a.example")[..9]);
    let names = [server_name(b""), server_name(b"."), server_name(b"a b"), server_name("ä.example".as_bytes())];
    let wrong = [&twice[..], &two_in_one, &other_kind, cut, &extension(0, &[])];
    for extensions in wrong.into_iter().chain(names.iter().map(Vec::as_slice)) {
        let result = read_of(&in_records(&message(extensions), 1000)).0;
        assert!(matches!(result, Err(HelloError::Invalid)), "{extensions:?}: {result:?}");
    }
    let mut longer = message(&server_name(b"a.example"));
    longer.push(0);
    longer[3] += 1;
    assert!(matches!(read_of(&in_records(&longer, 1000)).0, Err(HelloError::Invalid)), "something behind extensions");
}

#[test]
fn the_largest_client_hello_is_read_and_a_larger_one_is_refused_early() {
    let of_size = |size: usize| {
        let padding = |length| message(&[server_name(b"a.example"), extension(21, &vec![0; length])].concat());
        // An extension has less than 64 KiB; the other parts have the same length in any message.
        padding(size - (padding(0).len() - 4))
    };
    // The announced length excludes the four bytes of the message's header.
    let largest = of_size(MAX_HELLO - 300);
    assert_eq!(name_in(&in_records(&largest, 1 << 14)).as_deref(), Some("a.example"));
    let announced = [&[1][..], &(MAX_HELLO as u32 + 1).to_be_bytes()[1..]].concat();
    assert!(matches!(read_of(&in_records(&announced, 10)).0, Err(HelloError::TooLarge)));
    let (result, read) = read_of(&in_records(&largest, 1));
    assert!(matches!(result, Err(HelloError::TooLarge)), "in records of a byte each");
    assert!(read.len() < MAX_READ + 8192, "{} bytes", read.len());
}

#[test]
fn a_client_that_ends_too_early_has_its_own_fault() {
    let hello = sent_by_rustls("db.example.com", &TLS13);
    for length in 0..hello.len() {
        assert!(matches!(read_of(&hello[..length]).0, Err(HelloError::Ended)), "{length}");
    }
}

proptest! {
    #[test]
    fn records_and_pieces_may_have_any_size(
        record in 1..2000_usize,
        pieces in prop::collection::vec(1..700_usize, 1..20),
        behind in prop::collection::vec(any::<u8>(), 0..50),
    ) {
        let mut message = message(&[extension(10, &[0; 1700]), server_name(b"db.example.com")].concat());
        let length = in_records(&message, record).len();
        message = [in_records(&message, record), behind].concat();
        let mut stream = Pieces { rest: &message, sizes: pieces.into_iter().cycle() };
        let mut read = Vec::new();
        let hello = read_client_hello(&mut stream, &mut read).now_or_never().unwrap().unwrap();
        prop_assert_eq!(hello.server_name.as_deref(), Some("db.example.com"));
        prop_assert!(read.len() >= length);
        prop_assert_eq!(&read[..], &message[..read.len()]);
    }

    #[test]
    fn no_input_causes_a_panic(at in 0..1800_usize, value in any::<u8>(), garbage in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut hello = sent_by_rustls("db.example.com", &TLS13);
        let at = at % hello.len();
        hello[at] = value;
        let _ = read_of(&hello);
        let _ = read_of(&in_records(&[&[1, 0, (garbage.len() >> 8) as u8, garbage.len() as u8][..], &garbage].concat(), 99));
    }
}

/// A stream that returns a limited number of bytes for each read.
struct Pieces<'a, I> {
    rest: &'a [u8],
    sizes: I,
}

impl<I: Iterator<Item = usize> + Unpin> AsyncRead for Pieces<'_, I> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let size = self.sizes.next().unwrap().min(buffer.remaining()).min(self.rest.len());
        let (piece, rest) = self.rest.split_at(size);
        buffer.put_slice(piece);
        self.rest = rest;
        Poll::Ready(Ok(()))
    }
}

#[test]
fn only_received_bytes_take_memory() {
    for length in [300, 1700, 20_000, 60_000] {
        let hello = in_records(&message(&extension(21, &vec![0; length])), 1000);
        let (mut near, mut far) = duplex(1 << 20);
        let (mut read, mut rooms) = (Vec::new(), Vec::new());
        far.write_all(&hello[..hello.len() - 1]).now_or_never().unwrap().unwrap();
        let grow = |room| {
            rooms.push(room);
            Ok(())
        };
        assert!(
            read_client_hello_with(&mut near, &mut read, grow).now_or_never().is_none(),
            "the last byte is missing"
        );
        let last = *rooms.last().unwrap();
        assert!(
            read.capacity() <= last && last <= 2 * hello.len(),
            "{} of {}: {rooms:?}",
            read.capacity(),
            hello.len()
        );
        assert_eq!(read, hello[..hello.len() - 1]);
    }
}

#[test]
fn reading_ends_when_no_memory_is_left() {
    let hello = in_records(&message(&extension(21, &[0; 20_000])), 1000);
    let grow = |room| if room > 8192 { Err(MemoryFull) } else { Ok(()) };
    let mut read = Vec::new();
    let result = read_client_hello_with(&mut &hello[..], &mut read, grow).now_or_never().unwrap();
    assert!(matches!(result, Err(HelloError::MemoryFull(MemoryFull))), "{result:?}");
    assert!(read.capacity() <= 8192);
}
