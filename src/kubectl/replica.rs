//! The replicas of installations: pods with an admin port.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
    ops::RangeInclusive,
    sync::Once,
};

use anyhow::bail;
use k8s_openapi::api::{
    core::v1::{Container, Pod},
    rbac::v1::ClusterRoleBinding,
};

use super::{connection::ClusterConnection, output::Cell, permission::AccessError};
use crate::{
    api::{DEFAULT_CLASS, ObjectName, Placement, TcpLoadBalancer},
    cli::port_range,
    model::ObjectKey,
};

/// The name of the container port of the admin pages.
const ADMIN: &str = "admin";
/// The default of `tcplb controller --ports`.
const DEFAULT_PORTS: RangeInclusive<u16> = 20000..=24999;

/// The maximum number of ignored pods in a message.
const MAX_IGNORED: usize = 5;

/// A pod that runs `tcplb controller`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaPod {
    pub key: ObjectKey,
    pub node: Option<String>,
    /// The condition `Ready` of the pod.
    pub ready: bool,
    pub is_terminating: bool,
    /// The number of restarts of its container.
    pub restarts: i32,
    pub container: String,
    pub image: String,
    pub admin_port: u16,
    /// The labels of the pod.
    pub labels: BTreeMap<String, String>,
    pub settings: ReplicaSettings,
}

/// The arguments of a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaSettings {
    pub class: String,
    pub placement: Placement,
    pub lease: String,
    /// The ConfigMap of allocated ports.
    pub allocations: String,
    pub ports: RangeInclusive<u16>,
    /// The namespaces whose objects are served. Empty: all.
    pub watch_namespaces: Vec<String>,
}

impl ReplicaPod {
    /// `None`: the pod has no admin port, or it has ended.
    pub fn read(pod: &Pod) -> Option<Self> {
        let (metadata, spec, status) = (&pod.metadata, pod.spec.as_ref()?, pod.status.clone().unwrap_or_default());
        if status.phase.as_deref().is_some_and(|phase| ["Succeeded", "Failed"].contains(&phase)) {
            return None;
        }
        let (container, admin_port) = spec.containers.iter().find_map(|container| {
            let mut ports = container.ports.iter().flatten();
            let port = ports.find(|port| port.name.as_deref() == Some(ADMIN))?;
            Some((container, port.container_port.try_into().ok()?))
        })?;
        let ready = status.conditions.iter().flatten().any(|found| found.type_ == "Ready" && found.status == "True");
        let of_container = status.container_statuses.iter().flatten().find(|status| status.name == container.name);
        Some(Self {
            key: ObjectKey::new(metadata.namespace.as_deref()?, metadata.name.as_deref()?),
            node: spec.node_name.clone(),
            ready,
            is_terminating: metadata.deletion_timestamp.is_some(),
            restarts: of_container.map_or(0, |status| status.restart_count),
            container: container.name.clone(),
            image: container.image.clone().unwrap_or_default(),
            admin_port,
            labels: metadata.labels.clone().unwrap_or_default(),
            settings: ReplicaSettings::read(container),
        })
    }

    /// True if a load balancer is served by this replica, according to its class, placement and namespace.
    pub fn serves(&self, object: &TcpLoadBalancer) -> bool {
        let ReplicaSettings { class, placement, watch_namespaces, .. } = &self.settings;
        let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
        object.spec.class() == class
            && object.spec.placement.unwrap_or_default() == *placement
            && (watch_namespaces.is_empty() || watch_namespaces.iter().any(|watched| watched == namespace))
    }
}

