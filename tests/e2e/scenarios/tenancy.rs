//! Limits of a user with permissions in one namespace, if the controller may read the whole cluster and if it may read
//! only what it serves.

use std::net::SocketAddr;

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{
    Api,
    api::{DeleteParams, ListParams},
};
use serde_json::{Value, json};
use tcplb::api::TcpLoadBalancer;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::{
    backends::{PORT, load_balancer, load_balancer_with},
    clients::{Failure, LIMIT, brief_dial},
    cluster::{self, WAIT_LIMIT, eventually},
    scenario::{Scenario, is_not, scenario, sentence, status_in},
    scenarios::{
        certificates::Certificate,
        slices::{slices_lead_nowhere, theirs},
        traffic::served,
    },
    turns::Isolation,
};

/// The request of a load balancer: its name, its listeners, further parts of its spec, and the expected message.
type Wish = (&'static str, &'static str, &'static str, &'static str);

const WISHES: [Wish; 5] = [
    ("type", "listeners: [{port: 5432}]", "service: {type: LoadBalancer}", "LoadBalancer is not allowed"),
    (
        "class",
        "listeners: [{port: 5432}]",
        "service: {type: LoadBalancer, loadBalancerClass: example.com/dear}",
        "`example.com/dear` is not allowed",
    ),
    (
        "annotation",
        "listeners: [{port: 5432}]",
        "service: {annotations: {example.com/internal: \"true\"}}",
        "`example.com/internal` is not allowed",
    ),
    (
        "label",
        "listeners: [{port: 5432}]",
        "service: {labels: {example.com/team: a}}",
        "`example.com/team` is not allowed",
    ),
    ("node-port", "listeners: [{port: 5432, nodePort: 30123}]", "service: {type: NodePort}", "30123 is not permitted"),
];

/// The quota of a namespace: load balancers and listeners.
const CAPS: (usize, usize) = (WISHES.len() + 2, WISHES.len() + 3);

fn caps() -> Value {
    json!({"maxLoadBalancersPerNamespace": CAPS.0, "maxListenersPerNamespace": CAPS.1})
}

impl Scenario {
    async fn is_refused(&self, name: &str, says: &str) {
        let refused =
            |status: &_| is_not(status, "Accepted", "NotPermitted") && sentence(status, "Accepted").contains(says);
        self.status(&format!("it is refused: {says}"), name, refused).await;
    }
}

