//! Certificates and private keys from Secrets and files. Messages never contain any part of a key.

use std::{collections::HashMap, sync::Arc};

use aws_lc_rs::digest;
use imbl::OrdMap;
use jiff::Timestamp;
use rustls::{
    InconsistentKeys,
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::{CertificateDer, DnsName, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer},
    sign::CertifiedKey,
};
use x509_parser::{
    certificate::X509Certificate,
    extensions::GeneralName,
    prelude::FromDer,
    time::ASN1Time,
    x509::{X509Name, X509Version},
};

use super::{
    pem::{Block, PemLabel},
    verifiers::{VerifierQuota, verifiers_in_use},
};
use crate::{
    api,
    model::{
        Certificate, CertificateCache, CertificateNames, Fingerprint, Listener, ObjectKey, SharedVerifiers,
        UpstreamConfig, server_name,
    },
    printable::quoted,
    translate::{
        context::TranslateContext,
        declaration::Declaration,
        field_errors::FieldPath,
        references::{ReferenceFallback, ReferencedText, object_or_files},
        verdict::Reason,
    },
    world::{ObjectRef, World},
};

/// The source of a certificate, with its file names, and the fingerprint of its text.
pub type CertificateKey = (Arc<str>, Fingerprint);

/// Reads each distinct certificate once. Results of the previous translation are reused from its snapshot.
pub struct CertificateLoader<'a> {
    pub world: &'a World,
    pub now: Timestamp,
    pub cache: CertificateCache,
    pub cache_before: &'a CertificateCache,
    /// The certificates of the current load balancer.
    pub used: Vec<CertificateKey>,
    /// The verifiers of the previous translation, and those of last good configurations.
    pub verifiers_before: SharedVerifiers,
    pub verifier_quota: VerifierQuota,
    /// Digests by the addresses and lengths of texts in `world`.
    fingerprints: HashMap<[(usize, usize); 2], Fingerprint>,
}

impl<'a> CertificateLoader<'a> {
    /// `listeners` and `upstreams` are those of the previous snapshot whose load balancers are translated.
    pub fn new(
        TranslateContext { world, previous, now, .. }: &TranslateContext<'a>,
        listeners: impl Iterator<Item = &'a Arc<Listener>>,
        upstreams: impl Iterator<Item = (&'a ObjectKey, &'a Arc<UpstreamConfig>)>,
    ) -> Self {
        let verifiers_before = verifiers_in_use(&previous.certificate_cache, listeners, upstreams);
        Self {
            world,
            now: *now,
            cache: CertificateCache::default(),
            cache_before: &previous.certificate_cache,
            used: Vec::new(),
            verifier_quota: VerifierQuota::of(verifiers_before.keys()),
            verifiers_before,
            fingerprints: HashMap::new(),
        }
    }

    /// Reads the certificates of a listener. An invalid one falls back to its last good content, or is dropped; the
    /// listener is refused only if none is left.
    pub fn translate(
        &mut self,
        declared: &api::ListenerTls,
        declaration: &Declaration,
        before: &[Arc<Certificate>],
        path: &mut FieldPath,
    ) -> Vec<Arc<Certificate>> {
        let mut path = path.at("certificateRefs");
        let mut certificates = Vec::new();
        for (index, reference) in declared.certificate_refs.iter().enumerate() {
            let mut path = path.item(index);
            if let Some(first) = twin_before(&declared.certificate_refs[..index], reference, declaration) {
                path.drop_item(
                    Reason::InvalidCertificateRef,
                    format!(
                        "{} is a duplicate of certificateRefs[{first}]: remove it; it is presented once",
                        source(reference, declaration)
                    ),
                );
                continue;
            }
            certificates.extend(self.one(reference, declaration, before, &mut path));
        }
        let all_checked = || {
            let mut references = declared.certificate_refs.iter();
            references.all(|one| declaration.unchecked(one.reference()).is_none())
        };
        if declared.certificate_refs.is_empty() {
            path.refuse("must not be empty: write the name of a Secret of type kubernetes.io/tls, or two files");
        } else if certificates.is_empty() && all_checked() {
            path.refuse_for(Reason::InvalidCertificateRef, "none of the certificates is usable");
        }
        certificates
    }

