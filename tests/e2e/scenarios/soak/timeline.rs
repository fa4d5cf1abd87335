//! The disturbances of a run, and the connections that each of them may end.

use std::{collections::BTreeMap, fmt, sync::Mutex, time::Duration};

use tokio::time::Instant;

use super::record::Record;
use crate::clients::LIMIT;

/// The time within which a client notices the end of its connection: it waits for an answer to its next message.
pub const DETECTION_LIMIT: Duration = super::population::MESSAGE_INTERVAL.saturating_add(LIMIT).saturating_add(SLACK);
/// The time for which a busy machine delays a client.
const SLACK: Duration = Duration::from_secs(5);

/// The kind of a disturbance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Disturbance {
    LeaderChange,
    ApiServerOutage,
    BackendKill,
    ReplicaKill,
    ReplicaDrain,
    NodeLoss,
}

impl Disturbance {
    pub const ALL: [Self; 6] = [
        Self::LeaderChange,
        Self::ReplicaKill,
        Self::ApiServerOutage,
        Self::BackendKill,
        Self::ReplicaDrain,
        Self::NodeLoss,
    ];

    /// True if the cluster may send new connections of a Service to a replica or backend that does not serve.
    fn fails_new_connections(self) -> bool {
        match self {
            Self::LeaderChange | Self::ApiServerOutage | Self::ReplicaDrain => false,
            Self::BackendKill | Self::ReplicaKill | Self::NodeLoss => true,
        }
    }
}

impl fmt::Display for Disturbance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::LeaderChange => "leader change",
            Self::ApiServerOutage => "API server outage",
            Self::BackendKill => "backend kill",
            Self::ReplicaKill => "replica kill",
            Self::ReplicaDrain => "replica drain",
            Self::NodeLoss => "node loss",
        })
    }
}

/// A part of the cluster whose connections end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The replica on the node with this name.
    Replica(String),
    /// The pod of a backend.
    Backend(String),
}

/// A disturbance, from its beginning until all parts serve again.
#[derive(Clone, Debug)]
struct Period {
    disturbance: Disturbance,
    targets: Vec<Target>,
    began: Instant,
    /// The time for which open connections continue after the beginning.
    grace: Duration,
    ended: Option<Instant>,
}

#[derive(Default)]
pub struct Timeline(Mutex<Vec<Period>>);

impl Timeline {
    /// Notes the beginning of a disturbance that ends the connections of these targets.
    pub fn begin(&self, disturbance: Disturbance, targets: Vec<Target>, grace: Duration) {
        println!("soak: {disturbance} of {targets:?}");
        let period = Period { disturbance, targets, began: Instant::now(), grace, ended: None };
        self.0.lock().unwrap().push(period);
    }

    /// Notes the end of the last disturbance: all parts serve again.
    pub fn end(&self) {
        let mut periods = self.0.lock().unwrap();
        let period = periods.last_mut().expect("a disturbance began");
        period.ended = Some(Instant::now());
        println!("soak: {} ended after {:.1?}", period.disturbance, period.began.elapsed());
    }

    pub fn counts(&self) -> BTreeMap<Disturbance, usize> {
        let mut counts = BTreeMap::new();
        for period in &*self.0.lock().unwrap() {
            *counts.entry(period.disturbance).or_default() += 1;
        }
        counts
    }

    /// The disturbance that ended a connection early. `None`: the connection should have survived.
    pub fn cause(&self, record: &Record) -> Option<Disturbance> {
        self.0.lock().unwrap().iter().find(|period| period.may_end(record)).map(|period| period.disturbance)
    }

    /// The disturbance that must have ended a connection, although the connection survived it.
    pub fn survived(&self, record: &Record) -> Option<Disturbance> {
        self.0.lock().unwrap().iter().find(|period| period.must_end(record)).map(|period| period.disturbance)
    }

