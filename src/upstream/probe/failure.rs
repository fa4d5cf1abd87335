use std::io;

use thiserror::Error;

/// Why a probe failed.
#[derive(Debug, Error)]
pub enum Failure {
    #[error(transparent)]
    Io(io::Error),
    /// What came, and what was expected instead. What the endpoint said is in it only as [`printable`](super::words::printable) text.
    #[error("{0}")]
    Unexpected(String),
}

impl Failure {
    pub fn unexpected(sentence: impl Into<String>) -> Self {
        Self::Unexpected(sentence.into())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::unexpected("closed the connection without an answer"),
            _ => Self::Io(error),
        }
    }
}
