//! Certificate revocation lists (CRL, RFC 5280).

mod lists;
mod names;
mod review;
mod scope;

pub use lists::Lists;
pub use review::{Anchors, review};

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use lists::{Der, RevocationList, counting, tie};
use rustls::{DistinguishedName, crypto::aws_lc_rs, pki_types::CertificateDer};
use x509_parser::{
    certificate::X509Certificate,
    extensions::ParsedExtension,
    prelude::FromDer,
    revocation_list::CertificateRevocationList,
    x509::{SubjectPublicKeyInfo, X509Name},
};

use super::certificates::{fingerprint, quoted_name};
use crate::model::{Authority, Fingerprint};

/// Maximum number of lists in one source. Each costs a signature verification, which delays other tenants.
const MAX_LISTS: usize = 256;

/// Reads lists, each with its line in the text, and returns the effective ones. Lists of the given authorities must be
/// signed by them.
pub fn read(
    title: &str,
    lists: Vec<(usize, Der)>,
    authorities: &[CertificateDer<'static>],
    authorities_title: &str,
    now: Timestamp,
) -> Result<Vec<Der>, String> {
    if lists.is_empty() {
        // A text without lists would revoke nothing, which is not intended.
        return Err(not_lists(title));
    }
    if lists.len() > MAX_LISTS {
        return Err(format!(
            "{title} has {} revocation lists: write at most {MAX_LISTS}, only the newest of each authority",
            lists.len()
        ));
    }
    for (line, list) in &lists {
        check(title, *line, list)?;
    }
    let keys = Keys::of(authorities);
    let (lines, lists): (Vec<_>, Vec<_>) = lists.into_iter().unzip();
    let read: Vec<_> = lists.iter().filter_map(RevocationList::read).collect();
    if let Some(problem) = tie(&read) {
        return Err(format!("{title} has {problem}"));
    }
    let lists: Vec<_> = counting(&lists, now).cloned().collect();
    let own = Own::of(authorities);
    let mut checks = MAX_LISTS;
    for list in lists.iter().filter_map(RevocationList::read) {
        let issuer = list.crl.issuer();
        // Lists of intermediate authorities can only be verified with a client's certificate.
        let Some(key) = keys.0.get(issuer.as_raw()) else {
            if let Some(subject) = own.misnamed(&list.crl, &mut checks) {
                let line = read.iter().position(|known| known.der == list.der).map_or(0, |index| lines[index]);
                return Err(names::misnamed(&format!("{title}, at line {line},"), issuer, &subject));
            }
            continue;
        };
        let Some(key) = key else { return Err(ambiguous(issuer)) };
        if !has_signed(key, &list.crl) {
            return Err(format!(
                "{title} has a revocation list of {} that is not signed by the authority of this name in \
                 {authorities_title}: write the list as issued",
                quoted_name(issuer)
            ));
        }
    }
    Ok(lists)
}

/// Refuses a list that verifiers cannot read.
fn check(title: &str, line: usize, list: &Der) -> Result<(), String> {
    let (rest, list) = CertificateRevocationList::from_der(list).map_err(|_| not_lists(title))?;
    if !rest.is_empty() {
        return Err(format!(
            "{title} has a revocation list with trailing data at line {line}: write the list as issued"
        ));
    }
    if list.version().is_none() {
        return Err(format!(
            "{title} has a revocation list of version 1, which is not supported: have one of version 2 issued (for \
             `openssl ca`, write `crlnumber` in its configuration)"
        ));
    }
    if list.next_update().is_none() {
        return Err(format!("{title} has a revocation list without nextUpdate: have one issued with it"));
    }
    match scope::unsupported(&list) {
        Some(reason) => Err(unusable(title, line, list.issuer(), &reason)),
        None => Ok(()),
    }
}

fn unusable(title: &str, line: usize, issuer: &X509Name<'_>, reason: &str) -> String {
    format!(
        "{title} has a revocation list of {} at line {line} that is not supported: {reason}; have a complete list \
         issued, or one with the full name of a distribution point",
        quoted_name(issuer)
    )
}

/// Authorities of one text, to find lists with a differently written issuer.
struct Own<'a> {
    names: BTreeMap<Vec<Vec<(String, String)>>, String>,
    certificates: Vec<X509Certificate<'a>>,
}

impl<'a> Own<'a> {
    fn of(certificates: &'a [CertificateDer<'static>]) -> Self {
        let certificates: Vec<_> =
            certificates.iter().filter_map(|der| Some(X509Certificate::from_der(der).ok()?.1)).collect();
        let named = |certificate: &X509Certificate<'_>| {
            (names::canonical(certificate.subject()), certificate.subject().to_string())
        };
        Self { names: certificates.iter().map(named).collect(), certificates }
    }

    /// The authority that issued a list with a different name. `checks` limits the number of signature verifications.
    fn misnamed(&self, list: &CertificateRevocationList<'_>, checks: &mut usize) -> Option<String> {
        if let Some(subject) = self.names.get(&names::canonical(list.issuer())) {
            return Some(subject.clone());
        }
        let key_of_list = list.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(key) => key.key_identifier.as_ref().map(|key| key.0),
            _ => None,
        });
        let may_have_signed = |certificate: &&X509Certificate<'_>| {
            let key = certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(key) => Some(key.0),
                _ => None,
            });
            key_of_list.is_none() || key.is_none() || key == key_of_list
        };
        let signer = self.certificates.iter().filter(may_have_signed).find(|certificate| {
            let may_verify = checks.checked_sub(1).map(|left| *checks = left).is_some();
            may_verify && has_signed(certificate.public_key().raw, list)
        })?;
        Some(signer.subject().to_string())
    }
}

