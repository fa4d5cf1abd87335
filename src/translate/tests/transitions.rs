//! Services and their EndpointSlices change one after the other: configuration in between.

use jiff::{SignedDuration, ToSpan};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use proptest::prelude::*;

use super::*;

const GATEWAY: &str = "{kind: Gateway, ports: {20001: {uid: u-a, port: 5432, object: shop/a}}}";
const LOAD_BALANCER: &str = "{kind: TcpLoadBalancer, apiVersion: tcplb.io/v1alpha1, metadata: {name: a, uid: u-a}, spec: \
                             {listeners: [{port: 5432}], backends: [{service: {name: db, port: 1}}]}}";
const LIMIT: SignedDuration = SignedDuration::from_mins(5);
const SETTLED: SignedDuration = SignedDuration::from_secs(1);

/// A declared Service.
#[derive(Clone, Copy, Debug)]
struct Db {
    uid: &'static str,
    /// The name of its port.
    port: &'static str,
    spec: &'static str,
}

const DB: Db = Db { uid: "s1", port: "sql", spec: "selector: {a: b}" };

impl Db {
    fn service(self) -> SharedObject<Service> {
        let Self { uid, port, spec } = self;
        let text = format!(
            "{{kind: Service, metadata: {{name: db, uid: {uid}}}, spec: {{{spec}, ports: [{{name: {port}, port: 1}}]}}}}"
        );
        world(&text).services.values().next().unwrap().clone()
    }

    /// The slice that Kubernetes writes for this Service, with these pods: number and conditions.
    fn slice(self, target_port: u16, pods: &[(u8, &str)]) -> SharedObject<EndpointSlice> {
        let Self { uid, port, .. } = self;
        let endpoint = |(pod, conditions): &(u8, &str)| {
            format!(
                "{{addresses: [10.0.0.{pod}], conditions: {{{conditions}}}, \
                 targetRef: {{kind: Pod, namespace: shop, name: p{pod}, uid: p{pod}}}}}"
            )
        };
        let endpoints = pods.iter().map(endpoint).collect::<Vec<_>>().join(", ");
        // A slice without pods has no ports.
        let ports = if pods.is_empty() { String::new() } else { format!("{{name: {port}, port: {target_port}}}") };
        let text = format!(
            "{{kind: EndpointSlice, metadata: {{namespace: shop, name: x, labels: {{kubernetes.io/service-name: db, \
             endpointslice.kubernetes.io/managed-by: endpointslice-controller.k8s.io}}, ownerReferences: [{{apiVersion: \
             v1, kind: Service, name: db, uid: {uid}}}]}}, addressType: IPv4, ports: [{ports}], endpoints: [{endpoints}]}}"
        );
        world(&text).endpoint_slices.values().next().unwrap().clone()
    }
}

/// A change of one object; without a value, its deletion.
#[derive(Clone, Debug)]
enum ObjectChange {
    Service(Option<SharedObject<Service>>),
    Slice(&'static str, Option<SharedObject<EndpointSlice>>),
}

impl ObjectChange {
    fn apply(&self, world: &mut World) {
        match self {
            Self::Service(Some(service)) => drop(world.services.insert(object("db"), service.clone())),
            Self::Service(None) => drop(world.services.remove(&object("db"))),
            Self::Slice(name, Some(slice)) => drop(world.endpoint_slices.insert(object(name), slice.clone())),
            Self::Slice(name, None) => drop(world.endpoint_slices.remove(&object(name))),
        }
    }
}

const PODS: &[(u8, &str)] = &[(1, ""), (2, "")];

fn before() -> World {
    let mut world = world(&format!("{GATEWAY}\n---\n{LOAD_BALANCER}"));
    ObjectChange::Service(Some(DB.service())).apply(&mut world);
    ObjectChange::Slice("db-1", Some(DB.slice(7, PODS))).apply(&mut world);
    world
}

fn addresses(snapshot: &Snapshot) -> Vec<String> {
    let endpoints = &snapshot.upstreams[&upstream("a")].endpoints;
    endpoints.iter().map(|endpoint| endpoint.address().to_string()).collect()
}

const BOTH: &[&str] = &["10.0.0.1:7", "10.0.0.2:7"];

/// A Service without matching slices, and the change that leads to it.
fn gaps() -> Vec<(&'static str, Vec<ObjectChange>)> {
    let renamed = Db { port: "web", ..DB };
    let recreated = Db { uid: "s2", ..DB };
    let without_selector = Db { spec: "type: ClusterIP", ..DB };
    let deleting = || -> SharedObject<EndpointSlice> {
        let mut slice = EndpointSlice::clone(&DB.slice(7, PODS));
        slice.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH));
        slice.into()
    };
    vec![
        ("the port is renamed", vec![ObjectChange::Service(Some(renamed.service()))]),
        ("it is another Service", vec![ObjectChange::Service(Some(recreated.service()))]),
        (
            "it is another Service, whose predecessor's slices are gone",
            vec![ObjectChange::Service(Some(recreated.service())), ObjectChange::Slice("db-1", None)],
        ),
        ("its slices are deleted", vec![ObjectChange::Slice("db-1", None)]),
        ("its slices are about to be deleted", vec![ObjectChange::Slice("db-1", Some(deleting()))]),
        ("its selector is removed", vec![ObjectChange::Service(Some(without_selector.service()))]),
        (
            "the slices of another Service of its name have arrived first",
            vec![ObjectChange::Slice("db-1", Some(recreated.slice(7, PODS)))],
        ),
    ]
}

