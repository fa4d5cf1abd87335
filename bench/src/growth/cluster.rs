//! `tcplb controller` with many load balancers, and changes of objects in the cluster.

mod objects;

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use clap::ValueEnum;
use objects::{ALLOCATIONS, HOME, LoadBalancerObjects, POD, allocations, replicas};
use serde_json::json;

use super::{
    activity::CalmPeriod,
    address_block::{AddressBlock, PortBlock},
    api_server::ApiServer,
    certificate::{CertificateIssuer, has_certificate},
    meter::Quantity,
    operation::Action,
    plan::GrowthPlan,
    process::{MeteredProcess, ProcessOptions},
    standalone,
};

/// A leader pauses for nine times the duration of a reconciliation, at most 2 s, and reads the state of replicas every
/// second.
const LEADER_CALM: CalmPeriod = CalmPeriod { min: Duration::from_millis(1200), max: Duration::from_millis(2500) };

/// The role of the measured replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReplicaRole {
    Follower,
    Leader,
}

/// The settings of a simulated cluster.
#[derive(Clone)]
pub struct ClusterPlan {
    pub program: PathBuf,
    pub role: ReplicaRole,
    pub load_balancers: usize,
    /// The number of endpoints of each load balancer.
    pub endpoints: usize,
    /// The number of Services with EndpointSlices that no load balancer refers to.
    pub unreferenced: usize,
    pub cores: &'static [usize],
    /// The log filter of the process.
    pub log: &'static str,
}

impl ClusterPlan {
    pub fn growing(plan: &GrowthPlan, role: ReplicaRole, load_balancers: usize) -> Self {
        let GrowthPlan { program, endpoints, cores, .. } = plan.clone();
        Self { program, role, load_balancers, endpoints, unreferenced: 0, cores, log: "info" }
    }
}

/// The API server with all objects, and the addresses of a replica.
pub struct SimulatedCluster {
    pub api: ApiServer,
    pub load_balancers: Vec<LoadBalancerObjects>,
    plan: ClusterPlan,
    folder: PathBuf,
    issuer: CertificateIssuer,
    ports: PortBlock,
    addresses: AddressBlock,
}

impl SimulatedCluster {
    pub async fn create(plan: ClusterPlan, folder: &Path) -> Result<Self> {
        let (addresses, ports) = (AddressBlock::reserve()?, PortBlock::reserve(plan.load_balancers)?);
        let issuer = CertificateIssuer::generate()?;
        let other_leader = match plan.role {
            ReplicaRole::Follower => Some("tcplb-1"),
            ReplicaRole::Leader => None,
        };
        let api = ApiServer::start(addresses.own(), other_leader).await?;
        let mut load_balancers: Vec<LoadBalancerObjects> = (0..plan.load_balancers + plan.unreferenced)
            .map(|index| LoadBalancerObjects { index, endpoints: plan.endpoints })
            .collect();
        for unreferenced in load_balancers.split_off(plan.load_balancers) {
            api.objects.put("services", unreferenced.service());
            api.objects.put("endpointslices", unreferenced.slice(false));
        }
        fill(&api, &load_balancers, &issuer)?;
        api.objects.put("configmaps", allocations(&load_balancers, ports.usable()));
        let [service, slice] = replicas(addresses.admin());
        api.objects.put("services", service);
        api.objects.put("endpointslices", slice);
        Ok(Self { api, load_balancers, plan, folder: folder.to_owned(), issuer, ports, addresses })
    }

    /// Starts the replica, and waits until it is ready.
    pub async fn launch(&self, quantity: Quantity) -> Result<MeteredProcess> {
        let (admin, ports) = (self.addresses.admin(), &self.ports.ports);
        let arguments = format!(
            "controller --namespace {HOME} --pod {POD} --allocations {ALLOCATIONS} --ports {}-{} --admin {admin} --workers 1 \
             --access-log off --max-secrets-per-namespace unlimited",
            ports.start,
            ports.end - 1
        );
        let kubeconfig = write_kubeconfig(&self.api, &self.folder)?;
        MeteredProcess::start(ProcessOptions {
            program: &self.plan.program,
            arguments: arguments.split(' ').map(str::to_owned).collect(),
            environment: vec![("KUBECONFIG", kubeconfig), ("RUST_LOG", self.plan.log.into())],
            quantity,
            folder: &self.folder,
            admin,
            cores: self.plan.cores,
            calm: if self.plan.role == ReplicaRole::Leader { LEADER_CALM } else { standalone::CALM },
        })
        .await
    }
}

