//! Objects in the files that load balancers refer to: mistakes in others are not theirs.

use std::collections::BTreeSet;

use super::mode::service_key;
use crate::{
    api::{KIND, RefKind, TcpLoadBalancerSpec},
    model::ObjectKey,
    source::{FileProblem, Referred, World},
};

/// A kind and a key.
type Identity = (&'static str, ObjectKey);

/// The reason to look no further at an object that a tool completes.
pub const TEMPLATE: &str = "it has encrypted values or placeholders here: decrypt or render it first";

/// The problems that concern load balancers, or files as a whole.
pub fn related(problems: &[FileProblem], world: &World, templates: &BTreeSet<Identity>) -> Vec<FileProblem> {
    let specs = world.load_balancers.iter().filter_map(|(object, declared)| Some((object, declared.spec.as_ref()?)));
    let referred: BTreeSet<_> = specs.flat_map(|(object, spec)| objects_of(object, spec)).collect();
    let concerns = |problem: &FileProblem| match &problem.object {
        None => true,
        Some(object) if templates.contains(object) => false,
        Some((kind, _)) if *kind == KIND => true,
        // Of one that cannot be read, the Service is not known.
        Some(("EndpointSlice", key)) => {
            referred.iter().any(|(kind, other)| *kind == "Service" && other.namespace == key.namespace)
        }
        Some(object) => referred.contains(object),
    };
    problems.iter().filter(|problem| concerns(problem)).cloned().collect()
}

fn objects_of(object: &ObjectKey, spec: &TcpLoadBalancerSpec) -> Vec<Identity> {
    let services = spec
        .backends
        .iter()
        .filter_map(|backend| backend.service.as_ref())
        .map(|service| ("Service", service_key(object, service)));
    let references = spec.references().map(|reference| {
        let Referred { kind, key } = Referred::by(object, reference);
        (kind.name(), key)
    });
    services.chain(references).collect()
}

/// Takes templates out of a world: nothing is known of their values.
pub fn take_out(templates: &BTreeSet<Identity>, world: &mut World) {
    for (kind, key) in templates {
        world.unreadable.remove(&(*kind, key.clone()));
        if *kind == RefKind::Secret.name() {
            world.secrets.remove(key);
        } else if *kind == RefKind::ConfigMap.name() {
            world.config_maps.remove(key);
        }
    }
}

/// Has those templates be unknown that were not found in the cluster.
pub fn note_unknown(templates: BTreeSet<Identity>, world: &mut World) {
    for (kind, key) in templates {
        let is_found = world.secrets.contains_key(&key) && kind == RefKind::Secret.name()
            || world.config_maps.contains_key(&key) && kind == RefKind::ConfigMap.name();
        if !is_found {
            let why = format!("{kind} {key} cannot be checked: {TEMPLATE}");
            world.unread.entry((kind, key)).or_insert(why.into());
        }
    }
}
