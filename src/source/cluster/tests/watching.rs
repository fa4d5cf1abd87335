//! The world under changing answers of the API server.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::future::join_all;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    super::{Changed, Cluster, Home, Scope},
    api_server::ApiServer,
    good_spec, load_balancer,
};
use crate::{
    api::{Placement, RefKind},
    model::ObjectKey,
    world::{ObjectRef, ProcessMode, SLICES_OF, Tenancy, World, managed_service},
};

const LOAD_BALANCERS: &str = "tcploadbalancers";
/// The time limit of each wait in these tests.
const WAIT_LIMIT: Duration = Duration::from_secs(20);

fn start(server: &ApiServer) -> Cluster {
    start_in(server, None)
}

/// Starts with the load balancers of these namespaces.
fn start_in(server: &ApiServer, namespaces: Option<BTreeSet<String>>) -> Cluster {
    start_with(server, namespaces, Tenancy::default())
}

fn start_with(server: &ApiServer, namespaces: Option<BTreeSet<String>>, tenancy: Tenancy) -> Cluster {
    let scope = Scope {
        class: Some("tcplb".into()),
        placement: Placement::Gateway,
        namespaces,
        only: None,
        home: Some(Home { namespace: "shop".into(), allocations: Some(("ports".into(), 20000..=24999)) }),
    };
    Cluster::start(server.client(), scope, ProcessMode::Gateway(Arc::default(), Arc::new(tenancy)), Arc::default())
}

async fn synced(server: &ApiServer) -> Cluster {
    let mut cluster = start(server);
    timeout(WAIT_LIMIT, cluster.synced(WAIT_LIMIT)).await.unwrap();
    cluster
}

async fn world_where(cluster: &mut Cluster, holds: impl Fn(&World) -> bool) -> World {
    let deadline = Instant::now() + WAIT_LIMIT;
    loop {
        let world = cluster.world();
        if holds(&world) {
            return world;
        }
        assert!(timeout_at(deadline, cluster.changed()).await.is_ok(), "{world:#?}");
    }
}

/// The number of failing watches of a kind.
fn failing(cluster: &Cluster, kind: &str) -> usize {
    cluster.common.instruments.watches.totals(std::time::Instant::now())[kind].failing
}

/// The age of the outage of a kind in a second.
fn outage(cluster: &Cluster, kind: &str) -> Duration {
    cluster.common.instruments.watches.totals(std::time::Instant::now() + Duration::from_secs(1))[kind].outage_age
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("shop", name)
}

fn plain(name: &str) -> Value {
    load_balancer(name, name, 1, &good_spec(5432))
}

fn with_tls(name: &str, generation: i64, secret: &str) -> Value {
    let spec = json!({
        "listeners": [{"port": 1, "tls": {"certificateRefs": [{"name": secret}]}}],
        "backends": [{"addresses": ["192.0.2.1:1"]}],
    });
    load_balancer(name, name, generation, &spec)
}

fn secret(name: &str) -> Value {
    json!({"metadata": {"namespace": "shop", "name": name, "uid": name}, "data": {"tls.crt": "Yw==", "tls.key": "aw=="}})
}

fn names(world: &World) -> Vec<&str> {
    world.load_balancers.keys().map(|key| &*key.name).collect()
}

fn referred(name: &str) -> ObjectRef {
    ObjectRef { kind: RefKind::Secret, key: key(name) }
}

#[tokio::test]
async fn objects_of_other_classes_are_ignored_and_those_of_sidecars_validated() {
    let server = ApiServer::start();
    server.put(LOAD_BALANCERS, plain("ours"));
    for (field, value) in [("className", "other"), ("placement", "Host"), ("placement", "Sidecar")] {
        let mut other = plain(value);
        other["spec"][field] = value.into();
        server.put(LOAD_BALANCERS, other);
    }
    let mut cluster = synced(&server).await;
    assert_eq!(names(&cluster.world()), ["Sidecar", "ours"]);
}

