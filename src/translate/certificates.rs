//! Certificates and their keys, from Secrets and files. Nothing of a key's text is ever part of a message.

use std::{collections::BTreeMap, path::Path, sync::Arc};

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

use super::{Reason, findings::Place, load_balancer::Declaration, missing, quotas};
use crate::{
    api,
    model::{Certificate, Fingerprint, ObjectKey, Snapshot},
    source::{Site, World},
};

/// Reads certificates, each distinct one once, right or wrong: an unchanged one is taken from the snapshot before.
pub(super) struct Certificates<'a> {
    world: &'a World,
    now: Timestamp,
    known: BTreeMap<(Arc<str>, Fingerprint), Result<Arc<Certificate>, String>>,
}

impl<'a> Certificates<'a> {
    pub fn new(world: &'a World, previous: &Snapshot, now: Timestamp) -> Self {
        let known = previous
            .listeners
            .values()
            .filter_map(|listener| listener.tls.as_ref())
            .flat_map(|tls| &tls.certificates)
            .map(|certificate| ((certificate.source.clone(), certificate.fingerprint), Ok(certificate.clone())))
            .collect();
        Self { world, now, known }
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
            if let Some(secret) = self.judged_by_others(reference, declaration) {
                let message = format!(
                    "Secret {secret} is not looked at here, where the administrator limits the Secrets of a namespace; the \
                     pods read it themselves"
                );
                place.warn(Reason::NotPermitted, message);
                continue;
            }
            let certificate = self.read(reference, declaration).or_else(|(reason, message)| {
                let source = source(reference, declaration);
                let kept = before.iter().find(|certificate| *certificate.source == *source).cloned();
                let meanwhile = if kept.is_some() { "the one before is presented" } else { "it is left out" };
                place.leave_out(reason, format!("{message}; {meanwhile}"));
                kept.ok_or(())
            });
            let Ok(certificate) = certificate else { continue };
            warn_of_validity(&certificate, self.now, &mut place);
            certificates.push(certificate);
        }
        let all_judged =
            || declared.certificate_refs.iter().all(|one| self.judged_by_others(one, declaration).is_none());
        if declared.certificate_refs.is_empty() {
            place.refuse("it is empty: write the name of a Secret of type kubernetes.io/tls, or two files");
        } else if certificates.is_empty() && all_judged() {
            place.refuse_for(Reason::InvalidCertificateRef, "none of its certificates can be presented");
        }
        certificates
    }

    /// The Secret, if it is one too many.
    fn beyond_quota(&self, reference: &api::CertificateRef, declaration: &Declaration) -> Option<ObjectKey> {
        let secret = ObjectKey::new(&declaration.object.namespace, &reference.name.as_ref()?.0);
        self.world.beyond_quota.contains(&secret).then_some(secret)
    }

    /// The same, if it is only judged here: a sidecar has no quotas.
    fn judged_by_others(&self, reference: &api::CertificateRef, declaration: &Declaration) -> Option<ObjectKey> {
        self.beyond_quota(reference, declaration).filter(|_| matches!(self.world.site, Site::Sidecar(_)))
    }

    fn read(
        &mut self,
        reference: &api::CertificateRef,
        declaration: &Declaration,
    ) -> Result<Arc<Certificate>, (Reason, String)> {
        if let Some(secret) = self.beyond_quota(reference, declaration) {
            return Err((Reason::NotPermitted, quotas::beyond(&secret, declaration)));
        }
        self.parsed(reference, declaration).map_err(|message| (Reason::InvalidCertificateRef, message))
    }

    fn parsed(
        &mut self,
        reference: &api::CertificateRef,
        declaration: &Declaration,
    ) -> Result<Arc<Certificate>, String> {
        let pair = match (&reference.name, &reference.files) {
            (Some(name), None) => self.secret(&declaration.object.namespace, &name.0)?,
            (None, Some(_)) if self.world.site != Site::Standalone => {
                return Err("files are not read in a cluster: write the name of a Secret".into());
            }
            (None, Some(files)) => self.files(files, declaration.folder)?,
            (Some(_), Some(_)) => return Err("it has both name and files: write one of them".into()),
            (None, None) => {
                return Err("it has neither name nor files: write the name of a Secret, or two files".into());
            }
        };
        let fingerprint = pair.fingerprint();
        let source: Arc<str> = source(reference, declaration).into();
        let key = (source.clone(), fingerprint);
        let parse = || pair.parse(source, fingerprint).map(Arc::new);
        self.known.entry(key).or_insert_with(parse).clone()
    }

    fn secret(&self, namespace: &str, name: &str) -> Result<Pair<'a>, String> {
        let (title, key) = (format!("Secret {namespace}/{name}"), ObjectKey::new(namespace, name));
        let secret = self.world.secrets.get(&key).ok_or_else(|| missing("Secret", &key, self.world))?;
        let text = |key: &str| -> Result<&'a [u8], String> {
            let bytes = secret.data.as_ref().and_then(|data| data.get(key)).map(|bytes| bytes.0.as_slice());
            bytes.ok_or_else(|| {
                format!("{title} has no {key}: a Secret of type kubernetes.io/tls has tls.crt and tls.key")
            })
        };
        Ok(Pair {
            certificate: text("tls.crt")?,
            key: text("tls.key")?,
            certificate_title: format!("tls.crt of {title}"),
            key_title: format!("tls.key of {title}"),
        })
    }

    fn files(&self, files: &api::CertificateFiles, folder: &Path) -> Result<Pair<'a>, String> {
        let text = |path: &str| -> Result<&'a [u8], String> {
            let path = folder.join(path);
            match self.world.files.get(&path) {
                Some(Ok(text)) => Ok(text),
                Some(Err(problem)) => Err(format!("file {}: {problem}", path.display())),
                None => Err(format!("file {} has not been read", path.display())),
            }
        };
        Ok(Pair {
            certificate: text(&files.certificate)?,
            key: text(&files.key)?,
            certificate_title: format!("file {}", folder.join(&files.certificate).display()),
            key_title: format!("file {}", folder.join(&files.key).display()),
        })
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

