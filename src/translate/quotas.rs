//! Messages about exceeded quotas of a namespace.

use super::{
    declaration::Declaration,
    field_errors::FieldPath,
    verdict::{Part, Reason},
};
use crate::world::{ListenerShare, ObjectRef, Tenancy};

/// Refuses a load balancer beyond the quota of its namespace. Returns false for such a load balancer.
pub(super) fn check(declaration: &Declaration, path: &mut FieldPath) -> bool {
    let Declaration { object, context, .. } = declaration;
    let is_within = context.quotas.share(object) != Some(ListenerShare::Nothing);
    if !is_within {
        let namespace = &object.namespace;
        let message = match most(declaration, |tenancy| tenancy.load_balancers_per_namespace) {
            0 => none_allowed("load balancers", namespace),
            most => format!(
                "the administrator allows {most} load balancers in namespace {namespace}, and older ones use them up: \
                 delete one of them"
            ),
        };
        path.refuse_for(Reason::NotPermitted, message);
    }
    is_within
}

/// Refuses a listener beyond the quota of its namespace. Returns false for such a listener.
pub(super) fn check_listener(declaration: &Declaration, index: usize, path: &mut FieldPath) -> bool {
    let Declaration { object, context, .. } = declaration;
    let is_within = index < context.quotas.listeners(object);
    if !is_within {
        let namespace = &object.namespace;
        let message = match most(declaration, |tenancy| tenancy.listeners_per_namespace) {
            0 => none_allowed("listeners", namespace),
            most => format!(
                "the administrator allows {most} listeners in namespace {namespace}, and older load balancers and the \
                 listeners before this one use them up: remove one of them"
            ),
        };
        path.part(Part::WholeListener(index)).refuse_for(Reason::NotPermitted, message);
    }
    is_within
}

/// Message about an object that is not read because it exceeds the quota.
pub(super) fn beyond(referred: &ObjectRef, declaration: &Declaration) -> String {
    let most = most(declaration, |tenancy| tenancy.secrets_per_namespace);
    if most == 0 {
        return "the administrator allows no Secrets and ConfigMaps with certificates or passwords: remove `tls` and \
                `passwordRef`, or ask the administrator to allow some"
            .into();
    }
    format!(
        "the administrator allows {most} Secrets and ConfigMaps with certificates or passwords in namespace {}, and \
         older load balancers and the references before this one use them up: remove one of them, or use one of these \
         instead of {}",
        referred.key.namespace, referred.key.name
    )
}

fn none_allowed(what: &str, namespace: &str) -> String {
    format!("the administrator allows no {what} in namespace {namespace}: ask the administrator to allow some")
}

fn most(declaration: &Declaration, cap: impl Fn(&Tenancy) -> Option<u32>) -> u32 {
    declaration.context.world.mode.tenancy().and_then(cap).unwrap_or(u32::MAX)
}
