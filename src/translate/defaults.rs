//! What holds where a manifest says nothing: right for long-lived TCP. A proxy does not cut or refuse what nobody asked
//! it to, so limits, access, idle and maxDuration have no default here.

use std::{ops::RangeInclusive, time::Duration};

/// Standalone has no Kubernetes readiness to go by, so it probes unless it is told otherwise.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_secs(5);
pub(super) const CHECK_TIMEOUT: Duration = Duration::from_secs(1);
pub(super) const CHECK_JITTER_PERCENT: u8 = 10;
/// As Kubernetes and HAProxy have it.
pub(super) const CHECK_STATUSES: RangeInclusive<u16> = 200..=399;
/// Every server has it, and lets anybody in.
pub(super) const CHECK_DATABASE: &str = "postgres";
pub(super) const HEALTHY_AFTER: u16 = 2;
pub(super) const UNHEALTHY_AFTER: u16 = 3;

pub(super) const CONSECUTIVE_FAILURES: u16 = 5;
pub(super) const EJECT_FOR: Duration = Duration::from_secs(30);
pub(super) const MAX_EJECT_FOR: Duration = Duration::from_mins(5);
/// Half of the endpoints can carry the load for a while; a fault of all of them is no endpoint's own.
pub(super) const MAX_EJECTED_PERCENT: u8 = 50;

/// Three attempts fit into what clients wait themselves.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
pub(super) const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
pub(super) const CONNECT_ATTEMPTS: u16 = 3;
/// Below the handshake timeouts of common databases (MySQL 10 s, PostgreSQL 60 s).
pub(super) const PRECONNECT_IDLE_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) const HANDSHAKE: Duration = Duration::from_secs(10);
/// Of silence in the remaining direction: frees forgotten halves, never cuts a transfer.
pub(super) const HALF_CLOSED: Duration = Duration::from_mins(5);
pub(super) const JITTER_PERCENT: u8 = 10;

/// A dead peer is found within two minutes, and without an idle timeout.
pub(super) const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
pub(super) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
pub(super) const KEEPALIVE_PROBES: u8 = 4;

/// What Kubernetes users expect of a long grace period; a process may cap it.
pub(super) const DRAIN_AFTER: Duration = Duration::from_secs(60);

/// More than chance makes with some dozens of connections for each endpoint.
pub(super) const MAX_IMBALANCE_PERCENT: u16 = 20;
/// One a second.
pub(super) const MAX_CLOSES_PER_MINUTE: u32 = 60;
pub(super) const REBALANCE_MIN_AGE: Duration = Duration::from_mins(5);

/// The whole address.
pub(super) const HASH_PREFIX_V6: u8 = 128;
