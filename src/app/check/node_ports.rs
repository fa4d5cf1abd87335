//! Node ports that several load balancers request. The API server assigns each to one Service.

use std::collections::BTreeMap;

use crate::{
    api::Placement,
    translate::{Part, Problem, Reason, Severity, Verdicts},
    world::{ProcessMode, World, oldest_first},
};

/// Refuses node ports that an older load balancer in the world has.
pub fn refuse_taken(world: &World, verdicts: &mut Verdicts) {
    if !matches!(world.mode, ProcessMode::Gateway(..)) {
        return;
    }
    let mut owners = BTreeMap::new();
    for (object, declared) in oldest_first(&world.load_balancers) {
        let (Some(spec), Some(verdict)) = (&declared.spec, verdicts.get_mut(object)) else { continue };
        // Sidecars have no Service, and a refused Service does not request its ports.
        if spec.placement == Some(Placement::Sidecar) || verdict.refuses_service() {
            continue;
        }
        for (index, listener) in spec.listeners.iter().enumerate() {
            let Some(port) = listener.node_port else { continue };
            let owner = *owners.entry(port).or_insert(object);
            if owner != object {
                verdict.problems.push(Problem {
                    severity: Severity::Refused,
                    reason: Reason::PortConflict,
                    part: Part::NodePort(index),
                    field: Part::NodePort(index).to_string(),
                    message: format!(
                        "{port} is also a nodePort of load balancer {owner}: write another; its Service is not created \
                         or changed"
                    ),
                });
            }
        }
    }
}
