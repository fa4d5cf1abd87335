//! The objects of the release that own the objects that the leader manages: Services, and the list of ports.
//!
//! Kubernetes deletes an object once all of its owners are gone. With several owners an object is deleted with the
//! release, and remains when one owner is deleted or replaced. The ConfigMap among the owners (the anchor) is created
//! again after its deletion. The new anchor is owned by the others, so that it is deleted with the release too, in any
//! order of removal.

use std::{collections::BTreeMap, fmt::Debug, time::Duration};

use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::{DaemonSet, Deployment},
        core::v1::{ConfigMap, Service},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{Api, Client, Resource, api::PostParams};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout};
use tracing::{error, info, warn};

use super::{Settings, calls::failure::sentence, settings::Workload};
use crate::world::World;

/// The time for which uids are cached.
const BELIEVED: Duration = Duration::from_secs(2);
/// The time limit of each call to the API server.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The annotation that describes the purpose of an object.
const DESCRIPTION: &str = "kubernetes.io/description";
/// The description of the anchor. The chart has the same one.
pub const ANCHOR_DESCRIPTION: &str = "Owns the Services that tcplb manages for load balancers, so that they are \
                                      removed with the release. Do not delete it: the controller would create it \
                                      again.";
/// The description of the list of ports.
const PORTS: &str = "Lists the proxy port of each listener of each load balancer. Do not delete or edit it: the \
                     controller would write it again.";

/// The owners, as they were last seen.
#[derive(Debug, Default)]
pub struct Owners {
    references: Vec<OwnerReference>,
    read: Option<Instant>,
    /// The reasons why some owners are missing, each as a sentence.
    problems: Vec<String>,
}

/// The result of looking up one owner. The error is the reason why it is unknown.
type OwnerLookup = Result<Option<OwnerReference>, String>;

impl Owners {
    pub fn references(&self) -> &[OwnerReference] {
        &self.references
    }

    /// The reason why no owner is known: managed objects would remain when the release is removed.
    pub fn missing(&self) -> Option<&str> {
        if self.references.is_empty() { self.problems.first().map(String::as_str) } else { None }
    }

    /// Looks up the owners, unless that was done recently, and creates the anchor again if it is gone. Returns true if
    /// the owners have changed.
    pub async fn refresh(&mut self, client: &Client, settings: &Settings, world: &World) -> bool {
        let Some(name) = &settings.anchor else { return false };
        if self.read.is_some_and(|read| read.elapsed() < BELIEVED) {
            return false;
        }
        let mut references: Vec<OwnerReference> = replicas_service(settings, world).into_iter().collect();
        let mut problems = Vec::new();
        let workload = self.or_as_before(workload(client, settings).await, &["Deployment", "DaemonSet"]);
        references.extend(workload.0);
        let anchor = match answer(reference::<ConfigMap>(client, settings, name)).await {
            // Without any of the others, the release is being uninstalled.
            Ok(None) if !references.is_empty() => answer(make_anchor(client, settings, name, &references)).await,
            found => found,
        };
        let is_missing = anchor == Ok(None);
        let anchor = self.or_as_before(anchor, &["ConfigMap"]);
        references.extend(anchor.0);
        let what = format!("ConfigMap {}/{name}, which owns the managed Services,", settings.namespace);
        problems.extend(is_missing.then(|| format!("{what} does not exist: install the chart again")));
        problems.extend(anchor.1.map(|why| format!("{what} cannot be read: {why}")));
        problems.extend(
            workload.1.map(|why| format!("the workload of the replicas cannot be read, and owns no Service: {why}")),
        );
        for problem in problems.iter().filter(|problem| !self.problems.contains(problem)) {
            error!("{problem}");
        }
        for problem in self.problems.iter().filter(|problem| !problems.contains(problem)) {
            info!("resolved: {problem}");
        }
        references.sort_by(|one, other| (&one.kind, &one.uid).cmp(&(&other.kind, &other.uid)));
        let changed = references != self.references;
        *self = Self { references, read: Some(Instant::now()), problems };
        changed
    }

    /// The owner that was found, or the previous one if the lookup failed.
    fn or_as_before(&self, found: OwnerLookup, kinds: &[&str]) -> (Option<OwnerReference>, Option<String>) {
        match found {
            Ok(found) => (found, None),
            Err(why) => (self.references.iter().find(|owner| kinds.contains(&&*owner.kind)).cloned(), Some(why)),
        }
    }
}

async fn workload(client: &Client, settings: &Settings) -> OwnerLookup {
    match &settings.workload {
        Some(Workload::Deployment(name)) => answer(reference::<Deployment>(client, settings, name)).await,
        Some(Workload::DaemonSet(name)) => answer(reference::<DaemonSet>(client, settings, name)).await,
        None => Ok(None),
    }
}

async fn answer(call: impl Future<Output = OwnerLookup>) -> OwnerLookup {
    timeout(ANSWER_TIMEOUT, call).await.unwrap_or_else(|_| Err("no answer in time".into()))
}

