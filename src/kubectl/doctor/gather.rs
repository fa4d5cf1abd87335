//! Reads the facts from the API server, the replicas and the addresses of load balancers.

use std::{collections::BTreeSet, str};

use futures::{StreamExt, future::join_all, stream};
use hyper::{Request, StatusCode, header::DATE};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment},
        authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
        coordination::v1::Lease,
        core::v1::{ConfigMap, Service},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::version::Info,
};
use kube::{Api, api::PostParams, client::Body, core::Status};

use super::{
    attempts,
    facts::{DoctorFacts, InstallationFacts, ReplicaFacts, ServerFacts},
    metrics::ReplicaMetrics,
    needed_permissions,
    workload::WorkloadFacts,
};
use crate::{
    api::{Placement, TcpLoadBalancer},
    cli::DoctorFlags,
    kubectl::{
        admin_pages::{page, read_all, time},
        connection::ClusterConnection,
        permission::{AccessError, Permission},
        replica::{ReplicaPod, ReplicaSearch},
    },
    model::ObjectKey,
    printable::printable,
    world::Allocations,
};

const CRD: &str = "tcploadbalancers.tcplb.io";
/// The number of requests at a time.
const CONCURRENT: usize = 16;
/// The maximum length of a message of the API server, in bytes.
const MAX_MESSAGE: usize = 1024;

/// Facts that cannot be read are errors in their place.
pub async fn facts(connection: &ClusterConnection, flags: &DoctorFlags) -> DoctorFacts {
    let server = server(connection).await;
    if server.is_err() {
        let nothing = || AccessError::Failed { request: version(), answer: "no answer".into() };
        return DoctorFacts {
            now: Timestamp::now(),
            server,
            crd: Err(nothing()),
            permissions: Vec::new(),
            installation: None,
        };
    }
    let crd = connection.get_cluster_wide::<CustomResourceDefinition>(CRD).await;
    let found = if flags.pre { Ok(ReplicaSearch::default()) } else { ReplicaSearch::run(connection).await };
    let wanted = match flags.pre {
        true => needed_permissions::for_installation(connection.install_namespace.as_deref().unwrap_or("tcplb-system")),
        false => {
            let (search, objects) = (connection.install_namespace.as_deref(), connection.namespace_flag.as_deref());
            let replicas = found.as_ref().map(|found| &*found.replicas).unwrap_or_default();
            needed_permissions::of_commands(search, replicas, objects)
        }
    };
    let permissions = reviewed(connection, wanted).await;
    // The Leases are read now. Reading the pages takes a while if a replica does not answer.
    let now = Timestamp::now();
    let installation = match flags.pre {
        true => None,
        false => Some(installation(connection, flags, found).await),
    };
    DoctorFacts { now, server, crd, permissions, installation }
}

fn version() -> Permission {
    Permission::new("get", "", "/version")
}

async fn server(connection: &ClusterConnection) -> Result<ServerFacts, AccessError> {
    let failed = |error: kube::Error| version().error(&error);
    let unreadable = |answer: String| AccessError::Failed { request: version(), answer };
    let request = Request::get("/version").body(Body::empty()).map_err(|error| unreadable(error.to_string()))?;
    let answer = connection.client.send(request).await.map_err(failed)?;
    let clock_offset = answer.headers().get(DATE).and_then(time).map(offset);
    let status = answer.status();
    let body = answer.into_body().collect_bytes().await.map_err(failed)?;
    let info = version_info(status, &body).map_err(unreadable)?;
    // Clouds write `33+`.
    let number = |text: &str| text.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(0);
    Ok(ServerFacts { version: (number(&info.major), number(&info.minor)), git_version: info.git_version, clock_offset })
}

/// Reads the answer to the request for the version. All fields of [`Info`] have defaults, so the body of an error would
/// be read as version 0.0.
fn version_info(status: StatusCode, body: &[u8]) -> Result<Info, String> {
    if status.is_success() {
        return serde_json::from_slice(body).map_err(|error| format!("{status}, {error}"));
    }
    let message = match serde_json::from_slice::<Status>(body) {
        _ if status == StatusCode::UNAUTHORIZED => {
            "the credentials of the kubeconfig are invalid or have expired".to_owned()
        }
        Ok(failure) if !failure.message.is_empty() => failure.message,
        _ => String::from_utf8_lossy(body).into_owned(),
    };
    Err(format!("{status}: {}", printable(message.trim(), MAX_MESSAGE)))
}

