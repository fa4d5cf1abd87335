use std::{num::NonZeroU32, time::Duration};

use jiff::fmt::serde::unsigned_duration::friendly::compact as duration;
use serde::Serialize;

/// The time after its deadline from which a drain with open connections is overdue. Drains close connections in steps.
pub const DRAIN_TOLERANCE: Duration = Duration::from_secs(60);

/// The schedule for closing the connections of a drained endpoint, listener or process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Close {
    /// The time by which the last connection is closed, unless `max_per_second` delays it.
    #[serde(serialize_with = "duration::required::serialize")]
    pub after: Duration,
    /// The last part of `after`, over which the closes are spread, idle connections first.
    #[serde(serialize_with = "duration::required::serialize")]
    pub spread: Duration,
    /// The maximum number of closes per second. `None`: the rate that `spread` requires.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_per_second: Option<NonZeroU32>,
}

/// The redistribution of long-lived connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rebalance {
    /// The permitted excess of an endpoint over its share.
    pub max_imbalance_percent: u16,
    pub max_closes_per_minute: NonZeroU32,
    /// Younger connections are not closed.
    #[serde(serialize_with = "duration::required::serialize")]
    pub min_age: Duration,
    /// Only idle connections are closed.
    pub idle_only: bool,
}

/// The drain of endpoints that get no new connections, by cause. `None`: connections are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointDrain {
    /// The pod is terminating.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminating: Option<Close>,
    /// The endpoint is no longer listed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub removed: Option<Close>,
    /// Checks or connections fail, or the pod is not ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unhealthy: Option<Close>,
    /// The object lists the endpoint as drained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drained: Option<Close>,
    /// An endpoint of a lower priority number is active again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failback: Option<Close>,
}

impl EndpointDrain {
    /// `None`: connections are kept.
    pub fn on(&self, cause: DrainCause) -> Option<Close> {
        match cause {
            DrainCause::Terminating => self.terminating,
            DrainCause::Removed => self.removed,
            DrainCause::Unhealthy => self.unhealthy,
            DrainCause::Drained => self.drained,
            DrainCause::Failback => self.failback,
        }
    }
}

/// The reason why an endpoint gets no new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DrainCause {
    Terminating,
    Removed,
    Unhealthy,
    Drained,
    Failback,
}

/// The drain of listeners. `None`: connections are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerDrain {
    /// The listener is no longer declared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub removed: Option<Close>,
    /// The process shuts down. `None`: connections are kept for the drain period of the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shutdown: Option<Close>,
}