    /// True if a disturbance explains that the Service did not serve a client that connected at this time.
    pub fn explains(&self, connected: Instant) -> bool {
        let concerns = |period: &&Period| {
            period.disturbance.fails_new_connections()
                && connected + LIMIT >= period.began
                && period.ended.is_none_or(|ended| connected <= ended + SLACK)
        };
        self.0.lock().unwrap().iter().any(|period| concerns(&period))
    }
}

impl Period {
    fn may_end(&self, record: &Record) -> bool {
        // A connection without a backend was not open yet.
        let grace = if record.backend.is_some() { self.grace } else { Duration::ZERO };
        let concerns = |target: &Target| match target {
            Target::Replica(node) => *node == record.node,
            Target::Backend(pod) => record.backend.as_ref().is_none_or(|backend| backend == pod),
        };
        record.ended >= self.began + grace
            && self.ended.is_none_or(|ended| record.opened <= ended && record.ended <= ended + DETECTION_LIMIT)
            && self.targets.iter().any(concerns)
    }

    fn must_end(&self, record: &Record) -> bool {
        let concerns = |target: &Target| match target {
            Target::Replica(node) => *node == record.node,
            Target::Backend(pod) => record.backend.as_ref() == Some(pod),
        };
        record.backend.is_some()
            && record.opened + LIMIT < self.began
            && self.ended.is_some_and(|ended| record.ended > ended + DETECTION_LIMIT)
            && self.targets.iter().any(concerns)
    }
}

mod tests {
    use super::*;
    use crate::clients::Failure;

    const SECOND: Duration = Duration::from_secs(1);

    /// A connection through node1 to pod-1 from one time to another, in seconds.
    fn record(start: Instant, opened: u32, ended: u32) -> Record {
        Record {
            node: "node1".into(),
            load_balancer: "first",
            is_tls: false,
            backend: Some("pod-1".into()),
            opened: start + opened * SECOND,
            ended: start + ended * SECOND,
            failure: Some(Failure::Reset),
        }
    }

    /// A disturbance from second 100 to second 110, with 5 s of grace.
    fn timeline(start: Instant, target: Target) -> Timeline {
        let (began, ended) = (start + 100 * SECOND, Some(start + 110 * SECOND));
        let targets = vec![target];
        let period = Period { disturbance: Disturbance::ReplicaDrain, targets, began, grace: 5 * SECOND, ended };
        Timeline(Mutex::new(vec![period]))
    }

    #[test]
    fn a_disturbance_ends_only_connections_of_its_targets_at_its_time() {
        let start = Instant::now();
        let replica = timeline(start, Target::Replica("node1".into()));
        let cases =
            [((10, 104), false), ((10, 106), true), ((109, 130), true), ((111, 112), false), ((10, 200), false)];
        for ((opened, ended), is_explained) in cases {
            let cause = replica.cause(&record(start, opened, ended));
            assert_eq!(cause.is_some(), is_explained, "a connection from {opened} s to {ended} s");
        }
        for other in [Target::Replica("node2".into()), Target::Backend("pod-2".into())] {
            assert_eq!(timeline(start, other).cause(&record(start, 10, 106)), None);
        }
        assert!(timeline(start, Target::Backend("pod-1".into())).cause(&record(start, 10, 106)).is_some());
    }

    #[test]
    fn a_connection_that_was_not_open_yet_has_no_grace() {
        let start = Instant::now();
        let unopened = Record { backend: None, ..record(start, 101, 102) };
        assert!(timeline(start, Target::Replica("node1".into())).cause(&unopened).is_some());
    }

    #[test]
    fn no_connection_outlives_its_replica_or_backend() {
        let start = Instant::now();
        for target in [Target::Replica("node1".into()), Target::Backend("pod-1".into())] {
            let timeline = timeline(start, target);
            assert!(timeline.survived(&record(start, 10, 200)).is_some());
            assert_eq!(timeline.survived(&record(start, 10, 120)), None);
            assert_eq!(timeline.survived(&record(start, 109, 200)), None, "it began with the successor");
        }
        let other = timeline(start, Target::Replica("node2".into()));
        assert_eq!(other.survived(&record(start, 10, 200)), None);
    }
}
