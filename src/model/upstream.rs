use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    num::{NonZeroU16, NonZeroU32},
    ops::Not,
    sync::Arc,
    time::Duration,
};

use jiff::{Timestamp, fmt::serde::unsigned_duration::friendly::compact as duration};
use serde::{Serialize, Serializer};

use super::{ActiveCheck, BackendTls, Certificate, EndpointDrain, EndpointKey, Keepalive, Rebalance};

/// A set of endpoints that connections are balanced over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UpstreamConfig {
    pub balancing: Balancing,
    /// The backends by name, including those without endpoints.
    pub backends: BTreeMap<Arc<str>, Arc<Backend>>,
    /// Sorted by unique key. Each belongs to one of the backends. Empty: connections are refused.
    pub endpoints: Vec<EndpointConfig>,
    /// Former endpoints that are still listed but do not serve.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", serialize_with = "unready")]
    pub unready: BTreeMap<EndpointKey, Unready>,
    /// The default of backends without a check.
    #[serde(skip)]
    pub active_check: Option<Arc<ActiveCheck>>,
    pub passive_check: Option<PassiveCheck>,
    pub connect: Connect,
    /// TCP keepalive of backend connections.
    pub keepalive: Option<Keepalive>,
    pub drain: EndpointDrain,
    /// `None`: connections are not moved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rebalance: Option<Rebalance>,
}

#[cfg(test)]
impl UpstreamConfig {
    /// The backend `b` with an endpoint at each of these addresses, in ascending order, without checks.
    pub fn plain(addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        let endpoint = |address| {
            let key = EndpointKey { backend: "b".into(), address, uid: None };
            let (stable_id, proximity) = (StableId::Address(address), Proximity::Remote);
            EndpointConfig { key, stable_id, weight: Weight::ONE, proximity }
        };
        let (timeout, deadline) = (Duration::from_secs(3), Duration::from_secs(10));
        Self {
            balancing: Balancing { hash_prefix_v6: 64, ..Balancing::default() },
            backends: [("b".into(), Arc::default())].into(),
            endpoints: addresses.into_iter().map(endpoint).collect(),
            unready: BTreeMap::new(),
            active_check: None,
            passive_check: None,
            connect: Connect { timeout, deadline, attempts: NonZeroU16::MIN, preconnect: None },
            keepalive: None,
            drain: EndpointDrain::default(),
            rebalance: None,
        }
    }
}

/// The reason why a listed endpoint does not serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Unready {
    /// The object lists it as drained.
    Drained,
    /// The pod is terminating.
    Terminating,
    /// The pod is not ready.
    NotReady,
}

fn unready<S: Serializer>(unready: &BTreeMap<EndpointKey, Unready>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(unready.iter().map(|(key, why)| (key.to_string(), why)))
}

/// The common settings of the endpoints of a backend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Backend {
    /// The version of the PROXY header that is sent. `None`: no header.
    pub proxy_protocol: Option<ProxyVersion>,
    /// `None`: no probes.
    pub active_check: Option<Arc<ActiveCheck>>,
    /// `None`: the bytes of the client are forwarded without additional TLS.
    pub tls: Option<Arc<BackendTls>>,
    /// The priority level.
    pub priority: Priority,
    /// The number of further endpoints that are not ready. 0 if the share of usable endpoints does not matter.
    pub unready: usize,
    /// The number of further endpoints that the object lists as drained.
    #[serde(skip_serializing_if = "is_zero")]
    pub drained: u32,
    /// The Service. `None`: the addresses are declared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<Arc<str>>,
    /// True if no endpoint is ready and terminating endpoints serve instead.
    #[serde(skip_serializing_if = "Not::not")]
    pub last_resort: bool,
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

impl Backend {
    /// The client certificate for the backend. `None`: none.
    pub fn shown_certificate(&self) -> Option<&Arc<Certificate>> {
        self.tls.as_ref()?.terms.certificate.as_ref()
    }
}

/// A priority level. The active level is the lowest number that can serve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Priority(pub u8);

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One address that serves connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointConfig {
    pub key: EndpointKey,
    pub stable_id: StableId,
    pub weight: Weight,
    #[serde(rename = "distance")]
    pub proximity: Proximity,
}

impl EndpointConfig {
    pub fn address(&self) -> SocketAddr {
        self.key.address
    }
}

