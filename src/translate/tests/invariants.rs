//! Properties of every world: no panic, no randomness, and a mistake stays local.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    manifests::{FOLDER, declared},
    *,
};
use crate::{
    model::{EndpointConfig, Listener, Networks, overlap},
    world::{Allocation, Allocations, Declared, Lookup, ObjectIdentity, ProcessMode, Tenancy},
};

const GOOD: &str = "{listeners: [{port: 1}], backends: [{addresses: ['10.0.0.1:1']}]}";

fn with(mut world: World, other: World) -> World {
    world.load_balancers.extend(other.load_balancers);
    world
}

#[test]
fn an_equal_snapshot_is_not_a_new_generation() {
    let world = load_balancer("pg", GOOD);
    let (one, _) = first(&world);
    assert_eq!(one.generation, 1);
    let (two, _) = then(&world, &one);
    assert_eq!(two.generation, 1);
    assert!(Arc::ptr_eq(&one.listeners[&listener("pg", 1)], &two.listeners[&listener("pg", 1)]));
    assert!(Arc::ptr_eq(&one.upstreams[&upstream("pg")], &two.upstreams[&upstream("pg")]));
    let (three, _) = then(&World::default(), &two);
    assert_eq!((three.generation, three.listeners.len(), three.upstreams.len()), (2, 0, 0));
}

#[test]
fn a_change_of_endpoints_leaves_the_listener_alone() {
    let (one, _) = first(&load_balancer("pg", GOOD));
    let more = "{listeners: [{port: 1}], backends: [{addresses: ['10.0.0.1:1', '10.0.0.2:1']}]}";
    let (two, _) = then(&load_balancer("pg", more), &one);
    assert!(Arc::ptr_eq(&one.listeners[&listener("pg", 1)], &two.listeners[&listener("pg", 1)]));
    assert_eq!(two.upstreams[&upstream("pg")].endpoints.len(), 2);
}

#[test]
fn one_broken_object_changes_nothing_for_the_others() {
    let other = "{listeners: [{port: 2}], backends: [{addresses: ['10.0.0.2:1']}]}";
    let (alone, _) = first(&load_balancer("other", other));
    for broken in [
        "{listeners: [{port: 2}], backends: []}",
        "{listeners: [{port: 3, limits: {maxConnections: 0}}], backends: [{addresses: ['10.0.0.1:1']}]}",
        "{listeners: [{port: 3}], backends: [{addresses: ['10.0.0.1:1']}], connect: {timeout: 0s}}",
    ] {
        let (snapshot, verdicts) = first(&with(load_balancer("broken", broken), load_balancer("other", other)));
        assert!(snapshot.configures_the_same(&alone), "{broken}");
        assert!(verdicts[&object("broken")].refuses());
        assert_eq!(verdicts[&object("other")].problems, []);
    }
}

#[test]
fn a_listener_that_served_keeps_serving_until_it_is_no_longer_declared() {
    let good = "{listeners: [{name: a, port: 1}, {name: b, port: 2}], backends: [{addresses: ['10.0.0.1:1']}]}";
    let (before, _) = first(&load_balancer("pg", good));
    for (wrong, consequence) in [
        (
            "{listeners: [{name: a, port: 1, limits: {maxConnections: 0}}, {name: b, port: 2}], \
              backends: [{addresses: ['10.0.0.1:1']}]}",
            "the listener keeps its previous configuration",
        ),
        (
            "{listeners: [{name: a, port: 1}, {name: b, port: 2}], backends: [{addresses: ['10.0.0.1:1']}], \
              timeouts: {handshake: 0s, idle: 1s}}",
            "its listeners keep their previous configuration",
        ),
        (
            "{listeners: [{name: a, port: 1}, {name: b, port: 2}], backends: [{addresses: ['10.0.0.1:1']}], \
              tcpKeepalive: {probes: 0, idle: 1s}}",
            "its listeners keep their previous configuration",
        ),
        (
            "{listeners: [{name: a, port: 1}, {name: b, port: 2}], backends: [{addresses: ['10.0.0.1:1']}], \
              connect: {attempts: 0, timeout: 1s}}",
            "the previous settings stay in effect",
        ),
        (
            "{listeners: [{name: a, port: 1}, {name: b, port: 2}], backends: []}",
            "connections go to the previous endpoints",
        ),
        (
            "{listeners: [{name: a, port: 1}, {name: b, port: 2}], backends: [{service: {name: default, port: 1}}]}",
            "the previous endpoints stay in use",
        ),
        // Without a name it is another backend, but connections need a target.
        (
            "{listeners: [{name: a, port: 1}, {name: b, port: 2}], backends: [{service: {name: typo, port: 1}}]}",
            "connections go to the previous endpoints",
        ),
    ] {
        let (after, verdicts) = then(&load_balancer("pg", wrong), &before);
        assert!(after.configures_the_same(&before), "{wrong}");
        assert!(sentences(&verdicts, "pg")[0].ends_with(consequence), "{verdicts:?}");
        assert_eq!(sentences(&verdicts, "pg").len(), 1);
    }
    let one = "{listeners: [{name: a, port: 1, limits: {maxConnections: 0}}], backends: [{addresses: ['10.0.0.1:1']}]}";
    let (after, _) = then(&load_balancer("pg", one), &before);
    assert_eq!(after.listeners.keys().collect::<Vec<_>>(), [&listener("pg", 1)]);
    let (after, _) = then(&World::default(), &before);
    assert!(after.listeners.is_empty());
}

