//! Order and selection of revocation lists.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;
use rustls::pki_types::CertificateRevocationListDer;
use x509_parser::{extensions::ParsedExtension, prelude::FromDer, revocation_list::CertificateRevocationList};

use crate::{
    model::Authority,
    translate::tls::certificates::{quoted_name, timestamp},
};

pub type Der = CertificateRevocationListDer<'static>;

/// Effective lists of several authorities.
pub struct Lists {
    pub current: Vec<Der>,
    /// Lists that become effective at a later time, if some have an issue date in the future.
    pub upcoming: Option<(Timestamp, Vec<Der>)>,
}

impl Lists {
    pub fn of_all(authorities: &[Arc<Authority>], now: Timestamp) -> Self {
        let all = || authorities.iter().flat_map(|authority| &authority.revoked);
        let current = newest(all().filter(|list| issued(list) <= now)).cloned().collect();
        let upcoming = all().map(issued).max().filter(|last| *last > now);
        Self { current, upcoming: upcoming.map(|from| (from, newest(all()).cloned().collect())) }
    }
}

fn issued(list: &Der) -> Timestamp {
    // Unreadable lists were refused before.
    CertificateRevocationList::from_der(list).map_or(Timestamp::MIN, |(_, list)| timestamp(list.last_update()))
}

/// Lists that are effective now, and those that will be once all are issued.
pub fn counting(lists: &[Der], now: Timestamp) -> impl Iterator<Item = &Der> {
    let last: Vec<_> = newest(lists).collect();
    let current: Vec<_> = newest(lists.iter().filter(|list| issued(list) <= now)).collect();
    let current: Vec<_> = current.into_iter().filter(|list| !last.contains(list)).collect();
    last.into_iter().chain(current)
}

/// A parsed list.
pub struct RevocationList<'a> {
    pub der: &'a Der,
    pub crl: CertificateRevocationList<'a>,
}

/// Order in which lists of one issuer replace each other: by time, complete lists last, and by number.
type Age = (i64, bool, Option<(usize, Vec<u8>)>);

impl<'a> RevocationList<'a> {
    /// Parses a list. `None`: it was refused before.
    pub fn read(der: &'a Der) -> Option<Self> {
        Some(Self { der, crl: CertificateRevocationList::from_der(der).ok()?.1 })
    }

    /// The distribution point that the list covers. `None`: the list is complete.
    pub fn part(&self) -> Option<&[u8]> {
        let is_part = |parsed: &ParsedExtension<'_>| matches!(parsed, ParsedExtension::IssuingDistributionPoint(_));
        let part = self.crl.extensions().iter().find(|extension| is_part(extension.parsed_extension()));
        part.map(|part| part.value)
    }

    fn age(&self) -> Age {
        let number = self.crl.crl_number().map(|number| number.to_bytes_be());
        let number = number.map(|bytes| (bytes.len(), bytes));
        (self.crl.last_update().timestamp(), self.part().is_none(), number)
    }
}

/// Problem of two lists of which neither is newer.
pub fn tie(lists: &[RevocationList<'_>]) -> Option<String> {
    let mut by_key = BTreeMap::new();
    for list in lists {
        let key = (list.crl.issuer().as_raw(), list.part(), list.age());
        let content: &[u8] = list.crl.tbs_cert_list.as_ref();
        if *by_key.entry(key).or_insert(content) != content {
            return Some(format!(
                "several revocation lists of {}, issued at {}, with the same number and different content: keep only \
                 the newest",
                quoted_name(list.crl.issuer()),
                timestamp(list.crl.last_update())
            ));
        }
    }
    None
}

/// Effective lists, the latest first, since verifiers use the first list that covers a certificate. A list replaces all
/// earlier ones of its issuer for the same certificates.
fn newest<'a>(lists: impl IntoIterator<Item = &'a Der>) -> impl Iterator<Item = &'a Der> {
    let mut lists: Vec<_> = lists.into_iter().filter_map(RevocationList::read).collect();
    lists.sort_by_cached_key(|list| Reverse(list.age()));
    let mut replaced = BTreeSet::new();
    lists.retain(|list| {
        let (issuer, part) = (list.crl.issuer().as_raw().to_vec(), list.part().map(<[u8]>::to_vec));
        // A complete list replaces partial lists too.
        let is_replaced = replaced.contains(&(issuer.clone(), None));
        !is_replaced && replaced.insert((issuer, part))
    });
    lists.into_iter().map(|list| list.der)
}
