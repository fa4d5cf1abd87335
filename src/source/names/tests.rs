use std::collections::VecDeque;

use futures::FutureExt;
use tokio::time::{Instant, advance};

use super::*;

fn addresses(last: &[u8]) -> BTreeSet<IpAddr> {
    last.iter().map(|last| IpAddr::from([192, 0, 2, *last])).collect()
}

#[test]
fn an_address_leaves_after_three_answers_in_a_row_without_it() {
    let fails = || Err("no".to_owned());
    let with = |last: &[u8]| Ok(addresses(last));
    let mut state = NameState::default();
    for (step, (answer, known, problem)) in [
        (with(&[1, 2]), &[1, 2][..], None),
        (with(&[1]), &[1, 2], None),
        (with(&[1]), &[1, 2], None),
        (with(&[1, 2]), &[1, 2], None),
        (with(&[1]), &[1, 2], None),
        (fails(), &[1, 2], Some("cannot be resolved: no")),
        (with(&[3]), &[1, 2, 3], None),
        (with(&[]), &[1, 2, 3], Some("has no address")),
        (fails(), &[1, 2, 3], Some("cannot be resolved: no")),
        (with(&[3]), &[1, 3], None),
        (with(&[3]), &[3], None),
        (with(&[4]), &[3, 4], None),
        (with(&[]), &[3, 4], Some("has no address")),
        (with(&[]), &[3, 4], Some("has no address")),
        (with(&[]), &[3, 4], Some("has no address")),
        (with(&[]), &[3, 4], Some("has no address")),
    ]
    .into_iter()
    .enumerate()
    {
        let before = state.lookup();
        let change = state.observe(answer);
        let after = state.lookup();
        assert_eq!(after.addresses, addresses(known), "step {step}");
        assert_eq!(after.problem.as_deref(), problem, "step {step}");
        assert_eq!(change.is_some(), before != after, "step {step}");
    }
}

#[test]
fn a_name_that_was_never_answered_has_no_addresses_and_a_problem() {
    let mut state = NameState::default();
    assert!(!state.is_answered());
    assert!(state.observe(Err("no such host".into())).is_some());
    assert!(state.is_answered());
    assert!(state.observe(Err("no such host".into())).is_none());
    assert_eq!(state.lookup().addresses, addresses(&[]));
}

#[test]
fn a_name_has_a_maximum_number_of_addresses_and_the_choice_is_stable() {
    let numbered = |range: std::ops::Range<u16>| -> BTreeSet<IpAddr> {
        range.map(u16::to_be_bytes).map(|[high, low]| IpAddr::from([10, 0, high, low])).collect()
    };
    let mut state = NameState::default();
    for end in [3500, 3400, 3500] {
        state.observe(Ok(numbered(0..end)));
        assert_eq!((state.lookup().addresses, state.lookup().is_truncated), (numbered(0..256), true));
    }
    assert!(state.observe(Ok(numbered(0..3500))).is_none(), "the same answer is no change");

    // Addresses of the last answer come before those that it does not have any more.
    state.observe(Ok(numbered(1000..1200)));
    let mixed = numbered(0..56).into_iter().chain(numbered(1000..1200)).collect();
    assert_eq!((state.lookup().addresses, state.lookup().is_truncated), (mixed, true));
}

#[test]
fn a_name_is_truncated_while_addresses_of_earlier_answers_are_dropped() {
    let block = |third: u8| -> BTreeSet<IpAddr> { (0..200).map(|last| IpAddr::from([10, 0, third, last])).collect() };
    let mut state = NameState::default();
    for (third, count, is_truncated) in [(0, 200, false), (1, 256, true), (1, 256, false)] {
        state.observe(Ok(block(third)));
        assert_eq!((state.lookup().addresses.len(), state.lookup().is_truncated), (count, is_truncated));
    }
}

/// A resolver with scripted answers and the times of its lookups.
#[derive(Clone, Default)]
struct ScriptedResolver(Arc<Mutex<ResolverScript>>);

#[derive(Default)]
struct ResolverScript {
    answers: BTreeMap<String, VecDeque<io::Result<BTreeSet<IpAddr>>>>,
    asked: Vec<(String, Instant)>,
    takes: Duration,
}

impl ScriptedResolver {
    fn answer(&self, name: &str, answer: io::Result<BTreeSet<IpAddr>>) {
        self.0.lock().unwrap().answers.entry(name.into()).or_default().push_back(answer);
    }

    fn takes(&self, time: Duration) {
        self.0.lock().unwrap().takes = time;
    }