#[test]
fn endpoints_are_followed_while_a_setting_is_wrong() {
    let (before, _) = first(&load_balancer("pg", GOOD));
    let wrong = "{listeners: [{port: 1}], backends: [{addresses: ['10.0.0.7:1']}], connect: {attempts: 0}, \
                  healthCheck: {active: {interval: 9s}}}";
    let (after, _) = then(&load_balancer("pg", wrong), &before);
    let (old, new) = (&before.upstreams[&upstream("pg")], &after.upstreams[&upstream("pg")]);
    assert_eq!(new.endpoints[0].key.address, "10.0.0.7:1".parse().unwrap());
    assert_eq!(new.connect, old.connect);
    assert_eq!(new.active_check.as_ref().unwrap().interval.as_secs(), 9);
}

#[test]
fn a_text_that_cannot_be_read_leaves_its_last_good_version_serving() {
    let mut world = load_balancer("pg", GOOD);
    let (before, _) = first(&world);
    let problem = "spec.listeners[0].port: 70000 is too large";
    world.load_balancers.get_mut(&object("pg")).unwrap().problems = vec![problem.into()];
    let (after, verdicts) = then(&world, &before);
    assert!(after.configures_the_same(&before));
    assert_eq!(sentences(&verdicts, "pg"), [format!("{problem}; the last valid version stays in use")]);
    assert!(verdicts[&object("pg")].refuses());

    world.load_balancers.insert(object("pg"), declared(None, &[problem]));
    let (after, verdicts) = then(&world, &Snapshot::default());
    assert!(after.listeners.is_empty());
    assert_eq!(sentences(&verdicts, "pg"), [format!("{problem}; it is not served")]);
    let (after, verdicts) = then(&world, &before);
    assert!(after.configures_the_same(&before));
    assert_eq!(sentences(&verdicts, "pg"), [format!("{problem}; the previous configuration stays in use")]);
}

#[test]
fn names_of_a_load_balancer_have_a_maximum_number_of_addresses() {
    let names: Vec<_> = (0..18).map(|number| format!("n{number}.example")).collect();
    let addresses: Vec<_> = names.iter().map(|name| format!("'{name}:1'")).collect();
    let backend = |name: &str, part: &[String]| format!("{{name: {name}, addresses: [{}]}}", part.join(", "));
    let backends = [backend("a", &addresses[..9]), backend("b", &addresses[9..])].join(", ");
    let mut world = load_balancer("pg", &format!("{{listeners: [{{port: 1}}], backends: [{backends}]}}"));
    for (number, name) in (0..).zip(&names) {
        let addresses = (0..=255).map(|last| IpAddr::from([10, number, 0, last])).collect();
        let lookup = Lookup { addresses, is_truncated: number == 0, problem: None };
        world.names.insert(name.as_str().into(), lookup);
    }
    let (snapshot, verdicts) = first(&world);
    let endpoints = &snapshot.upstreams[&upstream("pg")].endpoints;
    assert_eq!(endpoints.len(), 4096);
    assert!(endpoints.iter().all(|endpoint| endpoint.key.address < SocketAddr::from(([10, 16, 0, 0], 0))));
    assert!(!verdicts[&object("pg")].refuses());
    let reason = "are used, because the DNS names of a load balancer may have 4096 addresses in all: remove names, or \
                  divide them among several load balancers";
    assert_eq!(
        sentences(&verdicts, "pg"),
        [
            "spec.backends[0].addresses[0]: `n0.example` has more than 256 addresses, of which only 256 are used: use \
             names with fewer addresses, or a Service"
                .to_owned(),
            format!("spec.backends[1].addresses[7]: only 0 addresses of `n16.example` {reason}"),
            format!("spec.backends[1].addresses[8]: only 0 addresses of `n17.example` {reason}"),
        ]
    );
}

