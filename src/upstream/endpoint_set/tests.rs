use std::num::NonZeroU16;

use futures::FutureExt;
use proptest::prelude::*;
use rustix::io::Errno;

use super::*;
use crate::{
    model::{Balancing, Connect, Probe, RedisSession, Role, Transport, Weight},
    upstream::ActiveConnection,
};

const SECOND: Duration = Duration::from_secs(1);

fn check() -> ActiveCheck {
    ActiveCheck {
        probe: Probe::Tcp,
        port: None,
        transport: Transport::Plain,
        interval: 5 * SECOND,
        unhealthy_interval: 5 * SECOND,
        jitter_percent: 10,
        timeout: SECOND,
        healthy_after: NonZeroU16::new(2).unwrap(),
        unhealthy_after: NonZeroU16::new(3).unwrap(),
    }
}

fn backend(active_check: Option<ActiveCheck>) -> Arc<model::Backend> {
    Arc::new(model::Backend { active_check: active_check.map(Arc::new), ..model::Backend::default() })
}

/// A backend whose endpoints are only used once a probe has shown that they are primaries.
fn roles() -> Arc<model::Backend> {
    let session = RedisSession { user: None, password: None, role: Role::Primary };
    backend(Some(ActiveCheck { probe: Probe::Redis(session), ..check() }))
}

fn passive() -> PassiveCheck {
    PassiveCheck {
        consecutive_failures: NonZeroU16::new(5).unwrap(),
        eject_for: 30 * SECOND,
        max_eject_for: 300 * SECOND,
        max_ejected_percent: 50,
    }
}

fn upstream(ports: impl IntoIterator<Item = u16>) -> model::UpstreamConfig {
    let endpoint = |port| {
        let key = EndpointKey { backend: "b".into(), address: ([127, 0, 0, 1], port).into(), uid: None };
        let stable_id = model::StableId::Address(key.address);
        model::EndpointConfig { key, stable_id, weight: Weight::ONE, proximity: model::Proximity::Remote }
    };
    model::UpstreamConfig {
        balancing: Balancing { hash_prefix_v6: 64, ..Balancing::default() },
        backends: [("b".into(), backend(Some(check())))].into(),
        endpoints: ports.into_iter().map(endpoint).collect(),
        active_check: None,
        passive_check: Some(passive()),
        connect: Connect { timeout: SECOND, deadline: SECOND, attempts: NonZeroU16::MIN, preconnect: None },
        keepalive: None,
        unready: Default::default(),
        drain: Default::default(),
        rebalance: None,
    }
}

impl EndpointSet {
    /// Applies a probe at once.
    fn probed(&mut self, id: u64, outcome: ProbeResult, now: Instant) -> Vec<EndpointChange> {
        let mut changes = self.observe(id, outcome, now);
        changes.extend(self.review(now));
        changes
    }
}

/// A set of endpoints with a clock.
struct EndpointSetFixture {
    entries: EndpointSet,
    control: Arc<Notify>,
    now: Instant,
}

impl EndpointSetFixture {
    fn new(ports: impl IntoIterator<Item = u16>) -> Self {
        let mut scene = Self { entries: EndpointSet::default(), control: Arc::default(), now: Instant::now() };
        scene.change(&upstream(ports));
        scene
    }

    fn change(&mut self, wanted: &model::UpstreamConfig) -> Vec<EndpointChange> {
        self.entries.change(wanted, &self.control, self.now)
    }

    fn endpoint(&self, index: usize) -> Arc<Endpoint> {
        self.entries.endpoints().nth(index).unwrap().clone()
    }

    /// Fails `times` connections to an endpoint.
    fn fail(&mut self, index: usize, times: usize) -> Vec<EndpointChange> {
        (0..times).for_each(|_| self.endpoint(index).connect_failed(&Errno::CONNREFUSED.into()));
        self.entries.review(self.now)
    }

    /// Applies one probe for each character, `+` or `-`.
    fn probe(&mut self, index: usize, outcomes: &str) -> Vec<EndpointChange> {
        let id = self.endpoint(index).id();
        let outcome = |character| if character == '+' { Ok(()) } else { Err("probe failed".to_owned()) };
        let probe = |character| self.entries.probed(id, outcome(character), self.now);
        outcomes.chars().flat_map(probe).collect()
    }