/// The time by which another clock is ahead, if it shows `time` now. The header has no fractions of a second.
fn offset(time: Timestamp) -> SignedDuration {
    time.duration_since(Timestamp::now())
}

async fn reviewed(
    connection: &ClusterConnection,
    permissions: Vec<Permission>,
) -> Vec<(Permission, Result<bool, AccessError>)> {
    let reviewing = permissions.into_iter().map(async |permission| {
        let allowed = review(connection, &permission).await;
        (permission, allowed)
    });
    stream::iter(reviewing).buffered(CONCURRENT).collect().await
}

async fn review(connection: &ClusterConnection, permission: &Permission) -> Result<bool, AccessError> {
    let (resource, subresource) = permission.resource.split_once('/').unwrap_or((permission.resource, ""));
    let attributes = ResourceAttributes {
        verb: Some(permission.verb.into()),
        group: Some(permission.group.into()),
        resource: Some(resource.into()),
        subresource: Some(subresource.into()).filter(|name: &String| !name.is_empty()),
        namespace: permission.namespace.clone(),
        name: permission.name.clone(),
        ..ResourceAttributes::default()
    };
    let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), non_resource_attributes: None };
    let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
    let reviews: Api<SelfSubjectAccessReview> = Api::all(connection.client.clone());
    let created = reviews.create(&PostParams::default(), &review).await;
    let created = created
        .map_err(|error| Permission::new("create", "authorization.k8s.io", "selfsubjectaccessreviews").error(&error))?;
    Ok(created.status.is_some_and(|status| status.allowed))
}

async fn installation(
    connection: &ClusterConnection,
    flags: &DoctorFlags,
    found: Result<ReplicaSearch, AccessError>,
) -> InstallationFacts {
    let workloads = workloads(connection, found.as_ref().ok()).await;
    let (found, others) = match found {
        Ok(found) => (Ok(found.replicas), found.others),
        Err(error) => (Err(error), Vec::new()),
    };
    let pods = found.as_deref().unwrap_or_default();
    let leases = distinct(pods, |pod| Some(&pod.settings.lease));
    let of_gateways = |pod: &ReplicaPod| pod.settings.placement == Placement::Gateway;
    let maps = distinct(pods, |pod| of_gateways(pod).then_some(&pod.settings.allocations));
    let namespaces: BTreeSet<&str> = pods.iter().map(|pod| &*pod.key.namespace).collect();
    let load_balancers: Result<Vec<TcpLoadBalancer>, _> =
        connection.list(connection.namespace_flag.as_deref(), "").await;
    let mut facts = InstallationFacts {
        namespace: connection.namespace_flag.clone(),
        workloads,
        leases: join_all(leases.into_iter().map(async |key| {
            let lease = connection.get::<Lease>(&key.namespace, &key.name).await;
            (key, lease)
        }))
        .await,
        allocations: join_all(maps.into_iter().map(async |key| {
            let map = connection.get::<ConfigMap>(&key.namespace, &key.name).await;
            let read = |map: ConfigMap| Allocations::read(&map.data.unwrap_or_default()).0;
            (key, map.map(|map| map.map(read)))
        }))
        .await,
        services: services(connection, &namespaces).await,
        replicas: match found {
            Ok(pods) => Ok(replica_facts(connection, pods).await),
            Err(error) => Err(error),
        },
        other_pods: others,
        load_balancers,
        attempts: Vec::new(),
    };
    if !flags.skip_connections {
        facts.attempts = attempts::attempts(connection, &facts).await;
    }
    facts
}

fn distinct<'a>(pods: &'a [ReplicaPod], name: impl Fn(&'a ReplicaPod) -> Option<&'a String>) -> BTreeSet<ObjectKey> {
    pods.iter().filter_map(|pod| Some(pod.key.sibling(name(pod)?))).collect()
}

/// The Deployments and DaemonSets of the replicas. Kinds that cannot be listed are left out: the check `permissions`
/// names a missing permission.
async fn workloads(connection: &ClusterConnection, found: Option<&ReplicaSearch>) -> Vec<WorkloadFacts> {
    let (namespace, selector) = (connection.install_namespace.as_deref(), &connection.selector);
    let deployments: Vec<Deployment> = connection.list(namespace, selector).await.unwrap_or_default();
    let daemon_sets: Vec<DaemonSet> = connection.list(namespace, selector).await.unwrap_or_default();
    let deployments = deployments.iter().map(WorkloadFacts::of_deployment);
    let workloads = deployments.chain(daemon_sets.iter().map(WorkloadFacts::of_daemon_set));
    let is_installed = |namespace: &str| found.is_none_or(|found| found.is_of_installation(namespace));
    workloads.filter(|workload| is_installed(&workload.key.namespace)).collect()
}

