use super::*;
use crate::model::{Exchange, Hidden};

/// The number of concurrent probes.
const PROBES: usize = 16;

fn of_namespace(namespace: &str, name: &str) -> UpstreamKey {
    UpstreamKey { object: ObjectKey::new(namespace, name) }
}

/// Settings for `count` endpoints whose probes connect to a server that never answers, and wait for an hour.
fn silent_endpoints(count: u16, server: &TcpListener) -> Arc<model::UpstreamConfig> {
    let mut settings = settings((1..=count).map(|port| SocketAddr::from(([127, 0, 0, 1], port))));
    let exchange = Exchange { send: Hidden::new(Vec::new().into()), expect: b"primary".as_slice().into() };
    let port = NonZeroU16::new(server.local_addr().unwrap().port());
    let timeout = Duration::from_secs(3600);
    probe_with(&mut settings, ActiveCheck { probe: Probe::Exchange(exchange), port, timeout, ..fast_check() });
    Arc::new(settings)
}

#[tokio::test]
async fn endpoints_of_a_namespace_that_never_answer_do_not_delay_the_probes_of_another() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut upstreams = Upstreams::new(Handle::current(), PreconnectBudget::new(0), PROBES);
    let load_balancers = (0..4).map(|number| of_namespace("silent", &format!("lb-{number}")));
    let mut wanted: Wanted = load_balancers.map(|key| (key, silent_endpoints(100, &silent))).collect();
    upstreams.update(&wanted);
    // All places except those reserved for a further namespace.
    let places = upstreams.context.probes.clone();
    eventually(|| places.queue(&"silent".into()).in_use() == PROBES - 2).await;

    let servers: Vec<_> = (0..5).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let mut answering = settings(servers.iter().map(|server| server.local_addr().unwrap()));
    let _servers: Vec<_> = servers.into_iter().map(serve).collect();
    probe_with(&mut answering, fast_check());
    wanted.insert(of_namespace("answering", "lb"), Arc::new(answering));
    upstreams.update(&wanted);
    let upstream = upstreams.find(&of_namespace("answering", "lb")).unwrap();
    eventually(|| upstream.endpoints().iter().all(|endpoint| endpoint.probes_passed() >= 5)).await;
    assert_eq!(places.queue(&"silent".into()).in_use(), PROBES - 2);

    let wanted = wanted.into_iter().filter(|(key, _)| &*key.object.namespace == "answering").collect();
    upstreams.retain(&wanted);
    eventually(|| places.queue(&"silent".into()).in_use() == 0).await;
}
