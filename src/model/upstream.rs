use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    num::{NonZeroU16, NonZeroU32},
    ops::Not,
    sync::Arc,
    time::Duration,
};

use jiff::fmt::serde::unsigned_duration::friendly::compact as duration;
use serde::{Serialize, Serializer};

use super::{ActiveCheck, BackendTls, Certificate, EndpointDrain, EndpointKey, Keepalive, Rebalance};

/// A set of endpoints that connections are balanced over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Upstream {
    pub balancing: Balancing,
    /// Its backends by name, also those without endpoints.
    pub backends: BTreeMap<Arc<str>, Arc<Backend>>,
    /// Sorted by key, each key once, each of one of the backends. May be empty: then connections are refused.
    pub endpoints: Vec<Endpoint>,
    /// Endpoints that were among these before, and are still listed somewhere.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", serialize_with = "unready")]
    pub unready: BTreeMap<EndpointKey, Unready>,
    /// Of the backends that have none of their own.
    #[serde(skip)]
    pub active_check: Option<Arc<ActiveCheck>>,
    pub passive_check: Option<PassiveCheck>,
    pub connect: Connect,
    /// TCP keepalive on the backend's side.
    pub keepalive: Option<Keepalive>,
    pub drain: EndpointDrain,
    /// `None`: connections stay where they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rebalance: Option<Rebalance>,
}

/// Why an endpoint that is listed does not serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Unready {
    /// Its pod is being deleted.
    Terminating,
    /// Its pod says so.
    NotReady,
}

fn unready<S: Serializer>(unready: &BTreeMap<EndpointKey, Unready>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(unready.iter().map(|(key, why)| (key.to_string(), why)))
}

/// What the endpoints of a backend have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Backend {
    /// The PROXY header sent to them; `None`: none.
    pub proxy_protocol: Option<ProxyVersion>,
    /// How they are probed; `None`: they are not.
    pub active_check: Option<Arc<ActiveCheck>>,
    /// TLS with them; `None`: none of its own.
    pub tls: Option<Arc<BackendTls>>,
    /// The group that they belong to.
    pub priority: Priority,
    /// How many more there are that are not ready; 0 where nobody asks how large a share can be used.
    pub unready: usize,
    /// The Service that they are behind; `None`: their addresses are written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<Arc<str>>,
    /// None of them is ready, and those there are serve while they terminate.
    #[serde(skip_serializing_if = "Not::not")]
    pub last_resort: bool,
}

impl Backend {
    /// What it is shown to know us by; `None`: nothing.
    pub fn shown_certificate(&self) -> Option<&Arc<Certificate>> {
        self.tls.as_ref()?.terms.certificate.as_ref()
    }
}

/// The group of a backend's endpoints: of those that can, the one with the lowest number serves.
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
pub struct Endpoint {
    pub key: EndpointKey,
    pub stable_id: StableId,
    pub weight: Weight,
    pub distance: Distance,
}

impl Endpoint {
    pub fn address(&self) -> SocketAddr {
        self.key.address
    }
}

/// How far an endpoint is from this process, where that matters to the load balancer; the nearest come first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Distance {
    Node,
    Zone,
    #[default]
    Far,
}

/// What sticky balancing hashes, as text: stable over restarts, and for a StatefulSet over addresses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StableId {
    Address(SocketAddr),
    /// A pod that keeps its name when its address changes.
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

/// The share of connections an endpoint gets, relative to the others of its upstream.
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

    /// At least 1.
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
    /// How many leading bits of an IPv6 client address sticky balancing looks at (1 to 128).
    pub hash_prefix_v6: u8,
    pub failover: Failover,
    /// How long the share of an endpoint grows that has become usable; `None`: it has all of it at once.
    #[serde(serialize_with = "duration::optional::serialize")]
    pub slow_start: Option<Duration>,
    /// An endpoint with so many connections gets no more while one that is farther has less.
    pub overloaded_at: Option<NonZeroU32>,
    /// Sticky balancing does without tables: they would be too large.
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

/// When another group of endpoints serves. The default: while none of a lower number has a usable one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Failover {
    /// A group can serve if at least this share of its endpoints is usable, and at least one.
    pub min_usable_percent: u8,
    pub failback: Failback,
}

/// When a group of a lower number serves again that can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Failback {
    /// Once it has been able to for so long.
    #[serde(serialize_with = "duration::required::serialize")]
    After(Duration),
    /// When the one that serves cannot.
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

/// Ejection of endpoints that clients' connections fail to reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PassiveCheck {
    pub consecutive_failures: NonZeroU16,
    /// The first ejection; each following one lasts twice as long as the one before.
    #[serde(serialize_with = "duration::required::serialize")]
    pub eject_for: Duration,
    #[serde(serialize_with = "duration::required::serialize")]
    pub max_eject_for: Duration,
    /// Never more than this share of the endpoints, and never the last usable one.
    pub max_ejected_percent: u8,
}

/// How endpoints are dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Connect {
    /// For one attempt.
    #[serde(serialize_with = "duration::required::serialize")]
    pub timeout: Duration,
    /// For all attempts of one connection.
    #[serde(serialize_with = "duration::required::serialize")]
    pub deadline: Duration,
    pub attempts: NonZeroU16,
    pub preconnect: Option<Preconnect>,
}

/// Connections opened before a client needs them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Preconnect {
    pub per_endpoint: NonZeroU16,
    /// One that no client took for this long is closed and replaced.
    #[serde(serialize_with = "duration::required::serialize")]
    pub idle_timeout: Duration,
}
