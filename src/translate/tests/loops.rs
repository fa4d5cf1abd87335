//! Backends that return connections to their listener.

use std::sync::Arc;

use super::*;
use crate::world::Lookup;

fn addresses(snapshot: &Snapshot, name: &str) -> Vec<String> {
    snapshot.upstreams[&upstream(name)].endpoints.iter().map(|endpoint| endpoint.key.address.to_string()).collect()
}

fn is_left_out(bind: &str, backend: &str) -> bool {
    let spec =
        format!("{{listeners: [{{port: 5432, {bind}}}], backends: [{{addresses: ['{backend}', '10.0.0.1:1']}}]}}");
    let (snapshot, verdicts) = first(&load_balancer("pg", &spec));
    let sentences = sentences(&verdicts, "pg");
    if sentences.is_empty() {
        assert_eq!(addresses(&snapshot, "pg").len(), 2, "{bind} {backend}");
        return false;
    }
    let expected = "is this load balancer's own listener 5432: write the address of a server; it is ignored";
    assert!(sentences.len() == 1 && sentences[0].starts_with("spec.backends[0]: "), "{sentences:?}");
    assert!(sentences[0].contains(expected), "{sentences:?}");
    assert_eq!(addresses(&snapshot, "pg"), ["10.0.0.1:1"], "{bind} {backend}");
    true
}

#[test]
fn a_backend_that_is_the_listener_itself_is_dropped_in_any_spelling() {
    for (bind, backend) in [
        ("address: 127.0.0.1", "127.0.0.1:5432"),
        ("address: 127.0.0.1", "[::ffff:127.0.0.1]:5432"),
        ("address: 10.0.0.9", "10.0.0.9:5432"),
        ("address: '::1'", "[::1]:5432"),
        ("address: 0.0.0.0", "127.0.0.1:5432"),
        ("address: 0.0.0.0", "127.8.8.8:5432"),
        ("address: '::'", "127.0.0.1:5432"),
        ("address: '::'", "[::1]:5432"),
        ("name: everywhere", "127.0.0.1:5432"),
    ] {
        assert!(is_left_out(bind, backend), "{bind} {backend}");
    }
    for (bind, backend) in [
        ("address: 127.0.0.1", "127.0.0.1:5433"),
        ("address: 127.0.0.1", "127.0.0.2:5432"),
        ("address: 0.0.0.0", "[::1]:5432"),
        // Most backends use the port of their listener.
        ("name: everywhere", "10.0.0.9:5432"),
    ] {
        assert!(!is_left_out(bind, backend), "{bind} {backend}");
    }
}

#[test]
fn a_dns_name_may_lead_to_the_listener_too() {
    let spec = "{listeners: [{port: 5432}], backends: [{addresses: ['db.test:5432']}]}";
    let mut world = load_balancer("pg", spec);
    let addresses = ["127.0.0.1", "10.0.0.9"].map(|ip| ip.parse().unwrap()).into();
    world.names.insert(Arc::from("db.test"), Lookup { addresses, ..Lookup::default() });
    let (snapshot, verdicts) = first(&world);
    assert_eq!(self::addresses(&snapshot, "pg"), ["10.0.0.9:5432"]);
    assert!(sentences(&verdicts, "pg")[0].contains("127.0.0.1:5432 is this load balancer's own listener"));
}

fn chain(ways: &[(&str, u16, u16)]) -> World {
    let one = |(name, port, to): &(&str, u16, u16)| {
        format!(
            "{{apiVersion: tcplb.io/v1alpha1, kind: TcpLoadBalancer, metadata: {{name: {name}, namespace: shop}}, spec: \
             {{listeners: [{{port: {port}}}], backends: [{{addresses: ['127.0.0.1:{to}']}}]}}}}\n---\n"
        )
    };
    let documents: String = ways.iter().map(one).collect();
    world(documents.trim_end_matches("---\n"))
}

