//! Endpoints of a Service.

use std::sync::Arc;

use super::*;
use crate::model::Unready;

const SERVICE: &str = "{kind: Service, metadata: {name: pg}, spec: {ports: [{name: sql, port: 5432, targetPort: 1}]}}";

/// The addresses that serve the Service `pg`.
fn endpoints(port: &str, service: &str, slices: &[&str]) -> Vec<String> {
    let (snapshot, _) = first(&pg(port, service, slices));
    snapshot.upstreams[&upstream("pg")].endpoints.iter().map(|endpoint| endpoint.key.address.to_string()).collect()
}

fn pg(port: &str, service: &str, slices: &[&str]) -> World {
    let mut text = format!(
        "{{kind: TcpLoadBalancer, apiVersion: tcplb.io/v1alpha1, metadata: {{name: pg}}, spec: {{listeners: [{{port: 5432}}], \
         backends: [{{service: {{name: pg, port: {port}}}}}]}}}}\n---\n{service}\n"
    );
    for (index, slice) in slices.iter().enumerate() {
        let head = format!("metadata: {{name: pg-{index}, labels: {{kubernetes.io/service-name: pg}}}}");
        text.push_str(&format!("---\n{{kind: EndpointSlice, {head}, {slice}}}\n"));
    }
    world(&text)
}

#[test]
fn an_endpoint_serves_by_its_conditions() {
    // Two endpoints each; the test is about the second one.
    for (conditions, beside_a_ready_one, alone) in [
        ("{}", true, true),
        ("{ready: true}", true, true),
        ("{ready: false}", false, false),
        ("{ready: false, serving: true}", false, false),
        ("{ready: false, serving: true, terminating: true}", false, true),
        ("{ready: false, serving: false, terminating: true}", false, false),
        // Without `serving`, `ready` counts.
        ("{ready: false, terminating: true}", false, false),
        ("{ready: true, terminating: true}", true, true),
        ("{serving: true, terminating: true}", true, true),
        // publishNotReadyAddresses: the controller reports ready, which counts.
        ("{ready: true, serving: false}", true, true),
    ] {
        for (other, expected) in [("{ready: true}", beside_a_ready_one), ("{ready: false}", alone)] {
            let slice = format!(
                "addressType: IPv4, ports: [{{name: sql, port: 1}}], endpoints: [\
                 {{addresses: [10.0.0.1], conditions: {other}}}, {{addresses: [10.0.0.2], conditions: {conditions}}}]"
            );
            let found = endpoints("sql", SERVICE, &[&slice]);
            assert_eq!(found.contains(&"10.0.0.2:1".to_owned()), expected, "{conditions} beside {other}");
        }
    }
}

#[test]
fn endpoints_that_are_not_ready_count_where_the_usable_share_decides() {
    let slice = "addressType: IPv4, ports: [{name: sql, port: 1}], endpoints: [\
                 {addresses: [10.0.0.1]}, {addresses: [10.0.0.2], conditions: {ready: false}}, \
                 {addresses: [10.0.0.3], conditions: {ready: false, serving: true, terminating: true}}]";
    for (failover, expected) in [("{}", 0), ("{failover: {minUsablePercent: 50}}", 1)] {
        let mut world = pg("sql", SERVICE, &[slice]);
        let declared = first_mut(&mut world.load_balancers);
        let spec = Arc::make_mut(declared.spec.as_mut().unwrap());
        spec.load_balancing = Some(serde_saphyr::from_str(failover).unwrap());
        spec.backends[0].priority = 1;
        let other = "{name: other, addresses: ['10.1.0.1:1'], priority: 2}";
        spec.backends.push(serde_saphyr::from_str(other).unwrap());
        spec.backends[0].name = Some(serde_saphyr::from_str("pg").unwrap());
        let (snapshot, verdicts) = first(&world);
        assert!(!verdicts.values().next().unwrap().refuses(), "{verdicts:?}");
        let backends = &snapshot.upstreams[&upstream("pg")].backends;
        assert_eq!((backends["pg"].unready, backends["other"].unready), (expected, 0), "{failover}");
        assert_eq!((backends["pg"].priority.0, backends["other"].priority.0), (1, 2));
    }
}

