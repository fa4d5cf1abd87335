use std::{num::NonZeroU32, time::Duration};

use jiff::fmt::serde::unsigned_duration::friendly::compact as duration;
use serde::Serialize;

/// How the connections of something that goes are closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Close {
    /// None stays open for longer than this after it went, unless `max_per_second` holds its end up.
    #[serde(serialize_with = "duration::required::serialize")]
    pub after: Duration,
    /// Over this last part of `after` they are closed bit by bit, idle ones first.
    #[serde(serialize_with = "duration::required::serialize")]
    pub spread: Duration,
    /// Never more than this; `None`: as many as the spread asks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_per_second: Option<NonZeroU32>,
}

/// How connections that last are spread anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rebalance {
    /// How far an endpoint may be above its share.
    pub max_imbalance_percent: u16,
    pub max_closes_per_minute: NonZeroU32,
    /// Younger connections stay.
    #[serde(serialize_with = "duration::required::serialize")]
    pub min_age: Duration,
    /// Only connections that are silent are closed.
    pub idle_only: bool,
}

/// What happens to the connections of endpoints that get no more of them. `None`: they are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointDrain {
    /// Its pod is being deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminating: Option<Close>,
    /// It is no longer listed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub removed: Option<Close>,
    /// Checks or connections find it broken, or its pod says that it is not ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unhealthy: Option<Close>,
    /// One that is preferred to it serves again.
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
            DrainCause::Failback => self.failback,
        }
    }
}

/// Why an endpoint gets no more connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DrainCause {
    Terminating,
    Removed,
    Unhealthy,
    Failback,
}

/// What happens to the connections of a listener that goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerDrain {
    /// It is no longer declared. `None`: they are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub removed: Option<Close>,
    /// The process shuts down. `None`: they are kept for as long as the process may drain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shutdown: Option<Close>,
}
