//! `tcplb controller` with many load balancers, and changes of objects in the cluster.

mod objects;

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaRole {
    Follower,
    Leader,
}

/// A replica and its cluster.
pub struct Cluster {
    pub process: MeteredProcess,
    api: ApiServer,
    load_balancers: Vec<LoadBalancerObjects>,
    issuer: CertificateIssuer,
    /// The number of changes so far.
    round: usize,
    _ports: PortBlock,
    _addresses: AddressBlock,
}

impl Cluster {
    pub async fn start(plan: &GrowthPlan, role: ReplicaRole, count: usize, folder: &Path) -> Result<Self> {
        let (addresses, ports) = (AddressBlock::reserve()?, PortBlock::reserve(count)?);
        let issuer = CertificateIssuer::generate()?;
        let other_leader = match role {
            ReplicaRole::Follower => Some("tcplb-1"),
            ReplicaRole::Leader => None,
        };
        let api = ApiServer::start(addresses.own(), other_leader).await?;
        let load_balancers: Vec<LoadBalancerObjects> =
            (0..count).map(|index| LoadBalancerObjects { index, endpoints: plan.endpoints }).collect();
        fill(&api, &load_balancers, &issuer)?;
        api.objects.put("configmaps", allocations(&load_balancers, ports.usable()));
        let [service, slice] = replicas(addresses.admin());
        api.objects.put("services", service);
        api.objects.put("endpointslices", slice);

        let admin = addresses.admin();
        let arguments = format!(
            "controller --namespace {HOME} --pod {POD} --allocations {ALLOCATIONS} --ports {}-{} --admin {admin} --workers 1 \
             --access-log off --max-secrets-per-namespace unlimited",
            ports.ports.start,
            ports.ports.end - 1
        );
        let kubeconfig = write_kubeconfig(&api, folder)?;
        let options = |quantity| ProcessOptions {
            program: &plan.program,
            arguments: arguments.split(' ').map(str::to_owned).collect(),
            environment: vec![("KUBECONFIG", kubeconfig.clone())],
            quantity,
            folder,
            admin,
            cores: plan.cores,
            calm: if role == ReplicaRole::Leader { LEADER_CALM } else { standalone::CALM },
        };
        if role == ReplicaRole::Leader && plan.quantity == Quantity::Instructions {
            // It creates Services and statuses, which would take minutes under valgrind.
            MeteredProcess::start(options(Quantity::CpuTime)).await?.finish_start().await?;
        }
        let mut process = MeteredProcess::start(options(plan.quantity)).await?;
        process.prepare().await?;
        Ok(Self { process, api, load_balancers, issuer, round: 0, _ports: ports, _addresses: addresses })
    }

    /// Performs an action and waits until it takes effect. Returns the time until then.
    pub async fn perform(&mut self, action: Action) -> Result<Duration> {
        self.round += 1;
        let started = Instant::now();
        match action {
            Action::Endpoint => return self.replace_endpoint().await,
            Action::Certificate => {
                let secured = self.load_balancers.iter().rfind(|load_balancer| has_certificate(load_balancer.index));
                let secured = *secured.expect("there are ten load balancers");
                self.api.objects.put("secrets", secured.secret(&self.issuer.issue(&secured.name())?));
                self.process.wait_for_log(&["configured", &secured.name()]).await?;
            }
            Action::Status => {
                // Each time another one, since a leader writes the status of a contested object later and later.
                let load_balancer = self.load_balancers[self.round % self.load_balancers.len()];
                let status = load_balancer.status(self.round);
                self.api.objects.change(
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
        let load_balancer = self.load_balancers[self.load_balancers.len() / 2];
        let (started, replaced) = (Instant::now(), self.round % 2 == 1);
        self.api.objects.put("endpointslices", load_balancer.slice(replaced));
        let (first, second) = (
            load_balancer.pod_address(load_balancer.endpoints - 1),
            load_balancer.pod_address(load_balancer.endpoints),
        );
        let (joining, leaving) = if replaced { (second, first) } else { (first, second) };
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
