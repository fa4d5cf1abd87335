//! The measurements: an entry for each axis, and a module for each kind of work.

mod axis;
mod bulk;
pub mod change;
mod connections;
mod door;
mod idle;
mod latency;
mod list;
mod mixed;
mod round;
mod round_trips;
mod stage;

use anyhow::Result;
pub use axis::{Axis, Field, Figure, Way, Work};
pub use door::Door;
pub use list::{AXES, ONE_WORKER};
pub use round::Round;
pub use stage::Stage;

/// One round of a running contender. `rate` is the rate for [`Work::Latency`].
pub async fn round(work: Work, stage: &Stage<'_>, rate: Option<f64>) -> Result<Round> {
    match work {
        Work::Connections { clients } => connections::round(stage, clients).await,
        Work::RoundTrips { connections } => round_trips::round(stage, connections).await,
        Work::Bulk(direction) => bulk::round(stage, direction).await,
        Work::Idle { connections } => idle::round(stage, connections).await,
        Work::Latency { connections, .. } => match rate {
            None => round_trips::round(stage, connections).await,
            Some(rate) => latency::round(stage, connections, rate).await,
        },
        Work::Mixed(mix) => mixed::round(stage, mix).await,
        Work::Change(_) => unreachable!("a change has a configuration of its own"),
    }
}
