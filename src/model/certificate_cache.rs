use std::{fmt, sync::Arc};

use imbl::OrdMap;
use rustls::client::danger::ServerCertVerifier;

use super::{
    certificate::{Certificate, Fingerprint},
    trust::{Authority, ClientValidation, ClientValidationMode},
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
    /// The verifiers of the last translation only, since they may be large.
    pub verifiers: SharedVerifiers,
}

/// The verifiers of a translation, shared by all listeners and backends with the same authorities: each holds a parsed
/// copy of their revocation lists.
#[derive(Clone, Default)]
pub struct SharedVerifiers {
    pub clients: OrdMap<VerifierKey, Result<Arc<ClientValidation>, String>>,
    pub backends: OrdMap<VerifierKey, Result<Arc<dyn ServerCertVerifier>, String>>,
}

/// The properties of a verifier.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VerifierKey {
    /// The namespace of the load balancers that use it.
    pub namespace: Arc<str>,
    pub peer: VerifiedPeer,
    /// In order, without duplicates.
    pub authorities: Vec<Arc<Authority>>,
}

/// The owner of a verified certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum VerifiedPeer {
    Client(ClientValidationMode),
    Backend,
}

impl SharedVerifiers {
    pub fn keys(&self) -> impl Iterator<Item = &VerifierKey> {
        self.clients.keys().chain(self.backends.keys())
    }

    pub fn is_empty(&self) -> bool {
        self.clients.is_empty() && self.backends.is_empty()
    }
}

/// The problems of several authorities in combination.
#[derive(Default)]
pub struct AuthorityReview {
    pub refused: Option<String>,
    pub warnings: Vec<String>,
    /// The verified signatures, as in [`CertificateCache::signatures`].
    pub signatures: Vec<(Fingerprint, bool)>,
}

impl CertificateCache {
    /// The number of results, without verifiers.
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
        self.verifiers.clients.extend(other.verifiers.clients);
        self.verifiers.backends.extend(other.verifiers.backends);
    }
}

impl fmt::Debug for CertificateCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateCache").finish_non_exhaustive()
    }
}
