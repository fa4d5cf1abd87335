use std::time::Duration;

use futures::{FutureExt, future::join_all};
use tokio::{task::JoinHandle, time::timeout};

use super::*;

fn namespace(number: usize) -> Arc<str> {
    format!("ns-{number}").into()
}

/// The queues of `count` namespaces among which the places are divided.
fn queues(places: &Arc<TenantPlaces>, count: usize) -> Vec<Arc<TenantQueue>> {
    let namespaces: Vec<_> = (0..count).map(namespace).collect();
    places.divide(&namespaces);
    namespaces.iter().map(|namespace| places.queue(namespace)).collect()
}

fn take_all(queue: &Arc<TenantQueue>) -> Vec<TenantPermit> {
    std::iter::from_fn(|| queue.enter().now_or_never()).collect()
}

/// A task that waits for a place.
async fn waiting(queue: &Arc<TenantQueue>) -> JoinHandle<TenantPermit> {
    let queue = queue.clone();
    let task = tokio::spawn(async move { queue.enter().await });
    // The task is polled once.
    tokio::task::yield_now().await;
    assert!(!task.is_finished());
    task
}

async fn entered(task: JoinHandle<TenantPermit>) -> TenantPermit {
    timeout(Duration::from_secs(60), task).await.expect("a place is free").unwrap()
}

#[test]
fn a_namespace_with_any_number_of_tasks_leaves_others_their_guaranteed_places() {
    let places = TenantPlaces::new(48);
    let queues = queues(&places, 3);
    let greedy = [take_all(&queues[0]), take_all(&queues[1])];
    assert_eq!(greedy.each_ref().map(Vec::len), [48 - 3 * 3, 3], "a quarter is for these, and one that is to come");
    assert_eq!(take_all(&queues[2]).len(), 3);
}

#[test]
fn each_namespace_has_a_place_where_there_are_as_many_as_namespaces() {
    let places = TenantPlaces::new(48);
    let queues = queues(&places, 47);
    let taken: Vec<_> = queues.iter().map(take_all).collect();
    assert!(taken.iter().all(|taken| taken.len() == 1));
}

#[test]
fn no_namespace_has_more_than_half_where_none_can_be_guaranteed() {
    let places = TenantPlaces::new(9);
    let queues = queues(&places, 100);
    let greedy = take_all(&queues[0]);
    assert_eq!(greedy.len(), 5);
    assert!(queues[0].try_enter().is_none());
    assert_eq!(take_all(&queues[1]).len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_namespace_at_its_most_takes_a_place_only_after_it_gave_one_back() {
    let places = TenantPlaces::new(8);
    let queues = queues(&places, 100);
    let mut greedy = take_all(&queues[0]);
    let mut others = take_all(&queues[1]);
    let more = waiting(&queues[0]).await;
    drop(others.pop());
    let third = entered(waiting_or_entered(&queues[2])).await;
    drop((others, third));
    tokio::task::yield_now().await;
    assert!(!more.is_finished(), "it has half of all");
    drop(greedy.pop());
    drop(entered(more).await);
}

fn waiting_or_entered(queue: &Arc<TenantQueue>) -> JoinHandle<TenantPermit> {
    let queue = queue.clone();
    tokio::spawn(async move { queue.enter().await })
}

#[tokio::test(start_paused = true)]
async fn tasks_that_wait_are_woken_by_every_kind_of_place() {
    let places = TenantPlaces::new(16);
    let queues = queues(&places, 2);
    let mut all = take_all(&queues[0]);
    assert_eq!(all.len(), 14);

    // `all` begins with guaranteed places and ends with borrowed ones.
    for place in [0, 12] {
        let task = waiting(&queues[0]).await;
        drop(all.remove(place));
        all.push(entered(task).await);
    }
    let task = waiting(&queues[0]).await;
    places.divide([&namespace(0)]);
    drop(entered(task).await);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_stops_waiting_passes_its_place_on() {
    let places = TenantPlaces::new(16);
    let queues = queues(&places, 2);
    let mut all = take_all(&queues[0]);
    let own = take_all(&queues[1]);
    let (first, second) = (waiting(&queues[0]).await, waiting(&queues[1]).await);
    drop(all.pop());
    first.abort();
    let _borrowed = entered(second).await;
    drop(own);
    let (first, second) = (waiting(&queues[0]).await, waiting(&queues[0]).await);
    first.abort();
    drop(all.remove(0));
    drop(entered(second).await);
}

#[tokio::test]
async fn tasks_of_a_namespace_enter_in_the_order_in_which_they_ask() {
    let places = TenantPlaces::new(1);
    let queue = places.queue(&namespace(0));
    let held = queue.enter().await;
    let entered = Mutex::new(Vec::new());
    let task = |number: usize| {
        let (queue, entered) = (&queue, &entered);
        async move {
            let _permit = queue.enter().await;
            entered.lock().unwrap().push(number);
        }
    };
    let tasks = join_all((0..20).map(task));
    let release = async {
        tokio::task::yield_now().await;
        assert!(queue.try_enter().is_none());
        drop(held);
    };
    tokio::join!(tasks, release);
    assert_eq!(entered.into_inner().unwrap(), (0..20).collect::<Vec<_>>());
    assert_eq!(queue.in_use(), 0);
}

#[test]
fn places_of_a_namespace_that_is_gone_can_be_borrowed_once_they_are_given_back() {
    let places = TenantPlaces::new(48);
    let [gone, other] = [0, 1].map(namespace);
    places.divide([&gone]);
    let held = take_all(&places.queue(&gone));
    assert_eq!(held.len(), 42);
    places.divide([&other]);
    let of_other = take_all(&places.queue(&other));
    assert_eq!(of_other.len(), 6);
    assert_eq!(places.queue(&gone).in_use(), 42);
    drop(held);
    assert_eq!(take_all(&places.queue(&other)).len(), 48 - 6 - 6, "all but what is kept for one that is to come");
    places.divide([&gone, &other]);
    assert_eq!(take_all(&places.queue(&gone)).len(), 48 - 6 - 4);
}

#[test]
fn the_cost_of_dividing_and_waiting_is_that_of_the_number_of_tasks() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let scene = |tenants: fn(usize) -> usize| {
        move |count: usize| {
            let places = TenantPlaces::new(48);
            let queues = queues(&places, tenants(count));
            (places, (0..count).map(|number| queues[number % queues.len()].clone()).collect::<Vec<_>>())
        }
    };
    let run = |(places, tasks): &mut (Arc<TenantPlaces>, Vec<Arc<TenantQueue>>)| {
        let namespaces: Vec<_> = (0..tasks.len()).map(namespace).collect();
        places.divide(&namespaces);
        let task = |queue: &Arc<TenantQueue>| {
            let queue = queue.clone();
            tokio::spawn(async move {
                let _permit = queue.enter().await;
                tokio::task::yield_now().await;
            })
        };
        runtime.block_on(async { join_all(tasks.iter().map(task)).await });
    };
    // All of one namespace, and each of its own namespace.
    crate::cost::assert_grows_no_faster_than_n_log_n(300, scene(|_| 1), run);
    crate::cost::assert_grows_no_faster_than_n_log_n(300, scene(|count| count), run);
}
