//! The disturbances themselves: each begins, is noted with its targets, and ends when all parts serve again.

use std::{net::SocketAddr, time::Duration};

use fastrand::Rng;
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{Node, Pod, Service},
    },
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::json;
use tokio::{
    sync::RwLock,
    time::{Instant, sleep},
};

use super::{
    BACKENDS, DRAIN, SHUTDOWN_DELAY,
    population::{Entrance, TrustedCertificates},
    timeline::{Disturbance, Target, Timeline},
};
use crate::{
    backends::PORT,
    cluster::{Away, WAIT_LIMIT, eventually},
    installation::{Installation, is_ready, kill_container},
    load::Load,
    scenario::{Scenario, until},
    scenarios::{faults::is_node_ready, traffic::served},
};

/// The duration of an outage of the API server: longer than the term of a leader.
const OUTAGE: Duration = Duration::from_secs(12);
/// The duration of the loss of a node, if Kubernetes need not notice it.
const SHORT_LOSS: Duration = Duration::from_secs(5);
/// The time after which Kubernetes considers a node lost.
const NOTICE_LIMIT: Duration = Duration::from_secs(90);
/// The time within which all parts serve again.
const RECOVERY_LIMIT: Duration = Duration::from_secs(180);

pub struct Chaos<'a> {
    pub scenario: &'a Scenario,
    pub own: Installation,
    pub timeline: &'a Timeline,
    pub load: &'a Load,
    /// The names of the nodes. The replica on the first one, with the control plane, runs throughout.
    pub nodes: Vec<String>,
    pub entrances: Vec<Entrance>,
    pub trusted: TrustedCertificates,
    /// Held for writing while the API server is away.
    pub api_server: &'a RwLock<()>,
    pub rng: Rng,
}

