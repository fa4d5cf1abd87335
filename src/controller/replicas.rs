//! The ready proxies and their reports.

mod admin_connection;
mod known;
mod poll;
#[cfg(test)]
mod tests;
mod traffic;

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    net::SocketAddr,
    sync::Arc,
};

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use self::poll::ReplicaUpdate;
pub use self::{
    known::{Replica, Replicas, changed_parts, have_same_listeners},
    poll::follow,
    traffic::TrafficReader,
};
use super::{AdminToken, Settings, observed::Observed};
use crate::{
    model::ObjectKey,
    shared::{SharedObject, changes},
    world::{Objects, World, service_of},
};

/// Follows the reports of all replicas while the returned receiver is held.
///
/// The first change is published when every ready replica has reported or timed out. The initial value has no meaning,
/// so wait for that change. A replica that becomes ready later is omitted until then too.
pub fn gather(observed: watch::Receiver<Observed>, settings: &Settings) -> watch::Receiver<Arc<Replicas>> {
    let (replicas, gathered) = watch::channel(Arc::default());
    let (sender, updates) = mpsc::unbounded_channel();
    let gatherer = Gatherer {
        service: settings.replicas.clone(),
        token: settings.admin_token.clone(),
        slices: Objects::default(),
        followed: BTreeMap::new(),
        known: Replicas::new(),
        sender,
        replicas,
        begun: false,
    };
    tokio::spawn(gatherer.run(observed, updates));
    gathered
}

struct Gatherer {
    service: ObjectKey,
    /// The token for the admin pages.
    token: AdminToken,
    /// The EndpointSlices that were seen last.
    slices: Objects<EndpointSlice>,
    followed: BTreeMap<Arc<str>, PolledReplica>,
    /// The replicas that have reported or timed out.
    known: Replicas,
    sender: mpsc::UnboundedSender<ReplicaUpdate>,
    replicas: watch::Sender<Arc<Replicas>>,
    /// True after the first publication.
    begun: bool,
}

struct PolledReplica {
    address: SocketAddr,
    _follower: AbortOnDropHandle<()>,
}

impl Gatherer {
    async fn run(
        mut self,
        mut observed: watch::Receiver<Observed>,
        mut updates: mpsc::UnboundedReceiver<ReplicaUpdate>,
    ) {
        observed.mark_changed();
        loop {
            tokio::select! {
                changed = observed.changed() => match changed {
                    Ok(()) => {
                        let world = observed.borrow_and_update().world.clone();
                        if self.has_new_slices(&world) {
                            self.follow_ready(&world);
                        }
                    }
                    Err(_) => return,
                },
                Some(update) = updates.recv() => self.note(update),
                () = self.replicas.closed() => return,
            }
            self.publish();
        }
    }

    /// Returns true if the EndpointSlices of the replicas differ from those of the last call.
    fn has_new_slices(&mut self, world: &World) -> bool {
        let before = mem::replace(&mut self.slices, world.endpoint_slices.clone());
        let of_replicas = |slice: Option<&SharedObject<EndpointSlice>>| {
            slice.is_some_and(|slice| service_of(slice) == Some(&self.service.name))
        };
        let mut changes = changes(&before, &world.endpoint_slices);
        changes.any(|(key, old, new)| key.namespace == self.service.namespace && (of_replicas(old) || of_replicas(new)))
    }

    /// Follows all ready replicas, and no others. A Service without EndpointSlices has no information about replicas:
    /// it was deleted or is being replaced, while the replicas still serve.
    fn follow_ready(&mut self, world: &World) {
        if world.slices_of(&self.service).next().is_some() {
            self.follow(&ready(world, &self.service));
        }
    }

    /// Follows these and no others.
    fn follow(&mut self, ready: &BTreeMap<Arc<str>, SocketAddr>) {
        self.followed.retain(|pod, followed| ready.get(pod) == Some(&followed.address));
        for (pod, address) in ready {
            self.followed.entry(pod.clone()).or_insert_with(|| {
                let follower = follow(pod.clone(), *address, self.token.clone(), self.sender.clone());
                PolledReplica { address: *address, _follower: AbortOnDropHandle::new(tokio::spawn(follower)) }
            });
        }
        self.known.retain(|pod, known| ready.get(pod) == Some(&known.address));
    }

    /// Records an update, unless it is from a replica that is no longer followed.
    fn note(&mut self, ReplicaUpdate { pod, address, report }: ReplicaUpdate) {
        if self.followed.get(&pod).is_some_and(|followed| followed.address == address) {
            self.known.insert(pod, Replica { address, report });
        }
    }

    fn publish(&mut self) {
        if !self.begun && self.known.len() == self.followed.len() {
            self.begun = true;
            self.replicas.send_replace(Arc::new(self.known.clone()));
        } else if self.begun {
            self.replicas.send_if_modified(|last| {
                let changed = **last != self.known;
                if changed {
                    *last = Arc::new(self.known.clone());
                }
                changed
            });
        }
    }
}

/// The admin addresses of the ready pods behind a Service. Of several addresses of a pod, the first one counts.
fn ready(world: &World, service: &ObjectKey) -> BTreeMap<Arc<str>, SocketAddr> {
    let addresses: BTreeSet<(SocketAddr, Arc<str>)> =
        world.slices_of(service).flat_map(|slice| admin_pages(slice)).collect();
    let mut ready = BTreeMap::new();
    for (address, pod) in addresses {
        ready.entry(pod).or_insert(address);
    }
    ready
}

/// The pods behind a Service that are not ready, without those that are terminating.
pub fn unready(world: &World, service: &ObjectKey) -> BTreeSet<Arc<str>> {
    let ready = ready(world, service);
    let endpoints = world.slices_of(service).flat_map(|slice| &slice.endpoints);
    let unready = endpoints.filter(|endpoint| {
        let conditions = endpoint.conditions.as_ref();
        conditions.is_some_and(|conditions| conditions.ready == Some(false) && conditions.terminating != Some(true))
    });
    unready.filter_map(pod_of).filter(|pod| !ready.contains_key(pod)).collect()
}

fn pod_of(endpoint: &Endpoint) -> Option<Arc<str>> {
    let pod = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"))?;
    Some(pod.name.as_deref()?.into())
}

fn admin_pages(slice: &EndpointSlice) -> impl Iterator<Item = (SocketAddr, Arc<str>)> {
    let port = slice.ports.iter().flatten().find(|port| port.name.as_deref() == Some("admin"));
    let port = port.and_then(|port| u16::try_from(port.port?).ok());
    let ready = slice.endpoints.iter().filter(|endpoint| {
        // Unknown counts as ready.
        endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
    });
    ready.filter_map(move |endpoint| {
        let address = SocketAddr::new(endpoint.addresses.first()?.parse().ok()?, port?);
        Some((address, pod_of(endpoint)?))
    })
}
