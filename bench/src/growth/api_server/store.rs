//! The stored objects of all kinds, and their versions.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{collection::ObjectCollection, path::ResourcePath};

/// The objects of all kinds, shared by requests.
pub struct ObjectStore {
    collections: Mutex<ObjectCollections>,
    /// The holder of the Lease other than tcplb. It renews the Lease before each read.
    other_leader: Option<&'static str>,
}

/// A collection for each kind of objects.
#[derive(Default)]
pub struct ObjectCollections {
    /// The resource version of the latest change.
    pub version: u64,
    by_plural: BTreeMap<String, ObjectCollection>,
    /// The writes of statuses and of Events by object.
    pub writes: BTreeMap<CountedObject, WriteCounts>,
}

/// The namespace and the name of an object.
type CountedObject = (String, String);

/// The number of writes that concern one object.
#[derive(Clone, Copy, Debug, Default)]
pub struct WriteCounts {
    pub statuses: u32,
    pub events: u32,
}

impl ObjectStore {
    pub fn new(other_leader: Option<&'static str>) -> Self {
        Self { collections: Mutex::default(), other_leader }
    }

    pub fn collections(&self) -> MutexGuard<'_, ObjectCollections> {
        self.collections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores an object, and sends it to watches.
    pub fn put(&self, plural: &str, object: Value) {
        self.collections().put(plural, object);
    }

    /// Changes a stored object.
    pub fn change(&self, plural: &str, namespace: &str, name: &str, change: impl FnOnce(&mut Value)) -> Result<()> {
        let mut collections = self.collections();
        let object = collections.of(plural).get(namespace, name).context("there is no such object")?;
        let mut object = Value::clone(object);
        change(&mut object);
        collections.put(plural, object);
        Ok(())
    }

    /// Renews the Lease of the other leader, if there is one.
    pub fn renew_lease(&self, lease: &ResourcePath) {
        let Some(holder) = self.other_leader else { return };
        let time = format!("{:.6}", Timestamp::now());
        let spec =
            json!({"holderIdentity": holder, "renewTime": time, "acquireTime": time, "leaseDurationSeconds": 15});
        let metadata = json!({"name": lease.name, "namespace": lease.namespace});
        let lease =
            json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec});
        self.put("leases", lease);
    }
}

impl ObjectCollections {
    pub fn of(&mut self, plural: &str) -> &mut ObjectCollection {
        if !self.by_plural.contains_key(plural) {
            self.by_plural.insert(plural.to_owned(), ObjectCollection::default());
        }
        self.by_plural.get_mut(plural).expect("it was just inserted")
    }

    /// Counts a write of a status or an Event.
    pub fn count_write(&mut self, resource: &ResourcePath, body: &Value) {
        let namespace = resource.namespace.clone().unwrap_or_default();
        let counts = |name: &str| self.writes.entry((namespace, name.to_owned())).or_default();
        if resource.plural == "events" {
            counts(body["regarding"]["name"].as_str().unwrap_or_default()).events += 1;
        } else if resource.subresource.as_deref() == Some("status") {
            counts(resource.name.as_deref().unwrap_or_default()).statuses += 1;
        }
    }

    /// Stores an object in a new version. Returns it as it is stored.
    pub fn put(&mut self, plural: &str, object: Value) -> Arc<Value> {
        self.version += 1;
        let version = self.version;
        self.of(plural).put(object, version)
    }

    pub fn remove(&mut self, plural: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.version += 1;
        let version = self.version;
        self.of(plural).remove(namespace, name, version)
    }

    pub fn subscribe(&mut self, plural: &str) -> watch::Receiver<usize> {
        self.of(plural).subscribe()
    }
}
