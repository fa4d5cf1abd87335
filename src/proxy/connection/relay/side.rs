use tokio::io::{AsyncRead, AsyncWrite};

use crate::{proxy::stream::Stream, tcp::TcpSocket};

/// One side of a relayed connection.
pub trait Side: AsyncRead + AsyncWrite + Unpin {
    /// The underlying TCP connection.
    fn stream(&mut self) -> &mut Stream;

    /// The underlying socket, if bytes may be moved to and from it unchanged.
    fn plain(&self) -> Option<&TcpSocket>;

    /// True if the peer announces its end, as TLS peers do (RFC 8446, section 6.1), so that a read never takes a broken
    /// connection for one that has ended.
    fn announces_end(&self) -> bool {
        false
    }

    /// True if bytes of an earlier write are still to be sent.
    fn has_unsent(&self) -> bool {
        false
    }

    /// The memory of bytes that were received or written and could not be passed on.
    fn held(&self) -> usize {
        0
    }

    /// Frees this memory. Nothing is read or written after that.
    fn discard_held(&mut self) {}
}
