mod health;
mod preconnect;
mod probe_shares;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    num::NonZeroU16,
    sync::atomic::{AtomicU16, AtomicUsize, Ordering::SeqCst},
    thread,
    time::Duration,
};

use rustix::io::Errno;
use tokio::{
    net,
    runtime::Runtime,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::*;
use crate::model::{
    ActiveCheck, Algorithm, Balancing, Connect, EndpointKey, ObjectKey, PassiveCheck, Preconnect, Probe, Transport,
    Weight,
};

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

type Wanted = OrdMap<UpstreamKey, Arc<model::UpstreamConfig>>;

fn key() -> UpstreamKey {
    UpstreamKey { object: ObjectKey::new("shop", "postgres") }
}

fn settings(addresses: impl IntoIterator<Item = SocketAddr>) -> model::UpstreamConfig {
    let endpoint = |address: SocketAddr| {
        let key = EndpointKey { backend: "b".into(), address, uid: None };
        model::EndpointConfig {
            key,
            stable_id: model::StableId::Address(address),
            weight: Weight::ONE,
            proximity: model::Proximity::Remote,
        }
    };
    model::UpstreamConfig {
        balancing: Balancing { hash_prefix_v6: 64, ..Balancing::default() },
        backends: backends(["b"]),
        endpoints: addresses.into_iter().map(endpoint).collect(),
        active_check: None,
        passive_check: None,
        connect: Connect {
            timeout: Duration::from_secs(3),
            deadline: Duration::from_secs(10),
            attempts: NonZeroU16::MIN,
            preconnect: None,
        },
        keepalive: None,
        unready: Default::default(),
        drain: Default::default(),
        rebalance: None,
    }
}

fn backends<const N: usize>(names: [&str; N]) -> BTreeMap<Arc<str>, Arc<model::Backend>> {
    names.map(|name| (name.into(), Arc::default())).into()
}

fn wanted(settings: model::UpstreamConfig) -> Wanted {
    Wanted::unit(key(), Arc::new(settings))
}

fn fast_check() -> ActiveCheck {
    ActiveCheck {
        probe: Probe::Tcp,
        port: None,
        transport: Transport::Plain,
        interval: Duration::from_millis(10),
        unhealthy_interval: Duration::from_millis(10),
        jitter_percent: 10,
        timeout: Duration::from_secs(5),
        healthy_after: NonZeroU16::new(2).unwrap(),
        unhealthy_after: NonZeroU16::new(3).unwrap(),
    }
}

/// Adds an active check to all endpoints.
fn probe_with(settings: &mut model::UpstreamConfig, check: ActiveCheck) {
    let check = Some(Arc::new(check));
    settings.backends.values_mut().for_each(|backend| Arc::make_mut(backend).active_check = check.clone());
}

fn passive_check(failures: u16) -> PassiveCheck {
    PassiveCheck {
        consecutive_failures: NonZeroU16::new(failures).unwrap(),
        eject_for: Duration::from_secs(30),
        max_eject_for: Duration::from_secs(300),
        max_ejected_percent: 50,
    }
}

fn preconnect(per_endpoint: u16) -> Option<Preconnect> {
    Some(Preconnect { per_endpoint: NonZeroU16::new(per_endpoint).unwrap(), idle_timeout: Duration::from_secs(60) })
}

/// The upstreams on the runtime of the test, and the one with these settings.
fn start(settings: model::UpstreamConfig, budget: usize) -> (Upstreams, Arc<Upstream>) {
    let mut upstreams = Upstreams::new(Handle::current(), PreconnectBudget::new(budget), 1000);
    upstreams.update(&wanted(settings));
    let upstream = upstreams.find(&key()).unwrap();
    (upstreams, upstream)
}

/// A backend that ends its connections when the client does. Dropping the handle stops it.
fn serve(listener: TcpListener) -> AbortOnDropHandle<()> {
    listener.set_nonblocking(true).unwrap();
    let listener = net::TcpListener::from_std(listener).unwrap();
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut connection, _)) = listener.accept().await {
            connections.spawn(async move { tokio::io::copy(&mut connection, &mut tokio::io::sink()).await });
        }
    }))
}

/// Waits for a condition that has no signal.
async fn eventually(condition: impl Fn() -> bool) {
    let poll = async {
        while !condition() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(20), poll).await.expect("the condition holds in time");
}

async fn usable_becomes(upstreams: &Upstreams, upstream: &Upstream, count: usize) {
    let mut changes = upstreams.changes().count();
    let wait = async {
        while upstream.usable() != count {
            changes.changed().await.unwrap();
        }
    };
    timeout(Duration::from_secs(20), wait).await.expect("the number of usable endpoints changes in time");
}

