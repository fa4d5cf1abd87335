//! The Deployments and DaemonSets that create replicas.

use k8s_openapi::{
    api::apps::v1::{DaemonSet, Deployment},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use crate::model::ObjectKey;

/// The numbers of replicas of a Deployment or DaemonSet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadFacts {
    /// `Deployment` or `DaemonSet`.
    pub kind: &'static str,
    pub key: ObjectKey,
    pub desired: usize,
    pub existing: usize,
}

impl WorkloadFacts {
    /// Counts pods without terminating ones, since their successors are created at once.
    pub fn of_deployment(deployment: &Deployment) -> Self {
        let desired = deployment.spec.as_ref().map_or(0, |spec| spec.replicas.unwrap_or(1));
        let existing = deployment.status.as_ref().and_then(|status| status.replicas).unwrap_or_default();
        Self::new("Deployment", &deployment.metadata, desired, existing)
    }

    /// Counts nodes with a pod, also with a terminating one, since its successor is created after its end.
    pub fn of_daemon_set(daemon_set: &DaemonSet) -> Self {
        let status = daemon_set.status.as_ref();
        let (desired, existing) =
            status.map_or((0, 0), |status| (status.desired_number_scheduled, status.current_number_scheduled));
        Self::new("DaemonSet", &daemon_set.metadata, desired, existing)
    }

    fn new(kind: &'static str, metadata: &ObjectMeta, desired: i32, existing: i32) -> Self {
        let whole = |number: i32| usize::try_from(number).unwrap_or_default();
        let (namespace, name) = (&metadata.namespace, &metadata.name);
        let key = ObjectKey::new(namespace.as_deref().unwrap_or_default(), name.as_deref().unwrap_or_default());
        Self { kind, key, desired: whole(desired), existing: whole(existing) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn metadata() -> Value {
        json!({"namespace": "tcplb-system", "name": "tcplb"})
    }

    #[test]
    fn the_replicas_of_a_deployment_are_those_of_its_status() {
        for (replicas, status, expected) in [
            (json!(3), json!({"replicas": 1, "readyReplicas": 0}), (3, 1)),
            (json!(3), json!({}), (3, 0)),
            (Value::Null, json!({"replicas": 1}), (1, 1)),
        ] {
            let spec = json!({"replicas": replicas, "selector": {}, "template": {}});
            let deployment = json!({"metadata": metadata(), "spec": spec, "status": status});
            let facts = WorkloadFacts::of_deployment(&serde_json::from_value(deployment).unwrap());
            assert_eq!((facts.desired, facts.existing), expected, "{facts:?}");
            assert_eq!((facts.kind, facts.key.to_string().as_str()), ("Deployment", "tcplb-system/tcplb"));
        }
    }

    #[test]
    fn the_replicas_of_a_daemon_set_are_nodes_with_a_pod() {
        let status = json!({"desiredNumberScheduled": 3, "currentNumberScheduled": 2, "numberReady": 1});
        let daemon_set = json!({"metadata": metadata(), "status": status});
        let facts = WorkloadFacts::of_daemon_set(&serde_json::from_value(daemon_set).unwrap());
        assert_eq!((facts.kind, facts.desired, facts.existing), ("DaemonSet", 3, 2));
    }
}