async fn make_anchor(client: &Client, settings: &Settings, name: &str, owners: &[OwnerReference]) -> OwnerLookup {
    let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
    let metadata = described(metadata, ANCHOR_DESCRIPTION, settings, owners);
    let maps = Api::<ConfigMap>::namespaced(client.clone(), &settings.namespace);
    match maps.create(&PostParams::default(), &ConfigMap { metadata, ..ConfigMap::default() }).await {
        Ok(map) => {
            warn!(config_map = name, "it was deleted, and is created again: it owns the managed Services");
            Ok(Some(owner::<ConfigMap>(&map.metadata)))
        }
        Err(error) => Err(format!("it was deleted and cannot be created: {}", sentence(&error))),
    }
}

/// The Service of the replicas, which is watched.
fn replicas_service(settings: &Settings, world: &World) -> Option<OwnerReference> {
    let metadata = &world.services.get(&settings.replicas)?.metadata;
    (*settings.replicas.namespace == *settings.namespace && metadata.deletion_timestamp.is_none())
        .then(|| owner::<Service>(metadata))
}

/// An object of the controller's own namespace. `None`: it does not exist, or is being deleted.
async fn reference<K>(client: &Client, settings: &Settings, name: &str) -> OwnerLookup
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let objects = Api::<K>::namespaced(client.clone(), &settings.namespace);
    let found = objects.get_metadata_opt(name).await.map_err(|error| sentence(&error))?;
    let lasting = found.filter(|found| found.metadata.deletion_timestamp.is_none());
    Ok(lasting.map(|found| owner::<K>(&found.metadata)))
}

fn owner<K: Resource<DynamicType = ()>>(metadata: &ObjectMeta) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: metadata.name.clone().unwrap_or_default(),
        uid: metadata.uid.clone().unwrap_or_default(),
        ..OwnerReference::default()
    }
}

/// The metadata of the list of ports, merged into the present metadata.
pub fn of_ports(metadata: ObjectMeta, settings: &Settings, owners: &[OwnerReference]) -> ObjectMeta {
    described(metadata, PORTS, settings, owners)
}

fn described(metadata: ObjectMeta, description: &str, settings: &Settings, owners: &[OwnerReference]) -> ObjectMeta {
    let mut metadata = metadata;
    let labels = metadata.labels.get_or_insert_with(BTreeMap::new);
    for (key, value) in &settings.selector {
        labels.entry(key.clone()).or_insert_with(|| value.clone());
    }
    metadata.annotations.get_or_insert_with(BTreeMap::new).insert(DESCRIPTION.into(), description.into());
    let references = metadata.owner_references.get_or_insert_with(Vec::new);
    let new = owners.iter().filter(|owner| references.iter().all(|reference| reference.uid != owner.uid)).cloned();
    let new: Vec<_> = new.collect();
    references.extend(new);
    metadata
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn owners(uids: &[&str]) -> Vec<OwnerReference> {
        let owner = |uid: &&str| OwnerReference { uid: (*uid).into(), ..OwnerReference::default() };
        uids.iter().map(owner).collect()
    }

    #[test]
    fn metadata_is_completed_and_nothing_in_it_is_lost() {
        let settings = Settings::of_a_gateway();
        let there: ObjectMeta = serde_json::from_value(json!({
            "name": "tcplb-ports", "resourceVersion": "7", "labels": {"app": "mine", "team": "net"},
            "annotations": {"note": "x"}, "ownerReferences": [{"apiVersion": "v1", "kind": "X", "name": "x", "uid": "1"}],
        }))
        .unwrap();
        let completed = of_ports(there.clone(), &settings, &owners(&["1", "2"]));
        assert_eq!(completed.labels.as_ref().unwrap()["app"], "mine");
        assert_eq!(completed.labels.as_ref().unwrap()["team"], "net");
        let annotations = completed.annotations.as_ref().unwrap();
        assert_eq!((&*annotations["note"], &*annotations[DESCRIPTION]), ("x", PORTS));
        let uids: Vec<&str> = completed.owner_references.iter().flatten().map(|owner| &*owner.uid).collect();
        assert_eq!(uids, ["1", "2"]);
        assert_eq!(completed.resource_version.as_deref(), Some("7"));
        assert_eq!(of_ports(completed.clone(), &settings, &owners(&["2"])), completed, "it is complete");
    }

    #[test]
    fn a_missing_owner_has_a_reason() {
        let problems = vec!["it does not exist".to_owned()];
        assert_eq!(Owners::default().missing(), None, "none is wanted");
        let none = Owners { problems: problems.clone(), ..Owners::default() };
        assert_eq!(none.missing(), Some("it does not exist"));
        assert_eq!(Owners { references: owners(&["1"]), problems, ..Owners::default() }.missing(), None);
    }

    #[test]
    fn an_owner_that_cannot_be_read_stays_what_it_was() {
        let anchor = OwnerReference { kind: "ConfigMap".into(), uid: "1".into(), ..OwnerReference::default() };
        let previous = Owners { references: vec![anchor.clone()], ..Owners::default() };
        let why = Some("forbidden".to_owned());
        assert_eq!(previous.or_as_before(Err("forbidden".into()), &["ConfigMap"]), (Some(anchor), why.clone()));
        assert_eq!(previous.or_as_before(Err("forbidden".into()), &["Deployment"]), (None, why));
        assert_eq!(previous.or_as_before(Ok(None), &["ConfigMap"]), (None, None), "it is gone");
    }
}