#[tokio::test]
async fn a_written_status_is_not_a_new_world() {
    let server = ApiServer::start();
    server.put(LOAD_BALANCERS, plain("a"));
    let mut cluster = synced(&server).await;
    let world = cluster.world();
    let status = json!({"summary": {"status": "Programmed"}});
    let written = |generation| {
        let mut object = load_balancer("a", "a", generation, &good_spec(5432));
        object["status"] = status.clone();
        object
    };
    server.put(LOAD_BALANCERS, written(1));
    assert_eq!(timeout(WAIT_LIMIT, cluster.changed()).await, Ok(Changed::Statuses));
    let statuses = cluster.statuses();
    assert_eq!((&statuses[0].0, json!(statuses[0].1)), (&key("a"), status.clone()));
    assert_eq!(world.load_balancers[&key("a")].status, None);
    assert_eq!(cluster.statuses(), [], "only changes");
    assert_eq!(json!(cluster.world().load_balancers[&key("a")].status), status);

    server.put(LOAD_BALANCERS, written(2));
    assert_eq!(timeout(WAIT_LIMIT, cluster.changed()).await, Ok(Changed::World));
    assert_eq!(json!(cluster.world().load_balancers[&key("a")].status), status);
}

#[tokio::test]
async fn an_expired_or_broken_watch_is_restarted() {
    let server = ApiServer::start();
    server.put(LOAD_BALANCERS, plain("a"));
    let mut cluster = synced(&server).await;
    server.compact_after(|server| {
        server.delete(LOAD_BALANCERS, "a");
        server.put(LOAD_BALANCERS, plain("b"));
    });
    world_where(&mut cluster, |world| names(world) == ["b"]).await;
    server.break_after(|server| {
        server.delete(LOAD_BALANCERS, "b");
        server.put(LOAD_BALANCERS, plain("c"));
    });
    let world = world_where(&mut cluster, |world| names(world) == ["c"]).await;
    assert_eq!(world.problems, Vec::<String>::new());
    server.put(LOAD_BALANCERS, plain("d"));
    world_where(&mut cluster, |world| names(world) == ["c", "d"]).await;
}

#[tokio::test]
async fn losing_the_api_server_changes_nothing() {
    let server = ApiServer::start();
    server.put(LOAD_BALANCERS, with_tls("a", 1, "tls"));
    server.put("secrets", secret("tls"));
    let mut cluster = synced(&server).await;
    let before = cluster.world();
    assert_eq!((names(&before), before.secrets.len()), (vec!["a"], 1));
    drop(server);
    // Each watch has noticed the error, and some have retried.
    assert!(timeout(Duration::from_secs(1), cluster.changed()).await.is_err(), "there is nothing to tell");
    assert!(cluster.common.outage.is_on());
    assert_eq!(cluster.world(), before);
}

#[tokio::test]
async fn an_object_that_cannot_be_read_harms_no_other() {
    let server = ApiServer::start();
    server.put(LOAD_BALANCERS, plain("good"));
    server.put(LOAD_BALANCERS, load_balancer("bad", "bad", 1, &json!({"listeners": "many"})));
    server.put("services", json!({"metadata": {"namespace": "shop", "name": "pg"}, "spec": "none"}));
    let mut cluster = synced(&server).await;
    let world = cluster.world();
    assert_eq!(names(&world), ["bad", "good"]);
    assert!(world.load_balancers[&key("bad")].spec.is_none() && world.load_balancers[&key("good")].spec.is_some());
    assert!(world.unreadable.contains_key(&("Service", key("pg"))));
    assert!(world.problems[0].starts_with("Service shop/pg: spec: invalid type"), "{:?}", world.problems);
    server.put(LOAD_BALANCERS, load_balancer("good", "good", 2, &json!({})));
    let world = world_where(&mut cluster, |world| !world.load_balancers[&key("good")].problems.is_empty()).await;
    assert!(world.load_balancers[&key("good")].spec.is_some());
}

#[tokio::test]
async fn a_load_balancer_is_shown_once_its_secrets_have_been_read() {
    let server = ApiServer::start();
    server.put("secrets", secret("one"));
    let mut cluster = synced(&server).await;
    server.fall_silent("secrets");
    server.put(LOAD_BALANCERS, plain("plain"));
    server.put(LOAD_BALANCERS, with_tls("a", 1, "one"));
    let world = world_where(&mut cluster, |world| !world.load_balancers.is_empty()).await;
    assert_eq!(names(&world), ["plain"]);
    server.speak("secrets");
    let world = world_where(&mut cluster, |world| names(world) == ["a", "plain"]).await;
    assert!(world.secrets.contains_key(&key("one")));

    server.fall_silent("secrets");
    server.put(LOAD_BALANCERS, with_tls("a", 2, "two"));
    server.put(LOAD_BALANCERS, plain("later"));
    let world = world_where(&mut cluster, |world| names(world).contains(&"later")).await;
    let generation = |world: &World| world.load_balancers[&key("a")].identity.as_ref().unwrap().generation;
    assert_eq!(generation(&world), 1, "as it was");
    assert!(world.secrets.contains_key(&key("one")));
    server.speak("secrets");
    let world = world_where(&mut cluster, |world| generation(world) == 2).await;
    assert!(world.secrets.is_empty(), "there is none of that name, and nobody refers to the other");
}

