use super::{bulk::Direction, change::Many, door::Door, mixed::Mix};

/// A comparison.
pub struct Axis {
    pub name: &'static str,
    pub what: &'static str,
    pub door: Door,
    pub work: Work,
    pub field: Field,
    /// The figures of a round that are compared. A round may have more.
    pub figures: &'static [Figure],
}

/// The work of the clients.
#[derive(Clone, Copy, Debug)]
pub enum Work {
    /// Opens a connection, echoes, and closes it.
    Connections {
        clients: usize,
    },
    /// Echoes on open connections.
    RoundTrips {
        connections: usize,
    },
    Bulk(Direction),
    /// Keeps connections open and idle.
    Idle {
        connections: usize,
    },
    /// Echoes at a fixed rate: this share of the highest rate that a peer reaches.
    Latency {
        connections: usize,
        share: f64,
    },
    /// Idle connections, with echoes and new connections at fixed rates.
    Mixed(Mix),
    /// Changes one endpoint among many.
    Change(Many),
}

/// The participants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// All contenders. tcplb is compared with the best of the others.
    Everybody,
    /// tcplb in several ways. Each is compared with the first.
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

/// A lower value is always better.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    pub name: &'static str,
    pub unit: &'static str,
}
