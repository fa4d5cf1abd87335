//! The commands that read their manifests from a cluster.

use std::{collections::BTreeSet, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{anyhow, bail};
use kube::Client;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

use super::{
    serve::{Empty, Leading, Serving, local_access, serve},
    source::Source,
};
use crate::{
    admin::AdminAccess,
    api::{self, Placement},
    authorization::Authorizer,
    cli::{self, AdminAddress, ClusterAuthorization, Controller, PlacementName, RunArgs, Sidecar},
    controller::{AdminToken, Settings, Workload},
    instruments::Instruments,
    model::ObjectKey,
    proxy::socket::Sharing,
    source::{Cluster, Home, Scope, connect, installed_schema},
    world::{Allocations, ProcessMode, Tenancy},
};

const CRD: &str = "tcploadbalancers.tcplb.io";
/// The interval of comparisons with the installed schema, which may be replaced.
const COMPARE_AGAIN: Duration = Duration::from_secs(600);

/// `tcplb controller`: serves the load balancers of a cluster and takes part in leader election.
pub async fn controller(arguments: Controller) -> anyhow::Result<ExitCode> {
    let (ports, most) = (arguments.ports.len(), Allocations::MOST);
    if ports > most.into() {
        bail!("--ports has {ports} ports: write at most {most}, the capacity of the ConfigMap of ports");
    }
    let client = client().await?;
    let _comparing = AbortOnDropHandle::new(tokio::spawn(compare_schemas(client.clone())));
    let placement = arguments.placement.into();
    let scope = Scope {
        class: Some(arguments.class.clone()),
        placement,
        namespaces: some(&arguments.watch_namespaces),
        only: None,
        home: Some(Home {
            namespace: arguments.namespace.clone(),
            allocations: (placement == Placement::Gateway)
                .then(|| (arguments.allocations.clone(), arguments.ports.clone())),
        }),
    };
    let tenancy = Arc::new(tenancy(&arguments));
    let mode = match arguments.placement {
        PlacementName::Host => ProcessMode::Host(tenancy),
        PlacementName::Gateway => ProcessMode::Gateway(Arc::new(Allocations::default()), tenancy),
    };
    let instruments = Arc::<Instruments>::default();
    let replica_name = arguments.run.replica_name.clone().or_else(|| Some(arguments.pod.clone()));
    let admin_access = cluster_access(&arguments, &client);
    let settings = Settings {
        class: arguments.class,
        placement,
        replicas: ObjectKey::new(&arguments.namespace, &arguments.replicas_service),
        namespace: arguments.namespace,
        pod: arguments.pod,
        lease: arguments.lease,
        allocations: arguments.allocations,
        anchor: arguments.anchor,
        workload: arguments.workload.map(|workload| match workload {
            cli::WorkloadName::Deployment(name) => Workload::Deployment(name),
            cli::WorkloadName::DaemonSet(name) => Workload::DaemonSet(name),
        }),
        selector: arguments.service_selector.into_iter().collect(),
        ports: arguments.ports,
        cluster_domain: arguments.cluster_domain,
        admin_token: AdminToken::in_file(arguments.admin_token_file),
        instruments: instruments.clone(),
    };
    serve(Serving {
        source: Source::cluster(Cluster::start(client.clone(), scope, mode, instruments.clone())),
        instruments,
        admin: AdminAddress::At(arguments.admin.socket_address()),
        admin_access,
        sharing: Sharing::Exclusive,
        takeover: None,
        empty: Empty::Waits,
        leading: Some(Leading { client, settings }),
        run: RunArgs { replica_name, ..arguments.run },
    })
    .await
}

fn cluster_access(arguments: &Controller, client: &Client) -> AdminAccess {
    match arguments.admin_authorization {
        ClusterAuthorization::Kubernetes => {
            AdminAccess::Kubernetes(Authorizer::new(client.clone(), &arguments.namespace))
        }
        ClusterAuthorization::None => AdminAccess::Everyone,
    }
}

/// `tcplb sidecar`: serves one load balancer of a cluster within a pod.
pub async fn sidecar(arguments: Sidecar) -> anyhow::Result<ExitCode> {
    let scope = Scope {
        class: None,
        placement: Placement::Sidecar,
        namespaces: Some(BTreeSet::from([arguments.load_balancer.namespace.to_string()])),
        only: Some(arguments.load_balancer),
        home: None,
    };
    let (mode, instruments) = (ProcessMode::Sidecar(arguments.address), Arc::<Instruments>::default());
    serve(Serving {
        source: Source::cluster(Cluster::start(client().await?, scope, mode, instruments.clone())),
        instruments,
        admin: arguments.admin,
        admin_access: local_access(arguments.admin_authorization),
        sharing: Sharing::Exclusive,
        takeover: None,
        empty: Empty::IsNotReady,
        leading: None,
        run: arguments.run,
    })
    .await
}

pub(super) async fn client() -> anyhow::Result<Client> {
    // It fails if a provider is already installed.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    connect().await.map_err(|error| {
        anyhow!("cannot find a cluster: {error}: run in a pod with a service account token, or set KUBECONFIG")
    })
}

/// Logs a warning if the installed schema is not that of this version. The API server then silently drops unknown
/// fields, such as `access`.
async fn compare_schemas(client: Client) {
    let mut reported = None;
    loop {
        let found = match installed_schema(client.clone(), CRD, api::SCHEMA_HASH).await {
            Ok(installed) => Ok(installed == Some(api::schema_hash())),
            Err(error) => Err(error.to_string()),
        };
        if reported.as_ref() != Some(&found) {
            match &found {
                Ok(true) => {}
                Ok(false) => warn!(
                    "the installed CustomResourceDefinition does not match this version, so the API server silently \
                     drops fields that it does not know: install the output of `tcplb crd`"
                ),
                Err(error) => warn!(%error, "cannot compare the installed CustomResourceDefinition with this version"),
            }
            reported = Some(found);
        }
        sleep(COMPARE_AGAIN).await;
    }
}

fn tenancy(arguments: &Controller) -> Tenancy {
    let tenants = &arguments.tenants;
    let networks = |networks: &[api::Network]| networks.iter().map(|network| network.0).collect();
    Tenancy {
        service_types: tenants.service_types.iter().map(|&name| name.into()).collect(),
        annotations: tenants.annotations.clone(),
        labels: tenants.labels.clone(),
        load_balancer_classes: tenants.load_balancer_classes.clone(),
        node_ports: tenants.node_ports,
        backend_networks: networks(&tenants.backend_networks),
        denied_networks: networks(&tenants.denied_networks),
        load_balancers_per_namespace: tenants.max_load_balancers_per_namespace,
        listeners_per_namespace: tenants.max_listeners_per_namespace,
        secrets_per_namespace: tenants.max_secrets_per_namespace.0,
        host_ports: tenants.host_ports.clone(),
        host_namespaces: some(&tenants.host_namespaces),
        replicas: Some(ObjectKey::new(&arguments.namespace, &arguments.replicas_service)),
        own_addresses: arguments.pod_addresses.iter().copied().chain(api_server()).collect(),
        admin_port: Some(arguments.admin.port),
        namespace: arguments.namespace.as_str().into(),
    }
}

/// The address of the API server for pods, from the kubelet's environment variables.
fn api_server() -> Option<std::net::IpAddr> {
    std::env::var("KUBERNETES_SERVICE_HOST").ok()?.parse().ok()
}

/// `None`: all.
fn some(names: &[String]) -> Option<BTreeSet<String>> {
    (!names.is_empty()).then(|| names.iter().cloned().collect())
}
