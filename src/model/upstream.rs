use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    num::{NonZeroU16, NonZeroU32},
    sync::Arc,
    time::Duration,
};

use jiff::fmt::serde::unsigned_duration::friendly::compact as duration;
use serde::{Serialize, Serializer};

use super::{ActiveCheck, BackendTls, EndpointKey, Keepalive};

/// A set of endpoints that connections are balanced over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Upstream {
    pub balancing: Balancing,
    /// Its backends by name, also those without endpoints.
    pub backends: BTreeMap<Arc<str>, Arc<Backend>>,
    /// Sorted by key, each key once, each of one of the backends. May be empty: then connections are refused.
    pub endpoints: Vec<Endpoint>,
    /// Of the backends that have none of their own.
    #[serde(skip)]
    pub active_check: Option<Arc<ActiveCheck>>,
    pub passive_check: Option<PassiveCheck>,
    pub connect: Connect,
    /// TCP keepalive on the backend's side.
    pub keepalive: Option<Keepalive>,
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
}

/// One address that serves connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    pub key: EndpointKey,
    pub stable_id: StableId,
    pub weight: Weight,
}

impl Endpoint {
    pub fn address(&self) -> SocketAddr {
        self.key.address
    }
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
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Algorithm {
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
