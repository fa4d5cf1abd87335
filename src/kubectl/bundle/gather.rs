//! Reads the parts of a bundle from the API server and the replicas.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    io::{self, Write},
    str,
};

use anyhow::bail;
use futures::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::LogParams};
use serde_json::{Value, json};

use super::{archive::Archive, names::NameHasher, secrets::SecretTexts};
use crate::{
    api,
    cli::{BundleFlags, DoctorFlags, DoctorOutput},
    kubectl::{
        admin_pages::page,
        connection::{ClusterConnection, ResourceKind},
        doctor,
        permission::Permission,
        replica::{ReplicaPod, replicas},
    },
    model::ObjectKey,
    world::{SERVICE_NAME, managed_service},
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
/// The end of the names of files with documents.
const JSON: &str = ".json";
/// The number of replicas that are read at a time.
const CONCURRENT: usize = 4;
/// The maximum number of missing parts in an error.
const MAX_NAMED: usize = 5;

/// The parts with names and secret texts that other parts may repeat. They are read before anything is written.
pub struct BundleSource {
    load_balancers: Vec<Value>,
    replicas: Vec<ReplicaPod>,
    /// The objects about load balancers, and those in the namespaces of the replicas that name other objects, by file.
    objects: BTreeMap<String, Vec<Value>>,
    /// The files of each replica, in their order. The documents of all pages are held until the end: at most 64 MiB of
    /// JSON for each page.
    pages: Vec<ReplicaFiles>,
    /// A sentence for each missing part, except `pages`.
    missing: Vec<String>,
}

impl BundleSource {
    /// # Errors
    /// If neither load balancers nor replicas can be read.
    pub async fn read(connection: &ClusterConnection, flags: &BundleFlags) -> anyhow::Result<Self> {
        let listed = connection.list_raw(&LOAD_BALANCERS, connection.namespace_flag.as_deref(), "").await;
        let found = replicas(connection).await;
        if let (Err(error), Err(_)) = (&listed, &found) {
            return Err(error.clone().into());
        }
        let mut missing = Vec::new();
        let load_balancers = or_missing(&mut missing, "load-balancers.json", listed);
        let replicas = or_missing(&mut missing, "replicas", found);
        let mut objects = tenant_objects(connection, &load_balancers, &mut missing).await;
        objects.extend(installation_objects(connection, &installations(&replicas), &mut missing).await);
        let reading = replicas.iter().map(|replica| pages(connection, flags, replica));
        let pages: Vec<ReplicaFiles> = stream::iter(reading).buffered(CONCURRENT).collect().await;
        Ok(Self { load_balancers, replicas, objects, pages, missing })
    }

    /// The names to be hashed.
    ///
    /// # Errors
    /// If a part with names cannot be read, because others may repeat them.
    pub fn names(&self) -> anyhow::Result<NameHasher> {
        let unknown = self.unknown_names();
        if !unknown.is_empty() {
            let mut listed = unknown[..unknown.len().min(MAX_NAMED)].join("; ");
            if let more @ 1.. = unknown.len().saturating_sub(MAX_NAMED) {
                listed += &format!("; and {more} more");
            }
            bail!(
                "--hash-names has to read all names first, and some cannot be read: {listed}: correct this, or omit \
                 --hash-names"
            );
        }
        let mut names = NameHasher::new()?;
        installations(&self.replicas).iter().for_each(|namespace| names.keep(namespace));
        self.replicas.iter().for_each(|replica| names.keep(&replica.key.name));
        self.replicas.iter().filter_map(|replica| replica.node.as_deref()).for_each(|node| names.add(node));
        self.load_balancers.iter().for_each(|object| names.add_object(object));
        self.objects.values().flatten().for_each(|object| names.add_object(object));
        services(&self.load_balancers).keys().for_each(|namespace| names.add(namespace));
        for content in self.contents() {
            match content {
                ReplicaFile::Document(page) => names.add_page(page),
                ReplicaFile::Text(text) => names.add_text(text),
                // `unknown_names` has reported these.
                ReplicaFile::NotJson(_) => {}
            }
        }
        self.managed_names().iter().for_each(|name| names.add(name));
        Ok(names)
    }

    /// A sentence for each part with names that could not be read.
    fn unknown_names(&self) -> Vec<String> {
        let mut unknown = self.missing.clone();
        for (replica, files) in self.replicas.iter().zip(&self.pages) {
            for (file, content) in files.iter().filter(|(file, _)| file.ends_with(JSON)) {
                let path = format!("{}/{file}", folder(replica));
                match content {
                    Ok(ReplicaFile::NotJson(_)) => unknown.push(format!("{path}: it is not JSON")),
                    Ok(ReplicaFile::Document(_) | ReplicaFile::Text(_)) => {}
                    Err(error) => unknown.push(format!("{path}: {error}")),
                }
            }
        }
        unknown
    }

    /// The texts of health checks.
    pub fn secrets(&self) -> SecretTexts {
        let mut secrets = SecretTexts::default();
        self.load_balancers.iter().for_each(|object| secrets.add_checks(&object["spec"]));
        self.documents().for_each(|page| secrets.add_checks(page));
        secrets
    }

    /// The reports and snapshots of the replicas.
    fn documents(&self) -> impl Iterator<Item = &Value> {
        self.contents().filter_map(|content| match content {
            ReplicaFile::Document(page) => Some(page),
            ReplicaFile::NotJson(_) | ReplicaFile::Text(_) => None,
        })
    }

    /// The contents of the files of the replicas.
    fn contents(&self) -> impl Iterator<Item = &ReplicaFile> {
        self.pages.iter().flatten().filter_map(|(_, content)| content.as_ref().ok())
    }

    /// The names of the managed Services contain those of load balancers.
    fn managed_names(&self) -> Vec<String> {
        let declared = self.load_balancers.iter().filter_map(|object| {
            let metadata = &object["metadata"];
            Some(ObjectKey::new(metadata["namespace"].as_str()?, metadata["name"].as_str()?))
        });
        let mut keys: Vec<ObjectKey> = declared.collect();
        for page in self.documents() {
            let views = page["loadBalancers"].as_array().into_iter().flatten();
            let served = views.filter_map(|view| view["name"].as_str()?.split_once('/'));
            keys.extend(served.map(|(namespace, name)| ObjectKey::new(namespace, name)));
        }
        keys.iter().map(managed_service::name).collect()
    }
}

/// The namespaces of the replicas.
fn installations(replicas: &[ReplicaPod]) -> BTreeSet<String> {
    replicas.iter().map(|replica| replica.key.namespace.to_string()).collect()
}

/// The Services that load balancers name, by namespace.
fn services(load_balancers: &[Value]) -> BTreeMap<String, BTreeSet<String>> {
    let mut services: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for object in load_balancers {
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
        let of_namespace = services.entry(namespace.to_owned()).or_default();
        let backends = object["spec"]["backends"].as_array().into_iter().flatten();
        of_namespace.extend(backends.filter_map(|backend| backend["service"]["name"].as_str()).map(str::to_owned));
    }
    services
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
    archive.json("bundle.json", description(flags))?;
    archive.objects("load-balancers.json", source.load_balancers.clone())?;
    for (path, objects) in &source.objects {
        archive.objects(path, objects.clone())?;
    }
    let crd = connection.get_raw(&CRD, None, CRD_NAME).await;
    if let Some(mut crd) = or_missing(&mut missing, "crd.json", crd) {
        // The schema is that of the version; its hash is an annotation.
        crd["spec"] = json!({"versions": "<omitted>"});
        archive.json("crd.json", crd)?;
    }
    archive.json("doctor.json", doctor_document(connection).await)?;
    for namespace in installations(&source.replicas) {
        installation(connection, &source, &namespace, (archive, &mut missing)).await?;
    }
    write_pages(source, (archive, &mut missing))?;
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

/// The Services of backends, their EndpointSlices, and Events about load balancers, by file.
async fn tenant_objects(
    connection: &ClusterConnection,
    load_balancers: &[Value],
    missing: &mut Vec<String>,
) -> BTreeMap<String, Vec<Value>> {
    let mut files = BTreeMap::new();
    for (namespace, names) in services(load_balancers) {
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

/// The Services, EndpointSlices and Events in the namespaces of the replicas, by file. The names of managed Services
/// contain those of load balancers, also of removed ones.
async fn installation_objects(
    connection: &ClusterConnection,
    namespaces: &BTreeSet<String>,
    missing: &mut Vec<String>,
) -> BTreeMap<String, Vec<Value>> {
    let mut files = BTreeMap::new();
    for namespace in namespaces {
        for kind in [&SERVICES, &SLICES, &EVENTS] {
            let path = format!("{}/{}.json", installation_folder(namespace), kind.plural);
            let objects = connection.list_raw(kind, Some(namespace), "").await;
            let objects = or_missing(missing, &path, objects);
            files.insert(path, objects);
        }
    }
    files
}

fn installation_folder(namespace: &str) -> String {
    format!("installation/{namespace}")
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

/// Writes the pods, the workloads, the Lease and the ConfigMap in the namespace of an installation.
async fn installation<W: Write>(
    connection: &ClusterConnection,
    source: &BundleSource,
    namespace: &str,
    (archive, missing): Output<'_, W>,
) -> io::Result<()> {
    let folder = installation_folder(namespace);
    for kind in [&PODS].into_iter().chain(&WORKLOADS) {
        let path = format!("{folder}/{}.json", kind.plural);
        let objects = connection.list_raw(kind, Some(namespace), &connection.selector).await;
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

/// The files of a replica: their contents, or the reasons why they are missing.
type ReplicaFiles = Vec<(&'static str, Result<ReplicaFile, String>)>;

/// The content of a file of a replica. Documents are parsed once, when they are read.
#[derive(Debug)]
enum ReplicaFile {
    /// A report or a snapshot.
    Document(Value),
    /// A report or a snapshot that cannot be parsed.
    NotJson(String),
    /// Metrics or a log.
    Text(String),
}

impl ReplicaFile {
    fn of_page(file: &str, body: &[u8]) -> Self {
        let text = || String::from_utf8_lossy(body).into_owned();
        if !file.ends_with(JSON) {
            return Self::Text(text());
        }
        serde_json::from_slice(body).map_or_else(|_| Self::NotJson(text()), Self::Document)
    }
}

async fn pages(connection: &ClusterConnection, flags: &BundleFlags, replica: &ReplicaPod) -> ReplicaFiles {
    let mut files = Vec::new();
    for (path, file) in PAGES {
        let answer = page(connection, replica, path).await.map_err(|error| error.to_string());
        files.push((file, answer.map(|page| ReplicaFile::of_page(file, &page.body))));
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
) -> Result<ReplicaFile, String> {
    let pods: Api<Pod> = Api::namespaced(connection.client.clone(), &replica.key.namespace);
    let parameters = LogParams {
        container: Some(replica.container.clone()),
        previous,
        tail_lines: Some(flags.log_lines),
        timestamps: true,
        ..LogParams::default()
    };
    let permission = || Permission::new("get", "", "pods/log").in_namespace(Some(&replica.key.namespace));
    let text = pods.logs(&replica.key.name, &parameters).await;
    text.map(ReplicaFile::Text).map_err(|error| permission().error(&error).to_string())
}

/// The folder of a replica.
fn folder(replica: &ReplicaPod) -> String {
    format!("replicas/{}/{}", replica.key.namespace, replica.key.name)
}

/// Writes the files of the replicas.
fn write_pages<W: Write>(source: BundleSource, (archive, missing): Output<'_, W>) -> io::Result<()> {
    for (replica, files) in source.replicas.iter().zip(source.pages) {
        for (file, content) in files {
            let path = format!("{}/{file}", folder(replica));
            match content {
                Ok(ReplicaFile::Document(document)) => archive.json(&path, document)?,
                Ok(ReplicaFile::NotJson(text) | ReplicaFile::Text(text)) => archive.text(&path, &text)?,
                Err(error) => missing.push(format!("{path}: {error}")),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubectl::{bundle::archive, replica};

    /// One replica that serves namespaces `shop` and `bank`. Only the load balancers of `shop` were listed.
    fn source() -> BundleSource {
        let exchange = json!({"send": {"text": "AUTH hunter2"}, "expect": {"text": "opensesame"}});
        let load_balancer = json!({
            "kind": "TcpLoadBalancer",
            "metadata": {"namespace": "shop", "name": "pg"},
            "spec": {"healthCheck": {"active": {"type": "Exchange", "exchange": exchange}}},
        });
        let view = |name: &str| {
            json!({
                "name": name,
                "applied": {
                    "activeCheck": {"probe": {"exchange": {"send": "(hidden)", "expect": "+OLDER"}}},
                    "backends": {"ledger-db": {}},
                },
                "endpoints": [{"lastFailure": "answered 9 other bytes, expected `swordfish`"}],
            })
        };
        let snapshot = json!({"loadBalancers": [view("shop/pg"), view("bank/ledger")]});
        let report = json!({"loadBalancers": {"1": {"here": ["bank/ledger: got opensesame"]}}});
        let log = "upstream=bank/ledger reason=answered nothing, expected `opensesame`\nAUTH hunter2 +OLDER\n";
        let metrics = "tcplb_x{load_balancer_namespace=\"bank\",load_balancer=\"gone-lb\"} 1\n";
        let regarding = json!({"kind": "Service", "namespace": "tcplb-system", "name": "gone-lb-managed"});
        let event = json!({"kind": "Event", "metadata": {"name": "gone-lb-managed.18"}, "regarding": regarding});
        let files = vec![
            ("report.json", Ok(ReplicaFile::Document(report))),
            ("snapshot.json", Ok(ReplicaFile::Document(snapshot))),
            ("metrics.txt", Ok(ReplicaFile::Text(metrics.to_owned()))),
            ("log.txt", Ok(ReplicaFile::Text(log.to_owned()))),
        ];
        BundleSource {
            load_balancers: vec![load_balancer],
            replicas: vec![ReplicaPod::read(&replica::tests::pod("tcplb-1", &[])).unwrap()],
            objects: [("installation/tcplb-system/events.json".to_owned(), vec![event])].into(),
            pages: vec![files],
            missing: Vec::new(),
        }
    }

    /// The files of the replica.
    fn written(source: BundleSource, names: Option<NameHasher>) -> BTreeMap<String, String> {
        let mut archive = Archive::new(Vec::new(), "bundle", 0, names, source.secrets());
        write_pages(source, (&mut archive, &mut Vec::new())).unwrap();
        archive::unpacked(&archive.finish().unwrap())
    }

    #[test]
    fn names_of_all_tenants_are_hashed_in_the_files_of_replicas() {
        let source = source();
        let names = source.names().unwrap();
        let bank = names.hash("bank");
        let files = written(source, Some(names));
        assert_eq!(files.len(), 4);
        for (path, text) in files {
            assert!(path.starts_with("bundle/replicas/tcplb-system/tcplb-1/"), "{path}");
            assert!(text.contains(&bank), "{path}: {text}");
            for name in ["bank", "ledger", "ledger-db", "shop", "gone-lb"] {
                assert!(!text.contains(name), "{name} in {path}: {text}");
            }
        }
    }

    #[test]
    fn names_in_the_namespace_of_the_replicas_are_hashed() {
        let names = source().names().unwrap();
        assert_eq!(names.text("gone-lb-managed tcplb-1"), format!("{} tcplb-1", names.hash("gone-lb-managed")));
    }

    #[test]
    fn texts_of_checks_are_removed_from_the_files_of_replicas() {
        for (path, text) in written(source(), None) {
            assert!(text.contains("bank"), "{path}: {text}");
            for secret in ["hunter2", "opensesame", "+OLDER", "swordfish"] {
                assert!(!text.contains(secret), "{secret} in {path}: {text}");
            }
        }
    }

    #[test]
    fn a_page_that_is_not_json_is_written_as_text() {
        let mut truncated = source();
        truncated.pages[0][0].1 = Ok(ReplicaFile::of_page("report.json", b"{ opensesame"));
        let files = written(truncated, None);
        assert_eq!(files["bundle/replicas/tcplb-system/tcplb-1/report.json"], "{ <removed>");
    }

    #[test]
    fn names_are_not_hashed_while_some_of_them_are_unknown() {
        let error = |source: BundleSource| source.names().map(drop).unwrap_err().to_string();
        let mut denied = source();
        denied.missing.push("load-balancers.json: this user may not list tcploadbalancers".to_owned());
        let begin = "--hash-names has to read all names first, and some cannot be read: ";
        let expected = format!(
            "{begin}load-balancers.json: this user may not list tcploadbalancers: correct this, or omit --hash-names"
        );
        assert_eq!(error(denied), expected);

        let mut silent = source();
        silent.pages[0][1].1 = Err("no answer".to_owned());
        assert!(error(silent).contains("replicas/tcplb-system/tcplb-1/snapshot.json: no answer"));
        let mut truncated = source();
        truncated.pages[0][0].1 = Ok(ReplicaFile::of_page("report.json", b"{"));
        assert!(error(truncated).contains("replicas/tcplb-system/tcplb-1/report.json: it is not JSON"));
        let mut without_log = source();
        without_log.pages[0][3].1 = Err("no log".to_owned());
        assert!(without_log.names().is_ok(), "a log declares no names");
    }
}
