use std::sync::{Arc, atomic::AtomicU64};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::{endpoint::Endpoint, rebalance::RebalancePolicy};
use crate::{
    log_limit::{LineLimit, LogLimiter},
    model::{self, Unready, UpstreamKey},
};

/// The part of an upstream that its connections, its subsets and its control task share.
pub struct Published {
    pub key: UpstreamKey,
    pub current: ArcSwap<PublishedState>,
    /// Wakes the control task.
    pub attention: Arc<Notify>,
    /// The number of changes of the active priority level.
    pub priority_changes: AtomicU64,
    /// Limits the lines about the health of endpoints.
    pub endpoint_lines: LineLimit,
    /// Limits the lines about refused connections and active priorities.
    pub service_lines: LineLimit,
    /// Limits the warning about failed dials for want of a local resource.
    pub local_fault_log: LogLimiter,
}

/// The state that connections see; replaced as a whole.
pub struct PublishedState {
    pub connect: model::Connect,
    pub keepalive: Option<model::Keepalive>,
    pub endpoints: Arc<[Arc<Endpoint>]>,
    pub former: Arc<[FormerEndpoint]>,
    pub usable: usize,
    /// True if connections were refused when the state was last certain.
    pub refuses: bool,
    pub rebalance: Option<RebalancePolicy>,
}

/// A removed endpoint that may have connections.
#[derive(Clone, Debug)]
pub struct FormerEndpoint {
    pub endpoint: Arc<Endpoint>,
    /// The reason why it does not serve. `None`: it is no longer listed.
    pub unready: Option<Unready>,
}

impl Published {
    pub fn new(key: UpstreamKey, wanted: &model::UpstreamConfig) -> Self {
        let nothing_yet = PublishedState {
            connect: wanted.connect,
            keepalive: wanted.keepalive,
            endpoints: Arc::default(),
            former: Arc::default(),
            usable: 0,
            refuses: false,
            rebalance: None,
        };
        Self {
            key,
            current: ArcSwap::from_pointee(nothing_yet),
            attention: Arc::default(),
            priority_changes: AtomicU64::new(0),
            endpoint_lines: LineLimit::default(),
            service_lines: LineLimit::default(),
            local_fault_log: LogLimiter::new(),
        }
    }

    pub fn connect(&self) -> model::Connect {
        self.current.load().connect
    }

    /// All endpoints, sorted by key.
    pub fn endpoints(&self) -> Arc<[Arc<Endpoint>]> {
        self.current.load().endpoints.clone()
    }

    /// All endpoints, and the removed ones that may have connections, of the same state: no endpoint is in both or in
    /// neither while it is removed or returns.
    pub fn endpoints_and_former(&self) -> (Arc<[Arc<Endpoint>]>, Arc<[FormerEndpoint]>) {
        let current = self.current.load();
        (current.endpoints.clone(), current.former.clone())
    }
}
