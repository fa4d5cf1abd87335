//! The delivery of requests to cancel queries.

use std::{
    cell::Cell,
    cmp::Reverse,
    io,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{StreamExt, stream};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::oneshot,
    time::timeout,
};
use tracing::warn;

use super::cancel_request::CancelRequest;
use crate::{log_limit::LogLimiter, model::SourcePrefix};

/// The maximum number of servers that get a CancelRequest, which does not name the server of its session.
const MOST_SERVERS: usize = 32;
/// The maximum number of requests in progress, if descriptors allow as many.
const MOST_REQUESTS: usize = 16;
/// The time limit for connecting to a server and sending a request.
const DELIVERY: Duration = Duration::from_secs(1);
/// The time for which a server may keep the connection open; its end confirms that the request was executed.
const ACKNOWLEDGEMENT: Duration = Duration::from_millis(250);

/// The requests in progress, of all listeners: a bounded number, since each needs a descriptor for every server.
///
/// A new request is never refused. If there are too many, another one is evicted: of the listener with the most
/// requests, one that was delivered to all servers and only waits for them to end, or else the oldest of the source
/// with the most. Unanswered requests and floods of requests do not displace the requests of other clients.
#[derive(Debug)]
pub struct Cancels {
    most: usize,
    /// The maximum number of concurrent connections of each request.
    servers: usize,
    under_way: Mutex<UnderWay>,
    log: LogLimiter,
}

#[derive(Debug, Default)]
struct UnderWay {
    requests: Vec<Request>,
    next: u64,
}

#[derive(Debug)]
struct Request {
    number: u64,
    from: Requester,
    /// True once every server has the request or could not be reached.
    is_delivered: bool,
    make_room: oneshot::Sender<()>,
}

/// The origin of a request: the id of a listener, and a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Requester {
    listener: u64,
    source: SourcePrefix,
}

impl Requester {
    pub fn new(listener: u64, client: IpAddr) -> Self {
        Self { listener, source: SourcePrefix::of(client) }
    }
}

/// The place of a request, given back when this is dropped.
struct CancelPermit<'a> {
    cancels: &'a Cancels,
    number: u64,
    room_is_wanted: oneshot::Receiver<()>,
}

impl Cancels {
    /// Allows at most this many concurrent connections to servers.
    pub fn new(descriptors: usize) -> Self {
        let servers = descriptors.clamp(1, MOST_SERVERS);
        let most = (descriptors / servers).clamp(1, MOST_REQUESTS);
        Self { most, servers, under_way: Mutex::default(), log: LogLimiter::new() }
    }

    fn enter(&self, from: Requester) -> CancelPermit<'_> {
        let (make_room, room_is_wanted) = oneshot::channel();
        let mut under_way = self.lock();
        if let Some(other) = under_way.to_make_room(from, self.most) {
            let other = under_way.requests.swap_remove(other);
            if !other.is_delivered && self.log.allow() {
                warn!(
                    source = %other.from.source,
                    "too many pending requests to cancel PostgreSQL queries: the oldest ones are dropped"
                );
            }
            let _ = other.make_room.send(());
        }
        under_way.next += 1;
        let number = under_way.next;
        under_way.requests.push(Request { number, from, is_delivered: false, make_room });
        CancelPermit { cancels: self, number, room_is_wanted }
    }

    fn lock(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UnderWay {
    /// The index of the request to evict for this requester, if any.
    fn to_make_room(&self, from: Requester, most: usize) -> Option<usize> {
        let of_listener = |listener: u64| self.requests.iter().filter(|other| other.from.listener == listener).count();
        let of_requester = |from: Requester| self.requests.iter().filter(|other| other.from == from).count();
        let places = self.requests.iter().enumerate();
        // One requester gets at most half of the places.
        if of_requester(from) >= (most / 2).max(1) {
            let own = places.filter(|(_, other)| other.from == from);
            return own.max_by_key(|(_, own)| (own.is_delivered, Reverse(own.number))).map(|(place, _)| place);
        }
        if self.requests.len() < most {
            return None;
        }
        let weight = |other: &Request| {
            let (of_listener, of_requester) = (of_listener(other.from.listener), of_requester(other.from));
            (of_listener, other.is_delivered, of_requester, Reverse(other.number))
        };
        places.max_by_key(|(_, other)| weight(other)).map(|(place, _)| place)
    }
}

impl CancelPermit<'_> {
    fn delivered(&self) {
        let mut under_way = self.cancels.lock();
        if let Some(own) = under_way.requests.iter_mut().find(|request| request.number == self.number) {
            own.is_delivered = true;
        }
    }
}

impl Drop for CancelPermit<'_> {
    fn drop(&mut self) {
        self.cancels.lock().requests.retain(|request| request.number != self.number);
    }
}

