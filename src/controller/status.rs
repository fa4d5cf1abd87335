//! Writes statuses: only after a change, each object independently, and at a rate that does not overload the API
//! server.

mod record;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
};

use imbl::OrdMap;
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
    conditions::StatusMap,
    due_times::DueTimes,
    events::EventPublisher,
};
use crate::{
    api::{TcpLoadBalancer, TcpLoadBalancerStatus},
    instruments::{Instruments, WriteResult, WriteTarget},
    model::ObjectKey,
    shared::changes,
    world::Declared,
};

/// Writes statuses, until it is dropped.
pub struct StatusWriter {
    statuses: StatusMap,
    load_balancers: OrdMap<ObjectKey, Declared>,
    desired_statuses: watch::Sender<DesiredStatuses>,
    _writing: AbortOnDropHandle<()>,
}

type DesiredStatuses = OrdMap<ObjectKey, DesiredStatus>;

impl StatusWriter {
    pub fn new(client: Client, settings: &Settings) -> Self {
        let (desired_statuses, desired_changes) = watch::channel(DesiredStatuses::default());
        let task = WriteTask {
            publisher: EventPublisher::new(client.clone(), settings),
            manager: format!("tcplb-{}", settings.class),
            client,
            desired: DesiredStatuses::default(),
            records: BTreeMap::new(),
            due: DueTimes::default(),
            calls: Calls::new(),
            instruments: settings.instruments.clone(),
            considered_until: Instant::now(),
        };
        Self {
            statuses: StatusMap::default(),
            load_balancers: OrdMap::default(),
            desired_statuses,
            _writing: AbortOnDropHandle::new(tokio::spawn(task.run(desired_changes))),
        }
    }

    /// Sets the desired statuses, and the load balancers with the present ones. Differences are written in the
    /// background: this does not wait.
    pub fn write(&mut self, statuses: &StatusMap, load_balancers: &OrdMap<ObjectKey, Declared>) {
        let of_statuses = changes(&self.statuses, statuses).map(|(object, ..)| object);
        let of_load_balancers = changes(&self.load_balancers, load_balancers).map(|(object, ..)| object);
        let changed: BTreeSet<&ObjectKey> = of_statuses.chain(of_load_balancers).collect();
        let revise = |all: &mut DesiredStatuses| {
            let mut is_changed = false;
            for object in changed {
                let desired = desired(object, statuses, load_balancers);
                is_changed |= desired.as_ref() != all.get(object);
                match desired {
                    Some(desired) => drop(all.insert(object.clone(), desired)),
                    None => drop(all.remove(object)),
                }
            }
            is_changed
        };
        self.desired_statuses.send_if_modified(revise);
        self.statuses = statuses.clone();
        self.load_balancers = load_balancers.clone();
    }
}

/// `None`: the object does not exist, or has no status.
fn desired(
    object: &ObjectKey,
    statuses: &StatusMap,
    load_balancers: &OrdMap<ObjectKey, Declared>,
) -> Option<DesiredStatus> {
    let declared = load_balancers.get(object)?;
    let (uid, status) = (declared.identity.as_ref()?.uid.clone(), statuses.get(object)?.clone());
    Some(DesiredStatus { uid, status, there: declared.status.clone() })
}

struct WriteTask {
    client: Client,
    manager: String,
    desired: DesiredStatuses,
    records: BTreeMap<ObjectKey, Record>,
    /// The times at which postponed writes are due.
    due: DueTimes<ObjectKey, Instant>,
    calls: Calls<ObjectKey, WriteOutcome>,
    instruments: Arc<Instruments>,
    /// Writes that were due or repeatable up to this time have been considered.
    considered_until: Instant,
    publisher: EventPublisher,
}

enum WriteOutcome {
    This {
        before: Option<Arc<TcpLoadBalancerStatus>>,
        status: Arc<TcpLoadBalancerStatus>,
    },
    /// The object does not exist any more.
    Gone,
}

impl WriteTask {
    async fn run(mut self, mut desired_changes: watch::Receiver<DesiredStatuses>) {
        loop {
            let wake = self.due.first().into_iter().chain(self.calls.next(self.considered_until)).min();
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
    fn follow(&mut self, desired: DesiredStatuses) {
        let before = mem::replace(&mut self.desired, desired.clone());
        for (object, before, desired) in changes(&before, &desired) {
            if before.map(|before| &before.uid) != desired.map(|desired| &desired.uid) {
                self.records.remove(object);
            }
            match desired {
                Some(_) => self.consider(object),
                None => {
                    self.due.set(object, None);
                    self.calls.forget(object);
                }
            }
        }
    }

    /// Considers the statuses that are due, and those whose last write may be repeated.
    fn consider_due(&mut self, now: Instant) {
        let since = mem::replace(&mut self.considered_until, now);
        let due = self.due.due(now);
        let objects: Vec<ObjectKey> = due.chain(self.calls.repeatable(since, now)).cloned().collect();
        objects.iter().for_each(|object| self.consider(object));
    }

    /// Writes the status of an object if it is due, or notes the time at which it will be.
    fn consider(&mut self, object: &ObjectKey) {
        let Some(desired) = self.desired.get(object) else { return };
        let record = self.records.entry(object.clone()).or_default();
        let due = record.due(desired, Instant::now());
        if record.is_contested() {
            warn!(
                load_balancer = %object,
                "another writer keeps changing its status: if it is another release of this chart, give it its own \
                 class"
            );
        }
        match due {
            Due::Never => self.due.set(object, None),
            Due::At(then) => self.due.set(object, Some(then)),
            Due::Now(status) => {
                self.due.set(object, None);
                let (before, status) = (record.current(desired).cloned(), Arc::new(status));
                let what = xxh3_64(&serde_json::to_vec(&*status).unwrap_or_default());
                let (client, manager) = (self.client.clone(), self.manager.clone());
                let about = object.clone();
                let began = self.calls.make(object, what, || async move {
                    let there = apply(client, &manager, &about, &status).await?;
                    Ok(if there { WriteOutcome::This { before, status } } else { WriteOutcome::Gone })
                });
                if began {
                    record.attempted(desired, Instant::now());
                }
            }
        }
    }

    fn note(&mut self, object: &ObjectKey, answer: Result<WriteOutcome, ApiFailure>) {
        if !matches!(answer, Ok(WriteOutcome::Gone)) {
            self.instruments.count_write(WriteTarget::Status, WriteResult::of(&answer));
        }
        let (Some(record), Some(desired)) = (self.records.get_mut(object), self.desired.get(object)) else {
            self.calls.forget(object);
            return;
        };
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
    status: &TcpLoadBalancerStatus,
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
