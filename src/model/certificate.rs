use std::{fmt, sync::Arc};

use jiff::Timestamp;
use rustls::sign::CertifiedKey;
use serde::{Serialize, Serializer, ser::SerializeStruct};

/// A SHA-256 digest of the PEM text of a certificate chain and its key.
pub type Fingerprint = [u8; 32];

/// A certificate chain with its key, ready for use in handshakes.
#[derive(Clone)]
pub struct Certificate {
    /// The origin for messages: `Secret shop/pg-tls`, or the file.
    pub source: Arc<str>,
    /// Identifies the certificate, so that an unchanged one is reused without parsing.
    pub fingerprint: Fingerprint,
    /// The DNS names and wildcards for which it is valid, in lower case.
    pub names: Vec<Arc<str>>,
    /// The start and the end of its validity.
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    pub key: Arc<CertifiedKey>,
}

impl Serialize for Certificate {
    /// Omits the key and everything derived from it.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut certificate = serializer.serialize_struct("Certificate", 4)?;
        certificate.serialize_field("source", &self.source)?;
        certificate.serialize_field("names", &self.names)?;
        certificate.serialize_field("notBefore", &self.not_before)?;
        certificate.serialize_field("notAfter", &self.not_after)?;
        certificate.end()
    }
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint && self.source == other.source
    }
}

impl Eq for Certificate {}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("source", &self.source)
            .field("names", &self.names)
            .field("not_before", &self.not_before)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}
