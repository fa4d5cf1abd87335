use std::{collections::BTreeMap, sync::Arc};

use futures::future::join_all;
use tokio::sync::oneshot;

use crate::proxy::worker::{
    handle::{Shared, WorkerCommand},
    sessions::{CloseRequests, DrainTarget, divide_requests},
};

/// Executes the requests on all workers, and returns the number of closed connections by target.
pub async fn close(shared: &Shared, requests: &CloseRequests) -> BTreeMap<DrainTarget, usize> {
    if requests.is_empty() {
        return BTreeMap::new();
    }
    let asked = Arc::new(requests.clone());
    let rank = |done| WorkerCommand::Rank { requests: asked.clone(), done };
    let ranks = ask(shared, (0..shared.workers.len()).map(|_| rank)).await;
    let shares = divide_requests(requests, &ranks).into_iter();
    let closed = ask(shared, shares.map(|requests| |done| WorkerCommand::CloseSome { requests, done })).await;
    let mut sums = BTreeMap::new();
    for (target, count) in closed.into_iter().flatten() {
        *sums.entry(target).or_insert(0) += count;
    }
    sums
}

/// The number of established connections of each endpoint.
pub async fn established(shared: &Shared) -> BTreeMap<u64, u32> {
    let mut sums = BTreeMap::new();
    let counts = ask(shared, (0..shared.workers.len()).map(|_| |done| WorkerCommand::Count { done })).await;
    for (endpoint, count) in counts.into_iter().flatten() {
        *sums.entry(endpoint).or_insert(0) += count;
    }
    sums
}

/// Sends an order to each worker, and waits for the answers. The answer of a worker that has stopped is empty.
async fn ask<T: Default>(
    shared: &Shared,
    orders: impl Iterator<Item = impl FnOnce(oneshot::Sender<T>) -> WorkerCommand>,
) -> Vec<T> {
    let answers = shared.workers.iter().zip(orders).map(|(worker, order)| {
        let (done, answer) = oneshot::channel();
        let _ = worker.orders.send(order(done));
        async { answer.await.unwrap_or_default() }
    });
    join_all(answers.collect::<Vec<_>>()).await
}