#[test]
fn names_resolve_to_all_their_addresses_and_keep_the_last_good_answer() {
    let mut world = load_balancer(
        "pg",
        "{listeners: [{port: 1}], backends: [{addresses: ['db.example.com:1', 'DB.example.com:2', '10.0.0.1:1']}]}",
    );
    let found = |world: &World| {
        let (snapshot, verdicts) = first(world);
        let endpoints = &snapshot.upstreams[&upstream("pg")].endpoints;
        let addresses: Vec<_> = endpoints.iter().map(|endpoint| endpoint.key.address.to_string()).collect();
        assert!(!verdicts[&object("pg")].refuses());
        (addresses, sentences(&verdicts, "pg"))
    };
    let (addresses, warnings) = found(&world);
    assert_eq!(addresses, ["10.0.0.1:1"]);
    assert_eq!(
        warnings[0],
        "spec.backends[0].addresses[0]: `db.example.com` has not been resolved yet; it has no addresses until then"
    );

    let ips: BTreeSet<IpAddr> = ["10.0.0.1", "2001:db8::1"].map(|ip| ip.parse().unwrap()).into();
    let mut lookup = Lookup { addresses: ips, ..Lookup::default() };
    world.names.insert("db.example.com".into(), lookup.clone());
    let all = ["10.0.0.1:1", "10.0.0.1:2", "[2001:db8::1]:1", "[2001:db8::1]:2"];
    assert_eq!(found(&world), (all.map(str::to_owned).into(), vec![]));

    lookup.problem = Some("cannot be resolved: the server failed".into());
    world.names.insert("db.example.com".into(), lookup.clone());
    let (addresses, warnings) = found(&world);
    assert_eq!(addresses, all);
    let warning = "spec.backends[0].addresses[0]: `db.example.com` cannot be resolved: the server failed";
    assert_eq!(warnings[0], format!("{warning}; its last known addresses are used"));

    lookup.addresses.clear();
    world.names.insert("db.example.com".into(), lookup);
    let (addresses, warnings) = found(&world);
    assert_eq!(addresses, ["10.0.0.1:1"]);
    let instead = "correct the name, or write IP addresses; it has no addresses until a lookup succeeds";
    assert_eq!(warnings[0], format!("{warning}: {instead}"));
}

