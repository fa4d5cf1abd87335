//! The connection to the API server, selected like that of kubectl.

use std::{
    env,
    error::Error,
    fmt::{Debug, Display},
    io,
    time::Duration,
};

use anyhow::{anyhow, bail};
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use kube::{
    Api, Client, Config, Resource,
    api::{ApiResource, DynamicObject, ListParams},
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::permission::{AccessError, Permission};
use crate::{api::TcpLoadBalancer, cli::ClusterFlags, source::with_causes};

/// The beginning of the message about a kubeconfig that was read.
const UNUSABLE: &str = "the kubeconfig cannot be used";
/// The number of objects in an answer of the API server. More need several requests.
const PAGE: u32 = 500;

/// A cluster, and the selection of its objects.
#[derive(Clone)]
pub struct ClusterConnection {
    pub client: Client,
    /// For connections to replicas, which may be silent for longer than the time limit of a request.
    pub streams: Client,
    /// The namespace of the flag or the context.
    pub namespace: String,
    /// The namespace of the flag.
    pub namespace_flag: Option<String>,
    /// The time limit of each request.
    pub timeout: Option<Duration>,
    pub install_namespace: Option<String>,
    /// The label selector of the replica pods.
    pub selector: String,
}

impl ClusterConnection {
    /// Reads the configuration. Sends no request.
    pub async fn open(flags: &ClusterFlags) -> anyhow::Result<Self> {
        // It fails if a provider is already installed.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut config = config(flags).await?;
        let timeout = Some(flags.request_timeout.0).filter(|timeout| !timeout.is_zero());
        config.connect_timeout = timeout;
        if flags.as_user.is_some() {
            config.auth_info.impersonate.clone_from(&flags.as_user);
            config.auth_info.impersonate_groups = Some(flags.as_groups.clone()).filter(|groups| !groups.is_empty());
        }
        let namespace = flags.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let streams = config.clone();
        config.read_timeout = timeout;
        let client = |config: Config| Client::try_from(config).map_err(|error| failure(UNUSABLE, &error));
        Ok(Self {
            streams: client(streams)?,
            client: client(config)?,
            namespace,
            namespace_flag: flags.namespace.clone(),
            timeout,
            install_namespace: flags.install_namespace.clone(),
            selector: flags.selector.clone(),
        })
    }

    /// All objects of a namespace, or of all namespaces.
    pub async fn list<K>(&self, namespace: Option<&str>, labels: &str) -> Result<Vec<K>, AccessError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    {
        let api: Api<K> = match namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        all(&api, labels).await.map_err(|error| permission::<K>("list", namespace).error(&error))
    }

    /// All objects of a kind without namespaces.
    pub async fn list_cluster_wide<K>(&self, labels: &str) -> Result<Vec<K>, AccessError>
    where
        K: Resource<DynamicType = (), Scope = ClusterResourceScope> + Clone + DeserializeOwned + Debug,
    {
        let api: Api<K> = Api::all(self.client.clone());
        all(&api, labels).await.map_err(|error| permission::<K>("list", None).error(&error))
    }

    /// All objects of a kind as JSON, with the fields that this version does not know.
    pub async fn list_raw(
        &self,
        kind: &ResourceKind,
        namespace: Option<&str>,
        labels: &str,
    ) -> Result<Vec<Value>, AccessError> {
        let objects = all(&kind.api(&self.client, namespace), labels).await;
        let objects = objects.map_err(|error| kind.permission("list", namespace).error(&error))?;
        Ok(objects.iter().map(|object| kind.value(object)).collect())
    }

    /// An object as JSON. `None`: it does not exist.
    pub async fn get_raw(
        &self,
        kind: &ResourceKind,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Option<Value>, AccessError> {
        let object = kind.api(&self.client, namespace).get_opt(name).await;
        let object = object.map_err(|error| kind.permission("get", namespace).error(&error))?;
        Ok(object.map(|object| kind.value(&object)))
    }

    /// An object of a namespace. `None`: it does not exist.
    pub async fn get<K>(&self, namespace: &str, name: &str) -> Result<Option<K>, AccessError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        api.get_opt(name).await.map_err(|error| permission::<K>("get", Some(namespace)).error(&error))
    }

    /// A load balancer in the namespace of the flags.
    ///
    /// # Errors
    /// If it cannot be read or does not exist.
    pub async fn load_balancer(&self, name: &str) -> anyhow::Result<TcpLoadBalancer> {
        let namespace = &self.namespace;
        match self.get(namespace, name).await? {
            Some(object) => Ok(object),
            None => bail!("TcpLoadBalancer {namespace}/{name} does not exist: see `kubectl tcplb status -A`"),
        }
    }

    /// An object without a namespace. `None`: it does not exist.
    pub async fn get_cluster_wide<K>(&self, name: &str) -> Result<Option<K>, AccessError>
    where
        K: Resource<DynamicType = (), Scope = ClusterResourceScope> + Clone + DeserializeOwned + Debug,
    {
        let api: Api<K> = Api::all(self.client.clone());
        api.get_opt(name).await.map_err(|error| permission::<K>("get", None).error(&error))
    }
}

async fn all<K: Clone + DeserializeOwned + Debug>(api: &Api<K>, labels: &str) -> kube::Result<Vec<K>> {
    let mut parameters = ListParams::default().limit(PAGE).labels(labels);
    let mut objects = Vec::new();
    loop {
        let page = api.list(&parameters).await?;
        objects.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters.continue_token = Some(token),
            None => return Ok(objects),
        }
    }
}