#[tokio::test]
async fn no_number_of_secrets_holds_up_the_load_balancers_without_any() {
    let server = ApiServer::start();
    server.fall_silent("secrets");
    server.put(LOAD_BALANCERS, plain("plain"));
    for number in 0..100 {
        server.put(LOAD_BALANCERS, with_tls(&format!("a{number}"), 1, &format!("tls{number}")));
        server.put("secrets", secret(&format!("tls{number}")));
    }
    let mut cluster = start(&server);
    timeout(WAIT_LIMIT, cluster.synced(Duration::from_millis(300))).await.unwrap();
    assert_eq!(names(&cluster.world()), ["plain"]);
    server.speak("secrets");
    let world = world_where(&mut cluster, |world| world.load_balancers.len() == 101).await;
    assert_eq!(world.secrets.len(), 100);
}

#[tokio::test]
async fn secrets_beyond_the_quota_are_not_watched_and_hold_nothing_up() {
    let server = ApiServer::start();
    for index in 0..50 {
        let name = format!("s{index:02}");
        server.put("secrets", secret(&name));
        let mut load_balancer = with_tls(&format!("a{index:02}"), 1, &name);
        if index % 5 == 0 {
            load_balancer["spec"]["placement"] = "Sidecar".into();
        }
        server.put(LOAD_BALANCERS, load_balancer);
    }
    let tenancy = Tenancy { secrets_per_namespace: Some(3), ..Tenancy::default() };
    let mut cluster = start_with(&server, None, tenancy);
    timeout(WAIT_LIMIT, cluster.synced(WAIT_LIMIT)).await.unwrap();
    let world = world_where(&mut cluster, |world| world.load_balancers.len() == 50).await;
    let read = |world: &World| world.secrets.keys().map(|key| key.name.to_string()).collect::<Vec<_>>();
    assert_eq!(
        (read(&world), cluster.watches.secrets.iter().count()),
        (vec!["s01".into(), "s02".into(), "s03".into()], 3)
    );
    assert_eq!(world.beyond_quota.len(), 47);
    assert!(world.beyond_quota.contains(&referred("s00")) && world.problems.is_empty());

    // A Secret that makes room. Until the Secret that takes its place has been read, that one counts as beyond the
    // quota.
    server.fall_silent("secrets");
    server.delete(LOAD_BALANCERS, "a02");
    let world = world_where(&mut cluster, |world| world.load_balancers.len() == 49).await;
    assert!(world.beyond_quota.contains(&referred("s04")) && !world.secrets.contains_key(&key("s04")));
    server.speak("secrets");
    let world = world_where(&mut cluster, |world| world.secrets.contains_key(&key("s04"))).await;
    assert_eq!(read(&world), ["s01", "s03", "s04"]);
    assert!(!world.beyond_quota.contains(&referred("s04")));
    assert_eq!(cluster.watches.secrets.iter().count(), 3);
}

#[tokio::test]
async fn a_forbidden_secret_is_reported_until_it_is_permitted() {
    let server = ApiServer::start();
    server.put("secrets", secret("tls"));
    server.refuse("secrets");
    server.put(LOAD_BALANCERS, with_tls("a", 1, "tls"));
    server.put(LOAD_BALANCERS, plain("plain"));
    let mut cluster = synced(&server).await;
    let world = cluster.world();
    assert_eq!(names(&world), ["a", "plain"]);
    assert!(world.unreadable.contains_key(&("Secret", key("tls"))));
    let world = world_where(&mut cluster, |world| !world.problems.is_empty()).await;
    let problem = "Secret shop/tls cannot be watched: secrets is forbidden: allow get, list and watch";
    assert_eq!(world.problems, [problem]);
    assert_eq!((failing(&cluster, "Secret"), outage(&cluster, "Secret")), (1, Duration::ZERO), "the status shows it");
    server.allow("secrets");
    world_where(&mut cluster, |world| {
        world.secrets.contains_key(&key("tls")) && world.problems.is_empty() && world.unreadable.is_empty()
    })
    .await;

    server.refuse("secrets");
    server.break_after(|_| {});
    let world = world_where(&mut cluster, |world| !world.problems.is_empty()).await;
    assert!(world.secrets.contains_key(&key("tls")) && world.unreadable.is_empty(), "what it was stays");
    assert!(failing(&cluster, "Secret") == 1 && outage(&cluster, "Secret") > Duration::ZERO, "no status shows it");
}

