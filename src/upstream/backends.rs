use std::{collections::BTreeSet, sync::Arc};

use crate::model::{self, EndpointKey};

/// A selection of the backends of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backends {
    All,
    /// The backends with these names.
    Of(Arc<[Arc<str>]>),
}

impl Backends {
    /// The backends with these names; `None`: all.
    pub fn named(names: &Option<Arc<[Arc<str>]>>) -> Self {
        names.as_ref().map_or(Self::All, |names| Self::Of(names.clone()))
    }

    pub fn have(&self, endpoint: &EndpointKey) -> bool {
        self.contain(&endpoint.backend)
    }

    pub fn contain(&self, name: &Arc<str>) -> bool {
        match self {
            Self::All => true,
            Self::Of(names) => names.contains(name),
        }
    }

    /// True if at least one of these backends is in `others`.
    pub fn are_among(&self, others: &BTreeSet<Arc<str>>) -> bool {
        match self {
            Self::All => !others.is_empty(),
            Self::Of(names) => names.iter().any(|name| others.contains(name)),
        }
    }

    /// True if none of these names exists in the settings any more.
    pub fn are_renamed(&self, settings: &model::UpstreamConfig) -> bool {
        match self {
            Self::All => false,
            Self::Of(names) => names.iter().all(|name| !settings.backends.contains_key(name)),
        }
    }
}
