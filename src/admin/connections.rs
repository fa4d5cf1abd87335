//! The open connections, and those that end.

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, convert::Infallible, net::IpAddr, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::{
        StatusCode,
        header::{CONTENT_TYPE, RETRY_AFTER},
    },
    response::{IntoResponse, Response},
};
use futures::{Stream, stream};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::json::json;
use crate::{
    api::{Network, port_number},
    model::{ConnectionList, ConnectionOrder, ConnectionView, ListenerKey},
    printable::printable,
    proxy::{
        AddressFilter, ConnectionQuery, EndpointFilter, ListedConnection, Monitor,
        access_log::{Event, Follower, Format, FullConnectionId, LineEncoder},
    },
    upstream::in_place,
};

/// The number of connections without `limit`.
const DEFAULT_LIMIT: usize = 100;
/// The maximum number of connections in an answer.
const MAX_LIMIT: usize = 10_000;
/// The time limit of a list.
const LIST_TIMEOUT: Duration = Duration::from_secs(10);
/// The maximum length of a quoted parameter, in bytes.
const MAX_QUOTED: usize = 200;
/// The interval at which a stream looks for new events.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// The interval of empty lines in a stream without events, so that a closed connection is noticed.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// The maximum number of events in one write.
const BATCH: usize = 256;

/// Lists open connections, one request at a time, and streams the ends of connections.
#[derive(Debug)]
pub struct ConnectionPages {
    monitor: Monitor,
    listing: Semaphore,
    /// Ends all streams.
    stop: CancellationToken,
}

/// The parameters of a request.
#[derive(Debug, Default)]
struct ConnectionParameters {
    follow: bool,
    order: ConnectionOrder,
    limit: Option<usize>,
    load_balancers: LoadBalancerFilter,
    addresses: AddressFilter,
}

/// Selects load balancers and listeners. `None`: all.
#[derive(Clone, Debug, Default)]
struct LoadBalancerFilter {
    namespace: Option<String>,
    name: Option<String>,
    /// The port of a listener.
    port: Option<u16>,
}

impl ConnectionPages {
    pub fn new(monitor: Monitor, stop: CancellationToken) -> Self {
        Self { monitor, listing: Semaphore::new(1), stop }
    }

    /// Answers `/connections` with these parameters.
    pub async fn answer(&self, query: Option<&str>) -> Response {
        match ConnectionParameters::parse(query.unwrap_or_default()) {
            Ok(parameters) if parameters.follow => self.follow(&parameters),
            Ok(parameters) => self.list(&parameters).await,
            Err(sentence) => (StatusCode::BAD_REQUEST, sentence + "\n").into_response(),
        }
    }

    async fn list(&self, parameters: &ConnectionParameters) -> Response {
        let listed = timeout(LIST_TIMEOUT, async {
            // Workers visit their connections for one request at a time. The semaphore is never closed.
            let _turn = self.listing.acquire().await;
            let list = self.connections(parameters).await;
            in_place(|| json(&list))
        });
        match listed.await {
            Ok(response) => response,
            Err(_) => unavailable("the workers are busy, or other lists are being made: try again\n"),
        }
    }

    async fn connections(&self, parameters: &ConnectionParameters) -> ConnectionList {
        let view = self.monitor.view();
        let keys: BTreeMap<u64, &ListenerKey> = view.listeners.iter().map(|live| (live.id, &live.key)).collect();
        let filter = &parameters.load_balancers;
        let selected = keys.iter().filter(|(_, key)| filter.matches(key)).map(|(id, _)| *id);
        let query = ConnectionQuery {
            order: parameters.order,
            limit: parameters.limit.unwrap_or(DEFAULT_LIMIT),
            listeners: (!filter.is_empty()).then(|| selected.collect()),
            addresses: parameters.addresses.clone(),
        };
        let first = self.monitor.connections(query).await;
        // The listener of a connection may have been removed from the view in the meantime.
        let views = first.connections.iter().filter_map(|open| Some(self.view(open, keys.get(&open.listener)?)));
        ConnectionList { matching: first.matching, connections: views.collect() }
    }

    fn view(&self, open: &ListedConnection, listener: &ListenerKey) -> ConnectionView {
        let process = self.monitor.access_log().process();
        let server_name = open.tls.as_ref().and_then(|tls| tls.server_name.as_deref());
        ConnectionView {
            id: FullConnectionId { process, id: open.id }.to_string(),
            load_balancer: listener.object.to_string(),
            port: listener.port,
            client: open.client,
            endpoint: open.endpoint,
            age_seconds: open.age.as_secs_f64(),
            idle_seconds: open.idle.as_secs_f64(),
            bytes_to_backend: open.bytes_to_backend,
            bytes_to_client: open.bytes_to_client,
            tls_server_name: server_name.map(str::to_owned),
        }
    }