async fn services(connection: &ClusterConnection, namespaces: &BTreeSet<&str>) -> Result<Vec<Service>, AccessError> {
    let mut services = Vec::new();
    for namespace in namespaces {
        services.extend(connection.list::<Service>(Some(namespace), "").await?);
    }
    Ok(services)
}

async fn replica_facts(connection: &ClusterConnection, pods: Vec<ReplicaPod>) -> Vec<ReplicaFacts> {
    let pages = read_all(connection, &pods).await;
    let reading = pods.into_iter().zip(pages).map(async |(pod, pages)| {
        // Metrics have another answer time than the pages, so its date is compared with the present.
        let metrics = if pages.is_ok() { page(connection, &pod, "/metrics").await.ok() } else { None };
        let clock_offset = metrics.as_ref().and_then(|page| page.date).map(offset);
        let metrics = metrics.and_then(|page| Some(ReplicaMetrics::read(str::from_utf8(&page.body).ok()?)));
        ReplicaFacts { pod, pages, metrics, clock_offset }
    });
    stream::iter(reading).buffered(CONCURRENT).collect().await
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::{Arc, Mutex},
    };

    use clap::Parser;
    use hyper::Response;
    use kube::Client;
    use serde_json::json;

    use super::*;
    use crate::cli::{KubectlCli, KubectlCommand};

    /// A connection to an API server without objects, and the paths of all requests.
    fn empty_cluster() -> (ClusterConnection, Arc<Mutex<Vec<String>>>) {
        let requests = Arc::<Mutex<Vec<String>>>::default();
        let received = requests.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let path = request.uri().path().to_owned();
            let answer = match &*path {
                "/version" => json!({"major": "1", "minor": "34", "gitVersion": "v1.34.1"}),
                _ => json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": []}),
            };
            received.lock().unwrap().push(path);
            async move { Ok::<_, Infallible>(Response::new(Body::from(answer.to_string().into_bytes()))) }
        });
        let client = Client::new(service, "default");
        let connection = ClusterConnection {
            streams: client.clone(),
            client,
            namespace: "default".into(),
            namespace_flag: None,
            timeout: None,
            install_namespace: None,
            selector: "app.kubernetes.io/name=tcplb".into(),
        };
        (connection, requests)
    }

    #[tokio::test]
    async fn cluster_role_bindings_are_listed_once() {
        let (connection, requests) = empty_cluster();
        let arguments = ["kubectl-tcplb", "doctor", "--skip-connections"];
        let KubectlCommand::Doctor(flags) = KubectlCli::parse_from(arguments).kubectl.command else {
            panic!("another command")
        };
        let installation = facts(&connection, &flags).await.installation.unwrap();
        assert!(installation.replicas.is_ok_and(|replicas| replicas.is_empty()));
        let requests = requests.lock().unwrap();
        let count = |resource: &str| requests.iter().filter(|path| path.ends_with(resource)).count();
        assert_eq!((count("/clusterrolebindings"), count("/deployments")), (1, 1), "{requests:?}");
    }

    #[test]
    fn only_a_successful_answer_has_a_version() {
        let body = json!({"major": "1", "minor": "34", "gitVersion": "v1.34.1"}).to_string();
        assert_eq!(version_info(StatusCode::OK, body.as_bytes()).unwrap().git_version, "v1.34.1");

        let failure = |status: StatusCode, message: &str| {
            let body = json!({"kind": "Status", "message": message, "code": status.as_u16()}).to_string();
            version_info(status, body.as_bytes()).unwrap_err()
        };
        assert_eq!(
            failure(StatusCode::UNAUTHORIZED, "Unauthorized"),
            "401 Unauthorized: the credentials of the kubeconfig are invalid or have expired"
        );
        assert_eq!(failure(StatusCode::FORBIDDEN, "cannot get path"), "403 Forbidden: cannot get path");
        let text = version_info(StatusCode::BAD_GATEWAY, b"no backend\n").unwrap_err();
        assert_eq!(text, "502 Bad Gateway: no backend");
        assert!(version_info(StatusCode::OK, b"<html>").unwrap_err().starts_with("200 OK, "));
    }
}
