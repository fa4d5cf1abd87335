use std::{collections::BTreeMap, sync::Arc};

use crate::proxy::worker::{
    handle::{Shared, WorkerCommand, ask},
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
