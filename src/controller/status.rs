//! Statuses as they are written: only when something changed, each object for itself, as often as is good for the API
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

use self::record::{Due, Record, Wish};
use super::{
    Settings,
    calls::{Calls, until},
    events::Announcer,
    failure::Failure,
};
use crate::{
    api::{TcpLoadBalancer, TcpLoadBalancerStatus},
    model::ObjectKey,
    world::World,
};

/// Writes statuses, until it is dropped.
pub struct Writer {
    wishes: watch::Sender<Arc<Wishes>>,
    _writing: AbortOnDropHandle<()>,
}

type Wishes = BTreeMap<ObjectKey, Wish>;

impl Writer {
    pub fn new(client: Client, settings: &Settings) -> Self {
        let (wishes, wished) = watch::channel(Arc::default());
        let writing = Writing {
            announcer: Announcer::new(client.clone(), settings),
            manager: format!("tcplb-{}", settings.class),
            client,
            records: BTreeMap::new(),
            calls: Calls::new(),
        };
        Self { wishes, _writing: AbortOnDropHandle::new(tokio::spawn(writing.run(wished))) }
    }

    /// From now on these are wanted, and no others. They are written in their own time: this does not wait.
    pub fn write(&self, statuses: BTreeMap<ObjectKey, TcpLoadBalancerStatus>, world: &World) {
        let wish = |(object, status): (ObjectKey, TcpLoadBalancerStatus)| {
            let declared = world.load_balancers.get(&object)?;
            let uid = declared.identity.as_ref()?.uid.clone();
            Some((object, Wish { uid, status: Arc::new(status), there: declared.status.clone() }))
        };
        self.wishes.send_replace(Arc::new(statuses.into_iter().filter_map(wish).collect()));
    }
}

struct Writing {
    client: Client,
    manager: String,
    records: BTreeMap<ObjectKey, Record>,
    calls: Calls<ObjectKey, Written>,
    announcer: Announcer,
}

enum Written {
    This {
        before: Option<Box<TcpLoadBalancerStatus>>,
        status: Arc<TcpLoadBalancerStatus>,
    },
    /// The object is not there any more.
    Gone,
}

impl Writing {
    async fn run(mut self, mut wished: watch::Receiver<Arc<Wishes>>) {
        let mut wishes = Arc::default();
        let mut wake = None;
        loop {
            tokio::select! {
                changed = wished.changed() => match changed {
                    Ok(()) => {
                        wishes = wished.borrow_and_update().clone();
                        wake = self.consider_all(&wishes);
                    }
                    Err(_) => return,
                },
                (object, answer) = self.calls.answered() => {
                    let wish = wishes.get(&object);
                    self.note(&object, wish, answer);
                    let next = wish.and_then(|wish| self.consider(&object, wish));
                    wake = [wake, next, self.calls.next()].into_iter().flatten().min();
                }
                () = until(wake) => wake = self.consider_all(&wishes),
            }
        }
    }

    /// The answer is when to do so again.
    fn consider_all(&mut self, wishes: &Wishes) -> Option<Instant> {
        self.records.retain(|object, record| wishes.get(object).is_some_and(|wish| wish.uid == *record.uid()));
        self.calls.keep(|object| wishes.contains_key(object));
        let next = wishes.iter().filter_map(|(object, wish)| self.consider(object, wish)).min();
        [next, self.calls.next()].into_iter().flatten().min()
    }

    /// Writes the status if it is time to. The answer is when it will be.
    fn consider(&mut self, object: &ObjectKey, wish: &Wish) -> Option<Instant> {
        let record = self.records.entry(object.clone()).or_insert_with(|| Record::new(wish.uid.clone()));
        let due = record.due(wish, Instant::now());
        if record.is_contested() {
            warn!(
                load_balancer = %object,
                "somebody else keeps writing its status: if that is another release of this chart, give it a class of \
                 its own"
            );
        }
        match due {
            Due::Never => None,
            Due::At(then) => Some(then),
            Due::Now(status) => {
                let (before, status) = (record.current(wish).cloned().map(Box::new), Arc::new(status));
                let text = json!(*status);
                let what = xxh3_64(text.to_string().as_bytes());
                let (client, manager) = (self.client.clone(), self.manager.clone());
                let about = object.clone();
                let began = self.calls.make(object, what, || async move {
                    let there = apply(client, &manager, &about, &text).await?;
                    Ok(if there { Written::This { before, status } } else { Written::Gone })
                });
                if began {
                    record.attempted(wish, Instant::now());
                }
                None
            }
        }
    }

    fn note(&mut self, object: &ObjectKey, wish: Option<&Wish>, answer: Result<Written, Failure>) {
        let (Some(record), Some(wish)) = (self.records.get_mut(object), wish) else { return };
        match answer {
            Ok(Written::This { before, status }) => {
                if record.succeeded() {
                    info!(load_balancer = %object, "its status is written again");
                }
                self.announcer.tell(object, &wish.uid, before.as_deref(), &status);
                record.wrote(status);
            }
            Ok(Written::Gone) => {}
            Err(failure) => {
                if record.failed(&failure, Instant::now()) {
                    warn!(load_balancer = %object, "its status cannot be written: {failure}");
                }
            }
        }
    }
}

/// Whether the object is there. Another one that has taken its name meanwhile gets the status until it is seen: the API
/// server looks at no uid here.
async fn apply(client: Client, manager: &str, object: &ObjectKey, status: &serde_json::Value) -> Result<bool, Failure> {
    // Whatever the answer looks like: an older schema may have left something of the status out.
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
