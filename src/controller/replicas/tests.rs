use std::{
    future::{self, pending},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use axum::{
    Router,
    http::{
        HeaderMap, StatusCode, Uri,
        header::{AUTHORIZATION, ETAG},
    },
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;
use tokio::{io::AsyncReadExt, net::TcpListener, sync::oneshot, time::timeout};

use super::*;
use crate::{
    api::Placement,
    model::{ReplicaReport, Served},
};

fn service() -> ObjectKey {
    ObjectKey::new("tcplb", "replicas")
}

fn settings() -> Settings {
    Settings {
        class: "tcplb".into(),
        placement: Placement::Gateway,
        namespace: "tcplb".into(),
        pod: "pod-0".into(),
        replicas: service(),
        lease: "tcplb".into(),
        allocations: "ports".into(),
        anchor: None,
        workload: None,
        selector: BTreeMap::new(),
        ports: 20000..=24999,
        cluster_domain: "cluster.local".into(),
        admin_token: AdminToken::default(),
        instruments: Arc::default(),
    }
}

/// An EndpointSlice of the Service with these endpoints: pod name, address and readiness.
fn slice(port: u16, endpoints: &[(&str, &str, Option<bool>)]) -> Arc<EndpointSlice> {
    let endpoints: Vec<_> = endpoints
        .iter()
        .map(|(pod, address, ready)| {
            json!({"addresses": [address], "conditions": {"ready": ready}, "targetRef": {"kind": "Pod", "name": pod}})
        })
        .collect();
    let slice = json!({
        "metadata": {"labels": {"kubernetes.io/service-name": "replicas"}},
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "metrics", "port": 1}, {"name": "admin", "port": port}],
    });
    Arc::new(serde_json::from_value(slice).unwrap())
}

fn world(slices: impl IntoIterator<Item = Arc<EndpointSlice>>) -> World {
    let slices = slices.into_iter().enumerate();
    World {
        endpoint_slices: slices.map(|(index, slice)| (ObjectKey::new("tcplb", &index.to_string()), slice)).collect(),
        ..World::default()
    }
}

#[test]
fn replicas_are_the_ready_pods_each_at_its_first_address() {
    let ready_of = |world: &World| -> Vec<(String, String)> {
        let ready = ready(world, &service());
        ready.iter().map(|(pod, address)| (pod.to_string(), address.to_string())).collect()
    };
    let own = |pod: &str, address: &str| (pod.to_owned(), address.to_owned());
    let v4 = slice(9900, &[("a", "10.0.0.1", Some(true)), ("b", "10.0.0.2", Some(false)), ("c", "10.0.0.3", None)]);
    let v6 = slice(9900, &[("a", "fd00::1", Some(true))]);
    let expected = [own("a", "10.0.0.1:9900"), own("c", "10.0.0.3:9900")];
    assert_eq!(ready_of(&world([v6.clone(), v4.clone()])), expected);

    assert_eq!(unready(&world([v6.clone(), v4.clone()]), &service()), BTreeSet::from(["b".into()]));
    let mut leaving = (*v4).clone();
    leaving.endpoints[1].conditions.as_mut().unwrap().terminating = Some(true);
    assert_eq!(unready(&world([leaving.into()]), &service()), BTreeSet::new());

    let mut others = (*v4).clone();
    others.metadata.labels.as_mut().unwrap().insert("kubernetes.io/service-name".into(), "another".into());
    let mut portless = (*v4).clone();
    portless.ports = None;
    let mut by_hand = (*v4).clone();
    by_hand.endpoints.iter_mut().for_each(|endpoint| endpoint.target_ref = None);
    for (why, slice) in [("another Service", others), ("no port", portless), ("no pods", by_hand)] {
        assert_eq!(ready_of(&world([Arc::new(slice)])), [], "{why}");
    }
}

