//! Events about load balancers, for `kubectl describe`: transitions of conditions.

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use k8s_openapi::{api::core::v1::ObjectReference, apimachinery::pkg::apis::meta::v1::Condition};
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::{sync::mpsc, time::timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use super::{
    Settings,
    calls::failure::sentence,
    conditions::{CLIENT_ADDRESS_PRESERVED, PROGRAMMED, is_summary, is_waiting},
};
use crate::{
    api::{GROUP, KIND, TcpLoadBalancerStatus, VERSION},
    instruments::{Instruments, WriteResult, WriteTarget},
    model::ObjectKey,
    printable::limited,
};

/// The maximum number of Events that wait to be published. Further Events are dropped, since the status has the same
/// content.
const MAX_WAITING: usize = 4096;
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(5);
/// The maximum length of a note that the API server accepts, in bytes.
const MAX_NOTE: usize = 1024;

/// Publishes Events one after the other, until it is dropped. A repeated Event increments the count of the existing
/// one.
pub struct EventPublisher {
    waiting: mpsc::Sender<(ObjectReference, Event)>,
    _publishing: AbortOnDropHandle<()>,
}

impl EventPublisher {
    pub fn new(client: Client, settings: &Settings) -> Self {
        let reporter =
            Reporter { controller: format!("{GROUP}/{}", settings.class), instance: Some(settings.pod.clone()) };
        let (waiting, events) = mpsc::channel(MAX_WAITING);
        let publishing = publish(Recorder::new(client, reporter), settings.instruments.clone(), events);
        Self { waiting, _publishing: AbortOnDropHandle::new(tokio::spawn(publishing)) }
    }

    /// Publishes Events about the transitions from the status `before` to the status `now`. Does not wait.
    pub fn publish(
        &self,
        object: &ObjectKey,
        uid: &Arc<str>,
        before: Option<&TcpLoadBalancerStatus>,
        now: &TcpLoadBalancerStatus,
    ) {
        let before = before.map_or(&[][..], |before| &before.conditions);
        for event in transitions(before, &now.conditions) {
            if self.waiting.try_send((reference(object, uid), event)).is_err() {
                debug!(load_balancer = %object, "too many pending Events: one is dropped");
            }
        }
    }
}

async fn publish(
    recorder: Recorder,
    instruments: Arc<Instruments>,
    mut events: mpsc::Receiver<(ObjectReference, Event)>,
) {
    while let Some((object, event)) = events.recv().await {
        let published = match timeout(PUBLISH_TIMEOUT, recorder.publish(&event, &object)).await {
            Ok(published) => published.map_err(|error| sentence(&error)),
            Err(_) => Err("no answer in time".to_owned()),
        };
        instruments.count_write(WriteTarget::Event, WriteResult::of(&published));
        let Err(problem) = published else { continue };
        debug!(load_balancer = ?object.name, reason = event.reason, "an Event cannot be published: {problem}");
    }
}

fn reference(object: &ObjectKey, uid: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some(format!("{GROUP}/{VERSION}")),
        kind: Some(KIND.into()),
        namespace: Some(object.namespace.to_string()),
        name: Some(object.name.to_string()),
        uid: Some(uid.to_owned()),
        ..ObjectReference::default()
    }
}

/// The transitions that get an Event: a condition became true or untrue, or has another reason. A new object gets
/// Events only for Programmed and for faults.
pub(super) fn transitions(before: &[Condition], now: &[Condition]) -> Vec<Event> {
    let news = |condition: &&Condition| match before.iter().find(|before| before.type_ == condition.type_) {
        Some(before) if before.status == condition.status => {
            condition.status == "False" && before.reason != condition.reason
        }
        Some(_) => true,
        None => is_fault(condition) || (condition.type_ == PROGRAMMED && condition.status == "True"),
    };
    // A condition that waits becomes true, or gets a reason that has an Event.
    let reported = now.iter().filter(|condition| !is_waiting(condition) && !is_summary(&condition.type_));
    reported.filter(news).map(event).collect()
}

/// The client address is a choice of the user, not a fault.
fn is_fault(condition: &Condition) -> bool {
    condition.status == "False" && condition.type_ != CLIENT_ADDRESS_PRESERVED
}

fn event(condition: &Condition) -> Event {
    Event {
        type_: if is_fault(condition) { EventType::Warning } else { EventType::Normal },
        reason: condition.reason.clone(),
        note: Some(limited(&condition.message, MAX_NOTE).into_owned()),
        action: condition.type_.clone(),
        secondary: None,
    }
}
