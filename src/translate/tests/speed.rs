//! How long a translation takes. A measurement and no test: how fast is up to the machine.

use std::{fmt::Write, sync::Arc, time::Instant};

use super::*;

const LOAD_BALANCERS: usize = 500;
const ENDPOINTS: usize = 20;

#[test]
#[ignore = "a measurement: cargo test --release --lib speed -- --ignored --nocapture"]
fn an_endpoint_changes_among_many() {
    let mut world = many();
    let (mut snapshot, verdicts) = first(&world);
    assert_eq!(snapshot.listeners.len(), LOAD_BALANCERS);
    assert!(verdicts.values().all(|verdict| verdict.problems.is_empty()), "{:?}", verdicts.values().next());
    let mut times = Vec::new();
    for change in 0..50 {
        let slice = world.endpoint_slices.get_mut(&object(&format!("s{}", change * 7))).unwrap();
        Arc::make_mut(slice).endpoints.truncate(ENDPOINTS - 1);
        let began = Instant::now();
        snapshot = then(&world, &snapshot).0;
        times.push(began.elapsed());
    }
    assert_eq!(snapshot.generation, 51);
    times.sort();
    println!(
        "{LOAD_BALANCERS} load balancers of {ENDPOINTS} endpoints each: median {:?}, longest {:?}",
        times[25], times[49]
    );
}

fn many() -> World {
    let mut ports = String::new();
    let mut text = String::new();
    for index in 0..LOAD_BALANCERS {
        write!(ports, "{}: {{uid: u{index}, port: 5432, object: shop/l{index}}}, ", 20000 + index).unwrap();
        let endpoints: Vec<_> = (0..ENDPOINTS)
            .map(|endpoint| {
                format!(
                    "{{addresses: [10.{endpoint}.{}.{}], conditions: {{ready: true}}, \
                     targetRef: {{kind: Pod, namespace: shop, name: p, uid: p{index}-{endpoint}}}}}",
                    index / 250,
                    index % 250
                )
            })
            .collect();
        write!(
            text,
            "---\n{{kind: TcpLoadBalancer, apiVersion: tcplb.io/v1alpha1, metadata: {{name: l{index}, uid: u{index}}}, \
             spec: {{listeners: [{{port: 5432}}], backends: [{{service: {{name: s{index}, port: 1}}}}]}}}}\n---\n\
             {{kind: Service, metadata: {{name: s{index}}}, spec: {{selector: {{a: b}}, ports: [{{port: 1}}]}}}}\n---\n\
             {{kind: EndpointSlice, metadata: {{namespace: shop, name: s{index}, labels: {{kubernetes.io/service-name: \
             s{index}, endpointslice.kubernetes.io/managed-by: endpointslice-controller.k8s.io}}}}, addressType: IPv4, \
             ports: [{{port: 7}}], endpoints: [{}]}}\n",
            endpoints.join(", ")
        )
        .unwrap();
    }
    world(&format!("{{kind: Gateway, ports: {{{ports}}}}}\n{text}"))
}
