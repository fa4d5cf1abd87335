//! Defaults for long-lived TCP connections. The proxy cuts or refuses connections only on request, so limits, access,
//! idle and maxDuration have no default.

use std::{ops::RangeInclusive, time::Duration};

/// Standalone mode has no Kubernetes readiness, so active checks are on by default.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_secs(5);
pub(super) const CHECK_TIMEOUT: Duration = Duration::from_secs(1);
pub(super) const CHECK_JITTER_PERCENT: u8 = 10;
/// Same as Kubernetes and HAProxy.
pub(super) const CHECK_STATUSES: RangeInclusive<u16> = 200..=399;
/// A database that exists on every server and is open to all accounts.
pub(super) const CHECK_DATABASE: &str = "postgres";
pub(super) const HEALTHY_AFTER: u16 = 2;
pub(super) const UNHEALTHY_AFTER: u16 = 3;

pub(super) const CONSECUTIVE_FAILURES: u16 = 5;
pub(super) const EJECT_FOR: Duration = Duration::from_secs(30);
pub(super) const MAX_EJECT_FOR: Duration = Duration::from_mins(5);
/// Half of the endpoints can carry the load for a while. If all endpoints fail, the cause is not a single endpoint.
pub(super) const MAX_EJECTED_PERCENT: u8 = 50;

/// Three attempts fit into common client timeouts.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
pub(super) const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
pub(super) const CONNECT_ATTEMPTS: u16 = 3;
/// Below the handshake timeouts of common databases (MySQL 10 s, PostgreSQL 60 s).
pub(super) const PRECONNECT_IDLE_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) const HANDSHAKE: Duration = Duration::from_secs(10);
/// The idle time of the remaining direction: closes forgotten half-open connections, and never interrupts a transfer.
pub(super) const HALF_CLOSED: Duration = Duration::from_mins(5);
pub(super) const JITTER_PERCENT: u8 = 10;

/// Detects a dead peer within two minutes without an idle timeout.
pub(super) const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
pub(super) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
pub(super) const KEEPALIVE_PROBES: u8 = 4;

/// Matches a long termination grace period in Kubernetes. The process may cap it.
pub(super) const DRAIN_AFTER: Duration = Duration::from_secs(60);

/// Larger than the random imbalance of a few dozen connections for each endpoint.
pub(super) const MAX_IMBALANCE_PERCENT: u16 = 20;
/// One close a second.
pub(super) const MAX_CLOSES_PER_MINUTE: u32 = 60;
pub(super) const REBALANCE_MIN_AGE: Duration = Duration::from_mins(5);

/// The whole address.
pub(super) const HASH_PREFIX_V6: u8 = 128;