impl ReplicaSettings {
    fn read(container: &Container) -> Self {
        let arguments: Vec<&str> =
            container.command.iter().chain(&container.args).flatten().map(String::as_str).collect();
        let value = |flag: &str| {
            let inline = arguments.iter().find_map(|argument| argument.strip_prefix(flag)?.strip_prefix('='));
            let place = || arguments.iter().position(|argument| *argument == flag);
            inline.or_else(|| arguments.get(place()? + 1).copied())
        };
        // These names become parts of request paths and of file names.
        let object_name = |flag: &str, default: &str| {
            value(flag).filter(|name| name.parse::<ObjectName>().is_ok()).unwrap_or(default).to_owned()
        };
        let watched = value("--watch-namespace").into_iter().flat_map(|names| names.split(','));
        Self {
            class: value("--class").unwrap_or(DEFAULT_CLASS).to_owned(),
            placement: match value("--placement") {
                Some("host") => Placement::Host,
                _ => Placement::Gateway,
            },
            lease: object_name("--lease", "tcplb"),
            allocations: object_name("--allocations", "tcplb-ports"),
            ports: value("--ports").and_then(|text| port_range(text).ok()).unwrap_or(DEFAULT_PORTS),
            watch_namespaces: watched.map(str::to_owned).collect(),
        }
    }
}

/// The pods that look like replicas.
#[derive(Debug, Default)]
pub struct ReplicaSearch {
    /// The replicas of all installations that the flags select, by name.
    pub replicas: Vec<ReplicaPod>,
    /// Other pods with the labels and the admin port of replicas, such as those of tenants.
    pub others: Vec<ObjectKey>,
    /// The namespaces of installations. `None`: unknown.
    pub namespaces: Option<BTreeSet<String>>,
}

impl ReplicaSearch {
    pub async fn run(connection: &ClusterConnection) -> Result<Self, AccessError> {
        let pods: Vec<Pod> = connection.list(connection.install_namespace.as_deref(), &connection.selector).await?;
        let namespaces = install_namespaces(connection).await?;
        Ok(Self::new(pods.iter().filter_map(ReplicaPod::read).collect(), namespaces))
    }

    fn new(mut pods: Vec<ReplicaPod>, namespaces: Option<BTreeSet<String>>) -> Self {
        pods.sort_by(|a, b| a.key.cmp(&b.key));
        let mut search = Self { namespaces, ..Self::default() };
        for pod in pods {
            if search.is_of_installation(&pod.key.namespace) {
                search.replicas.push(pod);
            } else {
                search.others.push(pod.key);
            }
        }
        search
    }

    /// True for the namespace of an installation, and for every namespace if they are unknown.
    pub fn is_of_installation(&self, namespace: &str) -> bool {
        self.namespaces.as_ref().is_none_or(|known| known.contains(namespace))
    }

    /// The sentence about the other pods. `None`: there are none.
    fn ignored(&self) -> Option<String> {
        let named: Vec<String> = self.others.iter().take(MAX_IGNORED).map(ToString::to_string).collect();
        let more = match self.others.len() - named.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        (!named.is_empty()).then(|| {
            format!(
                "pods with the labels of replicas are ignored, because no ClusterRoleBinding with these labels names a \
                 service account of their namespaces: {}{more}; if they are replicas, set --install-namespace to their \
                 namespace",
                named.join(", ")
            )
        })
    }
}

/// The namespaces of installations. `None`: unknown, because the user may not list ClusterRoleBindings, or there are
/// none.
async fn install_namespaces(connection: &ClusterConnection) -> Result<Option<BTreeSet<String>>, AccessError> {
    if let Some(namespace) = &connection.install_namespace {
        return Ok(Some([namespace.clone()].into()));
    }
    let bindings: Vec<ClusterRoleBinding> = match connection.list_cluster_wide(&connection.selector).await {
        Err(AccessError::Denied(_)) => return Ok(None),
        listed => listed?,
    };
    Ok(Some(bound_namespaces(&bindings)).filter(|namespaces| !namespaces.is_empty()))
}

