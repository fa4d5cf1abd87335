//! Parsers of untrusted bytes, for `fuzz/`.

use rustls::pki_types::CertificateDer;

use super::tls::Identity;
pub use super::{stream::prefixed_io::PrefixedIo, tls::read_client_hello};
pub use crate::printable::{is_visible, printable};

/// The identity that logs and metrics show for a client's certificate.
pub fn identify(der: &[u8]) -> Option<Identity> {
    Identity::of(&CertificateDer::from(der))
}
