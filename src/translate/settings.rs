//! The settings that a load balancer's listeners or endpoints share. Each is returned whole, also when something in it
//! was refused: whoever asks uses it only if nothing was.

use std::{
    cmp,
    num::{NonZeroU16, NonZeroU32},
    time::Duration,
};

use super::{defaults, findings::Place};
use crate::{
    api,
    api::TcpLoadBalancerSpec,
    model::{Algorithm, Balancing, Connect, Keepalive, PassiveCheck, Preconnect, ShutdownDrain, Timeouts},
};

pub(super) const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// The largest TCP_KEEPIDLE and TCP_KEEPINTVL that Linux takes, in seconds.
const MAX_KEEPALIVE: Duration = Duration::from_secs(32767);

pub(super) fn timeouts(spec: &TcpLoadBalancerSpec, place: &mut Place) -> Timeouts {
    let declared = spec.timeouts.clone().unwrap_or_default();
    Timeouts {
        handshake: place.at("handshake").duration(given(declared.handshake, defaults::HANDSHAKE), MILLISECOND..),
        idle: unless_zero(given(declared.idle, Duration::ZERO)),
        half_closed: unless_zero(given(declared.half_closed, defaults::HALF_CLOSED)),
        max_duration: unless_zero(given(declared.max_duration, Duration::ZERO)),
        jitter_percent: place
            .at("jitterPercent")
            .number(declared.jitter_percent.unwrap_or(defaults::JITTER_PERCENT), 0..=100),
    }
}

pub(super) fn keepalive(spec: &TcpLoadBalancerSpec, place: &mut Place) -> Option<Keepalive> {
    let declared = spec.tcp_keepalive.clone().unwrap_or_default();
    let mut seconds = |field, value: Duration| {
        let mut place = place.at(field);
        if value.subsec_nanos() != 0 {
            place.refuse(format!("{} is not a whole number of seconds: write for example 15s", api::Duration(value)));
            return value;
        }
        place.duration(value, SECOND..=MAX_KEEPALIVE)
    };
    let idle = unless_zero(given(declared.idle, defaults::KEEPALIVE_IDLE)).map(|idle| seconds("idle", idle));
    let interval = seconds("interval", given(declared.interval, defaults::KEEPALIVE_INTERVAL));
    let probes = place.at("probes").number(declared.probes.unwrap_or(defaults::KEEPALIVE_PROBES), 1..=100);
    idle.map(|idle| Keepalive { idle, interval, probes })
}

pub(super) fn drain(spec: &TcpLoadBalancerSpec, place: &mut Place) -> ShutdownDrain {
    let declared = spec.drain.as_ref().and_then(|drain| drain.shutdown.clone()).unwrap_or_default();
    let after = given(declared.after, defaults::DRAIN_AFTER);
    let spread = given(declared.spread, after / 2);
    ShutdownDrain { after, spread: at_most("`after`", after, spread, &mut place.at("spread")) }
}

pub(super) fn balancing(spec: &TcpLoadBalancerSpec, place: &mut Place) -> Balancing {
    let declared = spec.load_balancing.clone().unwrap_or_default();
    let algorithm = match declared.algorithm {
        api::Algorithm::RoundRobin => Algorithm::RoundRobin,
        api::Algorithm::LeastConnections => Algorithm::LeastConnections,
        api::Algorithm::PowerOfTwo => Algorithm::PowerOfTwo,
        api::Algorithm::Random => Algorithm::Random,
        api::Algorithm::Maglev => Algorithm::Maglev,
    };
    let mut place = place.at("hash");
    if declared.hash.is_some() && algorithm != Algorithm::Maglev {
        place.refuse(format!("it does nothing with algorithm {algorithm:?}: write algorithm: Maglev, or leave it out"));
    }
    let prefix = declared.hash.and_then(|hash| hash.prefix_v6).unwrap_or(defaults::HASH_PREFIX_V6);
    Balancing { algorithm, hash_prefix_v6: place.at("prefixV6").number(prefix, 1..=128) }
}

