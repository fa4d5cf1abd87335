//! Retention of endpoints that no source confirms any more.

use jiff::{SignedDuration, ToSpan};

use super::*;

const GATEWAY: &str = "{kind: Gateway, ports: {20001: {uid: u-a, port: 5432, object: shop/a}}}";
const LIMIT: SignedDuration = SignedDuration::from_mins(5);
const LEFT_OUT: &str = "; pods that no EndpointSlice lists any more are removed after 5 minutes";

fn a(backends: &str) -> String {
    format!(
        "{{kind: TcpLoadBalancer, apiVersion: tcplb.io/v1alpha1, metadata: {{name: a, uid: u-a}}, \
         spec: {{listeners: [{{port: 5432}}], backends: [{backends}]}}}}"
    )
}

const DB: &str = "{name: db, service: {name: db, port: 1}}";

/// A Service, and its slice as Kubernetes writes it, with these pods (uid and address).
fn service(namespace: &str, name: &str, pods: &[(&str, &str)]) -> String {
    let endpoint = |(uid, address): &(&str, &str)| {
        format!("{{addresses: [{address}], targetRef: {{kind: Pod, namespace: {namespace}, name: p, uid: {uid}}}}}")
    };
    let endpoints = pods.iter().map(endpoint).collect::<Vec<_>>().join(", ");
    format!(
        "{{kind: Service, metadata: {{namespace: {namespace}, name: {name}}}, \
         spec: {{selector: {{a: b}}, ports: [{{port: 1}}]}}}}\n---\n\
         {{kind: EndpointSlice, metadata: {{namespace: {namespace}, name: {name}-1, labels: \
         {{kubernetes.io/service-name: {name}, endpointslice.kubernetes.io/managed-by: \
         endpointslice-controller.k8s.io}}}}, addressType: IPv4, ports: [{{port: 7}}], endpoints: [{endpoints}]}}"
    )
}

fn all(documents: &[&str]) -> World {
    world(&documents.join("\n---\n"))
}

fn after(time: SignedDuration) -> Timestamp {
    NOW + time
}

fn addresses(snapshot: &Snapshot) -> Vec<String> {
    let endpoints = &snapshot.upstreams[&upstream("a")].endpoints;
    endpoints.iter().map(|endpoint| endpoint.address().to_string()).collect()
}

/// A snapshot that serves two pods.
fn serving() -> Snapshot {
    let (snapshot, verdicts) = first(&all(&[GATEWAY, &a(DB), &service("shop", "db", PODS)]));
    assert_eq!(
        (addresses(&snapshot).as_slice(), sentences(&verdicts, "a").as_slice()),
        (&BOTH.map(str::to_owned)[..], &[][..])
    );
    assert_eq!(snapshot.next_expiration(), None);
    snapshot
}

const PODS: &[(&str, &str)] = &[("p1", "10.0.0.1"), ("p2", "10.0.0.2")];
const BOTH: [&str; 2] = ["10.0.0.1:7", "10.0.0.2:7"];

#[test]
fn pods_are_retained_for_five_minutes_without_their_service() {
    let external = "{kind: Service, metadata: {name: db}, spec: {type: ExternalName, externalName: x}}";
    let (keeps, goes) = ("the previous endpoints stay in use", "connections go to the previous endpoints");
    for (backends, service, consequence) in [
        (DB, "", keeps),
        (DB, external, keeps),
        ("{name: db, service: {name: typo, port: 1}}", "", keeps),
        ("{name: db, service: {name: db, port: 1}, addresses: ['10.9.9.9:1']}", "", keeps),
        ("{service: {name: typo, port: 1}}", "", goes),
        ("", "", goes),
    ] {
        let before = serving();
        let mut world = all(&[GATEWAY, &a(backends)]);
        world.services = super::world(service).services;
        let mut snapshot = before.clone();
        for passed in [0.seconds(), 1.seconds(), 299.seconds()] {
            let verdicts;
            (snapshot, verdicts) = translate(&world, &snapshot, NOW + passed);
            assert!(snapshot.configures_the_same(&before) && snapshot.generation == 1, "{backends} after {passed}");
            assert_eq!(snapshot.next_expiration(), Some(after(LIMIT)), "since it was first so");
            let message = sentences(&verdicts, "a").concat();
            assert!(message.ends_with(&format!("{consequence}{LEFT_OUT}")), "{message}");
        }
        for passed in [300.seconds(), 301.seconds(), 9999.seconds()] {
            let verdicts;
            (snapshot, verdicts) = translate(&world, &snapshot, NOW + passed);
            assert_eq!(addresses(&snapshot), Vec::<String>::new(), "{backends} after {passed}");
            assert_eq!((snapshot.generation, snapshot.next_expiration()), (2, None));
            assert!(snapshot.listeners.contains_key(&listener("a", 5432)));
            let message = sentences(&verdicts, "a").concat();
            assert!(message.ends_with("it has no endpoints") && verdicts[&object("a")].refuses(), "{message}");
        }
    }
}

