//! The ClientHello, read without an answer.

use std::{
    future::poll_fn,
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Poll, ready},
};

use thiserror::Error;
use tokio::io::{AsyncRead, ReadBuf};

use crate::{
    model::server_name::{is_address, normalized},
    proxy::stream::handshake_memory::MemoryFull,
};

/// The largest ClientHello that is read, in bytes. One with a post-quantum key share has about 1,700.
const MAX_HELLO: usize = 64 * 1024;
/// The maximum number of bytes read: each record adds a header of five bytes.
const MAX_READ: usize = MAX_HELLO + 8 * 1024;

/// The fields of a ClientHello that routes use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello {
    /// [Normalized](crate::model::server_name). With Encrypted ClientHello, the name of the outer one.
    pub server_name: Option<Box<str>>,
}

#[derive(Debug, Error)]
pub enum HelloError {
    #[error("not a TLS ClientHello")]
    Invalid,
    #[error("the ClientHello is longer than {MAX_HELLO} bytes")]
    TooLarge,
    #[error("the client closed the connection before its ClientHello was complete")]
    Ended,
    #[error(transparent)]
    MemoryFull(#[from] MemoryFull),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads until a ClientHello is complete, in any number of records and reads. `read` gets every byte that was read,
/// including bytes behind the ClientHello and bytes that are not one.
///
/// # Errors
/// If the bytes are not a ClientHello (RFC 8446 section 4.1.2, RFC 5246 section 7.4.1.2) in TLS records (RFC 8446
/// section 5.1), if it is too large, or if the stream ends or fails first. Returns as soon as the error is certain.
pub async fn read_client_hello(
    stream: &mut (impl AsyncRead + Unpin),
    read: &mut Vec<u8>,
) -> Result<ClientHello, HelloError> {
    read_client_hello_with(stream, read, |_| Ok(())).await
}

/// Like [`read_client_hello`], and asks `grow` for permission before `read` gets more space.
pub async fn read_client_hello_with(
    stream: &mut (impl AsyncRead + Unpin),
    read: &mut Vec<u8>,
    mut grow: impl FnMut(usize) -> Result<(), MemoryFull>,
) -> Result<ClientHello, HelloError> {
    let mut records = Records::default();
    loop {
        records.take(read)?;
        if let Some(hello) = records.hello(read)? {
            return Ok(hello);
        }
        if read.len() >= MAX_READ {
            return Err(HelloError::TooLarge);
        }
        if read_some(stream, read, &mut grow).await? == 0 {
            return Err(HelloError::Ended);
        }
    }
}

/// Reads once. Allocates only for the bytes that have arrived.
async fn read_some(
    stream: &mut (impl AsyncRead + Unpin),
    read: &mut Vec<u8>,
    grow: &mut impl FnMut(usize) -> Result<(), MemoryFull>,
) -> Result<usize, HelloError> {
    poll_fn(|cx| {
        // Not a part of the future, so that a silent client holds no buffer.
        let mut bytes = [MaybeUninit::uninit(); 4096];
        let mut bytes = ReadBuf::uninit(&mut bytes);
        ready!(Pin::new(&mut *stream).poll_read(cx, &mut bytes))?;
        let needed = read.len() + bytes.filled().len();
        if needed > read.capacity() {
            let room = needed.max((2 * read.capacity()).min(MAX_READ));
            grow(room)?;
            read.reserve_exact(room - read.len());
        }
        read.extend_from_slice(bytes.filled());
        Poll::Ready(Ok(bytes.filled().len()))
    })
    .await
}

/// Content type, version, length.
const RECORD_HEADER: usize = 5;
/// Kind and length of a handshake message.
const MESSAGE_HEADER: usize = 4;

/// Follows a handshake message through records, without a copy of it.
#[derive(Debug, Default)]
struct Records {
    /// The number of bytes of the stream that are consumed: whole records.
    taken: usize,
    /// The number of bytes of the message in these records.
    length: usize,
    /// The first bytes of the message.
    header: [u8; MESSAGE_HEADER],
}

impl Records {
    /// Consumes the records that are complete so far.
    fn take(&mut self, read: &[u8]) -> Result<(), HelloError> {
        const HANDSHAKE: u8 = 22;
        const MAX_FRAGMENT: usize = 1 << 14;
        loop {
            let left = &read[self.taken..];
            // The first bytes show that this is not a handshake: do not wait for more.
            match left {
                [] => return Ok(()),
                [HANDSHAKE] | [HANDSHAKE, 3, ..] => {}
                _ => return Err(HelloError::Invalid),
            }
            let Some((header, rest)) = left.split_at_checked(RECORD_HEADER) else { return Ok(()) };
            let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
            if !(1..=MAX_FRAGMENT).contains(&length) {
                return Err(HelloError::Invalid);
            }
            let Some(fragment) = rest.get(..length) else { return Ok(()) };
            let received = self.length.min(MESSAGE_HEADER);
            self.header[received..].iter_mut().zip(fragment).for_each(|(byte, new)| *byte = *new);
            self.length += length;
            self.taken += RECORD_HEADER + length;
            if self.body_length()?.is_some_and(|body| self.length >= MESSAGE_HEADER + body) {
                return Ok(());
            }
        }
    }

    /// The ClientHello, once it is complete.
    fn hello(&self, read: &[u8]) -> Result<Option<ClientHello>, HelloError> {
        let Some(body) = self.body_length()? else { return Ok(None) };
        let message = MESSAGE_HEADER..MESSAGE_HEADER + body;
        if self.length < message.end {
            return Ok(None);
        }
        let hello = match read[RECORD_HEADER..self.taken].len() == self.length {
            true => parse(&read[RECORD_HEADER..][message]),
            // The message spans several records.
            false => parse(&fragments(&read[..self.taken]).concat()[message]),
        };
        hello.map(Some).ok_or(HelloError::Invalid)
    }

    /// The length of the message behind its header, once it is known.
    fn body_length(&self) -> Result<Option<usize>, HelloError> {
        const CLIENT_HELLO: u8 = 1;
        let [kind, high, middle, low] = self.header;
        if self.length > 0 && kind != CLIENT_HELLO {
            return Err(HelloError::Invalid);
        }
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        match self.length {
            ..MESSAGE_HEADER => Ok(None),
            _ if length > MAX_HELLO => Err(HelloError::TooLarge),
            _ => Ok(Some(length)),
        }
    }
}

/// The payload of complete records.
fn fragments(mut records: &[u8]) -> Vec<&[u8]> {
    let mut fragments = Vec::new();
    while let Some((header, rest)) = records.split_at_checked(RECORD_HEADER) {
        let (fragment, others) = rest.split_at(usize::from(u16::from_be_bytes([header[3], header[4]])));
        fragments.push(fragment);
        records = others;
    }
    fragments
}

/// `None`: the message is malformed.
fn parse(body: &[u8]) -> Option<ClientHello> {
    const VERSION_AND_RANDOM: usize = 2 + 32;
    const SERVER_NAME: u16 = 0;
    let mut body = Reader(body);
    body.bytes(VERSION_AND_RANDOM)?;
    let _session_id = body.short_vector()?;
    let _cipher_suites = body.vector()?;
    let _compression_methods = body.short_vector()?;
    if body.0.is_empty() {
        // A client of TLS 1.2 may have no extensions.
        return Some(ClientHello { server_name: None });
    }
    let mut extensions = Reader(body.vector()?);
    if !body.0.is_empty() {
        return None;
    }
    let mut server_name: Option<Option<Box<str>>> = None;
    while !extensions.0.is_empty() {
        let (kind, extension) = (extensions.u16()?, extensions.vector()?);
        // Each extension comes once.
        if kind == SERVER_NAME && server_name.replace(host_name(extension)?).is_some() {
            return None;
        }
    }
    Some(ClientHello { server_name: server_name.flatten() })
}

/// The name in a server_name extension (RFC 6066, section 3). An address counts as no name, and names of undefined
/// types are ignored.
fn host_name(extension: &[u8]) -> Option<Option<Box<str>>> {
    const HOST_NAME: u8 = 0;
    let mut extension = Reader(extension);
    let mut names = Reader(extension.vector()?);
    if names.bytes(1)? != [HOST_NAME] {
        return None;
    }
    let name = str::from_utf8(names.vector()?).ok()?;
    // Two names would be ambiguous.
    if names.0.first() == Some(&HOST_NAME) || !extension.0.is_empty() {
        return None;
    }
    match normalized(name) {
        Some(name) => Some(Some(name.into())),
        None => is_address(name).then_some(None),
    }
}

/// The unread bytes.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.bytes(2)?.try_into().ok().map(u16::from_be_bytes)
    }

    /// A vector with a length of one byte.
    fn short_vector(&mut self) -> Option<&'a [u8]> {
        let length = self.bytes(1)?[0];
        self.bytes(length.into())
    }

    /// A vector with a length of two bytes.
    fn vector(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.bytes(length.into())
    }
}

#[cfg(test)]
mod tests;
