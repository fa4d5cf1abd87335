//! The results of load balancers before they become parts of a snapshot.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;

use super::{
    backends::{slices::Retention, sticky},
    context::TranslateContext,
    flags,
    verdict::{Verdict, Verdicts},
};
use crate::{
    model::{EndpointKey, Listener, ListenerKey, ObjectKey, Snapshot, UpstreamConfig, UpstreamKey},
    world::COMMAND_LINE,
};

/// The results of all translated load balancers. Each has one upstream.
#[derive(Default)]
pub struct Draft {
    pub listeners: BTreeMap<ListenerKey, Arc<Listener>>,
    pub upstreams: BTreeMap<UpstreamKey, Arc<UpstreamConfig>>,
    pub verdicts: BTreeMap<ObjectKey, Verdict>,
    /// The retention of endpoints of each translated load balancer.
    pub retentions: BTreeMap<UpstreamKey, Retention>,
}

impl Draft {
    /// The last steps, each of which concerns one load balancer at a time.
    pub fn finish(&mut self, context: &TranslateContext) {
        let Self { listeners, upstreams, verdicts, retentions } = self;
        name_flags(verdicts);
        for listener in listeners.values() {
            if let Some(upstream) = upstreams.get_mut(&listener.upstream) {
                context.restore_routed_endpoints(listener, upstream);
            }
        }
        let used: BTreeSet<_> = listeners.values().map(|listener| listener.upstream.clone()).collect();
        upstreams.retain(|key, _| used.contains(key));
        sticky::settle(listeners, upstreams, verdicts);
        verdicts.values_mut().for_each(Verdict::limit);
        retentions.retain(|key, _| used.contains(key));
    }

    /// The expirations of the endpoints that are retained, by upstream.
    pub fn retained_until(
        &self,
        context: &TranslateContext,
    ) -> BTreeMap<UpstreamKey, Arc<BTreeMap<EndpointKey, Timestamp>>> {
        // `retentions` lists all retained endpoints of valid load balancers.
        let is_well = |object: &ObjectKey| {
            context.world.load_balancers[object].spec.is_some() && !self.verdicts[object].refuses()
        };
        let with_kept = self.upstreams.iter().filter(|(key, _)| !is_well(&key.object));
        let expirations =
            with_kept.filter_map(|(key, upstream)| Some((key.clone(), context.expirations_of(key, upstream)?)));
        let mut retained_until: BTreeMap<_, BTreeMap<_, _>> = expirations.collect();
        for (key, retention) in self.retentions.iter().filter(|(_, retention)| !retention.expirations.is_empty()) {
            retained_until.entry(key.clone()).or_default().extend(retention.expirations.clone());
        }
        retained_until.into_iter().map(|(key, expirations)| (key, Arc::new(expirations))).collect()
    }

    /// The time at which retained endpoints are reported.
    pub fn report_due(&self) -> Option<Timestamp> {
        self.retentions.values().filter_map(|retention| retention.report_due).min()
    }

    /// Replaces the parts of a snapshot that belong to these load balancers. Equal parts stay as they are.
    pub fn insert_into(self, snapshot: &mut Snapshot, verdicts: &mut Verdicts) {
        for (object, verdict) in self.verdicts {
            let served: Vec<_> = snapshot.listeners_of(&object).map(|(key, _)| key.clone()).collect();
            for key in served.iter().filter(|key| !self.listeners.contains_key(key)) {
                snapshot.listeners.remove(key);
            }
            let upstream = UpstreamKey { object: object.clone() };
            if !self.upstreams.contains_key(&upstream) {
                snapshot.upstreams.remove(&upstream);
            }
            if verdicts.get(&object) != Some(&verdict) {
                verdicts.insert(object, verdict);
            }
        }
        for (key, listener) in self.listeners {
            if snapshot.listeners.get(&key) != Some(&listener) {
                snapshot.listeners.insert(key, listener);
            }
        }
        for (key, upstream) in self.upstreams {
            if snapshot.upstreams.get(&key) != Some(&upstream) {
                snapshot.upstreams.insert(key, upstream);
            }
        }
    }
}

/// Names the flag of each field in problems of load balancers from the command line.
fn name_flags(verdicts: &mut BTreeMap<ObjectKey, Verdict>) {
    for verdict in verdicts.values_mut().filter(|verdict| *verdict.origin == *COMMAND_LINE) {
        for problem in verdict.problems.iter_mut().filter(|problem| !problem.field.is_empty()) {
            problem.field = flags::with_flag(problem.part, &problem.field);
        }
    }
}
