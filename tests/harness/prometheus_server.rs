//! A running Prometheus.
#![allow(dead_code, reason = "each test program uses a part")]

use std::{net::SocketAddr, path::Path};

use serde_json::Value;

use crate::{
    harness::{Folder, free_address, http_get},
    program::{Program, command},
};

pub struct Prometheus {
    _program: Program,
    address: SocketAddr,
}

/// A firing alert.
#[derive(Debug)]
pub struct FiringAlert {
    pub name: String,
    pub labels: Value,
    pub summary: String,
    pub runbook_url: String,
}

impl Prometheus {
    /// Starts with this configuration. The folder holds its data.
    pub fn start(configuration: &str, folder: &Folder) -> Self {
        let address = free_address();
        let file = folder.write("prometheus.yml", configuration);
        let data = Path::new(folder.path()).join("data");
        let mut prometheus = command("prometheus");
        prometheus
            .arg(format!("--config.file={file}"))
            .arg(format!("--storage.tsdb.path={}", data.display()))
            .arg(format!("--web.listen-address={address}"));
        Self { _program: Program::start(&mut prometheus), address }
    }

    /// The labels and the value of each series; none while Prometheus is not ready.
    pub fn query(&self, query: &str) -> Vec<(Value, f64)> {
        let query: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let result = &self.get(&format!("/api/v1/query?query={query}"))["result"];
        let series = result.as_array().into_iter().flatten();
        series.map(|one| (one["metric"].clone(), one["value"][1].as_str().unwrap().parse().unwrap())).collect()
    }

    /// The firing alerts; none while Prometheus is not ready.
    pub fn firing(&self) -> Vec<FiringAlert> {
        let data = self.get("/api/v1/alerts");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let alerts = data["alerts"].as_array().into_iter().flatten();
        let firing = alerts.filter(|alert| alert["state"] == "firing").map(|alert| FiringAlert {
            name: text(&alert["labels"]["alertname"]),
            labels: alert["labels"].clone(),
            summary: text(&alert["annotations"]["summary"]),
            runbook_url: text(&alert["annotations"]["runbook_url"]),
        });
        firing.collect()
    }

    /// The data of an answer; null while Prometheus is not ready.
    fn get(&self, path: &str) -> Value {
        let Some((200, answer)) = http_get(self.address, path) else { return Value::Null };
        let mut answer: Value = serde_json::from_str(&answer).unwrap();
        answer["data"].take()
    }
}