#[tokio::test]
async fn services_and_slices_forbidden_to_a_sidecar_are_not_reported_as_missing() {
    let server = ApiServer::start();
    let spec = json!({
        "placement": "Sidecar", "listeners": [{"port": 1}], "backends": [{"service": {"name": "pg", "port": 5432}}],
    });
    server.put(LOAD_BALANCERS, load_balancer("a", "a", 1, &spec));
    server
        .put("services", json!({"metadata": {"namespace": "shop", "name": "pg"}, "spec": {"ports": [{"port": 5432}]}}));
    let start = || {
        let scope = Scope {
            class: None,
            placement: Placement::Sidecar,
            namespaces: Some(["shop".to_owned()].into()),
            only: Some(key("a")),
            home: None,
        };
        Cluster::start(
            server.client(),
            scope,
            ProcessMode::Sidecar(std::net::Ipv4Addr::LOCALHOST.into()),
            Arc::default(),
        )
    };
    for (plural, kind) in [("services", "Service"), ("endpointslices", SLICES_OF)] {
        server.refuse(plural);
        let mut cluster = start();
        timeout(WAIT_LIMIT, cluster.synced(Duration::from_millis(50))).await.unwrap();
        let world = world_where(&mut cluster, |world| world.unreadable.contains_key(&(kind, key("pg")))).await;
        let (_, verdicts) = crate::translate::translate(&world, &Default::default(), jiff::Timestamp::now());
        let messages = verdicts[&key("a")].problems.iter().map(ToString::to_string).collect::<String>();
        let expected = format!("{kind} shop/pg cannot be read: {plural} is forbidden: allow get, list and watch");
        assert!(messages.contains(&expected) && !messages.contains("does not exist"), "{messages}");
        server.allow(plural);
        world_where(&mut cluster, |world| world.unreadable.is_empty()).await;
    }
}

#[tokio::test]
async fn authorities_refused_before_an_outage_stay_unread() {
    let server = ApiServer::start();
    let mut cluster = synced(&server).await;
    server.refuse("configmaps");
    let tls = json!({"certificateRefs": [{"name": "tls"}], "clientValidation": {"caRefs": [{"name": "ca"}]}});
    let spec = json!({"listeners": [{"port": 1, "tls": tls}], "backends": [{"addresses": ["192.0.2.1:1"]}]});
    server.put("secrets", secret("tls"));
    server.put(LOAD_BALANCERS, load_balancer("a", "a", 1, &spec));
    let why = |world: &World| world.unreadable.get(&("ConfigMap", key("ca"))).map(ToString::to_string);
    let is_refused = |world: &World| why(world).is_some_and(|why| why.contains("forbidden: allow get, list and watch"));
    let world = world_where(&mut cluster, |world| names(world) == ["a"] && is_refused(world)).await;
    assert!(world.beyond_quota.is_empty());

    server.fail("configmaps");
    let world = world_where(&mut cluster, |world| why(world).is_none_or(|why| why.contains("out of order"))).await;
    assert!(why(&world).is_some() && world.beyond_quota.is_empty(), "{:?}", world.beyond_quota);
}

#[tokio::test]
async fn the_api_servers_addresses_are_known_whatever_namespaces_are_watched() {
    let server = ApiServer::start();
    let at = |labels: Value| json!({"namespace": "default", "name": "kubernetes", "labels": labels});
    server.put("services", json!({"metadata": at(json!({})), "spec": {"clusterIP": "10.96.0.1"}}));
    let slice = json!({
        "metadata": at(json!({"kubernetes.io/service-name": "kubernetes"})),
        "addressType": "IPv4", "endpoints": [{"addresses": ["192.0.2.1"]}], "ports": [{"port": 6443}],
    });
    server.put("endpointslices", slice);
    server.put(LOAD_BALANCERS, plain("a"));
    let mut cluster = start_in(&server, Some(["shop".to_owned()].into()));
    timeout(WAIT_LIMIT, cluster.synced(WAIT_LIMIT)).await.unwrap();
    let (world, api_server) = (cluster.world(), ObjectKey::new("default", "kubernetes"));
    assert!(world.services.contains_key(&api_server) && world.endpoint_slices.contains_key(&api_server));
    assert_eq!((names(&world), world.problems.len()), (vec!["a"], 0));
}

