use std::{sync::Arc, time::Duration};

use imbl::OrdMap;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

use super::*;
use crate::{
    admin::report::tests::rig::{Rig, free_port, instance, spec},
    api::{TcpLoadBalancerStatus, condition},
    instruments::{Instruments, LeaderInstruments, LeaderView},
    model::{BackendHealth, ListenerOutcome, LoadBalancerTraffic, ObjectKey, ReplicaReport, ReplicaTraffic, Served},
    tools::cert,
};

/// A page of the load balancers of a rig.
struct PageRig {
    rig: Rig,
    page: StatusPage,
    /// The traffic of the other replicas.
    traffic: Option<Arc<TrafficByReplica>>,
}

impl PageRig {
    async fn of(declared: &[(&str, Value)]) -> Self {
        let mut rig = Rig::start();
        for (name, spec) in declared {
            rig.declare(name, Some((&format!("uid-{name}"), 3)), spec.clone());
        }
        rig.apply().await;
        Self { rig, page: StatusPage::new(instance()), traffic: None }
    }

    fn get(&self, query: &str) -> String {
        self.page.render(&self.rig.proxy.monitor(), &self.rig.state, query, self.traffic.clone())
    }

    /// Makes this replica the leader, until the result is dropped.
    fn lead(&mut self) -> LeaderInstruments {
        let instruments = Arc::<Instruments>::default();
        let state = ReadinessState::new(instruments.clone());
        state.set_configuration((*self.rig.state.configuration()).clone());
        self.rig.state = Arc::new(state);
        instruments.lead("tcplb")
    }
}

/// The names of the listed load balancers, in their order.
fn listed(page: &str) -> Vec<&str> {
    let ids = page.split("<details id=\"").skip(1);
    ids.filter_map(|rest| rest.split('"').next()?.strip_prefix("shop/")).collect()
}

fn without_endpoints(port: u16) -> Value {
    let mut spec = spec(port);
    spec["backends"] = json!([{"name": "unknown"}]);
    spec
}

#[tokio::test]
async fn load_balancers_with_problems_come_first_expanded_and_in_the_summary() {
    let pages =
        PageRig::of(&[("a", spec(free_port())), ("b", without_endpoints(free_port())), ("c", spec(free_port()))]).await;
    let page = pages.get("");
    assert_eq!(listed(&page), ["b", "a", "c"]);
    assert!(page.contains("1 of 3 load balancers have errors: <a href=\"#shop%2Fb\">shop/b</a>"), "{page}");
    assert_eq!(page.matches("\" open>").count(), 1, "{page}");
    assert!(page.contains("<dt>pod</dt><dd>test</dd>") && page.contains("<dt>node</dt><dd>node-1</dd>"), "{page}");
    assert_eq!(listed(&pages.get("sort=name")), ["a", "b", "c"]);
    assert_eq!(listed(&pages.get("q=SHOP%2FC")), ["c"]);
    assert_eq!(listed(&pages.get("q=neither")), ["b"], "text of a problem");
    assert_eq!(listed(&pages.get("q=127.0.0.1:2")), ["a", "c"], "the address of an endpoint");
}

#[tokio::test]
async fn a_page_of_load_balancers_without_problems_says_so() {
    let pages = PageRig::of(&[("a", spec(free_port()))]).await;
    assert!(pages.get("").contains("all 1 load balancers are served without problems"));
    assert!(PageRig::of(&[]).await.get("").contains("no load balancers are declared"));
}

#[tokio::test]
async fn passthrough_and_termination_are_told_apart() {
    let listener = json!({
        "port": free_port(), "address": "127.0.0.1", "tls": {"mode": "Passthrough"},
        "routes": [{"serverNames": ["eu.example.com"], "backends": ["db"]}],
    });
    let mut spec = spec(0);
    spec["listeners"] = json!([listener]);
    let page = PageRig::of(&[("a", spec)]).await.get("");
    assert!(page.contains("<td>passthrough</td>") && page.contains("<td>eu.example.com</td>"), "{page}");
    assert!(!page.contains("TLS 1."), "{page}");
}

