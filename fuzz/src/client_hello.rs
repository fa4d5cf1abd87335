use std::io::Cursor;

use futures::FutureExt;
use rustls::server::Acceptor;
use tcplb::proxy::fuzzing::read_client_hello;

use crate::stream::Script;

/// The maximum number of bytes that are read for a ClientHello, plus one read.
const MAX_BUFFERED: usize = 80 * 1024;

/// ClientHellos: fragmentation has no effect, no byte is lost, buffers are bounded, and connections are routed by the
/// server name that rustls reads.
///
/// With an odd first byte, the others are the body of a ClientHello, which this function puts into records.
pub fn client_hello(data: &[u8]) {
    let Some((&seed, bytes)) = data.split_first() else { return };
    let records = if seed & 1 == 1 { in_records(bytes, 1 + usize::from(seed >> 1) * 40) } else { bytes.to_vec() };
    let whole = server_name(&records, usize::MAX);
    for size in [1 + usize::from(seed >> 1), 4096] {
        match (&whole, server_name(&records, size)) {
            (Some(whole), Some(in_pieces)) => assert_eq!(*whole, in_pieces),
            (None, None) => {}
            (whole, in_pieces) => panic!("the pieces matter: {whole:?} and {in_pieces:?}"),
        }
    }
    if let (Some(ours), Some(theirs)) = (whole, rustls_server_name(&records)) {
        let theirs = theirs.trim_end_matches('.').to_ascii_lowercase();
        assert_eq!(ours.as_deref(), Some(theirs.as_str()), "routed by another name than TLS sees");
    }
}

fn in_records(body: &[u8], size: usize) -> Vec<u8> {
    let body = &body[..body.len().min(60_000)];
    let length = |bytes: &[u8]| u16::try_from(bytes.len()).expect("at most 60,000 bytes").to_be_bytes();
    let message = [&[1, 0][..], &length(body), body].concat();
    message.chunks(size).flat_map(|part| [&[22, 3, 1][..], &length(part), part].concat()).collect()
}

/// `None`: not a complete, valid ClientHello.
fn server_name(bytes: &[u8], size: usize) -> Option<Option<Box<str>>> {
    let (mut stream, mut buffered) = (Script::new(bytes, &[size]), Vec::new());
    let hello = read_client_hello(&mut stream, &mut buffered).now_or_never().expect("the stream never waits");
    assert_eq!([&buffered, stream.unread].concat(), bytes, "bytes are lost");
    assert!(buffered.len() <= MAX_BUFFERED, "{} bytes are buffered", buffered.len());
    hello.ok().map(|hello| hello.server_name)
}

fn rustls_server_name(bytes: &[u8]) -> Option<String> {
    let (mut acceptor, mut unread) = (Acceptor::default(), Cursor::new(bytes));
    while acceptor.read_tls(&mut unread).ok()? > 0 {
        if let Some(accepted) = acceptor.accept().ok()? {
            return accepted.client_hello().server_name().map(str::to_owned);
        }
    }
    None
}
