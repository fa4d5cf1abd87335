//! Imitates the part of an API server that tcplb uses: lists with pages, watches, reads and writes of objects.
//!
//! Label selectors are ignored: all stored EndpointSlices have the label that tcplb selects. Of patches, only
//! server-side apply by a single writer is imitated.

mod collection;
mod path;
mod requests;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result};
use axum::Router;
pub use collection::Collection;
use jiff::Timestamp;
pub use path::Resource;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::task::AbortOnDropHandle;

/// A running server. Dropping it ends it.
pub struct ApiServer {
    pub objects: Arc<Objects>,
    pub address: SocketAddr,
    _serving: AbortOnDropHandle<()>,
}

/// All objects.
#[derive(Default)]
pub struct Objects {
    collections: Mutex<Collections>,
    /// The holder of the Lease other than tcplb. It renews the Lease before each read.
    other_leader: Option<&'static str>,
}

/// The objects of all kinds.
#[derive(Default)]
pub struct Collections {
    /// The version of the latest change.
    version: u64,
    by_plural: std::collections::BTreeMap<String, Collection>,
}

impl ApiServer {
    /// Starts it on any port.
    pub async fn start(address: Ipv4Addr, other_leader: Option<&'static str>) -> Result<Self> {
        let objects = Arc::new(Objects { other_leader, ..Objects::default() });
        let router = Router::new().fallback(requests::answer).with_state(objects.clone());
        let listener = TcpListener::bind((address, 0)).await.with_context(|| format!("cannot listen on {address}"))?;
        let address = listener.local_addr()?;
        let serving = tokio::spawn(async move {
            // It ends only with its task.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { objects, address, _serving: AbortOnDropHandle::new(serving) })
    }
}

impl Objects {
    fn collections(&self) -> MutexGuard<'_, Collections> {
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
    fn renew_lease(&self, lease: &Resource) {
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

impl Collections {
    pub fn of(&mut self, plural: &str) -> &mut Collection {
        if !self.by_plural.contains_key(plural) {
            self.by_plural.insert(plural.to_owned(), Collection::default());
        }
        self.by_plural.get_mut(plural).expect("it was just inserted")
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

    fn subscribe(&mut self, plural: &str) -> watch::Receiver<usize> {
        self.of(plural).subscribe()
    }
}
