//! Filters the problems of objects that load balancers refer to. Mistakes in other objects do not concern them.

use std::collections::BTreeSet;

use super::templates::ObjectId;
use crate::{
    api::{KIND, TcpLoadBalancerSpec},
    model::ObjectKey,
    source::FileProblem,
    world::{ObjectRef, World, backend_services},
};

/// The problems of load balancers, of their references, and of files as a whole.
pub fn related(problems: &[FileProblem], world: &World, templates: &BTreeSet<ObjectId>) -> Vec<FileProblem> {
    let specs = world.load_balancers.iter().filter_map(|(object, declared)| Some((object, declared.spec.as_ref()?)));
    let referred: BTreeSet<_> = specs.flat_map(|(object, spec)| objects_of(object, spec)).collect();
    let concerns = |problem: &FileProblem| match &problem.object {
        None => true,
        Some(object) if templates.contains(object) => false,
        Some((kind, _)) if *kind == KIND => true,
        // The Service of an unreadable EndpointSlice is unknown.
        Some(("EndpointSlice", key)) => {
            referred.iter().any(|(kind, other)| *kind == "Service" && other.namespace == key.namespace)
        }
        Some(object) => referred.contains(object),
    };
    problems.iter().filter(|problem| concerns(problem)).cloned().collect()
}

fn objects_of(object: &ObjectKey, spec: &TcpLoadBalancerSpec) -> Vec<ObjectId> {
    let services = backend_services(object, spec).map(|service| ("Service", service));
    let references = ObjectRef::all_by(object, spec).map(|ObjectRef { kind, key }| (kind.name(), key));
    services.chain(references).collect()
}
