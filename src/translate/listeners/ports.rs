//! Resolution of conflicts between listeners that request the same address.
//!
//! The listener that serves an address keeps it. Among new ones, the first by key gets it. A refused listener keeps its
//! previous address.

mod holders;

use std::{collections::BTreeMap, sync::Arc};

use holders::{Listeners, PortHolders};

use crate::{
    model::{Listener, ListenerKey, overlap},
    translate::{
        messages::listener_fallback,
        verdict::{Part, Problem, Reason, Severity},
    },
};

/// The requested configuration of a listener.
#[derive(Clone, Debug)]
pub enum ListenerRequest {
    /// Serve as declared.
    Declared {
        listener: Arc<Listener>,
        /// Index of the declaration in `spec.listeners`.
        index: usize,
        /// The configuration to fall back to.
        before: Option<Arc<Listener>>,
    },
    /// Keep the last good configuration, since the declaration is invalid.
    LastGood(Arc<Listener>),
}

impl ListenerRequest {
    pub fn listener(&self) -> &Arc<Listener> {
        match self {
            Self::Declared { listener, .. } | Self::LastGood(listener) => listener,
        }
    }

    /// The listener, if the request is granted.
    pub fn into_listener(self) -> Arc<Listener> {
        match self {
            Self::Declared { listener, .. } | Self::LastGood(listener) => listener,
        }
    }

    /// Falls back to the last good configuration if its routes name backends, which exist only under their previous
    /// names.
    pub fn with_last_good_routes(self) -> Self {
        let leads_somewhere =
            |listener: &Listener| listener.tls.iter().flat_map(|tls| &tls.routes).any(|route| route.backends.is_some());
        match self {
            Self::Declared { listener, before: Some(before), .. }
                if leads_somewhere(&listener) || leads_somewhere(&before) =>
            {
                Self::LastGood(before)
            }
            request @ (Self::Declared { .. } | Self::LastGood(_)) => request,
        }
    }
}

/// Resolves all requests. Returns the served listeners and the problems of refused ones.
pub fn settle(requests: BTreeMap<ListenerKey, ListenerRequest>) -> (Listeners, BTreeMap<ListenerKey, Problem>) {
    let mut ports: BTreeMap<u16, Port> = BTreeMap::new();
    for (key, request) in requests {
        // The bound port counts, which may differ from the declared one.
        match request {
            ListenerRequest::LastGood(listener) => {
                ports.entry(listener.bind.port()).or_default().served.insert(key, listener);
            }
            ListenerRequest::Declared { listener, index, before } => {
                let port = ports.entry(listener.bind.port()).or_default();
                port.pending.push(PendingBind { key, listener, index, before });
            }
        }
    }
    let (mut served, mut problems) = (Listeners::new(), BTreeMap::new());
    for mut port in ports.into_values() {
        port.settle();
        problems.extend(port.pending.iter().filter_map(|pending| pending.problem(&port.served)));
        served.extend(port.served.into_listeners());
    }
    (served, problems)
}

/// One port number on all addresses.
#[derive(Default)]
struct Port {
    served: PortHolders,
    /// Requests that are not granted, or not yet.
    pending: Vec<PendingBind>,
}

impl Port {
    fn settle(&mut self) {
        self.pending.sort_by_key(PendingBind::precedence);
        let mut unchanged = Vec::new();
        // A refused request falls back to its previous address, which may already be granted to another. So the
        // remaining requests are decided again; each time there are fewer of them.
        let served = loop {
            let served = self.granted();
            let refused = |pending: &mut PendingBind| pending.before.is_some() && !served.contains(&pending.key);
            let refused: Vec<_> = self.pending.extract_if(.., refused).collect();
            if refused.is_empty() {
                break served;
            }
            let before = |pending: &PendingBind| Some((pending.key.clone(), pending.before.clone()?));
            for (key, before) in refused.iter().filter_map(before) {
                self.served.insert(key, before);
            }
            unchanged.extend(refused);
        };
        self.served = served;
        self.pending.extend(unchanged);
        self.grant_freed_addresses();
    }

    /// Adds the requests without a conflict to the present holders.
    fn granted(&self) -> PortHolders {
        let mut served = self.served.clone();
        for pending in &self.pending {
            if served.holder(pending.listener.bind, &pending.key).is_none() {
                served.insert(pending.key.clone(), pending.listener.clone());
            }
        }
        served
    }

    /// Grants requests whose address became free; the others stay in `pending`.
    fn grant_freed_addresses(&mut self) {
        let mut left = usize::MAX;
        while self.pending.len() < left {
            left = self.pending.len();
            self.pending.retain(|pending| {
                let taken = self.served.holder(pending.listener.bind, &pending.key).is_some();
                if !taken {
                    self.served.insert(pending.key.clone(), pending.listener.clone());
                }
                taken
            });
        }
    }
}

struct PendingBind {
    key: ListenerKey,
    listener: Arc<Listener>,
    index: usize,
    before: Option<Arc<Listener>>,
}

impl PendingBind {
    /// Lower values come first: unchanged addresses, then overlapping ones, then moves, then new listeners.
    fn precedence(&self) -> u8 {
        match &self.before {
            Some(before) if before.bind == self.listener.bind => 0,
            Some(before) if overlap(before.bind, self.listener.bind) => 1,
            Some(_) => 2,
            None => 3,
        }
    }

    fn problem(&self, served: &PortHolders) -> Option<(ListenerKey, Problem)> {
        let (holder, bind) = served.holder(self.listener.bind, &self.key)?;
        let fallback = listener_fallback(self.before.is_some());
        let message = format!(
            "{} is taken by {}, which serves {bind}: write another port, or an address of its own for each; {fallback}",
            self.listener.bind, holder.object
        );
        let part = Part::Listener(self.index);
        let (severity, reason, field) = (Severity::Refused, Reason::PortConflict, format!("{part}.port"));
        Some((self.key.clone(), Problem { severity, reason, part, field, message }))
    }
}

#[cfg(test)]
mod tests;
