use std::{
    pin::Pin,
    task::{Context, Poll},
};

use futures::FutureExt;
use proptest::{collection::vec, prelude::*, sample::select};
use proxy_header::{ParseConfig, ProxiedAddress, ProxyHeader, Tlv};
use tokio::io::ReadBuf;

use super::*;
use crate::model::ProxyVersion;

/// A peer whose bytes arrive in these chunks, followed by the end of the stream.
struct Peer {
    bytes: Vec<u8>,
    /// The ends of chunks, sorted.
    splits: Vec<usize>,
    taken: usize,
    reads: usize,
}

impl Peer {
    fn sending(bytes: impl Into<Vec<u8>>) -> Self {
        Self { bytes: bytes.into(), splits: Vec::new(), taken: 0, reads: 0 }
    }

    fn split(mut self, splits: &[usize]) -> Self {
        self.splits = splits.to_vec();
        self.splits.sort_unstable();
        self
    }

    fn header(&mut self) -> Result<Header, HeaderError> {
        read_header(self).now_or_never().expect("this peer never keeps one waiting")
    }
}

impl AsyncRead for Peer {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let from = self.taken;
        let chunk_end = self.splits.iter().copied().find(|split| *split > from).unwrap_or(usize::MAX);
        let to = chunk_end.min(self.bytes.len()).min(from + buffer.remaining());
        buffer.put_slice(&self.bytes[from..to]);
        self.taken = to;
        self.reads += 1;
        Poll::Ready(Ok(()))
    }
}

fn addresses(source: &str, destination: &str) -> Option<ProxyAddresses> {
    Some(ProxyAddresses { source: source.parse().unwrap(), destination: destination.parse().unwrap() })
}

fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &length, block].concat()
}

#[test]
fn version_1_announces_the_addresses_of_its_line() {
    for (line, expected) in [
        ("PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n", addresses("192.168.0.1:56324", "192.168.0.11:443")),
        ("PROXY TCP4 1.1.1.1 2.2.2.2 0 65535\r\n", addresses("1.1.1.1:0", "2.2.2.2:65535")),
        ("PROXY TCP6 2001:db8::1 ::1 1 2\r\n", addresses("[2001:db8::1]:1", "[::1]:2")),
        ("PROXY TCP6 :: :: 1 1\r\n", addresses("[::]:1", "[::]:1")),
        (
            "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff FFFF:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
            addresses(
                "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
                "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
            ),
        ),
        ("PROXY TCP6 ::ffff:192.0.2.7 2001:db8::1 1 2\r\n", addresses("192.0.2.7:1", "[2001:db8::1]:2")),
        ("PROXY UNKNOWN\r\n", None),
        ("PROXY UNKNOWN anything at all\r\n", None),
    ] {
        let header = Peer::sending(line).header().unwrap_or_else(|error| panic!("{line:?}: {error}"));
        assert_eq!(header, Header { addresses: expected, rest: Vec::new() }, "{line:?}");
    }
    let unknown = [&b"PROXY UNKNOWN "[..], &[0xff; 91], b"\r\n"].concat();
    assert_eq!(unknown.len(), MAX_V1);
    assert_eq!(Peer::sending(unknown).header().unwrap().addresses, None);
}

#[test]
fn a_line_that_is_not_exactly_a_version_1_header_is_malformed() {
    for line in [
        "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\n",
        "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r \n",
        "PROXY UNKNOWN\n\r\n",
        "PROXY UNKNOWNX\r\n",
        "PROXY  TCP4 1.1.1.1 2.2.2.2 1 1\r\n",
        "PROXY TCP4  1.1.1.1 2.2.2.2 1 1\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 1 1 \r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 1\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 1 1 1\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 +1 1\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 01 1\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 1 65536\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 1 -1\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 1 \r\n",
        "PROXY TCP4 01.1.1.1 2.2.2.2 1 1\r\n",
        "PROXY TCP4 1.1.1 2.2.2.2 1 1\r\n",
        "PROXY TCP4 ::1 ::1 1 1\r\n",
        "PROXY TCP6 1.1.1.1 ::1 1 1\r\n",
        "PROXY TCP6 fe80::1%1 ::1 1 1\r\n",
        "PROXY tcp4 1.1.1.1 2.2.2.2 1 1\r\n",
        "PROXY UDP4 1.1.1.1 2.2.2.2 1 1\r\n",
        "PROXY \r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 1 \u{661}\r\n",
    ] {
        let error = Peer::sending(line).header().expect_err(line);
        assert!(matches!(error, HeaderError::Malformed(_)), "{line:?}: {error}");
    }
}