    fn pass(&mut self, time: Duration) -> Vec<EndpointChange> {
        self.now += time;
        self.entries.review(self.now)
    }

    /// The state of each endpoint: `u` usable, `e` ejected, `-` unhealthy, `x` both.
    fn picture(&self) -> String {
        let letter = |endpoint: &Arc<Endpoint>| {
            let state = endpoint.state();
            let letter = match (state.healthy, state.ejected_until) {
                (true, None) => 'u',
                (true, Some(_)) => 'e',
                (false, None) => '-',
                (false, Some(_)) => 'x',
            };
            assert_eq!(endpoint.usable(), letter == 'u');
            letter
        };
        self.entries.endpoints().map(letter).collect()
    }
}

fn is_return(changes: &[EndpointChange], expected: &str) -> bool {
    matches!(changes, [EndpointChange { event: HealthEvent::Returned { reason }, .. }] if *reason == expected)
}

#[test]
fn an_endpoint_that_connections_fail_to_reach_is_ejected_and_comes_back() {
    let mut scene = EndpointSetFixture::new(1..=4);
    assert!(scene.fail(0, 4).is_empty());
    let changes = scene.fail(0, 1);
    let [EndpointChange { event: HealthEvent::Ejected { length, failures: 5, reason }, .. }] = &changes[..] else {
        panic!("{changes:?}")
    };
    assert!(*length == 30 * SECOND && reason.contains("refused"));
    assert_eq!((scene.picture().as_str(), scene.endpoint(0).ejections()), ("euuu", 1));
    assert_eq!(scene.entries.next_return(), Some(scene.now + 30 * SECOND));

    assert!(scene.pass(29 * SECOND).is_empty());
    assert!(is_return(&scene.pass(SECOND), "ejection time is over"));
    assert_eq!(scene.picture(), "uuuu");
    assert_eq!(scene.endpoint(0).consecutive_failures(), 0);
    assert!(scene.fail(0, 4).is_empty(), "it starts afresh");
}

#[test]
fn a_success_in_between_prevents_an_ejection() {
    let mut scene = EndpointSetFixture::new(1..=4);
    scene.fail(0, 4);
    scene.endpoint(0).connected();
    assert!(scene.fail(0, 4).is_empty());
}

#[test]
fn consecutive_failures_wake_the_control_task() {
    let scene = EndpointSetFixture::new(1..=4);
    let fail = || scene.endpoint(0).connect_failed(&Errno::CONNREFUSED.into());
    (0..4).for_each(|_| fail());
    assert!(scene.control.notified().now_or_never().is_none());
    fail();
    assert!(scene.control.notified().now_or_never().is_some());
}

#[test]
fn no_more_than_the_share_is_ejected_and_never_the_last_usable_one() {
    let mut scene = EndpointSetFixture::new(1..=5);
    (0..5).for_each(|index| drop(scene.fail(index, 5)));
    assert_eq!(scene.picture(), "eeuuu");

    let mut scene = EndpointSetFixture::new(1..=4);
    scene.probe(2, "---");
    scene.probe(3, "---");
    (0..2).for_each(|index| drop(scene.fail(index, 5)));
    assert_eq!(scene.picture(), "eu--");

    let mut scene = EndpointSetFixture::new([1]);
    scene.fail(0, 100);
    assert_eq!(scene.picture(), "u");
}

#[test]
fn ejections_leave_each_subset_an_endpoint() {
    let mut wanted = upstream(1..=5);
    wanted.backends.insert("own".into(), backend(Some(check())));
    wanted.endpoints[0].key.backend = "own".into();
    wanted.endpoints[1].key.backend = "own".into();
    let mut scene = EndpointSetFixture::new([]);
    scene.change(&wanted);
    scene.entries.protect(vec![Backends::All, Backends::Of(["own".into()].into())]);
    scene.fail(0, 5);
    scene.fail(1, 5);
    assert_eq!(scene.picture(), "euuuu", "the second is the last of its backend");
    scene.fail(2, 5);
    assert_eq!(scene.picture(), "eueuu");
    scene.probe(1, "---");
    assert_eq!(scene.picture(), "u-euu", "the first returns, for the second is unhealthy");
}

