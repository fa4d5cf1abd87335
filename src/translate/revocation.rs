//! Lists of revoked certificates (CRL, RFC 5280).

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use rustls::{
    DistinguishedName,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, CertificateRevocationListDer},
};
use x509_parser::{
    certificate::X509Certificate,
    extensions::ParsedExtension,
    prelude::FromDer,
    revocation_list::CertificateRevocationList,
    x509::{SubjectPublicKeyInfo, X509Name},
};

use super::certificates::fingerprint;
use crate::model::{Authority, Fingerprint};

type Der = CertificateRevocationListDer<'static>;

/// The most lists of one source. Each costs the verification of a signature, for which other tenants wait.
const MAX_LISTS: usize = 256;

/// Of these lists, each from a line of a text, those that count. Those of these authorities have to be signed by them.
pub fn read(
    title: &str,
    lists: Vec<(usize, Der)>,
    authorities: &[CertificateDer<'static>],
    authorities_title: &str,
) -> Result<Vec<Der>, String> {
    if lists.is_empty() {
        // A text without any would revoke nothing, which nobody means who has it.
        return Err(not_lists(title));
    }
    if lists.len() > MAX_LISTS {
        return Err(format!(
            "{title} has {} lists of revoked certificates: write at most {MAX_LISTS}, of each authority the newest only",
            lists.len()
        ));
    }
    for (line, list) in &lists {
        check(title, *line, list)?;
    }
    let keys = Keys::of(authorities);
    let lists: Vec<_> = lists.into_iter().map(|(_, list)| list).collect();
    let lists: Vec<_> = newest(&lists).cloned().collect();
    for list in &lists {
        let (_, list) = CertificateRevocationList::from_der(list).map_err(|_| not_lists(title))?;
        // Those of authorities in between are only seen with a client's certificate.
        let Some(key) = keys.0.get(list.issuer().as_raw()) else { continue };
        let Some(key) = key else { return Err(ambiguous(list.issuer())) };
        if !has_signed(key, &list) {
            return Err(format!(
                "{title} has a list of what {} has revoked, whose signature is not that of the authority of this name in \
                 {authorities_title}: write the list as the authority gives it",
                list.issuer(),
            ));
        }
    }
    Ok(lists)
}

/// Refuses a list that those who verify certificates would not read.
fn check(title: &str, line: usize, list: &Der) -> Result<(), String> {
    let (rest, list) = CertificateRevocationList::from_der(list).map_err(|_| not_lists(title))?;
    if !rest.is_empty() {
        return Err(format!(
            "{title} has a list of revoked certificates with something behind it, at line {line}: write the list as the \
             authority gives it"
        ));
    }
    if list.version().is_none() {
        return Err(format!(
            "{title} has a list of revoked certificates of version 1, which is not supported: have one of version 2 issued \
             (for `openssl ca`, write `crlnumber` in its configuration)"
        ));
    }
    if list.next_update().is_none() {
        return Err(format!(
            "{title} has a list of revoked certificates that does not say when the next one comes: have one issued that does"
        ));
    }
    Ok(())
}

/// The keys of authorities, in DER, by their names in DER. `None`: there are several of one name.
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
        let known = self.0.entry(name).or_insert_with(|| Some(key.clone()));
        if known.as_ref() != Some(&key) {
            *known = None;
        }
    }
}

pub fn not_lists(title: &str) -> String {
    format!(
        "{title} has no list of revoked certificates that can be read: write a PEM text that begins with -----BEGIN X509 \
         CRL-----, or leave it out"
    )
}

/// With an algorithm for other keys it fails.
fn has_signed(key: &[u8], list: &CertificateRevocationList<'_>) -> bool {
    let Ok((_, key)) = SubjectPublicKeyInfo::from_der(key) else { return false };
    let (key, signature) = (&key.subject_public_key.data, &list.signature_value.data);
    let mut algorithms = aws_lc_rs::default_provider().signature_verification_algorithms.all.iter();
    algorithms.any(|one| one.verify_signature(key, list.tbs_cert_list.as_ref(), signature).is_ok())
}

