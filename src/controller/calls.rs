//! Calls to the API server, in progress and completed. Each object has its own calls, so that no object waits for the
//! calls of another.

pub mod failure;
pub mod lookup;

use std::{
    collections::{BTreeMap, HashMap},
    future,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::Semaphore,
    task::{Id, JoinSet},
    time::{Instant, sleep_until, timeout},
};

use self::failure::{ApiFailure, Failures, backoff};
use super::due_times::DueTimes;

/// The number of concurrent calls.
const MAX_RUNNING: usize = 16;
/// The time limit of one call; admission webhooks may be slow.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// Calls by their objects. Dropping this aborts them.
pub struct Calls<K, T> {
    running: JoinSet<Result<T, ApiFailure>>,
    about: HashMap<Id, K>,
    made: BTreeMap<K, Made>,
    /// The times from which completed calls may be repeated.
    repeatable: DueTimes<K, Instant>,
    places: Arc<Semaphore>,
}

/// The last call about an object.
#[derive(Clone, Debug)]
struct Made {
    /// Identifies the content of the call.
    what: u64,
    running: bool,
    tries: u32,
    /// The time before which the same call is not repeated.
    again: Instant,
    failures: Failures,
}

impl<K: Ord + Clone, T: Send + 'static> Calls<K, T> {
    pub fn new() -> Self {
        Self {
            running: JoinSet::new(),
            about: HashMap::new(),
            made: BTreeMap::new(),
            repeatable: DueTimes::default(),
            places: Arc::new(Semaphore::new(MAX_RUNNING)),
        }
    }

    /// Makes the call, unless a call about the object is in progress, or the same call was made recently: its effect is
    /// not visible at once, and a call without effect is repeated less and less often. Returns true if the call is
    /// made.
    ///
    /// Thousands of calls may wait for others to end. They need memory for what `call` captures; its future, which is
    /// much larger, exists only while the call is in progress.
    pub fn make<F>(&mut self, about: &K, what: u64, call: impl FnOnce() -> F + Send + 'static) -> bool
    where
        F: Future<Output = Result<T, ApiFailure>> + Send + 'static,
    {
        let now = Instant::now();
        let last = self.made.get(about).cloned();
        if last.as_ref().is_some_and(|last| last.running || (last.what == what && now < last.again)) {
            return false;
        }
        let same = last.filter(|last| last.what == what);
        let (tries, failures) = same.map_or_else(Default::default, |last| (last.tries, last.failures));
        self.made.insert(about.clone(), Made { what, running: true, tries, again: now, failures });
        self.repeatable.set(about, None);
        let places = self.places.clone();
        let task = self.running.spawn(async move {
            let _place = places.acquire_owned().await;
            // Boxed, because the task of a waiting call would otherwise have room for it.
            timeout(CALL_TIMEOUT, Box::pin(call())).await.unwrap_or_else(|_| Err("no answer in time".into()))
        });
        self.about.insert(task.id(), about.clone());
        true
    }

    /// Waits for an answer; forever while no call is in progress. Cancel safe.
    pub async fn answered(&mut self) -> (K, Result<T, ApiFailure>) {
        loop {
            let Some(ended) = self.running.join_next_with_id().await else { future::pending().await };
            let (id, answer) = match ended {
                Ok((id, answer)) => (id, answer),
                Err(fault) => (fault.id(), Err(format!("a fault of this program: {fault}").into())),
            };
            if let Some(about) = self.about.remove(&id) {
                self.note(&about, answer.as_ref().err());
                return (about, answer);
            }
        }
    }

    fn note(&mut self, about: &K, failure: Option<&ApiFailure>) {
        if let Some(made) = self.made.get_mut(about) {
            made.running = false;
            made.tries = made.tries.saturating_add(1);
            made.again = Instant::now() + backoff(made.tries);
            self.repeatable.set(about, Some(made.again));
            match failure {
                Some(failure) => drop(made.failures.failed(failure.clone(), Instant::now())),
                None => drop(made.failures.succeeded()),
            }
        }
    }

    /// Forgets the calls about other objects.
    pub fn keep(&mut self, wanted: impl Fn(&K) -> bool) {
        let repeatable = &mut self.repeatable;
        self.made.retain(|about, made| {
            let stays = made.running || wanted(about);
            if !stays {
                repeatable.set(about, None);
            }
            stays
        });
    }

    /// Forgets the call about an object, unless it is in progress.
    pub fn forget(&mut self, about: &K) {
        if self.made.get(about).is_some_and(|made| !made.running) {
            self.made.remove(about);
            self.repeatable.set(about, None);
        }
    }

    /// The objects whose last call failed, with the reason. Refusals are included only after they have lasted for a
    /// while.
    pub fn problems(&self) -> impl Iterator<Item = (&K, &str)> {
        let now = Instant::now();
        self.made.iter().filter_map(move |(about, made)| Some((about, &*made.failures.lasting(now)?.sentence)))
    }

    /// The objects whose calls became repeatable after `since`, and not after `now`.
    pub fn repeatable(&self, since: Instant, now: Instant) -> impl Iterator<Item = &K> {
        self.repeatable.due_after(since, now)
    }

    /// The first time after `since` at which a call may be repeated.
    pub fn next(&self, since: Instant) -> Option<Instant> {
        self.repeatable.first_after(since)
    }
}

