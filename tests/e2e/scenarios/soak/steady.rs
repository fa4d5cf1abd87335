//! The resources and the counters of a replica that runs throughout.

use std::time::Duration;

use axum::http::Request;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::resources::Resources;
use crate::{
    cluster::{WAIT_LIMIT, eventually, script},
    installation::Installation,
    scenario::Scenario,
};

const SAMPLE_INTERVAL: Duration = Duration::from_secs(2);
const ADMIN_PORT: u16 = 9900;

/// A replica.
pub struct Steady<'a> {
    pub scenario: &'a Scenario,
    pub own: Installation,
    pub node: String,
    pub pod: String,
    /// The identifier of the container.
    pub container: String,
}

/// The counters of a load balancer in a replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub accepted: usize,
    pub active: usize,
    pub closed: usize,
    /// The closed connections with the reason `complete`.
    pub complete: usize,
}

impl Steady<'_> {
    /// Measures the replica until it is told to stop.
    pub async fn sample(&self, stop: &CancellationToken) -> Vec<Resources> {
        let mut samples = Vec::new();
        while !stop.is_cancelled() {
            samples.push(self.resources().await);
            stop.run_until_cancelled(sleep(SAMPLE_INTERVAL)).await;
        }
        samples
    }

    /// The present resources. The API server is not needed.
    pub async fn resources(&self) -> Resources {
        let text = script("resources", &[&self.node, &self.container]).await;
        Resources::parse(&text).unwrap_or_else(|| panic!("three numbers: {text}"))
    }

    /// The counters at present. `None`: there is no answer.
    pub async fn counters(&self, load_balancer: &str) -> Option<Counters> {
        let (namespace, pod) = (&self.own.namespace, &self.pod);
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{ADMIN_PORT}/proxy/metrics");
        let request = Request::get(path).body(Vec::new()).unwrap();
        let text = self.scenario.client.request_text(request).await.ok()?;
        let (of_namespace, of_load_balancer) = (
            format!("load_balancer_namespace=\"{}\"", self.scenario.namespace),
            format!("load_balancer=\"{load_balancer}\""),
        );
        let sum = |name: &str, label: &str| {
            let is_it = |line: &&str| {
                line.starts_with(name)
                    && [&of_namespace, &of_load_balancer, label].iter().all(|text| line.contains(text))
            };
            let values = text.lines().filter(is_it).filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok());
            values.sum()
        };
        Some(Counters {
            accepted: sum("tcplb_connections_accepted_total{", ""),
            active: sum("tcplb_connections_active{", ""),
            closed: sum("tcplb_connections_closed_total{", ""),
            complete: sum("tcplb_connections_closed_total{", "reason=\"complete\""),
        })
    }

    /// The counters at a time without open connections.
    pub async fn idle_counters(&self, load_balancer: &str) -> Counters {
        let mut last = Counters::default();
        eventually("the replica has closed all connections", WAIT_LIMIT, async || {
            last = self.counters(load_balancer).await.unwrap_or_default();
            last.active == 0 && last.accepted > 0
        })
        .await;
        last
    }
}
