//! What a user who has rights in one namespace cannot do.

use std::net::SocketAddr;

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;

use crate::{
    backends::{PORT, load_balancer, load_balancer_with},
    clients::visit,
    cluster::{PATIENCE, eventually},
    scenario::{Company, Scenario, condition, is, is_not, scenario, sentence},
    scenarios::traffic::served,
};

#[tokio::test(flavor = "multi_thread")]
async fn what_the_administrator_does_not_allow_is_refused_with_a_sentence() {
    scenario("refusals", Company::Welcome, async |scenario| {
        scenario.install_own(json!({"tenancy": {"maxLoadBalancersPerNamespace": 6}})).await;
        scenario.backends("echo", 1).await;
        for (name, more, field) in [
            ("type", "service: {type: LoadBalancer}", "type"),
            ("annotation", "service: {annotations: {example.com/internal: \"true\"}}", "example.com/internal"),
            ("label", "service: {labels: {example.com/team: a}}", "example.com/team"),
        ] {
            scenario.apply(&load_balancer_with(name, "listeners: [{port: 5432}]", "echo", more)).await;
            let refused = |status: &_| is_not(status, "Accepted", "NotPermitted");
            let status = scenario.status("it is refused", name, refused).await;
            assert!(sentence(&status, "Accepted").contains(field), "{name}: {status:?}");
            assert!(scenario.kept_service(name).await.is_none(), "{name}");
        }
        for name in ["four", "five", "six"] {
            scenario.apply(&load_balancer(name, 5432, "echo")).await;
            scenario.programmed(name).await;
        }
        // Of those that were made in the same second, the first by name counts as the oldest.
        scenario.apply(&load_balancer("the-seventh", 5432, "echo")).await;
        let refused = |status: &_| is_not(status, "Accepted", "NotPermitted");
        let status = scenario.status("one too many", "the-seventh", refused).await;
        assert!(sentence(&status, "Accepted").contains('6'), "{status:?}");
    })
    .await;
}

/// Addresses that no load balancer may reach, whatever its owner writes and the administrator allows.
async fn forbidden(scenario: &Scenario) -> Vec<(&'static str, SocketAddr)> {
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
        ("metadata", at("169.254.169.254", 80)),
        ("loopback", at("127.0.0.1", 9900)),
        ("mapped", at("::ffff:127.0.0.1", 9900)),
        ("admin", at(&own, 9900)),
        ("api-service", at(&api.cluster_ip.unwrap(), 443)),
        ("api-server", at(&behind, behind_port)),
    ]
}

async fn addresses_that_are_refused(scenario: &Scenario, targets: &[(&str, SocketAddr)]) {
    for (name, target) in targets {
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
            // Some are no addresses at all for the schema.
            Err(kube::Error::Api(status)) if status.code == 422 => continue,
            Err(other) => panic!("{other}"),
        }
        let refused = |status: &_| is_not(status, "Accepted", "NotPermitted");
        let status = scenario.status("it is refused", name, refused).await;
        assert!(sentence(&status, "Accepted").contains(&target.ip().to_string()), "{name}: {status:?}");
    }
    nothing_comes_back(scenario, targets).await;
}