#[test]
fn an_address_belongs_to_its_server_or_the_first_in_order() {
    let on = |name: &str, address: &str| {
        let address = if address.is_empty() { String::new() } else { format!(", address: '{address}'") };
        load_balancer(
            name,
            &format!("{{listeners: [{{port: 1{address}}}], backends: [{{addresses: ['10.0.0.9:1']}}]}}"),
        )
    };
    let serving = |snapshot: &Snapshot| -> Vec<String> {
        snapshot.listeners.iter().map(|(key, listener)| format!("{} {}", key.object.name, listener.bind.ip())).collect()
    };
    for (a, b, expected) in [
        ("", "", &["a ::"][..]),
        ("", "10.0.0.1", &["a ::"]),
        ("::", "::1", &["a ::"]),
        ("0.0.0.0", "10.0.0.1", &["a 0.0.0.0"]),
        ("0.0.0.0", "::1", &["a 0.0.0.0", "b ::1"]),
        ("10.0.0.1", "::ffff:10.0.0.1", &["a 10.0.0.1"]),
        ("10.0.0.1", "10.0.0.2", &["a 10.0.0.1", "b 10.0.0.2"]),
    ] {
        let (both, verdicts) = first(&with(on("a", a), on("b", b)));
        assert_eq!(serving(&both), expected, "{a} and {b}");
        assert_eq!(verdicts[&object("b")].problems.len(), 2 - expected.len());
        if expected.len() == 2 {
            continue;
        }
        assert_eq!(verdicts[&object("b")].problems[0].reason, Reason::PortConflict);
        // The present holder stays, regardless of its name.
        let (b_alone, _) = first(&on("b", b));
        let (both, verdicts) = then(&with(on("a", a), on("b", b)), &b_alone);
        assert!(both.configures_the_same(&b_alone), "{a} and {b}");
        let sentence = &sentences(&verdicts, "a")[0];
        assert!(
            sentence.contains("is taken by shop/b") && sentence.ends_with("the listener is not served"),
            "{sentence}"
        );
        // Once it is deleted, the other one takes over.
        let (a_alone, verdicts) = then(&on("a", a), &both);
        assert_eq!(a_alone.listeners.len(), 1);
        assert_eq!(verdicts[&object("a")].problems, []);
    }
    // Listeners that swap addresses do not conflict; one that requests an address in use keeps its own.
    let (before, _) = first(&with(on("a", "10.0.0.1"), on("b", "10.0.0.2")));
    let (swapped, _) = then(&with(on("a", "10.0.0.2"), on("b", "10.0.0.1")), &before);
    assert_eq!(serving(&swapped), ["a 10.0.0.2", "b 10.0.0.1"]);
    let (stays, verdicts) = then(&with(on("a", ""), on("b", "10.0.0.2")), &before);
    assert!(stays.configures_the_same(&before));
    assert!(sentences(&verdicts, "a")[0].ends_with("the listener keeps its previous configuration"));
}

/// A number of milliseconds that is sometimes out of every range.
fn duration() -> impl Strategy<Value = Value> {
    prop_oneof![Just(0u64), 1..5_000u64, 0..100_000_000u64].prop_map(|ms| {
        let text = crate::api::Duration(std::time::Duration::from_millis(ms)).to_string();
        json!(text)
    })
}

fn optional(value: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    prop::option::of(value).prop_map(|value| value.unwrap_or(Value::Null))
}

/// A value that is mostly absent, so that most declarations are valid.
fn seldom(value: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    prop::option::weighted(0.1, value).prop_map(|value| value.unwrap_or(Value::Null))
}

fn listener_spec() -> impl Strategy<Value = Value> {
    let name = prop::option::weighted(0.9, "[a-f]").prop_map(|name| json!(name));
    let address =
        optional(prop::sample::select(vec!["::", "0.0.0.0", "10.0.0.1", "10.0.0.2", "::1"]).prop_map(Value::from));
    let tls = seldom(prop_oneof![
        Just(json!({"certificateRefs": []})),
        Just(json!({"certificateRefs": [{"name": "missing"}, {}]})),
    ]);
    let networks = || prop::collection::vec(prop::sample::select(vec!["10.0.0.0/8", "0.0.0.0/0", "::/0"]), 0..3);
    let proxy_protocol = seldom(networks().prop_map(|trusted| json!({"mode": "Optional", "trustedNetworks": trusted})));
    let limits = seldom((any::<u32>(), duration(), any::<u32>()).prop_map(|(count, per, burst)| {
        json!({"maxConnections": count, "newConnections": {"count": count, "per": per, "burst": burst}})
    }));
    let port = prop_oneof![1 => Just(0), 9 => 1..4u16];
    (name, port, address, tls, proxy_protocol, networks(), limits).prop_map(
        |(name, port, address, tls, proxy_protocol, deny, limits)| {
            json!({
                "name": name, "port": port, "address": address, "tls": tls, "limits": limits,
                "proxyProtocol": proxy_protocol, "access": {"deny": deny},
            })
        },
    )
}

fn backend_spec() -> impl Strategy<Value = Value> {
    let service = seldom(Just(json!({"name": "pg", "port": 1})));
    let addresses = optional(
        prop::collection::vec(
            prop::sample::select(vec![
                "10.0.0.1:1",
                "10.0.0.2:1",
                "db:1",
                "[::1]:1",
                "10.6.6.6:1",
                "169.254.169.254:1",
            ]),
            0..4,
        )
        .prop_map(Value::from),
    );
    (optional("[a-f]".prop_map(Value::from)), service, addresses, 0..4u16, 0..17u8, seldom(duration())).prop_map(
        |(name, service, addresses, weight, priority, resolve)| {
            json!({
                "name": name, "service": service, "addresses": addresses, "weight": weight, "priority": priority,
                "resolveInterval": resolve,
            })
        },
    )
}

