use jiff::Timestamp;

use crate::{model::ProcessView, state::ReadinessState};

/// The identity of this process, for its pages.
#[derive(Clone, Debug)]
pub struct Instance {
    /// The name of the pod or host.
    pub name: String,
    pub node: Option<String>,
    pub started: Timestamp,
}

impl Instance {
    /// The state of the process at one moment.
    pub fn view(&self, state: &ReadinessState) -> ProcessView {
        let instruments = state.instruments();
        ProcessView {
            name: self.name.clone(),
            node: self.node.clone(),
            zone: state.configuration().zone.as_deref().map(Into::into),
            version: env!("CARGO_PKG_VERSION").into(),
            started: format!("{:.0}", self.started),
            accepts: state.takes_new_connections(),
            leader: instruments.leader_name().map(|name| name.to_string()),
            leads: instruments.leader_view().is_some(),
        }
    }
}
