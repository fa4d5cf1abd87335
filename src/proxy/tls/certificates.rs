use std::{cell::Cell, collections::HashMap, fmt, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{
    NamedGroup, SignatureScheme,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use crate::model::{Certificate, server_name};

thread_local! {
    static REQUESTED_NAME: Cell<Option<Box<str>>> = const { Cell::new(None) };
}

/// The normalized server name in the ClientHello that was processed last on this thread. rustls does not provide it for
/// connections without buffers, but shows each ClientHello to the resolver.
pub(super) fn take_requested_name() -> Option<Box<str>> {
    REQUESTED_NAME.take()
}

/// Selects the certificate of a handshake by the requested server name: the exact name, else a wildcard for its first
/// label (RFC 6125 section 6.4), with a key that the client can verify. If no certificate matches, or there is no name,
/// the first one with such a key.
pub(super) struct CertificateResolver(ArcSwap<ByName>);

impl CertificateResolver {
    pub fn new(certificates: &[Arc<Certificate>]) -> Self {
        Self(ArcSwap::from_pointee(ByName::new(certificates)))
    }

    /// Selects by the server name and the verifiable keys of a ClientHello.
    pub fn choose(&self, name: Option<&str>, verifiable: VerifiableKeys) -> Option<Arc<CertifiedKey>> {
        self.0.load().choose(name, verifiable)
    }

    pub fn replace(&self, certificates: &[Arc<Certificate>]) {
        self.0.store(Arc::new(ByName::new(certificates)));
    }
}

impl ResolvesServerCert for CertificateResolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        REQUESTED_NAME.set(hello.server_name().and_then(server_name::normalized).map(Into::into));
        self.choose(hello.server_name(), VerifiableKeys::of(&hello))
    }
}

/// The keys whose signatures a client can verify.
#[derive(Clone, Copy)]
pub(super) struct VerifiableKeys<'a> {
    pub schemes: &'a [SignatureScheme],
    /// The curves of ECDSA keys. `None`: all curves that `schemes` allows.
    pub curves: Option<&'a [NamedGroup]>,
}

impl<'a> VerifiableKeys<'a> {
    fn of(hello: &'a ClientHello<'_>) -> Self {
        // The groups limit the curves of certificates only before TLS 1.3 (RFC 8422 section 5.1, RFC 8446 section
        // 4.2.7), which is used if the client offers it. rustls does not provide the offered versions, but TLS 1.3 has
        // cipher suites of its own.
        let offers_1_3 = hello.cipher_suites().iter().any(|suite| u16::from(*suite) >> 8 == 0x13);
        Self { schemes: hello.signature_schemes(), curves: hello.named_groups().filter(|_| !offers_1_3) }
    }

    fn include(self, key: &CertifiedKey) -> bool {
        let Some(signer) = key.key.choose_scheme(self.schemes) else { return false };
        let curve = match signer.scheme() {
            SignatureScheme::ECDSA_NISTP256_SHA256 => NamedGroup::secp256r1,
            SignatureScheme::ECDSA_NISTP384_SHA384 => NamedGroup::secp384r1,
            SignatureScheme::ECDSA_NISTP521_SHA512 => NamedGroup::secp521r1,
            _ => return true,
        };
        self.curves.is_none_or(|curves| curves.contains(&curve))
    }
}

impl fmt::Debug for CertificateResolver {
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

    fn choose(&self, name: Option<&str>, keys: VerifiableKeys) -> Option<Arc<CertifiedKey>> {
        let verifiable = |of: &'_ [Arc<CertifiedKey>]| of.iter().find(|key| keys.include(key)).cloned();
        let name = name.and_then(server_name::normalized);
        let exact = name.as_deref().map_or(&[][..], |name| self.named(name));
        if let Some(key) = verifiable(exact) {
            return Some(key);
        }
        let above = name.as_deref().and_then(|name| name.split_once('.'));
        let wildcard = above.map_or(&[][..], |(_, above)| self.named(&format!("*.{above}")));
        // If the client can verify none, rustls reports that to both sides.
        let of_the_name = || verifiable(wildcard).or_else(|| exact.first().or(wildcard.first()).cloned());
        of_the_name().or_else(|| verifiable(&self.all)).or_else(|| self.all.first().cloned())
    }

    fn named(&self, name: &str) -> &[Arc<CertifiedKey>] {
        self.names.get(name).map_or(&[], Vec::as_slice)
    }
}
