//! Metrics of the control plane: DNS lookups, watches, writes, leadership, conditions.

use std::{fmt, time::Instant};

use super::{
    encoder::{Encoder, Labels},
    family::{
        API_WRITES, CONDITION, LEADER, LOOKUP_DURATION, LOOKUPS, PORTS, RECONCILE, REPLICAS, WATCH_FAILURES,
        WATCH_OUTAGE_AGE, WATCHES,
    },
};
use crate::instruments::{Instruments, LeaderView};

pub fn encode(encoder: &mut Encoder<'_, '_>, instruments: &Instruments) -> fmt::Result {
    encoder.metric(&LOOKUPS, &instruments.name_lookups)?;
    encoder.metric(&LOOKUP_DURATION, &instruments.name_lookup_duration)?;
    encode_watches(encoder, instruments)?;
    encoder.metric(&API_WRITES, &instruments.api_writes)?;
    encoder.metric(&LEADER, &instruments.leader)?;
    encoder.metric(&RECONCILE, &instruments.reconcile_duration)?;
    encode_leader_view(encoder, instruments.leader_view().as_deref())
}

fn encode_watches(encoder: &mut Encoder<'_, '_>, instruments: &Instruments) -> fmt::Result {
    let totals = instruments.watches.totals(Instant::now());
    let states = totals.iter().flat_map(|(kind, totals)| {
        [("working", totals.working), ("failing", totals.failing)]
            .map(|(state, count)| (Labels::new(WATCHES.labels, [*kind, state]), count as i64))
    });
    encoder.gauges(&WATCHES, states)?;
    encoder.metric(&WATCH_FAILURES, &instruments.watches.failures)?;
    let ages = totals
        .iter()
        .map(|(kind, totals)| (Labels::new(WATCH_OUTAGE_AGE.labels, [*kind]), totals.outage_age.as_secs_f64()));
    encoder.gauges(&WATCH_OUTAGE_AGE, ages)
}

/// Writes the metrics that only the leader has. Their families are always present.
fn encode_leader_view(encoder: &mut Encoder<'_, '_>, view: Option<&LeaderView>) -> fmt::Result {
    let replicas = view.map(|view| {
        [("reporting", view.replicas_reporting()), ("silent", view.replicas_silent()), ("unready", view.unready.len())]
    });
    encoder.gauges(&REPLICAS, counts(replicas))?;
    let ports = view.and_then(|view| view.ports);
    let ports = ports.map(|ports| [("allocated", ports.allocated), ("cooldown", ports.cooldown), ("free", ports.free)]);
    encoder.gauges(&PORTS, counts(ports))?;
    let conditions = view.iter().flat_map(|view| &view.statuses).flat_map(|(object, status)| {
        status.conditions.iter().map(move |condition| {
            let labels = Labels::of(CONDITION.labels, object, [condition.type_.clone(), condition.status.clone()]);
            (labels, 1)
        })
    });
    encoder.gauges(&CONDITION, conditions)
}

fn counts<const N: usize>(counts: Option<[(&'static str, usize); N]>) -> impl Iterator<Item = (Labels<'static>, i64)> {
    counts.into_iter().flatten().map(|(state, count)| (Labels::only(state), count as i64))
}