/// A replica and its cluster.
pub struct Cluster {
    pub process: MeteredProcess,
    cluster: SimulatedCluster,
    /// The number of changes so far.
    round: usize,
}

impl Cluster {
    pub async fn start(plan: ClusterPlan, quantity: Quantity, folder: &Path) -> Result<Self> {
        let cluster = SimulatedCluster::create(plan, folder).await?;
        if cluster.plan.role == ReplicaRole::Leader && quantity == Quantity::Instructions {
            // It creates Services and statuses, which would take minutes under valgrind.
            cluster.launch(Quantity::CpuTime).await?.finish_start().await?;
        }
        let mut process = cluster.launch(quantity).await?;
        process.prepare().await?;
        Ok(Self { process, cluster, round: 0 })
    }

    /// Performs an action and waits until it takes effect. Returns the time until then.
    pub async fn perform(&mut self, action: Action) -> Result<Duration> {
        self.round += 1;
        let started = Instant::now();
        let SimulatedCluster { api, load_balancers, issuer, .. } = &self.cluster;
        match action {
            Action::Endpoint => return self.replace_endpoint().await,
            Action::Certificate => {
                let secured = load_balancers.iter().rfind(|load_balancer| has_certificate(load_balancer.index));
                let secured = *secured.expect("there are ten load balancers");
                api.objects.put("secrets", secured.secret(&issuer.issue(&secured.name())?));
                self.process.wait_for_log(&["configured", &secured.name()]).await?;
            }
            Action::Status => {
                // Each time another one, since a leader writes the status of a contested object later and later.
                let load_balancer = load_balancers[self.round % load_balancers.len()];
                let status = load_balancer.status(self.round);
                api.objects.change(
                    "tcploadbalancers",
                    &load_balancer.namespace(),
                    &load_balancer.name(),
                    |object| {
                        object["status"] = status;
                    },
                )?;
            }
            Action::Page(path) => self.process.request_page(path).await?,
            Action::HealthFlip | Action::Connection | Action::Failure => {
                bail!("{action:?} is not an action of a cluster")
            }
        }
        Ok(started.elapsed())
    }

    /// Replaces the last endpoint of a load balancer. The old one stays in use for a second, and the configuration
    /// changes once more when it leaves.
    async fn replace_endpoint(&mut self) -> Result<Duration> {
        let load_balancers = &self.cluster.load_balancers;
        let load_balancer = load_balancers[load_balancers.len() / 2];
        let (started, replaced) = (Instant::now(), self.round % 2 == 1);
        self.cluster.api.objects.put("endpointslices", load_balancer.slice(replaced));
        let (joining, leaving) = (load_balancer.last_address(replaced), load_balancer.last_address(!replaced));
        self.process.wait_for_log(&["configured", &load_balancer.name(), &format!("joined=[{joining}:")]).await?;
        let effect = started.elapsed();
        self.process.wait_for_log(&["configured", &load_balancer.name(), &format!("left=[{leaving}:")]).await?;
        Ok(effect)
    }
}

fn write_kubeconfig(api: &ApiServer, folder: &Path) -> Result<PathBuf> {
    let path = folder.join("kubeconfig.json");
    let text = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "bench",
        "clusters": [{"name": "bench", "cluster": {"server": format!("http://{}", api.address)}}],
        "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
        "users": [{"name": "bench", "user": {}}],
    });
    fs::write(&path, text.to_string())?;
    Ok(path)
}

fn fill(api: &ApiServer, load_balancers: &[LoadBalancerObjects], issuer: &CertificateIssuer) -> Result<()> {
    for load_balancer in load_balancers {
        api.objects.put("tcploadbalancers", load_balancer.load_balancer(has_certificate(load_balancer.index)));
        api.objects.put("services", load_balancer.service());
        api.objects.put("endpointslices", load_balancer.slice(false));
        if has_certificate(load_balancer.index) {
            api.objects.put("secrets", load_balancer.secret(&issuer.issue(&load_balancer.name())?));
        }
    }
    Ok(())
}
