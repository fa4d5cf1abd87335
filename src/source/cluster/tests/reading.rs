//! Reading of objects with any content.

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::api::{
    core::v1::{Secret, Service},
    discovery::v1::EndpointSlice,
};
use kube::runtime::watcher::Event;
use serde_json::{Value, json};

use super::{
    super::{
        Home, Scope,
        kinds::{
            CachedObject,
            ChangeScope::{self, Content, Nothing, Statuses},
            LoadBalancer, PortAllocations, WatchedObject,
        },
        selector::{Interest, Selector},
        store::Store,
        watches::Selectors,
    },
    good_spec, load_balancer, object,
};
use crate::{api::Placement, model::ObjectKey};

fn read(value: Value, before: Option<&LoadBalancer>) -> LoadBalancer {
    LoadBalancer::read(object(value), before)
}

#[test]
fn a_load_balancer_is_read_with_its_identity_and_status() {
    let mut value = load_balancer("pg", "u1", 3, &good_spec(5432));
    value["status"] = json!({"summary": {"status": "Programmed"}});
    let read = read(value, None);
    let identity = read.declared.identity.unwrap();
    assert_eq!((&*identity.uid, identity.generation), ("u1", 3));
    assert_eq!(identity.created.to_string(), "2026-01-02T03:04:05Z");
    assert_eq!(read.declared.spec.unwrap().listeners[0].port, 5432);
    assert_eq!(read.declared.status.unwrap().summary.as_ref().unwrap().status.as_deref(), Some("Programmed"));
    assert_eq!((&*read.class, &*read.placement), ("tcplb", "Gateway"), "where it names none");
}

#[test]
fn an_invalid_spec_is_reported_with_its_field_and_the_last_good_one_stays() {
    let good = read(load_balancer("pg", "u1", 1, &good_spec(5432)), None);
    let cases = [
        (json!({"listeners": [{"port": "x"}], "backends": []}), "spec.listeners[0].port: invalid type: string \"x\""),
        (json!({"listeners": [{"port": 70000}], "backends": []}), "spec.listeners[0].port: invalid value: integer"),
        (json!({"backends": []}), "spec: missing field `listeners`"),
        (json!({"listeners": [{}], "backends": []}), "spec.listeners[0]: missing field `port`"),
        (json!({"placement": "Moon", "listeners": [], "backends": []}), "spec.placement: unknown variant `Moon`"),
        (json!(null), "spec: invalid type: null"),
        (json!([1]), "spec"),
    ];
    for (spec, problem) in cases {
        let wrong = read(load_balancer("pg", "u1", 2, &spec), Some(&good));
        assert!(wrong.declared.problems[0].starts_with(problem), "{:?}", wrong.declared.problems);
        assert_eq!(wrong.declared.spec, good.declared.spec);
        assert_eq!(wrong.declared.identity.as_ref().unwrap().generation, 2);

        let another = read(load_balancer("pg", "u2", 1, &spec), Some(&good));
        assert_eq!(another.declared.spec, None, "another object inherits nothing");
        assert_eq!(another.declared.problems.len(), 1);
    }
}

#[test]
fn a_wrong_value_is_quoted_in_part() {
    let long = "ä".repeat(100_000);
    let wrong = read(load_balancer("pg", "u1", 1, &json!({"listeners": [{"port": long}], "backends": []})), None);
    assert!(wrong.declared.problems[0].len() < 1000);
}

#[test]
fn unknown_fields_and_foreign_statuses_are_accepted() {
    let mut value = load_balancer("pg", "u1", 1, &good_spec(5432));
    value["spec"]["listeners"][0]["novelty"] = json!({"deep": [1]});
    value["status"] = json!({"conditions": "all well"});
    let read = read(value, None);
    assert_eq!(read.declared.problems, Vec::<String>::new());
    assert!(read.declared.spec.is_some() && read.declared.status.is_none());
}

