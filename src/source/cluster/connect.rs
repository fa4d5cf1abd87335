use std::{error::Error, time::Duration};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, Client, Config};

/// Longer than the silence of any watch.
const READ_TIMEOUT: Duration = Duration::from_secs(90);

/// A client for the cluster in `KUBECONFIG`, or of the pod's service account. Requires an installed rustls provider.
///
/// # Errors
/// If there is no configuration, or it cannot be read.
pub async fn connect() -> Result<Client, Box<dyn Error + Send + Sync>> {
    let mut config = Config::infer().await?;
    // Without a timeout, a connection to a vanished peer waits as long as the kernel retries.
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
