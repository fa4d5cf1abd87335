//! The cluster of the tests: connecting to it, and failures from outside.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client, api::ListParams};
use tokio::time::{Instant, sleep, timeout};

use crate::harness;

/// The time limit of each wait.
pub const WAIT_LIMIT: Duration = Duration::from_secs(60);

/// The tested image, by its name on the nodes. `None`: there is no cluster.
pub fn image() -> Option<String> {
    harness::has_test_cluster().then(|| std::env::var("E2E_IMAGE").unwrap())
}

/// A client for one test: it must not outlive the runtime on which it was created.
pub async fn connect() -> Client {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    Client::try_default().await.expect("KUBECONFIG leads to a cluster")
}

/// Runs a script of tests/cluster, which must succeed.
pub async fn script(name: &str, arguments: &[&str]) -> String {
    let output = attempt(name, arguments).await;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "tests/cluster/{name} {arguments:?}: {stdout}{complaint}");
    stdout
}

/// Runs a script that may fail.
pub async fn attempt(name: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(root().join("tests/cluster").join(name));
    command.args(arguments);
    run(command).await
}

/// A part of the cluster that is taken away. It is restored on drop, whatever the outcome of the test.
pub struct Away {
    script: &'static str,
    what: Vec<String>,
}

impl Away {
    /// Takes away a node, number 2 or higher.
    pub async fn node(number: usize) -> Self {
        Self::stop("node", vec![number.to_string()]).await
    }

    pub async fn api_server() -> Self {
        Self::stop("apiserver", Vec::new()).await
    }

    async fn stop(name: &'static str, what: Vec<String>) -> Self {
        let away = Self { script: name, what };
        script(name, &away.arguments("stop")).await;
        away
    }

    fn arguments<'a>(&'a self, verb: &'a str) -> Vec<&'a str> {
        [verb].into_iter().chain(self.what.iter().map(String::as_str)).collect()
    }

    pub fn comes_back(self) {}
}

impl Drop for Away {
    fn drop(&mut self) {
        let mut command = Command::new(root().join("tests/cluster").join(self.script));
        let output = tokio::task::block_in_place(|| command.args(self.arguments("start")).output());
        let started = output.as_ref().is_ok_and(|output| output.status.success());
        assert!(started || std::thread::panicking(), "tests/cluster/{}: {output:?}", self.script);
    }
}

/// The names and addresses of the nodes, sorted by name. The first one has the control plane.
pub async fn nodes(client: &Client) -> Vec<(String, IpAddr)> {
    let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await.unwrap();
    let named = nodes.into_iter().map(|node| {
        let addresses = node.status.unwrap().addresses.unwrap();
        let address = addresses.into_iter().find(|address| address.type_ == "InternalIP").unwrap();
        (node.metadata.name.unwrap(), address.address.parse().unwrap())
    });
    let mut nodes: Vec<(String, IpAddr)> = named.collect();
    nodes.sort();
    nodes
}

/// The output of kubectl, even if it is an error. For people.
pub async fn kubectl(arguments: &[&str]) -> String {
    let mut command = Command::new("bash");
    let environment = root().join("tests/cluster/env");
    command.arg("-c").arg(". \"$0\"; exec kubectl --request-timeout=10s \"$@\" 2>&1").arg(environment).args(arguments);
    String::from_utf8_lossy(&run(command).await.stdout).into_owned()
}

/// Runs a command to its end.
pub async fn run(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output()).await.unwrap().expect("the program can be started")
}

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// Repeats a check until it succeeds, for states that cannot be watched. The check is about a state, never a time.
pub async fn eventually(what: &str, limit: Duration, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + limit;
    // The check itself may hang on a connection without an answer.
    while !timeout(limit, holds()).await.unwrap_or(false) {
        assert!(Instant::now() < deadline, "{what}: not within {limit:?}");
        sleep(Duration::from_millis(20)).await;
    }
}