#[tokio::test]
async fn rates_are_known_from_the_second_request() {
    let port = free_port();
    let pages = PageRig::of(&[("a", spec(port))]).await;
    assert!(pages.get("").contains("data-unit=\"new/s\">–<"));
    // The endpoints refuse the connection, which is therefore a failure. The client may be reset while it connects.
    let _reset = TcpStream::connect(("127.0.0.1", port)).await;
    let failed = async {
        while !pages.get("").contains("connect_failed 1") {
            sleep(Duration::from_millis(10)).await;
        }
        let counts = |page: &str| {
            page.contains("<svg class=\"rates\" viewBox=\"0 0 60 20\" preserveAspectRatio=\"none\" role=\"img\"")
        };
        while !counts(&pages.get("")) {
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(Duration::from_secs(30), failed).await.unwrap();
    assert!(!pages.get("").contains("data-unit=\"failures/s\">0<"));
}

#[tokio::test]
async fn draining_connections_have_a_countdown() {
    let (port, backend) = (free_port(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let mut declared = spec(port);
    declared["backends"][0]["addresses"] = json!([backend.local_addr().unwrap().to_string()]);
    declared["drain"] = json!({"endpointRemoved": {"policy": "Close", "after": "90s"}});
    let mut pages = PageRig::of(&[("a", declared.clone())]).await;
    assert!(!pages.get("").contains("Draining"));
    let _reset = TcpStream::connect(("127.0.0.1", port)).await;
    let _served = timeout(Duration::from_secs(30), backend.accept()).await.unwrap().unwrap();
    declared["backends"][0]["addresses"] = json!(["127.0.0.1:2"]);
    pages.rig.declare("a", Some(("uid-a", 4)), declared);
    pages.rig.apply().await;
    let shown = async {
        while !pages.get("").contains("<td>endpoint_removed</td><td class=\"n\">1</td><td class=\"n\">1 min ") {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(30), shown).await.expect("a minute and some seconds are left");
    assert!(pages.get("").contains("<h2>Draining</h2>"), "a replica that does not lead shows only its own data");
    let leading = pages.lead();
    let replicas = ["test", "pod-2"].map(|pod| (pod.into(), None)).into();
    leading.set_view(LeaderView { own: "test".into(), replicas, ..LeaderView::default() });
    pages.traffic = Some(Arc::default());
    assert!(pages.get("").contains("<h2>Draining <span class=\"muted\">in this replica</span></h2>"));
}

#[tokio::test]
async fn client_certificates_for_backends_are_listed_with_their_expiry() {
    let mut pages = PageRig::of(&[]).await;
    let issued = Timestamp::now() - SignedDuration::from_hours(24 * 360);
    let pair = cert::generate(&["proxy.example.com".to_owned()], issued).unwrap();
    let data = [("tls.crt", pair.certificate), ("tls.key", pair.key)];
    let data = data.map(|(name, text)| (name.to_owned(), ByteString(text.into_bytes())));
    let secret = Secret { data: Some(data.into()), ..Secret::default() };
    pages.rig.world.secrets.insert(ObjectKey::new("shop", "proxy"), secret.into());
    let mut declared = spec(free_port());
    declared["backends"][0]["tls"] = json!({"insecureSkipVerify": true, "certificateRef": {"name": "proxy"}});
    pages.rig.declare("a", Some(("uid-a", 3)), declared);
    pages.rig.apply().await;
    let page = pages.get("");
    for part in [
        "warning: the certificate of Secret shop/proxy is valid until ",
        "<td>backend db</td><td>Secret shop/proxy</td><td class=\"wide\">proxy.example.com</td>\
         <td><span class=\"warning\">in 4 days</span></td>",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
}

#[tokio::test]
async fn details_beyond_a_limit_are_written_on_request() {
    let many: Vec<(String, Value)> = (0..40)
        .map(|number| {
            let mut spec = spec(free_port());
            let addresses: Vec<String> = (1..=20).map(|last| format!("127.0.{number}.{last}:9")).collect();
            spec["backends"][0]["addresses"] = json!(addresses);
            (format!("lb-{number:02}"), spec)
        })
        .collect();
    let many: Vec<(&str, Value)> = many.iter().map(|(name, spec)| (name.as_str(), spec.clone())).collect();
    let pages = PageRig::of(&many).await;
    let page = pages.get("");
    assert_eq!(listed(&page).len(), 40);
    assert!(page.contains(">127.0.0.20:9</td>") && !page.contains("127.0.39.20:9"));
    assert!(page.contains("<a href=\"/?open=shop%2Flb-39\">show 20 endpoints</a>"), "{page}");
    assert!(pages.get("open=shop/lb-39").contains(">127.0.39.20:9</td>"));
}

#[tokio::test]
async fn the_page_of_the_leader_shows_all_replicas() {
    let mut pages = PageRig::of(&[("a", spec(free_port()))]).await;
    let instruments = Arc::<Instruments>::default();
    let state = ReadinessState::new(instruments.clone());
    state.set_configuration((*pages.rig.state.configuration()).clone());
    pages.rig.state = Arc::new(state);
    instruments.set_leader_name(Some("other"));
    assert!(pages.get("").contains("<dt>leader</dt><dd>other</dd>"));
    let backends = |usable| [("db".to_owned(), BackendHealth { endpoints: 2, usable, ..BackendHealth::default() })];
    let served = |generation, usable, outcome| {
        let listeners = [(5432, outcome)].into();
        let served = Served { generation, listeners, backends: backends(usable).into(), ..Served::default() };
        let load_balancers = [(Arc::<str>::from("uid-a"), Arc::new(served))].into_iter().collect();
        Some(Arc::new(ReplicaReport { load_balancers }))
    };
    let leading = instruments.lead("tcplb");
    leading.set_view(LeaderView {
        own: "test".into(),
        replicas: [
            ("test".into(), served(3, 2, ListenerOutcome::Bound(5432))),
            ("pod-2".into(), served(2, 0, ListenerOutcome::Failed("<in use>".into()))),
            ("pod-3".into(), None),
        ]
        .into(),
        unready: ["pod-4".into()].into(),
        ..LeaderView::default()
    });
    let page = pages.get("");
    for part in [
        "<dt>leader</dt><dd>this replica</dd>",
        "ready replicas that do not report: 1;",
        "1 of 1 load balancers have errors",
        "error: pod pod-2: listener 5432: &lt;in use&gt;",
        "error: pod pod-2: no endpoint is usable",
        "<td>pod-3</td><td><span class=\"bad\">none</span></td>",
        "1 replicas are not ready",
        "<td>pod-4</td><td><span class=\"bad\">the pod is not ready</span></td>",
        "<td>test</td><td class=\"n\">3</td><td class=\"n\">1/1</td><td class=\"n\">2/2</td>\
         <td class=\"n\">0</td><td class=\"n\">0</td><td class=\"n\">0</td><td></td>",
        "<td>pod-2</td><td class=\"n\"><span class=\"warning\">2</span></td><td class=\"n\">0/1</td>",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    drop(leading);
    assert!(!pages.get("").contains("id=\"replicas\""));
}

#[tokio::test]
async fn the_page_of_the_leader_adds_up_the_traffic_of_all_replicas() {
    let mut pages = PageRig::of(&[("a", spec(free_port())), ("b", spec(free_port()))]).await;
    let leading = pages.lead();
    let report = || Some(Arc::new(ReplicaReport::default()));
    let replicas = ["pod-1", "pod-2", "pod-3"].map(|pod| (pod.into(), report())).into();
    leading.set_view(LeaderView { own: "pod-1".into(), replicas, ..LeaderView::default() });
    let traffic = |connections| {
        let traffic = LoadBalancerTraffic { active: 7, connections, bytes: 0, failures: 1 };
        // A load balancer that the leader does not have is not counted.
        let known = ["uid-b", "uid-x"].map(|uid| (Arc::from(uid), traffic));
        let answer = Ok(Arc::new(ReplicaTraffic { load_balancers: known.into() }));
        let answers = [("pod-2", answer), ("pod-3", Err("no answer <in time>".into()))];
        Some(Arc::new(answers.map(|(pod, answer)| (pod.into(), answer)).into()))
    };
    pages.traffic = traffic(10_000);
    let page = pages.get("open=shop/b");
    let row = |cells: &[&str]| cells.iter().map(|cell| format!("<td class=\"n\">{cell}</td>")).collect::<String>();
    for part in [
        "<dt>open</dt><dd>7 in 2 of 3 replicas, 0 of ",
        "<dt>new</dt><dd>–/s</dd>",
        "data-unit=\"open\">7<",
        "<td>pod-1 <span class=\"muted\">this replica</span></td>",
        "<br><span class=\"warning\">without traffic: no answer &lt;in time&gt;</span>",
        &row(&["7", "10000", "1"]),
        "listeners and endpoints in this replica",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    pages.traffic = traffic(10_500);
    let with_rates = async {
        loop {
            let page = pages.get("sort=connections");
            // Pages that follow at once have no rates yet.
            if !page.contains("<dt>new</dt><dd>–/s</dd>") {
                return page;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    let page = timeout(Duration::from_secs(30), with_rates).await.unwrap();
    assert_eq!(listed(&page), ["b", "a"]);
    assert!(!page.contains("<dt>new</dt><dd>0/s</dd>"), "{page}");
}

#[tokio::test]
async fn rates_are_forgotten_once_nobody_reads_the_page() {
    let pages = PageRig::of(&[("a", spec(free_port()))]).await;
    let has_rates = || pages.page.rates.lock().unwrap().traffic.has_samples();
    pages.get("");
    let rendered = pages.page.rendered();
    pages.get("");
    pages.page.forget_rates(rendered);
    assert!(has_rates(), "another page was rendered");
    pages.page.forget_rates(pages.page.rendered());
    assert!(!has_rates());
}

#[tokio::test]
async fn the_page_of_the_leader_has_the_conditions_in_the_words_of_the_status() {
    let mut pages = PageRig::of(&[("a", spec(free_port()))]).await;
    let leading = pages.lead();
    let lead = |conditions| {
        let status = TcpLoadBalancerStatus { conditions, ..TcpLoadBalancerStatus::default() };
        let statuses = OrdMap::unit(ObjectKey::new("shop", "a"), status.into());
        leading.set_view(LeaderView { statuses, ..LeaderView::default() });
    };
    let refused = "Service x cannot be written: <quota>\nsecond line";
    lead(vec![
        condition("Ready", "False", "ServiceNotWritten", &format!("Programmed: {refused}")),
        condition("Programmed", "False", "ServiceNotWritten", refused),
        condition("Accepted", "True", "Accepted", "the declaration is valid"),
    ]);
    let page = pages.get("");
    for part in [
        "1 of 1 load balancers have errors",
        "error: ServiceNotWritten: Programmed: Service x cannot be written: &lt;quota&gt;; second line",
        "<td><span class=\"bad\">Programmed</span></td><td>False</td><td>ServiceNotWritten</td>\
         <td>Service x cannot be written: &lt;quota&gt;<br>second line</td>",
        "<td><span class=\"good\">Accepted</span></td><td>True</td><td>Accepted</td><td>the declaration is valid</td>",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    lead(vec![condition("Ready", "False", "Pending", "Programmed: later")]);
    assert!(pages.get("").contains("warning: Pending: Programmed: later"));
    lead(vec![condition("Ready", "True", "Ready", "connections are served as declared")]);
    assert!(pages.get("").contains("all 1 load balancers are served without problems"));
}

#[tokio::test]
async fn the_page_of_a_candidate_reports_a_missing_leader() {
    let mut pages = PageRig::of(&[]).await;
    assert!(!pages.get("").contains("no replica is the leader"), "without an election");
    let instruments = Arc::<Instruments>::default();
    pages.rig.state = Arc::new(ReadinessState::new(instruments.clone()));
    instruments.stand_for_election("tcplb");
    assert!(pages.get("").contains("no replica is the leader"));
    instruments.set_leader_name(Some("other"));
    assert!(!pages.get("").contains("no replica is the leader"));
}

#[test]
fn durations_have_two_units() {
    let texts = [5, 65, 3700, 90_061].map(|seconds| duration(SignedDuration::from_secs(seconds)));
    assert_eq!(texts, ["5 s", "1 min 5 s", "1 h 1 min", "1 d 1 h"]);
}
