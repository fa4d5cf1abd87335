//! Validation of the managed Service's settings. The Service is in the administrator's namespace. A refusal affects the
//! Service only: connections that reach the proxies are served.

use std::collections::BTreeMap;

use crate::{
    api::{Listener, ServiceTemplate, ServiceType, TcpLoadBalancerSpec},
    translate::{
        field_errors::{FieldPath, duplicate_of, validated},
        messages::listed,
        verdict::{Part, Problem, Reason},
    },
    world::Tenancy,
};

const SERVICE_FALLBACK: &str = "its Service is not created or changed";

pub fn check(spec: &TcpLoadBalancerSpec, tenancy: &Tenancy, problems: &mut Vec<Problem>) {
    let template = spec.service.clone().unwrap_or_default();
    validated(Part::Service, SERVICE_FALLBACK, problems, |path| check_template(&template, tenancy, path));
    for index in 0..spec.listeners.len() {
        validated(Part::NodePort(index), SERVICE_FALLBACK, problems, |path| {
            check_node_port(&spec.listeners, index, template.type_, tenancy, path);
        });
    }
}

/// Refuses Service settings in modes without a managed Service.
pub fn refuse(spec: &TcpLoadBalancerSpec, problems: &mut Vec<Problem>) {
    const NO_SERVICE: &str = "it has no Service";

    if spec.service.is_some() {
        validated(Part::Service, NO_SERVICE, problems, |path| {
            path.refuse("requires placement Gateway: remove it, or write `placement: Gateway`");
        });
    }
    for index in (0..spec.listeners.len()).filter(|index| spec.listeners[*index].node_port.is_some()) {
        validated(Part::NodePort(index), NO_SERVICE, problems, |path| {
            path.refuse(
                "requires a Service, and therefore placement Gateway: remove it, or write `placement: Gateway`",
            );
        });
    }
}

fn check_template(template: &ServiceTemplate, tenancy: &Tenancy, path: &mut FieldPath) {
    let ServiceTemplate { type_, annotations, labels, external_traffic_policy, load_balancer_class, .. } = template;
    if !tenancy.service_types.contains(type_) {
        let allowed = listed(tenancy.service_types.iter().map(|allowed| allowed.as_str()));
        let message = format!("{} is not allowed: the administrator allows {allowed}", type_.as_str());
        path.at("type").refuse_for(Reason::NotPermitted, message);
    }
    check_keys(annotations, &tenancy.annotations, &mut path.at("annotations"));
    check_keys(labels, &tenancy.labels, &mut path.at("labels"));
    check_label_values(labels, &mut path.at("labels"));
    if external_traffic_policy.is_some() && *type_ == ServiceType::ClusterIp {
        let message = "has no effect with type ClusterIP: write another type, or remove it";
        path.at("externalTrafficPolicy").refuse(message);
    }
    if let Some(class) = load_balancer_class {
        let mut path = path.at("loadBalancerClass");
        if *type_ != ServiceType::LoadBalancer {
            let message =
                format!("has no effect with type {}: write `type: LoadBalancer`, or remove it", type_.as_str());
            path.refuse(message);
        } else if !matches_any(class, &tenancy.load_balancer_classes) {
            path.refuse_for(Reason::NotPermitted, not_allowed(class, &tenancy.load_balancer_classes));
        }
    }
}

fn check_keys(written: &BTreeMap<String, String>, allowed: &[String], path: &mut FieldPath) {
    for key in written.keys() {
        if is_ours(key) {
            path.refuse_for(Reason::NotPermitted, format!("`{key}` is set by the controller: remove it"));
        } else if !matches_any(key, allowed) {
            path.refuse_for(Reason::NotPermitted, not_allowed(key, allowed));
        } else if !is_qualified_name(key) {
            let message = format!(
                "`{key}` is not a valid key: write at most 63 letters, digits, `-`, `_` and `.`, after an optional DNS \
                 name and `/`"
            );
            path.refuse(message);
        }
    }
}

fn check_label_values(labels: &BTreeMap<String, String>, path: &mut FieldPath) {
    for value in labels.values().filter(|value| !value.is_empty() && !is_simple_name(value)) {
        path.refuse(format!(
            "`{value}` is not a valid label value: write at most 63 letters, digits, `-`, `_` and `.`"
        ));
    }
}

fn check_node_port(listeners: &[Listener], index: usize, type_: ServiceType, tenancy: &Tenancy, path: &mut FieldPath) {
    let Some(port) = listeners[index].node_port else { return };
    if !tenancy.node_ports {
        let message = format!(
            "{port} is not permitted: remove it, or ask the administrator to permit node ports (tenancy.allowNodePorts)"
        );
        path.refuse_for(Reason::NotPermitted, message);
    } else if type_ == ServiceType::ClusterIp {
        path.refuse("has no effect with service type ClusterIP: write another type, or remove it");
    } else if let Some(other) = duplicate_of(listeners, index, |listener| listener.node_port) {
        path.refuse(format!("{port} is also the nodePort of spec.listeners[{other}]: write another"));
    }
}

/// Keys that identify managed Services.
fn is_ours(key: &str) -> bool {
    key.starts_with("tcplb.io/") || key == "app.kubernetes.io/managed-by"
}

fn matches_any(key: &str, patterns: &[String]) -> bool {
    patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(start) => key.starts_with(start),
        None => key == pattern,
    })
}

fn not_allowed(what: &str, patterns: &[String]) -> String {
    format!("`{what}` is not allowed: the administrator allows {}", listed(patterns))
}

/// True for a name with an optional DNS subdomain and slash in front, as the API server requires.
fn is_qualified_name(key: &str) -> bool {
    match key.split_once('/') {
        Some((domain, name)) => is_subdomain(domain) && is_simple_name(name),
        None => is_simple_name(key),
    }
}

fn is_simple_name(name: &str) -> bool {
    let ends = |end: Option<char>| end.is_some_and(|end| end.is_ascii_alphanumeric());
    let inner = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    name.len() <= 63 && ends(name.chars().next()) && ends(name.chars().last()) && name.chars().all(inner)
}

fn is_subdomain(domain: &str) -> bool {
    let lower = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit();
    let ends = |end: Option<char>| end.is_some_and(lower);
    let label = |label: &str| {
        ends(label.chars().next())
            && ends(label.chars().last())
            && label.chars().all(|letter| lower(letter) || letter == '-')
    };
    domain.len() <= 253 && domain.split('.').all(label)
}