    /// Reads a certificate. An invalid one falls back to the one in `before` from the same source.
    pub fn one(
        &mut self,
        reference: &api::CertificateRef,
        declaration: &Declaration,
        before: &[Arc<Certificate>],
        path: &mut FieldPath,
    ) -> Option<Arc<Certificate>> {
        let source = source(reference, declaration);
        let fallback = ReferenceFallback {
            value: before.iter().find(|certificate| *certificate.source == *source).cloned(),
            retained: "the previous one stays in use",
            dropped: "it is ignored",
        };
        let certificate = declaration.read_or_last_good(reference.reference(), fallback, path, || {
            let pair = self.pair(reference, declaration)?;
            let (source, fingerprint) = (Arc::from(source), self.fingerprint(pair.bytes()));
            // Messages name the files, so the key does too.
            let key: CertificateKey = match &reference.files {
                Some(files) => (format!("{source} {}", files.key).into(), fingerprint),
                None => (Arc::clone(&source), fingerprint),
            };
            self.used.push(key.clone());
            cached(&mut self.cache.certificates, &self.cache_before.certificates, key, || {
                pair.parse(source, fingerprint).map(Arc::new)
            })
        })?;
        warn_of_validity(&certificate, self.now, path);
        Some(certificate)
    }

    /// Digest of two texts. Each pair is read once, however many references it has.
    pub fn fingerprint(&mut self, texts: [&'a [u8]; 2]) -> Fingerprint {
        let key = texts.map(|text| (text.as_ptr().addr(), text.len()));
        *self.fingerprints.entry(key).or_insert_with(|| fingerprint(texts))
    }

    fn pair(&self, reference: &api::CertificateRef, declaration: &Declaration) -> Result<PemTexts<'a>, String> {
        let (name, files) =
            object_or_files(reference.reference(), ("files", reference.files.as_ref()), "a Secret", declaration)?;
        match (name, files) {
            (Some(secret), _) => self.secret(&secret),
            (None, Some(files)) => Ok(PemTexts {
                certificate: ReferencedText::of_file(&files.certificate, declaration.folder, self.world)?,
                key: ReferencedText::of_file(&files.key, declaration.folder, self.world)?,
            }),
            (None, None) => Err("neither name nor files is set: write the name of a Secret, or two files".into()),
        }
    }

    fn secret(&self, secret: &ObjectRef) -> Result<PemTexts<'a>, String> {
        let text = |key: &str| {
            ReferencedText::of(secret, key, self.world)?.ok_or_else(|| {
                format!("{secret} has no {key}: a Secret of type kubernetes.io/tls has tls.crt and tls.key")
            })
        };
        Ok(PemTexts { certificate: text("tls.crt")?, key: text("tls.key")? })
    }
}

/// The index of an earlier reference to the same certificate.
fn twin_before(
    before: &[api::CertificateRef],
    reference: &api::CertificateRef,
    declaration: &Declaration,
) -> Option<usize> {
    let own = source(reference, declaration);
    let names_one = |reference: &api::CertificateRef| reference.name.is_some() != reference.files.is_some();
    before.iter().position(|other| names_one(other) && names_one(reference) && source(other, declaration) == own)
}

/// Source of a certificate, for messages and to find the last good one.
fn source(reference: &api::CertificateRef, declaration: &Declaration) -> String {
    match (&reference.name, &reference.files) {
        (Some(name), _) => format!("Secret {}/{name}", declaration.object.namespace),
        (None, Some(files)) => declaration.folder.join(&files.certificate).display().to_string(),
        (None, None) => String::new(),
    }
}

fn warn_of_validity(certificate: &Certificate, now: Timestamp, path: &mut FieldPath) {
    let Certificate { source, not_before, not_after, .. } = certificate;
    if now > *not_after {
        path.warn(
            Reason::CertificateExpired,
            format!("the certificate of {source} expired on {not_after}: replace it; it is still presented"),
        );
    } else if now < *not_before {
        path.warn(
            Reason::InvalidCertificateRef,
            format!("the certificate of {source} is not valid before {not_before}; it is presented anyway"),
        );
    }
}

