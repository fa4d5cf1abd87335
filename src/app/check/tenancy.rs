//! The permissions that the administrator of a cluster gives in the values of the Helm chart.

use std::{fs, path::PathBuf};

use anyhow::{Context, Error, anyhow};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{
    api::{Network, ServiceType},
    cli::port_range,
    source::{Tenancy, decoded},
};

/// Whatever an administrator could allow.
pub fn everything() -> Tenancy {
    let all = || vec!["*".to_owned()];
    Tenancy {
        service_types: [ServiceType::ClusterIp, ServiceType::NodePort, ServiceType::LoadBalancer].into(),
        annotations: all(),
        labels: all(),
        load_balancer_classes: all(),
        node_ports: true,
        backend_networks: ["0.0.0.0/0", "::/0"].iter().flat_map(|network| network.parse()).collect(),
        host_ports: vec![1..=u16::MAX],
        ..Tenancy::default()
    }
}

/// The permissions that the chart gives with these values files. Later ones count over earlier ones.
///
/// # Errors
/// If one cannot be read, or has something else there than the chart takes.
pub fn of_values(files: &[PathBuf]) -> anyhow::Result<Tenancy> {
    let (mut tenancy, mut host) = (Map::new(), Map::new());
    for file in files {
        let of_file = || file.display().to_string();
        let text = decoded(fs::read(file).with_context(of_file)?).map_err(Error::msg).with_context(of_file)?;
        let values: Value = serde_saphyr::from_str(&text).map_err(|error| anyhow!("{}: {error}", file.display()))?;
        let values = chart_values(&values);
        merge(&mut tenancy, &values["tenancy"]).with_context(of_file)?;
        merge(&mut host, &values["host"]).with_context(of_file)?;
    }
    let names = files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ");
    let tenancy: TenancyValues = typed("tenancy", tenancy).with_context(|| names.clone())?;
    let host: HostValues = typed("host", host).with_context(|| names.clone())?;
    tenancy.with_host(host).with_context(|| names)
}

/// The values of the chart, where they may be those of a chart that depends on it.
fn chart_values(values: &Value) -> &Value {
    let own = ["tenancy", "host"].iter().any(|section| values.get(section).is_some());
    if own { values } else { values.get("tcplb").filter(|nested| nested.is_object()).unwrap_or(values) }
}

fn merge(into: &mut Map<String, Value>, section: &Value) -> anyhow::Result<()> {
    match section {
        Value::Null => Ok(()),
        Value::Object(fields) => {
            into.extend(fields.clone());
            Ok(())
        }
        _ => Err(anyhow!("`tenancy` and `host` must hold fields (`name: value` lines)")),
    }
}

fn typed<T: DeserializeOwned>(section: &str, mut fields: Map<String, Value>) -> anyhow::Result<T> {
    fields.retain(|_, value| !value.is_null());
    serde_path_to_error::deserialize(Value::Object(fields)).map_err(|error| match error.path().to_string().as_str() {
        "." => anyhow!("{section}: {}", error.inner()),
        path => anyhow!("{section}.{path}: {}", error.inner()),
    })
}

/// `tenancy` of the chart, with its defaults.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct TenancyValues {
    allowed_service_types: Vec<ServiceType>,
    allowed_annotations: Vec<String>,
    allowed_labels: Vec<String>,
    allowed_load_balancer_classes: Vec<String>,
    allow_node_ports: bool,
    allowed_backend_networks: Vec<Network>,
    denied_backend_networks: Vec<Network>,
    max_load_balancers_per_namespace: Option<u32>,
    max_listeners_per_namespace: Option<u32>,
    max_secrets_per_namespace: u32,
}

impl Default for TenancyValues {
    fn default() -> Self {
        Self {
            allowed_service_types: vec![ServiceType::ClusterIp],
            allowed_annotations: Vec::new(),
            allowed_labels: Vec::new(),
            allowed_load_balancer_classes: Vec::new(),
            allow_node_ports: false,
            allowed_backend_networks: Vec::new(),
            denied_backend_networks: Vec::new(),
            max_load_balancers_per_namespace: None,
            max_listeners_per_namespace: None,
            max_secrets_per_namespace: 100,
        }
    }
}

/// What `host` of the chart says about load balancers.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct HostValues {
    enabled: bool,
    allowed_ports: Vec<String>,
    namespaces: Vec<String>,
}

impl TenancyValues {
    fn with_host(self, host: HostValues) -> anyhow::Result<Tenancy> {
        let ports = if host.enabled { host.allowed_ports } else { Vec::new() };
        let ports = ports.iter().map(|ports| port_range(ports)).collect::<Result<_, _>>();
        Ok(Tenancy {
            service_types: self.allowed_service_types.into_iter().collect(),
            annotations: self.allowed_annotations,
            labels: self.allowed_labels,
            load_balancer_classes: self.allowed_load_balancer_classes,
            node_ports: self.allow_node_ports,
            backend_networks: self.allowed_backend_networks.iter().map(|network| network.0).collect(),
            denied_networks: self.denied_backend_networks.iter().map(|network| network.0).collect(),
            load_balancers_per_namespace: self.max_load_balancers_per_namespace,
            listeners_per_namespace: self.max_listeners_per_namespace,
            secrets_per_namespace: Some(self.max_secrets_per_namespace),
            host_ports: ports.map_err(|error: String| anyhow!("host.allowedPorts: {error}"))?,
            host_namespaces: (!host.namespaces.is_empty()).then(|| host.namespaces.into_iter().collect()),
            ..Tenancy::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    fn read(text: &str) -> Result<Tenancy, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("values.yaml");
        fs::write(&file, text).unwrap();
        of_values(&[file]).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn the_defaults_are_those_of_the_chart() {
        let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/tcplb/values.yaml");
        assert_eq!(of_values(&[chart]).unwrap(), read("replicas: 3").unwrap());
    }

    #[test]
    fn values_of_a_chart_that_depends_on_this_one_count() {
        let text = "tenancy: {allowedServiceTypes: [LoadBalancer], maxListenersPerNamespace: 2}\n\
                    host: {enabled: true, allowedPorts: [\"5432\", 9000-9999], namespaces: [edge]}\n";
        let tenancy = read(text).unwrap();
        assert_eq!(tenancy.service_types, [ServiceType::LoadBalancer].into());
        assert_eq!((tenancy.listeners_per_namespace, tenancy.host_ports.len()), (Some(2), 2));
        assert_eq!(read(&format!("\u{feff}{text}")).unwrap(), tenancy, "a byte order mark means nothing");
        let nested = text.lines().map(|line| format!("  {line}\n")).collect::<String>();
        assert_eq!(read(&format!("tcplb:\n{nested}")).unwrap(), tenancy);
    }

    #[test]
    fn what_the_chart_would_not_take_is_refused() {
        for (text, sentence) in [
            ("tenancy: {allowedServiceType: [NodePort]}", "tenancy.allowedServiceType: unknown field"),
            ("tenancy: {allowedServiceTypes: [ExternalName]}", "tenancy.allowedServiceTypes[0]: unknown variant"),
            ("tenancy: {deniedBackendNetworks: [10.0.0.1/8]}", "write 10.0.0.0/8 for the network"),
            ("tenancy: [a]", "must hold fields"),
            ("host: {enabled: true, allowedPorts: [a]}", "host.allowedPorts: `a` is not a range of ports"),
        ] {
            let told = read(text).unwrap_err();
            assert!(told.contains("values.yaml: ") && told.contains(sentence), "{told}");
        }
        assert!(of_values(&["/nowhere/values.yaml".into()]).is_err());
    }
}
