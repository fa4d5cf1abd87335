//! docs/rbac.md lists the permissions that the chart grants, each with its reason: all of them, and no others.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{objects, of_kind, read};

/// The scope, API group, resource, names and verb.
type Permission = [String; 5];

#[test]
fn the_documented_permissions_are_those_that_the_chart_grants() {
    let host = "host.enabled=true,host.allowedPorts={5432}";
    let Some(everywhere) = objects(&["--set", host]) else { return };
    let Some(somewhere) = objects(&["--set", host, "--set", "watchNamespaces={shop}"]) else { return };
    let granted: BTreeSet<Permission> = everywhere.iter().chain(&somewhere).flat_map(granted_by).collect();
    let documented: BTreeSet<Permission> = read("docs/rbac.md").lines().flat_map(documented_in).collect();
    let missing: Vec<_> = granted.difference(&documented).collect();
    let vain: Vec<_> = documented.difference(&granted).collect();
    assert!(missing.is_empty() && vain.is_empty(), "not in docs/rbac.md: {missing:#?}\nonly there: {vain:#?}");
}

#[test]
fn with_some_namespaces_the_api_servers_addresses_are_read_in_default_only() {
    let Some(objects) = objects(&["--set", "watchNamespaces={shop}"]) else { return };
    let name = "tcplb-system-tcplb-api-server";
    for kind in ["Role", "RoleBinding"] {
        let of_kind = of_kind(&objects, kind);
        let granted: Vec<_> = of_kind.iter().filter(|object| object["metadata"]["name"] == name).collect();
        assert_eq!(granted.len(), 1, "{kind}");
        assert_eq!(granted[0]["metadata"]["namespace"], "default", "{kind}");
    }
}

fn granted_by(role: &Value) -> Vec<Permission> {
    let role_name = role["metadata"]["name"].as_str().unwrap_or_default();
    let place = match (role["kind"].as_str(), role_name) {
        (Some("ClusterRole" | "Role"), "tcplb-system-tcplb") => "watched",
        (Some("Role"), "tcplb-system-tcplb-api-server") => "api-server",
        (Some("Role"), "tcplb-system-tcplb-secrets") => "secrets",
        (Some("ClusterRole"), name) => name.strip_prefix("tcplb-system-tcplb-").unwrap(),
        (Some("Role"), "tcplb") => "own, gateway",
        (Some("Role"), "tcplb-host") => "own, host",
        _ => return Vec::new(),
    };
    let mut permissions = Vec::new();
    for rule in role["rules"].as_array().unwrap() {
        let names = list(&rule["resourceNames"]).join(", ");
        for (group, resource) in list(&rule["apiGroups"])
            .iter()
            .flat_map(|group| list(&rule["resources"]).into_iter().map(move |resource| (group.clone(), resource)))
        {
            for verb in list(&rule["verbs"]) {
                permissions.push([place.to_owned(), group.clone(), resource.clone(), names.clone(), verb]);
            }
        }
    }
    permissions
}

fn list(values: &Value) -> Vec<String> {
    values.as_array().into_iter().flatten().map(|value| value.as_str().unwrap().to_owned()).collect()
}

/// The permissions of a row: where | API group | resource | names | verbs | why.
fn documented_in(line: &str) -> Vec<Permission> {
    let cells: Vec<_> = line.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect();
    let [place, group, resource, names, verbs, why] = cells.as_slice() else { return Vec::new() };
    if place == "where" || place.starts_with("---") {
        return Vec::new();
    }
    assert!(!why.is_empty(), "{line} gives no reason");
    let permission =
        |verb: &str| [place.clone(), group.clone(), resource.clone(), names.clone(), verb.trim().to_owned()];
    verbs.split(',').map(permission).collect()
}
