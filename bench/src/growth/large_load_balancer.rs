//! `tcplb standalone` with one load balancer that has many endpoints.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use futures::future::try_join_all;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::{
    address_block::{AddressBlock, PortBlock},
    operation::{Action, CONNECTIONS},
    plan::GrowthPlan,
    process::{CHANGE_TIMEOUT, MeteredProcess},
    standalone,
};
use crate::{
    backend::{Backends, Opening, listen},
    load::client::Client,
};

/// The maximum number of endpoints of an EndpointSlice.
const SLICE_SIZE: usize = 1000;

/// A process with one load balancer and its backend.
pub struct LargeLoadBalancer {
    pub process: MeteredProcess,
    backend: Backend,
    addresses: AddressBlock,
    _port: PortBlock,
}

/// The server behind all endpoints.
enum Backend {
    Echoing { _servers: Backends },
    Probed { _server: ProbedServer },
    Stopped,
}

impl LargeLoadBalancer {
    /// A load balancer with LeastConnections and without probes.
    pub async fn least_connections(plan: &GrowthPlan, endpoints: usize, folder: &Path) -> Result<Self> {
        let settings = json!({
            "loadBalancing": {"algorithm": "LeastConnections"}, "healthCheck": {"active": {"type": "None"}},
        });
        let mut servers = Backends::new();
        let start = |server| servers.add(server, Opening::None);
        let mut testbed = Self::start(plan, endpoints, settings, folder, start).await?;
        testbed.process.prepare().await?;
        testbed.backend = Backend::Echoing { _servers: servers };
        Ok(testbed)
    }

    /// A load balancer with probes. All endpoints have been probed once.
    pub async fn probed(plan: &GrowthPlan, endpoints: usize, folder: &Path) -> Result<Self> {
        let check = json!({"type": "TCP", "interval": "10s", "unhealthyAfter": 1, "healthyAfter": 1});
        let settings = json!({"healthCheck": {"active": check}});
        let mut server = None;
        let start = |address| {
            server = Some(ProbedServer::start(address)?);
            Ok(())
        };
        let mut testbed = Self::start(plan, endpoints, settings, folder, start).await?;
        let server = server.context("the probed server was not started")?;
        timeout(CHANGE_TIMEOUT, server.accepted(endpoints)).await.context("not all endpoints are probed")?;
        testbed.backend = Backend::Probed { _server: server };
        testbed.process.meter.enable().await?;
        Ok(testbed)
    }

    async fn start(
        plan: &GrowthPlan,
        endpoints: usize,
        settings: Value,
        folder: &Path,
        start_backend: impl FnOnce(SocketAddr) -> Result<()>,
    ) -> Result<Self> {
        let (addresses, port_block) = (AddressBlock::reserve()?, PortBlock::reserve(1)?);
        let port = port_block.usable().next().context("a block has ports")?;
        start_backend((Ipv4Addr::UNSPECIFIED, port).into())?;
        let manifests = folder.join("manifests.json");
        fs::write(&manifests, manifest(&addresses, port, endpoints, settings).to_string())?;
        let process = standalone::start(plan, &addresses, &manifests, folder).await?;
        Ok(Self { process, backend: Backend::Stopped, addresses, _port: port_block })
    }

    /// Performs an action. Returns its duration.
    pub async fn perform(&mut self, action: Action) -> Result<Duration> {
        let started = Instant::now();
        match action {
            Action::Connection => {
                let client = Client { server: self.addresses.listener(0), tls: None };
                // All at once, since LeastConnections compares all endpoints again after some time.
                try_join_all((0..CONNECTIONS).map(|_| client.connect_and_echo())).await?;
            }
            Action::Failure => {
                self.backend = Backend::Stopped;
                // The number of lines about single endpoints is limited.
                self.process.wait_for_log(&["no endpoint is usable"]).await?;
            }
            Action::Endpoint | Action::Certificate | Action::HealthFlip | Action::Status | Action::Page(_) => {
                bail!("{action:?} is not an action with one load balancer")
            }
        }
        Ok(started.elapsed())
    }
}

fn manifest(addresses: &AddressBlock, port: u16, endpoints: usize, settings: Value) -> Value {
    let name = "lb";
    let listener = addresses.listener(0);
    let mut spec = json!({
        "listeners": [{"port": listener.port(), "address": listener.ip()}],
        "backends": [{"service": {"name": name, "port": port}}],
    });
    for (field, value) in settings.as_object().into_iter().flatten() {
        spec[field] = value.clone();
    }
    let (metadata, ports) = (json!({"name": name}), json!([{"name": "", "port": port, "protocol": "TCP"}]));
    let mut documents = vec![
        json!({
            "apiVersion": "tcplb.io/v1alpha1", "kind": "TcpLoadBalancer", "metadata": metadata, "spec": spec,
        }),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": [{"port": port}]}}),
    ];
    for (number, slice) in (0..endpoints).collect::<Vec<_>>().chunks(SLICE_SIZE).enumerate() {
        let metadata = json!({"name": format!("{name}-{number}"), "labels": {"kubernetes.io/service-name": name}});
        let endpoints: Vec<Value> =
            slice.iter().map(|endpoint| json!({"addresses": [addresses.endpoint(*endpoint)]})).collect();
        documents.push(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata, "addressType": "IPv4",
            "endpoints": endpoints, "ports": ports,
        }));
    }
    json!({"apiVersion": "v1", "kind": "List", "items": documents})
}

/// A server that closes connections, and counts them.
struct ProbedServer {
    count: Arc<AtomicUsize>,
    _accepting: AbortOnDropHandle<()>,
}

impl ProbedServer {
    fn start(address: SocketAddr) -> Result<Self> {
        let (listener, count) = (listen(address)?, Arc::<AtomicUsize>::default());
        let counted = count.clone();
        let accepting = tokio::spawn(async move {
            while listener.accept().await.is_ok() {
                counted.fetch_add(1, Relaxed);
            }
        });
        Ok(Self { count, _accepting: AbortOnDropHandle::new(accepting) })
    }

    /// Waits for this number of connections.
    async fn accepted(&self, count: usize) {
        while self.count.load(Relaxed) < count {
            sleep(Duration::from_millis(50)).await;
        }
    }
}
