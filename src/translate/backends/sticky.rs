//! Selection of Maglev tables or rendezvous hashing for sticky load balancers.
//!
//! A table is large, and each set of backends in a route needs its own. If all tables together are too large,
//! rendezvous hashing is used instead. The decision depends on the configuration only, so all processes agree.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    model::{Algorithm, Listener, ListenerKey, MAX_MAGLEV_SLOTS, ObjectKey, UpstreamConfig, UpstreamKey, maglev_slots},
    translate::verdict::{Part, Problem, Reason, Severity, Verdict},
};

/// Decides for all load balancers, and warns about those whose tables would be too large.
pub fn settle(
    listeners: &BTreeMap<ListenerKey, Arc<Listener>>,
    upstreams: &mut BTreeMap<UpstreamKey, Arc<UpstreamConfig>>,
    verdicts: &mut BTreeMap<ObjectKey, Verdict>,
) {
    let is_sticky = |upstream: &UpstreamConfig| upstream.balancing.algorithm == Algorithm::Maglev;
    for (key, upstream) in upstreams.iter_mut().filter(|(_, upstream)| is_sticky(upstream)) {
        let of_object = listeners.range(key.object.listeners()).map(|(_, listener)| &**listener);
        let tables = tables(of_object, upstream);
        let slots: u64 = tables.iter().map(|members| u64::from(maglev_slots(*members))).sum();
        let without_table = slots > MAX_MAGLEV_SLOTS;
        if upstream.balancing.without_table != without_table {
            Arc::make_mut(upstream).balancing.without_table = without_table;
        }
        if without_table {
            let (count, most) = (tables.len(), tables.iter().max().copied().unwrap_or_default());
            verdicts.entry(key.object.clone()).or_default().problems.push(Problem {
                severity: Severity::Warning,
                reason: Reason::Invalid,
                part: Part::LoadBalancing,
                field: format!("{}.algorithm", Part::LoadBalancing),
                message: format!(
                    "the Maglev tables of {count} different sets of backends, with up to {most} endpoints each, would \
                     have {slots} slots, more than {MAX_MAGLEV_SLOTS}: rendezvous hashing is used instead, which takes \
                     longer for each connection the more endpoints a route has; write fewer routes with backends of \
                     their own, or fewer endpoints"
                ),
            });
        }
    }
}

/// The number of members of each table.
fn tables<'a>(listeners: impl Iterator<Item = &'a Listener>, upstream: &UpstreamConfig) -> Vec<usize> {
    let mut sets: BTreeSet<Option<&[Arc<str>]>> = BTreeSet::new();
    for listener in listeners {
        match &listener.tls {
            None => drop(sets.insert(None)),
            Some(tls) => sets.extend(tls.routes.iter().map(|route| route.backends.as_deref())),
        }
    }
    let mut members: BTreeMap<&str, usize> = BTreeMap::new();
    for endpoint in &upstream.endpoints {
        *members.entry(&endpoint.key.backend).or_default() += 1;
    }
    let of = |set: Option<&[Arc<str>]>| match set {
        None => upstream.endpoints.len(),
        Some(names) => names.iter().filter_map(|name| members.get(&**name)).sum(),
    };
    sets.into_iter().map(of).collect()
}
