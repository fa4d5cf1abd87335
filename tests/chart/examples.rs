//! The documented values files, rendered by this version of the chart and accepted by a real API server.

use std::{
    fs,
    io::Write,
    process::{Command, Stdio},
};

use clap::Parser;
use serde_json::Value;
use tcplb::cli::Cli;

use crate::{documents, harness, helm, objects, root};

/// All values files, and the defaults.
fn values_files() -> Vec<Option<String>> {
    let files = fs::read_dir(root().join("charts/tcplb/examples")).unwrap();
    let names = files.map(|file| format!("charts/tcplb/examples/{}", file.unwrap().file_name().display()));
    let mut files: Vec<_> = names.map(Some).chain([None]).collect();
    files.sort();
    files
}

fn options(file: Option<&String>) -> Vec<&str> {
    file.map_or_else(Vec::new, |file| vec!["--values", file])
}

#[test]
fn every_documented_values_file_is_accepted_by_lint() {
    for file in values_files() {
        let arguments = [&["lint", "charts/tcplb", "--strict", "--quiet"], options(file.as_ref()).as_slice()].concat();
        match helm(&arguments) {
            Some(Err(error)) => panic!("{file:?}: {error}"),
            Some(Ok(_)) => {}
            None => return,
        }
    }
}

/// Administrators reserve system priorities by quotas, and MetalLB reads only the annotations with its current prefix.
#[test]
fn values_files_need_no_system_priority_and_no_former_annotations_of_metallb() {
    for file in values_files().into_iter().flatten() {
        let values = crate::read(&file);
        assert!(!values.contains("system-cluster-critical") && !values.contains("system-node-critical"), "{file}");
        assert!(!values.contains("metallb.universe.tf"), "{file}");
    }
}

#[test]
fn the_program_knows_every_argument_that_pods_are_given() {
    for file in values_files() {
        let Some(objects) = objects(&options(file.as_ref())) else { return };
        for container in objects.iter().filter_map(|object| object["spec"]["template"]["spec"]["containers"].get(0)) {
            takes_arguments_of(container);
        }
    }
    for object in documents(&crate::read("manifests/sidecar.yaml")) {
        for container in object["spec"]["template"]["spec"]["initContainers"].as_array().into_iter().flatten() {
            takes_arguments_of(container);
        }
    }
}

/// Panics if the program does not know the arguments of a container.
pub fn takes_arguments_of(container: &Value) {
    let strings = |list: &Value, of: fn(&Value) -> &Value| -> Vec<String> {
        list.as_array().into_iter().flatten().filter_map(|entry| of(entry).as_str().map(str::to_owned)).collect()
    };
    let mut arguments = strings(&container["args"], |argument| argument);
    let environment = strings(&container["env"], |variable| &variable["name"]);
    // These flags come from the environment, which is the same for all tests.
    for (variable, flag) in [("POD_NAMESPACE", "--namespace=here"), ("POD_NAME", "--pod=this")] {
        if arguments[0] == "controller" && environment.iter().any(|name| name == variable) {
            arguments.push(flag.into());
        }
    }
    for argument in &mut arguments {
        *argument = argument.replace("$(POD_NAMESPACE)", "here");
    }
    if let Err(error) = Cli::try_parse_from([&["tcplb".to_owned()], arguments.as_slice()].concat()) {
        panic!("{error}: {arguments:?}");
    }
}

#[test]
fn an_api_server_accepts_what_every_documented_values_file_makes() {
    // Namespaces that examples name may not exist.
    let replaced = ["watchNamespaces", "secrets.namespaces", "host.namespaces"];
    for file in values_files() {
        let mut options = options(file.as_ref());
        let text = file.as_ref().map_or_else(String::new, |file| crate::read(file));
        let settings: Vec<String> = replaced
            .iter()
            .filter(|value| text.contains(&format!("{}: [", value.rsplit('.').next().unwrap())))
            .map(|value| format!("{value}={{default}}"))
            .collect();
        settings.iter().for_each(|setting| options.extend(["--set", setting]));
        options.extend(["--namespace", "default"]);
        let Some(objects) = objects(&options) else { return };
        // The Prometheus operator's kinds are not part of Kubernetes.
        let builtin = |object: &&Value| !object["apiVersion"].as_str().unwrap().starts_with("monitoring.coreos.com/");
        let Some(answer) = show_to_api_server(&objects.iter().filter(builtin).cloned().collect::<Vec<_>>()) else {
            return;
        };
        answer.unwrap_or_else(|error| panic!("{file:?}: {error}"));
    }
}

/// The answer of the API server to objects that it does not store. `None`: there is no test cluster, and the test is
/// skipped.
pub fn show_to_api_server(objects: &[Value]) -> Option<Result<String, String>> {
    if !harness::has_test_cluster() {
        harness::skip(harness::NO_CLUSTER);
        return None;
    }
    let arguments = ["apply", "--dry-run=server", "--server-side", "--force-conflicts", "--filename", "-"];
    let mut kubectl = Command::new("kubectl");
    kubectl.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut kubectl) = kubectl.spawn() else {
        harness::lacks("kubectl");
        return None;
    };
    let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": objects});
    kubectl.stdin.take().unwrap().write_all(list.to_string().as_bytes()).unwrap();
    let output = kubectl.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    Some(if output.status.success() { Ok(errors) } else { Err(errors) })
}
