use super::{bulk::Direction, change::Many, door::Door, mixed::Mix};

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
    Mixed(Mix),
    /// One endpoint among many changes.
    Change(Many),
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
