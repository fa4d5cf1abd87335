//! Settings shared by a load balancer's listeners or endpoints. Each function returns a complete value even if it
//! refuses a part; callers use it only if nothing was refused.

use std::{
    cmp,
    num::{NonZeroU16, NonZeroU32},
    time::Duration,
};

use rustls::pki_types::ServerName;

use super::{
    context::TranslateContext,
    defaults,
    field_errors::FieldPath,
    verdict::{Part, Reason},
};
use crate::{
    api::{self, Prefer, TcpLoadBalancerSpec},
    model::{
        Algorithm, Balancing, Close, Connect, EndpointDrain, Failback, Failover, Keepalive, ListenerDrain,
        PassiveCheck, Preconnect, Rebalance, StartTls, Timeouts,
    },
    world,
};

pub(super) const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_hours(1);
/// The maximum TCP_KEEPIDLE and TCP_KEEPINTVL of Linux, in seconds.
const MAX_KEEPALIVE: Duration = Duration::from_secs(32767);

pub(super) fn timeouts(spec: &TcpLoadBalancerSpec, path: &mut FieldPath) -> Timeouts {
    let declared = spec.timeouts.clone().unwrap_or_default();
    Timeouts {
        handshake: path.at("handshake").duration(given(declared.handshake, defaults::HANDSHAKE), MILLISECOND..),
        idle: unless_zero(given(declared.idle, Duration::ZERO)),
        half_closed: unless_zero(given(declared.half_closed, defaults::HALF_CLOSED)),
        max_duration: unless_zero(given(declared.max_duration, Duration::ZERO)),
        jitter_percent: path
            .at("jitterPercent")
            .number(declared.jitter_percent.unwrap_or(defaults::JITTER_PERCENT), 0..=100),
    }
}

pub(super) fn keepalive(spec: &TcpLoadBalancerSpec, path: &mut FieldPath) -> Option<Keepalive> {
    let declared = spec.tcp_keepalive.clone().unwrap_or_default();
    let mut seconds = |field, value: Duration| {
        let mut path = path.at(field);
        if value.subsec_nanos() != 0 {
            path.refuse(format!("{} is not a whole number of seconds: write for example 15s", api::Duration(value)));
            return value;
        }
        path.duration(value, SECOND..=MAX_KEEPALIVE)
    };
    let idle = unless_zero(given(declared.idle, defaults::KEEPALIVE_IDLE)).map(|idle| seconds("idle", idle));
    let interval = seconds("interval", given(declared.interval, defaults::KEEPALIVE_INTERVAL));
    let probes = path.at("probes").number(declared.probes.unwrap_or(defaults::KEEPALIVE_PROBES), 1..=100);
    idle.map(|idle| Keepalive { idle, interval, probes })
}

pub(super) fn listener_drain(spec: &TcpLoadBalancerSpec, path: &mut FieldPath) -> ListenerDrain {
    let declared = spec.drain.clone().unwrap_or_default();
    let mut case = |field, declared: Option<&api::DrainPolicy>| close(declared, &mut path.at(field));
    ListenerDrain {
        removed: case("listenerRemoved", declared.listener_removed.as_ref()),
        shutdown: case("shutdown", Some(&declared.shutdown.unwrap_or_default())),
    }
}

pub(super) fn endpoint_drain(spec: &TcpLoadBalancerSpec, path: &mut FieldPath) -> EndpointDrain {
    let declared = spec.drain.clone().unwrap_or_default();
    if declared.failback.is_some() && have_same_priority(&spec.backends) {
        path.at("failback").warn(
            Reason::Invalid,
            "has no effect, since all backends have the same priority: write a higher `priority` for the standby \
             backends, or remove it",
        );
    }
    let mut case = |field, declared: Option<api::DrainPolicy>| close(declared.as_ref(), &mut path.at(field));
    EndpointDrain {
        terminating: case("endpointTerminating", declared.endpoint_terminating),
        removed: case("endpointRemoved", declared.endpoint_removed),
        unhealthy: case("endpointUnhealthy", declared.endpoint_unhealthy),
        drained: case("endpointDrained", declared.endpoint_drained),
        failback: case("failback", declared.failback),
    }
}

