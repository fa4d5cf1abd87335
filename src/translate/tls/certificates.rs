//! Certificates and their keys, from Secrets and files. Nothing of a key's text is ever part of a message.

use std::{collections::BTreeMap, sync::Arc};

use aws_lc_rs::digest;
use jiff::Timestamp;
use rustls::{
    InconsistentKeys,
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::{CertificateDer, DnsName, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer},
    sign::CertifiedKey,
};
use x509_parser::{
    certificate::X509Certificate, extensions::GeneralName, prelude::FromDer, time::ASN1Time, x509::X509Version,
};

use super::pem::{Block, Label};
use crate::{
    api,
    model::{Certificate, CertificateCache, ClientValidation, Fingerprint, Snapshot, server_name},
    translate::{
        declaration::Declaration,
        field_errors::FieldPath,
        references::{FallbackText, Text, either},
        verdict::Reason,
    },
    world::{Referred, World},
};

/// Reads certificates, each distinct one once, right or wrong: what was read before with the same result is taken from
/// the snapshot before.
pub struct Certificates<'a> {
    pub world: &'a World,
    pub now: Timestamp,
    pub cache: CertificateCache,
    pub cache_before: &'a CertificateCache,
    /// Each a different one: lists of revoked certificates may be large.
    pub validations: Vec<Arc<ClientValidation>>,
}

impl<'a> Certificates<'a> {
    pub fn new(world: &'a World, previous: &'a Snapshot, now: Timestamp) -> Self {
        let listeners = previous.listeners.values().filter_map(|listener| listener.tls.as_ref());
        Self {
            world,
            now,
            cache: CertificateCache::default(),
            cache_before: &previous.certificate_cache,
            validations: listeners.filter_map(|tls| tls.client_validation.clone()).collect(),
        }
    }

    /// The certificates of a listener. One that is wrong stays as it was `before`, or is left out; the listener is
    /// refused only if none is left.
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
                        "{} is certificateRefs[{first}] already: leave it out; it is presented once",
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
            path.refuse("it is empty: write the name of a Secret of type kubernetes.io/tls, or two files");
        } else if certificates.is_empty() && all_checked() {
            path.refuse_for(Reason::InvalidCertificateRef, "none of its certificates can be presented");
        }
        certificates
    }

    /// A certificate, or the one of `before` that is from the same source.
    pub fn one(
        &mut self,
        reference: &api::CertificateRef,
        declaration: &Declaration,
        before: &[Arc<Certificate>],
        path: &mut FieldPath,
    ) -> Option<Arc<Certificate>> {
        let source = source(reference, declaration);
        let kept = before.iter().find(|certificate| *certificate.source == *source).cloned();
        let fallback = FallbackText { retained: "the one before is presented", dropped: "it is left out" };
        let certificate = declaration.read_or_last_good(reference.reference(), kept, fallback, path, || {
            let pair = self.pair(reference, declaration)?;
            let (source, fingerprint) = (Arc::from(source), pair.fingerprint());
            // The texts of files may move between names, which are said of what is wrong.
            let key = match &reference.files {
                Some(files) => (format!("{source} {}", files.key).into(), fingerprint),
                None => (Arc::clone(&source), fingerprint),
            };
            cached(&mut self.cache.certificates, &self.cache_before.certificates, key, || {
                pair.parse(source, fingerprint).map(Arc::new)
            })
        })?;
        warn_of_validity(&certificate, self.now, path);
        Some(certificate)
    }

    fn pair(&self, reference: &api::CertificateRef, declaration: &Declaration) -> Result<Pair<'a>, String> {
        let (name, files) =
            either(reference.reference(), ("files", reference.files.as_ref()), "a Secret", declaration)?;
        match (name, files) {
            (Some(secret), _) => self.secret(&secret),
            (None, Some(files)) => Ok(Pair {
                certificate: Text::of_file(&files.certificate, declaration.folder, self.world)?,
                key: Text::of_file(&files.key, declaration.folder, self.world)?,
            }),
            (None, None) => Err("it has neither name nor files: write the name of a Secret, or two files".into()),
        }
    }

    fn secret(&self, secret: &Referred) -> Result<Pair<'a>, String> {
        let text = |key: &str| {
            Text::of(secret, key, self.world)?.ok_or_else(|| {
                format!("{secret} has no {key}: a Secret of type kubernetes.io/tls has tls.crt and tls.key")
            })
        };
        Ok(Pair { certificate: text("tls.crt")?, key: text("tls.key")? })
    }
}

/// A reference before this one to the same certificate.
fn twin_before(
    before: &[api::CertificateRef],
    reference: &api::CertificateRef,
    declaration: &Declaration,
) -> Option<usize> {
    let own = source(reference, declaration);
    let names_one = |reference: &api::CertificateRef| reference.name.is_some() != reference.files.is_some();
    before.iter().position(|other| names_one(other) && names_one(reference) && source(other, declaration) == own)
}

/// Where a certificate comes from, for people, and by which the one before is found.
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
            format!("the certificate of {source} is not valid before {not_before}; it is presented all the same"),
        );
    }
}

/// The PEM texts of a certificate chain and its key.
struct Pair<'a> {
    certificate: Text<'a>,
    key: Text<'a>,
}