#[test]
fn unchanged_objects_keep_their_allocation() {
    let before = read(load_balancer("pg", "u1", 1, &good_spec(5432)), None);
    let mut value = load_balancer("pg", "u1", 1, &good_spec(5432));
    value["status"] = json!({"summary": {}});
    let now = read(value, Some(&before));
    assert!(Arc::ptr_eq(&before.declared.spec.unwrap(), &now.declared.spec.unwrap()));
    assert!(before.declared.status.is_none() && now.declared.status.is_some());
}

#[test]
fn unneeded_fields_are_dropped() {
    let secret = CachedObject::<Secret>::read(
        object(json!({
            "metadata": {"name": "tls", "namespace": "shop", "labels": {"a": "b"}, "annotations": {"c": "d"}},
            "type": "kubernetes.io/tls",
            "data": {"tls.crt": "Yw==", "tls.key": "aw==", "password": "c2VjcmV0", "keystore": "QUFB".repeat(400)},
        })),
        None,
    );
    let secret = serde_json::to_value(&*secret.good().unwrap().clone()).unwrap();
    let short = "that may be what a check logs in with";
    assert_eq!(secret["data"], json!({"tls.crt": "Yw==", "tls.key": "aw==", "password": "c2VjcmV0"}), "{short}");
    assert_eq!(secret["metadata"], json!({"name": "tls", "namespace": "shop"}));

    let service = CachedObject::<Service>::read(
        object(json!({
            "metadata": {
                "name": "pg", "managedFields": [{"manager": "kubectl"}], "labels": {"a": "b"},
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "c": "d"},
            },
            "spec": {"ports": [{"port": 1}]},
        })),
        None,
    );
    let service = service.good().unwrap().clone();
    assert_eq!(service.metadata.managed_fields, None);
    assert_eq!(service.metadata.annotations.as_ref().unwrap().keys().collect::<Vec<_>>(), ["c"]);
    assert_eq!(service.spec.as_ref().unwrap().ports.as_ref().unwrap()[0].port, 1);

    let kept = json!({
        "name": "pg-1", "namespace": "shop", "deletionTimestamp": "2026-01-02T03:04:05Z",
        "labels": {"kubernetes.io/service-name": "pg", "endpointslice.kubernetes.io/managed-by": "c"},
        "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": "pg", "uid": "u"}],
    });
    let mut metadata = kept.clone();
    metadata["labels"]["app"] = "pg".into();
    for field in ["uid", "generateName", "resourceVersion"] {
        metadata[field] = "x".into();
    }
    let slice = json!({"metadata": metadata, "addressType": "IPv4", "endpoints": []});
    let slice = CachedObject::<EndpointSlice>::read(object(slice), None).good().unwrap().clone();
    assert_eq!(serde_json::to_value(&slice.metadata).unwrap(), kept);
}

#[test]
fn an_unreadable_object_is_reported_and_its_last_good_version_stays() {
    let service = |ports: Value| object(json!({"metadata": {"name": "pg", "uid": "u1"}, "spec": {"ports": ports}}));
    let good = CachedObject::<Service>::read(service(json!([{"port": 1}])), None);
    let wrong = CachedObject::<Service>::read(service(json!([{"port": "x"}])), Some(&good));
    assert!(wrong.problem.as_ref().unwrap().starts_with("spec.ports[0].port: invalid type"));
    assert!(wrong.good() == good.good() && wrong.good().is_some());

    let slice = object(json!({"metadata": {"name": "pg-1"}, "addressType": "IPv4", "endpoints": 7}));
    let slice = CachedObject::<EndpointSlice>::read(slice, None);
    assert!(slice.problem.is_some() && slice.good().is_none());
}

#[test]
fn messages_about_a_secret_do_not_contain_its_data() {
    for data in [json!({"tls.key": "hunter2 is no base64"}), json!({"tls.key": ["hunter2"]}), json!("hunter2")] {
        let secret = CachedObject::<Secret>::read(object(json!({"metadata": {"name": "tls"}, "data": data})), None);
        let problem = secret.problem.unwrap();
        assert!(problem.starts_with("data") && !problem.contains("hunter2"), "{problem}");
    }
}

