//! The list of open connections. Each worker keeps only the first ones in the requested order.

#[cfg(test)]
mod tests;

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use tokio::{task::yield_now, time::Instant};

use super::{access_log::ConnectionId, connection::record::Session, tls::ClientTls, worker::sessions::Sessions};
use crate::model::ConnectionOrder;

/// The number of connections that are visited before the event loop continues.
const VISITED_AT_ONCE: usize = 256;

/// The requested connections.
#[derive(Clone, Debug)]
pub struct ConnectionQuery {
    pub order: ConnectionOrder,
    /// The maximum number of connections.
    pub limit: usize,
    /// The ids of listeners; `None`: all.
    pub listeners: Option<BTreeSet<u64>>,
    pub addresses: AddressFilter,
}

/// Selects connections by their addresses.
#[derive(Clone, Debug, Default)]
pub struct AddressFilter {
    pub endpoint: Option<EndpointFilter>,
    pub clients: Option<IpNet>,
}

/// The address of an endpoint; without a port: with any port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointFilter {
    pub ip: IpAddr,
    pub port: Option<u16>,
}

impl AddressFilter {
    pub fn matches(&self, client: SocketAddr, endpoint: Option<SocketAddr>) -> bool {
        self.clients.is_none_or(|clients| clients.contains(&client.ip()))
            && self.endpoint.is_none_or(|filter| endpoint.is_some_and(|endpoint| filter.matches(endpoint)))
    }
}

impl EndpointFilter {
    fn matches(self, endpoint: SocketAddr) -> bool {
        self.ip == endpoint.ip().to_canonical() && self.port.is_none_or(|port| port == endpoint.port())
    }
}

/// An open connection at one moment.
#[derive(Clone, Debug)]
pub struct ListedConnection {
    pub id: ConnectionId,
    /// The id of its listener.
    pub listener: u64,
    pub client: SocketAddr,
    pub endpoint: Option<SocketAddr>,
    pub tls: Option<Arc<ClientTls>>,
    pub age: Duration,
    pub idle: Duration,
    pub bytes_to_backend: u64,
    pub bytes_to_client: u64,
}

/// The first connections in the requested order.
#[derive(Clone, Debug, Default)]
pub struct FirstConnections {
    /// The number of connections that match the query.
    pub matching: usize,
    pub connections: Vec<ListedConnection>,
}

impl FirstConnections {
    /// The first connections of all workers.
    pub fn merged(all: Vec<Self>, query: &ConnectionQuery) -> Self {
        let matching = all.iter().map(|first| first.matching).sum();
        let mut connections: Vec<ListedConnection> = all.into_iter().flat_map(|first| first.connections).collect();
        connections.sort_by_cached_key(|connection| Reverse(connection.rank(query.order)));
        connections.truncate(query.limit);
        Self { matching, connections }
    }
}

impl ListedConnection {
    fn rank(&self, order: ConnectionOrder) -> u64 {
        order.rank(self.age, self.idle, self.bytes_to_backend + self.bytes_to_client)
    }
}

/// The first connections of a worker. Its event loop continues between parts of the connections. Ends early if the
/// answer is not wanted any more.
pub async fn first_connections(
    sessions: &Sessions,
    query: &ConnectionQuery,
    is_wanted: impl Fn() -> bool,
) -> FirstConnections {
    let mut selection = Selection::new(query, Instant::now());
    let mut part = 0..VISITED_AT_ONCE;
    while is_wanted() && sessions.visit(part.clone(), |session| selection.show(session)) {
        part = part.end..part.end + VISITED_AT_ONCE;
        yield_now().await;
    }
    selection.finish()
}

/// Selects the first connections of those that it is shown. Its memory is limited by the query.
struct Selection<'a> {
    query: &'a ConnectionQuery,
    now: Instant,
    matching: usize,
    /// The last connection is at the top.
    chosen: BinaryHeap<Reverse<RankedConnection>>,
}

struct RankedConnection {
    rank: u64,
    connection: ListedConnection,
}

impl<'a> Selection<'a> {
    fn new(query: &'a ConnectionQuery, now: Instant) -> Self {
        Self { query, now, matching: 0, chosen: BinaryHeap::new() }
    }

    fn show(&mut self, session: &Session) {
        let query = self.query;
        if query.listeners.as_ref().is_some_and(|listeners| !listeners.contains(&session.listener))
            || !query.addresses.matches(session.client(), session.endpoint_address())
        {
            return;
        }
        self.matching += 1;
        let age = self.now.saturating_duration_since(session.accepted_at);
        let idle = self.now.saturating_duration_since(session.last_activity());
        let rank = query.order.rank(age, idle, session.bytes_to_backend() + session.bytes_to_client());
        if self.chosen.len() >= query.limit {
            if self.chosen.peek().is_none_or(|Reverse(last)| rank <= last.rank) {
                return;
            }
            self.chosen.pop();
        }
        let connection = ListedConnection {
            id: session.id,
            listener: session.listener,
            client: session.client(),
            endpoint: session.endpoint_address(),
            tls: session.tls(),
            age,
            idle,
            bytes_to_backend: session.bytes_to_backend(),
            bytes_to_client: session.bytes_to_client(),
        };
        self.chosen.push(Reverse(RankedConnection { rank, connection }));
    }

    fn finish(self) -> FirstConnections {
        let chosen = self.chosen.into_iter().map(|Reverse(chosen)| chosen.connection);
        FirstConnections { matching: self.matching, connections: chosen.collect() }
    }
}

impl PartialEq for RankedConnection {
    fn eq(&self, other: &Self) -> bool {
        self.rank == other.rank
    }
}

impl Eq for RankedConnection {}

impl PartialOrd for RankedConnection {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for RankedConnection {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank.cmp(&other.rank)
    }
}