/// Rebalancing settings. `None`: connections are not rebalanced.
pub(super) fn rebalance(spec: &TcpLoadBalancerSpec, path: &mut FieldPath) -> Option<Rebalance> {
    let api::Rebalance { max_imbalance_percent, max_closes_per_minute, min_age, idle_only } = spec.rebalance.clone()?;
    if spec.load_balancing.as_ref().is_some_and(|balancing| balancing.algorithm == api::Algorithm::Maglev) {
        path.refuse(
            "has no effect with algorithm Maglev, where clients return to the same endpoint: remove it, or write \
             another algorithm",
        );
    }
    let percent = max_imbalance_percent.unwrap_or(defaults::MAX_IMBALANCE_PERCENT);
    let most = max_closes_per_minute.unwrap_or(defaults::MAX_CLOSES_PER_MINUTE);
    Some(Rebalance {
        max_imbalance_percent: path.at("maxImbalancePercent").number(percent, 1..=1000),
        max_closes_per_minute: nonzero_u32(path.at("maxClosesPerMinute").number(most, 1..=1_000_000)),
        min_age: path.at("minAge").duration(given(min_age, defaults::REBALANCE_MIN_AGE), ..=24 * HOUR),
        idle_only: idle_only.unwrap_or(true),
    })
}

/// Drain settings of one case. `None`: connections are kept.
fn close(declared: Option<&api::DrainPolicy>, path: &mut FieldPath) -> Option<Close> {
    let api::DrainPolicy { policy, after, spread, max_per_second } = declared?.clone();
    if policy == api::DrainAction::Keep {
        if after.is_some() || spread.is_some() || max_per_second.is_some() {
            path.at("policy").refuse(
                "after, spread and maxPerSecond have no effect with policy Keep: write `policy: Close`, or remove them",
            );
        }
        return None;
    }
    let after = given(after, defaults::DRAIN_AFTER);
    let spread = given(spread, after / 2);
    let most = max_per_second.map(|most| path.at("maxPerSecond").number(most, 1..=100_000));
    let spread = at_most("`after`", after, spread, &mut path.at("spread"));
    Some(Close { after, spread, max_per_second: most.map(nonzero_u32) })
}

pub(super) fn balancing(spec: &TcpLoadBalancerSpec, context: &TranslateContext, path: &mut FieldPath) -> Balancing {
    let declared = spec.load_balancing.clone().unwrap_or_default();
    let algorithm = match declared.algorithm {
        api::Algorithm::RoundRobin => Algorithm::RoundRobin,
        api::Algorithm::LeastConnections => Algorithm::LeastConnections,
        api::Algorithm::PowerOfTwo => Algorithm::PowerOfTwo,
        api::Algorithm::Random => Algorithm::Random,
        api::Algorithm::Maglev => Algorithm::Maglev,
    };
    let failover = failover(spec, declared.failover.as_ref(), &mut path.at("failover"));
    let slow_start = declared.slow_start.map(|over| slow_start(over.0, algorithm, &mut path.at("slowStart")));
    let overloaded_at = declared
        .locality
        .as_ref()
        .and_then(|locality| self::locality(spec, context, locality, &mut path.at("locality")));
    let mut path = path.at("hash");
    if declared.hash.is_some() && algorithm != Algorithm::Maglev {
        path.refuse(format!("has no effect with algorithm {algorithm:?}: write `algorithm: Maglev`, or remove it"));
    }
    let prefix = declared.hash.and_then(|hash| hash.prefix_v6).unwrap_or(defaults::HASH_PREFIX_V6);
    Balancing {
        algorithm,
        hash_prefix_v6: path.at("prefixV6").number(prefix, 1..=128),
        failover,
        slow_start,
        overloaded_at,
        without_table: false,
    }
}

