//! What is measured: one entry for each axis, and one module for each kind of work.

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
pub use bulk::Direction;
pub use door::Door;
pub use list::{AXES, ONE_WORKER};
pub use round::Round;
pub use stage::Stage;

/// One thing to compare.
pub struct Axis {
    pub name: &'static str,
    pub what: &'static str,
    pub door: Door,
    pub work: Work,
    pub field: Field,
    /// What of a round is compared; a round may have more figures.
    pub figures: &'static [Figure],
}

/// What clients do.
#[derive(Clone, Copy, Debug)]
pub enum Work {
    /// New connection, echo, close.
    Connections {
        clients: usize,
    },
    /// Echoes on open connections.
    RoundTrips {
        connections: usize,
    },
    Bulk(Direction),
    /// Nothing, on open connections.
    Idle {
        connections: usize,
    },
    /// Echoes at a fixed rate: this share of the highest rate that a peer reaches.
    Latency {
        connections: usize,
        share: f64,
    },
    /// Idle connections, and echoes and new connections at fixed rates.
    Mixed(mixed::Mix),
    /// One endpoint among many changes.
    Change(change::Many),
}

/// Who takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// All contenders: ours is compared with the best of the others.
    Everybody,
    /// Ours in several ways: each is compared with the first.
    Ours(&'static [Way]),
}

/// A way to run tcplb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    pub name: &'static str,
    pub configuration: &'static str,
    pub arguments: &'static [&'static str],
    pub cores: &'static [usize],
}

/// Less is better, always.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    pub name: &'static str,
    pub unit: &'static str,
    pub goal: Goal,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// Ours ÷ that of the best peer, or ÷ the first way.
    Ratio(f64),
    /// As it is.
    Value(f64),
    None,
}

/// One round of a contender that serves already. `rate` is what [`Work::Latency`] is to be measured at.
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