#[test]
fn endpoints_stay_until_matching_slices_arrive_or_the_time_is_over() {
    for (what, changes) in gaps() {
        let mut world = before();
        let (served, _) = first(&world);
        assert_eq!(addresses(&served), BOTH);
        changes.iter().for_each(|change| change.apply(&mut world));
        let mut kept = served.clone();
        for passed in [0.seconds(), 9.seconds()] {
            let verdicts;
            (kept, verdicts) = translate(&world, &kept, NOW + passed);
            assert!(kept.configures_the_same(&served), "{what} after {passed}");
            assert_eq!(sentences(&verdicts, "a"), Vec::<String>::new(), "{what} after {passed}");
            assert_eq!(kept.next_expiration(), Some(NOW + 10.seconds()), "{what}: to be reported");
        }
        let arrived = {
            let mut world = world.clone();
            let renamed = Db { uid: "s3", port: "other", ..DB };
            ObjectChange::Service(Some(renamed.service())).apply(&mut world);
            ObjectChange::Slice("db-1", Some(renamed.slice(8, &[(2, ""), (3, "")]))).apply(&mut world);
            translate(&world, &kept, NOW + 9.seconds()).0
        };
        // A pod that the new slices lack may be in another one.
        assert_eq!(addresses(&arrived), ["10.0.0.1:7", "10.0.0.2:8", "10.0.0.3:8"], "{what}");
        assert_eq!(arrived.next_expiration(), Some(NOW + 9.seconds() + SETTLED), "{what}");

        for passed in [10.seconds(), 298.seconds()] {
            let verdicts;
            (kept, verdicts) = translate(&world, &kept, NOW + passed);
            assert!(kept.configures_the_same(&served), "{what} after {passed}");
            let expected = "spec.backends[0].service: no EndpointSlice of Service shop/db has its port 1: check its \
                            selector and the targetPort; the previous endpoints stay in use until 2026-01-01T00:05:00Z";
            assert_eq!(sentences(&verdicts, "a"), [expected], "{what} after {passed}");
            assert_eq!(kept.next_expiration(), Some(NOW + LIMIT), "{what}");
        }
        let (gone, verdicts) = translate(&world, &kept, NOW + LIMIT);
        assert_eq!((addresses(&gone), gone.next_expiration()), (vec![], None), "{what}");
        assert!(!sentences(&verdicts, "a").is_empty(), "{what}");
        assert!(translate(&world, &gone, NOW + LIMIT).0.configures_the_same(&gone), "{what}");
    }
}

#[test]
fn non_matching_slices_still_remove_their_endpoints_at_once() {
    let renamed = Db { port: "web", ..DB };
    for (stale, expected) in [
        ([(1, ""), (2, "ready: false")], &["10.0.0.1:7"][..]),
        ([(1, ""), (2, "ready: false, serving: true, terminating: true")], &["10.0.0.1:7"]),
        ([(1, "ready: false"), (2, "ready: false")], &[]),
        // Without ready endpoints, terminating ones serve.
        ([(1, "ready: false"), (2, "ready: false, serving: true, terminating: true")], &["10.0.0.2:7"]),
    ] {
        let mut world = before();
        let (served, _) = first(&world);
        ObjectChange::Service(Some(renamed.service())).apply(&mut world);
        ObjectChange::Slice("db-1", Some(DB.slice(7, &stale))).apply(&mut world);
        let (now, _) = then(&world, &served);
        assert_eq!(addresses(&now), expected, "{stale:?}");
        assert_eq!(addresses(&then(&world, &now).0), expected, "{stale:?} again");
    }
}