/// The proximity of an endpoint to this process, if the load balancer uses locality. The nearest come first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Proximity {
    #[serde(rename = "Node")]
    SameNode,
    #[serde(rename = "Zone")]
    SameZone,
    #[default]
    #[serde(rename = "Far")]
    Remote,
}

/// The input of the Maglev hash for an endpoint, as text. It is stable over restarts, and for a StatefulSet over
/// address changes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StableId {
    Address(SocketAddr),
    /// A pod whose name stays the same when its address changes.
    Pod(Arc<str>),
}

impl fmt::Display for StableId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Pod(name) => f.write_str(name),
        }
    }
}

impl Serialize for StableId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The share of connections of an endpoint, relative to the others of its upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Weight(NonZeroU32);

impl Weight {
    pub const ONE: Self = Self(NonZeroU32::MIN);

    pub const fn new(weight: NonZeroU32) -> Self {
        Self(weight)
    }

    pub const fn value(self) -> u32 {
        self.0.get()
    }

    /// The product, at least 1.
    pub fn times(self, factor: u32) -> Self {
        Self(NonZeroU32::new(factor).map_or(NonZeroU32::MIN, |factor| self.0.saturating_mul(factor)))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum ProxyVersion {
    V1,
    V2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Balancing {
    pub algorithm: Algorithm,
    /// The number of leading bits of an IPv6 client address that are hashed (1 to 128).
    pub hash_prefix_v6: u8,
    pub failover: Failover,
    /// The time during which the share of a newly usable endpoint grows. `None`: the full share at once.
    #[serde(serialize_with = "duration::optional::serialize")]
    pub slow_start: Option<Duration>,
    /// The number of connections at which an endpoint gets no new ones while a more distant endpoint has fewer.
    pub overloaded_at: Option<NonZeroU32>,
    /// True if the Maglev tables would be too large, so that endpoints are hashed without tables.
    #[serde(skip_serializing_if = "Not::not")]
    pub without_table: bool,
}

impl Default for Balancing {
    fn default() -> Self {
        Self {
            algorithm: Algorithm::default(),
            hash_prefix_v6: 128,
            failover: Failover::default(),
            slow_start: None,
            overloaded_at: None,
            without_table: false,
        }
    }
}

/// The conditions for failover between priority levels. Default: a level is active while no lower number has a usable
/// endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Failover {
    /// The minimum share of usable endpoints with which a level can serve, in percent. At least one must be usable.
    pub min_usable_percent: u8,
    pub failback: Failback,
    /// The time of the latest request to fail back now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failback_request: Option<Timestamp>,
}

/// The conditions for the return to a lower priority number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Failback {
    /// After it could serve for this time.
    #[serde(serialize_with = "duration::required::serialize")]
    After(Duration),
    /// Only when the active level cannot serve.
    Never,
}

impl Default for Failback {
    fn default() -> Self {
        Self::After(Duration::ZERO)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Algorithm {
    #[default]
    RoundRobin,
    LeastConnections,
    PowerOfTwo,
    Random,
    Maglev,
}

/// Ejection of endpoints that connections of clients fail to reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PassiveCheck {
    pub consecutive_failures: NonZeroU16,
    /// The duration of the first ejection. Each consecutive ejection lasts twice as long as the one before.
    #[serde(serialize_with = "duration::required::serialize")]
    pub eject_for: Duration,
    #[serde(serialize_with = "duration::required::serialize")]
    pub max_eject_for: Duration,
    /// The maximum share of ejected endpoints, in percent. The last usable endpoint is never ejected.
    pub max_ejected_percent: u8,
}

/// The settings for connecting to endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Connect {
    /// The time limit of one attempt.
    #[serde(serialize_with = "duration::required::serialize")]
    pub timeout: Duration,
    /// The time limit of all attempts for one connection.
    #[serde(serialize_with = "duration::required::serialize")]
    pub deadline: Duration,
    pub attempts: NonZeroU16,
    pub preconnect: Option<Preconnect>,
}

/// Connections that are opened before a client needs them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Preconnect {
    pub per_endpoint: NonZeroU16,
    /// A connection that is unused for this long is closed and replaced.
    #[serde(serialize_with = "duration::required::serialize")]
    pub idle_timeout: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proximity_keeps_its_names_in_snapshots() {
        let names = [Proximity::SameNode, Proximity::SameZone, Proximity::Remote];
        assert_eq!(serde_json::to_string(&names).unwrap(), r#"["Node","Zone","Far"]"#);
    }
}
