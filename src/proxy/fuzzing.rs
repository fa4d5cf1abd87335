//! Readers of foreign bytes, for `fuzz/`.

use rustls::pki_types::CertificateDer;

use super::tls::Identity;
pub use super::{prefixed::Prefixed, tls::read_client_hello};

/// The identity that logs and metrics show for a client's certificate.
pub fn identify(der: &[u8]) -> Option<Identity> {
    Identity::of(&CertificateDer::from(der))
}