/// Validates the locality preference. Returns the number of connections that overload an endpoint.
fn locality(
    spec: &TcpLoadBalancerSpec,
    context: &TranslateContext,
    declared: &api::Locality,
    path: &mut FieldPath,
) -> Option<NonZeroU32> {
    if spec.load_balancing.as_ref().is_some_and(|balancing| balancing.algorithm == api::Algorithm::Maglev) {
        path.refuse(
            "has no effect with algorithm Maglev, with which all processes choose the same endpoint for a client: \
             write another algorithm, or remove it",
        );
    } else if spec.backends.iter().all(|backend| backend.service.is_none()) {
        path.warn(
            Reason::Invalid,
            "has no effect, since only endpoints of Services have a zone and a node: give near addresses a lower \
             `priority`, or remove it",
        );
    } else {
        warn_of_unknown_place(context, declared.prefer, path);
    }
    let most = declared.overloaded_at?;
    NonZeroU32::new(path.at("overloadedAt").number(most, 1..=10_000_000))
}

fn warn_of_unknown_place(context: &TranslateContext, prefer: Prefer, path: &mut FieldPath) {
    // `tcplb check` has no locality and serves nothing.
    if context.world.locality.is_none() {
        return;
    }
    let unknown =
        |what: &str| format!("has no effect here, since the {what} of this process is unknown: start it with --{what}");
    let sentence = match (prefer, context.here()) {
        (Prefer::SameNode, world::ProcessLocality { node: None, .. }) => unknown("node"),
        (Prefer::SameZone | Prefer::Hints, world::ProcessLocality { zone: None, .. }) => unknown("zone"),
        (_, world::ProcessLocality { zone: Some(zone), .. }) if context.all_are_elsewhere() => format!(
            "no endpoint is in zone `{zone}`, where this process runs: check its --zone and the zones of the endpoints"
        ),
        (Prefer::SameNode | Prefer::SameZone | Prefer::Hints, _) => return,
    };
    path.warn(Reason::UnknownPlace, sentence);
}

fn slow_start(over: Duration, algorithm: Algorithm, path: &mut FieldPath) -> Duration {
    if algorithm == Algorithm::Maglev {
        path.refuse("has no effect with algorithm Maglev: write another algorithm, or remove it");
    }
    path.duration(over, SECOND..=HOUR)
}

fn failover(spec: &TcpLoadBalancerSpec, declared: Option<&api::Failover>, path: &mut FieldPath) -> Failover {
    let Some(declared) = declared else { return Failover::default() };
    if have_same_priority(&spec.backends) {
        path.refuse(
            "has no effect, since all backends have the same priority: write a higher `priority` for the standby \
             backends, or remove it",
        );
    }
    let percent = declared.min_usable_percent.unwrap_or(0);
    Failover {
        min_usable_percent: path.at("minUsablePercent").number(percent, 0..=100),
        failback: failback(declared.failback.as_ref(), &mut path.at("failback")),
        failback_request: declared.failback.as_ref().and_then(|failback| Some(failback.requested_at?.0)),
    }
}

fn have_same_priority(backends: &[api::Backend]) -> bool {
    backends.iter().all(|backend| backend.priority == backends[0].priority)
}

fn failback(declared: Option<&api::Failback>, path: &mut FieldPath) -> Failback {
    let declared = declared.cloned().unwrap_or_default();
    match (declared.policy, declared.after) {
        (api::FailbackPolicy::Automatic, after) => {
            Failback::After(path.at("after").duration(given(after, Duration::ZERO), ..=24 * HOUR))
        }
        (api::FailbackPolicy::Never, after) => {
            if after.is_some() {
                path.at("after").refuse("has no effect with policy Never: write `policy: Automatic`, or remove it");
            }
            Failback::Never
        }
    }
}

/// Outlier ejection settings. `None`: endpoints are not ejected.
pub(super) fn passive_check(spec: &TcpLoadBalancerSpec, path: &mut FieldPath) -> Option<PassiveCheck> {
    let declared = spec.health_check.as_ref().and_then(|check| check.passive.clone()).unwrap_or_default();
    let eject_for = (declared.eject_for, defaults::EJECT_FOR);
    let max_eject_for = (declared.max_eject_for, defaults::MAX_EJECT_FOR);
    let (eject_for, max_eject_for) = ordered(SECOND, eject_for, max_eject_for);
    let failures = declared.consecutive_failures.unwrap_or(defaults::CONSECUTIVE_FAILURES);
    let percent = declared.max_ejected_percent.unwrap_or(defaults::MAX_EJECTED_PERCENT);
    let check = PassiveCheck {
        consecutive_failures: nonzero_u16(path.at("consecutiveFailures").number(failures, 1..=1000)),
        eject_for: path.at("ejectFor").duration(eject_for, SECOND..),
        max_eject_for: at_least("ejectFor", eject_for, max_eject_for, &mut path.at("maxEjectFor")),
        max_ejected_percent: path.at("maxEjectedPercent").number(percent, 0..=100),
    };
    (percent > 0).then_some(check)
}

