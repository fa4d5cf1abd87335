use std::num::NonZeroU32;

use super::*;
use crate::{
    capacity::{Places, Share},
    log_limit::LogLimiter,
    model::ListenerKey,
    proxy::{
        accounting::ListenerCounters,
        admission::{Admission, CONNECTIONS, Sources},
        stream::{handshake_memory::HandshakeShare, relay_memory::RelayShare},
    },
};

/// A draining resource with this many connections. Its kind makes no difference here.
fn resource(id: u64, connections: u64) -> Arc<ListenerState> {
    let sources = Arc::new(Sources::new(std::time::Instant::now()));
    let listener = ListenerState {
        key: ListenerKey { object: object(), port: 1 },
        id,
        counters: ListenerCounters::new(1),
        admission: Arc::new(Admission::new(ListenerKey { object: object(), port: 1 }, sources)),
        share: Arc::new(Share::new(Arc::new(Places::new(1, CONNECTIONS)))),
        handshakes: Arc::new(HandshakeShare::new(object(), Arc::default())),
        relay_memory: Arc::new(RelayShare::new(object(), Arc::default())),
        queued_events: Arc::default(),
        process_full_log: LogLimiter::new(),
        cancels: Arc::new(crate::proxy::postgres::Cancels::new(1)),
    };
    (0..connections).for_each(|_| listener.counters.shard(0).accept());
    Arc::new(listener)
}

fn object() -> ObjectKey {
    ObjectKey::new("shop", "db")
}

fn at_once(max_per_second: Option<u32>) -> Option<Close> {
    let max_per_second = max_per_second.and_then(NonZeroU32::new);
    Some(Close { after: Duration::ZERO, spread: Duration::ZERO, max_per_second })
}

/// An input in which these listeners drain for these reasons.
fn input(draining: &[(&Arc<ListenerState>, CloseReason, Option<Close>)]) -> DrainInput<'static> {
    let case = |(listener, reason, close): &(&Arc<ListenerState>, CloseReason, Option<Close>)| {
        let resource = DrainingResource::Listener(Arc::clone(listener));
        ((resource.target(), *reason), (object(), resource, *close))
    };
    DrainInput { draining: draining.iter().map(case).collect(), upstreams: &[] }
}

/// Closes the connections that are due, and returns their number by listener.
fn close(plans: &mut DrainPlans, of: &[&Arc<ListenerState>], now: Instant) -> Vec<usize> {
    let requests = plans.due(now);
    let count =
        |listener: &ListenerState| requests.get(&DrainTarget::Listener(listener.id)).map_or(0, |request| request.count);
    let counts: Vec<usize> = of.iter().map(|listener| count(listener)).collect();
    for (listener, count) in of.iter().zip(&counts) {
        (0..*count).for_each(|_| listener.counters.shard(0).close(CloseReason::ListenerRemoved));
    }
    let targets = of.iter().map(|listener| DrainTarget::Listener(listener.id));
    plans.record(&targets.zip(counts.iter().copied()).filter(|(_, count)| *count > 0).collect(), now);
    counts
}

#[test]
fn each_close_reason_has_its_own_rate() {
    use CloseReason::{EndpointRemoved, EndpointTerminating};
    let (slow, now) = (at_once(Some(10)), Instant::now());
    let (both, other) = (resource(1, 2000), resource(2, 100));
    let mut plans = DrainPlans::default();
    plans.follow(input(&[(&both, EndpointTerminating, slow), (&both, EndpointRemoved, at_once(None))]), now);
    assert_eq!(close(&mut plans, &[&both], now), [2000], "as the sooner one says");
    let later = now + Duration::from_millis(200);
    plans.follow(input(&[(&both, EndpointTerminating, slow), (&other, EndpointTerminating, slow)]), later);
    let mut closed = 0;
    for tick in 0..10 {
        closed += close(&mut plans, &[&other], later + Duration::from_millis(100 * tick))[0];
    }
    assert!((8..=10).contains(&closed), "{closed} of 10 in a second");
}

#[test]
fn a_drain_is_overdue_a_minute_after_its_deadline() {
    let (slow, now) = (resource(1, 100), Instant::now());
    let close =
        Some(Close { after: Duration::from_secs(30), spread: Duration::ZERO, max_per_second: NonZeroU32::new(1) });
    let mut plans = DrainPlans::default();
    plans.follow(input(&[(&slow, CloseReason::EndpointRemoved, close)]), now);
    let draining = plans.take_changed().unwrap();
    for (seconds, is_overdue) in [(0, false), (30, false), (90, false), (91, true)] {
        assert_eq!(draining[0].is_overdue(now + Duration::from_secs(seconds)), is_overdue, "after {seconds} s");
    }
}

#[test]
fn a_target_with_two_causes_is_drained_at_both_rates() {
    use CloseReason::{EndpointRemoved, EndpointTerminating};
    let now = Instant::now();
    let both = resource(1, 1000);
    let mut plans = DrainPlans::default();
    plans.follow(
        input(&[(&both, EndpointTerminating, at_once(Some(10))), (&both, EndpointRemoved, at_once(Some(20)))]),
        now,
    );
    let mut ticks = (0..100).map(|tick| now + Duration::from_millis(100 * tick));
    let closed: usize = ticks.by_ref().map(|now| close(&mut plans, &[&both], now)[0]).sum();
    assert!((280..=301).contains(&closed), "{closed} of 300 in 10 s");
}
