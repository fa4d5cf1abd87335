use std::{fmt, sync::Arc};

use imbl::OrdMap;

use super::{
    certificate::{Certificate, Fingerprint},
    trust::Authority,
};

/// The results of reading certificates and revocation lists, valid or not, by source and text. Reading and verification
/// take CPU time that all tenants share, so unchanged texts are not processed again.
#[derive(Clone, Default)]
pub struct CertificateCache {
    pub certificates: OrdMap<(Arc<str>, Fingerprint), Result<Arc<Certificate>, String>>,
    pub authorities: OrdMap<(Arc<str>, Fingerprint), Result<Arc<Authority>, String>>,
    /// The results of verifying the signatures of revocation lists, by a digest of key and list.
    pub signatures: OrdMap<Fingerprint, bool>,
    /// The results of comparing the authorities of one field with each other, by a digest of the authorities.
    pub reviews: OrdMap<Fingerprint, Arc<AuthorityReview>>,
}

/// The problems of several authorities in combination.
#[derive(Default)]
pub struct AuthorityReview {
    pub refused: Option<String>,
    pub warnings: Vec<String>,
}

impl CertificateCache {
    /// The number of results.
    pub fn len(&self) -> usize {
        self.certificates.len() + self.authorities.len() + self.signatures.len() + self.reviews.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

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
