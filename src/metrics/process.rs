//! Metrics of the process: configuration, access log, limits, workers.

use std::fmt;

use super::{
    encoder::{Encoder, Labels},
    family::{
        APPLY, GENERATION, HANDSHAKE_MEMORY, LIMIT, LOGGED, MISMATCHES, PROBLEMS, RELAY_MEMORY, SILENT, TRANSLATE,
        UNBOUND, WORKER,
    },
};
use crate::{
    proxy::{Monitor, View},
    state::ReadinessState,
    translate::Severity,
};

pub fn encode_configuration(
    encoder: &mut Encoder<'_, '_>,
    view: &View,
    state: &ReadinessState,
    monitor: &Monitor,
) -> fmt::Result {
    let configuration = state.configuration();
    encoder.gauges(&GENERATION, [(Labels::NONE, view.snapshot.generation as i64)])?;
    encoder.gauges(
        &PROBLEMS,
        [("refused", Severity::Refused), ("warning", Severity::Warning)]
            .map(|(name, severity)| (Labels::only(name), configuration.problems_of(severity) as i64)),
    )?;
    encoder.counters(&MISMATCHES, [(Labels::NONE, state.instruments().mismatches.get())])?;
    encoder.metric(&TRANSLATE, &state.instruments().translate_duration)?;
    encoder.metric(&APPLY, monitor.apply_duration())?;
    encoder.gauges(&UNBOUND, [(Labels::NONE, view.report.unbound().count() as i64)])
}

pub fn encode_process(encoder: &mut Encoder<'_, '_>, monitor: &Monitor) -> fmt::Result {
    let log = monitor.access_log();
    encoder.counters(
        &LOGGED,
        [("logged", log.logged()), ("dropped", log.dropped()), ("suppressed", log.suppressed())]
            .map(|(result, count)| (Labels::only(result), count)),
    )?;
    encoder.gauges(&LIMIT, [(Labels::NONE, monitor.capacity().total() as i64)])?;
    encoder.gauges(&HANDSHAKE_MEMORY, [(Labels::NONE, monitor.handshake_memory() as i64)])?;
    encoder.gauges(&RELAY_MEMORY, [(Labels::NONE, monitor.relay_memory() as i64)])?;
    let worker = |index: usize| Labels::new(WORKER.labels, [index.to_string()]);
    let open = monitor.open_by_worker().enumerate();
    encoder.gauges(&WORKER, open.map(|(index, open)| (worker(index), open as i64)))?;
    let silent = monitor.workers_silent_for().enumerate();
    encoder.gauges(&SILENT, silent.map(|(index, age)| (worker(index), age.as_secs_f64())))
}
