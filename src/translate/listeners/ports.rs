//! Who gets an address that several listeners want.
//!
//! Whoever serves it keeps it; among others, the one whose key sorts first gets it. Who gets nothing keeps the address
//! it had.

mod held;

use std::{collections::BTreeMap, sync::Arc};

use held::{Held, Listeners};

use crate::{
    model::{Listener, ListenerKey, overlap},
    translate::{
        messages::meanwhile_listener,
        verdict::{Problem, Reason, Severity},
    },
};

/// What a listener asks for.
#[derive(Clone, Debug)]
pub enum Wish {
    /// To serve as declared.
    Declared {
        listener: Arc<Listener>,
        /// Where it is declared: `spec.listeners[0]`.
        field: String,
        /// What it served before and may go on with.
        before: Option<Arc<Listener>>,
    },
    /// To go on as before, since its declaration is wrong.
    Kept(Arc<Listener>),
}

impl Wish {
    /// Where routes lead to backends that have only the names from before, the listener goes on as before.
    pub fn with_routes_before(self) -> Self {
        let leads_somewhere =
            |listener: &Listener| listener.tls.iter().flat_map(|tls| &tls.routes).any(|route| route.backends.is_some());
        match self {
            Self::Declared { listener, before: Some(before), .. }
                if leads_somewhere(&listener) || leads_somewhere(&before) =>
            {
                Self::Kept(before)
            }
            other => other,
        }
    }
}

/// The listeners that are served, and what to tell those that are not, or not as declared.
pub fn settle(wishes: BTreeMap<ListenerKey, Wish>) -> (Listeners, BTreeMap<ListenerKey, Problem>) {
    let mut ports: BTreeMap<u16, Port> = BTreeMap::new();
    for (key, wish) in wishes {
        // Where they are bound: what they declare may be another port.
        match wish {
            Wish::Kept(listener) => {
                ports.entry(listener.bind.port()).or_default().served.insert(key, listener);
            }
            Wish::Declared { listener, field, before } => {
                let port = ports.entry(listener.bind.port()).or_default();
                port.wanted.push(Wanted { key, listener, field, before });
            }
        }
    }
    let (mut served, mut problems) = (Listeners::new(), BTreeMap::new());
    for mut port in ports.into_values() {
        port.settle();
        problems.extend(port.wanted.iter().filter_map(|wanted| wanted.problem(&port.served)));
        served.extend(port.served.into_listeners());
    }
    (served, problems)
}

/// One port number, on all addresses.
#[derive(Default)]
struct Port {
    served: Held,
    /// Who is not served as declared, or not yet.
    wanted: Vec<Wanted>,
}

impl Port {
    fn settle(&mut self) {
        self.wanted.sort_by_key(Wanted::precedence);
        let mut stay = Vec::new();
        // Who is refused stays at the address it had. That may be one that somebody else was let in to, so the others
        // are asked again; each time there are fewer of them.
        let served = loop {
            let served = self.let_in();
            let refused = |wanted: &mut Wanted| wanted.before.is_some() && !served.contains(&wanted.key);
            let refused: Vec<_> = self.wanted.extract_if(.., refused).collect();
            if refused.is_empty() {
                break served;
            }
            let before = |wanted: &Wanted| Some((wanted.key.clone(), wanted.before.clone()?));
            for (key, before) in refused.iter().filter_map(before) {
                self.served.insert(key, before);
            }
            stay.extend(refused);
        };
        self.served = served;
        self.wanted.extend(stay);
        self.grant_what_became_free();
    }

    /// Whom there is room for, beside those that are served already.
    fn let_in(&self) -> Held {
        let mut served = self.served.clone();
        for wanted in &self.wanted {
            if served.holder(wanted.listener.bind, &wanted.key).is_none() {
                served.insert(wanted.key.clone(), wanted.listener.clone());
            }
        }
        served
    }

    /// Leaves in `wanted` only those whose address somebody else has.
    fn grant_what_became_free(&mut self) {
        let mut left = usize::MAX;
        while self.wanted.len() < left {
            left = self.wanted.len();
            self.wanted.retain(|wanted| {
                let taken = self.served.holder(wanted.listener.bind, &wanted.key).is_some();
                if !taken {
                    self.served.insert(wanted.key.clone(), wanted.listener.clone());
                }
                taken
            });
        }
    }
}

struct Wanted {
    key: ListenerKey,
    listener: Arc<Listener>,
    field: String,
    before: Option<Arc<Listener>>,
}

impl Wanted {
    /// Lower goes first: who is there already, then who grows or shrinks, then who moves, then who is new.
    fn precedence(&self) -> u8 {
        match &self.before {
            Some(before) if before.bind == self.listener.bind => 0,
            Some(before) if overlap(before.bind, self.listener.bind) => 1,
            Some(_) => 2,
            None => 3,
        }
    }

    fn problem(&self, served: &Held) -> Option<(ListenerKey, Problem)> {
        let (holder, bind) = served.holder(self.listener.bind, &self.key)?;
        let meanwhile = meanwhile_listener(self.before.is_some());
        let message = format!(
            "{} is taken by {}, which serves {bind}: write another port, or an address of its own for each; {meanwhile}",
            self.listener.bind, holder.object
        );
        let field = format!("{}.port", self.field);
        Some((self.key.clone(), Problem { severity: Severity::Refused, reason: Reason::PortConflict, field, message }))
    }
}

#[cfg(test)]
mod tests;
