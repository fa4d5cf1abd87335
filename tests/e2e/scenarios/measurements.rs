//! The delay of changes, and the resources of a controller with many objects. Results are printed, and compared to a
//! limit with room for a slow machine. No other scenario runs at the same time.

use std::{env, net::SocketAddr, time::Duration};

use futures::{StreamExt, TryStreamExt, future::join_all};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use crate::{
    backends::{PORT, load_balancer},
    clients::brief_visit,
    cluster::{WAIT_LIMIT, eventually},
    installation::Installation,
    scenario::{Scenario, is, scenario},
    scenarios::traffic::served,
    turns::Isolation,
};

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_load_balancer_serves_soon_after_a_plain_service_would() {
    scenario("latency", Isolation::Exclusive, async |scenario| {
        scenario.backends("echo", 2).await;
        let (mut plain, mut ours) = (Vec::new(), Vec::new());
        for round in 0..5 {
            plain.push(plain_service(scenario, &format!("plain-{round}")).await);
            ours.push(new_load_balancer(scenario, &format!("ours-{round}")).await);
        }
        let (plain, ours) = (median(plain), median(ours));
        println!(
            "measured: from apply to the first served connection {ours:.2?}, of a plain Service {plain:.2?} (medians of 5)"
        );
        assert!(ours < 2 * plain + Duration::from_secs(1), "{ours:?} against {plain:?}");
    })
    .await;
}

async fn plain_service(scenario: &Scenario, name: &str) -> Duration {
    let manifest = format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{selector: {{app: echo}}, ports: [{{port: {PORT}}}]}}}}"
    );
    let began = Instant::now();
    scenario.apply(&manifest).await;
    let service = scenario.api::<Service>().get(name).await.unwrap();
    let address = format!("{}:{PORT}", service.spec.unwrap().cluster_ip.unwrap()).parse().unwrap();
    served(address).await;
    began.elapsed()
}

async fn new_load_balancer(scenario: &Scenario, name: &str) -> Duration {
    let began = Instant::now();
    scenario.apply(&load_balancer(name, 5432, "echo")).await;
    let mut address: Option<SocketAddr> = None;
    eventually("it is served", WAIT_LIMIT, async || {
        if address.is_none() {
            let service = scenario.kept_service(name).await;
            address =
                service.map(|service| format!("{}:5432", service.spec.unwrap().cluster_ip.unwrap()).parse().unwrap());
        }
        match address {
            Some(address) => brief_visit(address).await.is_ok(),
            None => false,
        }
    })
    .await;
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_endpoint_is_used_at_once() {
    scenario("endpoints", Isolation::Exclusive, async |scenario| {
        scenario.backends("echo", 1).await;
        scenario.apply(&load_balancer("endpoints", 5432, "echo")).await;
        let address = scenario.programmed("endpoints").await;
        served(address).await;
        let (mut times, mut usual) = (Vec::new(), Vec::new());
        let visits = || join_all((0..8).map(|_| brief_visit(address)));
        for count in 2..6 {
            let of_echo = watcher::Config::default().labels("kubernetes.io/service-name=echo");
            let mut slices =
                watcher(scenario.api::<EndpointSlice>(), of_echo).default_backoff().touched_objects().boxed();
            let began = Instant::now();
            visits().await;
            usual.push(began.elapsed());
            scenario.scale("echo", count).await;
            let ready = |slice: &EndpointSlice| {
                let endpoints = slice.endpoints.iter();
                endpoints
                    .filter(|endpoint| endpoint.conditions.as_ref().is_some_and(|now| now.ready == Some(true)))
                    .count()
            };
            loop {
                match slices.try_next().await {
                    Ok(Some(slice)) if ready(&slice) == count as usize => break,
                    Ok(Some(_)) | Err(_) => {}
                    Ok(None) => panic!("the watch of EndpointSlices has ended"),
                }
            }
            // From the time at which this test learns of it, like the proxies, to the first connection that it serves.
            let heard = Instant::now();
            let mut met = std::collections::BTreeSet::new();
            eventually("it is used", WAIT_LIMIT, async || {
                met.extend(visits().await.into_iter().flatten());
                met.len() == count as usize
            })
            .await;
            times.push(heard.elapsed());
        }
        let (took, usual) = (median(times), median(usual));
        println!(
            "measured: from an EndpointSlice with one more endpoint to its first connection {took:.2?}, 8 visits take \
             {usual:.2?} (medians of 4)"
        );
        assert!(took < Duration::from_millis(200) + 5 * usual, "{took:?}, 8 visits take {usual:?}");
    })
    .await;
}

/// The resource usage of a proxy, as its kubelet measured it last.
struct Usage {
    pod: String,
    at: Timestamp,
    cpu_seconds: f64,
    memory: u64,
}

/// The usages as kubelets measured them at this time or later. They measure every 10 to 20 seconds.
async fn usage_since(scenario: &Scenario, own: &Installation, time: Timestamp) -> Vec<Usage> {
    let mut usages = Vec::new();
    eventually("the kubelets have measured", WAIT_LIMIT, async || {
        usages = usage(scenario, own).await;
        usages.iter().all(|usage| usage.at >= time)
    })
    .await;
    usages
}

async fn usage(scenario: &Scenario, own: &Installation) -> Vec<Usage> {
    let mut usages = Vec::new();
    for (name, pod) in own.ready_pods(&scenario.client, 2).await {
        let node = pod.spec.unwrap().node_name.unwrap();
        let request =
            axum::http::Request::get(format!("/api/v1/nodes/{node}/proxy/stats/summary")).body(Vec::new()).unwrap();
        let stats: Value = scenario.client.request(request).await.unwrap();
        let of_pod = stats["pods"].as_array().unwrap().iter().find(|pod| pod["podRef"]["name"] == name.as_str());
        let container = &of_pod.expect("the kubelet knows its pod")["containers"][0];
        usages.push(Usage {
            pod: name,
            at: container["cpu"]["time"].as_str().unwrap().parse().unwrap(),
            cpu_seconds: container["cpu"]["usageCoreNanoSeconds"].as_f64().unwrap() / 1e9,
            memory: container["memory"]["workingSetBytes"].as_u64().unwrap(),
        });
    }
    usages
}

/// The default number of load balancers.
const LOAD_BALANCERS: usize = 100;
const ENDPOINTS: usize = 20;
/// The memory that a proxy needs at most without load balancers, in MiB. With 500 load balancers, the limit is the memory
/// request of the chart.
const BASE_MEMORY: u64 = 66;
const LOAD_BALANCERS_OF_A_MEBIBYTE: u64 = 8;
/// In percent of a core, about four times the usage on a fast machine with two cores: 1.3 % by the leader and 0.7 % by
/// the other proxy. Slow virtual machines take twice the CPU time for the same work. Each change is compiled twice, when
/// an endpoint is removed and when it is no longer retained.
const MOST_CPU_OF_LEADER: f64 = 5.0;
const MOST_CPU_OF_FOLLOWER: f64 = 3.0;

/// No server answers at these addresses: the measurement is about the controller, not its traffic. They are in manually
/// written slices, since ten thousand pods need more than one machine.
fn endpoints(index: usize) -> Vec<Value> {
    let address = |endpoint| format!("198.18.{}.{}", index / 10, index % 10 * ENDPOINTS + endpoint);
    (0..ENDPOINTS).map(|endpoint| json!({"addresses": [address(endpoint)], "conditions": {"ready": true}})).collect()
}

fn many(index: usize) -> String {
    let endpoints = json!(endpoints(index));
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: many-{index}}}
spec: {{clusterIP: None, ports: [{{name: echo, port: {PORT}}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: many-{index}, labels: {{kubernetes.io/service-name: many-{index}}}}}
addressType: IPv4
ports: [{{name: echo, port: {PORT}}}]
endpoints: {endpoints}
---
{}",
        load_balancer(&format!("many-{index}"), 5432, &format!("many-{index}"))
    )
}