impl Chaos<'_> {
    /// Disturbs the cluster, and waits until everything serves again.
    pub async fn disturb(&mut self, disturbance: Disturbance, must_be_noticed: bool) {
        match disturbance {
            Disturbance::LeaderChange => self.change_leader().await,
            Disturbance::ApiServerOutage => self.stop_api_server().await,
            Disturbance::BackendKill => self.kill_backend().await,
            Disturbance::ReplicaKill => self.kill_leader().await,
            Disturbance::ReplicaDrain => self.drain_replica().await,
            Disturbance::NodeLoss => self.lose_node(must_be_noticed).await,
        }
        // The clients of the Service depend on another node's kube-proxy, which may be the last to follow.
        self.load.is_well(RECOVERY_LIMIT).await;
        self.timeline.end();
    }

    async fn change_leader(&mut self) {
        self.timeline.begin(Disturbance::LeaderChange, Vec::new(), Duration::ZERO);
        let leader = self.own.leader(&self.scenario.client).await;
        let replicas = self.own.ready_pods(&self.scenario.client, self.nodes.len()).await;
        let others: Vec<String> = replicas.into_keys().filter(|name| Some(name) != leader.as_ref()).collect();
        let next = self.rng.choice(others).expect("several replicas");
        self.make_leader(&next).await;
    }

    /// Makes a replica the leader: writes its name into the Lease, and waits until it has renewed the Lease.
    async fn make_leader(&self, replica: &str) {
        let now = MicroTime(Timestamp::now());
        let held = Patch::Merge(json!({"spec": {"holderIdentity": replica, "renewTime": now}}));
        let name = self.own.full_name();
        let renewed = async || {
            let lease = self.leases().get(&name).await.ok().and_then(|lease| lease.spec);
            lease.is_some_and(|spec| {
                spec.holder_identity.as_deref() == Some(replica) && spec.renew_time.is_some_and(|time| time.0 > now.0)
            })
        };
        self.leases().patch(&name, &PatchParams::default(), &held).await.unwrap();
        eventually(&format!("{replica} leads"), WAIT_LIMIT, renewed).await;
    }

    fn leases(&self) -> Api<Lease> {
        Api::namespaced(self.scenario.client.clone(), &self.own.namespace)
    }

    async fn stop_api_server(&self) {
        let _alone = self.api_server.write().await;
        self.timeline.begin(Disturbance::ApiServerOutage, Vec::new(), Duration::ZERO);
        let away = Away::api_server().await;
        sleep(OUTAGE).await;
        away.comes_back();
        let (back, before) = (Instant::now(), Timestamp::now());
        eventually("a replica leads again", WAIT_LIMIT, async || {
            let lease = self.leases().get(&self.own.full_name()).await.ok().and_then(|lease| lease.spec);
            lease.and_then(|spec| spec.renew_time).is_some_and(|time| time.0 > before)
        })
        .await;
        println!("soak: a replica leads {:.1?} after the return of the API server", back.elapsed());
        self.controllers_are_back().await;
        println!("soak: Kubernetes follows changes of pods {:.1?} after that return", back.elapsed());
    }

    /// Waits until the controllers of Kubernetes and the kube-proxy of the clients follow changes of pods again: before
    /// that, they send clients to replicas that have gone.
    async fn controllers_are_back(&self) {
        let label = Timestamp::now().as_millisecond().to_string();
        let pod = self.scenario.pods_of("extra").await.swap_remove(0).metadata.name.unwrap();
        let labelled = Patch::Merge(json!({"metadata": {"labels": {"probe": label}}}));
        self.scenario.api::<Pod>().patch(&pod, &PatchParams::default(), &labelled).await.unwrap();
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("probe-{label}")},
            "spec": {"selector": {"probe": label}, "ports": [{"port": PORT}]},
        });
        self.scenario.try_apply_value(service).await.unwrap();
        let service = self.scenario.api::<Service>().get(&format!("probe-{label}")).await.unwrap();
        let address = service.spec.unwrap().cluster_ip.unwrap();
        served(SocketAddr::new(address.parse().unwrap(), PORT)).await;
    }

    /// Kills a pod of the backends, without a farewell.
    async fn kill_backend(&mut self) {
        self.backends_are_back(None).await;
        let pod = self.rng.choice(self.scenario.pods_of("echo").await).expect("backends run");
        let name = pod.metadata.name.clone().unwrap();
        self.timeline.begin(Disturbance::BackendKill, vec![Target::Backend(name.clone())], Duration::ZERO);
        kill_container(&pod, "backend").await;
        self.remove(self.scenario.api(), &name, Some(1)).await;
    }

    /// Deletes a pod, with another grace period in seconds than its own, and waits until its node has removed it.
    async fn remove(&self, pods: Api<Pod>, name: &str, grace: Option<u32>) {
        let how = DeleteParams { grace_period_seconds: grace, ..DeleteParams::default() };
        pods.delete(name, &how).await.unwrap();
        until(pods, "the pod has gone", name, RECOVERY_LIMIT, |pod: Option<&Pod>| pod.is_none()).await;
    }

    /// Waits until all backends are ready, and none of them is a pod of this node from before a time.
    async fn backends_are_back(&self, lost: Option<(&str, Timestamp)>) {
        let is_back =
            |pod: &Pod| lost.is_none_or(|(node, stopped)| node_of(pod) != node || has_started_since(pod, stopped));
        for (name, count) in BACKENDS {
            eventually(&format!("all pods of {name} are ready"), RECOVERY_LIMIT, async || {
                let pods = self.scenario.pods_of(name).await;
                pods.len() == count && pods.iter().all(is_back)
            })
            .await;
        }
    }

    /// Kills the leader, and replaces its pod: Kubernetes restarts a container with growing delays. The next disturbance
    /// begins before another replica leads.
    async fn kill_leader(&mut self) {
        let leader = self.own.leader(&self.scenario.client).await;
        let mut replicas = self.mortal_replicas().await;
        if let Some(leads) = replicas.iter().position(|pod| pod.metadata.name == leader) {
            replicas.swap(0, leads);
        } else {
            self.make_leader(replicas[0].metadata.name.as_deref().unwrap()).await;
        }
        let victim = replicas.swap_remove(0);
        let (name, node, began) = (victim.metadata.name.clone().unwrap(), node_of(&victim), Timestamp::now());
        self.timeline.begin(Disturbance::ReplicaKill, vec![Target::Replica(node.clone())], Duration::ZERO);
        kill_container(&victim, "tcplb").await;
        self.remove(self.own.pod_api(&self.scenario.client), &name, Some(1)).await;
        self.replica_is_back(&node, began).await;
    }

    /// Deletes a replica, which drains.
    async fn drain_replica(&mut self) {
        let victim = self.rng.choice(self.mortal_replicas().await).expect("several replicas");
        let (name, node, began) = (victim.metadata.name.clone().unwrap(), node_of(&victim), Timestamp::now());
        self.timeline.begin(Disturbance::ReplicaDrain, vec![Target::Replica(node.clone())], SHUTDOWN_DELAY + DRAIN / 2);
        self.remove(self.own.pod_api(&self.scenario.client), &name, None).await;
        self.replica_is_back(&node, began).await;
    }

    /// The replicas that may be removed.
    async fn mortal_replicas(&self) -> Vec<Pod> {
        let replicas = self.own.ready_pods(&self.scenario.client, self.nodes.len()).await;
        replicas.into_values().filter(|pod| node_of(pod) != self.nodes[0]).collect()
    }

    /// Waits until a replica that has started since a time is ready on a node, and clients are served there.
    async fn replica_is_back(&self, node: &str, since: Timestamp) {
        eventually(&format!("the replica on {node} is ready"), RECOVERY_LIMIT, async || {
            let pods = self.own.pods(&self.scenario.client).await;
            pods.iter().any(|pod| is_ready(pod) && node_of(pod) == node && has_started_since(pod, since))
        })
        .await;
        for entrance in self.entrances.iter().filter(|entrance| entrance.node == node) {
            eventually(&format!("{entrance:?} serves"), RECOVERY_LIMIT, async || entrance.serves(&self.trusted).await)
                .await;
        }
    }

    async fn lose_node(&mut self, must_be_noticed: bool) {
        self.backends_are_back(None).await;
        let number = self.rng.usize(1..self.nodes.len());
        let node = self.nodes[number].clone();
        let mut targets = vec![Target::Replica(node.clone())];
        for name in ["echo", "extra"] {
            let pods = self.scenario.pods_of(name).await.into_iter().filter(|pod| node_of(pod) == node);
            targets.extend(pods.filter_map(|pod| pod.metadata.name).map(Target::Backend));
        }
        self.timeline.begin(Disturbance::NodeLoss, targets, Duration::ZERO);
        let (stopped, away) = (Timestamp::now(), Away::node(number + 1).await);
        let nodes = Api::<Node>::all(self.scenario.client.clone());
        if must_be_noticed {
            let is_lost = |node: Option<&Node>| !is_node_ready(node);
            until(nodes.clone(), "it is seen that the node is lost", &node, NOTICE_LIMIT, is_lost).await;
        } else {
            sleep(SHORT_LOSS).await;
        }
        away.comes_back();
        until(nodes, "the node is back", &node, WAIT_LIMIT, is_node_ready).await;
        self.replica_is_back(&node, stopped).await;
        self.backends_are_back(Some((&node, stopped))).await;
    }
}

fn node_of(pod: &Pod) -> String {
    pod.spec.as_ref().unwrap().node_name.clone().unwrap()
}

/// True if the process of a pod has started since a time. Kubernetes truncates the times to seconds.
fn has_started_since(pod: &Pod, time: Timestamp) -> bool {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let running = statuses.and_then(|statuses| statuses.first()?.state.as_ref()?.running.as_ref());
    let started = running.and_then(|running| running.started_at.as_ref());
    started.is_some_and(|started| started.0.as_second() >= time.as_second())
}
