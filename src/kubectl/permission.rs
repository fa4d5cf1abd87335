//! The permissions that the commands need, and the errors that name missing ones.

use std::fmt;

use serde::Serialize;

use crate::{printable::printable, source::with_causes};

/// The ClusterRole of the chart for users of `kubectl tcplb`. docs/rbac.md describes it.
const ROLE: &str = "the chart's ClusterRole NAMESPACE-RELEASE-cli (by default tcplb-system-tcplb-cli)";
/// The maximum length of an answer of the API server in a message, in bytes.
const MAX_ANSWER: usize = 1024;

/// The resources that are not in a namespace.
pub const WITHOUT_NAMESPACES: [&str; 6] = [
    "/version",
    "clusterrolebindings",
    "clusterroles",
    "customresourcedefinitions",
    "namespaces",
    "selfsubjectaccessreviews",
];

/// A permission: a verb on a resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Permission {
    pub verb: &'static str,
    pub group: &'static str,
    /// The resource, with its subresource: `pods/log`.
    pub resource: &'static str,
    /// `None`: all namespaces, or a resource without namespaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// `None`: all objects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl Permission {
    pub fn new(verb: &'static str, group: &'static str, resource: &'static str) -> Self {
        Self { verb, group, resource, namespace: None, name: None }
    }

    pub fn in_namespace(self, namespace: Option<&str>) -> Self {
        Self { namespace: namespace.map(str::to_owned), ..self }
    }

    pub fn named(self, name: &str) -> Self {
        Self { name: Some(name.to_owned()), ..self }
    }

    /// The roles that grant it.
    fn granted_by(&self) -> &'static str {
        match (self.group, self.verb) {
            ("tcplb.io", "get" | "list" | "watch") => "the ClusterRole view, edit or admin",
            ("tcplb.io", _) => "the ClusterRole edit or admin",
            _ => ROLE,
        }
    }

    /// The alternative to the permission.
    fn advice(&self) -> &'static str {
        match (self.resource, &self.namespace) {
            ("pods", None) => "; if it is bound in the namespace of the replicas only, set --install-namespace",
            _ => "",
        }
    }

    /// The error of a request that needed this permission.
    pub fn error(self, error: &kube::Error) -> AccessError {
        use kube::{Error::UpgradeConnection, client::UpgradeConnectionError::ProtocolSwitch};
        match error {
            kube::Error::Api(status) if status.code == 403 => AccessError::Denied(self),
            UpgradeConnection(ProtocolSwitch(status)) if status.as_u16() == 403 => AccessError::Denied(self),
            error => {
                AccessError::Failed { request: self, answer: printable(&with_causes(error), MAX_ANSWER).into_owned() }
            }
        }
    }
}

/// `list pods in namespace shop`, `get leases.coordination.k8s.io tcplb in namespace tcplb-system`
impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verb, group, resource, namespace, name } = self;
        write!(f, "{verb} {resource}")?;
        if !group.is_empty() {
            write!(f, ".{group}")?;
        }
        if let Some(name) = name {
            write!(f, " {name}")?;
        }
        match namespace {
            Some(namespace) => write!(f, " in namespace {namespace}"),
            None if WITHOUT_NAMESPACES.contains(resource) => Ok(()),
            None => write!(f, " in all namespaces"),
        }
    }
}

/// A request to the API server that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    #[error("this user may not {0}: {role} grants it{advice}", role = .0.granted_by(), advice = .0.advice())]
    Denied(Permission),
    #[error("cannot {request}: {answer}")]
    Failed { request: Permission, answer: String },
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn a_missing_permission_is_named_with_the_role_that_grants_it() {
        let answer = |code| kube::Error::Api(Box::new(Status::failure("no", "Reason").with_code(code)));
        let permission = || Permission::new("list", "", "pods").in_namespace(Some("tcplb-system"));
        assert_eq!(
            permission().error(&answer(403)).to_string(),
            "this user may not list pods in namespace tcplb-system: the chart's ClusterRole NAMESPACE-RELEASE-cli (by \
             default tcplb-system-tcplb-cli) grants it"
        );
        let objects = Permission::new("get", "tcplb.io", "tcploadbalancers");
        assert_eq!(
            objects.error(&answer(403)).to_string(),
            "this user may not get tcploadbalancers.tcplb.io in all namespaces: the ClusterRole view, edit or admin \
             grants it"
        );
        let failed = permission().error(&answer(500)).to_string();
        assert!(failed.starts_with("cannot list pods in namespace tcplb-system: "), "{failed}");
    }
}
