use thiserror::Error;

/// The reason for which a connection is refused.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Refusal {
    #[error("the listener has as many connections as maxConnections allows")]
    ListenerFull,
    #[error("the listener gets new connections faster than newConnections allows")]
    ListenerRate,
    #[error("the client's address is not allowed by the access lists")]
    Denied,
    #[error("the client's address has as many connections as maxConnectionsPerSource allows")]
    SourceFull,
    #[error("the client's address opens connections faster than newConnectionsPerSource allows")]
    SourceRate,
}
