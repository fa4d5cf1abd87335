//! Asks the API server itself whether a load balancer is gone: what is watched may lag, or not be seen.

use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject},
};

use super::{Settings, failure::Failure, plan::Successor};
use crate::{
    api::{DEFAULT_CLASS, Placement, TcpLoadBalancer},
    model::ObjectKey,
};

/// Who has the name of the load balancer that has this uid. `None`: still itself.
pub async fn successor(
    client: Client,
    settings: &Settings,
    key: &ObjectKey,
    uid: &str,
) -> Result<Option<Successor>, Failure> {
    // Read without its type, for what cannot be understood is there all the same.
    let kind = ApiResource::erase::<TcpLoadBalancer>(&());
    let objects = Api::<DynamicObject>::namespaced_with(client, &key.namespace, &kind);
    match objects.get(&key.name).await {
        Ok(there) if !is_ours(&there, settings) => Ok(Some(Successor::Nobody)),
        Ok(there) if there.metadata.uid.as_deref() == Some(uid) => Ok(None),
        Ok(_) => Ok(Some(Successor::Another)),
        Err(kube::Error::Api(status)) if status.code == 404 && names(&status, key) => Ok(Some(Successor::Nobody)),
        Err(error) => Err(error.into()),
    }
}

/// Whether it is this object that was not found, and not the whole kind: an API server that begins does not know it yet.
fn names(status: &kube::core::Status, key: &ObjectKey) -> bool {
    status.details.as_ref().is_some_and(|details| details.name == *key.name)
}

/// What does not say otherwise in a way that can be read is ours.
fn is_ours(object: &DynamicObject, settings: &Settings) -> bool {
    let spec = |field: &str| object.data.get("spec").and_then(|spec| spec.get(field));
    let class = spec("className").map_or(Some(DEFAULT_CLASS), |class| class.as_str());
    let placement: Option<Placement> =
        spec("placement").map_or(Some(Placement::default()), |text| serde_json::from_value(text.clone()).ok());
    settings.leads(class.unwrap_or(&settings.class), placement.unwrap_or(settings.placement))
}
