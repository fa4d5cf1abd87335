//! Closes the connections of what gets no more of them, as its load balancer's `drain` says, and some of those of
//! endpoints that have more than their share, as its `rebalance` says.
//!
//! One task decides for all workers: it follows what is live, and tells each worker how many of whose connections to
//! close, so that all together close those first that were silent for the longest time, and never more than they may.

mod closing;
mod plans;
mod rebalancing;

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::{
    select,
    sync::watch,
    time::{Instant, sleep_until},
};

pub use self::plans::{Departing, Gone};
use self::{
    closing::{close, established},
    plans::{Plans, Seen},
    rebalancing::Rebalance,
};
use super::{
    accounting::CloseReason,
    view::View,
    worker::{DRAIN_TICK, abort_on_panic::AbortOnPanic, handle::Shared, jittered},
};
use crate::{
    model::{DrainCause, Report},
    upstream::in_place,
};

pub struct Departures {
    pub shared: Arc<Shared>,
    pub view: Arc<ArcSwap<View>>,
    /// Tells what is being drained.
    pub departing: Arc<ArcSwap<Vec<Departing>>>,
}

impl Departures {
    /// Runs until the reports' other end is dropped.
    pub async fn run(self, mut reports: watch::Receiver<Arc<Report>>) {
        let _abort = AbortOnPanic;
        let (mut plans, mut rebalance) = (Plans::default(), Rebalance::default());
        let mut next = Instant::now();
        loop {
            // Without anything to close this waits for the next change.
            let tick = async {
                match plans.have_work(Instant::now()) || Rebalance::is_wanted(&self.view.load()) {
                    // Not anew with each change: these may come faster.
                    true => sleep_until(next).await,
                    false => std::future::pending().await,
                }
            };
            select! {
                changed = reports.changed() => match changed {
                    Ok(()) => in_place(|| plans.follow(seen(&self.view.load()), Instant::now())),
                    Err(_) => return,
                },
                () = tick => {
                    next = Instant::now() + jittered(DRAIN_TICK);
                    let wishes = plans.due(Instant::now());
                    let closed = close(&self.shared, &wishes).await;
                    plans.note(&closed, Instant::now());
                    let view = self.view.load_full();
                    let wishes = rebalance.due(&view, Instant::now());
                    if !wishes.is_empty() {
                        let confirmed = rebalance.confirmed(&view, &wishes, &established(&self.shared).await);
                        let closed = close(&self.shared, &confirmed).await;
                        rebalance.note(&wishes, &closed, Instant::now());
                    }
                }
            }
            if let Some(departing) = plans.news() {
                self.departing.store(Arc::new(departing));
            }
        }
    }
}

/// What gets no more connections, and what has some that go on.
fn seen(view: &View) -> Seen {
    let mut seen = Seen::default();
    for (key, upstream) in &view.upstreams {
        seen.upstreams.push(upstream.clone());
        for (endpoint, cause, close) in upstream.draining() {
            let (upstream, reason) = (upstream.clone(), reason_for(cause));
            let gone = Gone::Endpoint { upstream, endpoint };
            seen.departing.insert((gone.owner(), reason), (key.object.clone(), gone, close));
        }
    }
    for gone in &view.gone {
        let object = gone.listener.key.object.clone();
        let listener = Gone::Listener(gone.listener.clone());
        seen.departing.insert((listener.owner(), CloseReason::ListenerRemoved), (object, listener, gone.drain.removed));
    }
    seen
}

fn reason_for(cause: DrainCause) -> CloseReason {
    match cause {
        DrainCause::Terminating => CloseReason::EndpointTerminating,
        DrainCause::Removed => CloseReason::EndpointRemoved,
        DrainCause::Unhealthy => CloseReason::EndpointUnhealthy,
        DrainCause::Failback => CloseReason::Failback,
    }
}
