//! The cost of a translation grows no faster than the number of declared objects.

use super::*;
use crate::{
    api::ServiceType,
    cost::assert_grows_no_faster_than_n_log_n,
    world::{Allocation, Allocations, ProcessMode, Tenancy},
};

fn merged(worlds: impl Iterator<Item = World>) -> World {
    let mut all = World::default();
    for one in worlds {
        all.load_balancers.extend(one.load_balancers);
        all.services.extend(one.services);
        all.secrets.extend(one.secrets);
        all.endpoint_slices.extend(one.endpoint_slices);
    }
    all
}

/// A load balancer with its Service; `spec` lacks the backends.
fn with_service(index: usize, endpoints: usize, spec: &str) -> World {
    let endpoint = |endpoint| {
        format!(
            "{{addresses: [10.{}.{}.{}], conditions: {{ready: true}}, targetRef: {{kind: Pod, namespace: shop, name: p, uid: \
             p{index}-{endpoint}}}}}",
            endpoint / 250,
            index % 250,
            endpoint % 250
        )
    };
    let endpoints = (0..endpoints).map(endpoint).collect::<Vec<_>>().join(", ");
    world(&format!(
        "{{kind: TcpLoadBalancer, apiVersion: tcplb.io/v1alpha1, metadata: {{name: l{index}, uid: u{index}}}, \
         spec: {{{spec}, backends: [{{service: {{name: s{index}, port: 1}}}}]}}}}\n---\n\
         {{kind: Service, metadata: {{name: s{index}}}, spec: {{selector: {{a: b}}, ports: [{{port: 1}}]}}}}\n---\n\
         {{kind: EndpointSlice, metadata: {{namespace: shop, name: s{index}, labels: {{kubernetes.io/service-name: \
         s{index}, endpointslice.kubernetes.io/managed-by: endpointslice-controller.k8s.io}}}}, addressType: IPv4, \
         ports: [{{port: 7}}], endpoints: [{endpoints}]}}"
    ))
}

/// Translates the world, and again without a change.
fn translate_twice(world: &mut World) {
    let (snapshot, verdicts) = first(world);
    assert_eq!(verdicts.len(), world.load_balancers.len());
    assert_eq!(then(world, &snapshot).0.generation, snapshot.generation);
}

#[test]
fn many_load_balancers_of_a_cluster() {
    let many = |count: usize| {
        let ports = (0..count).map(|index| {
            let port = u16::try_from(20000 + index).unwrap();
            (port, Allocation { uid: format!("u{index}").into(), port: 5432, object: "".into(), freed: None })
        });
        let tenancy = Tenancy { service_types: [ServiceType::ClusterIp].into(), ..Tenancy::default() };
        let mode = ProcessMode::Gateway(Arc::new(Allocations(ports.collect())), Arc::new(tenancy));
        World { mode, ..merged((0..count).map(|index| with_service(index, 3, "listeners: [{port: 5432}]"))) }
    };
    assert_grows_no_faster_than_n_log_n(60, many, translate_twice);
}

#[test]
fn many_endpoints_of_a_service() {
    assert_grows_no_faster_than_n_log_n(
        500,
        |count| with_service(0, count, "listeners: [{port: 5432}]"),
        translate_twice,
    );
}

#[test]
fn many_load_balancers_that_want_the_same_port() {
    let many = |count: usize| merged((0..count).map(|index| with_service(index, 1, "listeners: [{port: 5432}]")));
    assert_grows_no_faster_than_n_log_n(100, many, translate_twice);
}

#[test]
fn many_chained_load_balancers() {
    let one = |index: usize| {
        world(&format!(
            "{{kind: TcpLoadBalancer, apiVersion: tcplb.io/v1alpha1, metadata: {{name: l{index}}}, spec: {{listeners: \
             [{{port: {}}}], backends: [{{addresses: ['127.0.0.1:{}']}}]}}}}",
            20_000 + index,
            20_001 + index
        ))
    };
    let chain = |count: usize| merged((0..count).map(one));
    assert_grows_no_faster_than_n_log_n(200, chain, |world| drop(first(world)));
}

#[test]
fn many_load_balancers_with_mistakes() {
    let wrong = "listeners: [{name: a, port: 1, tls: {certificateRefs: [{name: absent}, {name: other}]}, routes: \
                 [{serverNames: [a.example], backends: [absent, none]}]}, {name: a, port: 1, limits: {maxConnections: 0}}], \
                 loadBalancing: {algorithm: Random, hash: {}}";
    let many = |count: usize| merged((0..count).map(|index| with_service(index, 1, wrong)));
    assert_grows_no_faster_than_n_log_n(60, many, |world| drop(first(world)));
}

#[test]
fn messages_about_an_object_are_bounded() {
    let long = "x".repeat(5000);
    let names: Vec<_> = (0..60).map(|number| format!("n{number}")).collect();
    let route = |number: usize| format!("{{serverNames: [r{number}.example], backends: [{}]}}", names.join(", "));
    let listener = |number: usize| {
        let routes: Vec<_> = (0..16).map(|route_number| route(number * 16 + route_number)).collect();
        let routes = routes.join(", ");
        format!("{{name: l{number}, port: {}, tls: {{mode: Passthrough}}, routes: [{routes}]}}", number + 1)
    };
    let listeners: Vec<_> = (0..16).map(listener).collect();
    let backends: Vec<_> =
        (0..64).map(|number| format!("{{name: b{number}, addresses: ['{number}.example:1']}}")).collect();
    let mut world =
        load_balancer("lb", &format!("{{listeners: [{}], backends: [{}]}}", listeners.join(", "), backends.join(", ")));
    let problem = Some(format!("cannot be resolved: {long}").into());
    let lookup = crate::world::Lookup { problem, ..Default::default() };
    world.names = (0..64).map(|number| (Arc::from(format!("{number}.example")), lookup.clone())).collect();
    let (_, verdicts) = first(&world);
    let problems = &verdicts[&object("lb")].problems;
    assert!(problems.len() < 250, "{}", problems.len());
    let text: usize = problems.iter().map(|problem| problem.to_string().len()).sum();
    assert!(text < 250_000, "{text}");
    assert!(problems.iter().any(|problem| problem.message.contains("more problems")));
    for number in 0..16 {
        let field = format!("spec.listeners[{number}]");
        assert!(problems.iter().any(|problem| problem.field.starts_with(&field)), "{field}");
    }
}