/// A kind of objects that are read as JSON.
pub struct ResourceKind {
    /// `apps/v1`, or `v1` for the core group.
    pub api_version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
}

impl ResourceKind {
    pub const fn new(api_version: &'static str, kind: &'static str, plural: &'static str) -> Self {
        Self { api_version, kind, plural }
    }

    fn group(&self) -> &'static str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }

    fn permission(&self, verb: &'static str, namespace: Option<&str>) -> Permission {
        Permission::new(verb, self.group(), self.plural).in_namespace(namespace)
    }

    fn api(&self, client: &Client, namespace: Option<&str>) -> Api<DynamicObject> {
        let resource = ApiResource {
            group: self.group().into(),
            version: self.api_version.rsplit('/').next().unwrap_or_default().into(),
            api_version: self.api_version.into(),
            kind: self.kind.into(),
            plural: self.plural.into(),
        };
        match namespace {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
            None => Api::all_with(client.clone(), &resource),
        }
    }

    /// The object as JSON. Items of lists have no kind otherwise.
    fn value(&self, object: &DynamicObject) -> Value {
        let mut value = serde_json::to_value(object).unwrap_or_default();
        (value["apiVersion"], value["kind"]) = (self.api_version.into(), self.kind.into());
        value
    }
}

/// True if no kubeconfig is named, and there is none at the usual place.
fn is_absent(error: &KubeconfigError) -> bool {
    let is_missing = match error {
        KubeconfigError::FindPath => true,
        KubeconfigError::ReadConfig(error, _) => error.kind() == io::ErrorKind::NotFound,
        _ => false,
    };
    is_missing && env::var_os("KUBECONFIG").is_none()
}

async fn config(flags: &ClusterFlags) -> anyhow::Result<Config> {
    let options =
        KubeConfigOptions { context: flags.context.clone(), cluster: flags.cluster.clone(), user: flags.user.clone() };
    let selects_entry = flags.context.is_some() || flags.cluster.is_some() || flags.user.is_some();
    let kubeconfig = match &flags.kubeconfig {
        Some(file) => Kubeconfig::read_from(file)
            .map_err(|error| failure(format_args!("--kubeconfig {}", file.display()), &error))?,
        None => match Kubeconfig::read() {
            Ok(kubeconfig) => kubeconfig,
            // A file that exists or is named must not be replaced by another cluster.
            Err(error) if !is_absent(&error) || selects_entry => {
                return Err(failure("the kubeconfig cannot be read", &error));
            }
            Err(error) => {
                return Config::incluster().map_err(|_| {
                    anyhow!("cannot find a cluster: {error}: set KUBECONFIG or --kubeconfig, or run in a pod")
                });
            }
        },
    };
    Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(|error| failure(UNUSABLE, &error))
}

/// An error of the kubeconfig with its causes. Most errors of the library have the texts of their causes, which a chain
/// would repeat.
fn failure(what: impl Display, error: &dyn Error) -> anyhow::Error {
    anyhow!("{what}: {}", with_causes(error))
}

fn permission<K: Resource<DynamicType = ()>>(verb: &'static str, namespace: Option<&str>) -> Permission {
    // Both are static texts of the types.
    let text = |text: std::borrow::Cow<'static, str>| match text {
        std::borrow::Cow::Borrowed(text) => text,
        std::borrow::Cow::Owned(_) => "",
    };
    Permission::new(verb, text(K::group(&())), text(K::plural(&()))).in_namespace(namespace)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::KubectlCli;

    #[tokio::test]
    async fn a_missing_kubeconfig_is_named_with_its_cause_once() {
        let arguments = ["kubectl-tcplb", "status", "--kubeconfig", "/does/not/exist"];
        let flags = KubectlCli::parse_from(arguments).kubectl.cluster;
        let message = format!("{:#}", config(&flags).await.unwrap_err());
        assert!(message.starts_with("--kubeconfig /does/not/exist: "), "{message}");
        assert_eq!(message.matches("No such file or directory").count(), 1, "{message}");
    }
}
