//! Lists of revoked certificates (CRL, RFC 5280).

use std::{collections::BTreeMap, sync::Arc};

use rustls::{
    DistinguishedName,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, CertificateRevocationListDer, pem::PemObject},
};
use x509_parser::{
    certificate::X509Certificate, extensions::ParsedExtension, prelude::FromDer,
    revocation_list::CertificateRevocationList,
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
        if !of_the_name.is_empty() && !of_the_name.iter().any(|authority| has_signed(authority, &list)) {
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

fn has_signed(authority: &X509Certificate<'_>, list: &CertificateRevocationList<'_>) -> bool {
    let key = &authority.public_key().subject_public_key.data;
    // With an algorithm for other keys it fails.
    let mut algorithms = aws_lc_rs::default_provider().signature_verification_algorithms.all.iter();
    algorithms.any(|one| one.verify_signature(key, list.tbs_cert_list.as_ref(), &list.signature_value.data).is_ok())
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
    let lists = authorities.iter().flat_map(|authority| &authority.revoked);
    let mut issuers =
        lists.filter_map(|list| Some(CertificateRevocationList::from_der(list).ok()?.1.tbs_cert_list.issuer));
    let issuer = issuers.find(|issuer| shared.iter().any(|name| name.as_ref() == issuer.as_raw()))?;
    Some(format!(
        "several authorities have the name {issuer} and different keys, so that a list of what it has revoked would be \
         taken for the list of each: write one of them only, leave the lists (`ca.crl`) out, or give the new one another \
         name"
    ))
}

pub fn of_all(authorities: &[Arc<Authority>]) -> Vec<Der> {
    newest(authorities.iter().flat_map(|authority| &authority.revoked)).cloned().collect()
}

/// The newest list of each issuer and, where an issuer has several, for each of its distribution points: whoever verifies
/// looks at one only.
pub fn newest<'a>(lists: impl IntoIterator<Item = &'a Der>) -> impl Iterator<Item = &'a Der> {
    let mut newest: BTreeMap<_, (i64, &Der)> = BTreeMap::new();
    for list in lists {
        // One that cannot be read was refused before.
        let Ok((_, read)) = CertificateRevocationList::from_der(list) else { continue };
        let is_part = |parsed: &ParsedExtension<'_>| matches!(parsed, ParsedExtension::IssuingDistributionPoint(_));
        let part = read.extensions().iter().find(|extension| is_part(extension.parsed_extension()));
        let of = (read.issuer().as_raw().to_vec(), part.map(|part| part.value.to_vec()));
        let updated = read.last_update().timestamp();
        let known = newest.entry(of).or_insert((updated, list));
        if updated > known.0 {
            *known = (updated, list);
        }
    }
    newest.into_values().map(|(_, list)| list)
}
