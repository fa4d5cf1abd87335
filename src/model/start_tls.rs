use serde::Serialize;

/// A protocol of its own in front of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum StartTls {
    Postgres,
}