/// Waits until this time; forever without one.
pub async fn until(then: Option<Instant>) {
    match then {
        Some(then) => sleep_until(then).await,
        None => future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;

    async fn call(calls: &mut Calls<&'static str, u8>, what: u64, answer: Result<u8, ApiFailure>) -> bool {
        calls.make(&"a", what, move || future::ready(answer));
        timeout(Duration::from_millis(1), calls.answered()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn equal_calls_are_retried_after_growing_pauses_and_new_ones_made_at_once() {
        let mut calls = Calls::new();
        assert!(call(&mut calls, 1, Err("no".into())).await);
        assert_eq!(calls.problems().next(), Some((&"a", "no")));
        assert!(!call(&mut calls, 1, Ok(1)).await, "too soon");
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(call(&mut calls, 1, Err("no".into())).await);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!call(&mut calls, 1, Ok(1)).await, "it waits for longer now");
        assert!(call(&mut calls, 2, Ok(1)).await);
        assert_eq!(calls.problems().next(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_is_repeatable_only_from_its_time_on() {
        let mut calls = Calls::new();
        let start = Instant::now();
        assert_eq!(calls.next(start), None);
        assert!(call(&mut calls, 1, Ok(1)).await);
        let next = calls.next(start).expect("a call without effect is repeated");
        assert_eq!(calls.repeatable(start, next - Duration::from_millis(1)).count(), 0);
        assert_eq!(calls.repeatable(start, next).collect::<Vec<_>>(), [&"a"]);
        assert_eq!((calls.repeatable(next, next + Duration::from_secs(9)).count(), calls.next(next)), (0, None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_without_an_answer_and_one_that_panics_are_failures_and_hold_up_no_other() {
        let mut calls = Calls::<_, u8>::new();
        calls.make(&"slow", 1, future::pending);
        calls.make(&"broken", 1, || async { panic!("on purpose") });
        calls.make(&"good", 1, || future::ready(Ok(1)));
        let mut answers = BTreeMap::new();
        for _ in 0..3 {
            let (about, answer) = calls.answered().await;
            answers.insert(about, answer);
        }
        assert_eq!(answers["good"], Ok(1));
        assert!(
            answers["broken"].as_ref().is_err_and(|failure| failure.sentence.contains("on purpose")),
            "{answers:?}"
        );
        assert_eq!(answers["slow"], Err("no answer in time".into()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiting_call_does_not_run_before_others_end() {
        let (mut calls, begun) = (Calls::<_, u8>::new(), Arc::new(AtomicUsize::new(0)));
        for object in 0..=MAX_RUNNING {
            let begun = begun.clone();
            assert!(calls.make(&object, 1, move || {
                begun.fetch_add(1, Relaxed);
                future::pending()
            }));
        }
        assert!(timeout(CALL_TIMEOUT / 2, calls.answered()).await.is_err());
        assert_eq!(begun.load(Relaxed), MAX_RUNNING);
        for _ in 0..=MAX_RUNNING {
            assert!(calls.answered().await.1.is_err(), "it has no answer in time");
        }
        assert_eq!(begun.load(Relaxed), MAX_RUNNING + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn calls_about_an_object_are_serialized() {
        let mut calls = Calls::new();
        calls.make(&"a", 1, || future::ready(Ok(1)));
        calls.make(&"a", 2, || future::ready(Ok(2)));
        assert_eq!(calls.answered().await, ("a", Ok(1)));
        assert!(timeout(Duration::from_secs(60), calls.answered()).await.is_err());
    }
}
