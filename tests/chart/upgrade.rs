//! The upgrade of the CustomResourceDefinition from one version of the chart to the next, on a real cluster.
//!
//! The definition has another name and its own group, so that no other installation is affected.

use std::{fs, path::Path, process::Command};

use serde_json::Value;

use crate::{harness, helm, root};

const GROUP: &str = "upgrade-test.tcplb.io";
const NAMESPACE: &str = "tcplb-upgrade-test";

/// A field that the older version does not have yet.
const NEW: &str = "{.spec.timeouts.jitterPercent}";

#[test]
fn an_upgrade_brings_new_fields_and_uninstalling_leaves_users_objects() {
    if !harness::has_test_cluster() {
        return harness::skip(harness::NO_CLUSTER);
    }
    let folder = tempfile::tempdir().unwrap();
    let (older, newer) = (folder.path().join("older"), folder.path().join("newer"));
    copy(&root().join("charts/tcplb"), &newer);
    copy(&newer, &older);
    forget_field(&older);
    let (older, newer) = (older.to_str().unwrap(), newer.to_str().unwrap());
    let chart = |action: &[&str]| {
        let arguments = [action, &["--namespace", NAMESPACE]].concat();
        helm(&arguments)
            .expect("a cluster for tests comes with helm")
            .unwrap_or_else(|error| panic!("{action:?}: {error}"))
    };
    let values = ["--set", "replicas=0", "--create-namespace", "--wait"];
    let _cleared = Cleared;

    chart(&[&["install", "upgrade", older], values.as_slice()].concat());
    kubectl(&["wait", "--for=condition=Established", &format!("crd/tcploadbalancers.{GROUP}")]);
    let object = folder.path().join("object.yaml");
    fs::write(&object, object_with_new_field()).unwrap();
    let apply = ["apply", "--validate=false", "--filename", object.to_str().unwrap()];
    kubectl(&apply);
    let ours = format!("tcploadbalancers.{GROUP}/first");
    let read = ["get", &ours, "--namespace", NAMESPACE, "--output"];
    assert_eq!(kubectl(&[read.as_slice(), &[&format!("jsonpath={NEW}")]].concat()), "", "an older schema drops it");

    chart(&[&["upgrade", "upgrade", newer], values.as_slice()].concat());
    // The API server applies a new schema after a moment, and does not report when.
    harness::wait_until("the new field is kept", || {
        kubectl(&apply);
        kubectl(&[read.as_slice(), &[&format!("jsonpath={NEW}")]].concat()) == "7"
    });

    chart(&["uninstall", "upgrade", "--wait"]);
    assert_eq!(kubectl(&[read.as_slice(), &[&format!("jsonpath={NEW}")]].concat()), "7");
    let kinds = "deployments,services,configmaps,leases,serviceaccounts,roles,rolebindings,poddisruptionbudgets";
    let left =
        kubectl(&["get", kinds, "--namespace", NAMESPACE, "--output=name", "-l", "app.kubernetes.io/instance=upgrade"]);
    assert_eq!(left, "");
    chart(&[&["install", "upgrade", newer], values.as_slice()].concat());
}

fn object_with_new_field() -> String {
    format!(
        "apiVersion: {GROUP}/v1alpha1\nkind: TcpLoadBalancer\nmetadata: {{name: first, namespace: {NAMESPACE}}}\nspec:\n  \
         listeners: [{{port: 4000}}]\n  backends: [{{service: {{name: echo, port: 5001}}}}]\n  \
         timeouts: {{jitterPercent: 7}}\n"
    )
}

/// Copies the chart, with the group changed.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            let text = fs::read_to_string(entry.path()).unwrap();
            fs::write(to, in_group(&text)).unwrap();
        }
    }
}

fn in_group(text: &str) -> String {
    let names = ["group: ", "tcploadbalancers.", "list \"", "apiGroups: ["];
    names.iter().fold(text.to_owned(), |text, name| text.replace(&format!("{name}tcplb.io"), &format!("{name}{GROUP}")))
}

fn forget_field(chart: &Path) {
    let file = chart.join("files/tcploadbalancers.yaml");
    let mut crd: Value = serde_saphyr::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    let path = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/timeouts/properties";
    let fields = crd.pointer_mut(path).unwrap().as_object_mut().unwrap();
    fields.remove("jitterPercent").expect("the newer version has it");
    fs::write(file, crd.to_string()).unwrap();
}

fn kubectl(arguments: &[&str]) -> String {
    let output = Command::new("kubectl").args(arguments).output().expect("a cluster for tests comes with kubectl");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "kubectl {arguments:?}: {complaint}");
    String::from_utf8(output.stdout).unwrap()
}

/// Removes the objects of the test, whatever its outcome.
struct Cleared;

impl Drop for Cleared {
    fn drop(&mut self) {
        let _ = helm(&["uninstall", "upgrade", "--namespace", NAMESPACE]);
        for object in [&format!("crd/tcploadbalancers.{GROUP}"), &format!("namespace/{NAMESPACE}")] {
            let _ = Command::new("kubectl").args(["delete", object, "--wait=false"]).output();
        }
    }
}
