use std::task::Poll;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time,
};

use super::*;
use crate::model::{Close, Exchange, Failback, Hidden, Priority};

#[tokio::test]
async fn a_killed_backend_becomes_unhealthy_and_recovers() {
    // An address of its own, so that no other test takes the port.
    let listener = TcpListener::bind("127.71.1.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let backend = serve(listener);
    let mut settings = settings([address]);
    probe_with(&mut settings, fast_check());
    let (upstreams, upstream) = start(settings, 0);
    assert_eq!(picked(&upstream), Some(address), "usable before its first probe");

    drop(backend);
    usable_becomes(&upstreams, &upstream, 0).await;
    assert_eq!(picked(&upstream), None);
    let state = upstream.endpoints()[0].state();
    assert!(!state.healthy && state.last_failure.unwrap().reason.contains("refused"));
    assert_eq!(upstream.endpoints()[0].connect_failures(), 0, "probes are not connections");

    let _backend = serve(TcpListener::bind(address).unwrap());
    usable_becomes(&upstreams, &upstream, 1).await;
    assert_eq!(picked(&upstream), Some(address));
}

#[tokio::test]
async fn a_new_endpoint_is_usable_and_probed_at_once() {
    let listener = net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut wanted_now = settings([]);
    probe_with(&mut wanted_now, ActiveCheck { interval: Duration::from_secs(3600), ..fast_check() });
    let (mut upstreams, upstream) = start(wanted_now.clone(), 0);
    wanted_now.endpoints = settings([listener.local_addr().unwrap()]).endpoints;
    upstreams.update(&wanted(wanted_now));
    assert_eq!(upstream.usable(), 1);
    timeout(Duration::from_secs(20), listener.accept()).await.unwrap().unwrap();
}

/// Applies a probe at once.
fn probed(upstream: &Upstream, id: u64, outcome: Option<probe::ProbeResult>) {
    let mut control = upstream.control();
    control.probed(id, outcome);
    control.review();
}

/// Two endpoints whose first checks stay pending, since the servers send nothing.
async fn start_unknown() -> (Upstreams, Arc<Upstream>, [TcpListener; 2]) {
    let silent = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let mut settings = settings(silent.each_ref().map(|server| server.local_addr().unwrap()));
    let exchange = Exchange { send: Hidden::new(Vec::new().into()), expect: b"primary".as_slice().into() };
    let for_ever = Duration::from_secs(3600);
    probe_with(&mut settings, ActiveCheck { probe: Probe::Exchange(exchange), timeout: for_ever, ..fast_check() });
    let (upstreams, upstream) = start(settings, 0);
    (upstreams, upstream, silent)
}

/// A log in memory.
#[derive(Clone, Default)]
struct HealthLogBuffer(Arc<Mutex<Vec<u8>>>);

impl io::Write for HealthLogBuffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn log_lines_about_endpoints_that_alternate_are_limited_and_counted() {
    let (log, (_upstreams, upstream, _silent)) = (HealthLogBuffer::default(), start_unknown().await);
    let sink = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || sink.clone()).finish();
    let _log = tracing::subscriber::set_default(subscriber);
    let count = |text: &str| String::from_utf8_lossy(&log.0.lock().unwrap()).matches(text).count();
    let id = upstream.endpoints()[0].id();
    for _ in 0..50 {
        (0..3).for_each(|_| probed(&upstream, id, Some(Err("refused".into()))));
        (0..2).for_each(|_| probed(&upstream, id, Some(Ok(()))));
    }
    assert_eq!((count("endpoint unhealthy"), count("endpoint healthy")), (16, 16));
    assert_eq!(count("were not logged"), 0);
    assert!(upstream.endpoints()[0].state().healthy, "the state is that of the last change");

    time::advance(Duration::from_secs(10)).await;
    upstream.control().review();
    assert_eq!((count("were not logged"), count("omitted=68")), (1, 1));
    (0..3).for_each(|_| probed(&upstream, id, Some(Err("refused".into()))));
    assert_eq!(count("endpoint unhealthy"), 17);
}

#[tokio::test]
async fn waiting_clients_also_wait_for_further_endpoints_of_the_level() {
    let (_upstreams, upstream, _silent) = start_unknown().await;
    let subset = upstream.subset(&Backends::All);
    let [one, other] = [0, 1].map(|place: usize| upstream.endpoints()[place].id());
    let mut waiting = Box::pin(subset.wait_for_first_checks());
    assert_eq!(futures::poll!(&mut waiting), Poll::Pending);
    probed(&upstream, one, Some(Ok(())));
    assert!(subset.pick(CLIENT, &TriedEndpoints::default()).is_some(), "who comes now is served");
    assert_eq!(futures::poll!(&mut waiting), Poll::Pending);
    probed(&upstream, other, Some(Err("a replica".into())));
    assert_eq!(futures::poll!(&mut waiting), Poll::Ready(true));
    assert!(!subset.wait_for_first_checks().await, "nobody is awaited any more");
}

