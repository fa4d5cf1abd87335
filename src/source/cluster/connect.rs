use std::{error::Error, time::Duration};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, Client, Config};

/// Longer than any watch is silent.
const READ_TIMEOUT: Duration = Duration::from_secs(90);

/// A client for the cluster that `KUBECONFIG` or the pod's service account names. Needs rustls' provider to be
/// installed.
///
/// # Errors
/// If there is neither, or it cannot be read.
pub async fn connect() -> Result<Client, Box<dyn Error + Send + Sync>> {
    let mut config = Config::infer().await?;
    // A connection whose other side has vanished would be waited for, for as long as the kernel tries.
    config.connect_timeout = Some(Duration::from_secs(10));
    config.read_timeout = Some(READ_TIMEOUT);
    config.reset_reader_on_write = true;
    Ok(Client::try_from(config)?)
}

/// An annotation of the schema that is installed in the cluster.
///
/// # Errors
/// If it cannot be read.
pub async fn installed_schema(client: Client, crd: &str, annotation: &str) -> kube::Result<Option<String>> {
    let crd = Api::<CustomResourceDefinition>::all(client).get_opt(crd).await?;
    Ok(crd.and_then(|crd| crd.metadata.annotations?.remove(annotation)))
}