fn picked(upstream: &Arc<Upstream>) -> Option<SocketAddr> {
    upstream
        .subset(&Backends::All)
        .pick(CLIENT, &TriedEndpoints::default())
        .map(|connection| connection.endpoint().address())
}

#[tokio::test]
async fn picks_see_a_change_as_soon_as_the_update_returns() {
    let [first, second] = [1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let (mut upstreams, upstream) = start(settings([first]), 0);
    assert_eq!(picked(&upstream), Some(first));
    upstreams.update(&wanted(settings([second])));
    assert_eq!(picked(&upstream), Some(second));
    upstreams.update(&wanted(settings([])));
    assert_eq!(picked(&upstream), None);
}

#[tokio::test]
async fn a_removed_upstream_stops_its_work_and_leaves_its_connections() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut settings = settings([listener.local_addr().unwrap()]);
    probe_with(&mut settings, fast_check());
    settings.connect.preconnect = preconnect(2);
    let (mut upstreams, upstream) = start(settings, 2);
    let budget = upstreams.context.budget.clone();
    let connection = upstream.subset(&Backends::All).pick(CLIENT, &TriedEndpoints::default()).unwrap();
    eventually(|| connection.endpoint().pool_figures().idle == 2).await;

    upstreams.retain(&Wanted::new());
    assert!(upstreams.find(&key()).is_none());
    assert_eq!(connection.endpoint().active(), 1);
    assert!(connection.endpoint().take_preconnected().is_none());
    let upstream = Arc::downgrade(&{ upstream });
    eventually(|| upstream.strong_count() == 0 && budget.left() == 2).await;
}

#[tokio::test]
async fn a_subset_has_the_endpoints_of_its_backends_and_shares_their_state() {
    let addresses = [1, 2, 3].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let mut settings = settings(addresses);
    let names: [Arc<str>; 2] = ["one".into(), "two".into()];
    settings.backends = backends(["one", "two"]);
    for (endpoint, backend) in settings.endpoints.iter_mut().zip([0, 0, 1]) {
        endpoint.key.backend = names[backend].clone();
    }
    let (mut upstreams, upstream) = start(settings.clone(), 0);
    let [one, two] = [&names[..1], &names[1..]].map(|names| upstream.subset(&Backends::Of(names.into())));
    let none = upstream.subset(&Backends::Of(Arc::default()));
    let ports = |subset: &Subset| ports(subset, 4);
    assert_eq!((ports(&one), ports(&two), ports(&none)), (vec![1, 2, 1, 2], vec![3; 4], vec![0; 4]));
    assert_eq!((one.usable(), two.usable(), none.usable()), (2, 1, 0));
    assert!(Arc::ptr_eq(&one, &upstream.subset(&Backends::Of(names[..1].into()))));
    assert!(Arc::ptr_eq(&one.endpoints()[0], &upstream.endpoints()[0]));

    settings.endpoints.remove(0);
    upstreams.update(&wanted(settings));
    assert_eq!((ports(&one), ports(&two)), (vec![2; 4], vec![3; 4]));
}

#[tokio::test]
async fn shares_are_compared_among_endpoints_of_the_same_routes() {
    let addresses = [1, 2, 3].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let mut settings = settings(addresses);
    let names: [Arc<str>; 2] = ["one".into(), "two".into()];
    settings.backends = backends(["one", "two"]);
    for (endpoint, backend) in settings.endpoints.iter_mut().zip([0, 0, 1]) {
        endpoint.key.backend = names[backend].clone();
    }
    let (_upstreams, upstream) = start(settings, 0);
    let groups = || -> Vec<Vec<u16>> {
        let ports = |group: rebalance::Group| group.iter().map(|weighted| weighted.endpoint.address().port()).collect();
        upstream.groups().into_iter().map(ports).collect()
    };
    let all = upstream.subset(&Backends::All);
    assert_eq!(groups(), [vec![1, 2, 3]]);
    let one = upstream.subset(&Backends::Of(names[..1].into()));
    assert_eq!(groups(), [vec![3], vec![1, 2]], "some connections are for the first two only");
    drop(all);
    assert_eq!(groups(), [vec![1, 2]], "nothing leads to the third");
    drop(one);
    assert!(groups().is_empty());
}

