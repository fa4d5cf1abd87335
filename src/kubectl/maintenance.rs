//! `kubectl tcplb drain` and `undrain`: changes of `spec.drainedEndpoints`.

use std::process::ExitCode;

use anyhow::bail;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::{connection::ClusterConnection, output::print, right::Right};
use crate::{
    api::{EndpointRef, TcpLoadBalancer},
    cli::{DrainFlags, UndrainFlags},
};

/// The field manager of changes. Server-side apply by another one keeps the entries of this one.
const FIELD_MANAGER: &str = "kubectl-tcplb";
/// The number of attempts, since another change may come first.
const ATTEMPTS: u32 = 5;
/// The maximum number of entries.
const MAX_DRAINED: usize = 64;

pub async fn drain(connection: &ClusterConnection, flags: &DrainFlags) -> anyhow::Result<ExitCode> {
    let object = change(connection, &flags.name, |drained| {
        let new: Vec<_> = flags.endpoints.iter().filter(|endpoint| !drained.contains(endpoint)).cloned().collect();
        [drained, new].concat()
    })
    .await?;
    let policy = object.spec.drain.as_ref().and_then(|drain| drain.endpoint_drained.as_ref());
    let open = match policy {
        Some(_) => "open connections are closed by drain.endpointDrained while other endpoints serve",
        None => "open connections are kept, because drain.endpointDrained is not set",
    };
    let mut text = result(&object);
    text.push_str(&format!("new connections go to other endpoints; {open}\n"));
    for name in missing_pods(connection, &flags.endpoints).await {
        text.push_str(&format!("note: there is no pod {}/{name} at present\n", connection.namespace));
    }
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

pub async fn undrain(connection: &ClusterConnection, flags: &UndrainFlags) -> anyhow::Result<ExitCode> {
    let before = read(connection, &flags.name).await?.spec.drained_endpoints;
    if let Some(unknown) = flags.endpoints.iter().find(|endpoint| !before.contains(endpoint)) {
        let (namespace, name) = (&connection.namespace, &flags.name);
        bail!("{unknown} is not drained in TcpLoadBalancer {namespace}/{name}: {}", listed(&before));
    }
    let stays = |endpoint: &EndpointRef| !flags.all && !flags.endpoints.contains(endpoint);
    let object =
        change(connection, &flags.name, |drained| drained.into_iter().filter(|endpoint| stays(endpoint)).collect())
            .await?;
    print(&result(&object))?;
    Ok(ExitCode::SUCCESS)
}

fn result(object: &TcpLoadBalancer) -> String {
    let namespace = object.namespace().unwrap_or_default();
    format!("tcploadbalancer {namespace}/{}: {}\n", object.name_any(), listed(&object.spec.drained_endpoints))
}

fn listed(drained: &[EndpointRef]) -> String {
    match drained {
        [] => "no endpoint is drained".into(),
        drained => format!("drained: {}", drained.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    }
}

async fn read(connection: &ClusterConnection, name: &str) -> anyhow::Result<TcpLoadBalancer> {
    let namespace = &connection.namespace;
    match connection.get(namespace, name).await? {
        Some(object) => Ok(object),
        None => bail!("TcpLoadBalancer {namespace}/{name} does not exist: see `kubectl tcplb status -A`"),
    }
}

/// Changes the list, and returns the changed object. The resource version in the change makes it fail if another one
/// comes first; it is then repeated.
async fn change(
    connection: &ClusterConnection,
    name: &str,
    edit: impl Fn(Vec<EndpointRef>) -> Vec<EndpointRef>,
) -> anyhow::Result<TcpLoadBalancer> {
    let api: Api<TcpLoadBalancer> = Api::namespaced(connection.client.clone(), &connection.namespace);
    let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
    let mut attempts = ATTEMPTS;
    loop {
        let object = read(connection, name).await?;
        let drained = edit(object.spec.drained_endpoints.clone());
        if drained == object.spec.drained_endpoints {
            return Ok(object);
        }
        if drained.len() > MAX_DRAINED {
            bail!(
                "spec.drainedEndpoints has room for {MAX_DRAINED} endpoints: remove some with `kubectl tcplb undrain`"
            );
        }
        let patch = json!({
            "metadata": {"resourceVersion": object.resource_version()},
            "spec": {"drainedEndpoints": drained},
        });
        attempts -= 1;
        match api.patch(name, &parameters, &Patch::Merge(&patch)).await {
            Err(kube::Error::Api(status)) if status.code == 409 && attempts > 0 => {}
            Err(error) => {
                let right = Right::new("patch", "tcplb.io", "tcploadbalancers");
                return Err(right.in_namespace(Some(&connection.namespace)).error(&error).into());
            }
            Ok(object) => return Ok(object),
        }
    }
}

/// The named pods that do not exist. Without the right to read pods, none.
async fn missing_pods(connection: &ClusterConnection, endpoints: &[EndpointRef]) -> Vec<String> {
    let mut missing = Vec::new();
    for endpoint in endpoints {
        let EndpointRef::Pod(name) = endpoint else { continue };
        if matches!(connection.get::<Pod>(&connection.namespace, name).await, Ok(None)) {
            missing.push(name.clone());
        }
    }
    missing
}
