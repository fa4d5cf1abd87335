//! Comparison of authorities and lists of several sources.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use rustls::{RootCertStore, pki_types::CertificateDer};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::{
    lists::{RevocationList, tie},
    names,
};
use crate::{
    model::{Authority, AuthorityReview, is_self_signed_authority},
    translate::tls::certificates::quoted_name,
};

/// Certificates of authorities, divided by whether a list revokes them.
pub struct Anchors<'a> {
    pub trusted: Vec<(&'a Arc<Authority>, usize)>,
    pub revoked: Vec<(&'a Arc<Authority>, usize)>,
}

impl<'a> Anchors<'a> {
    pub fn of(authorities: &'a [Arc<Authority>]) -> Self {
        let all =
            authorities.iter().flat_map(|authority| (0..authority.certificates.len()).map(move |i| (authority, i)));
        let mut by_issuer: BTreeMap<Vec<u8>, BTreeMap<Vec<u8>, Vec<usize>>> = BTreeMap::new();
        let all: Vec<_> = all.collect();
        for (position, (authority, index)) in all.iter().enumerate() {
            let Ok((_, certificate)) = X509Certificate::from_der(&authority.certificates[*index]) else { continue };
            let of_issuer = by_issuer.entry(certificate.issuer().as_raw().to_vec()).or_default();
            of_issuer.entry(certificate.raw_serial().to_vec()).or_default().push(position);
        }
        let mut revoked: BTreeSet<usize> = BTreeSet::new();
        for list in authorities.iter().flat_map(|authority| &authority.revoked).filter_map(RevocationList::read) {
            let Some(of_issuer) = by_issuer.get(list.crl.issuer().as_raw()) else { continue };
            for entry in list.crl.iter_revoked_certificates() {
                revoked.extend(of_issuer.get(entry.raw_serial()).into_iter().flatten());
            }
        }
        let (revoked, trusted): (Vec<_>, Vec<_>) =
            all.into_iter().enumerate().partition(|(position, _)| revoked.contains(position));
        let anchors = |all: Vec<(usize, _)>| all.into_iter().map(|(_, anchor)| anchor).collect();
        Self { trusted: anchors(trusted), revoked: anchors(revoked) }
    }

    /// Trust anchors. Revoked ones are used if there are no others, since a verifier needs at least one.
    pub fn roots(&self) -> RootCertStore {
        let anchors = if self.trusted.is_empty() { &self.revoked } else { &self.trusted };
        anchors.iter().filter_map(|(authority, index)| authority.roots.roots.get(*index).cloned()).collect()
    }

    /// Self-signed certificates that are their own authority.
    pub fn self_signed(&self) -> BTreeSet<Box<[u8]>> {
        let is_own = |der: &&CertificateDer<'_>| {
            X509Certificate::from_der(der).is_ok_and(|(_, certificate)| is_self_signed_authority(&certificate))
        };
        let certificates = self.trusted.iter().map(|(authority, index)| &authority.certificates[*index]);
        certificates.filter(is_own).map(|der| der.as_ref().into()).collect()
    }
}

/// Problems that only show when all sources of a field are known.
pub fn review(authorities: &[Arc<Authority>]) -> AuthorityReview {
    let lists = authorities.iter().flat_map(|authority| authority.revoked.iter().map(move |list| (authority, list)));
    let lists: Vec<_> = lists.filter_map(|(authority, list)| Some((authority, RevocationList::read(list)?))).collect();
    if lists.is_empty() {
        return AuthorityReview::default();
    }
    let certificates = authorities.iter().flat_map(|authority| &authority.certificates);
    let certificates: Vec<_> = certificates.filter_map(|der| Some(X509Certificate::from_der(der).ok()?.1)).collect();
    let subjects: BTreeSet<_> = certificates.iter().map(|certificate| certificate.subject().as_raw()).collect();
    let canonical: BTreeMap<_, _> = certificates
        .iter()
        .map(|certificate| (names::canonical(certificate.subject()), certificate.subject()))
        .collect();
    let mut warnings = Vec::new();
    let (mut strange, mut with_complete, mut in_parts) = (Vec::new(), BTreeSet::new(), BTreeMap::new());
    for (authority, list) in &lists {
        let issuer = list.crl.issuer();
        if !subjects.contains(issuer.as_raw()) {
            if let Some(subject) = canonical.get(&names::canonical(issuer)) {
                let refused = Some(names::misnamed(&authority.source, issuer, &subject.to_string()));
                return AuthorityReview { refused, warnings, ..AuthorityReview::default() };
            }
            strange.push(format!(
                "{} has a revocation list of {}, which is not among the authorities, so the list only applies if it is \
                 an intermediate of theirs: write the certificate of its authority in ca.crt, or remove the list",
                authority.source,
                quoted_name(issuer)
            ));
        }
        if list.part().is_none() {
            with_complete.insert(issuer.as_raw());
        } else {
            in_parts.entry(issuer.as_raw()).or_insert(issuer);
        }
    }
    warnings.extend(in_one(strange));
    let incomplete = in_parts.iter().filter(|(name, _)| !with_complete.contains(*name)).map(|(_, issuer)| {
        format!(
            "there is no complete revocation list of {}, only lists with a distribution point, which apply to \
             certificates that name it: add the complete list if any of its certificates names none",
            quoted_name(issuer)
        )
    });
    warnings.extend(in_one(incomplete.collect()));
    warnings.extend(in_one(revoked(authorities)));
    let lists: Vec<_> = lists.into_iter().map(|(_, list)| list).collect();
    let refused = tie(&lists).map(|problem| format!("the sources have {problem}"));
    AuthorityReview { refused, warnings, ..AuthorityReview::default() }
}

fn revoked(authorities: &[Arc<Authority>]) -> Vec<String> {
    let anchors = Anchors::of(authorities);
    let sentence = |(authority, index): &(&Arc<Authority>, usize)| {
        let (_, certificate) = X509Certificate::from_der(&authority.certificates[*index]).ok()?;
        Some(format!(
            "the authority {} in {} is revoked by a list of {}: remove it; certificates that it issued are refused",
            quoted_name(certificate.subject()),
            authority.source,
            quoted_name(certificate.issuer())
        ))
    };
    anchors.revoked.iter().filter_map(sentence).collect()
}

/// The first sentence, with the number of further ones.
fn in_one(sentences: Vec<String>) -> Option<String> {
    let others = sentences.len().saturating_sub(1);
    let first = sentences.into_iter().next()?;
    Some(if others == 0 { first } else { format!("{first}; the same applies to {others} more") })
}
