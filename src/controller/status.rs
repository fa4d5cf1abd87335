//! Writes statuses: only after a change, each object independently, and at a rate that does not overload the API
//! server.

mod record;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, mem, sync::Arc};

use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
};
use serde_json::json;
use tokio::{sync::watch, time::Instant};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};
use xxhash_rust::xxh3::xxh3_64;

use self::record::{DesiredStatus, Due, Record};
use super::{
    Settings,
    calls::failure::ApiFailure,
    calls::{Calls, until},
    events::EventPublisher,
};
use crate::{
    api::{TcpLoadBalancer, TcpLoadBalancerStatus},
    model::ObjectKey,
    world::World,
};

/// Writes statuses, until it is dropped.
pub struct StatusWriter {
    desired_statuses: watch::Sender<Arc<DesiredStatuses>>,
    _writing: AbortOnDropHandle<()>,
}

type DesiredStatuses = BTreeMap<ObjectKey, DesiredStatus>;

impl StatusWriter {
    pub fn new(client: Client, settings: &Settings) -> Self {
        let (desired_statuses, desired_changes) = watch::channel(Arc::default());
        let task = WriteTask {
            publisher: EventPublisher::new(client.clone(), settings),
            manager: format!("tcplb-{}", settings.class),
            client,
            desired: Arc::default(),
            records: BTreeMap::new(),
            due: BTreeMap::new(),
            calls: Calls::new(),
            considered_until: Instant::now(),
        };
        Self { desired_statuses, _writing: AbortOnDropHandle::new(tokio::spawn(task.run(desired_changes))) }
    }

    /// Sets the desired statuses. They are written in the background: this does not wait.
    pub fn write(&self, statuses: BTreeMap<ObjectKey, TcpLoadBalancerStatus>, world: &World) {
        let desired = |(object, status): (ObjectKey, TcpLoadBalancerStatus)| {
            let declared = world.load_balancers.get(&object)?;
            let uid = declared.identity.as_ref()?.uid.clone();
            Some((object, DesiredStatus { uid, status: Arc::new(status), there: declared.status.clone() }))
        };
        self.desired_statuses.send_replace(Arc::new(statuses.into_iter().filter_map(desired).collect()));
    }

    /// Updates the observed statuses. Those that differ from the desired ones are written again.
    pub fn observe(&self, world: &World) {
        self.desired_statuses.send_if_modified(|all| {
            let of =
                |object: &ObjectKey| world.load_balancers.get(object).and_then(|declared| declared.status.as_ref());
            let is_new = |(object, desired): (&ObjectKey, &DesiredStatus)| desired.there.as_ref() != of(object);
            let changed: Vec<ObjectKey> =
                all.iter().filter(|one| is_new(*one)).map(|(object, _)| object.clone()).collect();
            for object in &changed {
                if let Some(desired) = Arc::make_mut(all).get_mut(object) {
                    desired.there = of(object).cloned();
                }
            }
            !changed.is_empty()
        });
    }
}

struct WriteTask {
    client: Client,
    manager: String,
    desired: Arc<DesiredStatuses>,
    records: BTreeMap<ObjectKey, Record>,
    /// The times at which postponed writes are due.
    due: BTreeMap<ObjectKey, Instant>,
    calls: Calls<ObjectKey, WriteOutcome>,
    /// Writes that were due or repeatable up to this time have been considered.
    considered_until: Instant,
    publisher: EventPublisher,
}

enum WriteOutcome {
    This {
        before: Option<Box<TcpLoadBalancerStatus>>,
        status: Arc<TcpLoadBalancerStatus>,
    },
    /// The object does not exist any more.
    Gone,
}

impl WriteTask {
    async fn run(mut self, mut desired_changes: watch::Receiver<Arc<DesiredStatuses>>) {
        loop {
            let wake = self.due.values().copied().chain(self.calls.next(self.considered_until)).min();
            tokio::select! {
                changed = desired_changes.changed() => match changed {
                    Ok(()) => {
                        let desired = desired_changes.borrow_and_update().clone();
                        self.follow(desired);
                    }
                    Err(_) => return,
                },
                (object, answer) = self.calls.answered() => {
                    self.note(&object, answer);
                    self.consider(&object);
                }
                () = until(wake) => self.consider_due(Instant::now()),
            }
        }
    }

