//! Faults of the installation: missing permissions, no leader.

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule, Role};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;

use super::surfaces::{Fault, Surfaces};
use crate::{
    backends::load_balancer_with,
    cluster::{WAIT_LIMIT, eventually, kubectl},
    harness,
    installation::Installation,
    program::locate,
    scenario::{Scenario, is_not, scenario},
    scenarios::certificates::Certificate,
    turns::Isolation,
};

/// The arguments of `kubectl tcplb` for a check of the installation.
fn doctor() -> Vec<String> {
    ["doctor", "--skip-connections"].map(str::to_owned).into()
}

fn is_about(rule: &PolicyRule, resource: &str) -> bool {
    rule.resources.iter().flatten().any(|one| one == resource)
}

/// Removes the permission of the replicas to read Secrets. Returns when the API server refuses it.
async fn withdraw_secrets(scenario: &Scenario, own: &Installation) {
    let roles = Api::<ClusterRole>::all(scenario.client.clone());
    let of_release = ListParams::default().labels(&format!("app.kubernetes.io/instance={}", own.release));
    let mut all = roles.list(&of_release).await.unwrap().items.into_iter();
    let role = all.find(|role| role.rules.iter().flatten().any(|rule| is_about(rule, "secrets"))).unwrap();
    let rest: Vec<&PolicyRule> = role.rules.iter().flatten().filter(|rule| !is_about(rule, "secrets")).collect();
    let name = role.metadata.name.as_deref().unwrap();
    roles.patch(name, &PatchParams::default(), &Patch::Merge(json!({"rules": rest}))).await.unwrap();
    let account = format!("system:serviceaccount:{}:{}", own.namespace, own.full_name());
    eventually("it may not read Secrets", WAIT_LIMIT, async || {
        kubectl(&["auth", "can-i", "list", "secrets", "-n", &scenario.namespace, "--as", &account]).await.trim() == "no"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_permission_of_the_replicas_is_reported_everywhere() {
    if locate("prometheus").is_none() {
        return harness::lacks("prometheus");
    }
    scenario("permissions", Isolation::Shared, async |scenario| {
        let own = scenario.install_own(json!({})).await;
        own.ready_pods(&scenario.client, 2).await;
        let surfaces = Surfaces::of(scenario).await;
        scenario.backends("echo", 1).await;
        scenario.apply(&Certificate::new("db.example.com").secret("db-tls")).await;
        withdraw_secrets(scenario, &own).await;
        let tls = "listeners: [{port: 5432, tls: {certificateRefs: [{name: db-tls}]}}]";
        scenario.apply(&load_balancer_with("unreadable", tls, "echo", "")).await;
        let unreadable = |status: &_| is_not(status, "ResolvedRefs", "InvalidCertificateRef");
        scenario.status("the Secret is not read", "unreadable", unreadable).await;
        let secret = format!("Secret {}/db-tls cannot be watched: secrets \"db-tls\" is forbidden", scenario.namespace);
        let fault = Fault {
            command: doctor(),
            words: vec![secret, "allow get, list and watch".to_owned()],
            reason: "InvalidCertificateRef",
            alert: "TcplbLoadBalancerNotReady",
            labels: surfaces.labels("unreadable"),
        };
        surfaces.report(&fault).await;
    })
    .await;
}

/// Removes the permission of the replicas for their Lease.
async fn withdraw_lease(scenario: &Scenario, own: &Installation) {
    let roles = Api::<Role>::namespaced(scenario.client.clone(), &own.namespace);
    let role = roles.get(&own.full_name()).await.unwrap();
    let rest: Vec<&PolicyRule> = role.rules.iter().flatten().filter(|rule| !is_about(rule, "leases")).collect();
    let change = Patch::Merge(json!({"rules": rest}));
    roles.patch(&own.full_name(), &PatchParams::default(), &change).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_leader_is_reported_everywhere() {
    if locate("prometheus").is_none() {
        return harness::lacks("prometheus");
    }
    scenario("leaderless", Isolation::Shared, async |scenario| {
        let own = scenario.install_own(json!({})).await;
        own.ready_pods(&scenario.client, 2).await;
        let surfaces = Surfaces::of(scenario).await;
        let leaders = |count: f64| surfaces.query("sum(tcplb_leader)") == [count];
        eventually("a replica leads", WAIT_LIMIT, async || leaders(1.0)).await;
        withdraw_lease(scenario, &own).await;
        eventually("no replica leads", WAIT_LIMIT, async || leaders(0.0)).await;
        let reason = "no replica is the leader";
        let fault = Fault {
            command: doctor(),
            words: vec![reason.to_owned()],
            reason,
            alert: "TcplbNoLeader",
            labels: vec![("namespace", own.namespace.clone()), ("lease", own.full_name())],
        };
        let alert = surfaces.report(&fault).await;
        assert!(alert.summary.to_lowercase().contains(reason), "{alert:?}");
    })
    .await;
}
