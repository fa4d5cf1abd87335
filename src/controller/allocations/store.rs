//! The ConfigMap that stores allocations.

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tracing::warn;

use crate::controller::{Settings, calls::failure::ApiFailure, owners};
use crate::{
    instruments::{WriteResult, WriteTarget},
    world::Allocations,
};

/// The number of conflicting writes after which the next reconciliation tries again.
const MAX_TRIES: u32 = 5;

/// The state that the leader knows before it reads the store.
pub struct LastSeen<'a> {
    /// The allocations that were seen last.
    pub last: &'a Allocations,
    /// The owners of the ConfigMap.
    pub owners: &'a [OwnerReference],
}

/// Changes the stored allocations with `revise`, which is called again after each conflicting write. Without a
/// ConfigMap (a new release, or a ConfigMap that was deleted by hand) it starts from the allocations that were seen
/// last. Returns the stored allocations.
pub async fn revise(
    client: &Client,
    settings: &Settings,
    seen: LastSeen<'_>,
    mut revise: impl FnMut(&Allocations) -> Allocations,
) -> Result<Allocations, ApiFailure> {
    let maps = Api::<ConfigMap>::namespaced(client.clone(), &settings.namespace);
    let name = &settings.allocations;
    for _ in 0..MAX_TRIES {
        let there = maps.get_opt(name).await?;
        let (stored, problems) = match &there {
            Some(map) => Allocations::read(map.data.as_ref().unwrap_or(&BTreeMap::new())),
            None => (seen.last.clone(), Vec::new()),
        };
        for problem in &problems {
            warn!(config_map = name, "{problem}");
        }
        let revised = revise(&stored);
        let metadata = there.as_ref().map(|map| map.metadata.clone());
        let metadata = metadata.unwrap_or_else(|| ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() });
        let metadata = owners::of_ports(metadata, settings, seen.owners);
        let is_complete = there.as_ref().is_some_and(|map| map.metadata == metadata);
        if is_complete && revised == stored && problems.is_empty() {
            return Ok(stored);
        }
        let written = match there {
            Some(map) => {
                // The metadata have the version that was read, so that later writes are not overwritten.
                let map = ConfigMap { metadata, data: Some(revised.write()), ..map };
                maps.replace(name, &PostParams::default(), &map).await
            }
            None => {
                let map = ConfigMap { metadata, data: Some(revised.write()), ..ConfigMap::default() };
                maps.create(&PostParams::default(), &map).await
            }
        };
        let count = |result| settings.instruments.count_write(WriteTarget::Allocations, result);
        match written {
            Ok(_) => {
                count(WriteResult::Ok);
                return Ok(revised);
            }
            Err(kube::Error::Api(status)) if status.code == 409 => count(WriteResult::Conflict),
            Err(error) => return Err(error.into()),
        }
    }
    Err("other writers keep changing it".into())
}