#[test]
fn terminating_endpoints_serve_only_while_no_slice_has_a_ready_one() {
    let terminating = "addressType: IPv4, ports: [{name: sql, port: 1}], endpoints: [\
                       {addresses: [10.0.0.1], conditions: {ready: false, serving: true, terminating: true}}]";
    let ready = "addressType: IPv4, ports: [{name: sql, port: 1}], endpoints: [{addresses: [10.0.0.2]}]";
    for (slices, address, last_resort) in
        [(&[terminating][..], "10.0.0.1:1", true), (&[terminating, ready], "10.0.0.2:1", false)]
    {
        assert_eq!(endpoints("sql", SERVICE, slices), [address]);
        let (snapshot, _) = first(&pg("sql", SERVICE, slices));
        assert_eq!(snapshot.upstreams[&upstream("pg")].backends["pg"].last_resort, last_resort);
    }
}

#[test]
fn former_endpoints_that_are_listed_are_unready_with_a_reason() {
    let slice = |endpoints: &[(u8, &str)]| {
        let endpoint = |(number, conditions): &(u8, &str)| {
            format!(
                "{{addresses: [10.0.0.{number}], conditions: {conditions}, targetRef: {{kind: Pod, name: pg-{number}, uid: \
                 u{number}}}}}"
            )
        };
        let endpoints: Vec<_> = endpoints.iter().map(endpoint).collect();
        pg(
            "sql",
            SERVICE,
            &[&format!("addressType: IPv4, ports: [{{name: sql, port: 1}}], endpoints: [{}]", endpoints.join(", "))],
        )
    };
    let mut snapshot = Snapshot::default();
    for (listed, expected) in [
        // Endpoints that never served are ignored.
        (&[(1, "{ready: true}"), (2, "{ready: true}"), (3, "{ready: true}"), (4, "{ready: false}")][..], &[][..]),
        (
            &[
                (1, "{ready: true}"),
                (2, "{ready: false, serving: true, terminating: true}"),
                (3, "{ready: false}"),
                (4, "{ready: false, terminating: true}"),
            ],
            &[("10.0.0.2:1", Unready::Terminating), ("10.0.0.3:1", Unready::NotReady)],
        ),
        // Unready endpoints are retained while they are listed.
        (
            &[(1, "{ready: true}"), (2, "{ready: false, serving: false, terminating: true}")],
            &[("10.0.0.2:1", Unready::Terminating)],
        ),
        (&[(1, "{ready: true}")], &[]),
        // A terminating endpoint serves as a last resort.
        (&[(1, "{ready: false, serving: true, terminating: true}")], &[]),
    ] {
        (snapshot, _) = then(&slice(listed), &snapshot);
        let unready = &snapshot.upstreams[&upstream("pg")].unready;
        let unready: Vec<_> = unready.iter().map(|(key, why)| (key.address.to_string(), *why)).collect();
        let expected: Vec<_> = expected.iter().map(|(address, why)| ((*address).to_owned(), *why)).collect();
        assert_eq!(unready, expected, "{listed:?}");
    }
}

#[test]
fn endpoints_that_stay_share_the_texts_of_their_keys() {
    let pods = |numbers: &[u8]| {
        let pod = |number: &u8| {
            format!("{{addresses: [10.0.0.{number}], targetRef: {{kind: Pod, name: pg-{number}, uid: u{number}}}}}")
        };
        let endpoints: Vec<_> = numbers.iter().map(pod).collect();
        let ports = "ports: [{name: sql, port: 1}]";
        let slice = format!("addressType: IPv4, {ports}, endpoints: [{}]", endpoints.join(", "));
        pg("sql", SERVICE, &[&slice])
    };
    let uid = |snapshot: &Snapshot| snapshot.upstreams[&upstream("pg")].endpoints[0].key.uid.clone().unwrap();
    let (before, _) = first(&pods(&[1]));
    let (now, _) = then(&pods(&[1, 2]), &before);
    assert!(Arc::ptr_eq(&uid(&before), &uid(&now)));
}