/// The environment variable `E2E_LOAD_BALANCERS` sets the number of load balancers.
#[tokio::test(flavor = "multi_thread")]
async fn resources_stay_low_with_many_load_balancers() {
    let count = env::var("E2E_LOAD_BALANCERS").map_or(LOAD_BALANCERS, |text| text.parse().expect("a number"));
    assert!(count > 0, "E2E_LOAD_BALANCERS is the number of load balancers");
    let most_memory = BASE_MEMORY + count as u64 / LOAD_BALANCERS_OF_A_MEBIBYTE;
    scenario("many", Isolation::Exclusive, async |scenario| {
        let own = scenario.install_own(json!({"tenancy": {"allowedBackendNetworks": ["198.18.0.0/15"]}})).await;
        let began = Instant::now();
        let applied = futures::stream::iter(0..count).map(|index| async move { scenario.apply(&many(index)).await });
        applied.buffer_unordered(8).collect::<Vec<()>>().await;
        let objects = scenario.api::<tcplb::api::TcpLoadBalancer>();
        eventually("all of them are programmed", WAIT_LIMIT * 5, async || {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let all = objects.list(&ListParams::default()).await.unwrap();
            all.items
                .iter()
                .filter(|object| object.status.as_ref().is_some_and(|status| is(status, "Programmed", "True")))
                .count()
                == count
        })
        .await;
        println!("measured: {count} load balancers were applied and programmed in {:.0?}", began.elapsed());

        // Without the time in which they were applied.
        let before = usage_since(scenario, &own, Timestamp::now()).await;
        let (began, changes) = (Instant::now(), 30);
        let slices: Api<EndpointSlice> = scenario.api();
        for change in 0..changes {
            sleep_until(began + Duration::from_secs(change as u64)).await;
            let index = change * 7 % count;
            let mut endpoints = endpoints(index);
            endpoints[0]["addresses"] = json!([format!("198.19.0.{change}")]);
            let changed = Patch::Merge(json!({"endpoints": endpoints}));
            slices.patch(&format!("many-{index}"), &PatchParams::default(), &changed).await.unwrap();
        }
        let measured = before.iter().map(|usage| usage.at).max().unwrap();
        let after = usage_since(scenario, &own, measured + SignedDuration::from_secs(11)).await;
        let leader = own.leader(&scenario.client).await;
        for (before, after) in before.iter().zip(&after) {
            assert_eq!(before.pod, after.pod, "no proxy has been replaced");
            let (pod, memory, seconds) =
                (&after.pod, after.memory >> 20, after.at.duration_since(before.at).as_secs_f64());
            let percent = (after.cpu_seconds - before.cpu_seconds) / seconds * 100.0;
            let (role, most_cpu) = match leader.as_ref() == Some(pod) {
                true => ("leader", MOST_CPU_OF_LEADER),
                false => ("follower", MOST_CPU_OF_FOLLOWER),
            };
            println!(
                "measured: {role} {pod}: {memory} MiB and {percent:.1} % of a core over {seconds:.0} s, with {count} load \
                 balancers of {ENDPOINTS} endpoints while one endpoint changes each second"
            );
            assert!(seconds > 10.0, "the kubelet has measured it meanwhile");
            assert!(memory < most_memory, "{pod}: {memory} MiB");
            assert!(percent < most_cpu, "{role} {pod}: {percent:.1} %");
        }
    })
    .await;
}
