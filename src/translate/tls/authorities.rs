//! Certificate authorities from ConfigMaps, Secrets and files.

use std::{sync::Arc, time::Duration};

use imbl::OrdMap;
use jiff::Timestamp;
use rustls::{
    RootCertStore,
    client::danger::ServerCertVerifier,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer, revocation_list::CertificateRevocationList};

use super::{
    certificates::{
        CertificateLoader, WRITE_CERTIFICATE, cached, fingerprint, quoted_name, timestamp, whole_certificate,
    },
    pem::{Block, PemLabel},
    revocation::{self, Anchors, Lists},
};
use crate::{
    api,
    model::{
        Authority, AuthorityReview, ClientValidation, ClientValidationMode, Fingerprint, VerifiedPeer, VerifierKey,
        WithSelfSigned,
    },
    translate::{
        declaration::Declaration,
        field_errors::FieldPath,
        references::{ReferenceFallback, ReferencedText, object_or_files},
        verdict::Reason,
    },
};

impl<'a> CertificateLoader<'a> {
    /// Translates client validation. An invalid source falls back to its last good content, or is dropped: then its
    /// clients cannot connect. Refused if no source is left.
    pub fn client_validation(
        &mut self,
        declared: &api::ClientValidation,
        declaration: &Declaration,
        before: Option<&Arc<ClientValidation>>,
        path: &mut FieldPath,
    ) -> Option<Arc<ClientValidation>> {
        let mode = match declared.mode {
            api::ClientValidationMode::Required => ClientValidationMode::Required,
            api::ClientValidationMode::Optional => ClientValidationMode::Optional,
        };
        let last_good = before.map_or(&[][..], |before| &before.authorities);
        let authorities = self.authorities(&declared.ca_refs, declaration, last_good, &mut path.at("caRefs"))?;
        let key = self.combination(VerifiedPeer::Client(mode), authorities, declaration, &mut path.at("caRefs"))?;
        let now = self.now;
        cached(&mut self.cache.verifiers.clients, &self.verifiers_before.clients, key.clone(), || {
            let verifier = client_verifier(&key.authorities, mode, now)?;
            Ok(Arc::new(ClientValidation { mode, authorities: key.authorities, verifier }))
        })
        .map_err(|problem| path.refuse(problem))
        .ok()
    }

    /// The verifier of a backend. `build` builds it if it is a new one.
    pub fn backend_verifier(
        &mut self,
        key: &VerifierKey,
        build: impl FnOnce(&[Arc<Authority>], Timestamp) -> Result<Arc<dyn ServerCertVerifier>, String>,
    ) -> Result<Arc<dyn ServerCertVerifier>, String> {
        let now = self.now;
        cached(&mut self.cache.verifiers.backends, &self.verifiers_before.backends, key.clone(), || {
            build(&key.authorities, now)
        })
    }

    /// Reads the authorities of all sources, and sorts them: their order has no effect. `None`: there are none, which
    /// is refused unless only other processes can read them.
    pub fn authorities(
        &mut self,
        declared: &[api::CaRef],
        declaration: &Declaration,
        before: &[Arc<Authority>],
        path: &mut FieldPath,
    ) -> Option<Vec<Arc<Authority>>> {
        let mut authorities = Vec::new();
        for (index, reference) in declared.iter().enumerate() {
            authorities.extend(self.authority(reference, declaration, before, &mut path.item(index)));
        }
        authorities.sort_unstable();
        authorities.dedup();
        let all_checked = || declared.iter().all(|one| declaration.unchecked(one.reference()).is_none());
        if declared.is_empty() {
            path.refuse("must not be empty: write the name of a ConfigMap or Secret with the key ca.crt, or a file");
        } else if authorities.is_empty() && all_checked() {
            path.refuse_for(
                Reason::InvalidCertificateRef,
                "none of the references has a readable CA certificate: correct the references",
            );
        }
        (!authorities.is_empty()).then_some(authorities)
    }

    /// Checks authorities that are used together. `None`: the combination is refused.
    pub fn combination(
        &mut self,
        peer: VerifiedPeer,
        authorities: Vec<Arc<Authority>>,
        declaration: &Declaration,
        path: &mut FieldPath,
    ) -> Option<VerifierKey> {
        let key = VerifierKey { namespace: declaration.object.namespace.clone(), peer, authorities };
        // The quota comes first, since a review parses all lists.
        let problem = self.verifier_quota.admit(&key).err().or_else(|| self.conflict(&key.authorities, path));
        if let Some(problem) = problem {
            path.refuse_for(Reason::InvalidCertificateRef, problem);
            return None;
        }
        Some(key)
    }