/// The serial numbers in these lists, by the issuer's name in DER.
pub fn serials(lists: &[Der]) -> BTreeMap<Vec<u8>, BTreeSet<Vec<u8>>> {
    let mut serials: BTreeMap<Vec<u8>, BTreeSet<Vec<u8>>> = BTreeMap::new();
    for list in lists {
        // One that cannot be read was refused before.
        let Ok((_, list)) = CertificateRevocationList::from_der(list) else { continue };
        let revoked = list.iter_revoked_certificates().map(|revoked| revoked.raw_serial().to_vec());
        serials.entry(list.issuer().as_raw().to_vec()).or_default().extend(revoked);
    }
    serials
}

/// Whose lists these are: their names in DER.
pub fn issuers(lists: &[Der]) -> Vec<Box<[u8]>> {
    let read = |list| CertificateRevocationList::from_der(list).map(|(_, list)| list.issuer().as_raw().into());
    // One that cannot be read was refused before.
    lists.iter().map(|list| read(list).unwrap_or_default()).collect()
}

/// A list that is beside other authorities than the one whose name it has, which has not signed it. `cached` has the answer
/// for a digest of list and key, or asks for it.
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
            // Those of its own were looked at when they were read.
            let Some(Some(key)) = keys.0.get(&**issuer).filter(|_| !own.0.contains_key(&**issuer)) else { continue };
            let (_, list) = CertificateRevocationList::from_der(list).ok()?;
            let of_list = fingerprint([&authority.fingerprint[..], &index.to_be_bytes()[..]]);
            if !cached(fingerprint([&of_list[..], &key[..]]), &mut || has_signed(key, &list)) {
                return Some(format!(
                    "{} has a list of what {} has revoked, whose signature is not that of the authority of this name: write \
                     the list as the authority gives it, or leave it out",
                    authority.source,
                    list.issuer()
                ));
            }
        }
    }
    None
}

/// What cannot be verified, although each authority by itself could: whoever verifies knows lists by the issuer's name.
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
        "several authorities have the name {issuer} and different keys, so that a list of what it has revoked would be taken \
         for the list of each: write one of them only, leave the lists (`ca.crl`) out, or give the new one another name"
    )
}

pub fn of_all(authorities: &[Arc<Authority>]) -> Vec<Der> {
    newest(authorities.iter().flat_map(|authority| &authority.revoked)).cloned().collect()
}

/// The lists that count, those that were issued last first: whoever verifies looks at the first that is for a certificate.
/// A list is in place of all that its issuer has given out before for the same certificates.
pub fn newest<'a>(lists: impl IntoIterator<Item = &'a Der>) -> impl Iterator<Item = &'a Der> {
    let read = |der: &'a Der| {
        // One that cannot be read was refused before.
        let (_, list) = CertificateRevocationList::from_der(der).ok()?;
        let is_part = |parsed: &ParsedExtension<'_>| matches!(parsed, ParsedExtension::IssuingDistributionPoint(_));
        let part = list.extensions().iter().find(|extension| is_part(extension.parsed_extension()));
        let part = part.map(|part| part.value.to_vec());
        Some((list.last_update().timestamp(), list.issuer().as_raw().to_vec(), part, der))
    };
    let mut lists: Vec<_> = lists.into_iter().filter_map(read).collect();
    lists.sort_by_key(|(updated, ..)| Reverse(*updated));
    let mut replaced = BTreeSet::new();
    lists.retain(|(_, issuer, part, _)| {
        // A whole list is also in place of all parts.
        let is_replaced = replaced.contains(&(issuer.clone(), None));
        !is_replaced && replaced.insert((issuer.clone(), part.clone()))
    });
    lists.into_iter().map(|(.., der)| der)
}
