use std::{collections::BTreeMap, fmt, sync::Arc};

use super::{
    certificate::{Certificate, Fingerprint},
    trust::Authority,
};

/// The results of reading certificates and lists of revoked ones, right or wrong, by source and text. They cost the time of
/// all tenants, so that what has not changed is not read or verified again.
#[derive(Clone, Default)]
pub struct CertificateCache {
    pub certificates: BTreeMap<(Arc<str>, Fingerprint), Result<Arc<Certificate>, String>>,
    pub authorities: BTreeMap<(Arc<str>, Fingerprint), Result<Arc<Authority>, String>>,
    /// Results of verifying the signatures of lists, by a digest of key and list.
    pub signatures: BTreeMap<Fingerprint, bool>,
    /// Results of comparing the authorities of one field with each other, by a digest of them.
    pub reviews: BTreeMap<Fingerprint, Arc<AuthorityReview>>,
}

/// Problems of several authorities together.
#[derive(Default)]
pub struct AuthorityReview {
    pub refused: Option<String>,
    pub warnings: Vec<String>,
}

impl CertificateCache {
    pub fn extend(&mut self, other: Self) {
        self.certificates.extend(other.certificates);
        self.authorities.extend(other.authorities);
        self.signatures.extend(other.signatures);
        self.reviews.extend(other.reviews);
    }
}

impl fmt::Debug for CertificateCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateCache").finish_non_exhaustive()
    }
}
