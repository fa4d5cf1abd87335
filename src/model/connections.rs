//! The document of the admin page `/connections`: the open connections of one process.

use std::{net::SocketAddr, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

/// Open connections in the requested order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionList {
    /// The number of open connections that match the filters, including those that are left out.
    pub matching: usize,
    pub connections: Vec<ConnectionView>,
}

/// An open connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionView {
    /// The id in the access log, which is unique in its replica.
    pub id: String,
    /// `NAMESPACE/NAME`.
    pub load_balancer: String,
    /// The port of the listener.
    pub port: u16,
    /// The client, as a PROXY header announced it.
    pub client: SocketAddr,
    /// Absent: not connected to an endpoint yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<SocketAddr>,
    pub age_seconds: f64,
    /// The time since the last byte in either direction.
    pub idle_seconds: f64,
    pub bytes_to_backend: u64,
    pub bytes_to_client: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_server_name: Option<String>,
}

/// The order of connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConnectionOrder {
    /// The oldest first.
    #[default]
    Age,
    /// The newest first.
    Newest,
    /// The longest without a byte first.
    Idle,
    /// The most bytes in both directions first.
    Bytes,
}

impl ConnectionOrder {
    pub const ALL: [Self; 4] = [Self::Age, Self::Newest, Self::Idle, Self::Bytes];

    pub const fn label(self) -> &'static str {
        match self {
            Self::Age => "age",
            Self::Newest => "newest",
            Self::Idle => "idle",
            Self::Bytes => "bytes",
        }
    }

    /// Connections with a higher rank come first.
    pub fn rank(self, age: Duration, idle: Duration, bytes: u64) -> u64 {
        let nanoseconds = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        match self {
            Self::Age => nanoseconds(age),
            Self::Newest => u64::MAX - nanoseconds(age),
            Self::Idle => nanoseconds(idle),
            Self::Bytes => bytes,
        }
    }
}

impl FromStr for ConnectionOrder {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let labels = Self::ALL.map(Self::label).join(", ");
        let found = Self::ALL.into_iter().find(|order| order.label() == text);
        found.ok_or_else(|| format!("`{text}` is not an order of connections: write one of {labels}"))
    }
}

impl ConnectionView {
    /// The rank of [`ConnectionOrder::rank`].
    pub fn rank(&self, order: ConnectionOrder) -> u64 {
        // The document may come from another process.
        let duration = |seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default();
        let bytes = self.bytes_to_backend.saturating_add(self.bytes_to_client);
        order.rank(duration(self.age_seconds), duration(self.idle_seconds), bytes)
    }
}