    /// Streams the events of connections that end, as lines of the JSON access log.
    fn follow(&self, parameters: &ConnectionParameters) -> Response {
        let (load_balancers, addresses) = (parameters.load_balancers.clone(), parameters.addresses.clone());
        let selects = move |event: &Event| {
            load_balancers.matches_label(&event.listener.label) && addresses.matches(event.client, event.endpoint)
        };
        let log = self.monitor.access_log();
        let Some(follower) = log.follow(Box::new(selects)) else {
            return unavailable("as many clients as possible follow the connections already: end one of them\n");
        };
        let encoder = LineEncoder { format: Format::Json, process: log.process().clone() };
        let lines = EventLines { follower, encoder, written_at: Instant::now() };
        let body = Body::from_stream(lines.stream(self.stop.clone()));
        ([(CONTENT_TYPE, "application/x-ndjson")], body).into_response()
    }
}

fn unavailable(sentence: &'static str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "1")], sentence).into_response()
}

impl ConnectionParameters {
    /// # Errors
    /// A sentence about an unknown parameter or an invalid value.
    fn parse(query: &str) -> Result<Self, String> {
        let mut parameters = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            parameters.set(&name, &value).map_err(|expected| {
                let (name, value) = (printable(&name, MAX_QUOTED), printable(&value, MAX_QUOTED));
                format!("the parameter `{name}={value}` is not valid: {expected}")
            })?;
        }
        Ok(parameters)
    }

    /// # Errors
    /// The requirement for the value.
    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            "follow" => self.follow = value.parse().map_err(|_| "write true or false")?,
            "sort" => self.order = value.parse()?,
            "limit" => self.limit = Some(limit(value)?),
            "namespace" => self.load_balancers.namespace = Some(value.to_owned()),
            "loadBalancer" => {
                let (namespace, name) = value.split_once('/').ok_or("write NAMESPACE/NAME")?;
                self.load_balancers.namespace = Some(namespace.to_owned());
                self.load_balancers.name = Some(name.to_owned());
            }
            "listener" => self.load_balancers.port = Some(port_number(value).ok_or("write the port of a listener")?),
            "endpoint" => self.addresses.endpoint = Some(endpoint(value)?),
            "client" => self.addresses.clients = Some(value.parse::<Network>()?.0),
            _ => return Err(PARAMETERS.to_owned()),
        }
        Ok(())
    }
}

const PARAMETERS: &str =
    "the parameters are follow, sort, limit, namespace, loadBalancer, listener, endpoint and client";

fn limit(text: &str) -> Result<usize, String> {
    let limit = text.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit));
    limit.ok_or_else(|| format!("write a number from 1 to {MAX_LIMIT}"))
}

fn endpoint(text: &str) -> Result<EndpointFilter, String> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(EndpointFilter { ip: ip.to_canonical(), port: None });
    }
    let address: std::net::SocketAddr = text.parse().map_err(|_| "write an IP address, or an address with a port")?;
    Ok(EndpointFilter { ip: address.ip().to_canonical(), port: Some(address.port()) })
}

impl LoadBalancerFilter {
    fn is_empty(&self) -> bool {
        self.namespace.is_none() && self.name.is_none() && self.port.is_none()
    }

    fn matches(&self, key: &ListenerKey) -> bool {
        self.namespace.as_deref().is_none_or(|namespace| namespace == &*key.object.namespace)
            && self.name.as_deref().is_none_or(|name| name == &*key.object.name)
            && self.port.is_none_or(|port| port == key.port)
    }

    /// For the label of a listener, `NAMESPACE/NAME:PORT`.
    fn matches_label(&self, label: &str) -> bool {
        let Some((object, port)) = label.rsplit_once(':') else { return false };
        let Some((namespace, name)) = object.split_once('/') else { return false };
        self.namespace.as_deref().is_none_or(|wanted| wanted == namespace)
            && self.name.as_deref().is_none_or(|wanted| wanted == name)
            && self.port.is_none_or(|wanted| port.parse() == Ok(wanted))
    }
}

/// The lines of a stream.
struct EventLines {
    follower: Follower,
    encoder: LineEncoder,
    written_at: Instant,
}

impl EventLines {
    fn stream(self, stop: CancellationToken) -> impl Stream<Item = Result<Bytes, Infallible>> {
        stream::unfold((self, stop), async |(mut lines, stop)| {
            let text = stop.run_until_cancelled(lines.next()).await?;
            Some((Ok(text), (lines, stop)))
        })
    }

    /// Waits for events. The text is an empty line if there are none for a while.
    async fn next(&mut self) -> Bytes {
        loop {
            let text = self.waiting();
            if !text.is_empty() {
                self.written_at = Instant::now();
                return text.into();
            }
            if self.written_at.elapsed() >= HEARTBEAT {
                self.written_at = Instant::now();
                return Bytes::from_static(b"\n");
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// The events in the queue, and the number of those that did not fit.
    fn waiting(&self) -> Vec<u8> {
        let mut text = Vec::new();
        for event in std::iter::from_fn(|| self.follower.next()).take(BATCH) {
            self.encoder.write(&mut text, &event);
        }
        let lost = self.follower.take_lost();
        if lost > 0 {
            text.extend_from_slice(format!("{{\"lost\":{lost}}}\n").as_bytes());
        }
        text
    }
}