impl CancelRequest {
    /// Sends the request to all these servers. A server that has no session with its process id and key ignores it.
    /// Ends when all servers have taken it or their time is up. `false`: the request was evicted before all servers had
    /// it.
    pub async fn hand_over<S, O>(self, cancels: &Cancels, from: Requester, servers: impl IntoIterator<Item = O>) -> bool
    where
        S: AsyncRead + AsyncWrite + Unpin,
        O: Future<Output = io::Result<S>>,
    {
        let mut place = cancels.enter(from);
        let servers: Vec<O> = servers.into_iter().take(MOST_SERVERS).collect();
        let left = Cell::new(servers.len());
        let deliver = async |server: O| {
            let mut server = server.await?;
            server.write_all(&self.0).await?;
            server.flush().await?;
            io::Result::Ok(server)
        };
        let room_is_wanted = &mut std::mem::replace(&mut place.room_is_wanted, oneshot::channel().1);
        let hand_over = async |server: O| {
            let delivered = timeout(DELIVERY, deliver(server)).await;
            left.set(left.get() - 1);
            if left.get() == 0 {
                place.delivered();
            }
            if let Ok(Ok(mut server)) = delivered {
                // A server sends no answer, and closes the connection when it is done.
                let _ = timeout(ACKNOWLEDGEMENT, server.read(&mut [0])).await;
            }
        };
        let all = stream::iter(servers).for_each_concurrent(cancels.servers, hand_over);
        tokio::select! {
            () = all => {}
            _ = room_is_wanted => {}
        }
        left.get() == 0
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use futures::future::join_all;
    use tokio::io::{DuplexStream, duplex};

    use super::*;

    fn from(listener: u64, last: u8) -> Requester {
        Requester::new(listener, [192, 0, 2, last].into())
    }

    fn here(cancels: &Cancels) -> Vec<Requester> {
        cancels.lock().requests.iter().map(|request| request.from).collect()
    }

    #[test]
    fn one_source_leaves_half_of_the_places_to_others() {
        let cancels = Cancels::new(512);
        let mut flood: Vec<_> = (0..20).map(|_| cancels.enter(from(1, 1))).collect();
        assert_eq!(here(&cancels), [from(1, 1); 8]);
        let mut others: Vec<_> = (2..10).map(|last| cancels.enter(from(1, last))).collect();
        assert!(others.iter_mut().all(|place| place.room_is_wanted.try_recv().is_err()));
        assert!(flood.iter_mut().take(12).all(|place| place.room_is_wanted.try_recv().is_ok()), "the oldest make room");
        drop((flood, others));
        assert_eq!(here(&cancels), []);
    }

    #[test]
    fn the_listener_with_the_most_requests_is_evicted_delivered_ones_first() {
        let cancels = Cancels::new(512);
        let mut many: Vec<_> = (0..15).map(|last| cancels.enter(from(1, last))).collect();
        let _one = cancels.enter(from(2, 1));
        many[7].delivered();
        let _other = cancels.enter(from(2, 2));
        assert!(many.remove(7).room_is_wanted.try_recv().is_ok(), "one that only waits for the servers to end");
        let _third = cancels.enter(from(3, 1));
        assert!(many.remove(0).room_is_wanted.try_recv().is_ok(), "the oldest");
        assert!(many.iter_mut().all(|place| place.room_is_wanted.try_recv().is_err()));
    }

    #[test]
    fn a_source_is_an_ipv6_64() {
        let source = |address: &str| Requester::new(1, address.parse().unwrap());
        assert_eq!(source("2001:db8::1"), source("2001:db8::2"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
        let shown = ["2001:db8::1", "192.0.2.1"].map(|address| source(address).source.to_string());
        assert_eq!(shown, ["2001:db8::/64", "192.0.2.1"]);
    }

    #[test]
    fn requests_stay_within_their_descriptors() {
        for descriptors in [1, 10, 64, 512, 5000] {
            let cancels = Cancels::new(descriptors);
            assert!(cancels.most > 0 && cancels.servers > 0 && cancels.most * cancels.servers <= descriptors);
        }
    }

    fn request() -> CancelRequest {
        CancelRequest(b"cancel".to_vec())
    }

    #[tokio::test(start_paused = true)]
    async fn slow_servers_do_not_delay_requests_to_others() {
        let cancels = Cancels::new(512);
        // Servers that take a request and never end the connection; their ends are held here.
        let held = std::cell::RefCell::new(Vec::new());
        let silent = || async {
            let (near, far) = duplex(100);
            held.borrow_mut().push(far);
            Ok(near)
        };
        let flood = join_all((0..500).map(|_| request().hand_over(&cancels, from(1, 1), [silent(), silent()])));
        let legitimate = async {
            let mut delivered = 0;
            for _ in 0..20 {
                delivered += usize::from(request().hand_over(&cancels, from(1, 2), [silent()]).await);
            }
            delivered
        };
        let (_, delivered) = tokio::join!(flood, legitimate);
        assert_eq!(delivered, 20);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_an_unreachable_server_is_bounded() {
        let cancels = Cancels::new(512);
        let begun = tokio::time::Instant::now();
        let unreachable = || pending::<io::Result<DuplexStream>>();
        assert!(request().hand_over(&cancels, from(1, 1), [unreachable(), unreachable()]).await);
        assert_eq!(begun.elapsed(), DELIVERY);
    }
}
