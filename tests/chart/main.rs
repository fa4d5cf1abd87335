//! The Helm chart, its generated manifests, and their documentation.
//!
//! Needs `helm`. Objects are validated by the cluster of `KUBECONFIG`, which does not store them.

#![expect(clippy::unwrap_used, reason = "tests panic on unexpected values")]

mod examples;
mod manifests;
mod monitoring;
mod names;
mod notes;
mod permissions;
mod rendered;
mod upgrade;
mod values;

#[path = "../harness/mod.rs"]
mod harness;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// The output of Helm, or its error. `None`: Helm is not installed, and the test is skipped.
fn helm(arguments: &[&str]) -> Option<Result<String, String>> {
    match Command::new("helm").args(arguments).current_dir(root()).output() {
        Ok(output) if output.status.success() => Some(Ok(String::from_utf8(output.stdout).unwrap())),
        Ok(output) => Some(Err(String::from_utf8_lossy(&output.stderr).into_owned())),
        Err(_) => {
            harness::lacks("helm");
            None
        }
    }
}

/// The rendered chart with these options.
fn render(options: &[&str]) -> Option<String> {
    let arguments = [&["template", "tcplb", "charts/tcplb", "--namespace", "tcplb-system"], options].concat();
    helm(&arguments).map(|rendered| rendered.unwrap_or_else(|error| panic!("{options:?}: {error}")))
}

/// The objects of the chart.
fn objects(options: &[&str]) -> Option<Vec<Value>> {
    render(options).map(|text| documents(&text))
}

fn documents(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap()
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

/// Compares a committed file with its generated content, or writes it.
fn is_current(file: &str, current: &str) {
    if std::env::var_os("UPDATE").is_some() {
        fs::create_dir_all(root().join(file).parent().unwrap()).unwrap();
        fs::write(root().join(file), current).unwrap();
    } else {
        let committed = fs::read_to_string(root().join(file)).unwrap_or_default();
        assert!(committed == current, "{file} is not current: run `make generate`");
    }
}
