//! Writes statuses: only after a change, each object independently, and at a rate that does not overload the API
//! server.

mod record;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

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
            records: BTreeMap::new(),
            calls: Calls::new(),
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
}

struct WriteTask {
    client: Client,
    manager: String,
    records: BTreeMap<ObjectKey, Record>,
    calls: Calls<ObjectKey, WriteOutcome>,
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
        let mut desired_statuses = Arc::default();
        let mut wake = None;
        loop {
            tokio::select! {
                changed = desired_changes.changed() => match changed {
                    Ok(()) => {
                        desired_statuses = desired_changes.borrow_and_update().clone();
                        wake = self.consider_all(&desired_statuses);
                    }
                    Err(_) => return,
                },
                (object, answer) = self.calls.answered() => {
                    let desired = desired_statuses.get(&object);
                    self.note(&object, desired, answer);
                    let next = desired.and_then(|desired| self.consider(&object, desired));
                    wake = [wake, next, self.calls.next()].into_iter().flatten().min();
                }
                () = until(wake) => wake = self.consider_all(&desired_statuses),
            }
        }
    }

    /// Returns the time of the next call.
    fn consider_all(&mut self, desired_statuses: &DesiredStatuses) -> Option<Instant> {
        self.records
            .retain(|object, record| desired_statuses.get(object).is_some_and(|desired| desired.uid == *record.uid()));
        self.calls.keep(|object| desired_statuses.contains_key(object));
        let next = desired_statuses.iter().filter_map(|(object, desired)| self.consider(object, desired)).min();
        [next, self.calls.next()].into_iter().flatten().min()
    }

    /// Writes the status if it is due. Returns the time at which it will be due.
    fn consider(&mut self, object: &ObjectKey, desired: &DesiredStatus) -> Option<Instant> {
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
            Due::Never => None,
            Due::At(then) => Some(then),
            Due::Now(status) => {
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
                None
            }
        }
    }

    fn note(&mut self, object: &ObjectKey, desired: Option<&DesiredStatus>, answer: Result<WriteOutcome, ApiFailure>) {
        let (Some(record), Some(desired)) = (self.records.get_mut(object), desired) else { return };
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
