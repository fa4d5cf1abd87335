use serde::Serialize;

/// A protocol that starts TLS within a plaintext connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum StartTls {
    Postgres,
}