/// The cause for which the first of three endpoints drains, for this state of the others. It is the only endpoint of
/// `eu`, has a connection, and was removed.
fn cause(why: Option<Unready>, subsets: &[&[&str]], others: &str) -> Option<DrainCause> {
    let mut wanted = upstream(1..=3);
    wanted.backends.insert("eu".into(), backend(Some(check())));
    wanted.endpoints[0].key.backend = "eu".into();
    let mut scene = EndpointSetFixture::new([]);
    scene.change(&wanted);
    scene.probe(1, others);
    scene.probe(2, others);
    let _connection = crate::upstream::ActiveConnection::begin(&scene.endpoint(0));
    let key = wanted.endpoints.remove(0).key;
    scene.change(&wanted);
    let of = |names: &&[&str]| Backends::Of(names.iter().map(|name| Arc::from(*name)).collect());
    scene.entries.protect(subsets.iter().map(of).collect());
    let draining = scene.entries.draining(&why.map(|why| (key.clone(), why)).into_iter().collect());
    draining.into_iter().find(|(endpoint, _)| *endpoint.key() == key).map(|(_, cause)| cause)
}

#[test]
fn unready_endpoints_keep_their_connections_without_an_alternative() {
    for (why, expected) in [
        (Unready::NotReady, DrainCause::Unhealthy),
        (Unready::Terminating, DrainCause::Terminating),
        (Unready::Drained, DrainCause::Drained),
    ] {
        assert_eq!(cause(Some(why), &[], "+"), Some(expected));
        assert_eq!(cause(Some(why), &[], "---"), None, "nothing is usable");
        assert_eq!(cause(Some(why), &[&["eu", "b"]], "+"), Some(expected));
        assert_eq!(cause(Some(why), &[&["b"], &["eu"]], "+"), None, "one route has nothing else");
    }
    assert_eq!(cause(None, &[&["eu"]], "---"), Some(DrainCause::Removed), "nobody says that it is there");
}

#[test]
fn former_endpoints_have_the_reason_why_they_do_not_serve() {
    let mut scene = EndpointSetFixture::new([1, 2, 3]);
    let _connections = [0, 1].map(|index| ActiveConnection::begin(&scene.endpoint(index)));
    let drained = scene.endpoint(0).key().clone();
    scene.change(&upstream([]));
    // A removed endpoint without connections is forgotten with the next change.
    scene.change(&upstream([]));
    let unready = BTreeMap::from([(drained, Unready::Drained)]);
    let former = scene.entries.former(&unready).map(|(endpoint, why)| (endpoint.address().port(), why));
    assert_eq!(former.collect::<Vec<_>>(), [(1, Some(Unready::Drained)), (2, None)]);
    assert_eq!(scene.entries.draining(&unready).len(), 1, "nothing replaces the drained endpoint");
}

#[test]
fn unhealthy_endpoints_keep_their_connections_while_a_route_needs_them() {
    let mut wanted = upstream(1..=2);
    wanted.backends.insert("eu".into(), backend(Some(check())));
    wanted.endpoints[0].key.backend = "eu".into();
    let mut scene = EndpointSetFixture::new([]);
    scene.change(&wanted);
    scene.probe(0, "---");
    let draining = |scene: &EndpointSetFixture| scene.entries.draining(&BTreeMap::new()).len();
    assert_eq!(draining(&scene), 1);
    scene.entries.protect(vec![Backends::Of(["eu".into()].into()), Backends::Of(["b".into()].into())]);
    assert_eq!(draining(&scene), 0, "the other route's endpoint is not for its clients");
}

#[test]
fn a_returned_endpoint_keeps_its_connections_until_its_first_probe_fails() {
    let wanted = |ports: &[u16]| model::UpstreamConfig {
        backends: [("b".into(), roles())].into(),
        ..upstream(ports.iter().copied())
    };
    let mut scene = EndpointSetFixture::new([]);
    scene.change(&wanted(&[1, 2]));
    (0..2).for_each(|index| _ = scene.probe(index, "+"));
    let connection = ActiveConnection::begin(&scene.endpoint(0));
    let draining =
        |scene: &EndpointSetFixture| scene.entries.draining(&BTreeMap::new()).into_iter().map(|(_, why)| why).next();
    scene.change(&wanted(&[2]));
    assert_eq!(draining(&scene), Some(DrainCause::Removed));
    scene.change(&wanted(&[1, 2]));
    assert_eq!(draining(&scene), None);
    assert!(Arc::ptr_eq(connection.endpoint(), &scene.endpoint(0)));
    scene.probe(0, "-");
    assert_eq!(draining(&scene), Some(DrainCause::Unhealthy));
}

