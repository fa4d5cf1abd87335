//! The controller of a cluster: its leader allocates ports, manages a Service for each load balancer, and writes
//! statuses.
//!
//! Every replica translates and serves by itself. The leader summarises the reports of all replicas, and is the only
//! writer. Pure functions decide what it writes ([`allocations`], [`services`]):
//!
//! ```text
//! World, verdicts ─┐                                ┌─► allocations::store: the ConfigMap
//!                  ├─► leader ─► allocate, plan ────┤
//! reports ─────────┘                                └─► calls: Services, look-ups
//! ```
//!
//! The cost of a change depends on the load balancers that it affects. Worlds, verdicts and reports are persistent maps, so that the leader finds the
//! changed load balancers without comparing the others: [`conditions::Statuses`] derives only their statuses, and
//! [`provisioning`] is skipped unless ports or Services depend on the change.

mod admin_token;
mod allocations;
mod calls;
mod conditions;
mod due_times;
mod events;
mod leader;
mod leadership;
mod observed;
mod owners;
mod provisioning;
mod replicas;
mod services;
mod settings;
mod status;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use kube::Client;
use tokio::{sync::watch, time::sleep};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::error;

pub use admin_token::AdminToken;
#[cfg(feature = "fuzzing")]
pub use allocations::simulation as fuzzing;
pub use observed::Observed;
pub use owners::ANCHOR_DESCRIPTION;
#[cfg(test)]
pub use replicas::follow;
pub use replicas::{Replica, Replicas};
pub use settings::{Settings, Workload};

use leader::Leader;
use leadership::LeaderElector;

/// Takes part in the election, and leads while it holds the Lease, until `stop`.
pub async fn run(client: Client, settings: Settings, observed: watch::Receiver<Observed>, stop: CancellationToken) {
    let gather = {
        let (observed, settings) = (observed.clone(), settings.clone());
        move || replicas::gather(observed.clone(), &settings)
    };
    run_with(client, settings, observed, gather, stop).await;
}

/// Like [`run`], with reports from another source: `gather` begins to follow them, which only a leader needs.
pub async fn run_with(
    client: Client,
    settings: Settings,
    observed: watch::Receiver<Observed>,
    gather: impl Fn() -> watch::Receiver<Arc<Replicas>> + Clone + Send + Sync + 'static,
    stop: CancellationToken,
) {
    let settings = Arc::new(settings);
    settings.instruments.stand_for_election(&settings.lease);
    let (term, terms) = watch::channel(None);
    let term = Arc::new(term);
    let electing = {
        let (client, settings) = (client.clone(), settings.clone());
        restarting("leader election", move || {
            let (elector, term) = (LeaderElector::new(client.clone(), &settings), term.clone());
            async move { elector.run(&term).await }
        })
    };
    let leading = {
        let (client, settings) = (client.clone(), settings.clone());
        restarting("leading", move || {
            let (client, settings, observed) = (client.clone(), settings.clone(), observed.clone());
            let (gather, mut terms) = (gather.clone(), terms.clone());
            async move {
                loop {
                    leadership::begun(&mut terms).await;
                    let leader = Leader::new(client.clone(), settings.clone(), observed.clone(), gather());
                    tokio::select! {
                        // Checked first: a process that was suspended must not continue as leader.
                        biased;
                        () = leadership::ended(&mut terms) => {}
                        () = leader.lead() => {}
                    }
                }
            }
        })
    };
    stop.cancelled().await;
    // Nothing is written after the Lease is released.
    for mut task in [leading, electing] {
        task.abort();
        let _ = (&mut task).await;
    }
    leadership::release(client, &settings).await;
}

/// Runs a task that never ends, and restarts it if it panics.
fn restarting<F>(what: &'static str, begin: impl Fn() -> F + Send + 'static) -> AbortOnDropHandle<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    const PAUSE: Duration = Duration::from_secs(1);
    AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            if let Err(fault) = AbortOnDropHandle::new(tokio::spawn(begin())).await {
                error!(%fault, "{what} failed: restarting it");
            }
            sleep(PAUSE).await;
        }
    }))
}
