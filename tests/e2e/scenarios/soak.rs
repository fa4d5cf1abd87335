//! Thousands of open connections during many random edits, and during failures of all parts of the cluster. Each end of
//! a connection has a cause.

mod chaos;
mod editor;
mod population;
mod record;
mod resources;
mod steady;
mod timeline;

use std::{env, time::Duration};

use fastrand::Rng;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use serde_json::json;
use tokio::{
    sync::RwLock,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use self::{
    chaos::Chaos,
    editor::Editor,
    population::{Entrance, Population, TrustedCertificates},
    record::{Ends, Record},
    steady::{Counters, Steady},
    timeline::{Disturbance, Timeline},
};
use crate::{
    clients::Failure,
    cluster::{self, WAIT_LIMIT, eventually},
    harness::raise_descriptor_limit,
    load::{Load, Tally},
    scenario::{Scenario, is, scenario},
    scenarios::traffic::served,
    turns::Isolation,
};

const CONNECTIONS: usize = 5_000;
/// The descriptors of this process that are not those of the connections.
const OTHER_DESCRIPTORS: usize = 500;
/// The load balancers that are edited. Only the first one has clients of its Service too, so that the connections of
/// the last one to each replica are known.
const LOAD_BALANCERS: [&str; 2] = ["first", "second"];
const PLAIN_PORT: u16 = 5432;
const TLS_PORT: u16 = 5433;
/// The first listener of each load balancer is plain, and has this many clients for each one of the TLS listener.
const PLAIN_FOR_EACH_TLS: usize = 9;
const BACKENDS: [(&str, usize); 2] = [("echo", 4), ("extra", 2)];
const SHUTDOWN_DELAY: Duration = Duration::from_secs(5);
const DRAIN: Duration = Duration::from_secs(6);
const EDITS: usize = 1_000;
const EDIT_INTERVAL: Duration = Duration::from_millis(25);
/// The interval of edits during failures.
const SLOW_EDIT_INTERVAL: Duration = Duration::from_secs(1);
const NAME: &str = "db.example.com";

/// A run with its open connections.
struct Soak<'a> {
    scenario: &'a Scenario,
    editor: Editor<'a>,
    timeline: Timeline,
    entrances: Vec<Entrance>,
    trusted: TrustedCertificates,
    rng: Rng,
    /// The counters of the replica that runs throughout, before the first connection of the clients.
    before: Counters,
    population: Population,
    load: Load,
}

/// `E2E_SOAK_MINUTES` is the duration of the failures. By default each failure takes place once.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_random_edits_and_failures_of_all_parts_lose_none_of_five_thousand_connections() {
    scenario("soak", Isolation::Exclusive, async |scenario| {
        let own = scenario
            .install_own(json!({
                "kind": "DaemonSet",
                "shutdownDelaySeconds": SHUTDOWN_DELAY.as_secs(),
                "maxDrainSeconds": DRAIN.as_secs(),
                "tenancy": {
                    "allowedServiceTypes": ["ClusterIP", "NodePort"],
                    // For the EndpointSlice that the editor writes.
                    "allowedBackendNetworks": ["10.0.0.0/8"],
                },
            }))
            .await;
        let nodes: Vec<String> = cluster::nodes(&scenario.client).await.into_iter().map(|(name, _)| name).collect();
        let is_steady = |pod: &Pod| pod.spec.as_ref().unwrap().node_name.as_ref() == Some(&nodes[0]);
        let replicas = own.ready_pods(&scenario.client, nodes.len()).await;
        let (pod, replica) = replicas.into_iter().find(|(_, pod)| is_steady(pod)).expect("a replica on each node");
        let container = container_of(&replica).container_id.clone().expect("it runs");
        let steady = Steady { scenario, own: own.clone(), node: nodes[0].clone(), pod: pod.clone(), container };
        let mut soak = Soak::begin(scenario, &steady).await;
        let (before, sampling_ends) = (soak.before, CancellationToken::new());
        let story = async {
            soak.edit_often().await;
            soak.fail(own.clone(), nodes.clone()).await;
            sampling_ends.cancel();
            soak.end().await
        };
        let (samples, (records, tally, timeline)) = tokio::join!(steady.sample(&sampling_ends), story);

        let counters = steady.idle_counters(LOAD_BALANCERS[1]).await;
        assert_accounted(&records, &nodes[0], before, counters);
        let ends = Ends::classify(records, &timeline);
        println!("soak: connections by their end:\n{ends}");
        assert!(ends.lost.is_empty(), "{:#?}", ends.lost.iter().take(20).collect::<Vec<_>>());
        assert!(ends.impossible.is_empty(), "{:#?}", ends.impossible.iter().take(20).collect::<Vec<_>>());
        let unexplained = tally.failures.iter().filter(|(connected, _)| !timeline.explains(*connected)).count();
        assert_eq!(unexplained, 0, "a disturbance explains each failure of a short connection: {tally}");
        let trends = resources::trends(&samples);
        println!("soak: the replica that ran throughout, in {} samples:", samples.len());
        trends.iter().for_each(|trend| println!("{trend}"));
        assert!(trends.iter().all(|trend| trend.is_flat()), "a resource grows");
        let replicas = own.ready_pods(&scenario.client, nodes.len()).await;
        assert_eq!(container_of(&replicas[&pod]).restart_count, 0, "one replica ran throughout");
    })
    .await;
}