#[test]
fn loops_of_several_load_balancers_are_reported() {
    let (snapshot, verdicts) = first(&chain(&[("a", 1000, 2000), ("b", 2000, 3000), ("c", 3000, 1000)]));
    for (name, next) in [("a", "2000 of shop/b"), ("b", "3000 of shop/c"), ("c", "1000 of shop/a")] {
        assert!(sentences(&verdicts, name)[0].contains(&format!("is the listener {next}")), "{verdicts:?}");
        assert!(addresses(&snapshot, name).is_empty());
    }
    let (snapshot, verdicts) = first(&chain(&[("a", 1000, 2000), ("b", 2000, 3000), ("c", 3000, 4000)]));
    for name in ["a", "b", "c"] {
        assert!(sentences(&verdicts, name).is_empty(), "one behind the other is no circle: {verdicts:?}");
        assert_eq!(addresses(&snapshot, name).len(), 1);
    }
}

#[test]
fn routes_between_listeners_of_a_load_balancer_are_no_loop() {
    let routed = |second: &str| {
        let spec = format!(
            "{{listeners: [{{name: outer, port: 1000, tls: {{mode: Passthrough}}, routes: [{{backends: [inner]}}]}}, {{name: \
             inner, port: 2000, tls: {{mode: Passthrough}}, routes: [{{backends: [{second}]}}]}}], backends: [{{name: inner, \
             addresses: ['127.0.0.1:2000']}}, {{name: server, addresses: ['10.0.0.1:1']}}]}}"
        );
        sentences(&first(&load_balancer("pg", &spec)).1, "pg")
    };
    assert_eq!(routed("server"), Vec::<String>::new());
    assert!(routed("inner").iter().any(|sentence| sentence.contains("own listener 2000")));
}

#[test]
fn a_changed_backend_that_is_a_listener_is_dropped_as_by_the_first_translation() {
    for (bind, backend) in [("address: 10.0.0.9", "10.0.0.9:5432"), ("name: everywhere", "127.0.0.1:5432")] {
        let declaring = |backend: &str| {
            load_balancer(
                "pg",
                &format!("{{listeners: [{{port: 5432, {bind}}}], backends: [{{addresses: ['{backend}']}}]}}"),
            )
        };
        let (mut memo, mut world) = (Memo::default(), declaring("10.0.0.1:1"));
        let before = translate_with(&mut memo, &world, &Snapshot::default(), NOW).0;
        world.load_balancers = declaring(backend).load_balancers;
        let (after, verdicts) = translate_with(&mut memo, &world, &before, NOW);
        assert_eq!(addresses(&after, "pg"), [""; 0]);
        assert!(sentences(&verdicts, "pg")[0].contains(" is this load balancer's own listener 5432"), "{verdicts:?}");
    }
}

#[test]
fn a_check_that_probes_the_listener_itself_gets_a_warning() {
    let sentences = |bind: &str, backend: &str, check: &str| {
        let spec = format!(
            "{{listeners: [{{port: 5432, {bind}}}], backends: [{{addresses: ['10.0.0.1:1', '{backend}']}}], healthCheck: \
             {{active: {{{check}}}}}}}"
        );
        self::sentences(&first(&load_balancer("pg", &spec)).1, "pg")
    };
    for (bind, backend, check) in [
        ("name: everywhere", "127.0.0.1:5433", "port: 5432"),
        ("address: 10.0.0.9", "10.0.0.9:5433", "port: 5432"),
        ("address: '::'", "[::1]:5433", "port: 5432, type: HTTP"),
    ] {
        let told = sentences(bind, backend, check);
        let ip = backend.strip_suffix(":5433").unwrap();
        let expected =
            format!("spec.backends[0]: the health check probes {ip}:5432, which is this load balancer's own listener");
        assert!(told.len() == 1 && told[0].starts_with(&expected), "{told:?}");
    }
    for (bind, backend, check) in [
        ("name: everywhere", "127.0.0.1:5433", "port: 5434"),
        ("name: everywhere", "127.0.0.1:5433", "type: TCP"),
        ("name: everywhere", "10.0.0.9:5433", "port: 5432"),
        ("address: 127.0.0.2", "127.0.0.1:5433", "port: 5432"),
        ("address: 0.0.0.0", "[::1]:5433", "port: 5432"),
    ] {
        assert_eq!(sentences(bind, backend, check), [""; 0], "{bind} {backend} {check}");
    }
}