/// The PEM texts of a certificate chain and its key, and where they come from.
struct Pair<'a> {
    certificate: &'a [u8],
    key: &'a [u8],
    certificate_title: String,
    key_title: String,
}

impl Pair<'_> {
    fn fingerprint(&self) -> Fingerprint {
        let mut context = digest::Context::new(&digest::SHA256);
        // With its length, so that no byte can wander from one text to the other.
        context.update(&self.certificate.len().to_be_bytes());
        context.update(self.certificate);
        context.update(self.key);
        let mut fingerprint = Fingerprint::default();
        fingerprint.copy_from_slice(context.finish().as_ref());
        fingerprint
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
        CertificateDer::pem_slice_iter(self.certificate)
            .collect::<Result<_, _>>()
            .map_err(|_| format!("{} is not PEM: {WRITE_CERTIFICATE}", self.certificate_title))
    }

    fn certified_key(&self, chain: Vec<CertificateDer<'static>>) -> Result<CertifiedKey, String> {
        // The library's errors are not shown: they may quote the text.
        let key = PrivateKeyDer::from_pem_slice(self.key).map_err(|_| {
            format!(
                "{} has no private key that can be read: write a PEM text that begins with -----BEGIN PRIVATE \
                 KEY-----, not encrypted",
                self.key_title
            )
        })?;
        let key = any_supported_type(&key).map_err(|_| {
            format!(
                "{} has a key of a kind that is not supported: use ECDSA, Ed25519, or RSA of 2048 bits or more",
                self.key_title
            )
        })?;
        let pair = CertifiedKey::new(chain, key);
        match pair.keys_match() {
            Ok(()) => Ok(pair),
            Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => Err(format!(
                "{} does not match {}: write the key that the certificate was issued for",
                self.key_title, self.certificate_title
            )),
            Err(_) => Err(self.unreadable_certificate()),
        }
    }

    fn no_certificate(&self) -> String {
        format!("{} has no certificate: {WRITE_CERTIFICATE}", self.certificate_title)
    }

    fn unreadable_certificate(&self) -> String {
        format!(
            "{} has a certificate that cannot be read: write the PEM text as the issuer gave it, or have it issued anew",
            self.certificate_title
        )
    }

    /// An X.509 certificate without extensions, which no verifier of today takes.
    fn old_certificate(&self, version: X509Version) -> String {
        format!(
            "{} has an X.509 certificate of version {}, which has no room for its DNS names: have one of version 3 \
             issued, with subjectAltName",
            self.certificate_title,
            version.0.saturating_add(1)
        )
    }
}

const WRITE_CERTIFICATE: &str = "write a PEM text that begins with -----BEGIN CERTIFICATE-----";

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
fn timestamp(time: ASN1Time) -> Timestamp {
    let nearest = if time.timestamp() < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::from_second(time.timestamp()).unwrap_or(nearest)
}
