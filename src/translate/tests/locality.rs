//! Proximity of endpoints, and messages where they are unknown.

use super::*;
use crate::{model::Proximity, world::ProcessLocality};

/// A world with the endpoints 10.0.0.1, 10.0.0.2, … of the Service `pg` in zones and on nodes, as seen from zone `here`
/// and node `this`.
fn seen(locality: &str, endpoints: &[&str]) -> World {
    let endpoints: Vec<_> =
        (1..).zip(endpoints).map(|(n, text)| format!("{{addresses: [10.0.0.{n}], {text}}}")).collect();
    let text = format!(
        "{{kind: TcpLoadBalancer, apiVersion: tcplb.io/v1alpha1, metadata: {{name: pg}}, spec: {{listeners: [{{port: 1}}], \
         loadBalancing: {{locality: {{{locality}}}}}, backends: [{{service: {{name: pg, port: 1}}}}]}}}}\n---\n\
         {{kind: Service, metadata: {{name: pg}}, spec: {{ports: [{{port: 1}}]}}}}\n---\n\
         {{kind: EndpointSlice, metadata: {{name: pg, labels: {{kubernetes.io/service-name: pg}}}}, addressType: IPv4, \
         ports: [{{port: 1}}], endpoints: [{}]}}\n",
        endpoints.join(", ")
    );
    let locality = ProcessLocality { node: Some("this".into()), zone: Some("here".into()) };
    World { locality: Some(locality), ..world(&text) }
}

/// One letter for each endpoint: `n` on this node, `z` in this zone, `f` elsewhere.
fn proximities(world: &World) -> String {
    let (snapshot, verdicts) = first(world);
    assert!(!verdicts.values().any(Verdict::refuses), "{verdicts:?}");
    let letter = |proximity| match proximity {
        Proximity::SameNode => 'n',
        Proximity::SameZone => 'z',
        Proximity::Remote => 'f',
    };
    snapshot.upstreams[&upstream("pg")].endpoints.iter().map(|endpoint| letter(endpoint.proximity)).collect()
}

#[test]
fn proximity_follows_the_preference_and_the_slices() {
    const HINTED: &str = "zone: there, hints: {forZones: [{name: there}, {name: here}]}";
    const BY_NODE: &str = "hints: {forNodes: [{name: this}], forZones: [{name: here}]}";
    const ELSEWHERE: &str = "zone: here, hints: {forZones: [{name: there}], forNodes: [{name: that}]}";
    let places = &["zone: here, nodeName: this", "zone: here, nodeName: that", "zone: there, nodeName: other", "{}"];
    let places = places.map(|place| if place == "{}" { "conditions: {}" } else { place });
    for (prefer, endpoints, expected) in [
        ("SameZone", &places[..], "zzff"),
        ("SameNode", &places, "nzff"),
        ("Hints", &places, "ffff"),
        ("Hints", &[HINTED, ELSEWHERE], "zf"),
        ("Hints", &[HINTED, ELSEWHERE, "zone: here"], "fff"),
        ("Hints", &[HINTED, ELSEWHERE, "zone: here, conditions: {ready: false}"], "zf"),
        ("Hints", &[BY_NODE, ELSEWHERE], "nf"),
        ("Hints", &[BY_NODE, HINTED], "zz"),
        ("SameZone", &[ELSEWHERE], "z"),
    ] {
        assert_eq!(proximities(&seen(&format!("prefer: {prefer}"), endpoints)), expected, "{prefer} {endpoints:?}");
    }
}

#[test]
fn a_process_without_a_known_locality_warns() {
    for (prefer, node, zone, expected) in [
        ("SameZone", Some("this"), Some("here"), None),
        ("SameNode", Some("this"), None, None),
        ("SameZone", Some("this"), None, Some("the zone of this process is unknown: start it with --zone")),
        ("Hints", None, None, Some("the zone of this process is unknown: start it with --zone")),
        ("SameNode", None, Some("here"), Some("the node of this process is unknown: start it with --node")),
    ] {
        let mut world = seen(&format!("prefer: {prefer}"), &["zone: here"]);
        world.locality = Some(ProcessLocality { node: node.map(Into::into), zone: zone.map(Into::into) });
        let messages = sentences(&first(&world).1, "pg");
        let is_expected =
            |expected| messages == [format!("spec.loadBalancing.locality: has no effect here, since {expected}")];
        assert!(expected.map_or(messages.is_empty(), is_expected), "{messages:?}");
        world.locality = None;
        assert!(sentences(&first(&world).1, "pg").is_empty(), "who only checks is told nothing");
    }
}

#[test]
fn a_zone_without_endpoints_gets_a_warning() {
    const ELSEWHERE: &str = "spec.loadBalancing.locality: no endpoint is in zone `here`, where this process runs: check its \
         --zone and the zones of the endpoints";
    for (endpoints, expected) in [
        (&["zone: there", "zone: here"][..], None),
        (&["zone: there", "zone: yonder"], Some(ELSEWHERE)),
        (&["conditions: {}"], None),
        (&[], None),
    ] {
        let messages = sentences(&first(&seen("prefer: SameZone", endpoints)).1, "pg");
        assert_eq!(
            messages.iter().find(|sentence| sentence.contains("no endpoint is in zone")).map(String::as_str),
            expected,
            "{messages:?}"
        );
    }
}

#[test]
fn the_zone_is_taken_from_a_pod_of_the_same_node_in_kubernetes_slices() {
    let mut known_node = seen("prefer: SameZone", &["zone: here, nodeName: that", "zone: there, nodeName: other"]);
    known_node.locality = Some(ProcessLocality { node: Some("this".into()), zone: None });
    assert_eq!(proximities(&known_node), "ff");
    let by = |manager: &str| {
        format!(
            "{{kind: Service, metadata: {{name: own, namespace: tcplb, uid: s}}, spec: {{selector: {{app: tcplb}}, ports: \
             [{{port: 1}}]}}}}\n---\n{{kind: EndpointSlice, metadata: {{name: own, namespace: tcplb, labels: \
             {{kubernetes.io/service-name: own, endpointslice.kubernetes.io/managed-by: {manager}}}, ownerReferences: \
             [{{apiVersion: v1, kind: Service, name: own, uid: s}}]}}, addressType: IPv4, ports: [{{port: 1}}], endpoints: \
             [{{addresses: [10.9.9.9], nodeName: this, zone: here, targetRef: {{kind: Pod, namespace: tcplb, name: p, uid: \
             p}}}}]}}\n"
        )
    };
    for (manager, expected) in [("endpointslice-controller.k8s.io", "zf"), ("somebody", "ff")] {
        let own = world(&by(manager));
        let mut all = known_node.clone();
        all.services.extend(own.services);
        all.endpoint_slices.extend(own.endpoint_slices);
        assert_eq!(proximities(&all), expected, "{manager}");
    }
}

#[test]
fn declared_addresses_have_no_locality() {
    let world = load_balancer(
        "pg",
        "{listeners: [{port: 1}], loadBalancing: {locality: {prefer: SameZone}}, backends: [{addresses: ['10.0.0.1:1']}]}",
    );
    let messages = sentences(&first(&world).1, "pg");
    assert!(
        messages.len() == 1 && messages[0].contains("only endpoints of Services have a zone and a node"),
        "{messages:?}"
    );
}
