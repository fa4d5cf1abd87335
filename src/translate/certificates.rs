//! Certificates and their keys, from Secrets and files. Nothing of a key's text is ever part of a message.

use std::{collections::BTreeMap, sync::Arc};

use aws_lc_rs::digest;
use jiff::Timestamp;
use rustls::{
    InconsistentKeys,
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use x509_parser::{
    certificate::X509Certificate, extensions::GeneralName, prelude::FromDer, time::ASN1Time, x509::X509Version,
};

use super::{
    Reason,
    findings::Place,
    load_balancer::Declaration,
    referred::{Meanwhile, Text},
};
use crate::{
    api::{self, Reference},
    model::{Authority, Certificate, ClientValidation, Fingerprint, Snapshot},
    source::{Referred, Site, World},
};

/// Reads certificates, each distinct one once, right or wrong: an unchanged one is taken from the snapshot before.
pub(super) struct Certificates<'a> {
    pub world: &'a World,
    pub now: Timestamp,
    known: BTreeMap<(Arc<str>, Fingerprint), Result<Arc<Certificate>, String>>,
    pub authorities: BTreeMap<(Arc<str>, Fingerprint), Result<Arc<Authority>, String>>,
    /// Each a different one: lists of revoked certificates may be large.
    pub validations: Vec<Arc<ClientValidation>>,
}

impl<'a> Certificates<'a> {
    pub fn new(world: &'a World, previous: &Snapshot, now: Timestamp) -> Self {
        let clients = || previous.listeners.values().filter_map(|listener| listener.tls.as_ref());
        let backends = || {
            let backends = previous.upstreams.values().flat_map(|upstream| upstream.backends.values());
            backends.filter_map(|backend| Some(&backend.tls.as_ref()?.terms))
        };
        let presented = clients().flat_map(|tls| &tls.certificates);
        let presented = presented.chain(backends().filter_map(|terms| terms.certificate.as_ref()));
        let of_clients = clients().filter_map(|tls| tls.client_validation.as_ref());
        let authorities = of_clients.flat_map(|validation| &validation.authorities);
        let authorities = authorities.chain(backends().flat_map(|terms| terms.authorities.iter().flatten()));
        Self {
            world,
            now,
            known: presented.map(|one| ((one.source.clone(), one.fingerprint), Ok(one.clone()))).collect(),
            authorities: authorities.map(|one| ((one.source.clone(), one.fingerprint), Ok(one.clone()))).collect(),
            validations: clients().filter_map(|tls| tls.client_validation.clone()).collect(),
        }
    }

    /// The certificates of a listener. One that is wrong stays as it was `before`, or is left out; the listener is
    /// refused only if none is left.
    pub fn translate(
        &mut self,
        declared: &api::ListenerTls,
        declaration: &Declaration,
        before: &[Arc<Certificate>],
        place: &mut Place,
    ) -> Vec<Arc<Certificate>> {
        let mut place = place.at("certificateRefs");
        let mut certificates = Vec::new();
        for (index, reference) in declared.certificate_refs.iter().enumerate() {
            let mut place = place.item(index);
            if let Some(first) = twin_before(&declared.certificate_refs[..index], reference, declaration) {
                place.leave_out(
                    Reason::InvalidCertificateRef,
                    format!(
                        "{} is certificateRefs[{first}] already: leave it out; it is presented once",
                        source(reference, declaration)
                    ),
                );
                continue;
            }
            certificates.extend(self.one(reference, declaration, before, &mut place));
        }
        let all_judged = || {
            let mut references = declared.certificate_refs.iter();
            references.all(|one| declaration.is_judged_by_others(one.reference()).is_none())
        };
        if declared.certificate_refs.is_empty() {
            place.refuse("it is empty: write the name of a Secret of type kubernetes.io/tls, or two files");
        } else if certificates.is_empty() && all_judged() {
            place.refuse_for(Reason::InvalidCertificateRef, "none of its certificates can be presented");
        }
        certificates
    }

    /// A certificate, or the one of `before` that is from the same source.
    pub fn one(
        &mut self,
        reference: &api::CertificateRef,
        declaration: &Declaration,
        before: &[Arc<Certificate>],
        place: &mut Place,
    ) -> Option<Arc<Certificate>> {
        let source = source(reference, declaration);
        let kept = before.iter().find(|certificate| *certificate.source == *source).cloned();
        let meanwhile = Meanwhile { kept: "the one before is presented", left_out: "it is left out" };
        let certificate = declaration.read_or_keep(reference.reference(), kept, meanwhile, place, || {
            let pair = self.pair(reference, declaration)?;
            let (source, fingerprint) = (Arc::from(source), pair.fingerprint());
            let parse = || pair.parse(Arc::clone(&source), fingerprint).map(Arc::new);
            self.known.entry((source.clone(), fingerprint)).or_insert_with(parse).clone()
        })?;
        warn_of_validity(&certificate, self.now, place);
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

/// The object or the files that are referred to; where they may not be files, `instead` is what may be.
pub(super) fn either<'f, F>(
    reference: Option<Reference>,
    (field, files): (&str, Option<&'f F>),
    instead: &str,
    declaration: &Declaration,
) -> Result<(Option<Referred>, Option<&'f F>), String> {
    let is_standalone = declaration.surroundings.world.site == Site::Standalone;
    match (reference, files) {
        (Some(_), Some(_)) => Err(format!("it has both name and {field}: write one of them")),
        (None, Some(_)) if !is_standalone => {
            Err(format!("files are not read in a cluster: write the name of {instead}"))
        }
        (reference, files) => Ok((reference.map(|reference| Referred::by(declaration.object, reference)), files)),
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

fn warn_of_validity(certificate: &Certificate, now: Timestamp, place: &mut Place) {
    let Certificate { source, not_before, not_after, .. } = certificate;
    if now > *not_after {
        place.warn(
            Reason::CertificateExpired,
            format!("the certificate of {source} expired on {not_after}: replace it; it is still presented"),
        );
    } else if now < *not_before {
        place.warn(
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

    fn chain(&self) -> Result<Vec<CertificateDer<'static>>, String> {
        CertificateDer::pem_slice_iter(self.certificate.bytes)
            .collect::<Result<_, _>>()
            .map_err(|_| format!("{} is not PEM: {WRITE_CERTIFICATE}", self.certificate.title))
    }

    fn certified_key(&self, chain: Vec<CertificateDer<'static>>) -> Result<CertifiedKey, String> {
        // The library's errors are not shown: they may quote the text.
        let key = PrivateKeyDer::from_pem_slice(self.key.bytes).map_err(|_| {
            format!(
                "{} has no private key that can be read: write a PEM text that begins with -----BEGIN PRIVATE \
                 KEY-----, not encrypted",
                self.key.title
            )
        })?;
        let key = any_supported_type(&key).map_err(|_| {
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

/// The DNS names a certificate is for. Its subject's common name counts only if it has no alternative names at all
/// (RFC 6125).
fn names(certificate: &X509Certificate) -> Vec<Arc<str>> {
    let lower = |name: &str| Arc::from(name.to_ascii_lowercase());
    match certificate.subject_alternative_name() {
        Ok(Some(alternatives)) => alternatives
            .value
            .general_names
            .iter()
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => Some(lower(name)),
                _ => None,
            })
            .collect(),
        _ => certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok()).map(lower).collect(),
    }
}

/// RFC 5280 writes "never" as the last second of the year 9999, which is past the last timestamp.
pub(super) fn timestamp(time: ASN1Time) -> Timestamp {
    let nearest = if time.timestamp() < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::from_second(time.timestamp()).unwrap_or(nearest)
}
