//! Closes the connections of endpoints and listeners that are draining, according to `drain` of their load balancer,
//! and excess connections of endpoints with more than their share, according to `rebalance`.
//!
//! One task decides for all workers. It follows the view, and requests a number of closes for each target from each
//! worker. The workers together close the least recently active connections first, and never exceed the rate.

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

pub use self::plans::{Draining, DrainingResource};
use self::{
    closing::{close, established},
    plans::{DrainInput, DrainPlans},
    rebalancing::ConnectionRebalancer,
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

pub struct Drainer {
    pub shared: Arc<Shared>,
    pub view: Arc<ArcSwap<View>>,
    /// Publishes the drains in progress.
    pub draining: Arc<ArcSwap<Vec<Draining>>>,
}

impl Drainer {
    /// Runs until the sender of reports is dropped.
    pub async fn run(self, mut reports: watch::Receiver<Arc<Report>>) {
        let _abort = AbortOnPanic;
        let (mut plans, mut rebalance) = (DrainPlans::default(), ConnectionRebalancer::default());
        let mut next = Instant::now();
        loop {
            // Without connections to close, this waits for the next change.
            let tick = async {
                match plans.have_work(Instant::now()) || ConnectionRebalancer::is_enabled(&self.view.load()) {
                    // Not restarted by each change: changes may arrive faster than ticks.
                    true => sleep_until(next).await,
                    false => std::future::pending().await,
                }
            };
            select! {
                changed = reports.changed() => match changed {
                    Ok(()) => in_place(|| plans.follow(drain_input(&self.view.load()), Instant::now())),
                    Err(_) => return,
                },
                () = tick => {
                    next = Instant::now() + jittered(DRAIN_TICK);
                    let requests = plans.due(Instant::now());
                    let closed = close(&self.shared, &requests).await;
                    plans.record(&closed, Instant::now());
                    let view = self.view.load_full();
                    let requests = rebalance.due(&view, Instant::now());
                    if !requests.is_empty() {
                        let confirmed = rebalance.confirmed(&view, &requests, &established(&self.shared).await);
                        let closed = close(&self.shared, &confirmed).await;
                        rebalance.record(&requests, &closed, Instant::now());
                    }
                }
            }
            if let Some(draining) = plans.take_changed() {
                self.draining.store(Arc::new(draining));
            }
        }
    }
}

/// The draining endpoints and listeners in a view.
fn drain_input(view: &View) -> DrainInput {
    let mut input = DrainInput::default();
    for (key, upstream) in &view.upstreams {
        input.upstreams.push(upstream.clone());
        for (endpoint, cause, close) in upstream.draining() {
            let (upstream, reason) = (upstream.clone(), reason_for(cause));
            let resource = DrainingResource::Endpoint { upstream, endpoint };
            input.draining.insert((resource.target(), reason), (key.object.clone(), resource, close));
        }
    }
    for draining in &view.draining {
        let object = draining.listener.key.object.clone();
        let listener = DrainingResource::Listener(draining.listener.clone());
        input
            .draining
            .insert((listener.target(), CloseReason::ListenerRemoved), (object, listener, draining.drain.removed));
    }
    input
}

fn reason_for(cause: DrainCause) -> CloseReason {
    match cause {
        DrainCause::Terminating => CloseReason::EndpointTerminating,
        DrainCause::Removed => CloseReason::EndpointRemoved,
        DrainCause::Unhealthy => CloseReason::EndpointUnhealthy,
        DrainCause::Failback => CloseReason::Failback,
    }
}