#[test]
fn a_connection_in_progress_counts_for_its_removed_endpoint() {
    let mut scene = EndpointSetFixture::new([1, 2]);
    let removed = scene.endpoint(0);
    scene.change(&upstream([2]));
    let _late = ActiveConnection::begin(&removed);
    scene.change(&upstream([2]));
    let draining = scene.entries.draining(&BTreeMap::new());
    assert!(matches!(&draining[..], [(endpoint, DrainCause::Removed)] if Arc::ptr_eq(endpoint, &removed)));
}

#[test]
fn a_last_resort_drains_when_others_serve() {
    let mut wanted = grouped(&[0, 1], passive());
    let terminates = model::Backend { last_resort: true, ..model::Backend::clone(&backend(Some(check()))) };
    wanted.backends.insert("0".into(), Arc::new(terminates));
    let mut scene = EndpointSetFixture::new([]);
    scene.change(&wanted);
    let draining = |scene: &EndpointSetFixture| {
        let draining = scene.entries.draining(&BTreeMap::new()).into_iter();
        draining.map(|(endpoint, why)| (endpoint.address().port(), why)).collect::<Vec<_>>()
    };
    assert_eq!(draining(&scene), [(1, DrainCause::Terminating)]);
    scene.probe(1, "---");
    assert_eq!(draining(&scene), [(2, DrainCause::Unhealthy)]);
}

/// A scene whose endpoints have these priorities.
fn groups(priorities: &[u8]) -> EndpointSetFixture {
    let mut scene = EndpointSetFixture::new([]);
    scene.change(&grouped(priorities, passive()));
    scene
}

fn grouped(priorities: &[u8], passive: PassiveCheck) -> model::UpstreamConfig {
    let mut wanted = model::UpstreamConfig { passive_check: Some(passive), ..upstream(1..=priorities.len() as u16) };
    for (endpoint, priority) in wanted.endpoints.iter_mut().zip(priorities) {
        endpoint.key.backend = priority.to_string().into();
        let backend =
            model::Backend { priority: Priority(*priority), ..model::Backend::clone(&backend(Some(check()))) };
        wanted.backends.insert(priority.to_string().into(), Arc::new(backend));
    }
    wanted
}

#[test]
fn a_whole_level_may_be_ejected_while_another_can_serve() {
    let mut scene = groups(&[0, 0, 1]);
    scene.fail(0, 5);
    scene.fail(1, 5);
    assert_eq!(scene.picture(), "eeu");
    scene.fail(2, 5);
    assert_eq!(scene.picture(), "eeu", "the last one of all stays");
    assert_eq!(groups(&[0, 1]).fail(0, 5).len(), 1, "one endpoint is half of none");

    // Once no other level can serve, the limit applies again.
    let changes = scene.probe(2, "---");
    assert!(
        matches!(&changes[..], [_, EndpointChange { event: HealthEvent::Returned { reason }, .. }] if reason.contains("maxEjectedPercent"))
    );
    assert_eq!(scene.picture(), "ue-");
}

/// The weights of the candidates.
fn weights(scene: &EndpointSetFixture) -> Vec<u32> {
    scene.entries.candidates(&Backends::All, scene.now).iter().map(|candidate| candidate.weight.value()).collect()
}

fn slowly(ports: impl IntoIterator<Item = u16>) -> model::UpstreamConfig {
    let balancing = Balancing { slow_start: Some(20 * SECOND), ..Balancing::default() };
    model::UpstreamConfig { balancing, ..upstream(ports) }
}

