use tokio::io::{AsyncRead, AsyncWrite};

use crate::{proxy::stream::Stream, tcp::TcpSocket};

/// One side of a relayed connection.
pub trait Side: AsyncRead + AsyncWrite + Unpin {
    /// The TCP connection below.
    fn stream(&mut self) -> &mut Stream;

    /// The same, if bytes may be moved to and from it as they are.
    fn plain(&self) -> Option<&TcpSocket>;
}
