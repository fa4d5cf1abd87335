//! Quotas of namespaces. The oldest load balancers are within them, identically on every replica.

use std::collections::{BTreeMap, BTreeSet};

use imbl::OrdMap;

use super::{
    declared::{Declared, ObjectRef},
    tenancy::Tenancy,
};
use crate::model::ObjectKey;

/// Load balancers, which are in the order of namespace and name, by creation time. The oldest come first, for
/// allocations that cannot satisfy all.
pub fn oldest_first<'a>(
    load_balancers: impl IntoIterator<Item = (&'a ObjectKey, &'a Declared)>,
) -> Vec<(&'a ObjectKey, &'a Declared)> {
    let mut objects: Vec<_> = load_balancers.into_iter().collect();
    objects.sort_by_key(|(_, declared)| declared.identity.as_ref().map(|identity| identity.created));
    objects
}

/// The objects within the administrator's quotas. Without quotas, all objects are.
#[derive(Debug, Default)]
pub struct Quotas {
    /// The share of each load balancer. Sidecars are absent, because they use no shared resources.
    shares: BTreeMap<ObjectKey, ListenerShare>,
    /// `None`: unlimited.
    references: Option<BTreeSet<ObjectRef>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerShare {
    /// The first listeners, this many.
    Listeners(usize),
    Nothing,
}

impl Quotas {
    pub fn of(load_balancers: &OrdMap<ObjectKey, Declared>, tenancy: Option<&Tenancy>) -> Self {
        let Some(tenancy) = tenancy else { return Self::default() };
        let (in_pods, ours): (Vec<_>, Vec<_>) =
            oldest_first(load_balancers).into_iter().partition(|(_, declared)| declared.is_in_pods());
        let mut quotas = Self { shares: shares(&ours, tenancy), references: None };
        // Sidecars come last, because they are only validated here.
        quotas.references =
            tenancy.secrets_per_namespace.map(|most| quotas.references(ours.into_iter().chain(in_pods), most));
        quotas
    }

    /// The share of a load balancer. `None`: unlimited.
    pub fn share(&self, object: &ObjectKey) -> Option<ListenerShare> {
        self.shares.get(object).copied()
    }

    /// The number of permitted listeners of a load balancer, counted from the first.
    pub fn listeners(&self, object: &ObjectKey) -> usize {
        match self.share(object) {
            None => usize::MAX,
            Some(ListenerShare::Listeners(left)) => left,
            Some(ListenerShare::Nothing) => 0,
        }
    }

    /// True if a reference of load balancers is within the quotas.
    pub fn allow(&self, referred: &ObjectRef) -> bool {
        self.references.as_ref().is_none_or(|references| references.contains(referred))
    }

    /// The first references of the load balancers that are within the quotas so far.
    fn references<'a>(
        &self,
        in_turn: impl Iterator<Item = (&'a ObjectKey, &'a Declared)>,
        most: u32,
    ) -> BTreeSet<ObjectRef> {
        let most = count(most);
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        let mut references = BTreeSet::new();
        for (object, declared) in in_turn {
            let Some(spec) = &declared.spec else { continue };
            let listeners = spec.listeners.iter().take(self.listeners(object));
            let backends = spec.backends.iter().filter(|_| self.share(object) != Some(ListenerShare::Nothing));
            let count = counts.entry(&*object.namespace).or_default();
            let of_listeners = listeners.flat_map(|listener| listener.references());
            let of_backends = backends.flat_map(|backend| backend.references());
            let checks = spec.health_check.iter().filter(|_| self.share(object) != Some(ListenerShare::Nothing));
            let of_checks = checks.flat_map(|check| check.references());
            for reference in of_listeners.chain(of_backends).chain(of_checks) {
                if *count < most && references.insert(ObjectRef::by(object, reference)) {
                    *count += 1;
                }
            }
        }
        references
    }
}

fn shares(oldest_first: &[(&ObjectKey, &Declared)], tenancy: &Tenancy) -> BTreeMap<ObjectKey, ListenerShare> {
    let most = |cap: Option<u32>| cap.map_or(usize::MAX, count);
    let most = (most(tenancy.load_balancers_per_namespace), most(tenancy.listeners_per_namespace));
    let mut used: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    let mut shares = BTreeMap::new();
    for (object, declared) in oldest_first {
        let (load_balancers, listeners) = used.entry(&object.namespace).or_default();
        let share = if *load_balancers < most.0 {
            ListenerShare::Listeners(most.1 - *listeners)
        } else {
            ListenerShare::Nothing
        };
        if let ListenerShare::Listeners(left) = share {
            *load_balancers += 1;
            *listeners += declared.spec.as_ref().map_or(0, |spec| spec.listeners.len()).min(left);
        }
        shares.insert(ObjectKey::clone(object), share);
    }
    shares
}

