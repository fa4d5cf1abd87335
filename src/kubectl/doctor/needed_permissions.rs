//! The permissions that `doctor` asks the API server for.

use std::collections::BTreeSet;

use crate::{
    api::Placement,
    kubectl::{
        permission::{Permission, WITHOUT_NAMESPACES},
        replica::ReplicaPod,
    },
};

/// The permissions in the namespaces of load balancers: verb, API group and resource.
const FOR_LOAD_BALANCERS: [(&str, &str, &str); 4] = [
    ("patch", "tcplb.io", "tcploadbalancers"),
    ("list", "", "services"),
    ("list", "discovery.k8s.io", "endpointslices"),
    ("list", "events.k8s.io", "events"),
];

/// The permissions in the namespace of an installation: verb, API group and resource.
const IN_INSTALLATIONS: [(&str, &str, &str); 8] = [
    ("get", "", "pods/portforward"),
    ("create", "", "pods/portforward"),
    ("get", "", "pods/log"),
    ("list", "", "services"),
    ("list", "discovery.k8s.io", "endpointslices"),
    ("list", "events.k8s.io", "events"),
    ("list", "apps", "deployments"),
    ("list", "apps", "daemonsets"),
];

/// The permissions to install the chart: verb, API group and resource.
const FOR_INSTALLATION: [(&str, &str, &str); 13] = [
    ("create", "apiextensions.k8s.io", "customresourcedefinitions"),
    ("create", "rbac.authorization.k8s.io", "clusterroles"),
    ("create", "rbac.authorization.k8s.io", "clusterrolebindings"),
    ("create", "rbac.authorization.k8s.io", "roles"),
    ("create", "rbac.authorization.k8s.io", "rolebindings"),
    ("create", "", "serviceaccounts"),
    ("create", "", "services"),
    ("create", "", "configmaps"),
    ("create", "", "secrets"),
    ("create", "apps", "deployments"),
    ("create", "apps", "daemonsets"),
    ("create", "coordination.k8s.io", "leases"),
    ("create", "policy", "poddisruptionbudgets"),
];

/// The permissions that all commands together need.
///
/// `search`: the namespace in which replicas are searched; `objects`: the namespace of the load balancers. `None`: all.
pub fn of_commands(search: Option<&str>, replicas: &[ReplicaPod], objects: Option<&str>) -> Vec<Permission> {
    let mut permissions = vec![
        Permission::new("get", "tcplb.io", "tcploadbalancers").in_namespace(objects),
        Permission::new("list", "tcplb.io", "tcploadbalancers").in_namespace(objects),
        Permission::new("list", "", "pods").in_namespace(search),
        Permission::new("get", "apiextensions.k8s.io", "customresourcedefinitions").named("tcploadbalancers.tcplb.io"),
    ];
    if search.is_none() {
        permissions.push(Permission::new("list", "rbac.authorization.k8s.io", "clusterrolebindings"));
    }
    let of_objects = |(verb, group, resource)| Permission::new(verb, group, resource).in_namespace(objects);
    permissions.extend(FOR_LOAD_BALANCERS.map(of_objects));
    let namespaces: BTreeSet<&str> = replicas.iter().map(|replica| &*replica.key.namespace).collect();
    for namespace in namespaces {
        let permission = |(verb, group, resource)| Permission::new(verb, group, resource).in_namespace(Some(namespace));
        permissions.extend(IN_INSTALLATIONS.map(permission));
    }
    for replica in replicas {
        let namespace = Some(&*replica.key.namespace);
        let permission =
            |group, resource, name: &str| Permission::new("get", group, resource).in_namespace(namespace).named(name);
        let settings = &replica.settings;
        let lease = permission("coordination.k8s.io", "leases", &settings.lease);
        let ports =
            (settings.placement == Placement::Gateway).then(|| permission("", "configmaps", &settings.allocations));
        permissions.extend(ports.into_iter().chain([lease]));
    }
    let mut distinct = Vec::new();
    for permission in permissions {
        if !distinct.contains(&permission) {
            distinct.push(permission);
        }
    }
    distinct
}

/// The commands that need a permission. `None`: most of them.
pub fn purpose(permission: &Permission) -> Option<&'static str> {
    match (permission.verb, permission.resource) {
        ("patch", "tcploadbalancers") => Some("drain, undrain and failback"),
        ("list", "services" | "deployments" | "daemonsets")
        | ("get", "leases" | "configmaps" | "customresourcedefinitions") => Some("doctor and bundle"),
        ("list", "clusterrolebindings") => Some("finding the namespaces of replicas, without --install-namespace"),
        ("list", "endpointslices" | "events") | ("get", "pods/log") => Some("bundle"),
        _ => None,
    }
}

/// The permissions to install the chart into a namespace.
pub fn for_installation(namespace: &str) -> Vec<Permission> {
    let permission = |(verb, group, resource)| {
        let permission = Permission::new(verb, group, resource);
        if WITHOUT_NAMESPACES.contains(&resource) { permission } else { permission.in_namespace(Some(namespace)) }
    };
    FOR_INSTALLATION.map(permission).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubectl::replica::tests::pod;

    #[test]
    fn changes_and_bundles_need_permissions_in_the_namespaces_of_load_balancers() {
        let replicas = [ReplicaPod::read(&pod("tcplb-1", &[])).unwrap()];
        for objects in [None, Some("shop")] {
            let permissions = of_commands(None, &replicas, objects);
            for (verb, group, resource, purpose) in [
                ("patch", "tcplb.io", "tcploadbalancers", "drain, undrain and failback"),
                ("list", "", "services", "doctor and bundle"),
                ("list", "discovery.k8s.io", "endpointslices", "bundle"),
                ("list", "events.k8s.io", "events", "bundle"),
            ] {
                let permission = Permission::new(verb, group, resource).in_namespace(objects);
                assert!(permissions.contains(&permission), "{permission}");
                assert_eq!(super::purpose(&permission), Some(purpose), "{permission}");
            }
        }
    }

    #[test]
    fn the_namespaces_of_replicas_are_searched_unless_one_is_given() {
        let binding = Permission::new("list", "rbac.authorization.k8s.io", "clusterrolebindings");
        assert!(of_commands(None, &[], None).contains(&binding));
        assert!(!of_commands(Some("tcplb-system"), &[], None).contains(&binding));
        assert!(super::purpose(&binding).unwrap().contains("--install-namespace"));
    }

    #[test]
    fn each_permission_is_needed_once() {
        let replicas = ["tcplb-1", "tcplb-2"].map(|name| ReplicaPod::read(&pod(name, &[])).unwrap());
        let permissions = of_commands(None, &replicas, Some("tcplb-system"));
        let texts: BTreeSet<String> = permissions.iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), permissions.len(), "{permissions:#?}");
    }
}