    /// Considers the statuses that have changed.
    fn follow(&mut self, desired: Arc<DesiredStatuses>) {
        let is_declared =
            |object: &ObjectKey, uid: &Arc<str>| desired.get(object).is_some_and(|desired| desired.uid == *uid);
        self.records.retain(|object, record| is_declared(object, record.uid()));
        self.due.retain(|object, _| desired.contains_key(object));
        self.calls.keep(|object| desired.contains_key(object));
        let before = mem::replace(&mut self.desired, desired.clone());
        let changed = desired.iter().filter(|(object, desired)| before.get(*object) != Some(*desired));
        changed.for_each(|(object, _)| self.consider(object));
    }

    /// Considers the statuses that are due, and those whose last write may be repeated.
    fn consider_due(&mut self, now: Instant) {
        let since = mem::replace(&mut self.considered_until, now);
        let due = self.due.iter().filter(|(_, due)| **due <= now).map(|(object, _)| object);
        let objects: Vec<ObjectKey> = due.chain(self.calls.repeatable(since, now)).cloned().collect();
        objects.iter().for_each(|object| self.consider(object));
    }

    /// Writes the status of an object if it is due, or notes the time at which it will be.
    fn consider(&mut self, object: &ObjectKey) {
        let Some(desired) = self.desired.get(object) else { return };
        let record = self.records.entry(object.clone()).or_insert_with(|| Record::new(desired.uid.clone()));
        let due = record.due(desired, Instant::now());
        if record.is_contested() {
            warn!(
                load_balancer = %object,
                "another writer keeps changing its status: if it is another release of this chart, give it its own \
                 class"
            );
        }
        match due {
            Due::Never => drop(self.due.remove(object)),
            Due::At(then) => drop(self.due.insert(object.clone(), then)),
            Due::Now(status) => {
                self.due.remove(object);
                let (before, status) = (record.current(desired).cloned().map(Box::new), Arc::new(status));
                let text = json!(*status);
                let what = xxh3_64(text.to_string().as_bytes());
                let (client, manager) = (self.client.clone(), self.manager.clone());
                let about = object.clone();
                let began = self.calls.make(object, what, || async move {
                    let there = apply(client, &manager, &about, &text).await?;
                    Ok(if there { WriteOutcome::This { before, status } } else { WriteOutcome::Gone })
                });
                if began {
                    record.attempted(desired, Instant::now());
                }
            }
        }
    }

    fn note(&mut self, object: &ObjectKey, answer: Result<WriteOutcome, ApiFailure>) {
        let (Some(record), Some(desired)) = (self.records.get_mut(object), self.desired.get(object)) else { return };
        match answer {
            Ok(WriteOutcome::This { before, status }) => {
                if record.succeeded() {
                    info!(load_balancer = %object, "its status is written again");
                }
                self.publisher.publish(object, &desired.uid, before.as_deref(), &status);
                record.wrote(status);
            }
            Ok(WriteOutcome::Gone) => {}
            Err(failure) => {
                if record.failed(&failure, Instant::now()) {
                    warn!(load_balancer = %object, "its status cannot be written: {failure}");
                }
            }
        }
    }
}

/// Writes a status. Returns false if the object does not exist. Until a new object of the same name is seen, it gets
/// the status of its predecessor: the API server does not check the uid here.
async fn apply(
    client: Client,
    manager: &str,
    object: &ObjectKey,
    status: &serde_json::Value,
) -> Result<bool, ApiFailure> {
    // The response is read without its type: an older schema may have dropped parts of the status.
    let resource = ApiResource::erase::<TcpLoadBalancer>(&());
    let objects: Api<DynamicObject> = Api::namespaced_with(client, &object.namespace, &resource);
    let text = json!({
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {"name": &*object.name},
        "status": status,
    });
    match objects.patch_status(&object.name, &PatchParams::apply(manager).force(), &Patch::Apply(&text)).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(error.into()),
    }
}
