pub mod rig;

use std::io;

use jiff::Timestamp;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc::unbounded_channel,
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;

use self::rig::{Rig, free_port, spec};
use super::*;
use crate::{
    admin::{AdminAccess, AllowedHosts, page::StatusPage},
    controller::{AdminToken, follow},
    metrics::EndpointSeries,
    tcp,
    tools::cert,
    translate::translate,
    world::ProcessLocality,
};

#[tokio::test]
async fn only_objects_of_the_api_server_are_reported() {
    let mut rig = Rig::start();
    let (open, taken) = (free_port(), std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let taken = taken.local_addr().map(|address| (address.port(), taken)).unwrap();
    rig.declare("a", Some(("uid-a", 3)), spec(open));
    rig.declare("b", Some(("uid-b", 4)), spec(taken.0));
    rig.declare("file", None, spec(free_port()));
    rig.apply().await;
    let report = rig.now().await.load_balancers;
    assert_eq!(report.keys().map(|uid| &**uid).collect::<Vec<_>>(), ["uid-a", "uid-b"]);
    let (a, b) = (&report["uid-a"], &report["uid-b"]);
    assert_eq!((a.generation, a.whole), (3, Some(3)));
    assert_eq!(a.listeners, BTreeMap::from([(open, ListenerOutcome::Bound(open))]));
    assert_eq!((a.backends["db"].endpoints, a.backends["db"].usable), (2, 2));
    let ListenerOutcome::Failed(sentence) = &b.listeners[&taken.0] else { panic!("{b:?}") };
    assert!(sentence.contains("in use"), "{sentence}");
}

#[tokio::test]
async fn the_generation_is_reported_once_applied_and_as_whole_if_nothing_is_refused() {
    let mut rig = Rig::start();
    let (first, second) = (free_port(), free_port());
    rig.declare("a", Some(("uid", 1)), spec(first));
    rig.compile();
    assert_eq!(rig.now().await, ReplicaReport::default());
    rig.apply().await;
    assert_eq!(rig.now().await.load_balancers["uid"].generation, 1);

    rig.declare("a", Some(("uid", 2)), spec(second));
    rig.compile();
    assert_eq!(rig.now().await.load_balancers["uid"].generation, 1, "not applied yet");
    rig.apply().await;
    let served = rig.now().await.load_balancers.remove("uid").unwrap();
    assert_eq!((served.generation, served.listeners.keys().copied().collect()), (2, vec![second]));

    let mut wrong = spec(second);
    wrong["listeners"][0]["limits"] = json!({"maxConnections": 0});
    rig.declare("a", Some(("uid", 3)), wrong);
    rig.apply().await;
    let served = rig.now().await.load_balancers.remove("uid").unwrap();
    assert_eq!((served.generation, served.whole), (3, Some(2)));
}

#[tokio::test]
async fn long_polls_are_answered_at_the_next_change() {
    let mut rig = Rig::start();
    rig.declare("a", Some(("uid", 1)), spec(free_port()));
    rig.apply().await;
    let tag = rig.tag().await;
    assert!(rig.reports.next(Some("another")).await.is_some());
    rig.declare("a", Some(("uid", 2)), spec(free_port()));
    let (report, ()) =
        tokio::join!(timeout(Duration::from_secs(5), async { rig.reports.next(Some(&tag)).await }), async {
            // Nothing is applied: only the verdicts change.
            let (_, verdicts) = translate(&rig.world, &rig.last, Timestamp::now());
            sleep(GATHERED_FOR * 2).await;
            let generation = rig.last.generation;
            let verdicts = Arc::new(verdicts);
            rig.state.set_configuration(Configuration { generation, verdicts, ..Configuration::default() });
        });
    let report = report.unwrap().unwrap().report;
    assert_eq!(report.load_balancers["uid"].generation, 2);
}

#[tokio::test]
async fn a_report_of_changes_equals_a_complete_one() {
    let mut rig = Rig::start();
    for name in ["a", "b", "c"] {
        rig.declare(name, Some((&format!("uid-{name}"), 1)), spec(free_port()));
    }
    rig.apply().await;
    let mut last = rig.reports.next(None).await.unwrap();
    let first = last.clone();
    let mut wrong = spec(free_port());
    wrong["listeners"][0]["limits"] = json!({"maxConnections": 0});
    let edits: [&dyn Fn(&mut Rig); 4] = [
        &|rig| rig.declare("a", Some(("uid-a", 2)), spec(free_port())),
        &|rig| rig.declare("b", Some(("uid-b", 2)), wrong.clone()),
        &|rig| drop(rig.world.load_balancers.remove(&ObjectKey::new("shop", "c"))),
        &|rig| rig.declare("a", Some(("new-a", 1)), spec(free_port())),
    ];
    let expected: [(&[&str], &[&str]); 4] =
        [(&["uid-a"], &[]), (&["uid-b"], &[]), (&[], &["uid-c"]), (&["new-a"], &["uid-a"])];
    for (edit, (changed, removed)) in std::iter::zip(edits, expected) {
        edit(&mut rig);
        rig.apply().await;
        let version = rig.reports.next(Some(&last.tag)).await.unwrap();
        assert_eq!(version.report, rig.now().await);
        let changes = rig.reports.changes(&last.tag, &version).unwrap();
        assert_eq!(changes.changed.keys().map(|uid| &**uid).collect::<Vec<_>>(), changed);
        assert_eq!(changes.removed.iter().map(|uid| &**uid).collect::<Vec<_>>(), removed);
        assert_eq!(changes.applied_to(&last.report), version.report);
        last = version;
    }
    let changes = rig.reports.changes(&first.tag, &last).unwrap();
    assert_eq!(changes.applied_to(&first.report), last.report);
    assert!(rig.reports.changes("another", &last).is_none());
}

#[tokio::test]
async fn long_polls_end_at_their_timeout_and_at_shutdown() {
    let mut rig = Rig::start();
    rig.declare("a", Some(("uid", 1)), spec(free_port()));
    rig.apply().await;
    let tag = rig.tag().await;
    tokio::time::pause();
    let begun = Instant::now();
    assert!(rig.reports.next(Some(&tag)).await.is_none());
    assert!((LONGEST_WAIT..LONGEST_WAIT * 2).contains(&begun.elapsed()));
    rig.stop.cancel();
    let begun = Instant::now();
    assert!(rig.reports.next(Some(&tag)).await.is_none());
    assert!(begun.elapsed() < LONGEST_WAIT / 2);
}

#[tokio::test]
async fn the_latest_failure_of_a_backend_is_reported() {
    let mut rig = Rig::start();
    rig.declare("a", Some(("uid", 1)), spec(free_port()));
    rig.apply().await;
    let view = rig.proxy.monitor().view();
    let endpoints = view.upstreams[0].1.endpoints();
    endpoints[1].connect_failed(&io::Error::other("the first"));
    endpoints[0].connect_failed(&io::Error::other("the last"));
    let failure = rig.now().await.load_balancers.remove("uid").unwrap().backends["db"].last_failure.clone().unwrap();
    assert_eq!((&*failure.endpoint, &*failure.reason), ("127.0.0.1:1", "the last"));
}

#[tokio::test]
async fn a_failover_of_one_route_is_reported() {
    let mut rig = Rig::start();
    let listener = json!({
        "port": free_port(), "address": "127.0.0.1", "tls": {"mode": "Passthrough"}, "routes": [
            {"serverNames": ["eu.example.com"], "backends": ["eu", "spare"]},
            {"serverNames": ["us.example.com"], "backends": ["us"]},
        ],
    });
    let spec = json!({
        "listeners": [listener],
        "backends": [
            {"name": "eu", "addresses": ["127.0.0.1:1"]},
            {"name": "spare", "addresses": ["127.0.0.1:2"], "priority": 1},
            {"name": "us", "addresses": ["127.0.0.1:3"]},
        ],
        "healthCheck": {"active": {"type": "None"}, "passive": {"consecutiveFailures": 1}},
    });
    rig.declare("a", Some(("uid", 1)), spec);
    rig.apply().await;
    assert!(rig.now().await.load_balancers["uid"].failed_over.is_empty());
    let tag = rig.tag().await;
    rig.proxy.monitor().view().upstreams[0].1.endpoints()[0].connect_failed(&io::Error::other("away"));
    let report = timeout(Duration::from_secs(5), rig.reports.next(Some(&tag))).await.unwrap().unwrap();
    let mut report = report.report;
    let served = report.load_balancers.remove("uid").unwrap();
    assert_eq!(served.failed_over, [FailedOver { backends: vec!["eu".into(), "spare".into()], priority: 1 }].into());
}

#[tokio::test]
async fn the_expiry_of_client_certificates_for_backends_is_reported() {
    let mut rig = Rig::start();
    let pair = cert::generate(&["proxy.example.com".to_owned()], Timestamp::now()).unwrap();
    let data = [("tls.crt", pair.certificate), ("tls.key", pair.key)];
    let data = data.map(|(name, text)| (name.to_owned(), ByteString(text.into_bytes())));
    let secret = Secret { data: Some(data.into()), ..Secret::default() };
    rig.world.secrets.insert(ObjectKey::new("shop", "proxy"), secret.into());
    let mut spec = spec(free_port());
    spec["backends"][0]["tls"] = json!({"insecureSkipVerify": true, "certificateRef": {"name": "proxy"}});
    rig.declare("a", Some(("uid", 1)), spec);
    rig.apply().await;
    let served = rig.now().await.load_balancers.remove("uid").unwrap();
    let until = served.certificates_for_backends["Secret shop/proxy"];
    assert!(until > Timestamp::now() && served.certificates.is_empty());
    let metrics = rig.metrics(EndpointSeries::All);
    let series = "tcplb_backend_certificate_not_after_timestamp_seconds{load_balancer_namespace=\"shop\",load_balancer=\"a\",backend=\"db\",certificate=\"Secret shop/proxy\"}";
    assert!(metrics.contains(&format!("{series} {}", until.as_second())), "{metrics}");
}

#[tokio::test]
async fn series_of_endpoints_can_be_switched_off() {
    let mut rig = Rig::start();
    rig.declare("a", Some(("uid", 1)), spec(free_port()));
    rig.apply().await;
    let of_upstream = "tcplb_upstream_endpoints{load_balancer_namespace=\"shop\",load_balancer=\"a\"";
    let (all, none) = (rig.metrics(EndpointSeries::All), rig.metrics(EndpointSeries::None));
    assert!(all.contains("endpoint_address=") && all.contains(of_upstream), "{all}");
    assert!(!none.contains("endpoint_address=") && none.contains(of_upstream), "{none}");
}

#[tokio::test]
async fn draining_connections_of_removed_endpoints_are_counted() {
    let mut rig = Rig::start();
    let (port, backend) = (free_port(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let declared = |addresses: &str| {
        let mut spec = spec(port);
        spec["backends"] =
            json!([{"name": "db", "addresses": [addresses]}, {"name": "other", "addresses": ["127.0.0.1:1"]}]);
        spec["drain"] = json!({"endpointRemoved": {"policy": "Close", "after": "1h"}});
        spec
    };
    rig.declare("a", Some(("uid", 1)), declared(&backend.local_addr().unwrap().to_string()));
    rig.apply().await;
    let _client = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let _served = timeout(Duration::from_secs(5), backend.accept()).await.unwrap().unwrap();
    rig.declare("a", Some(("uid", 2)), declared("127.0.0.1:2"));
    rig.apply().await;
    let draining = async || {
        let report = rig.now().await.load_balancers.remove("uid").unwrap();
        ["db", "other"].map(|name| report.backends[name].draining)
    };
    let drained = async {
        while draining().await != [1, 0] {
            sleep(Duration::from_millis(10)).await
        }
    };
    timeout(Duration::from_secs(5), drained).await.unwrap();
}

#[tokio::test]
async fn a_process_without_a_known_locality_reports_it() {
    let mut rig = Rig::start();
    let mut spec = spec(free_port());
    spec["backends"] = json!([{"service": {"name": "db", "port": 1}}]);
    spec["loadBalancing"] = json!({"locality": {"prefer": "SameZone"}});
    rig.world.locality = Some(ProcessLocality::default());
    rig.declare("a", Some(("uid", 1)), spec);
    rig.apply().await;
    let served = rig.now().await.load_balancers.remove("uid").unwrap();
    let here = &served.here;
    assert!(here.len() == 1 && here.first().unwrap().contains("the zone of this process is unknown"), "{here:?}");
}

#[tokio::test]
async fn an_endpoint_dropped_as_a_loop_is_reported() {
    let mut rig = Rig::start();
    let port = free_port();
    rig.declare("a", Some(("uid", 1)), spec(port));
    rig.compile();
    // An address of this host that the translation does not recognize as one.
    let upstream = crate::shared::first_mut(&mut Arc::make_mut(&mut rig.last).upstreams);
    Arc::make_mut(upstream).endpoints[0].key.address.set_port(port);
    rig.publish().await;
    let served = rig.now().await.load_balancers.remove("uid").unwrap();
    assert_eq!(served.backends["db"].endpoints, 1);
    let expected = format!(
        "backend `db`: 127.0.0.1:{port} is an address of this host and leads to the listener {port} of shop/a, which \
         forwards back to this load balancer: write the address of a server; it is ignored"
    );
    assert_eq!(served.here, BTreeSet::from([expected.clone()]));
    let page = StatusPage::new(rig::instance());
    assert!(page.render(&rig.proxy.monitor(), &rig.state, "", None).contains(&expected));
    // After it leads to a server, there is no problem left.
    rig.declare("a", Some(("uid", 2)), spec(port));
    rig.apply().await;
    assert_eq!(rig.now().await.load_balancers.remove("uid").unwrap().here, BTreeSet::new());
}

#[tokio::test]
async fn the_aggregating_leader_gets_a_report() {
    let mut rig = Rig::start();
    rig.declare("a", Some(("uid", 1)), spec(free_port()));
    rig.declare("b", Some(("other", 1)), spec(free_port()));
    rig.apply().await;
    let pages = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = pages.local_addr().unwrap();
    pages.set_nonblocking(true).unwrap();
    let server = crate::admin::Server {
        monitor: rig.proxy.monitor(),
        state: rig.state.clone(),
        instance: rig::instance(),
        hosts: AllowedHosts::default(),
        access: AdminAccess::Everyone,
        connections: 10,
        endpoint_series: EndpointSeries::All,
    };
    let serving = AbortOnDropHandle::new(tokio::spawn(server.serve(tcp::listening(pages).unwrap(), rig.stop.clone())));
    let (sender, mut updates) = unbounded_channel();
    let following =
        AbortOnDropHandle::new(tokio::spawn(follow("pod-0".into(), address, AdminToken::default(), sender)));
    let mut report = async || {
        let update = timeout(Duration::from_secs(30), updates.recv()).await.expect("in time").unwrap();
        update.report.expect("a report").load_balancers.clone()
    };
    let first = report().await;
    assert_eq!(first["uid"].generation, 1);
    rig.declare("a", Some(("uid", 2)), spec(free_port()));
    rig.apply().await;
    let second = report().await;
    assert_eq!(second["uid"].generation, 2);
    assert!(Arc::ptr_eq(&first["other"], &second["other"]), "what is unchanged is not sent again");
    drop((serving, following));
}
