use std::{collections::HashMap, fmt, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{
    SignatureScheme,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use crate::model::Certificate;

/// Chooses the certificate of a handshake by the server name that the client asks for: one valid for exactly this name,
/// else for a wildcard over its first label, else the first of all. Of several, one with a key the client can verify.
pub(super) struct Certificates(ArcSwap<ByName>);

impl Certificates {
    pub fn new(certificates: &[Arc<Certificate>]) -> Self {
        Self(ArcSwap::from_pointee(ByName::new(certificates)))
    }

    pub fn replace(&self, certificates: &[Arc<Certificate>]) {
        self.0.store(Arc::new(ByName::new(certificates)));
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load().choose(hello.server_name(), hello.signature_schemes())
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.load().names.keys()).finish()
    }
}

/// Certificates in the order of the manifest.
#[derive(Default)]
struct ByName {
    /// By names in lower case, wildcards (`*.example.com`) among them.
    names: HashMap<Arc<str>, Vec<Arc<CertifiedKey>>>,
    all: Vec<Arc<CertifiedKey>>,
}

impl ByName {
    fn new(certificates: &[Arc<Certificate>]) -> Self {
        let mut by_name = Self::default();
        for certificate in certificates {
            by_name.all.push(Arc::clone(&certificate.key));
            for name in &certificate.names {
                by_name.names.entry(Arc::clone(name)).or_default().push(Arc::clone(&certificate.key));
            }
        }
        by_name
    }

    fn choose(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let candidates = name.and_then(|name| self.named(&name.to_ascii_lowercase())).unwrap_or(&self.all);
        let verifiable = candidates.iter().find(|key| key.key.choose_scheme(schemes).is_some());
        // With none that the client can verify, rustls says so to both sides.
        verifiable.or(candidates.first()).cloned()
    }

    fn named(&self, name: &str) -> Option<&Vec<Arc<CertifiedKey>>> {
        let wildcard = || self.names.get(format!("*.{}", name.split_once('.')?.1).as_str());
        self.names.get(name).or_else(wildcard)
    }
}