#[test]
fn a_line_may_not_be_longer_than_107_bytes() {
    let mut peer = Peer::sending([&b"PROXY UNKNOWN "[..], &[b'x'; 92], b"\r\n"].concat());
    assert!(matches!(peer.header(), Err(HeaderError::TooLong { limit: 107 })));
    assert_eq!(peer.taken, 107);
}

#[test]
fn version_2_announces_tcp_addresses_and_skips_the_rest() {
    let v4 = [192, 0, 2, 1, 198, 51, 100, 2, 0x1f, 0x90, 0x01, 0xbb];
    let mapped = "::ffff:192.0.2.1".parse::<Ipv6Addr>().unwrap().octets();
    let v6 = [&mapped[..], &[0; 15], &[1, 0x1f, 0x90, 0x01, 0xbb]].concat();
    let tcp4 = addresses("192.0.2.1:8080", "198.51.100.2:443");
    for (bytes, expected) in [
        (v2(0x21, 0x11, &v4), tcp4),
        (v2(0x21, 0x21, &v6), addresses("192.0.2.1:8080", "[::1]:443")),
        (v2(0x21, 0x11, &[&v4[..], &[4, 0, 0]].concat()), tcp4),
        (v2(0x21, 0x11, &[&v4[..], &[0xff; MAX_V2 - 16 - 12]].concat()), tcp4),
        (v2(0x20, 0x00, &[]), None),
        (v2(0x20, 0x11, &[]), None),
        (v2(0x20, 0xff, &v4), None),
        (v2(0x21, 0x00, &v4), None),
        (v2(0x21, 0x12, &v4), None),
        (v2(0x21, 0x22, &v6), None),
        (v2(0x21, 0x31, &[0; 216]), None),
        (v2(0x21, 0x31, &[0; 300]), None),
    ] {
        let length = bytes.len();
        let mut peer = Peer::sending([bytes.clone(), b"SSH-2.0".to_vec()].concat());
        assert_eq!(peer.header().unwrap(), Header { addresses: expected, rest: Vec::new() }, "{bytes:?}");
        assert_eq!(peer.taken, length, "nothing past the header is read");
    }
}

#[test]
fn a_version_2_header_against_the_specification_is_refused() {
    let v4 = [192, 0, 2, 1, 198, 51, 100, 2, 0x1f, 0x90, 0x01, 0xbb];
    for bytes in [
        v2(0x11, 0x11, &v4),
        v2(0x22, 0x11, &v4),
        v2(0x31, 0x11, &v4),
        v2(0x21, 0x13, &v4),
        v2(0x21, 0x41, &v4),
        v2(0x21, 0x11, &v4[..11]),
        v2(0x21, 0x21, &[0; 35]),
    ] {
        let error = Peer::sending(bytes.clone()).header().expect_err("malformed");
        assert!(matches!(error, HeaderError::Malformed(_)), "{bytes:?}: {error}");
    }
    let too_long = v2(0x21, 0x11, &[0; MAX_V2 - 15]);
    assert!(matches!(Peer::sending(too_long).header(), Err(HeaderError::TooLong { limit: MAX_V2 })));
}

#[test]
fn the_checksum_of_a_version_2_header_is_verified() {
    // The check value of CRC-32C: https://reveng.sourceforge.io/crc-catalogue/all.htm
    assert_eq!(checksum::crc32c(b"123456789"), 0xe306_9283);
    let v4 = [192, 0, 2, 1, 198, 51, 100, 2, 0x1f, 0x90, 0x01, 0xbb];
    // Before and after the checksum: a field of 2 bytes, and one that exceeds the buffer.
    let (before, long) = ([4_u8, 0, 2, 9, 9], [&[4_u8, 1, 0][..], &[0; 256]].concat());
    for (command, family, block) in [
        (0x21, 0x11, [&v4[..], &[3, 0, 4, 0, 0, 0, 0]].concat()),
        (0x21, 0x11, [&v4[..], &before, &[3, 0, 4, 0, 0, 0, 0], &long].concat()),
    ] {
        let mut header = v2(command, family, &block);
        let at = header.windows(3).position(|field| field == [3, 0, 4]).unwrap() + 3;
        let sum = checksum::crc32c(&header).to_be_bytes();
        header[at..at + 4].copy_from_slice(&sum);
        assert!(Peer::sending(header.clone()).header().is_ok());
        // Another source port, or another checksum.
        for changed in [24, at] {
            let mut wrong = header.clone();
            wrong[changed] ^= 1;
            let error = Peer::sending(wrong).header().expect_err("another header");
            assert!(error.to_string().ends_with("its checksum (PP2_TYPE_CRC32C) does not match"), "{error}");
        }
    }
    let without_client = v2(0x20, 0x00, &[3, 0, 4, 0, 0, 0, 0]);
    assert!(Peer::sending(without_client).header().is_ok(), "the fields of LOCAL are not interpreted");
    for field in [&[3, 0, 3, 0, 0, 0][..], &[3, 0, 5, 0, 0, 0, 0, 0], &[3, 0, 4, 0, 0]] {
        let header = v2(0x21, 0x11, &[&v4[..], field].concat());
        assert!(matches!(Peer::sending(header).header(), Err(HeaderError::Malformed(_))), "{field:?}");
    }
}