/// The admin pages of a replica that sends these reports.
async fn replica(reports: watch::Receiver<ReplicaReport>) -> SocketAddr {
    let answer = async move |uri: Uri| -> Response {
        let mut reports = reports.clone();
        let unless = uri.query().and_then(|query| query.strip_prefix("unless=")).map(str::to_owned);
        let tag = |report: &ReplicaReport| report.load_balancers.len().to_string();
        match timeout(Duration::from_secs(5), reports.wait_for(|report| Some(tag(report)) != unless)).await {
            Ok(report) => {
                let report = report.unwrap();
                ([(ETAG, format!("\"{}\"", tag(&report)))], serde_json::to_string(&*report).unwrap()).into_response()
            }
            Err(_) => StatusCode::NOT_MODIFIED.into_response(),
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(axum::serve(listener, Router::new().route("/report", get(answer))).into_future());
    address
}

fn report(uids: &[&str]) -> ReplicaReport {
    ReplicaReport { load_balancers: uids.iter().map(|uid| (uid.to_string(), Served::default())).collect() }
}

fn observed(slices: impl IntoIterator<Item = Arc<EndpointSlice>>) -> Observed {
    Observed { world: Arc::new(world(slices)), ..Observed::default() }
}

/// Waits until the known replicas report these numbers of load balancers.
async fn until(replicas: &mut watch::Receiver<Arc<Replicas>>, expected: &[(&str, Option<usize>)]) {
    let count = |replica: &Replica| replica.report.as_ref().map(|report| report.load_balancers.len());
    let seen = |replicas: &Arc<Replicas>| {
        replicas.iter().map(|(pod, replica)| (&**pod, count(replica))).eq(expected.iter().copied())
    };
    timeout(Duration::from_secs(30), replicas.wait_for(seen)).await.expect("in time").expect("still gathered");
}

#[tokio::test]
async fn the_reports_of_all_replicas_are_followed() {
    let (first, reports) = watch::channel(report(&["x"]));
    let a = replica(reports).await;
    let (second, reports) = watch::channel(report(&[]));
    let b = replica(reports).await;
    let (observing, observed_by) = watch::channel(observed([
        slice(a.port(), &[("a", "127.0.0.1", Some(true))]),
        slice(b.port(), &[("b", "127.0.0.1", Some(true))]),
    ]));
    let mut replicas = gather(observed_by, &settings());
    timeout(Duration::from_secs(30), replicas.changed()).await.unwrap().unwrap();
    assert_eq!(replicas.borrow_and_update().len(), 2, "nothing is told before all have reported");
    until(&mut replicas, &[("a", Some(1)), ("b", Some(0))]).await;
    first.send_replace(report(&["x", "y"]));
    until(&mut replicas, &[("a", Some(2)), ("b", Some(0))]).await;
    observing.send_replace(observed([slice(b.port(), &[("b", "127.0.0.1", Some(true))])]));
    until(&mut replicas, &[("b", Some(0))]).await;
    // Without slices, the replicas are unknown.
    observing.send_replace(observed([]));
    first.send_replace(report(&[]));
    second.send_replace(report(&["x"]));
    until(&mut replicas, &[("b", Some(1))]).await;
    observing.send_replace(observed([slice(b.port(), &[])]));
    until(&mut replicas, &[]).await;
}

#[tokio::test]
async fn having_no_replica_is_reported_too() {
    let (_observing, observed_by) = watch::channel(observed([]));
    let mut replicas = gather(observed_by, &settings());
    timeout(Duration::from_secs(30), replicas.changed()).await.unwrap().unwrap();
    assert!(replicas.borrow().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_is_silent_is_known_without_a_report() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (_observing, observed_by) = watch::channel(observed([slice(port, &[("a", "127.0.0.1", Some(true))])]));
    let mut replicas = gather(observed_by, &settings());
    until(&mut replicas, &[("a", None)]).await;
}

#[tokio::test]
async fn replicas_are_not_polled_without_a_receiver() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (observing, observed_by) = watch::channel(observed([slice(port, &[("a", "127.0.0.1", Some(true))])]));
    let replicas = gather(observed_by, &settings());
    let (mut stream, _) = listener.accept().await.unwrap();
    drop(replicas);
    timeout(Duration::from_secs(30), observing.closed()).await.expect("the gatherer ends");
    let mut request = Vec::new();
    let ended = stream.read_to_end(&mut request);
    timeout(Duration::from_secs(30), ended).await.expect("its connections end").ok();
}

#[tokio::test]
async fn a_report_that_is_too_large_is_not_read() {
    let answer = async || {
        let endless = futures::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b' '; 1 << 20]));
        ([(ETAG, "\"1\"")], axum::body::Body::from_stream(endless)).into_response()
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(axum::serve(listener, Router::new().route("/report", get(answer))).into_future());
    let (sender, mut updates) = mpsc::unbounded_channel();
    let following = follow("a".into(), address, AdminToken::default(), sender);
    let updates = tokio::select! {
        updates = updates.recv() => updates.unwrap(),
        () = following => pending().await,
    };
    assert!(updates.report.is_none());
}