/// PEM texts of a certificate chain and its key.
struct PemTexts<'a> {
    certificate: ReferencedText<'a>,
    key: ReferencedText<'a>,
}

impl<'a> PemTexts<'a> {
    fn bytes(&self) -> [&'a [u8]; 2] {
        [self.certificate.bytes, self.key.bytes]
    }

    fn parse(&self, source: Arc<str>, fingerprint: Fingerprint) -> Result<Certificate, String> {
        let chain = self.chain()?;
        let leaf = chain.first().ok_or_else(|| self.no_certificate())?;
        let (_, leaf) = X509Certificate::from_der(leaf).map_err(|_| self.unreadable_certificate())?;
        if leaf.version() != X509Version::V3 {
            return Err(self.old_certificate(leaf.version()));
        }
        let (names, validity) = (names(&leaf), leaf.validity());
        let (not_before, not_after) = (timestamp(validity.not_before), timestamp(validity.not_after));
        let key = Arc::new(self.certified_key(chain.clone())?);
        Ok(Certificate { source, fingerprint, names, not_before, not_after, key })
    }

    /// Parses the certificates. The text may contain keys too.
    fn chain(&self) -> Result<Vec<CertificateDer<'static>>, String> {
        let title = &self.certificate.title;
        let mut chain = Vec::new();
        for Block { label, line, der } in self.certificate.blocks()? {
            match label {
                PemLabel::Certificate => chain.push(whole_certificate(der, line, title)?),
                PemLabel::Crl => {
                    return Err(format!(
                        "{title} has a revocation list at line {line}, which has no effect there: remove it"
                    ));
                }
                PemLabel::Pkcs8Key
                | PemLabel::Pkcs1Key
                | PemLabel::Sec1Key
                | PemLabel::EncryptedKey
                | PemLabel::Parameters => {}
            }
        }
        Ok(chain)
    }

    /// Parses the only key. The text may contain its certificate too.
    fn private_key(&self) -> Result<PrivateKeyDer<'static>, String> {
        let title = &self.key.title;
        let mut keys = Vec::new();
        for Block { label, line, der } in self.key.blocks()? {
            let key: PrivateKeyDer<'static> = match label {
                PemLabel::Pkcs8Key => PrivatePkcs8KeyDer::from(der).into(),
                PemLabel::Pkcs1Key => PrivatePkcs1KeyDer::from(der).into(),
                PemLabel::Sec1Key => PrivateSec1KeyDer::from(der).into(),
                PemLabel::EncryptedKey => {
                    return Err(format!(
                        "{title} has an encrypted private key at line {line}, which is not usable: decrypt it, for \
                         example with `openssl pkey`"
                    ));
                }
                PemLabel::Crl => {
                    return Err(format!(
                        "{title} has a revocation list at line {line}, which has no effect there: remove it"
                    ));
                }
                PemLabel::Certificate | PemLabel::Parameters => continue,
            };
            keys.push((line, key));
        }
        match &keys[..] {
            [] => Err(format!(
                "{title} has no readable private key: write an unencrypted PEM text that begins with -----BEGIN \
                 PRIVATE KEY-----"
            )),
            [(_, key)] => Ok(key.clone_key()),
            [(first, _), (second, _), ..] => Err(format!(
                "{title} has more than one private key, at lines {first} and {second}: keep only the key of the \
                 certificate"
            )),
        }
    }

    fn certified_key(&self, chain: Vec<CertificateDer<'static>>) -> Result<CertifiedKey, String> {
        // Errors of the library are not shown, since they may quote the text.
        let key = any_supported_type(&self.private_key()?).map_err(|_| {
            format!(
                "{} has a key of an unsupported type: use ECDSA, Ed25519, or RSA of 2048 bits or more",
                self.key.title
            )
        })?;
        let pair = CertifiedKey::new(chain, key);
        match pair.keys_match() {
            Ok(()) => Ok(pair),
            Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => Err(format!(
                "{} does not match {}: write the key of the certificate",
                self.key.title, self.certificate.title
            )),
            Err(_) => Err(self.unreadable_certificate()),
        }
    }

    fn no_certificate(&self) -> String {
        format!("{} has no certificate: {WRITE_CERTIFICATE}", self.certificate.title)
    }

    fn unreadable_certificate(&self) -> String {
        format!(
            "{} has an unreadable certificate: write the PEM text as issued, or have it reissued",
            self.certificate.title
        )
    }

    /// Message about an X.509 certificate without extensions, which current verifiers do not accept for servers or
    /// clients.
    fn old_certificate(&self, version: X509Version) -> String {
        format!(
            "{} has an X.509 certificate of version {}, which has no extensions for its purpose and names: have one of \
             version 3 issued, for a server with its names in subjectAltName",
            self.certificate.title,
            version.0.saturating_add(1)
        )
    }
}

