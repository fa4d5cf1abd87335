//! Checks of real servers in pods.

use std::{net::SocketAddr, path::Path, process::Command};

use k8s_openapi::api::core::v1::Secret;
use kube::api::DeleteParams;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    backends::{PORT, READY, load_balancer_with},
    clients::brief_dial,
    cluster, harness,
    scenario::{Scenario, is, is_not, scenario, sentence},
    turns::Isolation,
};

const REDIS: &str = "/usr/bin/redis-server";
const IMAGE: &str = "docker.io/library/redis-of-this-machine:test";

#[tokio::test(flavor = "multi_thread")]
async fn a_check_logs_in_with_the_password_of_a_secret_and_heeds_its_changes() {
    if !Path::new(REDIS).is_file() {
        return harness::lacks("redis-server");
    }
    scenario("redis", Isolation::Shared, async |scenario| {
        load_redis().await;
        scenario.password("of-the-server", "sesame").await;
        scenario.deploy("redis", 1, &redis_pod("of-the-server")).await;
        scenario.password("of-the-check", "guessed").await;
        let check = "healthCheck:\n  active: {type: Redis, interval: 1s, redis: {role: Primary, passwordRef: {name: of-the-check}}}";
        scenario.apply(&load_balancer_with("redis", "listeners: [{port: 6379}]", "redis", check)).await;
        let address = scenario.programmed("redis").await;
        // A check on a busy machine may also fail because its time is up.
        let refused = |status: &_| {
            is_not(status, "BackendsHealthy", "Unhealthy")
                && sentence(status, "BackendsHealthy").contains("the login was answered `-WRONGPASS`")
        };
        let status = scenario.status("the wrong password is told of", "redis", refused).await;
        let message = sentence(&status, "BackendsHealthy");
        assert!(!message.contains("guessed"), "{message}");
        assert!(ask(address, "PING").await.is_none(), "who cannot be checked gets no connections");

        scenario.password("of-the-check", "sesame").await;
        scenario.status("the right one passes", "redis", |status| is(status, "BackendsHealthy", "True")).await;
        cluster::eventually("every proxy serves it", cluster::WAIT_LIMIT, async || {
            ask(address, "AUTH sesame").await.as_deref() == Some("+OK\r\n")
        })
        .await;

        scenario.api::<Secret>().delete("of-the-check", &DeleteParams::default()).await.unwrap();
        let gone = |status: &_| is(status, "ResolvedRefs", "False") && is(status, "BackendsHealthy", "True");
        let status = scenario.status("the loss is told, and the one from before is used", "redis", gone).await;
        assert!(sentence(&status, "ResolvedRefs").contains("of-the-check"), "{status:?}");
    })
    .await;
}

/// Sends a command. Returns the answer, if there is one.
async fn ask(address: SocketAddr, command: &str) -> Option<String> {
    let mut stream = brief_dial(address).await.ok()?;
    stream.write_all(format!("{command}\r\n").as_bytes()).await.ok()?;
    let mut answer = [0; 64];
    let length = stream.read(&mut answer).await.ok().filter(|length| *length > 0)?;
    Some(String::from_utf8_lossy(&answer[..length]).into_owned())
}

/// Loads an image of this machine's Redis with the libraries that it needs.
async fn load_redis() {
    let needed = Command::new("ldd").arg(REDIS).output().expect("ldd runs").stdout;
    let needed = String::from_utf8(needed).unwrap();
    let files = || needed.split_whitespace().filter(|word| word.starts_with('/'));
    // The output has a bare path for the loader; libraries have a name in front.
    let loader = files().find(|file| file.contains("/ld-linux")).expect("it is linked dynamically");
    let libraries = files().filter(|file| *file != loader);
    let arguments: Vec<&str> = [IMAGE, loader, REDIS].into_iter().chain(libraries).collect();
    cluster::script("load", &arguments).await;
}

fn redis_pod(secret: &str) -> String {
    format!(
        "containers:
- name: redis
  image: {IMAGE}
  imagePullPolicy: Never
  args: [--library-path, /, /redis-server, --port, '{PORT}', --save, '', --requirepass, $(PASSWORD)]
  env: [{{name: PASSWORD, valueFrom: {{secretKeyRef: {{name: {secret}, key: password}}}}}}]
  readinessProbe: {READY}
"
    )
}

impl Scenario {
    async fn password(&self, name: &str, password: &str) {
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"password": password},
        });
        self.apply(&secret.to_string()).await;
    }
}
