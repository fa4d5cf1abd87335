//! Queries the API server for deleted load balancers: watches may lag, or not include them.

use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject},
};

use crate::controller::{Settings, calls::failure::ApiFailure, services::plan::Replacement};
use crate::{
    api::{DEFAULT_CLASS, Placement, TcpLoadBalancer},
    model::ObjectKey,
};

/// The replacement of the load balancer with this uid. `None`: it still exists.
pub async fn replacement(
    client: Client,
    settings: &Settings,
    key: &ObjectKey,
    uid: &str,
) -> Result<Option<Replacement>, ApiFailure> {
    // Read without its type, since an object that cannot be parsed exists nevertheless.
    let kind = ApiResource::erase::<TcpLoadBalancer>(&());
    let objects = Api::<DynamicObject>::namespaced_with(client, &key.namespace, &kind);
    match objects.get(&key.name).await {
        Ok(there) if !is_ours(&there, settings) => Ok(Some(Replacement::Absent)),
        Ok(there) if there.metadata.uid.as_deref() == Some(uid) => Ok(None),
        Ok(_) => Ok(Some(Replacement::Another)),
        Err(kube::Error::Api(status)) if status.code == 404 && names(&status, key) => Ok(Some(Replacement::Absent)),
        Err(error) => Err(error.into()),
    }
}

/// True if this object was not found, rather than its kind: an API server that has just started may not know the kind.
fn names(status: &kube::core::Status, key: &ObjectKey) -> bool {
    status.details.as_ref().is_some_and(|details| details.name == *key.name)
}

/// True unless the object has another class or placement that can be read.
fn is_ours(object: &DynamicObject, settings: &Settings) -> bool {
    let spec = |field: &str| object.data.get("spec").and_then(|spec| spec.get(field));
    let class = spec("className").map_or(Some(DEFAULT_CLASS), |class| class.as_str());
    let placement: Option<Placement> =
        spec("placement").map_or(Some(Placement::default()), |text| serde_json::from_value(text.clone()).ok());
    settings.leads(class.unwrap_or(&settings.class), placement.unwrap_or(settings.placement))
}