fn container_of(pod: &Pod) -> &ContainerStatus {
    &pod.status.as_ref().unwrap().container_statuses.as_ref().unwrap()[0]
}

/// Compares the counters of a replica with the connections that clients had through its node.
fn assert_accounted(records: &[Record], node: &str, before: Counters, after: Counters) {
    let ours = || records.iter().filter(|record| record.node == node && record.load_balancer == LOAD_BALANCERS[1]);
    let (all, complete) = (ours().count(), ours().filter(|record| record.failure.is_none()).count());
    // Of these, the replica may have seen the end of both directions: a killed backend ends its direction, and so does a
    // client that has waited in vain.
    let without_reset = |record: &&Record| matches!(record.failure, Some(Failure::TimedOut | Failure::EndedEarly));
    let ended = ours().filter(without_reset).count();
    let (closed, closed_completely) = (after.closed - before.closed, after.complete - before.complete);
    println!(
        "soak: {all} connections through {node}, {complete} of them complete, {ended} ended early without a reset; \
         the replica counts {closed}, {closed_completely} of them complete"
    );
    assert_eq!(closed, all, "the replica closed as many connections as clients opened");
    assert_eq!(after.accepted, after.closed);
    assert!((complete..=complete + ended).contains(&closed_completely), "the same connections were complete");
}

impl<'a> Soak<'a> {
    /// Creates the objects, and opens the connections: as many as the descriptors of this process allow.
    async fn begin(scenario: &'a Scenario, steady: &Steady<'_>) -> Self {
        for (name, count) in BACKENDS {
            scenario.backends(name, count as i32).await;
        }
        let (seed, trusted) = (fastrand::u64(..), TrustedCertificates::default());
        println!("soak: seed {seed}");
        let mut rng = Rng::with_seed(seed);
        let editor = Editor::new(scenario, rng.fork(), trusted.clone()).await;
        let address = scenario.ready(LOAD_BALANCERS[0]).await;
        served(address).await;
        let mut entrances = Vec::new();
        for name in LOAD_BALANCERS {
            entrances.extend(entrances_of(scenario, name).await);
        }
        for entrance in &entrances {
            eventually(&format!("{entrance:?} serves"), WAIT_LIMIT, async || entrance.serves(&trusted).await).await;
        }
        let limit = usize::try_from(raise_descriptor_limit()).unwrap_or(usize::MAX);
        let count = CONNECTIONS.min(limit.saturating_sub(OTHER_DESCRIPTORS));
        let (plain, tls): (Vec<_>, Vec<_>) = entrances.iter().cloned().partition(|entrance| !entrance.is_tls);
        let weighted: Vec<Entrance> = std::iter::repeat_n(plain, PLAIN_FOR_EACH_TLS).flatten().chain(tls).collect();
        let before = steady.idle_counters(LOAD_BALANCERS[1]).await;
        let population = Population::start(&weighted, count, trusted.clone(), &mut rng);
        population.all_answer().await;
        println!("soak: {count} connections are open");
        let load = Load::with_clients(address, 2);
        Self { scenario, editor, timeline: Timeline::default(), entrances, trusted, rng, before, population, load }
    }