#[test]
fn a_port_is_followed_by_name_to_each_slices_own_number() {
    let two = "{kind: Service, metadata: {name: pg}, spec: {ports: \
               [{name: sql, port: 5432}, {name: admin, port: 8008}, {name: dns, port: 53, protocol: UDP}]}}";
    let slices = [
        "addressType: IPv4, ports: [{name: sql, port: 1}, {name: admin, port: 2}], endpoints: [{addresses: [10.0.0.1]}]",
        "addressType: IPv4, ports: [{name: sql, port: 3}], endpoints: [{addresses: [10.0.0.2]}]",
        "addressType: IPv4, ports: [{name: sql, port: 4, protocol: UDP}], endpoints: [{addresses: [10.0.0.3]}]",
    ];
    for (port, expected) in [
        ("5432", &["10.0.0.1:1", "10.0.0.2:3"][..]),
        ("sql", &["10.0.0.1:1", "10.0.0.2:3"]),
        ("8008", &["10.0.0.1:2"]),
        ("admin", &["10.0.0.1:2"]),
    ] {
        assert_eq!(endpoints(port, two, &slices), expected, "{port}");
    }
    let nameless = "{kind: Service, metadata: {name: pg}, spec: {ports: [{port: 5432}]}}";
    for slice in [
        "addressType: IPv4, ports: [{port: 7}], endpoints: [{addresses: [10.0.0.1]}]",
        "addressType: IPv4, ports: [{name: '', port: 7}], endpoints: [{addresses: [10.0.0.1]}]",
    ] {
        assert_eq!(endpoints("5432", nameless, &[slice]), ["10.0.0.1:7"]);
    }
    for (port, expected) in [
        ("1", "spec.backends[0].service.port: Service shop/pg has no port 1: write one of 5432 (sql), 8008 (admin)"),
        ("web", "spec.backends[0].service.port: Service shop/pg has no port web: write one of"),
        ("dns", "port dns of Service shop/pg is UDP, not TCP: write one of 5432 (sql), 8008 (admin)"),
    ] {
        let found = sentences(&first(&pg(port, two, &slices)).1, "pg");
        assert!(found[0].contains(expected), "{found:?}");
    }
}

#[test]
fn a_headless_service_takes_a_number_that_it_does_not_declare() {
    let slice = "addressType: IPv4, ports: [{name: sql, port: 1}], endpoints: [{addresses: [10.0.0.1]}]";
    let headless = "{kind: Service, metadata: {name: pg}, spec: {clusterIP: None, ports: [{name: sql, port: 5432}]}}";
    for (port, expected) in [("5432", "10.0.0.1:1"), ("sql", "10.0.0.1:1"), ("6000", "10.0.0.1:6000")] {
        assert_eq!(endpoints(port, headless, &[slice]), [expected]);
    }
    let portless = "{kind: Service, metadata: {name: pg}, spec: {clusterIP: None}}";
    assert_eq!(
        endpoints("6000", portless, &["addressType: IPv4, endpoints: [{addresses: [10.0.0.1]}]"]),
        ["10.0.0.1:6000"]
    );
}

#[test]
fn the_family_is_the_services_first_else_ipv4_if_there_is_any() {
    let v4 = "addressType: IPv4, ports: [{name: sql, port: 1}], endpoints: [{addresses: [10.0.0.1]}]";
    let v6 = "addressType: IPv6, ports: [{name: sql, port: 1}], endpoints: [{addresses: ['2001:db8::1']}]";
    let families = |families: &str| {
        format!("{{kind: Service, metadata: {{name: pg}}, spec: {{{families} ports: [{{name: sql, port: 5432}}]}}}}")
    };
    for (declared, slices, expected) in [
        ("", &[v6, v4][..], &["10.0.0.1:1"][..]),
        ("", &[v6], &["[2001:db8::1]:1"]),
        ("ipFamilies: [IPv6, IPv4],", &[v4, v6], &["[2001:db8::1]:1"]),
        ("ipFamilies: [IPv4],", &[v4, v6], &["10.0.0.1:1"]),
        ("ipFamilies: [IPv6],", &[v4], &[]),
    ] {
        assert_eq!(endpoints("sql", &families(declared), slices), expected, "{declared}");
    }
}