#[tokio::test]
async fn a_subset_of_a_renamed_backend_keeps_its_addresses() {
    let addresses = [1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let (mut upstreams, upstream) = start(settings(addresses), 0);
    let subset = upstream.subset(&Backends::Of(["b".into()].into()));
    let picked = |subset: &Subset| {
        subset.pick(CLIENT, &TriedEndpoints::default()).map(|connection| connection.endpoint().address().port())
    };
    let renamed = |name: &str, addresses: &[SocketAddr]| {
        let mut settings = settings(addresses.iter().copied());
        settings.backends = backends([name]);
        settings.endpoints.iter_mut().for_each(|endpoint| endpoint.key.backend = name.into());
        wanted(settings)
    };
    upstreams.update(&renamed("other", &addresses));
    assert_eq!([picked(&subset), picked(&subset)], [Some(1), Some(2)]);
    assert!(subset.pick(CLIENT, &TriedEndpoints::default()).unwrap().endpoint().key().backend == "other".into());
    // Removed endpoints are not used, nor those of another backend while the own backend exists.
    upstreams.update(&renamed("other", &addresses[1..]));
    assert_eq!([picked(&subset), picked(&subset)], [Some(2), Some(2)]);
    let mut moved = settings(addresses);
    moved.backends = backends(["b", "other"]);
    moved.endpoints.iter_mut().for_each(|endpoint| endpoint.key.backend = "other".into());
    upstreams.update(&wanted(moved));
    assert_eq!(picked(&subset), None);
}

/// Two endpoints, of backend `main` and, with priority 1, `spare`.
fn main_and_spare() -> model::UpstreamConfig {
    let mut settings = settings([1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], port))));
    settings.passive_check = Some(passive_check(1));
    settings.backends = backends(["main", "spare"]);
    let spare = model::Backend { priority: model::Priority(1), ..model::Backend::default() };
    settings.backends.insert("spare".into(), Arc::new(spare));
    settings.endpoints[0].key.backend = "main".into();
    settings.endpoints[1].key.backend = "spare".into();
    settings
}

fn ports(subset: &Subset, count: usize) -> Vec<u16> {
    let picks = (0..count).map(|_| subset.pick(CLIENT, &TriedEndpoints::default()));
    picks.map(|picked| picked.map_or(0, |picked| picked.endpoint().address().port())).collect()
}

#[tokio::test(start_paused = true)]
async fn the_next_priority_serves_while_the_first_cannot() {
    let mut settings = main_and_spare();
    settings.balancing.failover.failback = model::Failback::After(Duration::from_secs(60));
    let (upstreams, upstream) = start(settings, 0);
    let all = upstream.subset(&Backends::All);
    let spare = &upstream.endpoints()[1];
    assert_eq!((ports(&all, 2), upstream.priority_changes()), (vec![1; 2], 0));
    assert!(!spare.in_service());

    upstream.endpoints()[0].connect_failed(&Errno::CONNREFUSED.into());
    usable_becomes(&upstreams, &upstream, 1).await;
    assert_eq!((ports(&all, 2), upstream.priority_changes()), (vec![2; 2], 1));
    assert!(spare.in_service() && !upstream.endpoints()[0].in_service());

    // The ejection lasts 30 s, and the endpoint must then be able to serve for 60 s.
    let ejected = Instant::now();
    let mut changes = upstreams.changes().count();
    while upstream.usable() < 2 {
        changes.changed().await.unwrap();
    }
    assert_eq!(ports(&all, 2), [2; 2]);
    while upstream.priority_changes() < 2 {
        changes.changed().await.unwrap();
    }
    assert_eq!((ports(&all, 2), upstream.priority_changes()), (vec![1; 2], 2));
    assert!(ejected.elapsed() >= Duration::from_secs(90), "{:?}", ejected.elapsed());
    assert_eq!((spare.in_service(), all.usable()), (false, 2));
}

#[tokio::test(start_paused = true)]
async fn an_edited_route_keeps_its_active_level() {
    let mut settings = main_and_spare();
    settings.balancing.failover.failback = model::Failback::Never;
    settings.backends.extend(backends(["extra"]));
    let (upstreams, upstream) = start(settings, 0);
    let route = |names: &[&str]| {
        let names: Arc<[Arc<str>]> = names.iter().map(|name| Arc::from(*name)).collect();
        upstream.subset(&Backends::Of(names))
    };
    let before = route(&["main", "spare"]);
    upstream.endpoints()[0].connect_failed(&Errno::CONNREFUSED.into());
    usable_becomes(&upstreams, &upstream, 1).await;
    let only = route(&["spare"]);
    sleep(Duration::from_secs(20)).await;
    usable_becomes(&upstreams, &upstream, 2).await;
    assert_eq!((ports(&before, 1), upstream.priority_changes()), (vec![2], 1));

    let edited = route(&["main", "spare", "extra"]);
    assert_eq!((ports(&edited, 1), upstream.priority_changes()), (vec![2], 1), "main could serve again");
    drop(before);
    drop(edited);
    let again = route(&["spare", "main"]);
    assert_eq!(ports(&again, 1), [2], "also just after nobody has it");
    let other = route(&["main", "extra"]);
    assert_eq!((ports(&other, 1), ports(&only, 1)), (vec![1], vec![2]), "what leads elsewhere has its own way");
}

