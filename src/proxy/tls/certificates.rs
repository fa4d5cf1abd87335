use std::{cell::Cell, fmt, sync::Arc};

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
///
/// It has no table of names: the tables of the certificates are shared by all listeners.
pub(super) struct CertificateResolver(ArcSwap<Vec<Arc<Certificate>>>);

impl CertificateResolver {
    pub fn new(certificates: &[Arc<Certificate>]) -> Self {
        Self(ArcSwap::from_pointee(certificates.to_vec()))
    }

    /// Selects by the server name and the verifiable keys of a ClientHello.
    pub fn choose(&self, name: Option<&str>, verifiable: VerifiableKeys) -> Option<Arc<CertifiedKey>> {
        let certificates = self.0.load();
        let name = name.and_then(server_name::normalized);
        let above = name.as_deref().and_then(|name| name.split_once('.'));
        let wildcard = above.map(|(_, above)| format!("*.{above}"));
        // The lowest rank is preferred, and `false` is lower than `true`. If the client can verify no certificate for
        // the name, it gets one that it cannot verify, and rustls reports that to both sides.
        let rank = |certificate: &&Arc<Certificate>| {
            let has = |requested: &str| certificate.names.contains(requested);
            let is_exact = name.as_deref().is_some_and(has);
            let is_for_name = is_exact || wildcard.as_deref().is_some_and(has);
            (!is_for_name, !verifiable.include(&certificate.key), !is_exact)
        };
        certificates.iter().min_by_key(rank).map(|certificate| certificate.key.clone())
    }

    pub fn replace(&self, certificates: &[Arc<Certificate>]) {
        self.0.store(Arc::new(certificates.to_vec()));
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
        let certificates = self.0.load();
        f.debug_list().entries(certificates.iter().flat_map(|certificate| certificate.names.as_slice())).finish()
    }
}
