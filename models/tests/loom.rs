//! Invariants for every execution order.

use std::{num::NonZeroU32, time::Duration};

use loom::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
};
use tcplb_models::{
    admission::{
        count::OpenCount,
        gcra::Gcra,
        places::{Places, Share, Terms},
        rate::RateState,
    },
    model::Rate,
    upstream::active::ActiveCount,
};

/// Runs this in every order with at most three preemptions. Without a bound it takes hours, and nearly every fault
/// needs one or two.
fn model(work: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(work);
}

/// Runs this on as many threads, the last of which is this one, and returns the results.
fn on_threads<T: Send + 'static, const N: usize>(work: [Box<dyn FnOnce() -> T + Send>; N]) -> Vec<T> {
    let mut work = Vec::from(work);
    let last = work.pop().expect("there is some work");
    let others: Vec<_> = work.into_iter().map(thread::spawn).collect();
    let last = last();
    others.into_iter().map(|thread| thread.join().expect("no thread panics")).chain([last]).collect()
}

fn shares(places: &Arc<Places>, total: usize) -> [Arc<Share>; 2] {
    let shares = [(); 2].map(|()| Arc::new(Share::new(Arc::clone(places))));
    places.divide(total, shares.iter().map(|share| &**share), std::iter::empty());
    shares
}

const TERMS: Terms = Terms { guaranteed_one_in: 2, to_come: 0, borrowed_to_left: usize::MAX };

#[test]
fn holders_never_have_more_places_than_there_are_and_all_come_back() {
    model(|| {
        // Each holder is guaranteed one place, and one can be borrowed.
        let places = Arc::new(Places::new(3, TERMS));
        let [one, other] = shares(&places, 3);
        let taken = Arc::new(AtomicUsize::new(0));
        let take = |share: &Arc<Share>| -> Box<dyn FnOnce() -> usize + Send> {
            let (share, taken) = (Arc::clone(share), Arc::clone(&taken));
            Box::new(move || {
                let permits: Vec<_> = (0..2).filter_map(|_| Share::permit(&share)).collect();
                assert!(taken.fetch_add(permits.len(), SeqCst) + permits.len() <= 3);
                let count = permits.len();
                taken.fetch_sub(count, SeqCst);
                drop(permits);
                count
            })
        };
        let counts = on_threads([take(&one), take(&other)]);
        assert!(counts.iter().all(|count| *count >= 1), "each has its guaranteed place: {counts:?}");
        assert_eq!((one.in_use(), other.in_use(), places.lent()), (0, 0, 0));
    });
}

#[test]
fn borrowed_places_come_back_whoever_gives_them_back_at_the_same_time() {
    model(|| {
        // Each holder is guaranteed one place, and borrows one.
        let places = Arc::new(Places::new(4, TERMS));
        let [one, other] = shares(&places, 4);
        let borrow = |share: &Arc<Share>| -> Box<dyn FnOnce() -> usize + Send> {
            let share = Arc::clone(share);
            Box::new(move || (0..2).filter_map(|_| Share::permit(&share)).collect::<Vec<_>>().len())
        };
        assert_eq!(on_threads([borrow(&one), borrow(&other)]), [2, 2]);
        assert_eq!((one.in_use(), other.in_use(), places.lent()), (0, 0, 0));
    });
}

#[test]
fn a_holder_that_is_used_by_two_workers_has_its_guaranteed_places_only_once() {
    model(|| {
        let places = Arc::new(Places::new(4, TERMS));
        let [one, other] = shares(&places, 2);
        // No place can be borrowed.
        let take = || -> Box<dyn FnOnce() -> bool + Send> {
            let share = Arc::clone(&one);
            Box::new(move || share.take().is_some())
        };
        let taken = on_threads([take(), take()]);
        assert_eq!(taken.iter().filter(|taken| **taken).count(), 1);
        assert!(other.take().is_some());
    });
}

#[test]
fn a_listener_never_has_more_connections_than_it_may_have() {
    model(|| {
        let open = Arc::new(OpenCount::default());
        let inside = Arc::new(AtomicUsize::new(0));
        let enter = || -> Box<dyn FnOnce() -> bool + Send> {
            let (open, inside) = (Arc::clone(&open), Arc::clone(&inside));
            Box::new(move || {
                if !open.enter(1) {
                    return false;
                }
                assert_eq!(inside.fetch_add(1, SeqCst), 0);
                inside.fetch_sub(1, SeqCst);
                open.leave();
                true
            })
        };
        let entered = on_threads([enter(), enter(), enter()]);
        assert!(entered.contains(&true));
        assert_eq!(open.get(), 0);
    });
}

#[test]
fn a_rate_lets_no_more_in_than_its_burst_whatever_times_workers_come_with() {
    model(|| {
        let burst = NonZeroU32::new(2).unwrap();
        let rate = Gcra::from(Rate { count: NonZeroU32::MIN, per: Duration::from_secs(1), burst });
        let state = Arc::new(RateState::default());
        let knock = |times: [u64; 2]| -> Box<dyn FnOnce() -> usize + Send> {
            let state = Arc::clone(&state);
            Box::new(move || times.into_iter().filter(|now| state.take(rate, *now)).count())
        };
        // All calls are within one interval: the second worker has read its time first.
        let admitted: usize = on_threads([knock([900, 901]), knock([0, 1])]).into_iter().sum();
        assert_eq!(admitted, 2, "exactly the burst");
    });
}

#[test]
fn a_worker_that_comes_with_an_old_time_forgives_no_debt() {
    model(|| {
        const SECOND: u64 = 1_000_000_000;
        let burst = NonZeroU32::new(2).unwrap();
        let rate = Gcra::from(Rate { count: NonZeroU32::MIN, per: Duration::from_secs(1), burst });
        let state = Arc::new(RateState::default());
        assert!(state.take(rate, 900) && state.take(rate, 900), "the burst");
        let knock = |now: u64| -> Box<dyn FnOnce() -> bool + Send> {
            let state = Arc::clone(&state);
            Box::new(move || state.take(rate, now))
        };
        // The next call conforms a second after the burst.
        assert_eq!(on_threads([knock(SECOND + 450), knock(0)]), [false, false]);
        assert!(state.take(rate, SECOND + 900));
    });
}

#[test]
fn connections_of_an_endpoint_are_counted_while_they_are_there() {
    model(|| {
        let active = Arc::new(ActiveCount::default());
        let connect = || -> Box<dyn FnOnce() + Send> {
            let active = Arc::clone(&active);
            Box::new(move || {
                active.begin();
                assert!(active.get() >= 1);
                active.end();
            })
        };
        on_threads([connect(), connect(), connect()]);
        assert_eq!(active.get(), 0);
    });
}
