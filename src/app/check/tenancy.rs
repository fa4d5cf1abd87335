//! The administrator's permissions in the values of the Helm chart.

use std::{
    collections::BTreeSet,
    fs,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use anyhow::{Context, Error, anyhow};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{
    api::{Network, ServiceType},
    cli::port_range,
    source::{decoded, documents::yaml_value, schema::near},
    world::Tenancy,
};

/// All permissions that an administrator could grant.
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

/// The permissions of the chart with these values files. Later files take precedence over earlier ones.
///
/// # Errors
/// If a file cannot be read, or its permissions are not valid values of the chart.
pub fn of_values(files: &[PathBuf]) -> anyhow::Result<Tenancy> {
    let names = files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ");
    let values = files.iter().map(|file| read_values(file)).collect::<Result<Vec<_>, _>>()?;
    let dependency = dependency(&values).with_context(|| names.clone())?;
    let (mut tenancy, mut host) = (Map::new(), Map::new());
    for (file, values) in files.iter().zip(&values) {
        let of_file = || file.display().to_string();
        let values = dependency.map_or(values, |name| &values[name]);
        check_keys("", values, &VALUES).with_context(of_file)?;
        check_keys("host.", &values["host"], &HOST_VALUES).with_context(of_file)?;
        merge(&mut tenancy, &values["tenancy"]).with_context(of_file)?;
        merge(&mut host, &values["host"]).with_context(of_file)?;
    }
    let tenancy: TenancyValues = typed("tenancy", tenancy).with_context(|| names.clone())?;
    let host: HostValues = typed("host", host).with_context(|| names.clone())?;
    tenancy.with_host(host).with_context(|| names)
}

/// The top-level values of the chart.
const VALUES: [&str; 46] = [
    "admin",
    "affinity",
    "autoscaling",
    "class",
    "clusterDomain",
    "commonLabels",
    "crd",
    "enabled",
    "extraArgs",
    "extraEnv",
    "fullnameOverride",
    "global",
    "host",
    "image",
    "imagePullSecrets",
    "kind",
    "lease",
    "livenessProbe",
    "log",
    "maxDrainSeconds",
    "metrics",
    "minReadySeconds",
    "nameOverride",
    "networkPolicy",
    "nodeSelector",
    "podAnnotations",
    "podDisruptionBudget",
    "podLabels",
    "podSecurityContext",
    "ports",
    "priorityClassName",
    "rbac",
    "readinessProbe",
    "replicas",
    "resources",
    "secrets",
    "securityContext",
    "serviceAccount",
    "shutdownDelaySeconds",
    "startupProbe",
    "tenancy",
    "tolerations",
    "topologySpreadConstraints",
    "updateStrategy",
    "watchNamespaces",
    "workers",
];

/// The values of `host`.
const HOST_VALUES: [&str; 16] = [
    "adminPort",
    "affinity",
    "allowedPorts",
    "enabled",
    "maxDrainSeconds",
    "namespaces",
    "nodeSelector",
    "podAnnotations",
    "podLabels",
    "podSecurityContext",
    "priorityClassName",
    "resources",
    "securityContext",
    "shutdownDelaySeconds",
    "tolerations",
    "updateStrategy",
];

fn read_values(file: &Path) -> anyhow::Result<Value> {
    let of_file = || file.display().to_string();
    let text = decoded(fs::read(file).with_context(of_file)?).map_err(Error::msg).with_context(of_file)?;
    yaml_value(&text).map_err(|problem| anyhow!("{}: {problem}", file.display()))
}

/// The name of this chart in the values of a chart that depends on it. `None`: the values are the chart's own.
fn dependency(files: &[Value]) -> anyhow::Result<Option<&str>> {
    let fields = || files.iter().filter_map(Value::as_object).flatten();
    let Some((unknown, _)) = fields().find(|(name, _)| !VALUES.contains(&name.as_str())) else { return Ok(None) };
    if fields().any(|(name, value)| name == "tcplb" && value.is_object()) {
        return Ok(Some("tcplb"));
    }
    // The dependency may have an alias.
    let has_permissions = |value: &Value| {
        let is_of_chart = |fields: &Map<String, Value>| fields.keys().all(|name| VALUES.contains(&name.as_str()));
        let host_is_of_chart = value["host"].as_object().is_some_and(|host| host.contains_key("allowedPorts"));
        value.as_object().is_some_and(is_of_chart) && (value["tenancy"].is_object() || host_is_of_chart)
    };
    let named = fields().filter(|(_, value)| has_permissions(value)).map(|(name, _)| name.as_str());
    // All files use the same name.
    let aliases: Vec<_> = named.collect::<BTreeSet<_>>().into_iter().collect();
    match aliases[..] {
        [alias] => Ok(Some(alias)),
        [] => match near(unknown, ["tenancy", "tcplb"]) {
            Some(near) => Err(anyhow!("{unknown}: unknown chart value (did you mean `{near}`?)")),
            None => Err(anyhow!(
                "{unknown}: unknown chart value; a chart that depends on tcplb sets its values below `tcplb` or an \
                 alias: move it there"
            )),
        },
        [..] => Err(anyhow!("several sections contain values of the chart ({}): keep one of them", aliases.join(", "))),
    }
}

fn check_keys(path: &str, section: &Value, known: &[&str]) -> anyhow::Result<()> {
    let unknown = section.as_object().and_then(|fields| fields.keys().find(|name| !known.contains(&name.as_str())));
    match unknown.map(|name| (name, near(name, known.iter().copied()))) {
        None => Ok(()),
        Some((name, Some(near))) => Err(anyhow!("{path}{name}: unknown chart value (did you mean `{near}`?)")),
        Some((name, None)) => Err(anyhow!("{path}{name}: unknown chart value: remove it")),
    }
}

fn merge(into: &mut Map<String, Value>, section: &Value) -> anyhow::Result<()> {
    match section {
        Value::Null => Ok(()),
        Value::Object(fields) => {
            into.extend(fields.clone());
            Ok(())
        }
        _ => Err(anyhow!("`tenancy` and `host` must be objects (`name: value` lines)")),
    }
}

fn typed<T: DeserializeOwned>(section: &str, mut fields: Map<String, Value>) -> anyhow::Result<T> {
    // For numbers, null means no limit. For other values, it means the default.
    fields.retain(|name, value| !value.is_null() || name.starts_with("max"));
    serde_path_to_error::deserialize(Value::Object(fields)).map_err(|error| match error.path().to_string().as_str() {
        "." => anyhow!("{section}: {}", error.inner()),
        path => anyhow!("{section}.{path}: {}", error.inner()),
    })
}

/// The `tenancy` values of the chart, with their defaults.
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
    max_secrets_per_namespace: Option<u32>,
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
            max_secrets_per_namespace: Some(100),
        }
    }
}