fn count(cap: u32) -> usize {
    usize::try_from(cap).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::{api::RefKind, world::ObjectIdentity};

    /// A load balancer with this creation time in seconds, and these Secrets for each of its listeners.
    fn declared(created: i64, placement: &str, secrets: &[&[&str]]) -> Declared {
        let listener = |names: &&[&str]| {
            let names: Vec<_> = names.iter().map(|name| json!({"name": name})).collect();
            json!({"port": 1, "tls": {"certificateRefs": names}})
        };
        let listeners: Vec<_> = secrets.iter().map(listener).collect();
        let spec = json!({"placement": placement, "listeners": listeners, "backends": []});
        Declared {
            spec: Some(Arc::new(serde_json::from_value(spec).unwrap())),
            problems: Vec::new(),
            without_value: Vec::new(),
            origin: "".into(),
            folder: "".into(),
            identity: Some(ObjectIdentity {
                created: Timestamp::from_second(created).unwrap(),
                uid: "".into(),
                generation: 1,
            }),
            status: None,
        }
    }

    fn secret(namespace: &str, name: &str) -> ObjectRef {
        ObjectRef { kind: RefKind::Secret, key: ObjectKey::new(namespace, name) }
    }

    #[test]
    fn the_secrets_of_the_oldest_are_read() {
        let load_balancers = OrdMap::from(vec![
            (ObjectKey::new("shop", "a"), declared(3, "Gateway", &[&["a1", "b1"], &["a2"]])),
            (ObjectKey::new("shop", "b"), declared(1, "Gateway", &[&["b1", "b2"], &["b1", "b3"], &["b4"]])),
            (ObjectKey::new("shop", "c"), declared(2, "Gateway", &[&["c1"]])),
            (ObjectKey::new("shop", "in-pods"), declared(0, "Sidecar", &[&["p1"]])),
            (ObjectKey::new("games", "g"), declared(9, "Gateway", &[&["a1", "g1"]])),
        ]);
        let all = ["a1", "a2", "b1", "b2", "b3", "b4", "c1", "p1"];
        for (caps, expected) in [
            ([None, None, None], &all[..]),
            ([None, None, Some(0)], &[]),
            ([None, None, Some(3)], &["b1", "b2", "b3"]),
            ([None, None, Some(5)], &["b1", "b2", "b3", "b4", "c1"]),
            // Sidecars get the remaining quota.
            ([None, None, Some(7)], &["a1", "a2", "b1", "b2", "b3", "b4", "c1"]),
            ([None, None, Some(8)], &all),
            // The references of a load balancer that exceeds its quota are not read.
            ([Some(1), None, Some(100)], &["b1", "b2", "b3", "b4", "p1"]),
            ([None, Some(2), Some(100)], &["b1", "b2", "b3", "p1"]),
            ([None, Some(5), Some(100)], &["a1", "b1", "b2", "b3", "b4", "c1", "p1"]),
        ] {
            let [load_balancers_per_namespace, listeners_per_namespace, secrets_per_namespace] = caps;
            let tenancy = Tenancy {
                load_balancers_per_namespace,
                listeners_per_namespace,
                secrets_per_namespace,
                ..Tenancy::default()
            };
            let quotas = Quotas::of(&load_balancers, Some(&tenancy));
            let read = |namespace, names: &[&'static str]| -> Vec<_> {
                let read = names.iter().filter(|name| quotas.allow(&secret(namespace, name)));
                read.copied().collect()
            };
            assert_eq!(read("shop", &all), expected, "{caps:?}");
            let elsewhere = if secrets_per_namespace == Some(0) { &[][..] } else { &["a1", "g1"] };
            assert_eq!(read("games", &["a1", "g1"]), elsewhere, "another namespace has its own");
        }
        assert!(Quotas::of(&load_balancers, None).allow(&secret("shop", "a1")), "nobody limits it");
    }
}
