use std::{net::SocketAddr, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::discovery::v1::Endpoint;

use crate::model::{Proximity, StableId, Unready};

/// One address of a backend.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BackendEndpoint {
    pub address: SocketAddr,
    pub uid: Option<Arc<str>>,
    /// The name of the pod.
    pub pod: Option<Arc<str>>,
    pub stable_id: StableId,
    pub proximity: Proximity,
    /// The reason why it does not serve. `None`: it serves.
    pub unready: Option<Unready>,
    /// True if it serves while it terminates, since no endpoint is ready.
    pub last_resort: bool,
    /// The expiration, if no source lists it any more.
    pub until: Option<Timestamp>,
}

impl BackendEndpoint {
    pub fn of(endpoint: &Endpoint, address: SocketAddr) -> Self {
        let target = endpoint.target_ref.as_ref();
        let pod = target.filter(|target| target.kind.as_deref() == Some("Pod"));
        // A pod whose name is its hostname belongs to a StatefulSet: its name outlives its address.
        let stable = pod.filter(|pod| pod.name.is_some() && pod.name == endpoint.hostname);
        let stable_id = stable.map(|pod| {
            let (namespace, name) =
                (pod.namespace.as_deref().unwrap_or_default(), pod.name.as_deref().unwrap_or_default());
            StableId::Pod(format!("{namespace}/{name}").into())
        });
        Self {
            address,
            pod: pod.and_then(|pod| pod.name.as_deref()).map(Into::into),
            uid: target.and_then(|target| target.uid.as_deref()).map(Into::into),
            stable_id: stable_id.unwrap_or(StableId::Address(address)),
            proximity: Proximity::Remote,
            unready: None,
            last_resort: false,
            until: None,
        }
    }
}

#[derive(Clone, Copy)]
pub struct Conditions {
    pub ready: bool,
    pub terminating: bool,
    /// True if it still serves while it terminates.
    pub last_resort: bool,
}

impl Conditions {
    pub fn of(endpoint: &Endpoint) -> Self {
        let conditions = endpoint.conditions.as_ref();
        let ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
        let serving = conditions.and_then(|conditions| conditions.serving).unwrap_or(ready);
        let terminating = conditions.and_then(|conditions| conditions.terminating).unwrap_or(false);
        Self { ready, last_resort: serving && terminating, terminating }
    }

    pub fn or(self, other: Self) -> Self {
        Self {
            ready: self.ready || other.ready,
            last_resort: self.last_resort || other.last_resort,
            terminating: self.terminating || other.terminating,
        }
    }

    pub fn unready(self) -> Unready {
        if self.terminating { Unready::Terminating } else { Unready::NotReady }
    }
}
