//! Reads the parts of a bundle from the API server and the replicas.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    io::{self, Write},
    str,
};

use futures::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::LogParams};
use serde_json::{Value, json};

use super::archive::Archive;
use crate::{
    api,
    cli::{BundleFlags, DoctorFlags, DoctorOutput},
    kubectl::{
        admin_pages::page,
        connection::{ClusterConnection, ResourceKind},
        doctor,
        replica::{ReplicaPod, replicas},
        right::Right,
    },
    world::SERVICE_NAME,
};

const LOAD_BALANCERS: ResourceKind = ResourceKind::new("tcplb.io/v1alpha1", "TcpLoadBalancer", "tcploadbalancers");
const PODS: ResourceKind = ResourceKind::new("v1", "Pod", "pods");
const SERVICES: ResourceKind = ResourceKind::new("v1", "Service", "services");
const SLICES: ResourceKind = ResourceKind::new("discovery.k8s.io/v1", "EndpointSlice", "endpointslices");
const EVENTS: ResourceKind = ResourceKind::new("events.k8s.io/v1", "Event", "events");
const LEASES: ResourceKind = ResourceKind::new("coordination.k8s.io/v1", "Lease", "leases");
const CONFIG_MAPS: ResourceKind = ResourceKind::new("v1", "ConfigMap", "configmaps");
const WORKLOADS: [ResourceKind; 2] = [
    ResourceKind::new("apps/v1", "Deployment", "deployments"),
    ResourceKind::new("apps/v1", "DaemonSet", "daemonsets"),
];
const CRD: ResourceKind =
    ResourceKind::new("apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions");
const CRD_NAME: &str = "tcploadbalancers.tcplb.io";

/// The admin pages of a replica, and their files.
const PAGES: [(&str, &str); 3] =
    [("/report", "report.json"), ("/snapshot", "snapshot.json"), ("/metrics", "metrics.txt")];
/// The number of replicas that are read at a time: their pages are in memory.
const CONCURRENT: usize = 4;

/// The objects that determine the other parts.
pub struct BundleSource {
    load_balancers: Vec<Value>,
    replicas: Vec<ReplicaPod>,
    missing: Vec<String>,
}

impl BundleSource {
    /// # Errors
    /// If neither load balancers nor replicas can be read.
    pub async fn read(connection: &ClusterConnection) -> anyhow::Result<Self> {
        let objects = connection.list_raw(&LOAD_BALANCERS, connection.namespace_flag.as_deref(), "").await;
        let found = replicas(connection).await;
        if let (Err(error), Err(_)) = (&objects, &found) {
            return Err(error.clone().into());
        }
        let mut missing = Vec::new();
        let load_balancers = or_missing(&mut missing, "load-balancers.json", objects);
        let replicas = or_missing(&mut missing, "replicas", found);
        Ok(Self { load_balancers, replicas, missing })
    }

    fn installations(&self) -> BTreeSet<String> {
        self.replicas.iter().map(|replica| replica.key.namespace.to_string()).collect()
    }

    /// The Services that load balancers name, by namespace.
    fn services(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut services: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for object in &self.load_balancers {
            let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
            let of_namespace = services.entry(namespace.to_owned()).or_default();
            let backends = object["spec"]["backends"].as_array().into_iter().flatten();
            of_namespace.extend(backends.filter_map(|backend| backend["service"]["name"].as_str()).map(str::to_owned));
        }
        services
    }
}

fn or_missing<T: Default>(missing: &mut Vec<String>, part: &str, read: Result<T, impl Display>) -> T {
    read.unwrap_or_else(|error| {
        missing.push(format!("{part}: {error}"));
        T::default()
    })
}