#[tokio::test]
async fn forbidden_api_server_addresses_are_reported_and_delay_nothing() {
    let server = ApiServer::start();
    server.refuse_in("default", "services");
    server.refuse_in("default", "endpointslices");
    server.put(LOAD_BALANCERS, plain("a"));
    let mut cluster = start_in(&server, Some(["shop".to_owned()].into()));
    timeout(WAIT_LIMIT, cluster.synced(Duration::from_hours(1))).await.unwrap();
    assert_eq!(names(&cluster.world()), ["a"]);
    let world = world_where(&mut cluster, |world| world.problems.len() == 2).await;
    assert!(outage(&cluster, "Service") > Duration::ZERO);
    let expected = [
        "Service default/kubernetes cannot be watched: services is forbidden: allow get, list and watch",
        "EndpointSlice default/kubernetes cannot be watched: endpointslices is forbidden: allow get, list and watch",
    ];
    assert_eq!(world.problems, expected);
}

#[tokio::test]
async fn lasting_refusals_are_reported_and_not_waited_for() {
    let server = ApiServer::start();
    server.put(LOAD_BALANCERS, plain("a"));
    server.refuse_in("other", LOAD_BALANCERS);
    let mut cluster = start_in(&server, Some(["shop".to_owned(), "other".to_owned()].into()));
    timeout(WAIT_LIMIT, cluster.synced(Duration::from_millis(300))).await.unwrap();
    let problem = "TcpLoadBalancers in namespace other cannot be watched: tcploadbalancers is forbidden: allow get, list \
                   and watch";
    let world = world_where(&mut cluster, |world| !world.problems.is_empty()).await;
    assert_eq!((names(&world), &*world.problems), (vec!["a"], &[problem.to_owned()][..]));
    server.allow(LOAD_BALANCERS);
    world_where(&mut cluster, |world| world.problems.is_empty()).await;
}

#[tokio::test]
async fn a_world_requires_all_kinds_of_objects() {
    let without = async |plural: &str| {
        let server = ApiServer::start();
        server.put(LOAD_BALANCERS, plain("a"));
        server.refuse(plural);
        let mut cluster = start(&server);
        let syncing = timeout(Duration::from_secs(3), cluster.synced(Duration::from_millis(50)));
        assert!(syncing.await.is_err(), "{plural}");
        server.allow(plural);
        timeout(WAIT_LIMIT, cluster.synced(Duration::ZERO)).await.unwrap();
        assert_eq!(names(&cluster.world()), ["a"]);
    };
    join_all([LOAD_BALANCERS, "services", "endpointslices", "configmaps"].map(without)).await;
}

#[tokio::test]
async fn load_balancers_are_not_shown_without_the_services_and_slices_of_their_namespace() {
    for plural in ["services", "endpointslices"] {
        let server = ApiServer::start();
        server
            .put(LOAD_BALANCERS, json!({"metadata": {"namespace": "other", "name": "b"}, "spec": plain("b")["spec"]}));
        server.refuse_in("other", plural);
        let mut cluster = start_in(&server, Some(["other".to_owned()].into()));
        let syncing = timeout(Duration::from_secs(3), cluster.synced(Duration::from_millis(50)));
        assert!(syncing.await.is_err(), "{plural}: the controller's own namespace has been read, and is not enough");
        server.allow(plural);
        timeout(WAIT_LIMIT, cluster.synced(Duration::ZERO)).await.unwrap();
    }
}

#[tokio::test]
async fn the_right_to_list_alone_is_not_enough() {
    let server = ApiServer::start();
    server.put(LOAD_BALANCERS, plain("a"));
    server.refuse_to_watch(LOAD_BALANCERS);
    let mut cluster = synced(&server).await;
    let world = world_where(&mut cluster, |world| !world.problems.is_empty()).await;
    let problem = "TcpLoadBalancers cannot be watched: tcploadbalancers is forbidden: allow get, list and watch; the \
                   objects read before stay in use";
    assert_eq!((names(&world), &*world.problems), (vec!["a"], &[problem.to_owned()][..]));
    server.allow(LOAD_BALANCERS);
    world_where(&mut cluster, |world| world.problems.is_empty()).await;
}

