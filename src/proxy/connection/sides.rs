//! The kinds of connections that the relay serves.

use tokio_rustls::server::TlsStream;

use super::{connect::TlsBackend, relay::Side};
use crate::{
    proxy::{
        stream::{Stream, prefixed_io::PrefixedIo, with_preamble::WithPreamble},
        tls::DeferredTickets,
    },
    tcp::TcpSocket,
};

pub type TlsClient = TlsStream<DeferredTickets<PrefixedIo<Stream>>>;

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
        self.get_mut().0.get_mut()
    }

    fn plain(&self) -> Option<&TcpSocket> {
        None
    }
}

impl Side for TlsClient {
    fn stream(&mut self) -> &mut Stream {
        self.get_mut().0.get_mut().get_mut()
    }

    fn plain(&self) -> Option<&TcpSocket> {
        None
    }
}
