use std::{cell::Cell, rc::Rc};

use tokio::task::{LocalSet, spawn_local};

use super::*;

const LISTENER: u64 = 7;

fn query(order: ConnectionOrder, limit: usize) -> ConnectionQuery {
    ConnectionQuery { order, limit, listeners: None, addresses: AddressFilter::default() }
}

/// Sessions with random ages, silences and bytes.
fn sessions(count: u64) -> (Sessions, Instant) {
    let now = Instant::now();
    let task = spawn_local(std::future::pending::<()>()).abort_handle();
    let sessions = Sessions::default();
    for number in 0..count {
        let (age, idle) = (fastrand::u64(0..1_000_000), fastrand::u64(0..1_000_000));
        let ago = |milliseconds| now.checked_sub(Duration::from_millis(milliseconds)).unwrap_or(now);
        let session = Session::for_test(number, LISTENER + number % 2, ago(age.max(idle)));
        session.moved(ago(idle), fastrand::u64(0..1 << 40));
        sessions.add(Rc::new(session), |_| task.clone());
    }
    (sessions, now)
}

/// The numbers of all sessions with their ranks, the first ones first.
fn ranked(sessions: &Sessions, order: ConnectionOrder, now: Instant) -> Vec<(u64, u64)> {
    let mut all = Vec::new();
    sessions.for_each(|session| {
        let (age, idle) = (now - session.accepted_at, now - session.last_activity());
        all.push((order.rank(age, idle, session.bytes_to_backend() + session.bytes_to_client()), session.id.number));
    });
    all.sort_by_key(|ranked| Reverse(*ranked));
    all
}

#[tokio::test(start_paused = true)]
async fn the_first_connections_of_each_order_are_listed() {
    LocalSet::new()
        .run_until(async {
            let (sessions, now) = sessions(5000);
            for order in ConnectionOrder::ALL {
                for limit in [1, 100, 4999, 10_000] {
                    let query = query(order, limit);
                    let first = first_connections(&sessions, &query, || true).await;
                    assert_eq!(first.matching, 5000);
                    let first = FirstConnections::merged(vec![first, FirstConnections::default()], &query);
                    let ranks: Vec<u64> = first.connections.iter().map(|open| open.rank(order)).collect();
                    let expected = ranked(&sessions, order, now);
                    let expected: Vec<u64> = expected.iter().take(limit).map(|(rank, _)| *rank).collect();
                    assert_eq!(ranks, expected, "{order:?}, {limit}");
                }
            }
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_hundred_thousand_connections_are_visited_in_parts_with_limited_memory() {
    const COUNT: u64 = 100_000;

    LocalSet::new()
        .run_until(async {
            let (sessions, now) = sessions(COUNT);
            let turns = Rc::new(Cell::new(0));
            let counted = turns.clone();
            let others = spawn_local(async move {
                loop {
                    counted.set(counted.get() + 1);
                    yield_now().await;
                }
            });
            let query = query(ConnectionOrder::Bytes, 100);
            let first = first_connections(&sessions, &query, || true).await;
            assert_eq!((first.matching, first.connections.len()), (COUNT as usize, 100));
            let parts = COUNT as usize / VISITED_AT_ONCE;
            assert!(turns.get() >= parts, "{} turns of other tasks between {parts} parts", turns.get());
            others.abort();

            let mut selection = Selection::new(&query, now);
            let mut most = 0;
            let visited = Cell::new(0);
            assert!(sessions.visit(0..VISITED_AT_ONCE, |_| visited.set(visited.get() + 1)));
            assert_eq!(visited.get(), VISITED_AT_ONCE);
            sessions.for_each(|session| {
                selection.show(session);
                most = most.max(selection.chosen.len());
            });
            assert_eq!(most, 100);
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_wanted_ends_the_visit() {
    LocalSet::new()
        .run_until(async {
            let (sessions, _) = sessions(10_000);
            let asked = Cell::new(0);
            let is_wanted = || {
                asked.set(asked.get() + 1);
                asked.get() <= 2
            };
            let first = first_connections(&sessions, &query(ConnectionOrder::Age, 10), is_wanted).await;
            assert_eq!(first.matching, 2 * VISITED_AT_ONCE);
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn filters_select_by_listener_client_and_endpoint() {
    LocalSet::new()
        .run_until(async {
            let (sessions, _) = sessions(1000);
            let count = async |listeners: Option<BTreeSet<u64>>, addresses: AddressFilter| {
                let query = ConnectionQuery { listeners, addresses, ..query(ConnectionOrder::Age, 1) };
                first_connections(&sessions, &query, || true).await.matching
            };
            let every = AddressFilter::default();
            assert_eq!(count(Some(BTreeSet::from([LISTENER])), every.clone()).await, 500);
            assert_eq!(count(Some(BTreeSet::new()), every.clone()).await, 0);
            // The client of a session is 10.0.x.y, with its number in x and y.
            let clients = |network: &str| AddressFilter { clients: Some(network.parse().unwrap()), endpoint: None };
            assert_eq!(count(None, clients("10.0.1.0/24")).await, 256);
            assert_eq!(count(None, clients("10.0.1.7/32")).await, 1);
            assert_eq!(count(None, clients("::/0")).await, 0);
            // Every fourth one has no endpoint yet; the others have 10.9.0.1 or 10.9.0.2, port 5432.
            let endpoint = |ip: [u8; 4], port| AddressFilter {
                endpoint: Some(EndpointFilter { ip: ip.into(), port }),
                clients: None,
            };
            assert_eq!(count(None, endpoint([10, 9, 0, 1], None)).await, 250);
            assert_eq!(count(None, endpoint([10, 9, 0, 2], Some(5432))).await, 500);
            assert_eq!(count(None, endpoint([10, 9, 0, 2], Some(1))).await, 0);
        })
        .await;
}