#[test]
fn bytes_that_begin_no_header_are_refused_at_once() {
    for bytes in ["G", "PROXYX", "\r\n\r\nQ", "proxy "] {
        // Reading one more byte would mean a wait; this peer ends instead, which would be another error.
        assert!(matches!(Peer::sending(bytes).header(), Err(HeaderError::NotAHeader)), "{bytes:?}");
    }
}

#[test]
fn a_header_that_arrives_whole_takes_two_reads() {
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        let header = encode(version, "192.0.2.1:1234".parse().unwrap(), "192.0.2.2:80".parse().unwrap(), None);
        let mut peer = Peer::sending(&*header);
        peer.header().unwrap();
        assert_eq!(peer.reads, 2, "{version:?}");
    }
}

#[test]
fn mapped_and_mixed_addresses_are_sent_in_one_family() {
    for (source, destination, line) in [
        ("192.0.2.1:1", "192.0.2.2:2", "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"),
        ("[::ffff:192.0.2.1]:1", "[::ffff:192.0.2.2]:2", "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"),
        ("[::ffff:192.0.2.1]:1", "192.0.2.2:2", "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"),
        ("[2001:db8::1]:1", "[fe80::2%3]:2", "PROXY TCP6 2001:db8::1 fe80::2 1 2\r\n"),
        ("192.0.2.1:1", "[2001:db8::2]:2", "PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 1 2\r\n"),
        ("[2001:db8::2]:1", "[::ffff:192.0.2.1]:2", "PROXY TCP6 2001:db8::2 ::ffff:192.0.2.1 1 2\r\n"),
    ] {
        let header = encode(ProxyVersion::V1, source.parse().unwrap(), destination.parse().unwrap(), None);
        assert_eq!(str::from_utf8(&header).unwrap(), line);
    }
}

#[test]
fn a_client_that_begins_a_signature_is_stopped_only_when_it_completes_it() {
    let mut guard = SignatureGuard::new();
    assert_eq!(guard.inspect(b"PROX"), Inspection::Undecided);
    assert_eq!(guard.inspect(b""), Inspection::Undecided);
    assert_eq!(guard.inspect(b"Y"), Inspection::Undecided);
    assert_eq!(guard.inspect(b" TCP4"), Inspection::Forbidden);
    assert_eq!(guard.inspect(b"x"), Inspection::Forbidden);

    let mut guard = SignatureGuard::new();
    assert_eq!(guard.inspect(b"\r\n"), Inspection::Undecided);
    assert_eq!(guard.inspect(b"hello"), Inspection::Clean);
    assert_eq!(guard.inspect(b"PROXY "), Inspection::Clean);
}

fn address() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        any::<([u8; 4], u16)>().prop_map(|(ip, port)| SocketAddr::from((ip, port))),
        any::<([u8; 16], u16)>().prop_map(|(ip, port)| SocketAddr::from((ip, port))),
        any::<([u8; 4], u16)>().prop_map(|(ip, port)| SocketAddr::from((Ipv4Addr::from(ip).to_ipv6_mapped(), port))),
    ]
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Headers of another implementation: addresses of one family or none, and additional fields.
fn valid_header() -> impl Strategy<Value = Vec<u8>> {
    let addresses = prop_oneof![
        any::<([u8; 4], u16, [u8; 4], u16)>().prop_map(|(s, sp, d, dp)| Some(((s, sp).into(), (d, dp).into()))),
        any::<([u8; 16], u16, [u8; 16], u16)>().prop_map(|(s, sp, d, dp)| Some(((s, sp).into(), (d, dp).into()))),
        Just(None),
    ];
    (addresses, any::<bool>(), vec(vec(any::<u8>(), 0..400), 0..4)).prop_map(|(addresses, first_version, fields)| {
        let address = addresses.map(|(source, destination)| ProxiedAddress::stream(source, destination));
        let mut bytes = Vec::new();
        if first_version {
            address.map_or_else(ProxyHeader::with_local, ProxyHeader::with_address).encode_v1(&mut bytes).unwrap();
        } else {
            let fields = fields.iter().map(|field| Tlv::Custom(0xe0, field.into()));
            ProxyHeader::with_tlvs(address, fields).encode_v2(&mut bytes).unwrap();
        }
        bytes
    })
}

