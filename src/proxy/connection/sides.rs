//! The two sides of a connection, each plain or with TLS.

use super::relay::Side;
use crate::{
    proxy::{
        stream::{Stream, prefixed_io::PrefixedIo, with_preamble::WithPreamble},
        tls::{ClientStream, ServerStream, TlsStream},
    },
    tcp::TcpSocket,
};

/// An admitted client. Its TLS, if any, is terminated here or passed through.
pub enum ClientConnection {
    Plain(PrefixedIo<Stream>),
    Tls(Box<TlsClient>),
}

/// A connection to an endpoint, ready for the client's bytes.
#[derive(Debug)]
pub enum BackendConnection {
    Plain(WithPreamble<Stream>),
    Tls(Box<TlsBackend>),
}

type TlsClient = ServerStream<PrefixedIo<Stream>>;
type TlsBackend = ClientStream<WithPreamble<Stream>>;

impl ClientConnection {
    /// The underlying TCP connection.
    pub fn stream(&mut self) -> &mut Stream {
        match self {
            Self::Plain(client) => client.stream(),
            Self::Tls(client) => client.stream(),
        }
    }
}

impl BackendConnection {
    /// The underlying TCP connection.
    pub fn stream(&mut self) -> &mut Stream {
        match self {
            Self::Plain(backend) => backend.stream(),
            Self::Tls(backend) => backend.stream(),
        }
    }
}

impl Side for Stream {
    fn stream(&mut self) -> &mut Stream {
        self
    }

    fn plain(&self) -> Option<&TcpSocket> {
        Some(self.tcp())
    }
}

impl Side for PrefixedIo<Stream> {
    fn stream(&mut self) -> &mut Stream {
        self.get_mut()
    }

    fn plain(&self) -> Option<&TcpSocket> {
        self.replayed_all().map(Stream::tcp)
    }
}

impl Side for WithPreamble<Stream> {
    fn stream(&mut self) -> &mut Stream {
        self.get_mut()
    }

    fn plain(&self) -> Option<&TcpSocket> {
        self.sent().map(Stream::tcp)
    }
}

impl Side for TlsBackend {
    fn stream(&mut self) -> &mut Stream {
        self.get_mut().get_mut()
    }

    fn plain(&self) -> Option<&TcpSocket> {
        None
    }

    fn announces_end(&self) -> bool {
        true
    }

    fn has_unsent(&self) -> bool {
        TlsStream::has_unsent(self)
    }

    fn held(&self) -> usize {
        TlsStream::held(self)
    }

    fn discard_held(&mut self) {
        TlsStream::discard_held(self);
    }
}

impl Side for TlsClient {
    fn stream(&mut self) -> &mut Stream {
        self.get_mut().get_mut()
    }

    fn plain(&self) -> Option<&TcpSocket> {
        None
    }

    fn announces_end(&self) -> bool {
        true
    }

    fn has_unsent(&self) -> bool {
        TlsStream::has_unsent(self)
    }

    fn held(&self) -> usize {
        TlsStream::held(self)
    }

    fn discard_held(&mut self) {
        TlsStream::discard_held(self);
    }
}