#[test]
fn an_endpoint_in_two_slices_counts_once_and_another_pod_on_its_address_is_another() {
    let slice = |uid: &str, conditions: &str| {
        format!(
            "addressType: IPv4, ports: [{{name: sql, port: 1}}], endpoints: [{{addresses: [10.0.0.1, 10.0.0.9], \
             targetRef: {{kind: Pod, uid: {uid}}}, conditions: {conditions}}}]"
        )
    };
    let (stale, fresh, other) = (slice("a", "{ready: false}"), slice("a", "{ready: true}"), slice("b", "{}"));
    assert_eq!(endpoints("sql", SERVICE, &[&stale, &fresh]), ["10.0.0.1:1"]);
    assert_eq!(endpoints("sql", SERVICE, &[&fresh, &other]), ["10.0.0.1:1", "10.0.0.1:1"]);
    // A pod with a second address counts once, with the address at which it is ready.
    let moved = fresh.replace("10.0.0.1,", "10.0.0.2,");
    assert_eq!(endpoints("sql", SERVICE, &[&stale, &moved]), ["10.0.0.2:1"]);
    assert_eq!(endpoints("sql", SERVICE, &[&moved, &stale]), ["10.0.0.2:1"]);
    assert_eq!(endpoints("sql", SERVICE, &[&fresh, &moved]).len(), 1);
    // Each of its ports is an endpoint.
    let another_port = fresh.replace("port: 1", "port: 2");
    assert_eq!(endpoints("sql", SERVICE, &[&fresh, &another_port]), ["10.0.0.1:1", "10.0.0.1:2"]);
}

#[test]
fn zones_and_hints_do_not_matter() {
    let slice = "addressType: IPv4, ports: [{name: sql, port: 1}], endpoints: [\
                 {addresses: [10.0.0.1], zone: a, hints: {forZones: [{name: b}]}}, {addresses: [10.0.0.2], zone: b}]";
    assert_eq!(endpoints("sql", SERVICE, &[slice]), ["10.0.0.1:1", "10.0.0.2:1"]);
}

#[test]
fn a_pod_of_a_stateful_set_keeps_its_identity_over_addresses() {
    let pod = "kind: Pod, namespace: shop, name: pg-0, uid: u1";
    for (endpoint, expected) in [
        (format!("hostname: pg-0, targetRef: {{{pod}}}"), "shop/pg-0"),
        (format!("hostname: other, targetRef: {{{pod}}}"), "10.0.0.1:1"),
        (format!("targetRef: {{{pod}}}"), "10.0.0.1:1"),
        ("hostname: pg-0".into(), "10.0.0.1:1"),
        ("hostname: pg-0, targetRef: {kind: Node, name: pg-0}".into(), "10.0.0.1:1"),
    ] {
        let slice = format!(
            "addressType: IPv4, ports: [{{name: sql, port: 1}}], endpoints: [{{addresses: [10.0.0.1], {endpoint}}}]"
        );
        let (snapshot, _) = first(&pg("sql", SERVICE, &[&slice]));
        assert_eq!(snapshot.upstreams[&upstream("pg")].endpoints[0].stable_id.to_string(), expected);
    }
}