proptest! {
    #[test]
    fn any_split_of_a_valid_header_reads_the_same(
        header in valid_header(),
        following in vec(any::<u8>(), 0..40),
        splits in vec(0..1700_usize, 0..20),
    ) {
        let bytes = [header.clone(), following.clone()].concat();
        let mut peer = Peer::sending(bytes.clone()).split(&splits);
        let read = peer.header().unwrap();

        let (expected, _) = ProxyHeader::parse(&header, ParseConfig::default()).unwrap();
        let expected = expected.proxied_address().map(|address| ProxyAddresses {
            source: canonical(address.source),
            destination: canonical(address.destination),
        });
        prop_assert_eq!(read.addresses, expected);
        prop_assert_eq!(peer.taken - read.rest.len(), header.len());
        prop_assert!(following.starts_with(&read.rest));
    }

    #[test]
    fn a_header_cut_short_is_never_complete(header in valid_header(), splits in vec(0..1700_usize, 0..20)) {
        for end in [0, 1, header.len() / 2, header.len() - 1] {
            let mut peer = Peer::sending(&header[..end]).split(&splits);
            prop_assert!(matches!(peer.header(), Err(HeaderError::Ended)));
        }
    }

    #[test]
    fn encoded_headers_are_read_back(
        source in address(),
        destination in address(),
        version in select(vec![ProxyVersion::V1, ProxyVersion::V2]),
    ) {
        let header = encode(version, source, destination, None);
        let read = Peer::sending(&*header).header().unwrap();
        let expected = ProxyAddresses { source: canonical(source), destination: canonical(destination) };
        prop_assert_eq!(read, Header { addresses: Some(expected), rest: Vec::new() });
    }

    #[test]
    fn the_bound_holds_for_any_input(
        start in select(vec![&b""[..], b"PROXY ", b"PROXY TCP4 ", b"PROXY UNKNOWN", b"\r\n\r\n\0\r\nQUIT\n\x21"]),
        bytes in vec(any::<u8>(), 0..6000),
        splits in vec(0..6000_usize, 0..20),
    ) {
        let mut peer = Peer::sending([start, &bytes].concat()).split(&splits);
        let read = peer.header();
        prop_assert!(peer.taken <= MAX_V2);
        if start.starts_with(b"P") {
            prop_assert!(peer.taken <= MAX_V1);
        }
        prop_assert!(read.is_err() || peer.taken > read.unwrap().rest.len());
    }

    #[test]
    fn a_guard_stops_exactly_the_streams_that_begin_with_a_signature(
        start in select(vec![&b""[..], b"PROXY ", b"PROXY", b"\r\n\r\n\0\r\nQUIT\n", b"\r\n\r\n\0\r\nQUIT"]),
        bytes in vec(any::<u8>(), 0..20),
        splits in vec(0..30_usize, 0..10),
    ) {
        let stream = [start, &bytes].concat();
        let mut splits = splits.into_iter().filter(|split| *split < stream.len()).collect::<Vec<_>>();
        splits.sort_unstable();
        splits.push(stream.len());

        let (mut guard, mut passed_on, mut verdict) = (SignatureGuard::new(), 0, Inspection::Undecided);
        for split in splits {
            if verdict == Inspection::Undecided {
                verdict = guard.inspect(&stream[passed_on..split]);
            }
            if verdict == Inspection::Forbidden {
                break;
            }
            passed_on = split;
        }

        let signature = [&b"PROXY "[..], b"\r\n\r\n\0\r\nQUIT\n"].into_iter().find(|s| stream.starts_with(s));
        prop_assert_eq!(verdict == Inspection::Forbidden, signature.is_some());
        match signature {
            Some(signature) => prop_assert!(passed_on < signature.len()),
            None => prop_assert_eq!(passed_on, stream.len()),
        }
    }
}