/// The namespaces of the service accounts in bindings of the chart. Only administrators of the cluster can create
/// ClusterRoleBindings, whereas tenants can create pods with any labels.
fn bound_namespaces(bindings: &[ClusterRoleBinding]) -> BTreeSet<String> {
    let subjects = bindings.iter().flat_map(|binding| binding.subjects.iter().flatten());
    let accounts = subjects.filter(|subject| subject.kind == "ServiceAccount");
    accounts.filter_map(|account| account.namespace.clone()).collect()
}

/// The replicas of all installations that the flags select, by name. The first call names ignored pods on standard
/// error; some commands search repeatedly.
pub async fn replicas(connection: &ClusterConnection) -> Result<Vec<ReplicaPod>, AccessError> {
    static NAMED: Once = Once::new();

    let search = ReplicaSearch::run(connection).await?;
    if let Some(sentence) = search.ignored() {
        // A closed standard error does not matter.
        NAMED.call_once(|| drop(writeln!(io::stderr(), "tcplb: {}", Cell::plain(sentence))));
    }
    Ok(search.replicas)
}

/// The same, at least one.
///
/// # Errors
/// If the pods cannot be read, or there is no replica.
pub async fn some_replicas(connection: &ClusterConnection) -> anyhow::Result<Vec<ReplicaPod>> {
    let found = replicas(connection).await?;
    if found.is_empty() {
        bail!(no_replica(connection));
    }
    Ok(found)
}

/// The sentence about missing replicas.
pub fn no_replica(connection: &ClusterConnection) -> String {
    let place = match &connection.install_namespace {
        Some(namespace) => format!("in namespace {namespace}"),
        None => "of an installation".into(),
    };
    format!(
        "no replica was found: no pod {place} has the labels {} and a port named admin: set --selector and \
         --install-namespace",
        connection.selector
    )
}