#[tokio::test]
async fn an_api_server_that_does_not_answer_is_waited_for() {
    let server = ApiServer::start();
    server.put(LOAD_BALANCERS, plain("a"));
    server.fall_silent(LOAD_BALANCERS);
    let mut cluster = start(&server);
    let syncing = timeout(Duration::from_millis(500), cluster.synced(Duration::from_millis(50)));
    assert!(syncing.await.is_err());
    server.speak(LOAD_BALANCERS);
    timeout(WAIT_LIMIT, cluster.synced(Duration::ZERO)).await.unwrap();
    assert_eq!(names(&cluster.world()), ["a"]);
}

#[tokio::test]
async fn ports_stay_as_they_were_when_their_config_map_is_gone() {
    let ports = |world: &World| match &world.mode {
        ProcessMode::Gateway(allocations, _) => allocations.0.keys().copied().collect::<Vec<_>>(),
        _ => Vec::new(),
    };
    let server = ApiServer::start();
    let map = |port: &str| {
        let data = json!({port: r#"{"uid": "u1", "port": 5432, "object": "shop/pg"}"#});
        json!({"metadata": {"namespace": "shop", "name": "ports"}, "data": data})
    };
    let mut cluster = synced(&server).await;
    assert!(ports(&cluster.world()).is_empty());
    server.put("configmaps", map("20000"));
    world_where(&mut cluster, |world| ports(world) == [20000]).await;
    server.delete("configmaps", "ports");
    let world = world_where(&mut cluster, |world| !world.problems.is_empty()).await;
    assert_eq!(ports(&world), [20000]);
    assert!(world.ports_are_lost);
    server.put("configmaps", map("20001"));
    let world = world_where(&mut cluster, |world| ports(world) == [20001]).await;
    assert!(world.problems.is_empty() && !world.ports_are_lost);
}

#[tokio::test]
async fn services_take_precedence_over_stored_allocations() {
    let owner = |world: &World| match &world.mode {
        ProcessMode::Gateway(allocations, _) => allocations.0.get(&20000).map(|allocation| allocation.uid.to_string()),
        _ => None,
    };
    let server = ApiServer::start();
    let service = json!({
        "metadata": {
            "namespace": "shop", "name": managed_service::name(&key("pg")),
            "labels": {"app.kubernetes.io/managed-by": "tcplb", "tcplb.io/class": "tcplb"},
            "annotations": {"tcplb.io/owner": "shop/pg", "tcplb.io/uid": "u1"},
        },
        "spec": {"ports": [{"port": 5432, "targetPort": 20000}]},
    });
    server.put("services", service);
    let mut cluster = synced(&server).await;
    assert_eq!(owner(&cluster.world()).as_deref(), Some("u1"));
    let data = json!({
        "20000": r#"{"uid": "u2", "port": 5432, "object": "shop/other"}"#,
        "20001": r#"{"uid": "u3", "port": 5432, "object": "shop/third"}"#,
    });
    server.put("configmaps", json!({"metadata": {"namespace": "shop", "name": "ports"}, "data": data}));
    let world = world_where(&mut cluster, |world| !world.ports_are_lost).await;
    assert_eq!(owner(&world).as_deref(), Some("u1"), "clients come through its Service");
}

#[tokio::test]
async fn a_sidecar_reads_its_load_balancer_and_what_that_refers_to() {
    let server = ApiServer::start();
    for name in ["pg", "other"] {
        server.put("services", json!({"metadata": {"namespace": "shop", "name": name}}));
    }
    let scope =
        Scope { class: None, placement: Placement::Sidecar, namespaces: None, only: Some(key("a")), home: None };
    let mut cluster =
        Cluster::start(server.client(), scope, ProcessMode::Sidecar([127, 0, 0, 1].into()), Arc::default());
    timeout(WAIT_LIMIT, cluster.synced(WAIT_LIMIT)).await.unwrap();
    let world = cluster.world();
    assert_eq!(world.problems, ["there is no TcpLoadBalancer shop/a: create it, with `placement: Sidecar`"]);
    server.put(LOAD_BALANCERS, plain("a"));
    let world = world_where(&mut cluster, |world| !world.problems[0].starts_with("there is no")).await;
    assert!(world.problems[0].starts_with("TcpLoadBalancer shop/a has placement Gateway"), "{:?}", world.problems);
    assert!(world.load_balancers.is_empty());

    let mut ours = plain("a");
    ours["spec"]["placement"] = "Sidecar".into();
    server.put(LOAD_BALANCERS, ours);
    let world = world_where(&mut cluster, |world| !world.load_balancers.is_empty()).await;
    assert_eq!(world.services.keys().collect::<Vec<_>>(), [&key("pg")], "it is read before the load balancer is shown");
    assert_eq!(world.problems, Vec::<String>::new());
}
