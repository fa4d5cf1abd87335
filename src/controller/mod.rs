//! What the leader does in a cluster: allots ports, keeps a Service for each load balancer, and writes statuses.
//!
//! Every replica serves and thinks for itself. The leader sums up what all of them report, and is the only one that
//! writes. What is to be written is decided by pure functions ([`allocations`], [`services`], [`conditions`]).

mod replicas;
mod settings;

use std::sync::Arc;

pub use replicas::{Replica, Replicas};
pub use settings::Settings;

use crate::{source::World, translate::Verdicts};

/// What this replica sees and thinks at one moment.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    pub world: Arc<World>,
    pub verdicts: Arc<Verdicts>,
}

/// Leads while it can, until it is told to stop.
pub async fn run(
    client: kube::Client,
    settings: Settings,
    observed: tokio::sync::watch::Receiver<Observed>,
    stop: tokio_util::sync::CancellationToken,
) {
    let _ = (client, settings, observed);
    stop.cancelled().await;
}
