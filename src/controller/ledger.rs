//! The ConfigMap that allocations are kept in.

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tracing::warn;

use super::{Settings, failure::Failure, owners};
use crate::world::Allocations;

/// How often somebody else may be faster before it is left to the next time.
const TRIES: u32 = 5;

/// What a leader knows when it turns to the ledger.
pub struct Seen<'a> {
    /// The allocations that were seen last.
    pub last: &'a Allocations,
    /// With whom the ConfigMap is to go.
    pub owners: &'a [OwnerReference],
}

/// Changes what is stored by `revise`, which is asked anew whenever somebody else changed it meanwhile. If there is
/// nothing, because it is new or was deleted by hand, what was seen last counts. The answer is what is stored then.
pub async fn revise(
    client: &Client,
    settings: &Settings,
    seen: Seen<'_>,
    mut revise: impl FnMut(&Allocations) -> Allocations,
) -> Result<Allocations, Failure> {
    let maps = Api::<ConfigMap>::namespaced(client.clone(), &settings.namespace);
    let name = &settings.allocations;
    for _ in 0..TRIES {
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
                // With the version that was read: whoever wrote since is not overwritten.
                let map = ConfigMap { metadata, data: Some(revised.write()), ..map };
                maps.replace(name, &PostParams::default(), &map).await
            }
            None => {
                let map = ConfigMap { metadata, data: Some(revised.write()), ..ConfigMap::default() };
                maps.create(&PostParams::default(), &map).await
            }
        };
        match written {
            Ok(_) => return Ok(revised),
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err("others keep changing it".into())
}
