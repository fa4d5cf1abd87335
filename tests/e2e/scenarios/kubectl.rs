//! `kubectl tcplb` with an installation.

use std::{fs, path::Path, process::Command};

use serde_json::Value;

use crate::{
    backends::load_balancer,
    clients::Connection,
    cluster::{WAIT_LIMIT, eventually},
    scenario::scenario,
    turns::Isolation,
};

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_tcplb_shows_checks_and_bundles_what_replicas_report() {
    scenario("kubectl", Isolation::Shared, async |scenario| {
        scenario.backends("echo", 2).await;
        scenario.apply(&load_balancer("pg", 5432, "echo")).await;
        scenario.programmed("pg").await;
        let replicas = scenario.installation().pods(&scenario.client).await.len();
        eventually("each replica shows two usable endpoints", WAIT_LIMIT, async || {
            let (_, told) = scenario.kubectl_tcplb(&["status", "pg", "-o", "json"]).await;
            // With an error instead, for example if a replica did not answer in time.
            let Ok(document) = serde_json::from_str::<Value>(&told) else { return false };
            let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
            let shown = list(&document["loadBalancers"][0]["replicas"]);
            let is_current = |replica: &Value| {
                let endpoints = list(&replica["endpoints"]);
                let usable = endpoints.iter().filter(|endpoint| endpoint["state"] == "usable").count();
                replica["current"] == true && usable == 2
            };
            shown.len() == replicas && shown.iter().all(is_current)
        })
        .await;

        let address = scenario.programmed("pg").await;
        let mut open = None;
        // The nodes learn of the Service in their own time.
        eventually("a client is served", WAIT_LIMIT, async || {
            open = Connection::open(address).await.ok();
            open.is_some()
        })
        .await;
        // Connections that failed before this one may still be listed.
        let mut listed = Value::Null;
        eventually("its connection is the only one", WAIT_LIMIT, async || {
            let (code, told) = scenario.kubectl_tcplb(&["connections", "pg", "-o", "json"]).await;
            listed = serde_json::from_str(&told).unwrap_or_default();
            code == Some(0) && listed["matching"] == 1
        })
        .await;
        assert_eq!(listed["connections"][0]["loadBalancer"], format!("{}/pg", scenario.namespace), "{listed}");
        drop(open);

        let (code, told) = scenario.kubectl_tcplb(&["doctor", "--wait", "60s"]).await;
        assert_eq!(code, Some(0), "{told}");
        for passed in ["replicas on", "is the leader", "allocated port", "accept connections at 1 address"] {
            assert!(told.contains(passed), "{passed}: {told}");
        }

        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("bundle.tar.gz");
        let (code, told) = scenario.kubectl_tcplb(&["bundle", "-o", file.to_str().unwrap()]).await;
        assert_eq!(code, Some(0), "{told}");
        let files = unpacked(&file);
        for part in ["report.json", "snapshot.json", "metrics.txt", "log.txt"] {
            assert_eq!(files.iter().filter(|file| file.ends_with(part)).count(), replicas, "{part}: {files:?}");
        }
        let missing = files.iter().find(|file| file.ends_with("/missing.txt")).unwrap();
        assert_eq!(fs::read_to_string(folder.path().join(missing)).unwrap(), "");
    })
    .await;
}

/// Unpacks an archive beside it, and returns the paths of its files.
fn unpacked(file: &Path) -> Vec<String> {
    let output = Command::new("tar").arg("-xvzf").arg(file).current_dir(file.parent().unwrap()).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}