#[test]
fn invalid_ports_and_addresses_of_another_type_are_reported() {
    for (slice, expected) in [
        (
            "addressType: IPv4, ports: [{name: sql, port: 0}], endpoints: [{addresses: [10.0.0.1]}]",
            "EndpointSlice shop/pg-0 has port 0: write a number from 1 to 65535; it is ignored",
        ),
        (
            "addressType: IPv4, ports: [{name: sql, port: 70000}], endpoints: [{addresses: [10.0.0.1]}]",
            "EndpointSlice shop/pg-0 has port 70000: write a number from 1 to 65535; it is ignored",
        ),
        (
            "addressType: IPv6, ports: [{name: sql, port: 1}], endpoints: [{addresses: [10.0.0.1]}]",
            "EndpointSlice shop/pg-0 has `10.0.0.1`, which is not an IPv6 address: write one; it is ignored",
        ),
    ] {
        let found = sentences(&first(&pg("sql", SERVICE, &[slice])).1, "pg");
        assert!(found.iter().any(|sentence| sentence.contains(expected)), "{found:?}");
        assert!(!found.iter().any(|sentence| sentence.contains("has that port yet")), "{found:?}");
    }
}

#[test]
fn unusable_slices_are_reported_and_affect_nothing_else() {
    let v4 = "addressType: IPv4, ports: [{name: sql, port: 1}], endpoints: [{addresses: [10.0.0.1]}]";
    let fqdn = "addressType: FQDN, ports: [{name: sql, port: 1}], endpoints: [{addresses: [db.example.com]}]";
    let broken = "addressType: IPv4, ports: [{name: sql, port: 1}], endpoints: [{addresses: [ten]}]";
    assert_eq!(endpoints("sql", SERVICE, &[fqdn, broken, v4]), ["10.0.0.1:1"]);
    let found = sentences(&first(&pg("sql", SERVICE, &[fqdn, broken, v4])).1, "pg");
    assert!(
        found[0].contains("EndpointSlice shop/pg-0 has addresses of type FQDN, which is not supported"),
        "{found:?}"
    );
    assert!(found[1].contains("EndpointSlice shop/pg-1 has `ten`, which is not an IP address"), "{found:?}");

    let external = "{kind: Service, metadata: {name: pg}, spec: {type: ExternalName, externalName: db.example.com}}";
    let found = sentences(&first(&pg("sql", external, &[])).1, "pg");
    assert!(found[0].contains("Service shop/pg is of type ExternalName"), "{found:?}");
}

#[test]
fn a_service_without_ready_endpoints_is_served_with_a_warning() {
    let (snapshot, verdicts) = first(&pg("sql", SERVICE, &[]));
    assert_eq!(
        sentences(&verdicts, "pg"),
        ["spec.backends[0]: Service shop/pg has no ready endpoint on port sql; connections are refused while no \
             other backend has a ready endpoint"]
    );
    assert!(!verdicts[&object("pg")].refuses());
    assert!(snapshot.listeners.contains_key(&listener("pg", 5432)));
}

#[test]
fn unready_pods_differ_from_no_pods() {
    let slice = |conditions: &str| {
        let endpoint = |ip| format!("{{addresses: [{ip}], conditions: {{{conditions}}}}}");
        let endpoints = ["10.0.0.1", "10.0.0.2"].map(endpoint).join(", ");
        format!("addressType: IPv4, ports: [{{name: sql, port: 1}}], endpoints: [{endpoints}]")
    };
    for (conditions, reason, part) in [
        ("ready: false", Reason::EndpointsNotReady, "on port sql: 2 endpoints are not ready; connections are refused"),
        ("ready: false, terminating: true", Reason::NoEndpoints, "on port sql; connections are refused"),
    ] {
        let (_, verdicts) = first(&pg("sql", SERVICE, &[&slice(conditions)]));
        let [problem] = &verdicts[&object("pg")].problems[..] else { panic!("{verdicts:?}") };
        assert!(problem.reason == reason && problem.message.contains(part), "{problem}");
    }
}

#[test]
fn slices_of_other_services_and_namespaces_are_not_taken() {
    let mut world = pg("sql", SERVICE, &[]);
    for (namespace, service) in [("other", "pg"), ("shop", "pgx"), ("shoq", "pg")] {
        let slice = format!(
            "{{kind: EndpointSlice, metadata: {{namespace: {namespace}, name: x-{service}, labels: \
             {{kubernetes.io/service-name: {service}}}}}, addressType: IPv4, ports: [{{name: sql, port: 1}}], \
             endpoints: [{{addresses: [10.0.0.1]}}]}}"
        );
        world.endpoint_slices.extend(super::world(&slice).endpoint_slices);
    }
    assert!(first(&world).0.upstreams[&upstream("pg")].endpoints.is_empty());
}

