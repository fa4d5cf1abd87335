//! The PostgreSQL request for TLS.

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{connection::ProbeConnection, failure::ProbeError, words::printable};

pub async fn ask_for_tls(connection: &mut ProbeConnection) -> Result<(), ProbeError> {
    match offer_tls(connection).await? {
        true => Ok(()),
        false => Err(ProbeError::unexpected("the server does not accept TLS, expected TLS")),
    }
}

/// Requests TLS. True if the server accepts.
pub async fn offer_tls(connection: &mut ProbeConnection) -> Result<bool, ProbeError> {
    let mut question = BytesMut::new();
    frontend::ssl_request(&mut question);
    connection.write_all(&question).await?;
    connection.flush().await?;
    // Exactly one byte: bytes behind it would count as encrypted.
    match connection.read_u8().await? {
        b'S' => Ok(true),
        b'N' => Ok(false),
        other => Err(ProbeError::unexpected(format!("answered `{}`, expected PostgreSQL", printable(&[other])))),
    }
}
