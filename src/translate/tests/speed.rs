//! Duration of a translation. A measurement without a limit, which depends on the machine.

use std::{sync::Arc, time::Instant};

use super::*;
use crate::{
    api::ServiceType,
    world::{Allocation, Allocations, ProcessMode, Tenancy},
};

const LOAD_BALANCERS: usize = 500;
const ENDPOINTS: usize = 20;

#[test]
#[ignore = "a measurement: cargo test --release --lib speed -- --ignored --nocapture"]
fn an_endpoint_changes_among_many() {
    let mut world = many();
    let mut memo = Memo::default();
    let (mut snapshot, verdicts) = translate_with(&mut memo, &world, &Snapshot::default(), NOW);
    assert_eq!(snapshot.listeners.len(), LOAD_BALANCERS);
    assert!(verdicts.values().all(|verdict| verdict.problems.is_empty()), "{:?}", verdicts.values().next());
    let mut times = Vec::new();
    for change in 0..50 {
        let slice = world.endpoint_slices.get_mut(&object(&format!("s{}", change * 7))).unwrap();
        Arc::make_mut(slice).endpoints.truncate(ENDPOINTS - 1);
        let began = Instant::now();
        snapshot = translate_with(&mut memo, &world, &snapshot, NOW).0;
        times.push(began.elapsed());
    }
    assert_eq!(snapshot.generation, 51);
    times.sort();
    let [shortest, median] = [times[0], times[25]];
    println!("{LOAD_BALANCERS} load balancers of {ENDPOINTS} endpoints each: {shortest:?} at least, {median:?} mostly");
}

fn many() -> World {
    let ports = (0..LOAD_BALANCERS).map(|index| {
        let port = u16::try_from(20000 + index).unwrap();
        (port, Allocation { uid: format!("u{index}").into(), port: 5432, object: "".into(), freed: None })
    });
    let tenancy = Tenancy { service_types: [ServiceType::ClusterIp].into(), ..Tenancy::default() };
    let mode = ProcessMode::Gateway(Arc::new(Allocations(ports.collect())), Arc::new(tenancy));
    let mut world = World { mode, ..World::default() };
    for one in (0..LOAD_BALANCERS).map(one) {
        world.load_balancers.extend(one.load_balancers);
        world.services.extend(one.services);
        world.endpoint_slices.extend(one.endpoint_slices);
    }
    world
}

/// A load balancer with its Service.
fn one(index: usize) -> World {
    let endpoint = |endpoint| {
        format!(
            "{{addresses: [10.{endpoint}.{}.{}], conditions: {{ready: true}}, \
             targetRef: {{kind: Pod, namespace: shop, name: p, uid: p{index}-{endpoint}}}}}",
            index / 250,
            index % 250
        )
    };
    let endpoints = (0..ENDPOINTS).map(endpoint).collect::<Vec<_>>().join(", ");
    world(&format!(
        "{{kind: TcpLoadBalancer, apiVersion: tcplb.io/v1alpha1, metadata: {{name: l{index}, uid: u{index}}}, \
         spec: {{listeners: [{{port: 5432}}], backends: [{{service: {{name: s{index}, port: 1}}}}]}}}}\n---\n\
         {{kind: Service, metadata: {{name: s{index}}}, spec: {{selector: {{a: b}}, ports: [{{port: 1}}]}}}}\n---\n\
         {{kind: EndpointSlice, metadata: {{namespace: shop, name: s{index}, labels: {{kubernetes.io/service-name: \
         s{index}, endpointslice.kubernetes.io/managed-by: endpointslice-controller.k8s.io}}}}, addressType: IPv4, \
         ports: [{{port: 7}}], endpoints: [{endpoints}]}}"
    ))
}