    /// Problem of authorities that are valid only separately.
    fn conflict(&mut self, authorities: &[Arc<Authority>], path: &mut FieldPath) -> Option<String> {
        let review = self.review(authorities);
        for warning in &review.warnings {
            path.warn(Reason::Invalid, warning.as_str());
        }
        review.refused.clone()
    }

    fn authority(
        &mut self,
        reference: &api::CaRef,
        declaration: &Declaration,
        before: &[Arc<Authority>],
        path: &mut FieldPath,
    ) -> Option<Arc<Authority>> {
        let source: Arc<str> = source(reference, declaration).into();
        let fallback = ReferenceFallback {
            value: before.iter().find(|authority| authority.source == source).cloned(),
            retained: "the previous certificates stay in use",
            dropped: "it is ignored, and certificates of its authorities are refused",
        };
        let authority = declaration.read_or_last_good(reference.reference(), fallback, path, || {
            let texts = self.texts(reference, declaration)?;
            let fingerprint = self.fingerprint(texts.bytes());
            // Messages name the files, so the key does too.
            let key = match &reference.files {
                Some(files) => (format!("{source} {}", files.crl.as_deref().unwrap_or_default()).into(), fingerprint),
                None => (source.clone(), fingerprint),
            };
            cached(&mut self.cache.authorities, &self.cache_before.authorities, key, || {
                texts.parse(source, fingerprint, self.now).map(Arc::new)
            })
        })?;
        warn_of_expiries(&authority, self.now, path);
        for (_, sentence) in authority.upcoming.iter().filter(|(from, _)| self.now < *from) {
            path.warn(Reason::Invalid, sentence.as_ref());
        }
        Some(authority)
    }

    /// Compares authorities with each other, once for each set of them.
    fn review(&mut self, authorities: &[Arc<Authority>]) -> Arc<AuthorityReview> {
        if authorities.iter().all(|authority| authority.revoked.is_empty()) {
            return Arc::default();
        }
        let of_all = authorities.iter().fold(Fingerprint::default(), |before, authority| {
            let of_one = fingerprint([authority.source.as_bytes(), &authority.fingerprint]);
            fingerprint([&before, &of_one])
        });
        let (now, before) = (&mut self.cache, self.cache_before);
        let is_first = !now.reviews.contains_key(&of_all);
        let review = cached(&mut now.reviews, &before.reviews, of_all, || {
            Arc::new(new_review(authorities, &mut now.signatures, &before.signatures))
        });
        if is_first {
            // Reviews of other sets may need the same signatures.
            now.signatures.extend(review.signatures.iter().copied());
        }
        review
    }

    fn texts(&self, reference: &api::CaRef, declaration: &Declaration) -> Result<Texts<'a>, String> {
        let files = ("files", reference.files.as_ref());
        let (object, files) = object_or_files(reference.reference(), files, "a ConfigMap or Secret", declaration)?;
        match (object, files) {
            (Some(object), _) => Ok(Texts {
                certificates: ReferencedText::of(&object, "ca.crt", self.world)?
                    .ok_or_else(|| format!("{object} has no key ca.crt: write the CA certificates there, as PEM"))?,
                revoked: ReferencedText::of(&object, "ca.crl", self.world)?,
            }),
            (None, Some(files)) => {
                let text = |file: &String| ReferencedText::of_file(file, declaration.folder, self.world);
                Ok(Texts { certificates: text(&files.ca)?, revoked: files.crl.as_ref().map(text).transpose()? })
            }
            (None, None) => {
                Err("neither name nor files is set: write the name of a ConfigMap or Secret, or a file".into())
            }
        }
    }
}

/// Compares authorities with each other. Signatures are verified once, see [`cached`].
fn new_review(
    authorities: &[Arc<Authority>],
    now: &mut OrdMap<Fingerprint, bool>,
    before: &OrdMap<Fingerprint, bool>,
) -> AuthorityReview {
    let (review, mut signatures) = (revocation::review(authorities), Vec::new());
    let forgery = || {
        revocation::forgery(authorities, |of_both, verify| {
            let is_valid = cached(now, before, of_both, verify);
            signatures.push((of_both, is_valid));
            is_valid
        })
    };
    // Ambiguous names are not verified, so each list costs one signature.
    let refused = revocation::ambiguity(authorities).or_else(forgery).or(review.refused);
    AuthorityReview { refused, signatures, ..review }
}