#[tokio::test]
async fn concurrent_requests_share_one_reading_of_traffic() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let answer = move || {
        count.fetch_add(1, Relaxed);
        future::ready(
            json!({"loadBalancers": {"uid": {"active": 3, "connections": 5, "of a later version": 1}}}).to_string(),
        )
    };
    let address = serve("/report/traffic", answer).await;
    // A replica of an older version, and one that does not answer.
    let (_reports, reports) = watch::channel(report(&[]));
    let older = replica(reports).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let known = |pod: &str, address| (pod.into(), Replica { address, report: Some(Arc::default()) });
    let silent_address = silent.local_addr().unwrap();
    let unknown = ("e".into(), Replica { address, report: None });
    let all = [known("a", address), known("b", older), known("c", silent_address), known("own", address), unknown];
    let (_replicas, replicas) = watch::channel(Arc::new(Replicas::from(all)));
    let (requests, received) = mpsc::channel(16);
    let reader = TrafficReader::new(replicas, AdminToken::default(), "own".into());
    let ask = || {
        let (request, answer) = oneshot::channel();
        requests.try_send(request).unwrap();
        answer
    };
    let (given_up, first, second) = (ask(), ask(), ask());
    drop(given_up);
    let _answering = AbortOnDropHandle::new(tokio::spawn(reader.answer(received)));
    let (first, second) = timeout(Duration::from_secs(30), async { tokio::join!(first, second) }).await.unwrap();
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!((&second, asked.load(Relaxed)), (&first, 1));
    let traffic = first["a"].as_ref().unwrap().load_balancers["uid"];
    assert_eq!((traffic.active, traffic.connections, traffic.bytes), (3, 5, 0));
    let unread: Vec<_> = first.iter().filter_map(|(pod, traffic)| Some((&**pod, traffic.as_ref().err()?))).collect();
    let [("b", older), ("c", silent)] = unread[..] else { panic!("{unread:?}") };
    assert!(older.contains("404") && silent == "no answer in time", "{older}, {silent}");
}

#[tokio::test]
async fn one_missed_answer_does_not_lose_the_traffic_of_a_replica() {
    let answers = Arc::new(AtomicUsize::new(0));
    let count = answers.clone();
    let answer = move || {
        future::ready(match count.fetch_add(1, Relaxed) {
            0 => (StatusCode::SERVICE_UNAVAILABLE, "not yet"),
            1 => (StatusCode::OK, "{\"loadBalancers\": {}}"),
            _ => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
        })
    };
    let address = serve("/report/traffic", answer).await;
    let all = [("a".into(), Replica { address, report: Some(Arc::default()) })];
    let (_replicas, replicas) = watch::channel(Arc::new(Replicas::from(all)));
    let (requests, received) = mpsc::channel(16);
    let reader = TrafficReader::new(replicas, AdminToken::default(), "own".into());
    let _answering = AbortOnDropHandle::new(tokio::spawn(reader.answer(received)));
    for (index, is_known) in [false, true, true].into_iter().enumerate() {
        let (request, answer) = oneshot::channel();
        requests.send(request).await.unwrap();
        let traffic = timeout(Duration::from_secs(30), answer).await.unwrap().unwrap();
        assert_eq!((traffic["a"].is_ok(), answers.load(Relaxed)), (is_known, index + 1), "{traffic:?}");
    }
}

/// Serves one page. Returns the address.
async fn serve<T, F>(path: &str, answer: impl Fn() -> F + Clone + Send + Sync + 'static) -> SocketAddr
where
    T: IntoResponse + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(axum::serve(listener, Router::new().route(path, get(answer))).into_future());
    address
}

#[tokio::test]
async fn the_leader_sends_the_present_token_of_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    std::fs::write(&path, "first").unwrap();
    let (sent, mut sent_tokens) = mpsc::unbounded_channel();
    let answer = async move |headers: HeaderMap| -> Response {
        let sent_token = headers.get(AUTHORIZATION).map(|value| value.to_str().unwrap().to_owned());
        sent.send(sent_token.clone()).unwrap();
        match sent_token.as_deref() {
            Some("Bearer second") => {
                ([(ETAG, "\"1\"")], serde_json::to_string(&report(&["x"])).unwrap()).into_response()
            }
            _ => (StatusCode::UNAUTHORIZED, "another token, please\n").into_response(),
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(axum::serve(listener, Router::new().route("/report", get(answer))).into_future());
    let (sender, mut updates) = mpsc::unbounded_channel();
    let _following = AbortOnDropHandle::new(tokio::spawn(follow(
        "a".into(),
        address,
        AdminToken::in_file(Some(path.clone())),
        sender,
    )));
    let mut next_token = async || timeout(Duration::from_secs(30), sent_tokens.recv()).await.unwrap().unwrap();
    assert_eq!(next_token().await.as_deref(), Some("Bearer first"));
    std::fs::write(&path, "second").unwrap();
    assert_eq!(next_token().await.as_deref(), Some("Bearer second"));
    let update = timeout(Duration::from_secs(30), updates.recv()).await.unwrap().unwrap();
    assert_eq!(update.report.unwrap().load_balancers.len(), 1);
}
