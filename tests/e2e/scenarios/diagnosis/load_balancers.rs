//! Faults of load balancers.

use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::surfaces::{ConditionFault, Fault, Surfaces};
use crate::{
    backends::{load_balancer, load_balancer_with},
    clients::{Connection, Failure},
    cluster::{self, WAIT_LIMIT, eventually, image},
    harness,
    load::{Guests, Load},
    program::locate,
    scenario::{Scenario, scenario},
    scenarios::{certificates::Certificate, traffic::served},
    turns::Isolation,
};

/// The port of the nodes that another process has on one of them.
const TAKEN: u16 = 15450;
const LISTENER: &str = "listeners: [{port: 5432}]";

const CONDITIONS: [ConditionFault; 5] = [
    ConditionFault { name: "empty", type_: "BackendsHealthy", reason: "NoEndpoints", alert: "TcplbNoUsableEndpoints" },
    ConditionFault {
        name: "secret",
        type_: "ResolvedRefs",
        reason: "InvalidCertificateRef",
        alert: "TcplbLoadBalancerNotReady",
    },
    ConditionFault {
        name: "expired",
        type_: "CertificatesValid",
        reason: "CertificateExpired",
        alert: "TcplbCertificateExpiresSoon",
    },
    ConditionFault { name: "taken", type_: "Programmed", reason: "PartiallyBound", alert: "TcplbListenerNotBound" },
    ConditionFault { name: "forbidden", type_: "Accepted", reason: "NotPermitted", alert: "TcplbLoadBalancerNotReady" },
];

#[tokio::test(flavor = "multi_thread")]
async fn faults_of_load_balancers_are_reported_everywhere_in_the_same_words() {
    if locate("prometheus").is_none() {
        return harness::lacks("prometheus");
    }
    scenario("diagnosis", Isolation::Shared, async |scenario| {
        let host = json!({"enabled": true, "allowedPorts": [TAKEN.to_string()], "adminPort": 19903});
        let own = scenario.install_own(json!({"host": host, "shutdownDelaySeconds": 0, "maxDrainSeconds": 1})).await;
        let nodes = cluster::nodes(&scenario.client).await.len();
        own.ready_pods(&scenario.client, 2 + nodes).await;
        let surfaces = Surfaces::of(scenario).await;
        scenario.backends("echo", 2).await;
        scenario.backends("idle", 0).await;
        scenario.deploy("occupier", 1, &occupier()).await;
        for manifest in faulty() {
            scenario.apply(&manifest).await;
        }
        let replica = replica_beside_the_occupier(scenario).await;
        let labels = |name: &str| match name {
            "taken" => vec![("namespace", own.namespace.clone()), ("pod", replica.clone())],
            _ => surfaces.labels(name),
        };
        let reported = async |fault: ConditionFault| surfaces.report_condition(&fault, labels(fault.name)).await;
        join_all(CONDITIONS.map(reported)).await;
        a_reached_limit_is_reported(scenario, &surfaces).await;
        an_overdue_drain_is_reported(scenario, &surfaces).await;
    })
    .await;
}

/// The objects of the faults with conditions.
fn faulty() -> Vec<String> {
    let tls = |secret: &str| format!("listeners: [{{port: 5432, tls: {{certificateRefs: [{{name: {secret}}}]}}}}]");
    let two_years_ago = Timestamp::now() - SignedDuration::from_hours(2 * 366 * 24);
    vec![
        json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "password"}, "stringData": {"password": "sesame"},
        })
        .to_string(),
        Certificate::issued("db.example.com", two_years_ago).secret("old-tls"),
        load_balancer("empty", 5432, "idle"),
        load_balancer_with("secret", &tls("password"), "echo", ""),
        load_balancer_with("expired", &tls("old-tls"), "echo", ""),
        load_balancer_with("taken", &format!("listeners: [{{port: {TAKEN}}}]"), "echo", "placement: Host"),
        load_balancer_with("forbidden", LISTENER, "echo", "service: {annotations: {example.com/internal: \"true\"}}"),
    ]
}

/// A process in the network of its node.
fn occupier() -> String {
    format!(
        "hostNetwork: true
containers:
- name: occupier
  image: {}
  imagePullPolicy: Never
  args: [backend, --listen, ':{TAKEN}']
  readinessProbe: {{tcpSocket: {{port: {TAKEN}}}, periodSeconds: 1}}
",
        image().unwrap()
    )
}

/// The replica of placement Host on the node of the other process.
async fn replica_beside_the_occupier(scenario: &Scenario) -> String {
    let node_of = |pod: &Pod| pod.spec.as_ref().unwrap().node_name.clone();
    let node = node_of(&scenario.pods_of("occupier").await[0]);
    let replicas = scenario.installation().pods(&scenario.client).await;
    let uses_node = |pod: &&Pod| pod.spec.as_ref().unwrap().host_network == Some(true) && node_of(pod) == node;
    replicas.iter().find(uses_node).expect("each node has a replica").metadata.name.clone().unwrap()
}

async fn a_reached_limit_is_reported(scenario: &Scenario, surfaces: &Surfaces<'_>) {
    let listener = "listeners: [{port: 5432, limits: {maxConnections: 1}}]";
    scenario.apply(&load_balancer_with("full", listener, "echo", "")).await;
    let address = scenario.programmed("full").await;
    served(address).await;
    let mut open = Vec::new();
    eventually("a client is refused", WAIT_LIMIT, async || match Connection::open(address).await {
        Ok(connection) => {
            open.push(connection);
            false
        }
        Err(failure) => matches!(failure, Failure::EndedEarly | Failure::Reset),
    })
    .await;
    let load = Load::with_clients(address, 2);
    let reason = "listener_full";
    let fault = Fault {
        command: ["status", "full"].map(str::to_owned).into(),
        words: vec![reason.to_owned()],
        reason,
        alert: "TcplbConnectionsRefused",
        labels: [surfaces.labels("full"), vec![("reason", reason.to_owned())]].concat(),
    };
    let alert = surfaces.report(&fault).await;
    assert!(alert.summary.contains(reason), "{alert:?}");
    load.end().await;
}

async fn an_overdue_drain_is_reported(scenario: &Scenario, surfaces: &Surfaces<'_>) {
    // The replicas close one connection in a second each.
    let drain = "drain: {endpointDrained: {after: 0s, maxPerSecond: 1}}";
    scenario.apply(&load_balancer_with("draining", LISTENER, "echo", drain)).await;
    let address = scenario.ready("draining").await;
    served(address).await;
    let guests = Guests::arrive(address, 400).await;
    let drained = guests.at.keys().next().unwrap();
    let (code, told) = scenario.kubectl_tcplb(&["drain", "draining", drained]).await;
    assert_eq!(code, Some(0), "{told}");
    let overdue = "tcplb_connections_draining_overdue{load_balancer=\"draining\"} > 0";
    eventually("the drain is overdue", 2 * WAIT_LIMIT, async || !surfaces.query(overdue).is_empty()).await;
    let reason = "endpoint_drained";
    let fault = Fault {
        command: ["status", "draining"].map(str::to_owned).into(),
        words: vec![reason.to_owned()],
        reason,
        alert: "TcplbDrainStuck",
        labels: [surfaces.labels("draining"), vec![("reason", reason.to_owned())]].concat(),
    };
    let alert = surfaces.report(&fault).await;
    assert!(alert.summary.contains(reason), "{alert:?}");
    let (_, told) = scenario.kubectl_tcplb(&["doctor", "--skip-connections"]).await;
    assert!(told.contains(&format!("({reason}) should have ended")), "{told}");
    guests.leave().await;
}
