use thiserror::Error;

/// The reason for which a connection is refused.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Refusal {
    #[error("the listener has reached maxConnections")]
    ListenerFull,
    #[error("the listener has reached the rate of newConnections")]
    ListenerRate,
    #[error("the access lists do not allow the client address")]
    Denied,
    #[error("the client address has reached maxConnectionsPerSource")]
    SourceFull,
    #[error("the client address has reached the rate of newConnectionsPerSource")]
    SourceRate,
}
