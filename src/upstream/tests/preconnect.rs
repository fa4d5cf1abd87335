use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::TcpStream,
};

use super::*;
use crate::model::Keepalive;

/// A backend that accepts only on request.
fn backend() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn with_pool(address: SocketAddr, per_endpoint: u16) -> model::UpstreamConfig {
    let mut settings = settings([address]);
    settings.connect.preconnect = preconnect(per_endpoint);
    settings
}

async fn filled(upstream: &Upstream, idle: usize) -> Arc<Endpoint> {
    let endpoint = upstream.endpoints()[0].clone();
    eventually(|| endpoint.pool_figures().idle == idle).await;
    endpoint
}

fn accept(listener: &TcpListener, count: usize) -> Vec<TcpStream> {
    (0..count).map(|_| listener.accept().unwrap().0).collect()
}

#[tokio::test]
async fn a_preconnected_socket_brings_the_greeting_that_waits_in_it() {
    let (listener, address) = backend();
    let (_upstreams, upstream) = start(with_pool(address, 1), 10);
    let endpoint = filled(&upstream, 1).await;
    let mut server = accept(&listener, 1).remove(0);
    server.write_all(b"220 ready").unwrap();

    let mut client = endpoint.take_preconnected().unwrap();
    client.set_nonblocking(false).unwrap();
    let mut greeting = [0; 9];
    client.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"220 ready");
    assert_eq!(endpoint.pool_figures(), PoolFigures { idle: 0, hits: 1, misses: 0, discarded: 0 });
    assert_eq!(endpoint.connections(), 1);
}

#[tokio::test]
async fn a_taken_socket_is_replaced_and_a_burst_beyond_the_pool_finds_none() {
    let (_listener, address) = backend();
    let (_upstreams, upstream) = start(with_pool(address, 3), 10);
    let endpoint = filled(&upstream, 3).await;
    let taken: Vec<_> = (0..5).map(|_| endpoint.take_preconnected()).collect();
    assert_eq!(taken.iter().flatten().count(), 3);
    let figures = endpoint.pool_figures();
    assert_eq!((figures.hits, figures.misses), (3, 2));
    filled(&upstream, 3).await;
}

#[tokio::test]
async fn dead_sockets_are_discarded_and_never_handed_out() {
    let (listener, address) = backend();
    let (_upstreams, upstream) = start(with_pool(address, 3), 10);
    let endpoint = filled(&upstream, 3).await;
    // The last message of a server with too many clients looks like a greeting, except for the end after it.
    let mut servers = accept(&listener, 3);
    servers[0].write_all(b"Too many connections").unwrap();
    drop(servers);
    assert!(endpoint.take_preconnected().is_none());
    assert_eq!(endpoint.pool_figures().discarded, 3);
    filled(&upstream, 3).await;
    assert!(endpoint.take_preconnected().is_some());
}

#[tokio::test]
async fn a_backend_that_closes_accepted_connections_is_dialled_less_and_less() {
    let (listener, address) = backend();
    listener.set_nonblocking(true).unwrap();
    let listener = net::TcpListener::from_std(listener).unwrap();
    let (_upstreams, upstream) = start(with_pool(address, 1), 10);
    let started = std::time::Instant::now();
    for _ in 0..4 {
        drop(listener.accept().await.unwrap());
    }
    // At least three quarters of 100, 200 and 400 ms.
    assert!(started.elapsed() > Duration::from_millis(500));
    assert!(upstream.endpoints()[0].take_preconnected().is_none());
}

#[tokio::test]
async fn a_socket_that_waited_too_long_is_replaced() {
    let (_listener, address) = backend();
    let mut settings = with_pool(address, 2);
    let idle_timeout = Duration::from_millis(20);
    settings.connect.preconnect = preconnect(2).map(|preconnect| Preconnect { idle_timeout, ..preconnect });
    let (_upstreams, upstream) = start(settings, 10);
    let endpoint = filled(&upstream, 2).await;
    eventually(|| endpoint.pool_figures().discarded >= 4).await;
    filled(&upstream, 2).await;
    assert_eq!(endpoint.pool_figures().hits, 0);
}