#[tokio::test]
async fn waiting_for_further_endpoints_is_bounded() {
    let (_upstreams, upstream, _silent) = start_unknown().await;
    let subset = upstream.subset(&Backends::All);
    let first = upstream.endpoints()[0].id();
    let mut waiting = Box::pin(subset.wait_for_first_checks());
    assert_eq!(futures::poll!(&mut waiting), Poll::Pending);
    probed(&upstream, first, Some(Ok(())));
    assert_eq!(timeout(Duration::from_secs(20), waiting).await, Ok(true));
}

#[tokio::test]
async fn no_level_serves_while_the_last_active_one_is_waited_for() {
    let silent = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let mut settings = settings(silent.each_ref().map(|server| server.local_addr().unwrap()));
    settings.backends.insert("spare".into(), model::Backend { priority: Priority(1), ..Default::default() }.into());
    settings.endpoints[1].key.backend = "spare".into();
    let exchange = Exchange { send: Hidden::new(Vec::new().into()), expect: b"primary".as_slice().into() };
    let for_ever = Duration::from_secs(3600);
    probe_with(&mut settings, ActiveCheck { probe: Probe::Exchange(exchange), timeout: for_ever, ..fast_check() });
    settings.balancing.failover.failback = Failback::Never;
    settings.drain.failback = Some(Close { after: Duration::ZERO, spread: Duration::ZERO, max_per_second: None });
    let (_upstreams, upstream) = start(settings, 0);
    let subset = upstream.subset(&Backends::All);
    let [main, spare] = [0, 1].map(|place: usize| upstream.endpoints()[place].clone());
    let probed = |endpoint: &Endpoint, outcomes: &str| {
        let outcome = |passed| if passed == '+' { Ok(()) } else { Err("wrong".to_owned()) };
        outcomes.chars().for_each(|passed| {
            probed(&upstream, endpoint.id(), Some(outcome(passed)));
        });
    };
    let picked = || subset.pick(CLIENT, &TriedEndpoints::default()).map(|active| active.endpoint().id());
    probed(&main, "+");
    probed(&spare, "+");
    assert_eq!(picked(), Some(main.id()));
    probed(&main, "---");
    assert_eq!(picked(), Some(spare.id()));

    let connection = subset.pick(CLIENT, &TriedEndpoints::default());
    probed(&spare, "---");
    probed(&main, "++");
    assert_eq!(picked(), None, "the main one can, but the spare one served");
    let mut waiting = Box::pin(subset.wait_for_first_checks());
    assert_eq!(futures::poll!(&mut waiting), Poll::Pending);
    let reasons = || upstream.draining().into_iter().map(|(_, why, _)| why).collect::<Vec<_>>();
    assert!(!reasons().contains(&model::DrainCause::Failback));
    probed(&spare, "++");
    assert_eq!(picked(), Some(spare.id()));
    assert_eq!(futures::poll!(waiting), Poll::Ready(true));
    drop(connection);
}

#[tokio::test]
async fn clients_do_not_wait_for_failed_probes_or_removed_endpoints() {
    let (_upstreams, upstream, _silent) = start_unknown().await;
    let subset = upstream.subset(&Backends::All);
    let mut waiting = Box::pin(subset.wait_for_first_checks());
    assert_eq!(futures::poll!(&mut waiting), Poll::Pending);
    let ids: Vec<_> = upstream.endpoints().iter().map(|endpoint| endpoint.id()).collect();
    ids.into_iter().for_each(|id| probed(&upstream, id, None));
    assert_eq!(futures::poll!(waiting), Poll::Ready(true));
    assert!(subset.pick(CLIENT, &TriedEndpoints::default()).is_none());

    let (upstreams, upstream, _silent) = start_unknown().await;
    let subset = upstream.subset(&Backends::All);
    let mut waiting = Box::pin(subset.wait_for_first_checks());
    assert_eq!(futures::poll!(&mut waiting), Poll::Pending);
    drop(upstreams);
    assert_eq!(futures::poll!(waiting), Poll::Ready(true));
}