/// A certificate without trailing bytes.
pub(super) fn whole_certificate(der: Vec<u8>, line: usize, title: &str) -> Result<CertificateDer<'static>, String> {
    let is_whole = X509Certificate::from_der(&der).is_ok_and(|(rest, _)| rest.is_empty());
    is_whole.then(|| der.into()).ok_or_else(|| {
        format!(
            "{title} has an unreadable certificate at line {line}: write the PEM text as issued, or have it reissued"
        )
    })
}

/// The cached value of a key: of this translation, of the previous one, or a new one.
pub(super) fn cached<K: Ord + Clone, T: Clone>(
    now: &mut OrdMap<K, T>,
    before: &OrdMap<K, T>,
    key: K,
    read: impl FnOnce() -> T,
) -> T {
    if let Some(known) = now.get(&key) {
        return known.clone();
    }
    let value = before.get(&key).cloned().unwrap_or_else(read);
    now.insert(key, value.clone());
    value
}

/// Digest that identifies the content of two texts.
pub(super) fn fingerprint(texts: [&[u8]; 2]) -> Fingerprint {
    let mut context = digest::Context::new(&digest::SHA256);
    for text in texts {
        // The length makes the boundary between the texts unambiguous.
        context.update(&text.len().to_be_bytes());
        context.update(text);
    }
    let mut fingerprint = Fingerprint::default();
    fingerprint.copy_from_slice(context.finish().as_ref());
    fingerprint
}

pub(super) const WRITE_CERTIFICATE: &str = "write a PEM text that begins with -----BEGIN CERTIFICATE-----";

/// DNS names and wildcards of a certificate. Common names of its subject count only if no alternative name identifies a
/// service (RFC 6125, section 6.4.4).
fn names(certificate: &X509Certificate) -> CertificateNames {
    /// `SRVName` (RFC 4985).
    const SRV_NAME: &str = "1.3.6.1.5.5.7.8.7";

    let alternatives = match certificate.subject_alternative_name() {
        Ok(alternatives) => alternatives.map_or(&[][..], |names| &names.value.general_names),
        Err(_) => return CertificateNames::default(),
    };
    let of_service = |name: &&GeneralName| match name {
        GeneralName::DNSName(_) | GeneralName::URI(_) => true,
        GeneralName::OtherName(kind, _) => kind.to_id_string() == SRV_NAME,
        _ => false,
    };
    if alternatives.iter().any(|name| of_service(&name)) {
        let dns_names = alternatives.iter().filter_map(|name| match name {
            GeneralName::DNSName(name) => dns_name(name),
            _ => None,
        });
        return dns_names.collect();
    }
    certificate.subject().iter_common_name().filter_map(|name| dns_name(name.as_str().ok()?)).collect()
}

/// Normalizes a name for comparison. `None`: no client can request it.
fn dns_name(name: &str) -> Option<Arc<str>> {
    let name = server_name::normalized(name)?;
    let below = name.strip_prefix("*.").unwrap_or(&name);
    DnsName::try_from(below).ok().map(|_| name.as_ref().into())
}

/// A distinguished name for a sentence. Without quotes, it could pass for other parts of a log line.
pub fn quoted_name(name: &X509Name<'_>) -> String {
    quoted(&name.to_string())
}

/// Converts a time. RFC 5280 writes "never" as the last second of the year 9999, which is past the last timestamp.
pub(super) fn timestamp(time: ASN1Time) -> Timestamp {
    let nearest = if time.timestamp() < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::from_second(time.timestamp()).unwrap_or(nearest)
}
