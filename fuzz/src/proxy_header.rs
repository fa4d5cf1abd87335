use std::net::SocketAddr;

use futures::FutureExt;
use proxy_header::ProxyHeader;
use tcplb::{
    model::ProxyVersion,
    proxy::proxy_protocol::{self, Inspection, MAX_V1, SignatureGuard},
};

use crate::stream::Script;

/// PROXY headers: fragmentation has no effect, no byte after a header is lost, the `proxy-header` crate reads the same
/// addresses, and encoded headers are read back. The guard against forged headers does not depend on fragmentation
/// either.
pub fn proxy_header(data: &[u8]) {
    let Some((&seed, bytes)) = data.split_first() else { return };
    let pieces = [1 + usize::from(seed & 15), 1 + usize::from(seed >> 4), 7];
    match (read(bytes, &[usize::MAX]), read(bytes, &pieces)) {
        (Some((addresses, payload)), Some(in_pieces)) => {
            assert_eq!((addresses, &payload), (in_pieces.0, &in_pieces.1));
            agrees_with_another_parser(bytes, addresses, bytes.len() - payload.len());
            for version in [ProxyVersion::V1, ProxyVersion::V2] {
                let Some((source, destination)) = addresses else { continue };
                let header = proxy_protocol::encode(version, source, destination, None);
                assert_eq!(read(&header, &[5]), Some((addresses, Vec::new())), "an encoded header is read differently");
            }
        }
        (None, None) => {}
        (whole, in_pieces) => panic!("the pieces matter: {whole:?} and {in_pieces:?}"),
    }
    let decision = inspect(bytes, &[usize::MAX]);
    assert_eq!(decision, inspect(bytes, &pieces));
    let is_signed = bytes.starts_with(b"PROXY ") || bytes.starts_with(b"\r\n\r\n\0\r\nQUIT\n");
    assert_eq!(is_signed, decision == Inspection::Forbidden);
}

type Addresses = Option<(SocketAddr, SocketAddr)>;

/// The announced addresses, and the payload after the header.
fn read(bytes: &[u8], sizes: &[usize]) -> Option<(Addresses, Vec<u8>)> {
    let mut stream = Script::new(bytes, sizes);
    let header = proxy_protocol::read_header(&mut stream).now_or_never().expect("the stream never waits").ok()?;
    assert!(header.rest.len() <= MAX_V1);
    let addresses = header.addresses.map(|addresses| (addresses.source, addresses.destination));
    Some((addresses, [&header.rest, stream.unread].concat()))
}

fn agrees_with_another_parser(bytes: &[u8], ours: Addresses, length: usize) {
    let Ok((header, their_length)) = ProxyHeader::parse(bytes, Default::default()) else { return };
    if let (Some(ours), Some(theirs)) = (ours, header.proxied_address()) {
        let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        assert_eq!((ours, length), ((canonical(theirs.source), canonical(theirs.destination)), their_length));
    }
}

fn inspect(mut bytes: &[u8], sizes: &[usize]) -> Inspection {
    let mut guard = SignatureGuard::new();
    for size in sizes.iter().cycle() {
        let (now, later) = bytes.split_at((*size).min(bytes.len()));
        bytes = later;
        match guard.inspect(now) {
            Inspection::Undecided if bytes.is_empty() => return Inspection::Undecided,
            Inspection::Undecided => {}
            decided => return decided,
        }
    }
    unreachable!("there is at least one size")
}