#[test]
fn endpoints_that_are_new_or_usable_again_start_slowly() {
    let mut scene = EndpointSetFixture::new([]);
    scene.change(&slowly(1..=2));
    assert_eq!((weights(&scene), scene.entries.next_step(scene.now)), (vec![1; 2], None), "all are new");

    scene.change(&slowly(1..=3));
    assert_eq!((weights(&scene), scene.endpoint(2).share()), (vec![100, 100, 10], 10));
    scene.pass(10 * SECOND);
    assert_eq!((weights(&scene), scene.endpoint(2).share()), (vec![100, 100, 50], 50));
    scene.probe(0, "---++");
    assert_eq!(weights(&scene), [10, 100, 50]);
    scene.pass(10 * SECOND);
    assert_eq!((weights(&scene), scene.endpoint(2).share()), (vec![50, 100, 100], 100));
    assert!(scene.entries.next_step(scene.now).is_some());

    scene.fail(1, 5);
    scene.pass(30 * SECOND);
    assert_eq!(weights(&scene), [100, 10, 100], "back from its ejection");
    scene.change(&upstream(1..=3));
    assert_eq!((weights(&scene), scene.entries.next_step(scene.now)), (vec![1; 3], None), "nobody is to start slowly");
}

#[test]
fn slow_start_has_no_effect_without_other_usable_endpoints() {
    let mut scene = EndpointSetFixture::new([]);
    scene.change(&slowly(1..=2));
    scene.probe(0, "---");
    scene.probe(1, "---");
    scene.probe(0, "++");
    assert_eq!(weights(&scene), [1, 1]);
    scene.probe(1, "++");
    assert_eq!(weights(&scene), [100, 10]);

    scene.change(&slowly(3..=4));
    assert_eq!(weights(&scene), [1, 1], "none of those before stays");
}

#[test]
fn endpoints_whose_first_checks_end_together_start_together() {
    let wanted = |ports| model::UpstreamConfig { backends: [("b".into(), roles())].into(), ..slowly(ports) };
    let mut scene = EndpointSetFixture::new([]);
    scene.change(&wanted(1..=4));
    scene.probe(0, "+");
    scene.pass(SECOND / 10);
    scene.probe(1, "+");
    scene.probe(3, "-");
    scene.pass(SECOND);
    scene.probe(2, "+");
    assert_eq!((weights(&scene), scene.picture().as_str()), (vec![1; 4], "uuu-"));

    scene.probe(3, "++");
    assert_eq!(weights(&scene), [100, 100, 100, 10], "one that was not as it should be begins slowly");
    scene.change(&wanted(1..=5));
    scene.probe(4, "+");
    assert_eq!(weights(&scene), [100, 100, 100, 10, 10], "and so does one that comes later");
}

#[test]
fn an_endpoint_above_the_ejection_limit_is_ejected_later() {
    let mut scene = EndpointSetFixture::new(1..=2);
    scene.fail(0, 5);
    scene.fail(1, 7);
    assert_eq!(scene.picture(), "eu");
    scene.pass(30 * SECOND);
    assert_eq!(scene.picture(), "ue");
}

#[test]
fn an_ejected_endpoint_returns_early_when_no_other_is_usable() {
    let mut scene = EndpointSetFixture::new(1..=3);
    scene.fail(0, 5);
    scene.probe(1, "---");
    assert_eq!(scene.picture(), "e-u");
    scene.probe(2, "---");
    assert_eq!(scene.picture(), "u--");
}

#[test]
fn excess_ejections_after_a_removal_end_in_their_order() {
    let mut scene = EndpointSetFixture::new(1..=6);
    scene.fail(0, 5);
    scene.pass(SECOND);
    scene.fail(1, 5);
    scene.fail(2, 5);
    assert_eq!(scene.picture(), "eeeuuu");
    let changes = scene.change(&upstream(1..=4));
    assert!(is_return(&changes, "maxEjectedPercent is exceeded"));
    assert_eq!(scene.picture(), "ueeu");
}

#[test]
fn probes_that_pass_end_an_ejection_early() {
    let mut scene = EndpointSetFixture::new(1..=4);
    scene.probe(0, "+++");
    scene.fail(0, 5);
    assert!(scene.probe(0, "+-+").is_empty(), "passes before the ejection do not count");
    assert!(is_return(&scene.probe(0, "+"), "probes pass"));
    assert_eq!(scene.picture(), "uuuu");
}

