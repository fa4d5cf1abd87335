//! Reads referenced objects that the files do not contain from the API server of a cluster.

use std::{collections::BTreeSet, fmt, sync::Arc};

use anyhow::anyhow;
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        core::v1::{ConfigMap, Secret, Service},
        discovery::v1::EndpointSlice,
    },
};
use kube::{Api, Client, Resource, ResourceExt, api::ListParams};
use serde::de::DeserializeOwned;

use super::mode::{Missing, missing};
use crate::{
    api::RefKind,
    model::ObjectKey,
    source::with_causes,
    world::{SERVICE_NAME, World},
};

/// Adds the missing objects to a world, if they exist and may be read. The EndpointSlices of Services in
/// `awaiting_pods` are skipped, because those in the cluster may belong to the previous version of the Service.
///
/// # Errors
/// If the API server does not answer, or its answer is invalid.
pub async fn complete(world: &mut World, awaiting_pods: &BTreeSet<ObjectKey>, client: &Client) -> anyhow::Result<()> {
    // Services first, because they determine which slices are missing.
    for _ in 0..2 {
        let mut done = BTreeSet::new();
        for missing in all_missing(world) {
            let (kind, key) = match &missing {
                Missing::Service(key) => ("Service", key.clone()),
                Missing::EndpointSlices(key) if awaiting_pods.contains(key) => continue,
                Missing::EndpointSlices(key) => ("EndpointSlice", key.clone()),
                Missing::Object(referred) => (referred.kind.name(), referred.key.clone()),
            };
            if world.unread.contains_key(&(kind, key.clone())) || !done.insert((kind, key.clone())) {
                continue;
            }
            if let Some(why) = add(world, client, &missing).await? {
                world.unread.insert((kind, key), why.into());
            }
        }
    }
    Ok(())
}

fn all_missing(world: &World) -> Vec<Missing> {
    let specs = world.load_balancers.iter().filter_map(|(object, declared)| Some((object, declared.spec.as_ref()?)));
    specs.flat_map(|(object, spec)| missing(object, spec, world)).collect()
}

/// Adds one object. Returns the reason if it may not be read.
async fn add(world: &mut World, client: &Client, missing: &Missing) -> anyhow::Result<Option<String>> {
    let denied = match missing {
        Missing::Service(key) => match get::<Service>(client, key).await? {
            FetchResult::One(service) => {
                world.services.insert(key.clone(), service.into());
                None
            }
            FetchResult::Nothing => None,
            FetchResult::Denied => Some(denied(format!("Service {key}"), "get", "services", key)),
        },
        Missing::EndpointSlices(key) => {
            let api: Api<EndpointSlice> = Api::namespaced(client.clone(), &key.namespace);
            let of_service = ListParams::default().labels(&format!("{SERVICE_NAME}={}", key.name));
            match api.list(&of_service).await {
                Ok(slices) => {
                    for slice in slices {
                        let name = ObjectKey::new(&key.namespace, &slice.name_any());
                        world.endpoint_slices.insert(name, slice.into());
                    }
                    None
                }
                Err(error) if is_denied(&error) => {
                    let what = format!("the endpoints of Service {key}");
                    Some(denied(what, "list", "endpointslices.discovery.k8s.io", key))
                }
                Err(error) => return Err(failure(&format!("the endpoints of Service {key}"), &error)),
            }
        }
        Missing::Object(referred) => {
            let key = &referred.key;
            match referred.kind {
                RefKind::Secret => match get::<Secret>(client, key).await? {
                    FetchResult::One(secret) => {
                        world.secrets.insert(key.clone(), secret.into());
                        None
                    }
                    FetchResult::Nothing => None,
                    FetchResult::Denied => Some(denied(referred, "get", "secrets", key)),
                },
                RefKind::ConfigMap => match get::<ConfigMap>(client, key).await? {
                    FetchResult::One(config_map) => {
                        world.config_maps.insert(key.clone(), config_map.into());
                        None
                    }
                    FetchResult::Nothing => None,
                    FetchResult::Denied => Some(denied(referred, "get", "configmaps", key)),
                },
            }
        }
    };
    Ok(denied)
}

enum FetchResult<T> {
    One(Arc<T>),
    Nothing,
    Denied,
}

async fn get<T>(client: &Client, key: &ObjectKey) -> anyhow::Result<FetchResult<T>>
where
    T: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + fmt::Debug,
{
    match Api::<T>::namespaced(client.clone(), &key.namespace).get_opt(&key.name).await {
        Ok(Some(object)) => Ok(FetchResult::One(Arc::new(object))),
        Ok(None) => Ok(FetchResult::Nothing),
        Err(error) if is_denied(&error) => Ok(FetchResult::Denied),
        Err(error) => Err(failure(&format!("{} {key}", T::kind(&())), &error)),
    }
}

fn is_denied(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 403)
}

fn denied(what: impl fmt::Display, verb: &str, resource: &str, key: &ObjectKey) -> String {
    let namespace = &key.namespace;
    format!(
        "this user may not read {what}: request permission to {verb} {resource} in namespace {namespace} (see `kubectl \
         auth can-i {verb} {resource} -n {namespace}`)"
    )
}

fn failure(what: &str, error: &kube::Error) -> anyhow::Error {
    anyhow!("cannot read {what} from the cluster: {}", with_causes(error))
}