pub(super) fn connect(spec: &TcpLoadBalancerSpec, path: &mut FieldPath) -> Connect {
    let declared = spec.connect.clone().unwrap_or_default();
    let timeout = (declared.timeout, defaults::CONNECT_TIMEOUT);
    let deadline = (declared.deadline, defaults::CONNECT_DEADLINE);
    let (timeout, deadline) = ordered(MILLISECOND, timeout, deadline);
    let attempts = declared.attempts.unwrap_or(defaults::CONNECT_ATTEMPTS);
    Connect {
        timeout: path.at("timeout").duration(timeout, MILLISECOND..),
        deadline: at_least("the timeout", timeout, deadline, &mut path.at("deadline")),
        attempts: nonzero_u16(path.at("attempts").number(attempts, 1..=10)),
        preconnect: declared.preconnect.map(|declared| preconnect(&declared, &mut path.part(Part::Preconnect))),
    }
}

fn preconnect(declared: &api::Preconnect, path: &mut FieldPath) -> Preconnect {
    let idle_timeout = given(declared.idle_timeout, defaults::PRECONNECT_IDLE_TIMEOUT);
    Preconnect {
        per_endpoint: nonzero_u16(path.at("perEndpoint").number(declared.per_endpoint, 1..=1000)),
        idle_timeout: path.at("idleTimeout").duration(idle_timeout, Duration::from_millis(100)..),
    }
}

pub(super) fn start_tls(declared: Option<api::StartTls>) -> Option<StartTls> {
    declared.map(|api::StartTls::Postgres| StartTls::Postgres)
}

/// Converts a server name that a TLS client requests. `wildcard` is the message about a wildcard.
pub(super) fn requestable(
    declared: &api::ServerName,
    wildcard: &str,
    path: &mut FieldPath,
) -> Option<ServerName<'static>> {
    let name = ServerName::try_from(declared.0.clone()).ok();
    if name.is_none() {
        path.refuse(match declared.0.starts_with('*') {
            true => wildcard.to_owned(),
            false => format!(
                "`{declared}` is not a server name that can be requested: write labels of at most 63 characters, the \
                 last one not a number"
            ),
        });
    }
    name
}

pub(super) fn given(declared: Option<api::Duration>, default: Duration) -> Duration {
    declared.map_or(default, |duration| duration.0)
}

/// Resolves two durations, where the second must not be shorter than the first. A default yields to a declared value,
/// but the default of the first stays at least `least`.
fn ordered(
    least: Duration,
    (short, short_default): (Option<api::Duration>, Duration),
    (long, long_default): (Option<api::Duration>, Duration),
) -> (Duration, Duration) {
    let short_default = cmp::max(least, cmp::min(short_default, given(long, long_default)));
    (given(short, short_default), given(long, cmp::max(long_default, given(short, short_default))))
}

fn at_least(what: &str, limit: Duration, value: Duration, path: &mut FieldPath) -> Duration {
    if value < limit {
        let (value, limit) = (api::Duration(value), api::Duration(limit));
        path.refuse(format!("{value} is shorter than {what}: write at least {limit}"));
    }
    value
}

pub(super) fn at_most(what: &str, limit: Duration, value: Duration, path: &mut FieldPath) -> Duration {
    if value > limit {
        let (value, limit) = (api::Duration(value), api::Duration(limit));
        path.refuse(format!("{value} is longer than {what}: write at most {limit}"));
    }
    value
}

/// Maps zero, which disables a setting, to `None`.
fn unless_zero(duration: Duration) -> Option<Duration> {
    (!duration.is_zero()).then_some(duration)
}

/// Converts a number for which zero was already refused.
pub(super) fn nonzero_u16(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap_or(NonZeroU16::MIN)
}

/// Converts a number for which zero was already refused.
pub(super) fn nonzero_u32(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN)
}