#[test]
fn an_address_of_another_pod_is_never_retained() {
    let reused = "{kind: Service, metadata: {namespace: games, name: lobby}, spec: {selector: {a: b}, ports: [{port: 1}]}}\n---\n\
                  {kind: EndpointSlice, metadata: {namespace: games, name: lobby-1, labels: {kubernetes.io/service-name: \
                  lobby, endpointslice.kubernetes.io/managed-by: endpointslice-controller.k8s.io}}, addressType: IPv4, \
                  ports: [{port: 7}], endpoints: [{addresses: [10.0.0.1], targetRef: {kind: Pod, namespace: games, name: p, \
                  uid: other}}]}";
    let reused = super::world(reused);
    for (what, changes) in gaps() {
        let mut world = before();
        let (served, _) = first(&world);
        changes.iter().for_each(|change| change.apply(&mut world));
        // While a slice still lists the pod, both have the address according to Kubernetes: it belongs to the pod.
        world.endpoint_slices.remove(&object("db-1"));
        world.services.extend(reused.services.clone());
        world.endpoint_slices.extend(reused.endpoint_slices.clone());
        assert_eq!(addresses(&then(&world, &served).0), ["10.0.0.2:7"], "{what}");
    }
}

#[test]
fn a_denied_address_is_not_retained() {
    for (what, changes) in gaps() {
        let mut world = before();
        let (served, _) = first(&world);
        changes.iter().for_each(|change| change.apply(&mut world));
        world.mode =
            super::world(&GATEWAY.replacen("{kind", "{tenancy: {deniedNetworks: [10.0.0.1/32]}, kind", 1)).mode;
        assert_eq!(addresses(&then(&world, &served).0), ["10.0.0.2:7"], "{what}");
    }
}

#[test]
fn a_slice_without_endpoints_says_that_there_are_none() {
    let mut world = before();
    let (served, _) = first(&world);
    ObjectChange::Slice("db-1", Some(DB.slice(7, &[]))).apply(&mut world);
    let (now, _) = then(&world, &served);
    assert_eq!(now.next_expiration(), Some(NOW + SETTLED));
    let (now, verdicts) = translate(&world, &now, NOW + SETTLED);
    assert_eq!(addresses(&now), Vec::<String>::new());
    assert!(sentences(&verdicts, "a")[0].contains("has no ready endpoint"), "{verdicts:?}");
    assert!(!verdicts[&object("a")].has_unresolved_references());
}

/// A finalizer may retain a slice that Kubernetes deletes.
#[test]
fn a_slice_being_deleted_is_reported_despite_matching_ones() {
    let mut world = before();
    let served = first(&world).0;
    let mut deleting = EndpointSlice::clone(&DB.slice(7, &[(9, "")]));
    deleting.metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH));
    ObjectChange::Slice("db-2", Some(deleting.into())).apply(&mut world);
    for previous in [&Snapshot::default(), &served] {
        let (now, verdicts) = then(&world, previous);
        assert_eq!(addresses(&now), BOTH);
        let messages = sentences(&verdicts, "a");
        assert!(messages.len() == 1 && messages[0].contains("EndpointSlice shop/db-2 has 10.0.0.9:7"), "{messages:?}");
    }
}

#[test]
fn another_service_is_followed_at_once_and_awaited_if_it_has_no_slices() {
    let served = first(&before()).0;
    let mut other = before();
    let edited = LOAD_BALANCER.replace("name: db, port", "name: new, port");
    other.load_balancers = world(&edited).load_balancers;
    let (kept, verdicts) = then(&other, &served);
    assert_eq!(addresses(&kept), BOTH, "there is no such Service yet");
    assert!(verdicts[&object("a")].refuses());

    other.services.insert(object("new"), DB.service());
    let (kept, verdicts) = then(&other, &kept);
    assert_eq!(addresses(&kept), BOTH, "it has no slices yet");
    assert_eq!(sentences(&verdicts, "a"), Vec::<String>::new());
    assert_eq!(kept.next_expiration(), Some(NOW + LIMIT));
    let (gone, _) = translate(&other, &kept, NOW + LIMIT);
    assert_eq!(addresses(&gone), Vec::<String>::new());

    let mut slice = EndpointSlice::clone(&DB.slice(7, &[(3, "")]));
    slice.metadata.labels.as_mut().unwrap().insert("kubernetes.io/service-name".into(), "new".into());
    other.endpoint_slices.insert(object("new-1"), slice.into());
    for previous in [&served, &kept] {
        let (now, _) = then(&other, previous);
        assert_eq!((addresses(&now), now.next_expiration()), (vec!["10.0.0.3:7".to_owned()], None));
    }
}