#[test]
fn endpoints_of_an_unreadable_load_balancer_expire() {
    let mut world = all(&[GATEWAY, &a(DB)]);
    world.load_balancers.get_mut(&object("a")).unwrap().spec = None;
    let (kept, _) = then(&world, &serving());
    assert_eq!((addresses(&kept).len(), kept.next_expiration()), (2, Some(after(LIMIT))));
    assert_eq!(addresses(&translate(&world, &kept, after(LIMIT)).0), Vec::<String>::new());
}

#[test]
fn a_listed_pod_is_retained_without_a_limit() {
    // The declared port is not a port of the Service. One of its pods is deleted, and later the other one.
    let wrong = a("{name: db, service: {name: db, port: 2}}");
    let world = |pods| all(&[GATEWAY, &wrong, &service("shop", "db", pods)]);
    let (kept, verdicts) = then(&world(PODS), &serving());
    assert_eq!((addresses(&kept).len(), kept.next_expiration()), (2, None));
    assert!(sentences(&verdicts, "a")[0].ends_with("the previous endpoints stay in use"));
    let a_day_later = after(SignedDuration::from_hours(24));
    let (kept, _) = translate(&world(&PODS[1..]), &kept, a_day_later);
    assert_eq!((addresses(&kept).len(), kept.next_expiration()), (2, Some(a_day_later + LIMIT)));
    let (kept, _) = translate(&world(&PODS[1..]), &kept, a_day_later + LIMIT);
    assert_eq!((addresses(&kept), kept.next_expiration()), (vec![BOTH[1].to_owned()], None));
}

#[test]
fn only_slices_of_kubernetes_tell_whether_a_pod_exists() {
    // A user lists a deleted pod, or another one at its address, in a slice.
    let gone = a("{name: db, service: {name: typo, port: 1}}");
    for uid in ["p1", "other"] {
        let forged = service("shop", "db", &[(uid, "10.0.0.1")]).replace("endpointslice-controller.k8s.io", "me");
        let (kept, _) = then(&all(&[GATEWAY, &gone, &forged]), &serving());
        assert_eq!((addresses(&kept).len(), kept.next_expiration()), (2, Some(after(LIMIT))), "{uid}");
    }
}

#[test]
fn an_address_reused_by_another_pod_is_not_retained() {
    let reused = service("games", "lobby", &[("other", "10.0.0.1")]);
    let (kept, _) = then(&all(&[GATEWAY, &a(DB), &reused]), &serving());
    assert_eq!(addresses(&kept), [BOTH[1]]);
    assert_eq!(kept.retained_until[&upstream("a")].len(), 1);
    // Host-network pods share the address of the node, with ports of their own.
    let beside = reused.replace("port: 7", "port: 8");
    let (kept, _) = then(&all(&[GATEWAY, &a(DB), &beside]), &serving());
    assert_eq!((addresses(&kept).len(), kept.next_expiration()), (2, Some(after(LIMIT))));
}

#[test]
fn an_endpoint_that_returns_gets_the_whole_retention_again() {
    let (gone, back) = (all(&[GATEWAY, &a(DB)]), all(&[GATEWAY, &a(DB), &service("shop", "db", PODS)]));
    let (kept, _) = then(&gone, &serving());
    let (confirmed, verdicts) = translate(&back, &kept, after(SignedDuration::from_mins(4)));
    assert_eq!((confirmed.generation, confirmed.next_expiration(), sentences(&verdicts, "a").len()), (1, None, 0));
    let later = after(SignedDuration::from_hours(1));
    let (kept, _) = translate(&gone, &confirmed, later);
    assert_eq!(kept.next_expiration(), Some(later + LIMIT));
}

#[test]
fn a_clock_set_back_does_not_extend_retention() {
    let gone = all(&[GATEWAY, &a(DB)]);
    let (kept, _) = then(&gone, &serving());
    let long_ago = after(SignedDuration::from_hours(-1));
    let (kept, _) = translate(&gone, &kept, long_ago);
    assert_eq!(kept.next_expiration(), Some(long_ago + LIMIT));
}

#[test]
fn declared_addresses_are_retained_without_a_limit() {
    let gateway = GATEWAY.replacen("{kind", "{tenancy: {backendNetworks: [10.0.0.0/8]}, kind", 1);
    let written = a("{name: db, addresses: ['10.0.0.1:7', '10.0.0.2:7']}");
    // A slice of a user, which names no pod.
    let listed = service("shop", "db", PODS).replace("kind: Pod", "kind: X").replace("uid", "resourceVersion");
    for before in [all(&[&gateway, &written]), all(&[&gateway, &a(DB), &listed])] {
        let (before, _) = first(&before);
        let wrong = all(&[&gateway, &a("{name: db, service: {name: typo, port: 1}}")]);
        let (kept, verdicts) = translate(&wrong, &before, NOW);
        assert_eq!((addresses(&kept), kept.next_expiration()), (BOTH.map(str::to_owned).into(), None));
        assert!(sentences(&verdicts, "a")[0].ends_with("the previous endpoints stay in use"));
        let a_year_later = after(SignedDuration::from_hours(365 * 24));
        assert!(translate(&wrong, &kept, a_year_later).0.configures_the_same(&before));
    }
}
