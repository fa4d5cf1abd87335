//! The permissions that `doctor` asks the API server for.

use std::collections::BTreeSet;

use crate::{
    api::Placement,
    kubectl::{
        replica::ReplicaPod,
        right::{Right, WITHOUT_NAMESPACES},
    },
};

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
pub fn of_commands(search: Option<&str>, replicas: &[ReplicaPod], objects: Option<&str>) -> Vec<Right> {
    let mut rights = vec![
        Right::new("get", "tcplb.io", "tcploadbalancers").in_namespace(objects),
        Right::new("list", "tcplb.io", "tcploadbalancers").in_namespace(objects),
        Right::new("list", "", "pods").in_namespace(search),
        Right::new("get", "apiextensions.k8s.io", "customresourcedefinitions").named("tcploadbalancers.tcplb.io"),
    ];
    let namespaces: BTreeSet<&str> = replicas.iter().map(|replica| &*replica.key.namespace).collect();
    for namespace in namespaces {
        let right = |(verb, group, resource)| Right::new(verb, group, resource).in_namespace(Some(namespace));
        rights.extend(IN_INSTALLATIONS.map(right));
    }
    for replica in replicas {
        let namespace = Some(&*replica.key.namespace);
        let right =
            |group, resource, name: &str| Right::new("get", group, resource).in_namespace(namespace).named(name);
        let settings = &replica.settings;
        let lease = right("coordination.k8s.io", "leases", &settings.lease);
        let ports = (settings.placement == Placement::Gateway).then(|| right("", "configmaps", &settings.allocations));
        for right in ports.into_iter().chain([lease]) {
            if !rights.contains(&right) {
                rights.push(right);
            }
        }
    }
    rights
}

/// The permissions to install the chart into a namespace.
pub fn for_installation(namespace: &str) -> Vec<Right> {
    let right = |(verb, group, resource)| {
        let right = Right::new(verb, group, resource);
        if WITHOUT_NAMESPACES.contains(&resource) { right } else { right.in_namespace(Some(namespace)) }
    };
    FOR_INSTALLATION.map(right).to_vec()
}