/// The `host` values of the chart that concern load balancers.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct HostValues {
    enabled: bool,
    allowed_ports: Vec<PortOrRange>,
    namespaces: Vec<String>,
}

/// A port or a port range.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a port or a port range, such as 5432 or 9000-9999")]
enum PortOrRange {
    Port(u16),
    Range(String),
}

impl PortOrRange {
    fn range(&self) -> Result<RangeInclusive<u16>, String> {
        match self {
            Self::Port(port) => port_range(&port.to_string()),
            Self::Range(range) => port_range(range),
        }
    }
}

impl TenancyValues {
    fn with_host(self, host: HostValues) -> anyhow::Result<Tenancy> {
        let ports = if host.enabled { host.allowed_ports } else { Vec::new() };
        let ports = ports.iter().map(PortOrRange::range).collect::<Result<_, _>>();
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
            secrets_per_namespace: self.max_secrets_per_namespace,
            host_ports: ports.map_err(|error: String| anyhow!("host.allowedPorts: {error}"))?,
            host_namespaces: (!host.namespaces.is_empty()).then(|| host.namespaces.into_iter().collect()),
            ..Tenancy::default()
        })
    }
}

#[cfg(test)]
mod tests {
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
    fn the_known_values_are_those_of_the_chart() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/tcplb/values.schema.json");
        let schema: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
        let names = |schema: &Value| schema["properties"].as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
        assert_eq!(names(&schema), VALUES.map(str::to_owned).into());
        assert_eq!(names(&schema["properties"]["host"]), HOST_VALUES.map(str::to_owned).into());
    }

    #[test]
    fn values_of_other_charts_do_not_hide_those_of_this_one() {
        let limited = Some(2);
        for text in [
            "tcplb: {tenancy: {maxListenersPerNamespace: 2}}\nhost: db.example.com\ntenancy: {name: x}\n",
            "tcplb: {tenancy: {maxListenersPerNamespace: 2}}\nhost: {name: x}\n",
            "edge: {tenancy: {maxListenersPerNamespace: 2}}\ndatabase: {host: {name: x}}\n",
        ] {
            assert_eq!(read(text).unwrap().listeners_per_namespace, limited, "{text}");
        }
        // All files together determine the chart to which the values belong.
        let folder = tempfile::tempdir().unwrap();
        let files = ["tcplb: {tenancy: {maxListenersPerNamespace: 2}}\n", "host: db.example.com\n"].iter().enumerate();
        let files: Vec<_> = files
            .map(|(number, text)| {
                let file = folder.path().join(format!("{number}.yaml"));
                fs::write(&file, text).unwrap();
                file
            })
            .collect();
        assert_eq!(of_values(&files).unwrap().listeners_per_namespace, limited);
    }

    #[test]
    fn null_is_no_limit_and_ports_may_be_numbers() {
        let tenancy =
            read("tenancy: {maxSecretsPerNamespace: null}\nhost: {enabled: true, allowedPorts: [5432]}\n").unwrap();
        assert_eq!((tenancy.secrets_per_namespace, tenancy.host_ports), (None, vec![5432..=5432]));
        assert_eq!(read("tenancy: {allowedServiceTypes: null}").unwrap(), read("replicas: 1").unwrap());
    }

    #[test]
    fn values_that_the_chart_rejects_are_refused() {
        for (text, sentence) in [
            ("tenancy: {allowedServiceType: [NodePort]}", "tenancy.allowedServiceType: unknown field"),
            ("tenancy: {allowedServiceTypes: [ExternalName]}", "tenancy.allowedServiceTypes[0]: unknown variant"),
            ("tenancy: {deniedBackendNetworks: [10.0.0.1/8]}", "write 10.0.0.0/8 for the network"),
            ("tenancy: [a]", "must be objects"),
            ("host: {enabled: true, allowedPorts: [a]}", "host.allowedPorts: `a` is not a port range"),
            ("host: {enabled: true, allowedPorts: [70000]}", "host.allowedPorts[0]: expected a port or a port range"),
            ("host: {allowedPort: [1]}", "host.allowedPort: unknown chart value (did you mean `allowedPorts`?)"),
            ("tenancyy: {maxListenersPerNamespace: 2}", "tenancyy: unknown chart value (did you mean `tenancy`?)"),
            ("tcplb: {tenancyy: {}}", "tenancyy: unknown chart value (did you mean `tenancy`?)"),
            ("database: {host: x}", "database: unknown chart value"),
            ("a: {tenancy: {}}\nb: {tenancy: {}}", "several sections contain values of the chart (a, b)"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains("values.yaml: ") && error.contains(sentence), "{error}");
        }
        let levels = (1..7).map(|n| format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 9].join(",")));
        let error = read(&format!("a0: &a0 [lol]\n{}", levels.collect::<String>())).unwrap_err();
        assert!(error.contains("values.yaml: line 5, ") && error.contains("with this alias"), "{error}");
        assert!(of_values(&["/nowhere/values.yaml".into()]).is_err());
    }
}