    fn asked(&self, name: &str) -> Vec<Instant> {
        self.0.lock().unwrap().asked.iter().filter(|(asked, _)| asked == name).map(|(_, when)| *when).collect()
    }

    fn start(&self) -> Names {
        let script = self.0.clone();
        let resolver = move |name: Arc<str>| {
            let script = script.clone();
            async move {
                let time = {
                    let mut script = script.lock().unwrap();
                    script.asked.push((name.to_string(), Instant::now()));
                    script.takes
                };
                sleep(time).await;
                let mut script = script.lock().unwrap();
                script.answers.get_mut(&*name).and_then(VecDeque::pop_front).unwrap_or_else(|| Ok(addresses(&[9])))
            }
        };
        Names::start(resolver, Arc::default())
    }
}

fn wanted(names: &[(&str, u64)]) -> BTreeMap<Arc<str>, WantedName> {
    names.iter().map(|(name, seconds)| of_object("a", name, *seconds)).collect()
}

fn of_object(object: &str, name: &str, seconds: u64) -> (Arc<str>, WantedName) {
    of_namespace("shop", object, name, seconds)
}

fn of_namespace(namespace: &str, object: &str, name: &str, seconds: u64) -> (Arc<str>, WantedName) {
    let objects = vec![ObjectKey::new(namespace, object)];
    (Arc::from(name), WantedName { interval: Duration::from_secs(seconds), objects })
}

#[tokio::test(start_paused = true)]
async fn first_answers_are_waited_for_but_not_for_ever() {
    let resolver = ScriptedResolver::default();
    resolver.answer("bad", Err(io::Error::other("failed to lookup address information: Name or service not known")));
    resolver.takes(Duration::from_secs(2));
    let mut names = resolver.start();
    names.first_answers(Duration::from_secs(1)).await;
    names.want(wanted(&[("good", 30), ("bad", 30)]));

    let start = Instant::now();
    names.first_answers(Duration::from_secs(1)).await;
    assert_eq!(start.elapsed().as_secs(), 1);
    assert_eq!(names.known().get("good"), Some(&Lookup::default()));

    names.first_answers(Duration::from_secs(10)).await;
    assert_eq!(start.elapsed().as_secs(), 2);
    let answers = names.known();
    assert_eq!(answers["good"], Lookup { addresses: addresses(&[9]), ..Lookup::default() });
    assert_eq!(answers["bad"].problem.as_deref(), Some("cannot be resolved: Name or service not known"));
}

#[tokio::test(start_paused = true)]
async fn a_changed_answer_is_reported_once() {
    let resolver = ScriptedResolver::default();
    resolver.answer("db", Ok(addresses(&[1])));
    resolver.answer("db", Ok(addresses(&[1])));
    resolver.answer("db", Ok(addresses(&[1, 2])));
    let mut names = resolver.start();
    names.want(wanted(&[("db", 10)]));

    names.changed().await;
    assert_eq!(names.known()["db"].addresses, addresses(&[1]));
    names.changed().await;
    assert_eq!(resolver.asked("db").len(), 3);
    assert_eq!(names.known()["db"].addresses, addresses(&[1, 2]));
}

#[tokio::test(start_paused = true)]
async fn each_name_is_asked_for_at_its_own_interval_with_some_jitter() {
    let resolver = ScriptedResolver::default();
    let mut names = resolver.start();
    names.want(wanted(&[("often", 1), ("seldom", 60)]));
    sleep(Duration::from_secs(100)).await;
    let (often, seldom) = (resolver.asked("often"), resolver.asked("seldom"));
    assert!((90..=112).contains(&often.len()), "{}", often.len());
    assert!((2..=3).contains(&seldom.len()), "{}", seldom.len());
    let gaps: BTreeSet<_> = often.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.len() > 1, "all look-ups are {gaps:?} apart");
    assert!(gaps.iter().all(|gap| (900..=1101).contains(&gap.as_millis())), "{gaps:?}");
}

#[tokio::test(start_paused = true)]
async fn a_name_no_longer_wanted_is_forgotten_and_the_others_stay_as_they_are() {
    let resolver = ScriptedResolver::default();
    let mut names = resolver.start();
    names.want(wanted(&[("a", 10), ("b", 10), ("c", 10)]));
    names.first_answers(Duration::from_secs(1)).await;
    names.want(wanted(&[("b", 10), ("c", 5)]));
    let answers = names.known();
    assert_eq!(answers.keys().map(|name| &**name).collect::<Vec<_>>(), ["b", "c"]);
    assert_eq!(answers["c"].addresses, addresses(&[9]), "another interval forgets nothing");
    tokio::task::yield_now().await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(resolver.asked("a").len(), 1);
    assert!(resolver.asked("c").len() > resolver.asked("b").len());
    drop(names);
    let before = resolver.asked("b").len();
    sleep(Duration::from_secs(60)).await;
    assert_eq!(resolver.asked("b").len(), before, "nothing is asked once nobody wants to know");
}