/// Public keys of authorities by name, both in DER. `None`: several authorities have this name.
struct Keys(BTreeMap<Vec<u8>, Option<Vec<u8>>>);

impl Keys {
    fn of(authorities: &[CertificateDer<'static>]) -> Self {
        let mut keys = Self(BTreeMap::new());
        for certificate in authorities {
            if let Ok((_, certificate)) = X509Certificate::from_der(certificate) {
                keys.add(certificate.subject().as_raw().to_vec(), certificate.public_key().raw.to_vec());
            }
        }
        keys
    }

    fn of_all(authorities: &[Arc<Authority>]) -> Self {
        let mut keys = Self(BTreeMap::new());
        for root in authorities.iter().flat_map(|authority| &authority.roots.roots) {
            let whole = |content: &[u8]| DistinguishedName::in_sequence(content).as_ref().to_vec();
            keys.add(whole(&root.subject), whole(&root.subject_public_key_info));
        }
        keys
    }

    fn add(&mut self, name: Vec<u8>, key: Vec<u8>) {
        let entry = self.0.entry(name).or_insert_with(|| Some(key.clone()));
        if entry.as_ref() != Some(&key) {
            *entry = None;
        }
    }
}

pub fn not_lists(title: &str) -> String {
    format!(
        "{title} has no readable revocation list: write a PEM text that begins with -----BEGIN X509 CRL-----, or \
         remove it"
    )
}

/// Verifies the signature of a list. Algorithms for other kinds of keys fail.
fn has_signed(key: &[u8], list: &CertificateRevocationList<'_>) -> bool {
    let Ok((_, key)) = SubjectPublicKeyInfo::from_der(key) else { return false };
    let (key, signature) = (&key.subject_public_key.data, &list.signature_value.data);
    let mut algorithms = aws_lc_rs::default_provider().signature_verification_algorithms.all.iter();
    algorithms.any(|one| one.verify_signature(key, list.tbs_cert_list.as_ref(), signature).is_ok())
}

/// The issuers of lists: their names in DER.
pub fn issuers(lists: &[Der]) -> Vec<Box<[u8]>> {
    let read = |list| CertificateRevocationList::from_der(list).map(|(_, list)| list.issuer().as_raw().into());
    // Unreadable lists were refused before.
    lists.iter().map(|list| read(list).unwrap_or_default()).collect()
}

/// Problem of a list whose issuer is in another source and has not signed it. `cached` returns the result for a digest
/// of list and key, or computes it.
pub fn forgery(
    authorities: &[Arc<Authority>],
    mut cached: impl FnMut(Fingerprint, &mut dyn FnMut() -> bool) -> bool,
) -> Option<String> {
    if authorities.iter().all(|authority| authority.revoked.is_empty()) {
        return None;
    }
    let keys = Keys::of_all(authorities);
    for authority in authorities {
        let own = Keys::of_all(std::slice::from_ref(authority));
        for (index, (list, issuer)) in authority.revoked.iter().zip(&authority.issuers).enumerate() {
            // Lists of authorities in the same source were verified when they were read.
            let Some(Some(key)) = keys.0.get(&**issuer).filter(|_| !own.0.contains_key(&**issuer)) else { continue };
            let (_, list) = CertificateRevocationList::from_der(list).ok()?;
            let of_list = fingerprint([&authority.fingerprint[..], &index.to_be_bytes()[..]]);
            if !cached(fingerprint([&of_list[..], &key[..]]), &mut || has_signed(key, &list)) {
                return Some(format!(
                    "{} has a revocation list of {} that is not signed by the authority of this name: write the list \
                     as issued, or remove it",
                    authority.source,
                    quoted_name(list.issuer())
                ));
            }
        }
    }
    None
}

/// Problem of authorities that are ambiguous together: verifiers find lists by the issuer's name.
pub fn ambiguity(authorities: &[Arc<Authority>]) -> Option<String> {
    if authorities.iter().all(|authority| authority.revoked.is_empty()) {
        return None;
    }
    let keys = Keys::of_all(authorities);
    let mut issuers = authorities.iter().flat_map(|authority| &authority.issuers);
    let issuer = issuers.find(|issuer| keys.0.get(&***issuer) == Some(&None))?;
    let (_, issuer) = X509Name::from_der(issuer).ok()?;
    Some(ambiguous(&issuer))
}

fn ambiguous(issuer: &X509Name<'_>) -> String {
    format!(
        "several authorities have the name {} and different keys, so a revocation list would apply to each of them: \
         keep one of them, remove the lists (`ca.crl`), or give the new one another name",
        quoted_name(issuer)
    )
}
