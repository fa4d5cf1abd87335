use std::sync::Arc;

use rustls::{CertificateError, Error, OtherError, pki_types::CertificateDer};

/// The maximum number of certificates that a client may send: its own, the six intermediates that are verified at most,
/// and the root.
pub const MAX_CLIENT_CERTIFICATES: usize = 8;
/// The maximum size of these certificates together, in bytes. Chains have 1,000 to 10,000 bytes; with signatures that
/// resist quantum computers (ML-DSA), a certificate has up to 8,000. The TLS library keeps them while the connection is
/// open.
pub const MAX_CLIENT_CHAIN: usize = 32 << 10;

/// A client sent more certificates than it may.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "the client sent more than {MAX_CLIENT_CERTIFICATES} certificates or {MAX_CLIENT_CHAIN} bytes of them: configure \
     it to send only its own certificate and the intermediates"
)]
pub struct ClientChainTooLong;

/// Checks the length of a client's chain.
pub fn check_client_chain(own: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> Result<(), Error> {
    let bytes = others.iter().fold(own.len(), |bytes, certificate| bytes + certificate.len());
    if others.len() < MAX_CLIENT_CERTIFICATES && bytes <= MAX_CLIENT_CHAIN {
        return Ok(());
    }
    Err(CertificateError::Other(OtherError(Arc::new(ClientChainTooLong))).into())
}