#[tokio::test(start_paused = true)]
async fn a_hanging_resolver_is_reported_and_not_asked_again_until_it_answers() {
    let resolver = ScriptedResolver::default();
    resolver.takes(Duration::from_secs(20));
    resolver.answer("db", Ok(addresses(&[1])));
    let mut names = resolver.start();
    names.want(wanted(&[("db", 1)]));
    let start = Instant::now();
    names.changed().await;
    assert_eq!(start.elapsed().as_secs(), 5);
    assert_eq!(names.known()["db"].problem.as_deref(), Some("cannot be resolved: no answer within 5 s"));
    names.changed().await;
    assert_eq!(start.elapsed().as_secs(), 20);
    assert_eq!(names.known()["db"], Lookup { addresses: addresses(&[1]), ..Lookup::default() });
    assert_eq!(resolver.asked("db").len(), 1);
    advance(Duration::from_secs(2)).await;
    sleep(Duration::from_millis(1)).await;
    assert_eq!(resolver.asked("db").len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_resolver_that_hangs_and_then_fails_is_reported_once() {
    let resolver = ScriptedResolver::default();
    resolver.takes(Duration::from_secs(20));
    for _ in 0..10 {
        resolver.answer("db", Err(io::Error::other("no server")));
    }
    let mut names = resolver.start();
    names.want(wanted(&[("db", 1)]));
    names.changed().await;
    let problem = names.known()["db"].problem.clone();
    assert!(timeout(Duration::from_secs(100), names.changed()).await.is_err(), "{:?}", names.known());
    assert!(resolver.asked("db").len() > 3);
    assert_eq!(names.known()["db"].problem, problem);
}

#[tokio::test]
async fn the_system_knows_localhost() {
    let mut names = Names::start(resolve, Arc::default());
    names.want(wanted(&[("localhost", 30)]));
    names.first_answers(Duration::from_secs(30)).await;
    let answers = names.known();
    assert!(answers["localhost"].addresses.iter().all(IpAddr::is_loopback), "{answers:?}");
    assert!(!answers["localhost"].addresses.is_empty(), "{answers:?}");
}

/// Lookups of names that begin with `hangs` never end. All lookups are recorded while they are pending.
fn start_with_names_that_hang() -> (Names, Arc<Mutex<Vec<String>>>) {
    let under_way = Arc::new(Mutex::new(Vec::new()));
    let counted = under_way.clone();
    let resolver = move |name: Arc<str>| {
        let counted = counted.clone();
        async move {
            if name.starts_with("hangs") {
                counted.lock().unwrap().push(name.to_string());
                std::future::pending::<()>().await;
            }
            Ok(addresses(&[9]))
        }
    };
    (Names::start(resolver, Arc::default()), under_way)
}

#[tokio::test(start_paused = true)]
async fn names_of_one_object_that_hang_do_not_hold_up_those_of_another() {
    let (mut names, under_way) = start_with_names_that_hang();
    let hang = (0..600).map(|number| of_object("evil", &format!("hangs-{number}"), 1));
    let mut wanted: BTreeMap<_, _> = hang.collect();
    names.want(wanted.clone());
    sleep(Duration::from_secs(60)).await;
    assert_eq!(under_way.lock().unwrap().len(), limits::MAX_OF_OBJECT);
    let answers = names.known();
    let waiting =
        answers.values().filter(|lookup| lookup.problem.as_ref().is_some_and(|why| why.contains("its lookup waits")));
    assert_eq!(waiting.count(), 600 - limits::MAX_OF_OBJECT, "{answers:?}");

    wanted.extend([of_object("good", "db", 30)]);
    names.want(wanted);
    sleep(Duration::from_millis(1)).await;
    assert_eq!(names.known()["db"], Lookup { addresses: addresses(&[9]), ..Lookup::default() });
}

#[tokio::test(start_paused = true)]
async fn names_of_many_objects_that_hang_do_not_hold_up_those_that_were_answered() {
    let (mut names, under_way) = start_with_names_that_hang();
    let mut wanted = BTreeMap::from([of_object("good", "db", 1)]);
    names.want(wanted.clone());
    names.first_answers(Duration::from_secs(1)).await;
    wanted.extend((0..600).map(|number| of_object(&format!("evil-{number}"), &format!("hangs-{number}"), 1)));
    names.want(wanted);
    sleep(Duration::from_secs(60)).await;
    assert!(under_way.lock().unwrap().len() <= 64);
    assert_eq!(names.known()["db"], Lookup { addresses: addresses(&[9]), ..Lookup::default() }, "it is still answered");
}

/// The hanging names of a number of load balancers of a namespace. Each has more names than its lookup limit.
fn hanging(namespace: &str, objects: usize) -> Vec<(Arc<str>, WantedName)> {
    let name = |number: usize| {
        of_namespace(namespace, &format!("evil-{}", number % objects), &format!("hangs-{namespace}-{number}"), 1)
    };
    (0..objects * 2 * limits::MAX_OF_OBJECT).map(name).collect()
}

#[tokio::test(start_paused = true)]
async fn names_of_other_namespaces_that_hang_do_not_hold_up_new_names() {
    // A single namespace, and many.
    for (namespaces, objects) in [(1, 60), (40, 6)] {
        let (mut names, under_way) = start_with_names_that_hang();
        let hang = (0..namespaces).flat_map(|number| hanging(&format!("evil-{number}"), objects));
        let mut wanted: BTreeMap<_, _> = hang.collect();
        names.want(wanted.clone());
        sleep(Duration::from_secs(60)).await;
        for number in 0..30 {
            let (name, victim) = of_namespace("victim", "good", &format!("db-{number}"), 30);
            wanted.insert(name.clone(), victim);
            names.want(wanted.clone());
            sleep(Duration::from_millis(1)).await;
            assert_eq!(
                names.known()[&name],
                Lookup { addresses: addresses(&[9]), ..Lookup::default() },
                "{namespaces}"
            );
        }
        assert!(under_way.lock().unwrap().len() < limits::MAX_UNANSWERED, "{namespaces}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_namespace_among_very_many_does_not_hold_up_the_others() {
    let (mut names, under_way) = start_with_names_that_hang();
    let others = || (0..200).map(|number| of_namespace(&format!("ns-{number}"), "good", &format!("db-{number}"), 600));
    let mut wanted: BTreeMap<_, _> = hanging("evil", 60).into_iter().collect();
    wanted.extend(others());
    names.want(wanted);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(under_way.lock().unwrap().len(), limits::MAX_UNANSWERED / 2);
    let answers = names.known();
    assert!(others().all(|(name, _)| answers[&name].addresses == addresses(&[9])), "{answers:?}");
}

#[tokio::test(start_paused = true)]
async fn load_balancers_of_a_namespace_take_turns() {
    let resolver = ScriptedResolver::default();
    resolver.takes(Duration::from_secs(20));
    let mut names = resolver.start();
    let mut wanted: BTreeMap<_, _> = hanging("shop", 84).into_iter().collect();
    names.want(wanted.clone());
    sleep(Duration::from_secs(1)).await;
    wanted.extend([of_object("good", "db", 600)]);
    names.want(wanted);
    let start = Instant::now();
    while resolver.asked("db").is_empty() {
        sleep(Duration::from_secs(1)).await;
        assert!(start.elapsed() < Duration::from_secs(65), "42 at a time, 84 load balancers before it");
    }
}

#[test]
fn the_cost_of_turns_is_that_of_the_number_of_load_balancers() {
    let objects =
        |count: usize| -> Vec<_> { (0..count).map(|number| ObjectKey::new(&format!("ns-{number}"), "a")).collect() };
    crate::cost::assert_grows_no_faster_than_n_log_n(500, objects, |objects| {
        let limits = LookupLimits::default();
        limits.divide(&*objects);
        let turns: Vec<_> =
            objects.iter().map(|object| limits.turn(std::slice::from_ref(object), false).now_or_never()).collect();
        assert_eq!(turns.iter().flatten().count(), limits::MAX_UNANSWERED);
    });
}

#[tokio::test(start_paused = true)]
async fn changing_names_do_not_exceed_the_limit_of_pending_lookups() {
    let (mut names, under_way) = start_with_names_that_hang();
    for round in 0..100 {
        names.want(BTreeMap::from([of_object("evil", &format!("hangs-{round}"), 1)]));
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(under_way.lock().unwrap().len(), limits::MAX_OF_OBJECT);
}
