use std::io;

use thiserror::Error;

/// The failure of a probe.
#[derive(Debug, Error)]
pub enum ProbeError {
    #[error(transparent)]
    Io(io::Error),
    /// The actual and the expected answer. Text of the endpoint is included only as
    /// [`printable`](super::words::printable) text.
    #[error("{0}")]
    Unexpected(String),
}

impl ProbeError {
    pub fn unexpected(sentence: impl Into<String>) -> Self {
        Self::Unexpected(sentence.into())
    }
}

impl From<io::Error> for ProbeError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::unexpected("closed the connection without an answer"),
            _ => Self::Io(error),
        }
    }
}
