//! Kinds of connections: plain, TLS, sticky, limited, with PROXY headers, over every type of Service.

use std::{collections::BTreeSet, net::SocketAddr};

use tcplb::api::TcpLoadBalancerStatus;
use tokio::time::timeout;

use crate::{
    backends::{PORT, load_balancer, load_balancer_with, sealed_pod},
    clients::{Connection, Failure, SOON, brief_visit, visit},
    cluster::{WAIT_LIMIT, eventually, nodes},
    scenario::{Scenario, is, scenario},
    scenarios::certificates::Certificate,
    turns::Isolation,
};

/// Waits until connections are served, which kube-proxy makes possible after a while.
pub async fn served(address: SocketAddr) {
    let mut limit = SOON;
    eventually(&format!("{address} is served"), WAIT_LIMIT, async || {
        let outcome = timeout(limit, visit(address)).await;
        // A busy machine may need longer for a visit than a client should wait for a packet that is dropped.
        limit += SOON / 5;
        matches!(outcome, Ok(Ok(_)))
    })
    .await;
}

fn ready(status: &TcpLoadBalancerStatus) -> Option<&str> {
    status.summary.as_ref()?.ready.as_deref()
}

/// The pods that connections reach, once there are this many: a pod is ready before its slice shows it.
pub async fn reached(address: SocketAddr, pods: usize) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    eventually(&format!("{address} leads to {pods} pods"), WAIT_LIMIT, async || {
        reached.insert(visit(address).await.unwrap());
        reached.len() >= pods
    })
    .await;
    for _ in 0..12 {
        reached.insert(visit(address).await.unwrap());
    }
    reached
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minimal_load_balancer_reaches_every_pod() {
    scenario("plain", Isolation::Shared, async |scenario| {
        scenario.backends("echo", 3).await;
        scenario.apply(&load_balancer("plain", 5432, "echo")).await;
        let address = scenario.ready("plain").await;
        served(address).await;

        let pods: BTreeSet<String> =
            scenario.pods_of("echo").await.into_iter().map(|pod| pod.metadata.name.unwrap()).collect();
        assert_eq!(reached(address, 3).await, pods);

        let right =
            |status: &TcpLoadBalancerStatus| is(status, "BackendsHealthy", "True") && ready(status) == Some("3/3");
        let status = scenario.status("its backends are healthy", "plain", right).await;
        let summary = status.summary.unwrap();
        assert_eq!(summary.ports.as_deref(), Some("5432"));
        assert_eq!(summary.status.as_deref(), Some("Programmed"));
        assert_eq!(summary.address, Some(address.ip().to_string()));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_ends_at_the_load_balancer() {
    scenario("tls", Isolation::Shared, async |scenario| {
        scenario.backends("echo", 1).await;
        let certificate = Certificate::new("db.example.com");
        scenario.apply(&certificate.secret("db-tls")).await;
        let listener = "listeners: [{port: 5432, tls: {certificateRefs: [{name: db-tls}]}}]";
        scenario.apply(&load_balancer_with("tls", listener, "echo", "")).await;
        let address = scenario.programmed("tls").await;
        let mut connection = Err(Failure::Refused);
        eventually("TLS is served", WAIT_LIMIT, async || {
            connection = Connection::open_tls(address, "db.example.com", &[&certificate.der]).await;
            connection.is_ok()
        })
        .await;
        connection.unwrap().echo("through TLS").await.unwrap();
        let status = scenario.status("it is told", "tls", |status| is(status, "CertificatesValid", "True")).await;
        assert!(is(&status, "ResolvedRefs", "True"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn server_names_lead_to_pods_that_have_their_own_certificate_and_to_others() {
    scenario("routes", Isolation::Shared, async |scenario| {
        let (ours, theirs) = (Certificate::new("ends-here.example.com"), Certificate::new("sealed.example.com"));
        scenario.apply(&ours.secret("ours")).await;
        scenario.apply(&theirs.secret("theirs")).await;
        scenario.backends("plain", 1).await;
        let arguments = format!(
            "--listen, ':{PORT}', --backend, '127.0.0.1:{}', --tls-certificate, /tls/tls.crt, --tls-key, /tls/tls.key",
            PORT + 1
        );
        scenario.deploy("sealed", 1, &sealed_pod(&arguments, &[("tls", "secret: {secretName: theirs}")])).await;
        let manifest = |name_of_sealed: &str| {
            format!(
                "
apiVersion: tcplb.io/v1alpha1
kind: TcpLoadBalancer
metadata: {{name: routes}}
spec:
  listeners:
  - port: 5432
    tls: {{certificateRefs: [{{name: ours}}]}}
    routes:
    - {{serverNames: [ends-here.example.com], backends: [plain]}}
    - {{serverNames: [sealed.example.com], backends: [{name_of_sealed}], tls: {{mode: Passthrough}}}}
  backends:
  - {{name: plain, service: {{name: plain, port: {PORT}}}}}
  - {{name: {name_of_sealed}, service: {{name: sealed, port: {PORT}}}}}
"
            )
        };
        scenario.apply(&manifest("sealed")).await;
        let address = scenario.ready("routes").await;
        let open = async |certificate: &Certificate, name: &str| {
            Connection::open_tls(address, name, &[&certificate.der]).await
        };
        let mut sealed = Err(Failure::Refused);
        eventually("both names are served", WAIT_LIMIT, async || {
            sealed = open(&theirs, "sealed.example.com").await;
            sealed.is_ok() && open(&ours, "ends-here.example.com").await.is_ok()
        })
        .await;
        let mut sealed = sealed.unwrap();
        let plain = open(&ours, "ends-here.example.com").await.unwrap();
        assert!(sealed.backend.starts_with("sealed-") && plain.backend.starts_with("plain-"));
        assert!(open(&ours, "nowhere.example.com").await.is_err());

        // The backend and its route are renamed.
        scenario.apply(&manifest("renamed")).await;
        let is_renamed =
            |status: &_| backends_of(status).contains(&"renamed".to_owned()) && is(status, "Ready", "True");
        scenario.status("the change is in force", "routes", is_renamed).await;
        sealed.echo("still there").await.unwrap();
        open(&theirs, "sealed.example.com").await.unwrap().echo("and new ones").await.unwrap();
    })
    .await;
}

fn backends_of(status: &TcpLoadBalancerStatus) -> Vec<String> {
    status.backends.iter().map(|backend| backend.name.clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sticky_client_has_the_same_pod_through_every_proxy() {
    scenario("sticky", Isolation::Shared, async |scenario| {
        scenario.backends("echo", 4).await;
        // Over an external address, which preserves client addresses. kube-proxy replaces the addresses of other
        // clients from outside.
        let sticky = "loadBalancing: {algorithm: Maglev}\nservice: {type: LoadBalancer}";
        scenario.apply(&load_balancer_with("sticky", "listeners: [{port: 5432}]", "echo", sticky)).await;
        let address = scenario.external_address("sticky", async |address| brief_visit(address).await.is_ok()).await;
        // A pod that joins in between correctly takes over some clients.
        scenario.status("all pods are known", "sticky", |status| ready(status) == Some("4/4")).await;
        let first = visit(address).await.unwrap();
        for _ in 0..40 {
            assert_eq!(visit(address).await.unwrap(), first);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_holds_in_every_proxy() {
    scenario("limits", Isolation::Shared, async |scenario| {
        scenario.backends("echo", 1).await;
        let limited = "listeners: [{port: 5432, limits: {maxConnections: 3}}]";
        scenario.apply(&load_balancer_with("limits", limited, "echo", "")).await;
        let address = scenario.ready("limits").await;
        served(address).await;
        let proxies = scenario.installation().pods(&scenario.client).await.len();
        let (mut open, mut refused) = (Vec::new(), 0);
        for _ in 0..proxies * 3 * 10 {
            match Connection::open(address).await {
                Ok(connection) => open.push(connection),
                Err(Failure::Reset | Failure::EndedEarly | Failure::Refused) => refused += 1,
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(open.len(), proxies * 3, "{refused} refused");
        // Open connections are not affected, and closed ones make room.
        for connection in &mut open {
            connection.echo("still here").await.unwrap();
        }
        drop(open);
        served(address).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clients_address_of_a_proxy_header_is_handed_on() {
    scenario("proxy", Isolation::Shared, async |scenario| {
        scenario.backends("echo", 1).await;
        scenario
            .apply(
                "
apiVersion: tcplb.io/v1alpha1
kind: TcpLoadBalancer
metadata: {name: proxy}
spec:
  listeners: [{port: 5432, proxyProtocol: {mode: Required, trustedNetworks: [10.0.0.0/8, 172.16.0.0/12]}}]
  backends: [{service: {name: echo, port: echo}, proxyProtocol: V1}]
  timeouts: {handshake: 500ms}
",
            )
            .await;
        let address = scenario.programmed("proxy").await;
        let header = "PROXY TCP4 203.0.113.7 203.0.113.8 4711 5432\r\n";
        let mut connection = Err(Failure::Refused);
        eventually("it is served", WAIT_LIMIT, async || {
            connection = Connection::open_saying(address, header).await;
            connection.is_ok()
        })
        .await;
        let handed_on = connection.unwrap().line().await.unwrap();
        assert!(handed_on.starts_with("PROXY TCP4 203.0.113.7 "), "{handed_on}");
        assert!(visit(address).await.is_err(), "nobody is let in without a header");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_external_address_leads_in_and_keeps_the_clients_address() {
    scenario("external", Isolation::Shared, async |scenario| {
        scenario.backends("echo", 1).await;
        scenario
            .apply(
                "
apiVersion: tcplb.io/v1alpha1
kind: TcpLoadBalancer
metadata: {name: external}
spec:
  service: {type: LoadBalancer}
  listeners: [{port: 5432}]
  backends: [{service: {name: echo, port: 5000}, proxyProtocol: V1}]
",
            )
            .await;
        // The backend sends its name, and echoes its input, beginning with a header.
        let greeted = async |address| matches!(timeout(SOON, Connection::open(address)).await, Ok(Ok(_)));
        let address = scenario.external_address("external", greeted).await;
        let preserved = |status: &_| is(status, "ClientAddressPreserved", "True");
        scenario.status("it is told", "external", preserved).await;
        let mut connection = Connection::open(address).await.unwrap();
        let own = connection.local_address().ip();
        let handed_on = connection.line().await.unwrap();
        assert!(handed_on.starts_with(&format!("PROXY TCP4 {own} ")), "{handed_on} comes from {own}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_port_leads_in_on_every_node() {
    scenario("nodeport", Isolation::Shared, async |scenario: &Scenario| {
        scenario.backends("echo", 1).await;
        let node_port = "service: {type: NodePort}";
        scenario.apply(&load_balancer_with("nodeport", "listeners: [{port: 5432}]", "echo", node_port)).await;
        let status = scenario.status("it is programmed", "nodeport", |status| is(status, "Programmed", "True")).await;
        let port = status.listeners[0].node_port.expect("the port of the nodes is told");
        for (_, ip) in nodes(&scenario.client).await {
            served(SocketAddr::new(ip, port)).await;
        }
    })
    .await;
}