fn settings() -> impl Strategy<Value = Value> {
    let d = || optional(duration());
    let n = || any::<u8>();
    let policy = prop::sample::select(vec!["Automatic", "Never"]);
    let failover = (n(), policy, d()).prop_map(
        |(percent, policy, after)| json!({"minUsablePercent": percent, "failback": {"policy": policy, "after": after}}),
    );
    let preference = prop::sample::select(vec!["SameZone", "SameNode", "Hints"]);
    let locality = (preference, n()).prop_map(|(prefer, most)| json!({"prefer": prefer, "overloadedAt": most}));
    let balancing =
        (n(), seldom(failover), seldom(duration()), seldom(locality)).prop_map(|(n, failover, slow, locality)| match n
            % 2
        {
            0 => json!({"algorithm": "Maglev", "hash": {"prefixV6": n}, "failover": failover}),
            _ => json!({"failover": failover, "slowStart": slow, "locality": locality}),
        });
    let active = (d(), d(), n(), n()).prop_map(|(interval, timeout, healthy, unhealthy)| {
        json!({"interval": interval, "timeout": timeout, "healthyAfter": healthy, "unhealthyAfter": unhealthy})
    });
    let passive = (n(), d(), d(), n()).prop_map(|(failures, eject, most, percent)| {
        json!({"consecutiveFailures": failures, "ejectFor": eject, "maxEjectFor": most, "maxEjectedPercent": percent})
    });
    let health_check =
        (seldom(active), seldom(passive)).prop_map(|(active, passive)| json!({"active": active, "passive": passive}));
    let preconnect = (n(), d()).prop_map(|(count, idle)| json!({"perEndpoint": count, "idleTimeout": idle}));
    let connect = (d(), d(), 0..12u8, seldom(preconnect)).prop_map(|(timeout, deadline, attempts, preconnect)| {
        json!({"timeout": timeout, "deadline": deadline, "attempts": attempts, "preconnect": preconnect})
    });
    let timeouts = (d(), d(), n())
        .prop_map(|(handshake, idle, jitter)| json!({"handshake": handshake, "idle": idle, "jitterPercent": jitter}));
    let keepalive = (d(), d(), n())
        .prop_map(|(idle, interval, probes)| json!({"idle": idle, "interval": interval, "probes": probes}));
    let drain = (d(), d()).prop_map(|(after, spread)| json!({"shutdown": {"after": after, "spread": spread}}));
    (seldom(balancing), health_check, seldom(connect), seldom(timeouts), seldom(keepalive), seldom(drain)).prop_map(
        |(balancing, health_check, connect, timeouts, keepalive, drain)| {
            json!({
                "loadBalancing": balancing, "healthCheck": health_check, "connect": connect, "timeouts": timeouts,
                "tcpKeepalive": keepalive, "drain": drain,
            })
        },
    )
}

fn spec() -> impl Strategy<Value = Value> {
    let listeners = prop::collection::vec(listener_spec(), 0..4);
    let backends = prop::collection::vec(backend_spec(), 0..4);
    (listeners, backends, settings()).prop_map(|(listeners, backends, mut spec)| {
        spec["listeners"] = listeners.into();
        spec["backends"] = backends.into();
        spec
    })
}

/// One of the load balancers `a` to `c`, sometimes recreated under the same name.
fn any_load_balancer() -> impl Strategy<Value = (ObjectKey, Declared)> {
    let spec = prop::option::weighted(0.9, spec());
    let uid = prop::sample::select(vec!["a", "a", "a", "b", "b", "b", "c", "c", "c", "new-a", "new-b", "new-c"]);
    (uid, 0..3i64, spec, any::<bool>()).prop_map(|(uid, created, spec, readable)| {
        let declared = Declared {
            spec: spec.map(|spec| Arc::new(serde_json::from_value(spec).unwrap())),
            problems: if readable { vec![] } else { vec!["it cannot be read".into()] },
            without_value: Vec::new(),
            origin: "any".into(),
            folder: FOLDER.into(),
            identity: Some(ObjectIdentity {
                created: Timestamp::from_second(created).unwrap(),
                uid: uid.into(),
                generation: 1,
            }),
            status: None,
        };
        (object(uid.trim_start_matches("new-")), declared)
    })
}