#[tokio::test]
async fn a_changed_interval_takes_effect() {
    let listener = net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut wanted_now = settings([listener.local_addr().unwrap()]);
    probe_with(&mut wanted_now, ActiveCheck { interval: Duration::from_secs(3600), ..fast_check() });
    let (mut upstreams, _) = start(wanted_now.clone(), 0);
    listener.accept().await.unwrap();
    probe_with(&mut wanted_now, fast_check());
    upstreams.update(&wanted(wanted_now));
    for _ in 0..5 {
        timeout(Duration::from_secs(20), listener.accept()).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_probe_of_a_server_that_speaks_first_ends_cleanly() {
    let listener = net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut settings = settings([listener.local_addr().unwrap()]);
    probe_with(&mut settings, fast_check());
    let (_upstreams, _) = start(settings, 0);
    let (mut probe, _) = listener.accept().await.unwrap();
    probe.write_all(b"220 ready\r\n").await.unwrap();
    assert_eq!(probe.read(&mut [0; 8]).await.unwrap(), 0, "an end, no reset");
}

#[tokio::test]
async fn clients_failures_eject_an_endpoint_until_its_time_is_over() {
    let mut settings = settings([1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], port))));
    settings.passive_check = Some(PassiveCheck { eject_for: Duration::from_millis(20), ..passive_check(3) });
    let (upstreams, upstream) = start(settings, 0);
    let endpoint = upstream.endpoints()[0].clone();
    (0..3).for_each(|_| endpoint.connect_failed(&io::ErrorKind::TimedOut.into()));
    usable_becomes(&upstreams, &upstream, 1).await;
    assert!(endpoint.state().ejected_until.is_some());
    assert!((0..10).all(|_| picked(&upstream).is_some_and(|address| address.port() == 2)));
    usable_becomes(&upstreams, &upstream, 2).await;
    assert_eq!((endpoint.ejections(), endpoint.connect_failures()), (1, 3));
}

/// An upstream with `count` endpoints, four for each backend, and a route for each backend.
fn of_backends(count: u16) -> (Upstreams, Arc<Upstream>, Vec<Arc<Subset>>) {
    let addresses = (0..count).map(|number| SocketAddr::from(([10, 0, (number >> 8) as u8, number as u8], 1)));
    let mut settings = settings(addresses);
    settings.backends = (0..count / 4).map(|number| (format!("b{number:04}").into(), Arc::default())).collect();
    // Intervals are so long that no probe is made.
    let seldom = Duration::from_secs(3600);
    probe_with(&mut settings, ActiveCheck { interval: seldom, unhealthy_interval: seldom, ..fast_check() });
    for (number, endpoint) in settings.endpoints.iter_mut().enumerate() {
        endpoint.key.backend = format!("b{:04}", number / 4).into();
    }
    let names: Vec<Arc<str>> = settings.backends.keys().cloned().collect();
    let (upstreams, upstream) = start(settings, 0);
    let routes = names.into_iter().map(|name| upstream.subset(&Backends::Of([name].into())));
    let subsets = [upstream.subset(&Backends::All)].into_iter().chain(routes).collect();
    (upstreams, upstream, subsets)
}

#[tokio::test(start_paused = true)]
async fn endpoints_that_fail_together_are_published_together() {
    let published = async |count: u16| {
        let (upstreams, upstream, _subsets) = of_backends(count);
        let endpoints = upstream.endpoints();
        let before = *upstreams.changes().count().borrow();
        // Within a second, some every millisecond.
        for round in endpoints.chunks(usize::from(count) / 64) {
            for endpoint in round {
                (0..3).for_each(|_| _ = upstream.control().probed(endpoint.id(), Some(Err("away".into()))));
            }
            sleep(Duration::from_millis(1)).await;
        }
        usable_becomes(&upstreams, &upstream, 0).await;
        *upstreams.changes().count().borrow() - before
    };
    for count in [256, 512, 1024] {
        let published = published(count).await;
        assert!((1..=6).contains(&published), "{count} endpoints: {published}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_of_one_backend_rebuilds_only_the_subsets_with_it() {
    let (_upstreams, upstream, subsets) = of_backends(64);
    let balancers = || -> Vec<_> { subsets.iter().map(|subset| subset.published()).collect() };
    let before = balancers();
    (0..3).for_each(|_| probed(&upstream, upstream.endpoints()[9].id(), Some(Err("away".into()))));
    let changed: Vec<usize> =
        before.iter().zip(balancers()).enumerate().filter(|(_, (a, b))| *a != b).map(|(number, _)| number).collect();
    assert_eq!(changed, [0, 3], "the whole, and the route of the third backend");
}