#[test]
fn allocations_are_read_with_their_problems() {
    let map = json!({"metadata": {"name": "ports"}, "data": {
        "20000": r#"{"uid": "u1", "port": 5432, "object": "shop/pg"}"#, "tea": "{}",
    }});
    let ports = CachedObject::<PortAllocations>::read(object(map), None).good().unwrap().clone();
    assert_eq!(ports.allocations.port_of("u1", 5432), Some(20000));
    assert_eq!(ports.problems.len(), 1);
}

/// A store of load balancers after some events, and the change of each event.
fn store(events: Vec<Event<Value>>) -> (Store<LoadBalancer>, Vec<ChangeScope>) {
    let mut store = Store::default();
    let changes = events
        .into_iter()
        .map(|event| {
            let event = match event {
                Event::Init => Event::Init,
                Event::InitApply(value) => Event::InitApply(object(value)),
                Event::InitDone => Event::InitDone,
                Event::Apply(value) => Event::Apply(object(value)),
                Event::Delete(value) => Event::Delete(object(value)),
            };
            store.take(event, &Interest::default())
        })
        .collect();
    (store, changes)
}

fn names(store: &Store<LoadBalancer>) -> Vec<&str> {
    store.objects().keys().map(|key| &*key.name).collect()
}

#[test]
fn a_listing_counts_once_it_is_complete() {
    let [a, b] = ["a", "b"].map(|name| load_balancer(name, name, 1, &good_spec(1)));
    let listed = vec![Event::Init, Event::InitApply(a.clone()), Event::InitDone];
    let (first, changes) = store(listed.clone());
    assert_eq!((names(&first), changes), (vec!["a"], vec![Nothing, Nothing, Content]));

    let cut_short = [listed.clone(), vec![Event::Init, Event::InitApply(b.clone())]].concat();
    assert_eq!(names(&store(cut_short.clone()).0), ["a"], "what was there stays until then");
    let begun_again = [cut_short, vec![Event::Init, Event::InitApply(b.clone()), Event::InitDone]].concat();
    assert_eq!(names(&store(begun_again).0), ["b"], "what is not listed has been deleted");

    let same = [listed.clone(), listed].concat();
    assert_eq!(store(same).1.last(), Some(&Nothing), "the same once more is no change");
    assert_eq!(store(vec![Event::Init, Event::InitDone]).1, [Nothing, Content], "even if there is nothing");
}

#[test]
fn changes_and_deletions_count_at_once() {
    let object = |generation, port| load_balancer("a", "u1", generation, &good_spec(port));
    let (store, changes) = store(vec![
        Event::Init,
        Event::InitDone,
        Event::Apply(object(1, 1)),
        Event::Apply(object(1, 1)),
        Event::Apply(object(2, 2)),
        Event::Delete(object(2, 2)),
        Event::Delete(object(2, 2)),
    ]);
    assert_eq!(changes, [Nothing, Content, Content, Nothing, Content, Content, Nothing]);
    assert!(store.objects().is_empty());
}

#[test]
fn an_unchanged_object_leaves_the_map_as_it_is() {
    let object = |port| object(load_balancer("a", "u1", 1, &good_spec(port)));
    let (mut store, interest) = (Store::<LoadBalancer>::default(), Interest::default());
    store.take(Event::Apply(object(1)), &interest);
    let before = store.objects().clone();
    assert_eq!(store.take(Event::Apply(object(1)), &interest), Nothing);
    assert!(store.objects().ptr_eq(&before));
    assert_eq!(store.take(Event::Apply(object(2)), &interest), Content);
    assert!(!store.objects().ptr_eq(&before));
}

#[test]
fn status_changes_differ_from_content_changes() {
    let object = |generation, port, status: &str| {
        let mut object = load_balancer("a", "u1", generation, &good_spec(port));
        object["status"] = json!({"summary": {"status": status}});
        object
    };
    let (_, changes) = store(vec![
        Event::Init,
        Event::InitApply(object(1, 1, "Pending")),
        Event::InitDone,
        Event::Apply(object(1, 1, "Programmed")),
        Event::Apply(object(2, 2, "Invalid")),
        Event::Init,
        Event::InitApply(object(2, 2, "Programmed")),
        Event::InitDone,
        Event::Apply(load_balancer("a", "u2", 2, &good_spec(2))),
    ]);
    assert_eq!(changes, [Nothing, Nothing, Content, Statuses, Content, Nothing, Nothing, Statuses, Content]);
}

