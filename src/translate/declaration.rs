use std::{path::Path, sync::Arc};

use super::{
    context::{TranslateContext, expirations::RETENTION_NOTE},
    last_good::LastGood,
};
use crate::{
    api::{self, TcpLoadBalancerSpec},
    model::{EndpointConfig, Listener, ObjectKey, UpstreamConfig},
};

pub(super) const NONE_SERVED: &str = "none of its listeners is served";

/// A declared load balancer and the context of its translation.
pub(super) struct Declaration<'a> {
    pub object: &'a ObjectKey,
    pub uid: Option<&'a str>,
    pub spec: &'a TcpLoadBalancerSpec,
    /// Base directory of relative paths.
    pub folder: &'a Path,
    pub context: &'a TranslateContext<'a>,
    pub last_good: LastGood<'a>,
}

impl<'a> Declaration<'a> {
    pub fn last_good_listener(&self, declared: &api::Listener) -> Option<&'a Arc<Listener>> {
        self.last_good.listeners.get(&declared.port).copied()
    }

    /// The last good upstream, used while the declared backends are unusable.
    pub fn retained(&self) -> Option<Arc<UpstreamConfig>> {
        self.last_good.upstream.as_ref().map(|upstream| self.context.retained(self.object, upstream))
    }

    /// Fallback text for retained endpoints: `sentence`, if there are any.
    pub fn endpoints_fallback(&self, sentence: &str, retained: &[EndpointConfig]) -> String {
        if retained.is_empty() {
            return "it has no endpoints".into();
        }
        let some_go = retained.iter().any(|endpoint| self.context.expires_at(self.object, endpoint).is_some());
        format!("{sentence}{}", if some_go { RETENTION_NOTE } else { "" })
    }
}
