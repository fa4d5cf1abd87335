//! The document of the admin page `/snapshot`: the applied configuration and the live state of one process. It contains
//! no secrets.

use std::{borrow::Cow, collections::BTreeMap};

use serde::{Deserialize, Serialize, de::IgnoredAny};

/// The whole document. `L` and `U` are the settings of listeners and upstreams. Readers that do not need them use
/// [`StatePicture`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Picture<L, U> {
    /// Absent: an older version wrote the document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<ProcessView>,
    pub generation: u64,
    pub load_balancers: Vec<LoadBalancerView<L, U>>,
    /// Problems that belong to no load balancer.
    pub problems: Vec<String>,
    /// Draining endpoints and listeners, including those of removed load balancers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub draining: Vec<DrainView>,
    /// The limits of the process's host or pod. Absent: an older version wrote the document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostLimits>,
}

/// The document without settings, for reading.
pub type StatePicture = Picture<IgnoredAny, IgnoredAny>;

/// A process and its role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessView {
    /// The name of the pod or host.
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    pub version: String,
    /// The start of the process.
    pub started: String,
    /// True if the process accepts new connections.
    pub accepts: bool,
    /// The pod that holds the Lease, as far as this process knows. Absent: unknown, or there is no election.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// True if this process leads.
    pub leads: bool,
}

/// Limits of the kernel in the network namespace of a process. Absent: unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostLimits {
    /// The first and the last port of `net.ipv4.ip_local_port_range`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_ports: Option<(u16, u16)>,
    /// The first and the last port of each range of `net.ipv4.ip_local_reserved_ports`. The kernel assigns none of them
    /// to outgoing connections. Empty: none, unknown, or an older version wrote the document.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reserved_ports: Vec<(u16, u16)>,
    /// The number of tracked connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conntrack_entries: Option<u64>,
    /// The maximum number of tracked connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conntrack_max: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DrainView {
    pub load_balancer: String,
    /// The address of the endpoint, or `NAMESPACE/NAME:PORT` of the listener.
    pub what: String,
    /// The id of the endpoint. Absent: a listener, or an older version wrote the document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    pub reason: Cow<'static, str>,
    /// The number of open connections.
    pub active: usize,
    /// The time at which the last connection is due to be closed. Absent: an older version wrote the document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<jiff::Timestamp>,
}

/// A load balancer: its verdict and its served configuration.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancerView<L, U> {
    /// `NAMESPACE/NAME`.
    pub name: String,
    pub origin: String,
    pub problems: Vec<ProblemView>,
    pub listeners: Vec<ListenerView<L>>,
    /// The settings for balancing, checking and connecting to endpoints. Absent: nothing is served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub applied: Option<U>,
    pub endpoints: Vec<EndpointView>,
    /// The former endpoints with open connections. Absent: an older version wrote the document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former_endpoints: Option<Vec<FormerEndpointView>>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProblemView {
    pub severity: Cow<'static, str>,
    pub sentence: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerView<L> {
    pub port: u16,
    /// The bound address. Absent: not bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bound: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    pub active: u64,
    pub accepted: u64,
    #[serde(default)]
    pub bytes_to_backend: u64,
    #[serde(default)]
    pub bytes_to_client: u64,
    /// The connections that were refused or failed, by close reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub failures: BTreeMap<Cow<'static, str>, u64>,
    pub applied: L,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointView {
    pub backend: String,
    pub address: String,
    /// Unique in the process, also among earlier endpoints. Absent: an older version wrote the document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    pub usable: bool,
    /// False: on standby, because another priority is active.
    pub in_service: bool,
    /// The share of connections, relative to the others. 0: an older version wrote the document.
    #[serde(default)]
    pub weight: u32,
    /// The priority level of its backend.
    #[serde(default)]
    pub priority: u8,
    /// The effective share of its weight, in percent. It is less than 100 during slow start.
    pub share: u32,
    /// True if locality prefers it as near this process.
    pub near: bool,
    pub healthy: bool,
    /// The active check. Absent: no probes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check: Option<ProbeCounts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ejected_until: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<String>,
    pub active: u32,
    pub connections: u64,
    /// Failed attempts to connect.
    #[serde(default)]
    pub connect_failures: u64,
    pub preconnected: usize,
}

/// An endpoint that gets no new connections, because it is no longer listed, or listed as not serving.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FormerEndpointView {
    pub backend: String,
    pub address: String,
    /// The id that it had as an endpoint. Absent: an older version wrote the document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    pub state: FormerState,
    /// The number of open connections.
    pub active: u32,
    /// All connections so far.
    pub connections: u64,
}

/// The reason why a former endpoint gets no new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FormerState {
    /// The object lists it as drained.
    Drained,
    /// Its pod is terminating.
    Terminating,
    /// Its pod is not ready.
    NotReady,
    /// It is no longer listed, or a newer version has another reason.
    #[serde(other)]
    Removed,
}

/// The probes of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProbeCounts {
    #[serde(rename = "type")]
    pub type_: Cow<'static, str>,
    pub passed: u64,
    pub failed: u64,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn unknown_states_of_former_endpoints_are_read_as_removed() {
        for (state, word) in [
            (FormerState::Drained, "drained"),
            (FormerState::Terminating, "terminating"),
            (FormerState::NotReady, "notReady"),
            (FormerState::Removed, "removed"),
        ] {
            assert_eq!(serde_json::to_value(state).unwrap(), json!(word));
            assert_eq!(serde_json::from_value::<FormerState>(json!(word)).unwrap(), state);
        }
        assert_eq!(serde_json::from_value::<FormerState>(json!("frozen")).unwrap(), FormerState::Removed);
    }
}