#[tokio::test]
async fn a_terminating_level_is_replaced_by_a_ready_one() {
    let mut settings = main_and_spare();
    let (mut upstreams, upstream) = start(settings.clone(), 0);
    let all = upstream.subset(&Backends::All);
    assert_eq!(ports(&all, 1), [1]);
    let main = model::Backend { last_resort: true, ..model::Backend::default() };
    settings.backends.insert("main".into(), Arc::new(main));
    upstreams.update(&wanted(settings.clone()));
    assert_eq!((ports(&all, 1), upstream.priority_changes()), (vec![2], 1));
    settings.endpoints.pop();
    upstreams.update(&wanted(settings));
    assert_eq!(ports(&all, 1), [1], "the last resort");
}

/// The share of clients that a third endpoint gets, for each second after it was added.
#[tokio::test(start_paused = true)]
async fn a_new_endpoints_share_grows_in_a_straight_line() {
    const PICKS: usize = 10_000;
    let addresses = [1, 2, 3].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    for algorithm in [Algorithm::RoundRobin, Algorithm::LeastConnections, Algorithm::PowerOfTwo, Algorithm::Random] {
        let of = |addresses: &[SocketAddr]| {
            let mut settings = settings(addresses.iter().copied());
            settings.balancing =
                Balancing { algorithm, slow_start: Some(Duration::from_secs(20)), ..settings.balancing };
            settings
        };
        let (mut upstreams, upstream) = start(of(&addresses[..2]), 0);
        let all = upstream.subset(&Backends::All);
        upstreams.update(&wanted(of(&addresses)));
        for second in 0..25_u32 {
            let picked = ports(&all, PICKS).into_iter().filter(|port| *port == 3).count() as f64 / PICKS as f64;
            let part = f64::from(second * 5).clamp(10.0, 100.0);
            let expected = part / (200.0 + part);
            assert!((picked - expected).abs() < 0.02, "{algorithm:?} after {second} s: {picked}, not {expected}");
            sleep(Duration::from_secs(1)).await;
        }
    }
}

#[tokio::test]
async fn an_endpoint_is_on_standby_unless_a_subset_uses_its_priority() {
    let (_upstreams, upstream) = start(main_and_spare(), 0);
    let spare = &upstream.endpoints()[1];
    assert!(spare.in_service(), "nobody has anything of it");
    let all = upstream.subset(&Backends::All);
    assert_eq!((spare.in_service(), ports(&all, 1)), (false, vec![1]));
    let route = upstream.subset(&Backends::Of(["spare".into()].into()));
    assert_eq!((spare.in_service(), ports(&route, 1)), (true, vec![2]));
}

#[tokio::test]
async fn sticky_clients_use_the_active_level() {
    let mut settings = main_and_spare();
    settings.balancing.algorithm = Algorithm::Maglev;
    let spare = settings.endpoints[1].clone();
    settings.endpoints.extend((3..=4).map(|port| {
        let mut endpoint = spare.clone();
        endpoint.key.address.set_port(port);
        endpoint.stable_id = model::StableId::Address(endpoint.key.address);
        endpoint
    }));
    let (mut upstreams, upstream) = start(settings.clone(), 0);
    let clients = || (1..=50).map(|last| IpAddr::from(Ipv4Addr::new(192, 0, 2, last)));
    let places = |upstream: &Arc<Upstream>| {
        let all = upstream.subset(&Backends::All);
        let place = |client| all.pick(client, &TriedEndpoints::default()).unwrap().endpoint().address().port();
        clients().map(place).collect::<Vec<_>>()
    };
    assert_eq!(places(&upstream), [1; 50]);
    // The result is the same without the endpoints of the other priority.
    settings.endpoints.remove(0);
    upstreams.update(&wanted(settings.clone()));
    let without = places(&upstream);
    settings.backends.remove("main");
    let (_others, alone) = start(settings, 0);
    assert_eq!(without, places(&alone));
}