    /// Makes many edits. No connection may end early.
    async fn edit_often(&mut self) {
        let (began, mut ticks) = (Instant::now(), interval(EDIT_INTERVAL));
        for _ in 0..EDITS {
            ticks.tick().await;
            self.editor.edit(true).await;
        }
        println!("soak: {EDITS} edits took {:.1?}", began.elapsed());
        self.last_edit_is_in_effect().await;
        self.population.all_answer().await;
        let lost: Vec<Record> =
            self.population.records().into_iter().filter(|record| record.failure.is_some()).collect();
        assert!(lost.is_empty(), "{EDITS} edits lost connections: {lost:#?}");
        self.load.tally().assert_no_failure();
    }

    /// Makes an edit of each load balancer, and waits until a leader has published that all replicas serve it.
    async fn last_edit_is_in_effect(&mut self) {
        self.editor.rotate_certificate().await;
        self.editor.declare_all().await;
        for name in LOAD_BALANCERS {
            self.scenario.status("the last edit is in effect", name, |status| is(status, "Programmed", "True")).await;
        }
    }

    /// Fails one part of the cluster after the other, with an edit each second.
    async fn fail(&mut self, own: crate::installation::Installation, nodes: Vec<String>) {
        let Self { scenario, editor, timeline, entrances, trusted, rng, load, .. } = self;
        let minutes = env::var("E2E_SOAK_MINUTES").ok().map(|text| text.parse::<f64>().expect("a number of minutes"));
        let duration = minutes.map(|minutes| Duration::from_secs_f64(minutes * 60.0));
        let (api_server, stop) = (RwLock::const_new(()), CancellationToken::new());
        let (entrances, trusted, rng) = (entrances.clone(), trusted.clone(), rng.fork());
        let mut chaos =
            Chaos { scenario, own, timeline, load, nodes, entrances, trusted, api_server: &api_server, rng };
        let failures = async {
            let began = Instant::now();
            loop {
                let mut order = Disturbance::ALL;
                chaos.rng.shuffle(&mut order);
                for disturbance in order {
                    chaos.disturb(disturbance, duration.is_some()).await;
                }
                if duration.is_none_or(|duration| began.elapsed() >= duration) {
                    break stop.cancel();
                }
            }
        };
        let edits = async {
            let mut ticks = interval(SLOW_EDIT_INTERVAL);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while stop.run_until_cancelled(ticks.tick()).await.is_some() {
                let _available = api_server.read().await;
                editor.edit(false).await;
            }
        };
        tokio::join!(failures, edits);
    }

    /// Waits until all clients are served, and ends all connections.
    async fn end(mut self) -> (Vec<Record>, Tally, Timeline) {
        self.last_edit_is_in_effect().await;
        self.population.all_answer().await;
        self.load.is_well(WAIT_LIMIT).await;
        let tally = self.load.end().await;
        println!("soak: edits: {:?}", self.editor.counts);
        println!("soak: disturbances: {:?}", self.timeline.counts());
        (self.population.leave().await, tally, self.timeline)
    }
}

/// The ports of all nodes that lead to the listeners of a load balancer.
async fn entrances_of(scenario: &Scenario, name: &'static str) -> Vec<Entrance> {
    let status = scenario.status("it is programmed", name, |status| is(status, "Programmed", "True")).await;
    let mut entrances = Vec::new();
    for (node, ip) in cluster::nodes(&scenario.client).await {
        for listener in &status.listeners {
            let node_port = listener.node_port.expect("the port of the nodes is told");
            let (node, is_tls) = (node.clone(), listener.name.as_deref() == Some("tls"));
            entrances.push(Entrance { node, ip, node_port, load_balancer: name, is_tls });
        }
    }
    entrances
}