/// `None`: no ejection.
pub(super) fn passive_check(spec: &TcpLoadBalancerSpec, place: &mut Place) -> Option<PassiveCheck> {
    let declared = spec.health_check.as_ref().and_then(|check| check.passive.clone()).unwrap_or_default();
    let eject_for = (declared.eject_for, defaults::EJECT_FOR);
    let max_eject_for = (declared.max_eject_for, defaults::MAX_EJECT_FOR);
    let (eject_for, max_eject_for) = ordered(SECOND, eject_for, max_eject_for);
    let failures = declared.consecutive_failures.unwrap_or(defaults::CONSECUTIVE_FAILURES);
    let percent = declared.max_ejected_percent.unwrap_or(defaults::MAX_EJECTED_PERCENT);
    let check = PassiveCheck {
        consecutive_failures: nonzero_u16(place.at("consecutiveFailures").number(failures, 1..=1000)),
        eject_for: place.at("ejectFor").duration(eject_for, SECOND..),
        max_eject_for: at_least("ejectFor", eject_for, max_eject_for, &mut place.at("maxEjectFor")),
        max_ejected_percent: place.at("maxEjectedPercent").number(percent, 0..=100),
    };
    (percent > 0).then_some(check)
}

pub(super) fn connect(spec: &TcpLoadBalancerSpec, place: &mut Place) -> Connect {
    let declared = spec.connect.clone().unwrap_or_default();
    let timeout = (declared.timeout, defaults::CONNECT_TIMEOUT);
    let deadline = (declared.deadline, defaults::CONNECT_DEADLINE);
    let (timeout, deadline) = ordered(MILLISECOND, timeout, deadline);
    let attempts = declared.attempts.unwrap_or(defaults::CONNECT_ATTEMPTS);
    Connect {
        timeout: place.at("timeout").duration(timeout, MILLISECOND..),
        deadline: at_least("the timeout", timeout, deadline, &mut place.at("deadline")),
        attempts: nonzero_u16(place.at("attempts").number(attempts, 1..=10)),
        preconnect: declared.preconnect.map(|declared| preconnect(&declared, &mut place.at("preconnect"))),
    }
}

fn preconnect(declared: &api::Preconnect, place: &mut Place) -> Preconnect {
    let idle_timeout = given(declared.idle_timeout, defaults::PRECONNECT_IDLE_TIMEOUT);
    Preconnect {
        per_endpoint: nonzero_u16(place.at("perEndpoint").number(declared.per_endpoint, 1..=1000)),
        idle_timeout: place.at("idleTimeout").duration(idle_timeout, Duration::from_millis(100)..),
    }
}

pub(super) fn given(declared: Option<api::Duration>, default: Duration) -> Duration {
    declared.map_or(default, |duration| duration.0)
}

/// Two durations of which the second may not be shorter than the first, each with its default. A default gives way: it
/// never contradicts what is declared, but the first one's stays at least `least`.
fn ordered(
    least: Duration,
    (short, short_default): (Option<api::Duration>, Duration),
    (long, long_default): (Option<api::Duration>, Duration),
) -> (Duration, Duration) {
    let short_default = cmp::max(least, cmp::min(short_default, given(long, long_default)));
    (given(short, short_default), given(long, cmp::max(long_default, given(short, short_default))))
}

fn at_least(what: &str, limit: Duration, value: Duration, place: &mut Place) -> Duration {
    if value < limit {
        let (value, limit) = (api::Duration(value), api::Duration(limit));
        place.refuse(format!("{value} is shorter than {what}: write at least {limit}"));
    }
    value
}

pub(super) fn at_most(what: &str, limit: Duration, value: Duration, place: &mut Place) -> Duration {
    if value > limit {
        let (value, limit) = (api::Duration(value), api::Duration(limit));
        place.refuse(format!("{value} is longer than {what}: write at most {limit}"));
    }
    value
}

/// Zero means off.
fn unless_zero(duration: Duration) -> Option<Duration> {
    (!duration.is_zero()).then_some(duration)
}

/// For numbers that were refused if they are zero.
pub(super) fn nonzero_u16(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap_or(NonZeroU16::MIN)
}

/// For numbers that were refused if they are zero.
pub(super) fn nonzero_u32(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN)
}
