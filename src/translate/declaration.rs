use std::{path::Path, sync::Arc};

use super::{
    before::Before,
    context::{TranslateContext, expirations::NOT_FOR_LONG},
};
use crate::{
    api::{self, TcpLoadBalancerSpec},
    model::{Endpoint, Listener, ObjectKey, Upstream},
};

pub(super) const NONE_SERVED: &str = "none of its listeners is served";

/// A load balancer as it is declared, and what it is translated with.
pub(super) struct Declaration<'a> {
    pub object: &'a ObjectKey,
    pub uid: Option<&'a str>,
    pub spec: &'a TcpLoadBalancerSpec,
    /// What relative paths are relative to.
    pub folder: &'a Path,
    pub context: &'a TranslateContext<'a>,
    pub before: Before<'a>,
}

impl<'a> Declaration<'a> {
    pub fn listener_before(&self, declared: &api::Listener) -> Option<&'a Arc<Listener>> {
        self.before.listeners.get(&declared.port).copied()
    }

    /// What connections go to while what is declared of backends is of no use.
    pub fn kept(&self) -> Option<Arc<Upstream>> {
        self.before.upstream.as_ref().map(|before| self.context.kept(self.object, before))
    }

    /// What is said of endpoints that are kept: `sentence`, if there are any.
    pub fn meanwhile_to(&self, sentence: &str, kept: &[Endpoint]) -> String {
        if kept.is_empty() {
            return "it has no endpoints".into();
        }
        let some_go = kept.iter().any(|endpoint| self.context.has_to_go(self.object, endpoint).is_some());
        format!("{sentence}{}", if some_go { NOT_FOR_LONG } else { "" })
    }
}