/// Writes all parts. Returns a sentence for each missing one.
pub async fn write<W: Write>(
    connection: &ClusterConnection,
    flags: &BundleFlags,
    source: BundleSource,
    archive: &mut Archive<W>,
) -> anyhow::Result<Vec<String>> {
    let mut missing = source.missing.clone();
    // All names must be known before anything is written.
    let tenants = tenant_objects(connection, &source, &mut missing).await;
    if let Some(names) = &mut archive.names {
        source.installations().iter().for_each(|namespace| names.keep(namespace));
        source.replicas.iter().for_each(|replica| names.keep(&replica.key.name));
        source.replicas.iter().filter_map(|replica| replica.node.as_deref()).for_each(|node| names.add(node));
        source.load_balancers.iter().for_each(|object| names.add_object(object));
        tenants.values().flatten().for_each(|object| names.add_object(object));
        source.services().keys().for_each(|namespace| names.add(namespace));
        managed_names(&source).iter().for_each(|name| names.add(name));
    }
    archive.json("bundle.json", description(flags))?;
    archive.objects("load-balancers.json", source.load_balancers.clone())?;
    for (path, objects) in tenants {
        archive.objects(&path, objects)?;
    }
    let crd = connection.get_raw(&CRD, None, CRD_NAME).await;
    if let Some(mut crd) = or_missing(&mut missing, "crd.json", crd) {
        // The schema is that of the version; its hash is an annotation.
        crd["spec"] = json!({"versions": "<omitted>"});
        archive.json("crd.json", crd)?;
    }
    archive.json("doctor.json", doctor_document(connection).await)?;
    for namespace in source.installations() {
        installation(connection, &source, &namespace, (archive, &mut missing)).await?;
    }
    let pages = source.replicas.iter().map(async |replica| (replica, pages(connection, flags, replica).await));
    let mut pages = stream::iter(pages).buffered(CONCURRENT);
    while let Some((replica, files)) = pages.next().await {
        let folder = format!("replicas/{}/{}", replica.key.namespace, replica.key.name);
        write_pages(&folder, files, (archive, &mut missing))?;
    }
    archive.text("missing.txt", &missing.iter().map(|part| format!("{part}\n")).collect::<String>())?;
    Ok(missing)
}

fn description(flags: &BundleFlags) -> Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "time": Timestamp::now().to_string(),
        "namesAreHashed": flags.hash_names,
        "logLines": flags.log_lines,
    })
}

/// The names of the managed Services contain those of load balancers.
fn managed_names(source: &BundleSource) -> Vec<String> {
    let keys = source.load_balancers.iter().filter_map(|object| {
        let metadata = &object["metadata"];
        Some(crate::model::ObjectKey::new(metadata["namespace"].as_str()?, metadata["name"].as_str()?))
    });
    keys.map(|key| crate::world::managed_service::name(&key)).collect()
}

/// The Services of backends, their EndpointSlices, and Events about load balancers, by file.
async fn tenant_objects(
    connection: &ClusterConnection,
    source: &BundleSource,
    missing: &mut Vec<String>,
) -> BTreeMap<String, Vec<Value>> {
    let mut files = BTreeMap::new();
    for (namespace, names) in source.services() {
        let is_named = |object: &Value| object["metadata"]["name"].as_str().is_some_and(|name| names.contains(name));
        let is_of_service = |object: &Value| {
            object["metadata"]["labels"][SERVICE_NAME].as_str().is_some_and(|name| names.contains(name))
        };
        let is_about = |object: &Value| object["regarding"]["kind"] == LOAD_BALANCERS.kind;
        let filters: [&dyn Fn(&Value) -> bool; 3] = [&is_named, &is_of_service, &is_about];
        let parts = [&SERVICES, &SLICES, &EVENTS].into_iter().zip(filters);
        for (kind, belongs) in parts {
            let path = format!("namespaces/{namespace}/{}.json", kind.plural);
            let objects = connection.list_raw(kind, Some(&namespace), "").await;
            let objects = or_missing(missing, &path, objects);
            files.insert(path, objects.into_iter().filter(|object| belongs(object)).collect());
        }
    }
    files
}