/// Whatever there is of these load balancers leads nowhere.
async fn nothing_comes_back(scenario: &Scenario, targets: &[(&str, SocketAddr)]) {
    for (name, _) in targets {
        let Some(service) = scenario.kept_service(name).await else { continue };
        let address = SocketAddr::new(service.spec.unwrap().cluster_ip.unwrap().parse().unwrap(), 5432);
        if let Ok(mut stream) = tokio::net::TcpStream::connect(address).await {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let _ = stream.write_all(b"GET /snapshot HTTP/1.0\r\n\r\n").await;
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            assert!(answer.is_empty(), "{name} answers {}", String::from_utf8_lossy(&answer));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_are_refused_unless_they_are_allowed() {
    scenario("addresses", Company::Welcome, async |scenario| {
        scenario.install_own(json!({})).await;
        let other = scenario.another_namespace().await;
        scenario.backends_in(&other, "theirs", 1).await;
        let pods = Api::<k8s_openapi::api::core::v1::Pod>::namespaced(scenario.client.clone(), &other);
        let pod = pods.list(&ListParams::default()).await.unwrap().items.remove(0);
        let theirs = SocketAddr::new(pod.status.unwrap().pod_ip.unwrap().parse().unwrap(), PORT);
        let mut targets = forbidden(scenario).await;
        targets.push(("theirs", theirs));
        addresses_that_are_refused(scenario, &targets).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_may_reach_is_refused_even_where_everything_is_allowed() {
    scenario("open", Company::Welcome, async |scenario| {
        scenario.install_own(json!({"tenancy": {"allowedBackendNetworks": ["0.0.0.0/0", "::/0"]}})).await;
        scenario.backends("echo", 1).await;
        let targets = forbidden(scenario).await;
        addresses_that_are_refused(scenario, &targets).await;

        // An address that is not one of these is what the administrator has allowed.
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

/// A Service and an EndpointSlice of somebody's own making.
fn slice_by_hand(name: &str, target: SocketAddr, managed_by: &str, selector: &str) -> String {
    let (ip, port) = (target.ip(), target.port());
    let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  {selector}
  ports: [{{name: echo, port: {PORT}, targetPort: {port}}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {name}-by-hand
  labels: {{kubernetes.io/service-name: {name}, endpointslice.kubernetes.io/managed-by: {managed_by}}}
addressType: {family}
ports: [{{name: echo, port: {port}}}]
endpoints: [{{addresses: [\"{ip}\"], conditions: {{ready: true}}}}]
"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn slices_written_by_hand_lead_nowhere_that_their_author_may_not_go() {
    scenario("slices", Company::Welcome, async |scenario| {
        scenario.install_own(json!({})).await;
        let other = scenario.another_namespace().await;
        scenario.backends_in(&other, "theirs", 1).await;
        let pods = Api::<k8s_openapi::api::core::v1::Pod>::namespaced(scenario.client.clone(), &other);
        let pod = pods.list(&ListParams::default()).await.unwrap().items.remove(0);
        let theirs = SocketAddr::new(pod.status.as_ref().unwrap().pod_ip.as_ref().unwrap().parse().unwrap(), PORT);
        let own = scenario.installation().pods(&scenario.client).await.remove(0).status.unwrap().pod_ip.unwrap();
        let admin = SocketAddr::new(own.parse().unwrap(), 9900);
        let endpointslice_controller = "endpointslice-controller.k8s.io";
        let written = [
            ("plain", slice_by_hand("plain", theirs, "me", "clusterIP: None")),
            ("forged", slice_by_hand("forged", theirs, endpointslice_controller, "clusterIP: None")),
            ("admin", slice_by_hand("admin", admin, "me", "clusterIP: None")),
        ];
        for (name, manifests) in &written {
            scenario.apply(manifests).await;
            scenario.apply(&load_balancer(name, 5432, name)).await;
            let known =
                |status: &_| condition(status, "BackendsHealthy").is_some() && !is(status, "BackendsHealthy", "True");
            scenario.status("it has no backends that it may use", name, known).await;
        }
        let targets: Vec<(&str, SocketAddr)> = written.iter().map(|(name, _)| (*name, theirs)).collect();
        nothing_comes_back(scenario, &targets).await;

        // The Pod it names is of another namespace: the slice lies about it.
        let slices = scenario.api::<EndpointSlice>();
        let uid = pod.metadata.uid.unwrap();
        let reference = json!({"kind": "Pod", "namespace": other, "name": pod.metadata.name.unwrap(), "uid": uid});
        let endpoint = json!({"addresses": [theirs.ip()], "conditions": {"ready": true}, "targetRef": reference});
        let lie = Patch::Merge(json!({"endpoints": [endpoint]}));
        slices.patch("forged-by-hand", &PatchParams::default(), &lie).await.unwrap();
        nothing_comes_back(scenario, &targets).await;

        // With a selector, Kubernetes itself removes what it has not written.
        scenario.backends("echo", 1).await;
        scenario.apply(&slice_by_hand("chosen", theirs, endpointslice_controller, "selector: {app: echo}")).await;
        scenario.apply(&load_balancer("chosen", 5432, "chosen")).await;
        let address = scenario.programmed("chosen").await;
        served(address).await;
        eventually("only own pods serve", PATIENCE, async || {
            for _ in 0..20 {
                let backend = visit(address).await.unwrap_or_default();
                assert!(!backend.starts_with("theirs-"), "another namespace's pod answers");
                if !backend.starts_with("echo-") {
                    return false;
                }
            }
            true
        })
        .await;
    })
    .await;
}