#[tokio::test]
async fn a_route_to_an_ejected_endpoint_takes_it_back() {
    let addresses = [1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let mut settings = settings(addresses);
    settings.passive_check = Some(passive_check(1));
    settings.backends = backends(["one", "two"]);
    settings.endpoints[0].key.backend = "one".into();
    settings.endpoints[1].key.backend = "two".into();
    let (upstreams, upstream) = start(settings, 0);
    upstream.endpoints()[0].connect_failed(&Errno::CONNREFUSED.into());
    usable_becomes(&upstreams, &upstream, 1).await;
    let subset = upstream.subset(&Backends::Of(["one".into()].into()));
    usable_becomes(&upstreams, &upstream, 2).await;
    assert_eq!(subset.usable(), 1);
    // Once the subset is unused, its endpoint is not the last of any subset.
    drop(subset);
    upstream.endpoints()[0].connect_failed(&Errno::CONNREFUSED.into());
    usable_becomes(&upstreams, &upstream, 1).await;
}

#[test]
fn concurrent_picks_see_each_others_connections() {
    const THREADS: u32 = 4;
    let runtime = Runtime::new().unwrap();
    let mut upstreams = Upstreams::new(runtime.handle().clone(), PreconnectBudget::new(0), 1000);
    let mut settings = settings((1..=5).map(|port| SocketAddr::from(([127, 0, 0, 1], port))));
    settings.balancing.algorithm = Algorithm::LeastConnections;
    upstreams.update(&wanted(settings));
    let upstream = upstreams.find(&key()).unwrap();
    let all = upstream.subset(&Backends::All);
    let pick_many = || (0..250).map(|_| all.pick(CLIENT, &TriedEndpoints::default()).unwrap()).collect::<Vec<_>>();
    let open: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(pick_many)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let active = || upstream.endpoints().iter().map(|endpoint| endpoint.active()).collect::<Vec<_>>();
    // Concurrent picks may choose the same endpoint, each once.
    assert!(active().iter().all(|active| active.abs_diff(200) <= THREADS), "{:?}", active());
    drop(open);
    assert_eq!(active(), [0; 5]);
}

/// Endpoints are added and removed while threads pick and fail, so that the control task publishes as well.
#[test]
fn a_removed_endpoint_is_never_picked_after_the_update_and_all_counts_return_to_zero() {
    for algorithm in [Algorithm::RoundRobin, Algorithm::LeastConnections, Algorithm::Maglev] {
        churn(algorithm);
    }
}

fn churn(algorithm: Algorithm) {
    const STEPS: u16 = 30;
    let window = |first: u16| {
        let mut settings = settings((first..first + 6).map(|port| SocketAddr::from(([127, 0, 0, 1], port))));
        settings.balancing.algorithm = algorithm;
        settings.passive_check = Some(passive_check(1));
        wanted(settings)
    };
    let runtime = Runtime::new().unwrap();
    let mut upstreams = Upstreams::new(runtime.handle().clone(), PreconnectBudget::new(0), 1000);
    upstreams.update(&window(1));
    let upstream = upstreams.find(&key()).unwrap();
    let (first, picks) = (AtomicU16::new(1), AtomicUsize::new(0));
    let mut all = Vec::new();
    thread::scope(|scope| {
        for thread in 0..3 {
            let (subset, first, picks) = (upstream.subset(&Backends::All), &first, &picks);
            scope.spawn(move || {
                let mut open = Vec::new();
                while first.load(SeqCst) < STEPS {
                    let first_before = first.load(SeqCst);
                    let client = Ipv4Addr::from_bits(fastrand::u32(..)).into();
                    let connection =
                        subset.pick(client, &TriedEndpoints::default()).expect("the last one is never ejected");
                    assert!(connection.endpoint().address().port() >= first_before);
                    if thread == 0 {
                        connection.endpoint().connect_failed(&Errno::CONNREFUSED.into());
                    }
                    open.push(connection);
                    open.truncate(50);
                    picks.fetch_add(1, SeqCst);
                }
            });
        }
        while upstream.usable() == 6 {
            thread::yield_now();
        }
        for step in 2..=STEPS {
            let enough = picks.load(SeqCst) + 20;
            while picks.load(SeqCst) < enough {
                thread::yield_now();
            }
            all.extend(upstream.endpoints().iter().cloned());
            upstreams.update(&window(step));
            first.store(step, SeqCst);
        }
    });
    assert!(all.iter().all(|endpoint| endpoint.active() == 0));
}
