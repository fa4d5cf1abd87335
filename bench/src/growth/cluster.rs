//! `tcplb controller` with many load balancers, and changes of objects in the cluster.

mod objects;

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use objects::{ALLOCATIONS, HOME, Member, POD, allocations, replicas};
use serde_json::json;

use super::{
    address_block::{AddressBlock, PortBlock},
    api_server::ApiServer,
    certificate::{Issuer, has_certificate},
    meter::Quantity,
    operation::Action,
    plan::Plan,
    process::{Launch, Process},
};

/// The longest delay of a follower between parts of its work: 500 ms, which combine changes.
const FOLLOWER_CALM: Duration = Duration::from_millis(700);
/// The longest delay of a leader between parts of its work: 2 s after a long reconciliation.
const LEADER_CALM: Duration = Duration::from_millis(2500);

/// The role of the measured replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Follower,
    Leader,
}

/// A replica and its cluster.
pub struct Cluster {
    pub process: Process,
    api: ApiServer,
    members: Vec<Member>,
    issuer: Issuer,
    /// The number of changes so far.
    round: usize,
    _ports: PortBlock,
    _addresses: AddressBlock,
}

impl Cluster {
    pub async fn start(plan: &Plan, role: Role, load_balancers: usize, folder: &Path) -> Result<Self> {
        let (addresses, ports) = (AddressBlock::reserve()?, PortBlock::reserve(load_balancers)?);
        let issuer = Issuer::generate()?;
        let other_leader = match role {
            Role::Follower => Some("tcplb-1"),
            Role::Leader => None,
        };
        let api = ApiServer::start(addresses.own(), other_leader).await?;
        let members: Vec<Member> =
            (0..load_balancers).map(|index| Member { index, endpoints: plan.endpoints }).collect();
        fill(&api, &members, &issuer)?;
        api.objects.put("configmaps", allocations(&members, ports.usable()));
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
        let launch = |quantity| Launch {
            program: &plan.program,
            arguments: arguments.split(' ').map(str::to_owned).collect(),
            environment: vec![("KUBECONFIG", kubeconfig.clone())],
            quantity,
            folder,
            admin,
            calm: if role == Role::Leader { LEADER_CALM } else { FOLLOWER_CALM },
        };
        if role == Role::Leader && plan.quantity == Quantity::Instructions {
            // It creates Services and statuses, which would take minutes under valgrind.
            Process::start(launch(Quantity::CpuTime)).await?.finish_start().await?;
        }
        let mut process = Process::start(launch(plan.quantity)).await?;
        process.prepare().await?;
        Ok(Self { process, api, members, issuer, round: 0, _ports: ports, _addresses: addresses })
    }

    /// Changes something, and waits until it takes effect. Returns the time until then.
    pub async fn perform(&mut self, action: Action) -> Result<Duration> {
        self.round += 1;
        let begun = Instant::now();
        match action {
            Action::Endpoint => return self.replace_endpoint().await,
            Action::Certificate => {
                let secured = self.members.iter().rfind(|member| has_certificate(member.index));
                let secured = *secured.expect("there are ten load balancers");
                self.api.objects.put("secrets", secured.secret(&self.issuer.issue(&secured.name())?));
                self.process.logs(&["configured", &secured.name()]).await?;
            }
            Action::Status => {
                // Each time another one, since a leader writes the status of a contested object later and later.
                let member = self.members[self.round % self.members.len()];
                let status = member.status(self.round);
                self.api.objects.change("tcploadbalancers", &member.namespace(), &member.name(), |object| {
                    object["status"] = status;
                })?;
            }
            Action::Page(path) => self.process.page(path).await?,
            Action::HealthFlip | Action::Connection | Action::Failure => {
                bail!("{action:?} is not an action of a cluster")
            }
        }
        Ok(begun.elapsed())
    }

    /// Replaces the last endpoint of a load balancer. The old one stays in use for a second, and the configuration
    /// changes once more when it leaves.
    async fn replace_endpoint(&mut self) -> Result<Duration> {
        let member = self.members[self.members.len() / 2];
        let (begun, replaced) = (Instant::now(), self.round % 2 == 1);
        self.api.objects.put("endpointslices", member.slice(replaced));
        let (first, second) = (member.pod_address(member.endpoints - 1), member.pod_address(member.endpoints));
        let (joining, leaving) = if replaced { (second, first) } else { (first, second) };
        self.process.logs(&["configured", &member.name(), &format!("joined=[{joining}:")]).await?;
        let effect = begun.elapsed();
        self.process.logs(&["configured", &member.name(), &format!("left=[{leaving}:")]).await?;
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

fn fill(api: &ApiServer, members: &[Member], issuer: &Issuer) -> Result<()> {
    for member in members {
        api.objects.put("tcploadbalancers", member.load_balancer(has_certificate(member.index)));
        api.objects.put("services", member.service());
        api.objects.put("endpointslices", member.slice(false));
        if has_certificate(member.index) {
            api.objects.put("secrets", member.secret(&issuer.issue(&member.name())?));
        }
    }
    Ok(())
}