#[test]
fn drained_endpoints_serve_no_new_connections() {
    let listed = |drained: &str| {
        let slice = "addressType: IPv4, ports: [{name: sql, port: 1}], endpoints: [\
                     {addresses: [10.0.0.1], targetRef: {kind: Pod, name: pg-1, uid: u1}}, \
                     {addresses: [10.0.0.2], targetRef: {kind: Pod, name: pg-2, uid: u2}}, \
                     {addresses: [10.0.0.3], targetRef: {kind: Pod, name: pg-3, uid: u3}, conditions: {ready: false}}]";
        let mut world = pg("sql", SERVICE, &[slice]);
        let spec = Arc::make_mut(first_mut(&mut world.load_balancers).spec.as_mut().unwrap());
        spec.drained_endpoints = serde_saphyr::from_str(drained).unwrap();
        spec.backends[0].weight = 3;
        world
    };
    let (before, _) = first(&listed("[]"));
    for (drained, serving, unready, count) in [
        ("[pg-1]", &["10.0.0.2:1"][..], &[("10.0.0.1:1", Unready::Drained)][..], 1),
        ("['10.0.0.2:1', 'pg-2', '10.0.0.1:7']", &["10.0.0.1:1"], &[("10.0.0.2:1", Unready::Drained)], 1),
        // An endpoint that never served has no connections, but counts.
        ("['10.0.0.3']", &["10.0.0.1:1", "10.0.0.2:1"], &[], 1),
        ("[pg-4, '10.0.0.4']", &["10.0.0.1:1", "10.0.0.2:1"], &[], 0),
        ("[pg-1, pg-2]", &[], &[("10.0.0.1:1", Unready::Drained), ("10.0.0.2:1", Unready::Drained)], 2),
    ] {
        let (snapshot, verdicts) = then(&listed(drained), &before);
        let upstream = &snapshot.upstreams[&upstream("pg")];
        let addresses: Vec<_> = upstream.endpoints.iter().map(|endpoint| endpoint.key.address.to_string()).collect();
        assert_eq!(addresses, serving, "{drained}");
        let found: Vec<_> = upstream.unready.iter().map(|(key, why)| (key.address.to_string(), *why)).collect();
        let expected: Vec<_> = unready.iter().map(|(address, why)| ((*address).to_owned(), *why)).collect();
        assert_eq!(found, expected, "{drained}");
        assert_eq!(upstream.backends["pg"].drained, count, "{drained}");
        let problems = &verdicts.values().next().unwrap().problems;
        let says = problems.iter().any(|problem| problem.to_string().contains("2 endpoints are in `drainedEndpoints`"));
        assert_eq!(says, serving.is_empty(), "{problems:?}");
        let (after, _) = then(&listed("[]"), &snapshot);
        assert_eq!(after.upstreams[&super::upstream("pg")], before.upstreams[&super::upstream("pg")], "undrained");
    }
}

#[test]
fn declared_addresses_can_be_drained() {
    let (snapshot, _) = first(&world(
        "{kind: TcpLoadBalancer, apiVersion: tcplb.io/v1alpha1, metadata: {name: pg}, spec: {listeners: [{port: 5432}], \
         backends: [{addresses: ['10.0.0.1:1', '10.0.0.1:2', '10.0.0.2:1']}], drainedEndpoints: ['10.0.0.1:1', '10.0.0.2']}}",
    ));
    let upstream = &snapshot.upstreams[&upstream("pg")];
    let addresses: Vec<_> = upstream.endpoints.iter().map(|endpoint| endpoint.key.address.to_string()).collect();
    assert_eq!((&*addresses, upstream.backends["default"].drained), (&["10.0.0.1:2".to_owned()][..], 2));
}