async fn doctor_document(connection: &ClusterConnection) -> Value {
    let flags = DoctorFlags {
        pre: false,
        wait: api::Duration(std::time::Duration::ZERO),
        strict: false,
        skip_connections: true,
        output: DoctorOutput::Json,
    };
    let document = doctor::document(connection, &flags).await;
    serde_json::to_value(document).unwrap_or_default()
}

/// An archive, and the missing parts.
type Output<'a, W> = (&'a mut Archive<W>, &'a mut Vec<String>);

/// The objects in the namespace of an installation.
async fn installation<W: Write>(
    connection: &ClusterConnection,
    source: &BundleSource,
    namespace: &str,
    (archive, missing): Output<'_, W>,
) -> io::Result<()> {
    let folder = format!("installation/{namespace}");
    let selected = [(&PODS, connection.selector.as_str()), (&SERVICES, ""), (&SLICES, ""), (&EVENTS, "")];
    let workloads = WORKLOADS.iter().map(|kind| (kind, connection.selector.as_str()));
    for (kind, labels) in selected.into_iter().chain(workloads) {
        let path = format!("{folder}/{}.json", kind.plural);
        let objects = connection.list_raw(kind, Some(namespace), labels).await;
        archive.objects(&path, or_missing(missing, &path, objects))?;
    }
    let of_namespace = || source.replicas.iter().filter(|replica| *replica.key.namespace == *namespace);
    let leases = of_namespace().map(|replica| (&LEASES, replica.settings.lease.as_str()));
    let maps = of_namespace().map(|replica| (&CONFIG_MAPS, replica.settings.allocations.as_str()));
    let named: BTreeMap<String, (&ResourceKind, &str)> = leases
        .chain(maps)
        .map(|(kind, name)| (format!("{folder}/{}/{name}.json", kind.plural), (kind, name)))
        .collect();
    for (path, (kind, name)) in named {
        let object = connection.get_raw(kind, Some(namespace), name).await;
        if let Some(object) = or_missing(missing, &path, object) {
            archive.json(&path, object)?;
        }
    }
    Ok(())
}

/// The files of a replica: texts, or the reasons why they are missing.
type ReplicaFiles = Vec<(&'static str, Result<String, String>)>;

async fn pages(connection: &ClusterConnection, flags: &BundleFlags, replica: &ReplicaPod) -> ReplicaFiles {
    let mut files = Vec::new();
    for (path, file) in PAGES {
        let text = page(connection, replica, path).await.map_err(|error| error.to_string());
        files.push((file, text.map(|page| String::from_utf8_lossy(&page.body).into_owned())));
    }
    files.push(("log.txt", log(connection, flags, replica, false).await));
    if replica.restarts > 0 {
        files.push(("log-of-previous-container.txt", log(connection, flags, replica, true).await));
    }
    files
}

async fn log(
    connection: &ClusterConnection,
    flags: &BundleFlags,
    replica: &ReplicaPod,
    previous: bool,
) -> Result<String, String> {
    let pods: Api<Pod> = Api::namespaced(connection.client.clone(), &replica.key.namespace);
    let parameters = LogParams {
        container: Some(replica.container.clone()),
        previous,
        tail_lines: Some(flags.log_lines),
        timestamps: true,
        ..LogParams::default()
    };
    let right = || Right::new("get", "", "pods/log").in_namespace(Some(&replica.key.namespace));
    pods.logs(&replica.key.name, &parameters).await.map_err(|error| right().error(&error).to_string())
}

fn write_pages<W: Write>(folder: &str, files: ReplicaFiles, (archive, missing): Output<'_, W>) -> io::Result<()> {
    for (file, text) in files {
        let path = format!("{folder}/{file}");
        match text.map(|text| (serde_json::from_str::<Value>(&text), text)) {
            Ok((Ok(document), _)) if file.ends_with(".json") => archive.json(&path, document)?,
            Ok((_, text)) => archive.text(&path, &text)?,
            Err(error) => missing.push(format!("{path}: {error}")),
        }
    }
    Ok(())
}
