use std::{collections::HashSet, fmt, sync::Arc};

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
    pub names: CertificateNames,
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
        certificate.serialize_field("names", self.names.as_slice())?;
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
            .field("names", &self.names.as_slice())
            .field("not_before", &self.not_before)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// The names of a certificate, with a table that all its listeners share.
#[derive(Clone, Default)]
pub struct CertificateNames {
    /// In the order of the certificate.
    ordered: Box<[Arc<str>]>,
    table: HashSet<Arc<str>>,
}

impl CertificateNames {
    pub fn as_slice(&self) -> &[Arc<str>] {
        &self.ordered
    }

    /// True if `name` is one of the names, character by character: a wildcard only equals itself.
    pub fn contains(&self, name: &str) -> bool {
        self.table.contains(name)
    }
}

impl FromIterator<Arc<str>> for CertificateNames {
    fn from_iter<I: IntoIterator<Item = Arc<str>>>(names: I) -> Self {
        let ordered: Box<[Arc<str>]> = names.into_iter().collect();
        let table = ordered.iter().cloned().collect();
        Self { ordered, table }
    }
}