async fn wishes_are_refused(scenario: &Scenario) {
    scenario.backends("echo", 1).await;
    for (name, listeners, more, says) in WISHES {
        scenario.apply(&load_balancer_with(name, listeners, "echo", more)).await;
        scenario.is_refused(name, says).await;
        assert!(scenario.kept_service(name).await.is_none(), "{name}");
    }
    scenario.apply(&load_balancer("very-modest", 5432, "echo")).await;
    served(scenario.programmed("very-modest").await).await;
    // Of load balancers that were created in the same second, the first one by name counts as the oldest.
    let three = "listeners: [{name: a, port: 1}, {name: b, port: 2}, {name: c, port: 3}]";
    scenario.apply(&load_balancer_with("with-a-listener-too-many", three, "echo", "")).await;
    scenario.is_refused("with-a-listener-too-many", &format!("the administrator allows {} listeners", CAPS.1)).await;
    scenario.apply(&load_balancer("yet-another", 5432, "echo")).await;
    scenario.is_refused("yet-another", &format!("the administrator allows {} load balancers", CAPS.0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_beyond_the_tenancy_rules_are_refused_with_a_message() {
    scenario("refusals", Isolation::Shared, async |scenario| {
        scenario.install_own(json!({"tenancy": caps()})).await;
        wishes_are_refused(scenario).await;
    })
    .await;
}

/// The address that a load balancer requests: its name, the address, and the expected message.
type Target = (&'static str, SocketAddr, &'static str);

const OURS: &str = "an address of the proxies, of the API server or of a Service";
const NOT_OWN: &str = "neither a pod that a Service of the same namespace selects nor in a network";

/// Addresses that no load balancer may reach, whatever its owner writes and the administrator allows.
async fn forbidden(scenario: &Scenario) -> Vec<Target> {
    let services = Api::<Service>::namespaced(scenario.client.clone(), "default");
    let api = services.get("kubernetes").await.unwrap().spec.unwrap();
    let slices = Api::<EndpointSlice>::namespaced(scenario.client.clone(), "default");
    let of_kubernetes = ListParams::default().labels("kubernetes.io/service-name=kubernetes");
    let slice = slices.list(&of_kubernetes).await.unwrap().items.remove(0);
    let behind = slice.endpoints.into_iter().next().unwrap().addresses.remove(0);
    let behind_port = slice.ports.unwrap()[0].port.unwrap() as u16;
    let own = scenario.installation().pods(&scenario.client).await.remove(0).status.unwrap().pod_ip.unwrap();
    let at = |address: &str, port| SocketAddr::new(address.parse().unwrap(), port);
    vec![
        ("metadata", at("169.254.169.254", 80), "a link-local address"),
        ("loopback", at("127.0.0.1", 9900), "a loopback address"),
        ("mapped", at("::ffff:127.0.0.1", 9900), "a loopback address"),
        ("admin", at(&own, 9900), OURS),
        ("api-service", at(&api.cluster_ip.unwrap(), 443), OURS),
        ("api-server", at(&behind, behind_port), OURS),
    ]
}

async fn addresses_that_are_refused(scenario: &Scenario, targets: &[Target]) {
    for (name, target, says) in targets {
        let manifest = format!(
            "
apiVersion: tcplb.io/v1alpha1
kind: TcpLoadBalancer
metadata: {{name: {name}}}
spec:
  listeners: [{{port: 5432}}]
  backends: [{{name: target, addresses: [\"{target}\"]}}]
"
        );
        match scenario.try_apply(&manifest).await {
            Ok(()) => {}
            // The schema does not accept some of them as addresses.
            Err(kube::Error::Api(status)) if status.code == 422 => continue,
            Err(other) => panic!("{other}"),
        }
        let target = SocketAddr::new(target.ip().to_canonical(), target.port());
        scenario.is_refused(name, &format!("{target} is {says}")).await;
    }
    nothing_comes_back(scenario, targets.iter().map(|(name, ..)| *name)).await;
}

/// Checks that these load balancers lead nowhere: a connection ends without an answer.
pub async fn nothing_comes_back(scenario: &Scenario, names: impl IntoIterator<Item = &str>) {
    for name in names {
        let Some(service) = scenario.kept_service(name).await else { continue };
        let address = SocketAddr::new(service.spec.unwrap().cluster_ip.unwrap().parse().unwrap(), 5432);
        let mut answered = Err(Failure::TimedOut);
        eventually("nodes know its Service", WAIT_LIMIT, async || {
            answered = brief_dial(address).await;
            !matches!(answered, Err(Failure::TimedOut))
        })
        .await;
        let Ok(mut stream) = answered else { continue };
        let _ = stream.write_all(b"GET /snapshot HTTP/1.0\r\n\r\n").await;
        let mut answer = [0; 1024];
        match timeout(LIMIT, stream.read(&mut answer)).await {
            Ok(Ok(0) | Err(_)) => {}
            Ok(Ok(length)) => panic!("{name} answers {}", String::from_utf8_lossy(&answer[..length])),
            Err(_) => panic!("{name} leads to somebody who says nothing"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_are_refused_unless_they_are_allowed() {
    scenario("addresses", Isolation::Shared, async |scenario| {
        scenario.install_own(json!({})).await;
        let other = scenario.another_namespace().await;
        let (_, theirs) = theirs(scenario, &other).await;
        let mut targets = forbidden(scenario).await;
        targets.push(("theirs", theirs, NOT_OWN));
        addresses_that_are_refused(scenario, &targets).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn internal_addresses_are_refused_even_if_all_networks_are_allowed() {
    scenario("open", Isolation::Shared, async |scenario| {
        scenario.install_own(json!({"tenancy": {"allowedBackendNetworks": ["0.0.0.0/0", "::/0"]}})).await;
        scenario.backends("echo", 1).await;
        let targets = forbidden(scenario).await;
        addresses_that_are_refused(scenario, &targets).await;

        // An address that is not one of these, and that the administrator has allowed.
        let pod = scenario.pods_of("echo").await.remove(0).status.unwrap().pod_ip.unwrap();
        scenario
            .apply(&format!(
                "
apiVersion: tcplb.io/v1alpha1
kind: TcpLoadBalancer
metadata: {{name: allowed}}
spec:
  listeners: [{{port: 5432}}]
  backends: [{{addresses: [\"{pod}:{PORT}\"]}}]
"
            ))
            .await;
        served(scenario.programmed("allowed").await).await;
    })
    .await;
}

/// The values of the chart for a user with few permissions: for these two namespaces, without Secrets, and without
/// cluster-scoped objects. Load balancers of the second one may open a port on the nodes.
fn narrow(first: &str, second: &str) -> serde_json::Value {
    let mut tenancy = caps();
    tenancy["allowedBackendNetworks"] = json!(["198.51.100.0/24"]);
    tenancy["deniedBackendNetworks"] = json!(["198.51.100.128/25"]);
    json!({
        "watchNamespaces": [first, second],
        "rbac": {"crd": false, "aggregate": false, "cli": false},
        "secrets": {"access": "None"},
        "tenancy": tenancy,
        "host": {"enabled": true, "allowedPorts": ["15440"], "namespaces": [second], "adminPort": 19902},
    })
}

/// Of the rest of the cluster, the controller knows only the address of the API server.
#[tokio::test(flavor = "multi_thread")]
async fn a_controller_of_few_namespaces_refuses_the_same_and_has_no_further_rights() {
    scenario("narrow", Isolation::Shared, async |scenario| {
        let (second, unwatched) = (scenario.another_namespace().await, scenario.another_namespace().await);
        let own = scenario.install_own(narrow(&scenario.namespace, &second)).await;
        let account = format!("system:serviceaccount:{}:{}", own.namespace, own.full_name());
        let may = async |verb: &str, what: &str, namespace: &str| {
            cluster::kubectl(&["auth", "can-i", verb, what, "-n", namespace, "--as", &account]).await.trim() == "yes"
        };
        eventually("it may watch Services", WAIT_LIMIT, async || may("watch", "services", &second).await).await;
        for (what, namespace) in [("secrets", &scenario.namespace), ("services", &unwatched), ("tcplb", &unwatched)] {
            assert!(!may("list", what, namespace).await, "it may list {what} of {namespace}");
        }
        let in_namespace = |manifest: String, namespace: &str| {
            manifest.replacen("metadata: {", &format!("metadata: {{namespace: {namespace}, "), 1)
        };
        scenario.apply(&in_namespace(load_balancer("beyond", 5432, "echo"), &unwatched)).await;

        wishes_are_refused(scenario).await;
        let all = scenario.api::<TcpLoadBalancer>();
        all.delete_collection(&DeleteParams::default(), &ListParams::default()).await.unwrap();

        let (_, theirs) = theirs(scenario, &unwatched).await;
        let mut targets = forbidden(scenario).await;
        targets.push(("theirs", theirs, NOT_OWN));
        targets.push(("denied", "198.51.100.200:80".parse().unwrap(), "in a network that the administrator denies"));
        addresses_that_are_refused(scenario, &targets).await;
        all.delete_collection(&DeleteParams::default(), &ListParams::default()).await.unwrap();
        slices_lead_nowhere(scenario, &second).await;
        all.delete_collection(&DeleteParams::default(), &ListParams::default()).await.unwrap();

        scenario.apply(&load_balancer_with("host", "listeners: [{port: 15440}]", "echo", "placement: Host")).await;
        scenario.is_refused("host", "may not open ports on the nodes").await;
        let wrong_port = load_balancer_with("host", "listeners: [{port: 15999}]", "echo", "placement: Host");
        scenario.apply(&in_namespace(wrong_port, &second)).await;
        let of_second = Api::namespaced(scenario.client.clone(), &second);
        let refused = |status: &_| {
            is_not(status, "Accepted", "NotPermitted")
                && sentence(status, "Accepted").contains("15999 may not be opened on the nodes")
        };
        status_in(of_second, WAIT_LIMIT, "the port is refused", "host", refused).await;

        scenario.apply(&Certificate::new("db.example.com").secret("db-tls")).await;
        let tls = "listeners: [{port: 5432, tls: {certificateRefs: [{name: db-tls}]}}]";
        scenario.apply(&load_balancer_with("tls", tls, "echo", "")).await;
        let unreadable = |status: &_| is_not(status, "ResolvedRefs", "InvalidCertificateRef");
        let status = scenario.status("the Secret is not read", "tls", unreadable).await;
        assert!(sentence(&status, "ResolvedRefs").contains("db-tls cannot be read"), "{status:?}");

        let beyond =
            Api::<TcpLoadBalancer>::namespaced(scenario.client.clone(), &unwatched).get("beyond").await.unwrap();
        // The default of the schema.
        let unseen =
            beyond.status.is_none_or(|status| status.observed_generation == Some(-1) && status.conditions.is_empty());
        assert!(unseen, "a namespace that is not watched is served");
    })
    .await;
}