#[tokio::test]
async fn sockets_have_the_options_of_backend_connections() {
    let (_listener, address) = backend();
    let second = Duration::from_secs(1);
    let keepalive = Some(Keepalive { idle: 60 * second, interval: 15 * second, probes: 4 });
    let (_upstreams, upstream) = start(model::UpstreamConfig { keepalive, ..with_pool(address, 1) }, 10);
    let taken = filled(&upstream, 1).await.take_preconnected().unwrap();
    let socket = socket2::SockRef::from(&taken);
    assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap() && socket.nonblocking().unwrap());
    assert_eq!(socket.tcp_user_timeout().unwrap(), Some(120 * second));
}

#[tokio::test]
async fn all_pools_together_stay_within_the_budget() {
    let (_first, first) = backend();
    let (_second, second) = backend();
    let mut wanted = settings([first, second]);
    wanted.connect.preconnect = preconnect(4);
    let (upstreams, upstream) = start(wanted, 5);
    let idle = || upstream.endpoints().iter().map(|endpoint| endpoint.pool_figures().idle).sum::<usize>();
    eventually(|| idle() == 4).await;
    let budget = upstreams.context.budget.clone();
    assert_eq!(budget.left(), 1, "for others");
    let _taken = upstream.endpoints().iter().find_map(|endpoint| endpoint.take_preconnected()).unwrap();
    assert_eq!(budget.left(), 2, "what a client has is no longer the pool's");
    eventually(|| idle() == 4).await;
}

#[tokio::test]
async fn an_upstream_with_many_sockets_leaves_some_for_others() {
    let ((_first, first), (_second, second)) = (backend(), backend());
    let (mut upstreams, greedy) = start(with_pool(first, 100), 40);
    filled(&greedy, 30).await;
    let other = UpstreamKey { object: model::ObjectKey::new("shop", "cache") };
    let both = wanted(with_pool(first, 100)).update(other.clone(), Arc::new(with_pool(second, 5)));
    upstreams.update(&both);
    filled(&upstreams.find(&other).unwrap(), 5).await;
}

#[tokio::test]
async fn pools_are_flushed_when_their_endpoint_is_removed_or_they_are_disabled() {
    let (_listener, address) = backend();
    for after in [settings([]), settings([address])] {
        let (mut upstreams, upstream) = start(with_pool(address, 2), 10);
        let budget = upstreams.context.budget.clone();
        let endpoint = filled(&upstream, 2).await;
        upstreams.update(&wanted(after));
        assert!(endpoint.take_preconnected().is_none());
        assert_eq!(endpoint.pool_figures().idle, 0);
        eventually(|| budget.left() == 10).await;
    }
}

#[tokio::test]
async fn the_pool_of_an_unhealthy_endpoint_is_flushed_and_filled_again_when_it_recovers() {
    let listener = TcpListener::bind("127.71.2.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serving = serve(listener);
    let mut settings = with_pool(address, 2);
    probe_with(&mut settings, fast_check());
    let (upstreams, upstream) = start(settings, 10);
    filled(&upstream, 2).await;
    drop(serving);
    usable_becomes(&upstreams, &upstream, 0).await;
    assert_eq!(upstream.endpoints()[0].pool_figures().idle, 0);
    let _serving = serve(TcpListener::bind(address).unwrap());
    usable_becomes(&upstreams, &upstream, 1).await;
    filled(&upstream, 2).await;
}

#[tokio::test]
async fn failed_refills_eject_an_endpoint() {
    let (_listener, good) = backend();
    let (listener, bad) = backend();
    drop(listener);
    let mut wanted = settings([good, bad]);
    wanted.connect.preconnect = preconnect(4);
    wanted.passive_check = Some(passive_check(2));
    let (upstreams, upstream) = start(wanted, 10);
    usable_becomes(&upstreams, &upstream, 1).await;
    let failing = upstream.endpoints().iter().find(|endpoint| endpoint.address() == bad).unwrap().clone();
    assert!(!failing.usable());
    assert_eq!(failing.connect_failures(), 2, "a round of dials counts once");
}

#[tokio::test]
async fn no_socket_is_handed_out_twice() {
    let (_listener, address) = backend();
    let (_upstreams, upstream) = start(with_pool(address, 64), 128);
    let endpoint = filled(&upstream, 64).await;
    let take_all = || std::iter::from_fn(|| endpoint.take_preconnected()).collect::<Vec<_>>();
    let taken: Vec<TcpStream> = thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(take_all)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let addresses: BTreeSet<_> = taken.iter().map(|stream| stream.local_addr().unwrap()).collect();
    assert_eq!((taken.len(), addresses.len()), (64, 64));
}
