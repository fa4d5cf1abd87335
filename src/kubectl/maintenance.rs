//! `kubectl tcplb drain`, `undrain` and `failback`: changes of the spec.

mod current_endpoints;

use std::process::ExitCode;

use anyhow::bail;
use jiff::{Timestamp, Unit};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use self::current_endpoints::CurrentEndpoints;
use super::{connection::ClusterConnection, permission::Permission};
use crate::{
    api::{DrainAction, EndpointRef, TcpLoadBalancer},
    cli::{DrainFlags, FailbackFlags, UndrainFlags},
    stdout::print,
};

/// The field manager of changes. Server-side apply by another one keeps the entries of this one.
const FIELD_MANAGER: &str = "kubectl-tcplb";
/// The number of attempts, since another change may come first.
const ATTEMPTS: u32 = 5;
/// The maximum number of entries.
const MAX_DRAINED: usize = 64;

pub async fn drain(connection: &ClusterConnection, flags: &DrainFlags) -> anyhow::Result<ExitCode> {
    let object = change_drained(connection, &flags.name, |drained| {
        let new: Vec<_> = flags.endpoints.iter().filter(|endpoint| !drained.contains(endpoint)).cloned().collect();
        [drained, new].concat()
    })
    .await?;
    let policy = object.spec.drain.as_ref().and_then(|drain| drain.endpoint_drained.as_ref());
    let open = if policy.is_some_and(|policy| policy.policy == DrainAction::Close) {
        "open connections are closed by drain.endpointDrained while other endpoints serve"
    } else {
        "open connections are kept, because drain.endpointDrained is absent or has the policy Keep"
    };
    let mut text = result(&object);
    text.push_str(&format!("new connections go to other endpoints, or are refused if there are none; {open}\n"));
    for note in notes(connection, &object, &flags.endpoints).await {
        text.push_str(&format!("note: {note}\n"));
    }
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

pub async fn undrain(connection: &ClusterConnection, flags: &UndrainFlags) -> anyhow::Result<ExitCode> {
    let before = connection.load_balancer(&flags.name).await?.spec.drained_endpoints;
    if let Some(unknown) = flags.endpoints.iter().find(|endpoint| !before.contains(endpoint)) {
        let (namespace, name) = (&connection.namespace, &flags.name);
        bail!("{unknown} is not drained in TcpLoadBalancer {namespace}/{name}: {}", listed(&before));
    }
    let stays = |endpoint: &EndpointRef| !flags.all && !flags.endpoints.contains(endpoint);
    let remaining = |drained: Vec<EndpointRef>| drained.into_iter().filter(|endpoint| stays(endpoint)).collect();
    let object = change_drained(connection, &flags.name, remaining).await?;
    print(&result(&object))?;
    Ok(ExitCode::SUCCESS)
}

pub async fn failback(connection: &ClusterConnection, flags: &FailbackFlags) -> anyhow::Result<ExitCode> {
    // Fails only far from the present.
    let now = Timestamp::now().round(Unit::Second)?;
    let (namespace, name) = (&connection.namespace, &flags.name);
    change(connection, name, |object| {
        let failover = object.spec.load_balancing.as_ref().and_then(|balancing| balancing.failover.as_ref());
        if failover.and_then(|failover| failover.failback.as_ref()).is_none() {
            bail!(
                "TcpLoadBalancer {namespace}/{name} needs no request to fail back: without \
                 spec.loadBalancing.failover.failback, the lowest priority number that can serve is always active"
            );
        }
        Ok(Some(json!({"loadBalancing": {"failover": {"failback": {"requestedAt": now}}}})))
    })
    .await?;
    print(&format!(
        "tcploadbalancer {namespace}/{name}: requested to fail back at {now}\n\
         each replica uses the lowest priority number that can serve now, or within a minute; \
         `kubectl tcplb status {name}` shows standby endpoints\n"
    ))?;
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

async fn change_drained(
    connection: &ClusterConnection,
    name: &str,
    edit: impl Fn(Vec<EndpointRef>) -> Vec<EndpointRef>,
) -> anyhow::Result<TcpLoadBalancer> {
    change(connection, name, |object| {
        let drained = edit(object.spec.drained_endpoints.clone());
        if drained.len() > MAX_DRAINED {
            bail!(
                "spec.drainedEndpoints can have at most {MAX_DRAINED} entries: remove some with \
                 `kubectl tcplb undrain {name}`"
            );
        }
        Ok((drained != object.spec.drained_endpoints).then(|| json!({"drainedEndpoints": drained})))
    })
    .await
}

/// Merges the result of `spec_patch` into the spec, and returns the changed object. `None`: there is nothing to change.
///
/// The resource version in the patch makes it fail if another change comes first; it is then repeated.
async fn change(
    connection: &ClusterConnection,
    name: &str,
    spec_patch: impl Fn(&TcpLoadBalancer) -> anyhow::Result<Option<Value>>,
) -> anyhow::Result<TcpLoadBalancer> {
    let api: Api<TcpLoadBalancer> = Api::namespaced(connection.client.clone(), &connection.namespace);
    let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
    let mut attempts = ATTEMPTS;
    loop {
        let object = connection.load_balancer(name).await?;
        let Some(spec) = spec_patch(&object)? else { return Ok(object) };
        let patch = json!({"metadata": {"resourceVersion": object.resource_version()}, "spec": spec});
        attempts -= 1;
        match api.patch(name, &parameters, &Patch::Merge(&patch)).await {
            Err(kube::Error::Api(status)) if status.code == 409 && attempts > 0 => {}
            Err(error) => {
                let permission = Permission::new("patch", "tcplb.io", "tcploadbalancers");
                return Err(permission.in_namespace(Some(&connection.namespace)).error(&error).into());
            }
            Ok(object) => return Ok(object),
        }
    }
}

/// Notes about entries that match no endpoint now. They are not errors, because an entry may be for a later endpoint.
/// Without the permissions to read pods and EndpointSlices, there are none.
async fn notes(connection: &ClusterConnection, object: &TcpLoadBalancer, entries: &[EndpointRef]) -> Vec<String> {
    let current = CurrentEndpoints::read(connection, &object.spec).await;
    let mut notes = Vec::new();
    for entry in entries {
        if is_missing_pod(connection, entry).await {
            notes.push(format!("pod {}/{entry} does not exist: check the name", connection.namespace));
        } else if let Some(current) = &current {
            notes.extend(unmatched(object, entry, current));
        }
    }
    notes
}

async fn is_missing_pod(connection: &ClusterConnection, entry: &EndpointRef) -> bool {
    let EndpointRef::Pod(name) = entry else { return false };
    matches!(connection.get::<Pod>(&connection.namespace, name).await, Ok(None))
}

/// The note about an entry that matches no endpoint now.
fn unmatched(object: &TcpLoadBalancer, entry: &EndpointRef, current: &CurrentEndpoints) -> Option<String> {
    if current.may_include(entry) {
        return None;
    }
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    Some(format!("{entry} is not an endpoint of {namespace}/{name} now; it is drained when it becomes one"))
}

#[cfg(test)]
mod tests {
    use super::{current_endpoints::tests::endpoints, *};

    #[test]
    fn an_entry_that_matches_no_endpoint_has_a_note() {
        let backends = json!([{"addresses": ["10.0.0.8:5432"]}]);
        let object = json!({
            "apiVersion": "tcplb.io/v1alpha1",
            "kind": "TcpLoadBalancer",
            "metadata": {"namespace": "shop", "name": "pg"},
            "spec": {"listeners": [{"port": 5432}], "backends": backends},
        });
        let object: TcpLoadBalancer = serde_json::from_value(object).unwrap();
        let note = |entry: &str| unmatched(&object, &entry.parse().unwrap(), &endpoints(backends.clone()));
        assert_eq!(note("10.0.0.8"), None);
        let expected = "10.9.9.9 is not an endpoint of shop/pg now; it is drained when it becomes one";
        assert_eq!(note("10.9.9.9").as_deref(), Some(expected));
    }
}