/// Warns about expired authorities and lists in one sentence, since a bundle may have many.
fn warn_of_expiries(authority: &Authority, now: Timestamp, path: &mut FieldPath) {
    let expired: Vec<_> = authority.expiries.iter().filter(|(until, _)| now > *until).collect();
    if let [(_, first), others @ ..] = &expired[..] {
        let others =
            if others.is_empty() { String::new() } else { format!("; the same applies to {} more", others.len()) };
        path.warn(Reason::AuthorityExpired, format!("{first}{others}"));
    }
}

/// Source of the authorities, for messages and to find the last good ones.
fn source(reference: &api::CaRef, declaration: &Declaration) -> String {
    match (&reference.name, &reference.files) {
        (Some(name), _) => format!("{} {}/{name}", reference.kind.name(), declaration.object.namespace),
        (None, Some(files)) => declaration.folder.join(&files.ca).display().to_string(),
        (None, None) => String::new(),
    }
}

/// PEM texts of authorities and of their revocation lists.
struct Texts<'a> {
    certificates: ReferencedText<'a>,
    revoked: Option<ReferencedText<'a>>,
}

impl<'a> Texts<'a> {
    fn bytes(&self) -> [&'a [u8]; 2] {
        [self.certificates.bytes, self.revoked.as_ref().map_or(&[], |revoked| revoked.bytes)]
    }

    fn parse(&self, source: Arc<str>, fingerprint: Fingerprint, now: Timestamp) -> Result<Authority, String> {
        let certificates = self.certificates()?;
        let roots = self.roots(&certificates)?;
        let revoked = self.lists(&certificates, now)?;
        let (issuers, expiries) = (revocation::issuers(&revoked), self.expiries(&certificates, &revoked));
        let upcoming = self.upcoming(&revoked, now);
        let authority = Authority { source, fingerprint, roots, certificates, revoked, issuers, expiries, upcoming };
        // Lists are parsed only by the verifier.
        let verifier = client_verifier(&[Arc::new(authority.clone())], ClientValidationMode::Required, now);
        match (verifier, &self.revoked) {
            (Err(problem), Some(revoked)) => Err(format!(
                "{} has an unusable revocation list ({problem}): write the lists as issued by the authorities",
                revoked.title
            )),
            (Err(problem), None) => Err(problem),
            (Ok(_), _) => Ok(authority),
        }
    }

    /// True if certificates and lists are in the same text.
    fn is_one_text(&self) -> bool {
        self.revoked.as_ref().is_some_and(|revoked| revoked.bytes == self.certificates.bytes)
    }

    /// Parses the certificates. The text may contain keys too.
    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, String> {
        let title = &self.certificates.title;
        let mut certificates = Vec::new();
        for Block { label, line, der } in self.certificates.blocks()? {
            match label {
                PemLabel::Certificate => certificates.push(whole_certificate(der, line, title)?),
                PemLabel::Crl if !self.is_one_text() => {
                    return Err(format!(
                        "{title} has a revocation list at line {line}, which is ignored there: move it to ca.crl, or \
                         to the file in `crl`"
                    ));
                }
                PemLabel::Crl
                | PemLabel::Pkcs8Key
                | PemLabel::Pkcs1Key
                | PemLabel::Sec1Key
                | PemLabel::EncryptedKey
                | PemLabel::Parameters => {}
            }
        }
        Ok(certificates)
    }

    /// Parses the lists of revoked certificates.
    fn lists(
        &self,
        certificates: &[CertificateDer<'static>],
        now: Timestamp,
    ) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
        let Some(text) = &self.revoked else { return Ok(Vec::new()) };
        let mut lists = Vec::new();
        for Block { label, line, der } in text.blocks()? {
            match label {
                PemLabel::Crl => lists.push((line, der.into())),
                PemLabel::Certificate
                | PemLabel::Pkcs8Key
                | PemLabel::Pkcs1Key
                | PemLabel::Sec1Key
                | PemLabel::EncryptedKey
                | PemLabel::Parameters => {
                    if !self.is_one_text() {
                        return Err(format!(
                            "{} has a block other than a revocation list at line {line}: remove it; CA certificates \
                             belong in ca.crt, or in the file in `ca`",
                            text.title
                        ));
                    }
                }
            }
        }
        revocation::read(&text.title, lists, certificates, &self.certificates.title, now)
    }