#[test]
fn a_good_text_is_remembered_over_a_new_listing() {
    let wrong = load_balancer("a", "u1", 2, &json!({"listeners": 7}));
    let (store, _) = store(vec![
        Event::Init,
        Event::InitApply(load_balancer("a", "u1", 1, &good_spec(1))),
        Event::InitDone,
        Event::Init,
        Event::InitApply(wrong),
        Event::InitDone,
    ]);
    let declared = &store.objects()[&ObjectKey::new("shop", "a")].declared;
    assert!(declared.spec.is_some() && declared.problems.len() == 1);
}

#[test]
fn changes_of_unreferenced_objects_are_ignored() {
    let slice = |name: &str, service: &str, address: &str| {
        object(json!({
            "metadata": {"namespace": "shop", "name": name, "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4", "endpoints": [{"addresses": [address]}],
        }))
    };
    let interest = Interest { services: [ObjectKey::new("shop", "pg")].into(), home: Some("home".into()) };
    let mut store = Store::<CachedObject<EndpointSlice>>::default();
    store.take(Event::Init, &interest);
    store.take(Event::InitDone, &interest);
    assert_eq!(store.take(Event::Apply(slice("a", "pg", "10.0.0.1")), &interest), Content);
    assert_eq!(store.take(Event::Apply(slice("b", "other", "10.0.0.1")), &interest), Nothing);
    let to_another_service = store.take(Event::Apply(slice("a", "other", "10.0.0.1")), &interest);
    assert_eq!(to_another_service, Content);
    assert_eq!(store.take(Event::Delete(slice("a", "other", "10.0.0.1")), &interest), Nothing);
    for (service, concerns) in [("home/any", true), ("shop/other", false), ("default/kubernetes", true)] {
        let (namespace, name) = service.split_once('/').unwrap();
        assert_eq!(interest.has(&ObjectKey::new(namespace, name)), concerns, "{service}");
    }
}

fn scope(namespaces: Option<&[&str]>, only: Option<ObjectKey>, home: Option<&str>) -> Scope {
    Scope {
        class: None,
        placement: Placement::Gateway,
        namespaces: namespaces.map(|names| names.iter().map(|name| (*name).to_owned()).collect()),
        only,
        home: home
            .map(|namespace| Home { namespace: namespace.into(), allocations: Some(("ports".into(), 20000..=24999)) }),
    }
}

fn described(kind: &str, selectors: &BTreeSet<Selector>) -> Vec<String> {
    selectors.iter().map(|selector| selector.of_kind(kind)).collect()
}

#[test]
fn a_controller_watches_its_namespaces_and_its_own() {
    let all = Selectors::of_scope(&scope(None, None, Some("home")));
    assert_eq!(described("Service", &all.services), ["Services"]);
    assert_eq!(described("ConfigMap", &all.ports), ["ConfigMap home/ports"]);

    let some = Selectors::of_scope(&scope(Some(&["a", "b"]), None, Some("home")));
    assert_eq!(described("TcpLoadBalancer", &some.load_balancers).len(), 2, "none of its own");
    let expected = [
        "Services in namespace a",
        "Services in namespace b",
        "Service default/kubernetes",
        "Services in namespace home",
    ];
    assert_eq!(described("Service", &some.services), expected);
    assert_eq!(described("EndpointSlice", &some.slices)[2], "EndpointSlice default/kubernetes");
    let with_default = Selectors::of_scope(&scope(Some(&["default"]), None, Some("home")));
    assert_eq!(
        described("Service", &with_default.services),
        ["Services in namespace default", "Services in namespace home"]
    );
}

#[test]
fn secrets_are_watched_by_name() {
    let spec = json!({
        "listeners": [
            {"port": 1, "tls": {"certificateRefs": [{"name": "a"}, {"name": "b"}]}},
            {"port": 2, "tls": {"certificateRefs": [{"name": "a"}, {"files": {"certificate": "c", "key": "k"}}]}},
        ],
        "backends": [{
            "service": {"name": "pg", "port": 1},
            "healthCheck": {"active": {"type": "MySQL", "mysql": {"user": "u", "passwordRef": {"name": "c"}}}},
        }],
        "healthCheck": {"active": {"type": "Redis", "redis": {"passwordRef": {"name": "d"}}}},
    });
    let (spec, key) = (serde_json::from_value(spec).unwrap(), ObjectKey::new("shop", "pg"));
    let needed = Selectors::of_load_balancer(&scope(None, None, None), &key, &spec);
    assert_eq!(
        described("Secret", &needed.secrets),
        ["Secret shop/a", "Secret shop/b", "Secret shop/c", "Secret shop/d"]
    );
    assert!(needed.services.is_empty(), "all Services are watched anyway");
    let fields: Vec<_> = needed.secrets.iter().filter_map(Selector::fields).collect();
    assert_eq!(fields, ["metadata.name=a", "metadata.name=b", "metadata.name=c", "metadata.name=d"]);
}

#[test]
fn a_sidecar_watches_objects_by_name() {
    let key = ObjectKey::new("shop", "pg");
    let scope = scope(None, Some(key.clone()), None);
    let always = Selectors::of_scope(&scope);
    assert_eq!(described("TcpLoadBalancer", &always.load_balancers), ["TcpLoadBalancer shop/pg"]);
    assert!(always.services.is_empty() && always.slices.is_empty() && always.ports.is_empty());
    let spec = serde_json::from_value(good_spec(1)).unwrap();
    let needed = Selectors::of_load_balancer(&scope, &key, &spec);
    assert_eq!(described("Service", &needed.services), ["Service shop/pg"]);
    assert_eq!(described("EndpointSlice", &needed.slices), ["EndpointSlices of Service shop/pg"]);
    let labels: Vec<_> = needed.slices.iter().filter_map(Selector::labels).collect();
    assert_eq!(labels, ["kubernetes.io/service-name=pg"]);
}

#[test]
fn unused_slices_are_packed_and_restored_unchanged() {
    let slice = |name: &str, address: &str| {
        let endpoint = json!({"addresses": [address], "targetRef": {"kind": "Pod", "uid": "p"}, "zone": "z"});
        object(json!({
            "metadata": {"namespace": "shop", "name": name, "labels": {"kubernetes.io/service-name": "db"}},
            "addressType": "IPv4", "endpoints": [endpoint], "ports": [{"port": 1}],
        }))
    };
    let key = ObjectKey::new("shop", "a");
    let wanted = Interest { services: [ObjectKey::new("shop", "db")].into(), home: None };
    let mut store = Store::<CachedObject<EndpointSlice>>::default();
    let good = |store: &Store<CachedObject<EndpointSlice>>| store.objects()[&key].good().cloned();
    for event in [Event::Init, Event::InitApply(slice("a", "10.0.0.1")), Event::InitDone] {
        store.take(event, &Interest::default());
    }
    assert!(good(&store).is_none() && store.objects()[&key].is_readable(), "it is packed");
    store.follow_interest(&wanted);
    let whole = CachedObject::<EndpointSlice>::read(slice("a", "10.0.0.1"), None).good().cloned();
    assert_eq!(good(&store), whole);

    // A listing that begins before the change of interest, and ends after it.
    store.follow_interest(&Interest::default());
    assert!(good(&store).is_none());
    store.take(Event::Init, &Interest::default());
    store.take(Event::InitApply(slice("a", "10.0.0.2")), &Interest::default());
    assert_eq!(store.take(Event::InitDone, &wanted), ChangeScope::Content);
    assert_eq!(good(&store).unwrap().endpoints[0].addresses, ["10.0.0.2"]);
    assert_eq!(store.take(Event::Apply(slice("a", "10.0.0.3")), &Interest::default()), ChangeScope::Nothing);
    assert!(good(&store).is_none());
}

#[test]
fn unused_services_are_packed_and_restored_unchanged() {
    let service = || {
        let spec = json!({"clusterIP": "10.96.0.7", "ports": [{"port": 5432, "targetPort": "pg"}]});
        object(json!({"metadata": {"namespace": "shop", "name": "db", "uid": "u"}, "spec": spec}))
    };
    let key = ObjectKey::new("shop", "db");
    let mut store = Store::<CachedObject<Service>>::default();
    let good = |store: &Store<CachedObject<Service>>| store.objects()[&key].good().cloned();
    for event in [Event::Init, Event::InitApply(service()), Event::InitDone] {
        store.take(event, &Interest::default());
    }
    assert!(good(&store).is_none() && store.objects()[&key].is_readable(), "it is packed");
    store.follow_interest(&Interest { services: [key.clone()].into(), home: None });
    let whole = CachedObject::<Service>::read(service(), None).good().cloned();
    assert!(whole.is_some() && good(&store) == whole);
    store.follow_interest(&Interest { services: [ObjectKey::new("other", "db")].into(), home: None });
    assert!(good(&store).is_none(), "a Service of that name in another namespace is of interest");
}

#[test]
fn a_packed_slice_takes_a_fifth_of_its_json_and_is_restored() {
    let endpoint = |number: u32| {
        let uid = format!("{:08x}-52a1-4c39-9b1e-{:012x}", number.wrapping_mul(0x9e37_79b9), u64::from(number) << 33);
        let target = json!({"kind": "Pod", "name": format!("db-6d4cf56db6-{number}"), "namespace": "shop", "uid": uid});
        json!({
            "addresses": [format!("10.0.7.{number}")], "nodeName": format!("node-{}", number % 10), "zone": "zone-a",
            "conditions": {"ready": true, "serving": true, "terminating": false}, "targetRef": target,
        })
    };
    let slice = json!({
        "metadata": {"namespace": "shop", "name": "a", "labels": {"kubernetes.io/service-name": "db"}},
        "addressType": "IPv4", "endpoints": (0..20).map(endpoint).collect::<Vec<_>>(), "ports": [{"port": 1}],
    });
    let key = ObjectKey::new("shop", "a");
    let whole = CachedObject::<EndpointSlice>::read(object(slice.clone()), None);
    let packed = whole.packed(&key).unwrap();
    let (size, json) = (packed.packed_size().unwrap(), slice.to_string().len());
    assert!(size * 5 < json, "{size} of {json} bytes");
    let restored = packed.unpacked().unwrap();
    assert!(restored.good() == whole.good());
    assert_eq!(restored.good().unwrap().endpoints.capacity(), 20, "lists have no spare capacity");
}

#[test]
fn a_packed_service_takes_less_than_half_of_its_json_and_is_restored() {
    let service = json!({
        "metadata": {
            "namespace": "shop", "name": "db", "uid": "8a3f2c1e-52a1-4c39-9b1e-0123456789ab", "resourceVersion": "81723",
            "creationTimestamp": "2026-03-04T05:06:07Z", "labels": {"app.kubernetes.io/name": "db"},
        },
        "spec": {
            "type": "ClusterIP", "clusterIP": "10.96.3.7", "clusterIPs": ["10.96.3.7"], "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack", "selector": {"app.kubernetes.io/name": "db"}, "sessionAffinity": "None",
            "internalTrafficPolicy": "Cluster", "ports": [{"port": 5432, "protocol": "TCP", "targetPort": 5432}],
        },
    });
    let key = ObjectKey::new("shop", "db");
    let whole = CachedObject::<Service>::read(object(service.clone()), None);
    let packed = whole.packed(&key).unwrap();
    let (size, json) = (packed.packed_size().unwrap(), service.to_string().len());
    assert!(size * 2 < json, "{size} of {json} bytes");
    assert!(packed.unpacked().unwrap().good() == whole.good());
}