impl Pair<'_> {
    fn fingerprint(&self) -> Fingerprint {
        fingerprint([self.certificate.bytes, self.key.bytes])
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

    /// The certificates. Keys may be in the same text.
    fn chain(&self) -> Result<Vec<CertificateDer<'static>>, String> {
        let title = &self.certificate.title;
        let mut chain = Vec::new();
        for Block { label, line, der } in self.certificate.blocks()? {
            match label {
                Label::Certificate => chain.push(whole_certificate(der, line, title)?),
                Label::Crl => {
                    return Err(format!(
                        "{title} has a list of revoked certificates at line {line}, which is of no use there: take it out"
                    ));
                }
                Label::Pkcs8Key | Label::Pkcs1Key | Label::Sec1Key | Label::EncryptedKey | Label::Parameters => {}
            }
        }
        Ok(chain)
    }

    /// The only key. Its certificate may be in the same text.
    fn private_key(&self) -> Result<PrivateKeyDer<'static>, String> {
        let title = &self.key.title;
        let mut keys = Vec::new();
        for Block { label, line, der } in self.key.blocks()? {
            let key: PrivateKeyDer<'static> = match label {
                Label::Pkcs8Key => PrivatePkcs8KeyDer::from(der).into(),
                Label::Pkcs1Key => PrivatePkcs1KeyDer::from(der).into(),
                Label::Sec1Key => PrivateSec1KeyDer::from(der).into(),
                Label::EncryptedKey => {
                    return Err(format!(
                        "{title} has a private key at line {line} that is encrypted, so that it cannot be used: write it in \
                         the clear, as `openssl pkey` does"
                    ));
                }
                Label::Crl => {
                    return Err(format!(
                        "{title} has a list of revoked certificates at line {line}, which is of no use there: take it out"
                    ));
                }
                Label::Certificate | Label::Parameters => continue,
            };
            keys.push((line, key));
        }
        match &keys[..] {
            [] => Err(format!(
                "{title} has no private key that can be read: write a PEM text that begins with -----BEGIN PRIVATE KEY-----, \
                 not encrypted"
            )),
            [(_, key)] => Ok(key.clone_key()),
            [(first, _), (second, _), ..] => Err(format!(
                "{title} has more than one private key, at lines {first} and {second}: leave the one that the certificate was \
                 issued for"
            )),
        }
    }

    fn certified_key(&self, chain: Vec<CertificateDer<'static>>) -> Result<CertifiedKey, String> {
        // The library's errors are not shown: they may quote the text.
        let key = any_supported_type(&self.private_key()?).map_err(|_| {
            format!(
                "{} has a key of a kind that is not supported: use ECDSA, Ed25519, or RSA of 2048 bits or more",
                self.key.title
            )
        })?;
        let pair = CertifiedKey::new(chain, key);
        match pair.keys_match() {
            Ok(()) => Ok(pair),
            Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => Err(format!(
                "{} does not match {}: write the key that the certificate was issued for",
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
            "{} has a certificate that cannot be read: write the PEM text as the issuer gave it, or have it issued anew",
            self.certificate.title
        )
    }

    /// An X.509 certificate without extensions, which no verifier of today takes, of a server or of a client.
    fn old_certificate(&self, version: X509Version) -> String {
        format!(
            "{} has an X.509 certificate of version {}, which does not say what it is for: have one of version 3 issued; \
             that of a server with its names as subjectAltName",
            self.certificate.title,
            version.0.saturating_add(1)
        )
    }
}

/// A certificate, and nothing behind it.
pub(super) fn whole_certificate(der: Vec<u8>, line: usize, title: &str) -> Result<CertificateDer<'static>, String> {
    let is_whole = X509Certificate::from_der(&der).is_ok_and(|(rest, _)| rest.is_empty());
    is_whole.then(|| der.into()).ok_or_else(|| {
        format!(
            "{title} has a certificate that cannot be read, at line {line}: write the PEM text as the issuer gave it, or have \
             it issued anew"
        )
    })
}

/// The result for a key: that of this translation, that of the one before, or a new one.
pub(super) fn cached<K: Ord, T: Clone>(
    now: &mut BTreeMap<K, T>,
    before: &BTreeMap<K, T>,
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

/// What tells texts apart from others in their place.
pub(super) fn fingerprint(texts: [&[u8]; 2]) -> Fingerprint {
    let mut context = digest::Context::new(&digest::SHA256);
    for text in texts {
        // With its length, so that no byte can wander from one text to the other.
        context.update(&text.len().to_be_bytes());
        context.update(text);
    }
    let mut fingerprint = Fingerprint::default();
    fingerprint.copy_from_slice(context.finish().as_ref());
    fingerprint
}

pub(super) const WRITE_CERTIFICATE: &str = "write a PEM text that begins with -----BEGIN CERTIFICATE-----";

/// The DNS names and wildcards that a certificate is for. The common names of its subject count only if it says in no other
/// way which service it is of (RFC 6125, section 6.4.4).
fn names(certificate: &X509Certificate) -> Vec<Arc<str>> {
    /// `SRVName` (RFC 4985).
    const SRV_NAME: &str = "1.3.6.1.5.5.7.8.7";

    let alternatives = match certificate.subject_alternative_name() {
        Ok(alternatives) => alternatives.map_or(&[][..], |names| &names.value.general_names),
        Err(_) => return Vec::new(),
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

/// In the form in which names are compared. `None`: no client can ask for it.
fn dns_name(name: &str) -> Option<Arc<str>> {
    let name = server_name::normalized(name)?;
    let below = name.strip_prefix("*.").unwrap_or(&name);
    DnsName::try_from(below).ok().map(|_| name.as_ref().into())
}

/// RFC 5280 writes "never" as the last second of the year 9999, which is past the last timestamp.
pub(super) fn timestamp(time: ASN1Time) -> Timestamp {
    let nearest = if time.timestamp() < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::from_second(time.timestamp()).unwrap_or(nearest)
}
