//! The resources that this process uses, under the names that client libraries of Prometheus have in common.

use std::fmt;

use procfs::{
    ProcResult, boot_time_secs, page_size,
    process::{LimitValue, Process},
    ticks_per_second,
};

use super::{
    encoder::{Encoder, Labels},
    family::{CPU, MAX_FDS, OPEN_FDS, RESIDENT_MEMORY, START_TIME, THREADS, VIRTUAL_MEMORY},
};

/// The resources that the process uses at one moment.
struct ProcessUsage {
    cpu_seconds: f64,
    resident_bytes: i64,
    virtual_bytes: i64,
    threads: i64,
    open_fds: i64,
    /// `None`: no limit.
    max_fds: Option<i64>,
}

impl ProcessUsage {
    fn now() -> ProcResult<Self> {
        let process = Process::myself()?;
        let stat = process.stat()?;
        Ok(Self {
            cpu_seconds: (stat.utime + stat.stime) as f64 / ticks_per_second() as f64,
            resident_bytes: (stat.rss * page_size()) as i64,
            virtual_bytes: stat.vsize as i64,
            threads: stat.num_threads,
            open_fds: process.fd_count()? as i64,
            max_fds: match process.limits()?.max_open_files.soft_limit {
                LimitValue::Value(limit) => Some(limit as i64),
                LimitValue::Unlimited => None,
            },
        })
    }
}

/// The start of this process in Unix time. `None`: /proc cannot be read.
pub fn start_time() -> Option<u64> {
    let started = Process::myself().and_then(|process| process.stat()).ok()?.starttime;
    Some(boot_time_secs().ok()? + started / ticks_per_second())
}

/// Writes the families. They have no series if /proc cannot be read.
pub fn encode(encoder: &mut Encoder<'_, '_>, started: Option<u64>) -> fmt::Result {
    let usage = ProcessUsage::now().ok();
    let gauge =
        |value: fn(&ProcessUsage) -> Option<i64>| usage.as_ref().and_then(value).map(|value| (Labels::NONE, value));
    encoder.counters(&CPU, usage.as_ref().map(|usage| (Labels::NONE, usage.cpu_seconds)))?;
    encoder.gauges(&RESIDENT_MEMORY, gauge(|usage| Some(usage.resident_bytes)))?;
    encoder.gauges(&VIRTUAL_MEMORY, gauge(|usage| Some(usage.virtual_bytes)))?;
    encoder.gauges(&OPEN_FDS, gauge(|usage| Some(usage.open_fds)))?;
    encoder.gauges(&MAX_FDS, gauge(|usage| usage.max_fds))?;
    encoder.gauges(&THREADS, gauge(|usage| Some(usage.threads)))?;
    encoder.gauges(&START_TIME, started.map(|started| (Labels::NONE, started as i64)))
}
