//! Lists of revoked certificates (CRL, RFC 5280).

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use rustls::{
    DistinguishedName,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, CertificateRevocationListDer, TrustAnchor, pem::PemObject},
};
use x509_parser::{
    certificate::X509Certificate,
    extensions::ParsedExtension,
    prelude::FromDer,
    revocation_list::CertificateRevocationList,
    x509::{SubjectPublicKeyInfo, X509Name},
};

use super::referred::Text;
use crate::model::Authority;

type Der = CertificateRevocationListDer<'static>;

/// The lists in a PEM text, of which those of these authorities have to be signed by them.
pub fn read(Text { title, bytes }: &Text<'_>, authorities: &Text<'_>) -> Result<Vec<Der>, String> {
    let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(bytes).collect();
    // A text without any would revoke nothing, which nobody means who has it.
    let lists = lists.ok().filter(|lists| !lists.is_empty()).ok_or_else(|| not_lists(title))?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(authorities.bytes).flatten().collect();
    for list in &lists {
        let (_, list) = CertificateRevocationList::from_der(list).map_err(|_| not_lists(title))?;
        if list.version().is_none() {
            return Err(format!(
                "{title} has a list of revoked certificates of version 1, which is not supported: have one of version 2 \
                 issued (for `openssl ca`, write `crlnumber` in its configuration)"
            ));
        }
        if list.next_update().is_none() {
            return Err(format!(
                "{title} has a list of revoked certificates that does not say when the next one comes: have one issued \
                 that does"
            ));
        }
        let of_the_name = certificates.iter().filter_map(|certificate| {
            let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
            (certificate.subject().as_raw() == list.issuer().as_raw()).then_some(certificate)
        });
        let of_the_name: Vec<_> = of_the_name.collect();
        // Those of authorities in between are only seen with a client's certificate.
        if !of_the_name.is_empty() && !of_the_name.iter().any(|authority| has_signed(authority.public_key(), &list)) {
            return Err(format!(
                "{title} has a list of what {} has revoked, whose signature is not that of the authority of this name in \
                 {}: write the list as the authority gives it",
                list.issuer(),
                authorities.title
            ));
        }
    }
    Ok(lists)
}

pub fn not_lists(title: &str) -> String {
    format!(
        "{title} has no list of revoked certificates that can be read: write a PEM text that begins with -----BEGIN X509 \
         CRL-----, or leave it out"
    )
}

/// With an algorithm for other keys it fails.
fn has_signed(key: &SubjectPublicKeyInfo<'_>, list: &CertificateRevocationList<'_>) -> bool {
    let (key, signature) = (&key.subject_public_key.data, &list.signature_value.data);
    let mut algorithms = aws_lc_rs::default_provider().signature_verification_algorithms.all.iter();
    algorithms.any(|one| one.verify_signature(key, list.tbs_cert_list.as_ref(), signature).is_ok())
}

/// Whose lists these are: their names in DER.
pub fn issuers(lists: &[Der]) -> Vec<Box<[u8]>> {
    let read = |list| CertificateRevocationList::from_der(list).map(|(_, list)| list.issuer().as_raw().into());
    // One that cannot be read was refused before.
    lists.iter().map(|list| read(list).unwrap_or_default()).collect()
}

/// A list that is beside other authorities than the one whose name it has, which has not signed it.
pub fn forgery(authorities: &[Arc<Authority>]) -> Option<String> {
    let roots = |authority: &Authority, issuer: &[u8]| -> Vec<Vec<u8>> {
        let is_it = |root: &&TrustAnchor<'_>| DistinguishedName::in_sequence(&root.subject).as_ref() == issuer;
        let key =
            |root: &TrustAnchor<'_>| DistinguishedName::in_sequence(&root.subject_public_key_info).as_ref().to_vec();
        authority.roots.roots.iter().filter(is_it).map(key).collect()
    };
    authorities.iter().find_map(|authority| {
        let lists = authority.revoked.iter().zip(&authority.issuers);
        // Those of its own were looked at when they were read.
        lists.filter(|(_, issuer)| roots(authority, issuer).is_empty()).find_map(|(list, issuer)| {
            let keys: Vec<_> = authorities.iter().flat_map(|other| roots(other, issuer)).collect();
            let (_, list) = (!keys.is_empty()).then(|| CertificateRevocationList::from_der(list).ok())??;
            let signed =
                |key: &Vec<u8>| SubjectPublicKeyInfo::from_der(key).is_ok_and(|(_, key)| has_signed(&key, &list));
            (!keys.iter().any(signed)).then(|| {
                format!(
                    "{} has a list of what {} has revoked, whose signature is not that of the authority of this name: \
                     write the list as the authority gives it, or leave it out",
                    authority.source,
                    list.issuer()
                )
            })
        })
    })
}

/// What cannot be verified, although each authority by itself could: whoever verifies knows lists by the issuer's name.
pub fn ambiguity(authorities: &[Arc<Authority>]) -> Option<String> {
    let mut keys = BTreeMap::new();
    let roots = authorities.iter().flat_map(|authority| &authority.roots.roots);
    let shared: Vec<_> = roots
        .filter(|root| {
            let key = root.subject_public_key_info.as_ref();
            *keys.entry(root.subject.as_ref()).or_insert(key) != key
        })
        .map(|root| DistinguishedName::in_sequence(&root.subject))
        .collect();
    if shared.is_empty() {
        return None;
    }
    let mut issuers = authorities.iter().flat_map(|authority| &authority.issuers);
    let issuer = issuers.find(|issuer| shared.iter().any(|name| name.as_ref() == &***issuer))?;
    let (_, issuer) = X509Name::from_der(issuer).ok()?;
    Some(format!(
        "several authorities have the name {issuer} and different keys, so that a list of what it has revoked would be \
         taken for the list of each: write one of them only, leave the lists (`ca.crl`) out, or give the new one another \
         name"
    ))
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