#[test]
fn each_ejection_in_a_row_is_longer() {
    let mut scene = EndpointSetFixture::new(1..=4);
    for seconds in [30, 60, 120] {
        scene.fail(0, 5);
        assert!(scene.pass((seconds - 1) * SECOND).is_empty());
        assert!(!scene.pass(SECOND).is_empty());
    }
}

#[test]
fn unhealthy_endpoints_are_not_usable_until_probes_pass_again() {
    let mut scene = EndpointSetFixture::new(1..=2);
    let changes = scene.probe(0, "---");
    assert!(
        matches!(&changes[..], [EndpointChange { event: HealthEvent::Unhealthy { reason }, .. }] if reason == "probe failed")
    );
    assert_eq!(scene.picture(), "-u");
    assert_eq!(scene.endpoint(0).state().last_failure.unwrap().reason, "probe failed");
    assert!(scene.probe(0, "----").is_empty(), "transitions only");
    scene.probe(1, "---");
    assert_eq!((scene.picture().as_str(), scene.entries.usable()), ("--", 0));
    assert!(matches!(&scene.probe(0, "++")[..], [EndpointChange { event: HealthEvent::Healthy { .. }, .. }]));
    assert_eq!(scene.picture(), "u-");
}

#[test]
fn failures_while_unhealthy_are_forgotten_when_it_is_healthy_again() {
    let mut scene = EndpointSetFixture::new(1..=4);
    scene.probe(0, "---");
    scene.fail(0, 100);
    scene.probe(0, "++");
    assert_eq!(scene.picture(), "uuuu");
}

#[test]
fn state_survives_a_change_of_other_endpoints_and_of_settings() {
    let mut scene = EndpointSetFixture::new(1..=4);
    scene.probe(0, "---");
    scene.fail(1, 5);
    let kept = scene.endpoint(1);
    let mut wanted = upstream([1, 2, 4, 5, 6]);
    wanted.endpoints[1].weight = Weight::new(7.try_into().unwrap());
    let backend = model::Backend {
        proxy_protocol: Some(model::ProxyVersion::V2),
        ..model::Backend::clone(&backend(Some(check())))
    };
    wanted.backends.insert("b".into(), Arc::new(backend));
    assert!(scene.change(&wanted).is_empty());
    assert_eq!(scene.picture(), "-euuu");
    assert!(Arc::ptr_eq(&kept, &scene.endpoint(1)));
    assert_eq!(scene.entries.candidates(&Backends::All, scene.now)[1].weight.value(), 7);
    assert_eq!(kept.backend().proxy_protocol, Some(model::ProxyVersion::V2));
}

#[test]
fn another_pod_on_the_same_address_starts_afresh() {
    let mut scene = EndpointSetFixture::new(1..=2);
    scene.probe(0, "---");
    let mut wanted = upstream(1..=2);
    wanted.endpoints[0].key.uid = Some("another".into());
    scene.change(&wanted);
    assert_eq!(scene.picture(), "uu");
}

#[test]
fn a_check_that_is_removed_leaves_no_trace() {
    let mut scene = EndpointSetFixture::new(1..=4);
    scene.probe(0, "---");
    scene.fail(1, 5);
    assert_eq!(scene.picture(), "-euu");
    let backends = [("b".into(), backend(None))].into();
    let changes = scene.change(&model::UpstreamConfig { backends, passive_check: None, ..upstream(1..=4) });
    assert_eq!((changes.len(), scene.picture().as_str()), (2, "uuuu"));
    assert!(scene.probe(0, "------").is_empty(), "the answer of a probe that was under way");
    assert!(scene.fail(1, 100).is_empty());
    assert!(scene.entries.next_return().is_none());
}

#[test]
fn a_shorter_maximum_shortens_the_current_ejection() {
    let mut scene = EndpointSetFixture::new(1..=4);
    scene.fail(0, 5);
    let passive_check = Some(PassiveCheck { eject_for: SECOND, max_eject_for: 2 * SECOND, ..passive() });
    scene.change(&model::UpstreamConfig { passive_check, ..upstream(1..=4) });
    assert_eq!(scene.entries.next_return(), Some(scene.now + 2 * SECOND));
}

