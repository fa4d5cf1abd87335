//! Names of objects, from release names and values that Helm accepts.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{documents, helm, render};

const HOST: [&str; 2] = ["--set", "host.enabled=true,host.allowedPorts={5432}"];

/// The objects of the chart in a release of this name. `None`: Helm is not installed.
fn released(release: &str, options: &[&str]) -> Option<Vec<Value>> {
    let arguments = [&["template", release, "charts/tcplb"], &HOST[..], options].concat();
    let rendered = helm(&arguments)?.unwrap_or_else(|error| panic!("{release} {options:?}: {error}"));
    Some(documents(&rendered))
}

fn names(objects: &[Value]) -> BTreeSet<String> {
    let own = objects.iter().filter(|object| object["kind"] != "CustomResourceDefinition");
    own.map(|object| format!("{} {}", object["kind"], object["metadata"]["name"].as_str().expect("a text"))).collect()
}

/// True for a name according to RFC 1035, as Services need it.
fn is_label(name: &str) -> bool {
    let valid = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    name.len() <= 63
        && name.bytes().all(valid)
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && !name.ends_with('-')
}

#[test]
fn names_of_objects_are_valid_for_every_release_name() {
    let long = "production-europe-west-customer-database-tcplb-green1";
    for (release, options) in [
        ("tcplb", &[][..]),
        ("my.release", &[]),
        ("a-very-long-name-of-a-release-x.y.z", &[]),
        (long, &[]),
        ("edge", &["--set", "nameOverride=Foo_Bar"]),
        ("edge", &["--set", "nameOverride=lbEdge"]),
        ("edge", &["--set", "fullnameOverride=Edge.Proxies"]),
        ("1edge", &["--set", "fullnameOverride=edge"]),
        ("123", &["--set", "fullnameOverride=edge"]),
        ("true", &["--set", "nameOverride=1e3"]),
        ("edge", &["--namespace", "123"]),
    ] {
        let Some(objects) = released(release, options) else { return };
        for object in &objects {
            let metadata = &object["metadata"];
            let name = metadata["name"].as_str().unwrap_or_else(|| panic!("{release} {options:?}: {metadata}"));
            let is_looser = ["CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding"]
                .iter()
                .any(|kind| object["kind"] == *kind);
            assert!(is_looser || is_label(name), "{release} {options:?}: {name}");
            let texts = metadata["labels"].as_object().unwrap().values().chain(metadata.get("namespace"));
            assert!(texts.into_iter().all(Value::is_string), "{release} {options:?}: {metadata}");
        }
    }
}

#[test]
fn releases_have_distinct_names_however_long_or_similar_theirs_are() {
    for (one, other) in [
        ("production-europe-west-customer-database-a-tcplb", "production-europe-west-customer-database-b-tcplb"),
        ("my.release", "my-release"),
        ("a.b-c", "a-b.c"),
    ] {
        let (Some(ours), Some(theirs)) = (released(one, &[]), released(other, &[])) else { return };
        let (ours, theirs) = (names(&ours), names(&theirs));
        assert!(ours.is_disjoint(&theirs), "{:?}", ours.intersection(&theirs));
    }
    let overridden = |name: &str| released("edge", &["--set", &format!("fullnameOverride={name}")]);
    let (Some(ours), Some(theirs)) = (overridden("lbEdge"), overridden("lbedge")) else { return };
    assert!(names(&ours).is_disjoint(&names(&theirs)));
}

#[test]
fn names_of_up_to_40_characters_are_taken_as_they_are() {
    for (release, whole) in [
        ("tcplb", "tcplb"),
        ("edge", "edge-tcplb"),
        ("exactly-forty-characters-long-name-tcplb", "exactly-forty-characters-long-name-tcplb"),
    ] {
        let Some(objects) = released(release, &[]) else { return };
        for expected in [format!("\"Deployment\" {whole}"), format!("\"Service\" {whole}-host-admin")] {
            assert!(names(&objects).contains(&expected), "{expected}");
        }
    }
}

#[test]
fn names_that_cannot_be_made_valid_are_refused_with_a_sentence() {
    for (release, value, sentence) in [
        ("1rel", "replicas=2", "must begin with a letter: set fullnameOverride, for example to \"tcplb-1rel-tcplb\""),
        ("edge", "fullnameOverride=-x", "must begin with a letter: set fullnameOverride, for example to \"tcplb-x\""),
        ("edge", "nameOverride=a b", "\"a b\" cannot be the label app.kubernetes.io/name: set nameOverride to"),
        ("edge", "nameOverride=a.", "\"a.\" cannot be the label app.kubernetes.io/name: set nameOverride to"),
    ] {
        let Some(answer) = helm(&["template", release, "charts/tcplb", "--set", value]) else { return };
        let error = answer.expect_err(value);
        assert!(error.contains(sentence), "{release} {value}: {error}");
    }
}

/// A parser that takes the last of equal keys would not detect duplicates.
#[test]
fn labels_of_monitors_have_each_key_once() {
    for monitor in ["podMonitor", "serviceMonitor"] {
        let enabled = format!("metrics.{monitor}.enabled=true,metrics.{monitor}.labels.release=b");
        let taken = format!(r"metrics.{monitor}.labels.app\.kubernetes\.io/instance=other");
        let options = ["--set", "commonLabels.release=a", "--set", &enabled, "--set", &taken];
        let Some(text) = render(&[&options[..], &["--show-only", "templates/monitors.yaml"]].concat()) else { return };
        let (_, labels) = text.split_once("  labels:\n").unwrap();
        let (labels, _) = labels.split_once("spec:").unwrap();
        let keys: Vec<_> = labels.lines().filter_map(|line| line.trim().split_once(": ")).collect();
        let of =
            |key: &str| keys.iter().filter(|(other, _)| *other == key).map(|(_, value)| *value).collect::<Vec<_>>();
        assert_eq!(of("release"), ["b"], "{monitor}: the more specific one");
        assert_eq!(of("app.kubernetes.io/instance"), ["tcplb"], "{monitor}: the chart's own");
    }
}