fn any_world() -> impl Strategy<Value = World> {
    prop::collection::vec(any_load_balancer(), 0..5)
        .prop_map(|load_balancers| World { load_balancers: load_balancers.into_iter().collect(), ..World::default() })
}

fn any_tenancy() -> impl Strategy<Value = Tenancy> {
    let networks =
        |networks: &[&str]| -> Networks { networks.iter().map(|network| network.parse().unwrap()).collect() };
    let allowed = vec![networks(&[]), networks(&["10.0.0.0/24"]), networks(&["0.0.0.0/0", "::/0"])];
    let cap = || prop::option::weighted(0.3, 0..4u32);
    (prop::sample::select(allowed), cap(), cap()).prop_map(move |(backend_networks, load_balancers, listeners)| {
        Tenancy {
            backend_networks,
            denied_networks: networks(&["10.6.0.0/16"]),
            load_balancers_per_namespace: load_balancers,
            listeners_per_namespace: listeners,
            host_ports: vec![1..=2],
            own_addresses: ["10.0.0.2".parse().unwrap()].into(),
            admin_port: Some(1),
            ..Tenancy::default()
        }
    })
}

/// Ports 20001 to 20004 for the listeners of `a` to `c`, some freed, some for their successors.
fn any_allocations() -> impl Strategy<Value = Allocations> {
    let uid = prop::sample::select(vec!["a", "a", "b", "b", "c", "new-a", "new-b"]);
    let allocation = (uid, 1..4u16, prop::bool::weighted(0.1)).prop_map(|(uid, port, freed)| Allocation {
        uid: uid.into(),
        port,
        object: "".into(),
        freed: freed.then_some(NOW),
    });
    prop::collection::btree_map(20001..20005u16, allocation, 0..5).prop_map(Allocations)
}

/// The successive worlds of one process.
fn any_worlds() -> impl Strategy<Value = Vec<World>> {
    let world = (any_world(), any_allocations()).prop_map(|(world, allocations)| World {
        mode: ProcessMode::Gateway(Arc::new(allocations), Arc::default()),
        ..world
    });
    prop::collection::vec(world, 1..5)
}

/// Successive worlds in one mode, which a process keeps.
fn any_history() -> impl Strategy<Value = Vec<World>> {
    let mode = (prop::sample::select(vec!["standalone", "sidecar", "gateway", "host"]), any_tenancy());
    (mode, any_worlds()).prop_map(|((mode, tenancy), worlds)| in_mode(mode, Arc::new(tenancy), worlds))
}

fn in_mode(mode: &str, tenancy: Arc<Tenancy>, mut worlds: Vec<World>) -> Vec<World> {
    for world in &mut worlds {
        match (mode, &mut world.mode) {
            ("gateway", ProcessMode::Gateway(_, rules)) => *rules = tenancy.clone(),
            ("sidecar", mode) => *mode = ProcessMode::Sidecar(IpAddr::from([127, 0, 0, 1])),
            ("host", mode) => *mode = ProcessMode::Host(tenancy.clone()),
            (_, mode) => *mode = ProcessMode::Standalone,
        }
        each_mut(&mut world.load_balancers, |declared| {
            if let (Some(spec), true) = (&mut declared.spec, mode != "standalone") {
                Arc::make_mut(spec).listeners.iter_mut().for_each(|listener| listener.address = None);
            }
        });
    }
    worlds
}

/// True if the bind address matches the mode.
fn is_in_its_place(key: &ListenerKey, listener: &Listener, world: &World) -> bool {
    let (own, port) = (key.port == listener.bind.port(), listener.bind.port());
    match &world.mode {
        ProcessMode::Standalone => own,
        ProcessMode::Sidecar(address) => own && listener.bind.ip() == *address,
        ProcessMode::Gateway(allocations, _) => allocations.0.get(&port).is_some_and(|allocation| {
            let uid = world.load_balancers[&key.object].uid();
            allocation.freed.is_none() && Some(&*allocation.uid) == uid && allocation.port == key.port
        }),
        ProcessMode::Host(tenancy) => own && tenancy.host_ports.iter().any(|range| range.contains(&port)),
    }
}

