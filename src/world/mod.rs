//! The known objects at one moment: plain data, which `source` gathers and `translate` reads.
//!
//! [`Allocations`] are the proxy ports with their owners, [`managed_service`] reads the Services that the leader
//! manages, and [`Quotas`] limit each namespace.

mod allocations;
mod declared;
mod dns;
mod endpoint_slice;
mod limits;
pub mod managed_service;
mod mode;
mod objects;
mod quotas;
mod tenancy;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

pub use allocations::{Allocation, Allocations, namespace_of};
pub use declared::{COMMAND_LINE, Declared, ObjectIdentity, ObjectRef, backend_services};
pub use dns::{Lookup, WantedName};
pub use endpoint_slice::{SERVICE_NAME, SLICES_OF, service_of};
use imbl::OrdMap;
use k8s_openapi::api::{
    core::v1::{ConfigMap, Secret, Service},
    discovery::v1::EndpointSlice,
};
pub use limits::{MAX_PROBLEMS, MAX_SENTENCE, more_problems};
pub use mode::{ProcessLocality, ProcessMode};
pub use objects::Objects;
pub use quotas::{ListenerShare, Quotas, oldest_first};
pub use tenancy::Tenancy;

use crate::{api::Host, model::ObjectKey};

/// All declarations and objects at one moment: the input of [`translate`](crate::translate).
///
/// Its maps are persistent: a clone takes constant time, and comparing two versions takes time proportional to the changes
/// between them.
#[derive(Clone, Default, PartialEq)]
pub struct World {
    pub load_balancers: OrdMap<ObjectKey, Declared>,
    pub secrets: Objects<Secret>,
    pub config_maps: Objects<ConfigMap>,
    pub services: Objects<Service>,
    pub endpoint_slices: Objects<EndpointSlice>,
    /// The contents of the certificate and key files that manifests name, by path, or the reason why a file cannot be
    /// read, as a predicate: `there is no such file`.
    pub files: OrdMap<PathBuf, Result<Arc<[u8]>, Arc<str>>>,
    /// The results of the DNS lookups of names in manifests.
    pub names: OrdMap<Arc<str>, Lookup>,
    /// The references that are not read because they exceed the quota of their namespace.
    pub beyond_quota: BTreeSet<ObjectRef>,
    /// Declared objects, by kind, that have never been readable, with the reason as a predicate of the object.
    pub unreadable: BTreeMap<(&'static str, ObjectKey), Arc<str>>,
    /// Objects, by kind, whose existence is unknown here, with the reason as a predicate of the object. The
    /// EndpointSlices of a Service have its name. Empty if the whole cluster, or every source, has been read.
    pub unread: BTreeMap<(&'static str, ObjectKey), Arc<str>>,
    /// Problems that belong to no load balancer: unreadable files, documents without a name.
    pub problems: Vec<String>,
    /// The placement that the process serves.
    pub mode: ProcessMode,
    /// The location of the process. `None`: this process serves nothing.
    pub locality: Option<ProcessLocality>,
    /// True if the ports of a [`ProcessMode::Gateway`] are not stored and the leader must write them.
    pub ports_are_lost: bool,
}

impl World {
    /// The reason why an object is unknown. `None`: the object is in this world, or does not exist.
    pub fn unread(&self, kind: &'static str, key: &ObjectKey) -> Option<Arc<str>> {
        if self.unread.is_empty() { None } else { self.unread.get(&(kind, key.clone())).cloned() }
    }

    /// The EndpointSlices of a Service.
    pub fn slices_of(&self, service: &ObjectKey) -> impl Iterator<Item = &Arc<EndpointSlice>> {
        let first = ObjectKey::new(&service.namespace, "");
        let in_namespace = self.endpoint_slices.range(first..);
        let in_namespace = in_namespace.take_while(|(key, _)| key.namespace == service.namespace);
        in_namespace.map(|(_, slice)| &**slice).filter(|slice| service_of(slice) == Some(&service.name))
    }

    /// The DNS names of backends, each with the shortest interval of its lookups. Empty if the mode cannot use
    /// addresses.
    pub fn names_wanted(&self) -> BTreeMap<Arc<str>, WantedName> {
        const DEFAULT: Duration = Duration::from_secs(30);
        const SHORTEST: Duration = Duration::from_secs(1);
        const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

        let mut wanted: BTreeMap<Arc<str>, WantedName> = BTreeMap::new();
        if !self.mode.reaches_addresses() {
            return wanted;
        }
        let specs = self.load_balancers.iter().filter_map(|(key, declared)| Some((key, declared.spec.as_ref()?)));
        for (object, backend) in specs.flat_map(|(key, spec)| spec.backends.iter().map(move |backend| (key, backend))) {
            let interval = backend.resolve_interval.map_or(DEFAULT, |interval| interval.0.clamp(SHORTEST, LONGEST));
            for address in backend.addresses.iter().flatten() {
                let Host::Name(name) = &address.host else { continue };
                let wanted =
                    wanted.entry(name.as_str().into()).or_insert_with(|| WantedName { interval, objects: Vec::new() });
                wanted.interval = interval.min(wanted.interval);
                // `objects` is sorted, so those of this namespace are the last ones.
                let of_namespace = wanted.objects.iter().rev().take(WantedName::MAX_OBJECTS);
                let of_namespace = of_namespace.take_while(|other| other.namespace == object.namespace).count();
                if wanted.objects.last() != Some(object) && of_namespace < WantedName::MAX_OBJECTS {
                    wanted.objects.push(object.clone());
                }
            }
        }
        wanted
    }
}

/// Omits the contents of Secrets and key files.
impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World")
            .field("load_balancers", &self.load_balancers)
            .field("secrets", &self.secrets.keys().collect::<Vec<_>>())
            .field("config_maps", &self.config_maps.keys().collect::<Vec<_>>())
            .field("services", &self.services)
            .field("endpoint_slices", &self.endpoint_slices)
            .field("files", &self.files.keys().collect::<Vec<_>>())
            .field("names", &self.names)
            .field("beyond_quota", &self.beyond_quota)
            .field("unreadable", &self.unreadable)
            .field("unread", &self.unread)
            .field("problems", &self.problems)
            .field("mode", &self.mode)
            .field("locality", &self.locality)
            .field("ports_are_lost", &self.ports_are_lost)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_interval_of_a_name_is_wanted() {
        let declared = |backends| {
            let spec = serde_json::json!({"listeners": [{"port": 1}], "backends": backends});
            let spec = Some(Arc::new(serde_json::from_value(spec).unwrap()));
            Declared {
                spec,
                problems: vec![],
                without_value: Vec::new(),
                origin: "a.yaml".into(),
                folder: PathBuf::new(),
                identity: None,
                status: None,
            }
        };
        let mut world = World::default();
        world.load_balancers.insert(
            ObjectKey::new("default", "a"),
            declared(serde_json::json!([
                {"name": "a", "addresses": ["DB:1", "192.0.2.7:1", "[::1]:1"]},
                {"name": "b", "addresses": ["db:2", "often:1"], "resolveInterval": "1m"},
            ])),
        );
        world.load_balancers.insert(
            ObjectKey::new("default", "b"),
            declared(serde_json::json!([{"addresses": ["often:1"], "resolveInterval": "1ms"}])),
        );
        let wanted = |name: &str, seconds, objects: &[&str]| {
            let objects = objects.iter().map(|name| ObjectKey::new("default", name)).collect();
            (Arc::from(name), WantedName { interval: Duration::from_secs(seconds), objects })
        };
        assert_eq!(world.names_wanted(), BTreeMap::from([wanted("db", 30, &["a"]), wanted("often", 1, &["a", "b"])]));

        let many = (0..20).map(|number| ObjectKey::new("a-first", &format!("{number:02}")));
        for object in many.clone().chain([ObjectKey::new("z-last", "c")]) {
            world.load_balancers.insert(object, declared(serde_json::json!([{"addresses": ["db:1"]}])));
        }
        let of_each: Vec<_> =
            many.take(8).chain([ObjectKey::new("default", "a"), ObjectKey::new("z-last", "c")]).collect();
        assert_eq!(
            world.names_wanted()["db"].objects,
            of_each,
            "no namespace is left out for the load balancers of others"
        );

        world.mode = ProcessMode::Host(Arc::default());
        assert_eq!(world.names_wanted(), BTreeMap::new(), "whose answers nobody may use");
    }
}