    fn roots(&self, certificates: &[CertificateDer<'static>]) -> Result<RootCertStore, String> {
        let title = &self.certificates.title;
        let mut roots = RootCertStore::empty();
        for certificate in certificates {
            roots.add(certificate.clone()).map_err(|_| {
                format!("{title} has an unreadable certificate: write the PEM text as issued by the authority")
            })?;
        }
        if roots.is_empty() {
            return Err(format!("{title} has no certificate: {WRITE_CERTIFICATE}"));
        }
        Ok(roots)
    }

    fn expiries(
        &self,
        certificates: &[CertificateDer<'static>],
        revoked: &[CertificateRevocationListDer<'static>],
    ) -> Vec<(Timestamp, Arc<str>)> {
        let of_certificates = certificates.iter().filter_map(|der| {
            let (_, certificate) = X509Certificate::from_der(der).ok()?;
            let until = timestamp(certificate.validity().not_after);
            let sentence = format!(
                "the authority {} in {} expired on {until}: replace it; certificates that it issued are still accepted",
                quoted_name(certificate.subject()),
                self.certificates.title
            );
            Some((until, sentence.into()))
        });
        let of_lists = revoked.iter().filter_map(|list| {
            let (_, list) = CertificateRevocationList::from_der(list).ok()?;
            let until = timestamp(list.next_update()?);
            let sentence = format!(
                "the revocation list of {} in {} was due for renewal by {until}: replace it; the old one stays in \
                 effect",
                quoted_name(list.issuer()),
                self.revoked.as_ref()?.title
            );
            Some((until, sentence.into()))
        });
        of_certificates.chain(of_lists).collect()
    }

    /// The latest list with an issue date in the future, with that date.
    fn upcoming(
        &self,
        revoked: &[CertificateRevocationListDer<'static>],
        now: Timestamp,
    ) -> Vec<(Timestamp, Arc<str>)> {
        let of_list = |list: &CertificateRevocationListDer<'_>| {
            let (_, list) = CertificateRevocationList::from_der(list).ok()?;
            let from = timestamp(list.last_update());
            let sentence = format!(
                "the revocation list of {} in {} is issued at {from}, which is in the future: correct the clock, or \
                 install the list at that time; until then its revocations apply in addition to the lists before it",
                quoted_name(list.issuer()),
                self.revoked.as_ref()?.title
            );
            (from > now).then(|| (from, sentence.into()))
        };
        revoked.iter().filter_map(of_list).max().into_iter().collect()
    }
}

/// Builds a client verifier from authorities and their revocation lists. Authorities without a list have revoked
/// nothing.
fn client_verifier(
    authorities: &[Arc<Authority>],
    mode: ClientValidationMode,
    now: Timestamp,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let verifier: WithSelfSigned<dyn ClientCertVerifier> = verifier(authorities, now, |roots, lists| {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = WebPkiClientVerifier::builder_with_provider(roots, provider)
            .with_crls(lists)
            .allow_unknown_revocation_status();
        match mode {
            ClientValidationMode::Required => builder.build(),
            ClientValidationMode::Optional => builder.allow_unauthenticated().build(),
        }
    })
    .map_err(|error| format!("the authorities are not usable: {error}"))?;
    Ok(Arc::new(verifier))
}

/// Builds a verifier from authorities and their lists. `make` builds one from roots and lists.
pub fn verifier<V: ?Sized, E>(
    authorities: &[Arc<Authority>],
    now: Timestamp,
    make: impl Fn(Arc<RootCertStore>, Vec<CertificateRevocationListDer<'static>>) -> Result<Arc<V>, E>,
) -> Result<WithSelfSigned<V>, E> {
    let (anchors, lists) = (Anchors::of(authorities), Lists::of_all(authorities, now));
    let roots = Arc::new(anchors.roots());
    let upcoming = match lists.upcoming {
        Some((from, lists)) => Some((unix_time(from), make(roots.clone(), lists)?)),
        None => None,
    };
    Ok(WithSelfSigned {
        own: anchors.self_signed(),
        inner: make(roots, lists.current)?,
        upcoming,
        is_revoked: anchors.trusted.is_empty(),
    })
}

fn unix_time(time: Timestamp) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(time.as_second().try_into().unwrap_or_default()))
}
