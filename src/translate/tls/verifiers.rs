//! Verifiers in use, and a limit of the memory and CPU time for further ones.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::model::{
    Authority, CertificateCache, Listener, ObjectKey, SharedVerifiers, UpstreamConfig, VerifiedPeer, VerifierKey,
};

/// The maximum number of repeated bytes in a namespace, in DER. Parsed revocation lists take about eight times as much.
const MAX_REPEATED: usize = 8 << 20;
/// The limit with the verifiers that a change replaces: a new revocation list is not refused because of the old one.
const MAX_REPEATED_DURING_CHANGE: usize = 2 * MAX_REPEATED;

/// The verifiers of the previous translation, and those of listeners and backends with a last good configuration.
pub fn verifiers_in_use<'a>(
    cache: &CertificateCache,
    listeners: impl Iterator<Item = &'a Arc<Listener>>,
    upstreams: impl Iterator<Item = (&'a ObjectKey, &'a Arc<UpstreamConfig>)>,
) -> SharedVerifiers {
    let mut verifiers = cache.verifiers.clone();
    for listener in listeners {
        let validation = listener.tls.as_ref().and_then(|tls| tls.client_validation.as_ref());
        let Some(validation) = validation else { continue };
        let (namespace, authorities) = (listener.upstream.object.namespace.clone(), validation.authorities.clone());
        let key = VerifierKey { namespace, peer: VerifiedPeer::Client(validation.mode), authorities };
        if !verifiers.clients.contains_key(&key) {
            verifiers.clients.insert(key, Ok(validation.clone()));
        }
    }
    for (object, upstream) in upstreams {
        for tls in upstream.backends.values().filter_map(|backend| backend.tls.as_ref()) {
            let (Some(authorities), Some(verifier)) = (&tls.terms.authorities, &tls.client.verifier) else { continue };
            let (namespace, authorities) = (object.namespace.clone(), authorities.clone());
            let key = VerifierKey { namespace, peer: VerifiedPeer::Backend, authorities };
            if !verifiers.backends.contains_key(&key) {
                verifiers.backends.insert(key, Ok(verifier.clone()));
            }
        }
    }
    verifiers
}

/// Limits the verifiers of each namespace. Each has its own copy of its authorities and lists, so a few large texts in
/// many combinations could use up all memory. Only repeated copies of a text count: the first one is in proportion to
/// the text.
#[derive(Default)]
pub struct VerifierQuota {
    /// The verifiers before this translation, and its new ones.
    in_memory: CountedVerifiers,
    /// The verifiers that this translation uses.
    used: CountedVerifiers,
}

#[derive(Default)]
struct CountedVerifiers {
    keys: BTreeSet<VerifierKey>,
    namespaces: BTreeMap<Arc<str>, Copies>,
}

/// The copies of authorities in the verifiers of a namespace.
#[derive(Default)]
struct Copies {
    authorities: BTreeSet<Arc<Authority>>,
    /// The size of all copies but the first of each authority.
    repeated: usize,
}

impl VerifierQuota {
    /// The quota beside these verifiers.
    pub fn of<'a>(verifiers: impl Iterator<Item = &'a VerifierKey>) -> Self {
        let mut quota = Self::default();
        for key in verifiers {
            quota.in_memory.insert(key);
        }
        quota
    }

    /// Admits a verifier, unless it exceeds the limit. The result depends on the declarations, not on the verifiers in
    /// memory, unless these are many: so a later change of all lists is admitted as well.
    pub fn admit(&mut self, key: &VerifierKey) -> Result<(), String> {
        if self.used.keys.contains(key) {
            return Ok(());
        }
        let is_new = !self.in_memory.keys.contains(key);
        let exceeds = self.used.would_exceed(key, MAX_REPEATED)
            || (is_new && self.in_memory.would_exceed(key, MAX_REPEATED_DURING_CHANGE));
        if exceeds {
            return Err(format!(
                "the different combinations of authorities in namespace {} would repeat more than {} MiB of \
                 certificates and revocation lists: use the same caRefs for several listeners and backends, or have \
                 shorter lists issued",
                key.namespace,
                MAX_REPEATED >> 20
            ));
        }
        self.used.insert(key);
        if is_new {
            self.in_memory.insert(key);
        }
        Ok(())
    }
}

impl CountedVerifiers {
    fn would_exceed(&self, key: &VerifierKey, limit: usize) -> bool {
        let copies = self.namespaces.get(&key.namespace);
        let (before, more) = copies.map_or((0, 0), |copies| (copies.repeated, copies.repeated_in(key)));
        more > 0 && before.saturating_add(more) > limit
    }

    fn insert(&mut self, key: &VerifierKey) {
        let copies = self.namespaces.entry(key.namespace.clone()).or_default();
        copies.repeated = copies.repeated.saturating_add(copies.repeated_in(key));
        copies.authorities.extend(key.authorities.iter().cloned());
        self.keys.insert(key.clone());
    }
}

impl Copies {
    fn repeated_in(&self, key: &VerifierKey) -> usize {
        // A list of the future is in a second verifier, together with all other lists.
        let verifiers = if key.authorities.iter().any(|authority| !authority.upcoming.is_empty()) { 2 } else { 1 };
        let repeated = key.authorities.iter().filter(|authority| self.authorities.contains(*authority));
        repeated.map(|authority| size(authority, verifiers)).sum()
    }
}

fn size(authority: &Authority, verifiers: usize) -> usize {
    let certificates: usize = authority.certificates.iter().map(|certificate| certificate.len()).sum();
    let lists: usize = authority.revoked.iter().map(|list| list.len()).sum();
    certificates + verifiers * lists
}
