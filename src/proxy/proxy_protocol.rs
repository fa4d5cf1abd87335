//! The PROXY protocol, versions 1 and 2: headers are read from trusted peers, sent to backends, and detected in the
//! first bytes of clients that may not send them.
//!
//! Source: [The PROXY protocol](https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt), sections 2.1 and 2.2.

mod checksum;
mod encode;
mod limits;
mod signature;
#[cfg(test)]
mod tests;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt};

pub use self::{
    encode::encode,
    limits::MAX_V1,
    signature::{Inspection, SignatureGuard},
};
use self::{
    limits::V2_FIXED,
    signature::{Match, Version},
};

/// The version and the command of a version 2 header that has no client.
const LOCAL: u8 = 0x20;

/// A PROXY header, and the bytes read behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// `None`: the connection is the peer's own (LOCAL), or the client has no TCP address (UNKNOWN, UNSPEC, UDP, Unix
    /// sockets).
    pub addresses: Option<ProxyAddresses>,
    /// Bytes of the client that were read with the header, to be replayed; at most 107, normally none.
    pub rest: Vec<u8>,
}

/// The addresses in a header. IPv4-mapped IPv6 addresses are converted to IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyAddresses {
    pub source: SocketAddr,
    pub destination: SocketAddr,
}

impl ProxyAddresses {
    fn new(source: (IpAddr, u16), destination: (IpAddr, u16)) -> Self {
        Self {
            source: SocketAddr::new(source.0.to_canonical(), source.1),
            destination: SocketAddr::new(destination.0.to_canonical(), destination.1),
        }
    }
}

/// The failure to read a header. The connection is unusable afterwards.
#[derive(Debug, Error)]
pub enum HeaderError {
    #[error("the first bytes are not a PROXY header")]
    NotAHeader,
    #[error("the PROXY header is longer than {limit} bytes")]
    TooLong { limit: usize },
    #[error("the PROXY header is malformed: {0}")]
    Malformed(&'static str),
    #[error("the connection ended before its PROXY header was complete")]
    Ended,
    #[error("cannot read the PROXY header")]
    Read(#[from] io::Error),
}

/// The longest version 2 header that is read, its additional fields included: far above the sizes seen in practice, far
/// below the 64 KiB that a peer could announce.
pub const MAX_V2: usize = 4096;

/// Reads a header and nothing else. The caller sets the deadline.
///
/// Usually two reads: the first 16 bytes of a version 2 header contain its length, so that nothing past it is read; the
/// end of a version 1 header can only be searched for, and bytes read past it are returned.
///
/// The parser is our own because existing ones either accept input that the specification forbids (any byte after
/// `PROXY`, signs and leading zeroes in ports, lines of any length), refuse input that it demands (LOCAL with an
/// unknown family), or need a header of any length in memory at once.
pub async fn read_header<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Header, HeaderError> {
    let mut input = Input { stream, bytes: [0; BUFFER], filled: 0 };
    match input.version().await? {
        Version::V1 => input.v1().await,
        Version::V2 => input.v2().await,
    }
}

/// Holds any version 1 header, and the addresses of any version 2 header with the additional fields of nearly all.
const BUFFER: usize = 256;

struct Input<'a, S> {
    stream: &'a mut S,
    bytes: [u8; BUFFER],
    filled: usize,
}

impl<S: AsyncRead + Unpin> Input<'_, S> {
    async fn version(&mut self) -> Result<Version, HeaderError> {
        loop {
            self.read_towards(V2_FIXED).await?;
            match signature::find(&self.bytes[..self.filled]) {
                Match::Complete(version) => return Ok(version),
                Match::Partial => {}
                Match::None => return Err(HeaderError::NotAHeader),
            }
        }
    }

    async fn v1(mut self) -> Result<Header, HeaderError> {
        loop {
            let read = &self.bytes[..self.filled];
            if let Some(end) = line_end(read)? {
                return Ok(Header { addresses: parse_v1(&read[..end - 2])?, rest: read[end..].to_vec() });
            }
            if self.filled == MAX_V1 {
                return Err(HeaderError::TooLong { limit: MAX_V1 });
            }
            self.read_towards(MAX_V1).await?;
        }
    }

    async fn v2(mut self) -> Result<Header, HeaderError> {
        self.fill(V2_FIXED).await?;
        let [.., command, family, high, low] = *self.bytes.first_chunk::<V2_FIXED>().expect("the buffer is longer");
        let length = V2_FIXED + usize::from(u16::from_be_bytes([high, low]));
        if length > MAX_V2 {
            return Err(HeaderError::TooLong { limit: MAX_V2 });
        }
        self.fill(length.min(BUFFER)).await?;
        let addresses = parse_v2(command, family, &self.bytes[V2_FIXED..self.filled])?;
        let is_wrong = match length > BUFFER {
            true => checksum::is_wrong(&self.longer(length).await?),
            false => checksum::is_wrong(&self.bytes[..length]),
        };
        // The additional fields of LOCAL are not interpreted.
        if is_wrong && command != LOCAL {
            return Err(HeaderError::Malformed("its checksum (PP2_TYPE_CRC32C) does not match"));
        }
        Ok(Header { addresses, rest: Vec::new() })
    }