#[test]
fn a_process_that_starts_in_between_knows_that_something_is_missing() {
    for (what, changes) in gaps() {
        let mut world = before();
        assert!(!first(&world).1[&object("a")].has_unresolved_references());
        changes.iter().for_each(|change| change.apply(&mut world));
        // Kubernetes keeps the slices of a Service whose selector is removed; they are refused.
        if what != "its selector is removed" {
            let (snapshot, verdicts) = first(&world);
            assert_eq!(addresses(&snapshot), Vec::<String>::new(), "{what}");
            assert!(verdicts[&object("a")].has_unresolved_references(), "{what}");
        }
        ObjectChange::Service(None).apply(&mut world);
        assert!(first(&world).1[&object("a")].has_unresolved_references(), "{what}, and the Service is gone");
    }
}

/// Pods in slices of at most this size, in any order.
fn split(pods: u8, most: usize) -> impl Strategy<Value = Vec<Vec<(u8, &'static str)>>> {
    let pods: Vec<(u8, &str)> = (1..=pods).map(|pod| (pod, "")).collect();
    Just(pods).prop_shuffle().prop_map(move |pods| pods.chunks(most).map(<[_]>::to_vec).collect())
}

const OLD: [&str; 3] = ["old-1", "old-2", "old-3"];
const NEW: [&str; 3] = ["new-1", "new-2", "new-3"];

/// Pods of a Service, and changes that lead to another declaration of it. The order of the changes of each object is
/// preserved, any other order is random.
fn any_transition() -> impl Strategy<Value = (World, Vec<ObjectChange>)> {
    let pods = 1..6u8;
    let port = prop::sample::select(vec!["sql", "web"]);
    (pods, port, any::<bool>(), any::<bool>(), prop::sample::select(vec![7u16, 8]))
        .prop_flat_map(|(pods, port, is_recreated, has_new_slices, target)| {
            (split(pods, 2), split(pods, 2), Just((port, is_recreated, has_new_slices, target)))
        })
        .prop_flat_map(|(old, new, (port, is_recreated, has_new_slices, target))| {
            let mut world = before();
            world.endpoint_slices.clear();
            for (name, pods) in OLD.iter().zip(&old) {
                ObjectChange::Slice(name, Some(DB.slice(7, pods))).apply(&mut world);
            }
            let after = Db { uid: if is_recreated { "s2" } else { "s1" }, port, ..DB };
            let service = ObjectChange::Service(Some(after.service()));
            let mut of_objects =
                vec![if is_recreated { vec![ObjectChange::Service(None), service] } else { vec![service] }];
            let names = if has_new_slices || is_recreated { NEW } else { OLD };
            let slice = |(name, pods): (&&'static str, &Vec<_>)| {
                vec![ObjectChange::Slice(name, Some(after.slice(target, pods)))]
            };
            of_objects.extend(names.iter().zip(&new).map(slice));
            if names == NEW {
                of_objects.extend(OLD.iter().map(|name| vec![ObjectChange::Slice(name, None)]));
            }
            let order: Vec<usize> =
                of_objects.iter().enumerate().flat_map(|(index, changes)| vec![index; changes.len()]).collect();
            (Just(world), Just(of_objects), Just(order).prop_shuffle())
        })
        .prop_map(|(world, mut of_objects, order)| {
            let changes = order.into_iter().map(|index| of_objects[index].remove(0)).collect();
            (world, changes)
        })
}

proptest! {
    #[test]
    fn no_order_of_changes_costs_endpoints_on_the_way((mut world, changes) in any_transition()) {
        let (mut snapshot, _) = first(&world);
        let count = addresses(&snapshot).len();
        for change in &changes {
            change.apply(&mut world);
            let verdicts;
            (snapshot, verdicts) = then(&world, &snapshot);
            let found = addresses(&snapshot);
            prop_assert!(found.len() >= count, "{found:?} after {change:?}");
            let is_there = world.services.contains_key(&object("db"));
            prop_assert_eq!(sentences(&verdicts, "a").is_empty(), is_there, "{:?} after {:?}", verdicts, change);
        }
        // The final result equals that of a fresh start.
        let (settled, _) = translate(&world, &snapshot, NOW + SETTLED);
        prop_assert_eq!(addresses(&settled), addresses(&first(&world).0));
        prop_assert_eq!(settled.next_expiration(), None);
    }
}