/// Endpoints in 64 subsets, all of which are about to fail.
fn about_to_fail(count: usize) -> EndpointSetFixture {
    let mut wanted = upstream(1..=u16::try_from(count).unwrap());
    let name = |number: usize| Arc::from(format!("b{:02}", number % 64));
    for (number, endpoint) in (0..).zip(&mut wanted.endpoints) {
        endpoint.key.backend = name(number);
        wanted.backends.insert(name(number), backend(Some(check())));
    }
    wanted.endpoints.sort_by(|a, b| a.key.cmp(&b.key));
    let subset = |number: usize| Backends::Of((0..16).map(|other| name(number + other * 5)).collect());
    let mut scene = EndpointSetFixture::new([]);
    scene.change(&wanted);
    scene.entries.protect((0..64).map(subset).collect());
    let endpoints: Vec<_> = scene.entries.endpoints().cloned().collect();
    for (number, endpoint) in endpoints.iter().enumerate() {
        if number % 2 == 0 {
            (0..3).for_each(|_| drop(scene.entries.observe(endpoint.id(), Err("away".into()), scene.now)));
        } else {
            (0..5).for_each(|_| endpoint.connect_failed(&Errno::CONNREFUSED.into()));
        }
    }
    scene
}

#[test]
fn the_cost_of_a_review_is_linear_in_the_number_of_endpoints() {
    crate::cost::assert_grows_no_faster_than_n_log_n(1_000, about_to_fail, |scene| {
        assert!(!scene.entries.review(scene.now).is_empty());
        let all = scene.entries.endpoints().count();
        assert!(scene.entries.usable() < all);
        assert!(scene.entries.draining(&BTreeMap::new()).len() > all / 4);
    });
}

#[derive(Clone, Debug)]
enum Step {
    Fail(usize),
    Succeed(usize),
    Probe(usize, bool),
    Pass(u64),
    /// The priorities of the new endpoints, and the percentage that may be ejected.
    Change(Vec<u8>, u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..10_usize).prop_map(Step::Fail),
        1 => (0..10_usize).prop_map(Step::Succeed),
        4 => (0..10_usize, any::<bool>()).prop_map(|(index, passed)| Step::Probe(index, passed)),
        1 => (0..100_u64).prop_map(Step::Pass),
        1 => (prop::collection::vec(0..3_u8, 0..10), 0..=100_u8)
            .prop_map(|(priorities, percent)| Step::Change(priorities, percent)),
    ]
}

proptest! {
    #[test]
    fn ejection_limits_hold_and_a_healthy_set_serves(steps in prop::collection::vec(step(), 1..200)) {
        let (mut priorities, mut percent) = (vec![0; 10], 50);
        let mut scene = groups(&priorities);
        for step in steps {
            let count = scene.entries.endpoints().count();
            match step {
                Step::Fail(index) if index < count => drop(scene.fail(index, 2)),
                Step::Succeed(index) if index < count => scene.endpoint(index).connected(),
                Step::Probe(index, passed) if index < count => drop(scene.probe(index, if passed { "+" } else { "-" })),
                Step::Pass(seconds) => drop(scene.pass(seconds as u32 * SECOND)),
                Step::Change(new_priorities, new_percent) => {
                    (priorities, percent) = (new_priorities, new_percent);
                    let passive = PassiveCheck { max_ejected_percent: percent, ..passive() };
                    scene.change(&grouped(&priorities, passive));
                }
                _ => {}
            }
            let picture = scene.picture();
            for group in 0..3 {
                let all = || picture.chars().zip(&priorities);
                let of_group = || all().filter(|(_, priority)| **priority == group);
                let ejected = of_group().filter(|(letter, _)| ['e', 'x'].contains(letter)).count();
                let others_serve = all().any(|(letter, priority)| *priority != group && letter == 'u');
                let share_holds = ejected * 100 <= of_group().count() * usize::from(percent);
                prop_assert!(share_holds || others_serve, "{picture} of {priorities:?} with {percent} %");
            }
            prop_assert!(picture.contains('u') || picture.chars().all(|letter| letter == '-' || letter == 'x'), "{picture}");
            prop_assert!(scene.entries.next_return().is_none_or(|at| at > scene.now && at <= scene.now + 300 * SECOND));
        }
    }
}