/// True if a served listener must stay as long as it is declared.
fn must_go_on(key: &ListenerKey, before: &Listener, world: &World) -> bool {
    let declared = &world.load_balancers[&key.object];
    let is_declared =
        declared.spec.as_ref().is_none_or(|spec| spec.listeners.iter().any(|listener| listener.port == key.port));
    // In host mode an older load balancer may claim the port.
    let is_safe = !matches!(world.mode, ProcessMode::Host(_)) && is_in_its_place(key, before, world);
    is_declared && before.owner.as_deref() == declared.uid() && is_safe
}

/// True for addresses that no backend may have, whatever served before.
fn is_forbidden(endpoint: SocketAddr, tenancy: &Tenancy) -> bool {
    let ours = endpoint == "10.0.0.2:1".parse().unwrap();
    endpoint.ip().is_loopback()
        || endpoint.ip() == IpAddr::from([169, 254, 169, 254])
        || tenancy.denied_networks.contains(endpoint.ip())
        || !tenancy.backend_networks.contains(endpoint.ip())
        || ours
}

proptest! {
    #[test]
    fn any_history_of_worlds_gives_valid_snapshots(worlds in any_history()) {
        let mut previous = Snapshot::default();
        for world in worlds {
            let (snapshot, verdicts) = then(&world, &previous);
            let (again, same) = then(&world, &previous);
            prop_assert!(snapshot.configures_the_same(&again) && verdicts == same, "not deterministic");

            let settled = then(&world, &snapshot);
            prop_assert_eq!(settled.0.generation, snapshot.generation, "the same world again changes something");

            prop_assert!(verdicts.keys().eq(world.load_balancers.keys()), "one verdict for each");
            for (key, listener) in &snapshot.listeners {
                prop_assert!(key.port > 0 && is_in_its_place(key, listener, &world), "{key} at {}", listener.bind);
                prop_assert_eq!(listener.owner.as_deref(), world.load_balancers[&key.object].uid());
                prop_assert!(snapshot.upstreams.contains_key(&listener.upstream), "{key} has nowhere to go");
            }
            for (key, upstream) in &snapshot.upstreams {
                prop_assert!(upstream.endpoints.is_sorted_by(|a, b| a.key < b.key), "{key}");
                let known = |endpoint: &EndpointConfig| upstream.backends.contains_key(&endpoint.key.backend);
                prop_assert!(upstream.endpoints.iter().all(known), "{key}");
                for (tenancy, endpoint) in world.mode.tenancy().into_iter().flat_map(|tenancy| {
                    upstream.endpoints.iter().map(move |endpoint| (tenancy, endpoint.address()))
                }) {
                    prop_assert!(!is_forbidden(endpoint, tenancy), "{endpoint}");
                }
            }
            let binds: Vec<_> = snapshot.listeners.values().map(|listener| listener.bind).collect();
            for (index, one) in binds.iter().enumerate() {
                prop_assert!(!binds[..index].iter().any(|other| overlap(*one, *other)), "{binds:?} overlap");
            }
            for (key, before) in previous.listeners.iter().filter(|(key, _)| world.load_balancers.contains_key(&key.object)) {
                if must_go_on(key, before, &world) {
                    prop_assert!(snapshot.listeners.contains_key(key), "{key} served ({before:?}) and stopped");
                }
            }
            previous = snapshot;
        }
    }

    /// The history of a replica may affect whether a listener is served, never the owner of a node port.
    #[test]
    fn replicas_agree_on_the_owner_of_a_node_port(
        tenancy in any_tenancy(), one in any_worlds(), other in any_worlds(), now in any_world(),
    ) {
        // A text that was never read is only known to replicas that could read it before.
        prop_assume!(now.load_balancers.values().all(|declared| declared.spec.is_some()));
        let tenancy = Arc::new(tenancy);
        let replica = |mut worlds: Vec<World>| {
            worlds.push(now.clone());
            let worlds = in_mode("host", tenancy.clone(), worlds);
            worlds.iter().fold(Snapshot::default(), |previous, world| then(world, &previous).0)
        };
        let (one, other) = (replica(one), replica(other));
        for (key, listener) in &one.listeners {
            let holder = other.listeners.iter().find(|(_, other)| other.bind == listener.bind);
            prop_assert!(holder.is_none_or(|(holder, _)| holder == key), "{key} and {holder:?}");
        }
    }
}