    /// Reads a header of this length, which exceeds the buffer.
    async fn longer(&mut self, length: usize) -> Result<Vec<u8>, HeaderError> {
        let mut header = self.bytes[..self.filled].to_vec();
        while header.len() < length {
            self.filled = 0;
            self.read_towards((length - header.len()).min(BUFFER)).await?;
            header.extend_from_slice(&self.bytes[..self.filled]);
        }
        Ok(header)
    }

    async fn fill(&mut self, end: usize) -> Result<(), HeaderError> {
        while self.filled < end {
            self.read_towards(end).await?;
        }
        Ok(())
    }

    /// Reads once, up to `end`.
    async fn read_towards(&mut self, end: usize) -> Result<(), HeaderError> {
        match self.stream.read(&mut self.bytes[self.filled..end]).await? {
            0 => Err(HeaderError::Ended),
            read => {
                self.filled += read;
                Ok(())
            }
        }
    }
}

/// The end of the line, its CRLF included; `None`: not received yet.
fn line_end(bytes: &[u8]) -> Result<Option<usize>, HeaderError> {
    let Some(at) = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else { return Ok(None) };
    match bytes[at..] {
        [b'\r', b'\n', ..] => Ok(Some(at + 2)),
        [b'\r'] => Ok(None),
        _ => Err(HeaderError::Malformed("the line does not end with CRLF")),
    }
}

fn parse_v1(line: &[u8]) -> Result<Option<ProxyAddresses>, HeaderError> {
    // Everything after UNKNOWN must be ignored, text or not.
    if line == b"PROXY UNKNOWN" || line.starts_with(b"PROXY UNKNOWN ") {
        return Ok(None);
    }
    let line = str::from_utf8(line).map_err(|_| HeaderError::Malformed("it is not ASCII"))?;
    let mut fields = line.split(' ').skip(1);
    match fields.next() {
        Some("TCP4") => addresses_v1::<Ipv4Addr>(fields),
        Some("TCP6") => addresses_v1::<Ipv6Addr>(fields),
        _ => return Err(HeaderError::Malformed("the protocol is not TCP4, TCP6 or UNKNOWN")),
    }
    .map(Some)
    .ok_or(HeaderError::Malformed("expected two addresses of its family and two ports"))
}

fn addresses_v1<'a, A: FromStr + Into<IpAddr>>(mut fields: impl Iterator<Item = &'a str>) -> Option<ProxyAddresses> {
    let mut address = || fields.next()?.parse::<A>().ok().map(Into::into);
    let (source, destination) = (address()?, address()?);
    let mut port = || fields.next().and_then(port_v1);
    let addresses = ProxyAddresses::new((source, port()?), (destination, port()?));
    fields.next().is_none().then_some(addresses)
}

/// Parses a port without signs and leading zeroes, which `u16::from_str` accepts.
fn port_v1(field: &str) -> Option<u16> {
    if field != "0" && field.starts_with(['0', '+']) {
        return None;
    }
    field.parse().ok()
}

fn parse_v2(command: u8, family: u8, block: &[u8]) -> Result<Option<ProxyAddresses>, HeaderError> {
    match command {
        // LOCAL: family and block must be ignored.
        LOCAL => return Ok(None),
        0x21 => {}
        _ => return Err(HeaderError::Malformed("unknown version or command")),
    }
    match (family >> 4, family & 0xf) {
        (1, 1) => addresses_v2::<4>(block).map(Some),
        (2, 1) => addresses_v2::<16>(block).map(Some),
        (0..=3, 0..=2) => Some(None),
        _ => return Err(HeaderError::Malformed("unknown address family or protocol")),
    }
    .ok_or(HeaderError::Malformed("too short for its addresses"))
}

fn addresses_v2<const N: usize>(block: &[u8]) -> Option<ProxyAddresses>
where
    IpAddr: From<[u8; N]>,
{
    let (source, block) = block.split_first_chunk::<N>()?;
    let (destination, block) = block.split_first_chunk::<N>()?;
    let (source_port, block) = block.split_first_chunk()?;
    let (destination_port, _additional) = block.split_first_chunk()?;
    Some(ProxyAddresses::new(
        (IpAddr::from(*source), u16::from_be_bytes(*source_port)),
        (IpAddr::from(*destination), u16::from_be_bytes(*destination_port)),
    ))
}