#[cfg(test)]
pub mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A ready replica of class `tcplb` in namespace `tcplb-system`.
    pub fn pod(name: &str, arguments: &[&str]) -> Pod {
        let value = json!({
            "metadata": {
                "name": name,
                "namespace": "tcplb-system",
                "labels": {"app.kubernetes.io/name": "tcplb", "app.kubernetes.io/instance": "tcplb"},
            },
            "spec": {"nodeName": "node-1", "containers": [
                {"name": "proxy", "image": "mesh:1"},
                {
                    "name": "tcplb",
                    "image": "tcplb:0.1.0",
                    "args": arguments,
                    "ports": [{"name": "admin", "containerPort": 9900}],
                },
            ]},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
        });
        serde_json::from_value(value).unwrap()
    }

    fn load_balancer(spec: Value) -> TcpLoadBalancer {
        serde_json::from_value(json!({
            "apiVersion": "tcplb.io/v1alpha1",
            "kind": "TcpLoadBalancer",
            "metadata": {"name": "pg", "namespace": "shop"},
            "spec": spec,
        }))
        .unwrap()
    }

    #[test]
    fn a_replica_is_a_pod_with_an_admin_port() {
        let arguments = ["controller", "--class=fast", "--ports", "20100-20199", "--watch-namespace=shop,bank"];
        let replica = ReplicaPod::read(&pod("a", &arguments)).unwrap();
        assert_eq!((replica.admin_port, replica.container.as_str(), replica.ready), (9900, "tcplb", true));
        assert_eq!(replica.settings.class, "fast");
        assert_eq!(replica.settings.ports, 20100..=20199);
        assert_eq!(replica.settings.watch_namespaces, ["shop", "bank"]);

        let mut without = pod("b", &[]);
        without.spec.as_mut().unwrap().containers.pop();
        assert_eq!(ReplicaPod::read(&without), None);
        let mut ended = pod("c", &[]);
        ended.status.as_mut().unwrap().phase = Some("Succeeded".into());
        assert_eq!(ReplicaPod::read(&ended), None);
    }

    #[test]
    fn pods_of_tenants_are_no_replicas() {
        let binding = |subjects: Value| -> ClusterRoleBinding {
            let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "tcplb"});
            serde_json::from_value(json!({"metadata": {"name": "a"}, "roleRef": role, "subjects": subjects})).unwrap()
        };
        let account = |namespace: &str| json!({"kind": "ServiceAccount", "name": "tcplb", "namespace": namespace});
        let bindings = [
            binding(json!([account("tcplb-system"), account("edge")])),
            binding(json!([account("tcplb-system"), {"kind": "Group", "name": "operators"}])),
            binding(Value::Null),
        ];
        let namespaces = bound_namespaces(&bindings);
        assert_eq!(namespaces, ["edge", "tcplb-system"].map(str::to_owned).into());

        let mut forged = pod("a", &[]);
        forged.metadata.namespace = Some("shop".into());
        let pods = [forged, pod("tcplb-2", &[]), pod("tcplb-1", &[])];
        let pods: Vec<ReplicaPod> = pods.iter().filter_map(ReplicaPod::read).collect();
        let search = ReplicaSearch::new(pods.clone(), Some(namespaces));
        let replicas: Vec<String> = search.replicas.iter().map(|replica| replica.key.to_string()).collect();
        assert_eq!(replicas, ["tcplb-system/tcplb-1", "tcplb-system/tcplb-2"]);
        assert_eq!(search.others, [ObjectKey::new("shop", "a")]);
        let search = ReplicaSearch::new(pods, None);
        assert_eq!((search.replicas.len(), search.others.len()), (3, 0), "without knowledge, every pod counts");
    }

    #[test]
    fn ignored_pods_are_named_with_the_flag_that_selects_them() {
        let ignored = |count: usize| {
            let others = (1..=count).map(|number| ObjectKey::new("edge", &format!("tcplb-{number}"))).collect();
            ReplicaSearch { others, ..ReplicaSearch::default() }.ignored()
        };
        assert_eq!(ignored(0), None);
        let advice = "if they are replicas, set --install-namespace to their namespace";
        let message = ignored(2).unwrap();
        assert!(message.ends_with(&format!(": edge/tcplb-1, edge/tcplb-2; {advice}")), "{message}");
        let message = ignored(7).unwrap();
        assert!(message.ends_with(&format!("edge/tcplb-5 and 2 more; {advice}")), "{message}");
    }

    #[test]
    fn invalid_names_of_objects_in_arguments_count_as_absent() {
        let names = |arguments: &[&str]| {
            let settings = ReplicaPod::read(&pod("a", arguments)).unwrap().settings;
            (settings.lease, settings.allocations)
        };
        let pair = |lease: &str, allocations: &str| (lease.to_owned(), allocations.to_owned());
        assert_eq!(names(&["--lease=tcplb-host", "--allocations", "a.b"]), pair("tcplb-host", "a.b"));
        for wrong in ["", "..", "../../secrets/a", "a/b", "a?limit=1", "a%2fb", "A", "-a"] {
            let lease = format!("--lease={wrong}");
            assert_eq!(names(&[lease.as_str(), "--allocations", wrong]), pair("tcplb", "tcplb-ports"), "{wrong}");
        }
    }

    #[test]
    fn class_placement_and_namespace_decide_which_replicas_serve() {
        let serves = |arguments: &[&str], spec: Value| {
            let listeners = json!({"listeners": [{"port": 1}], "backends": [{"addresses": ["10.0.0.1:1"]}]});
            let mut spec = spec;
            spec.as_object_mut().unwrap().extend(listeners.as_object().unwrap().clone());
            ReplicaPod::read(&pod("a", arguments)).unwrap().serves(&load_balancer(spec))
        };
        assert!(serves(&[], json!({})));
        assert!(serves(&["--placement=gateway", "--watch-namespace=bank,shop"], json!({"className": "tcplb"})));
        assert!(serves(&["--placement=host"], json!({"placement": "Host"})));
        assert!(!serves(&["--placement=host"], json!({})));
        assert!(!serves(&["--class=fast"], json!({})));
        assert!(!serves(&["--watch-namespace=bank"], json!({})));
    }
}
