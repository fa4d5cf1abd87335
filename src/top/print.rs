//! The table without a terminal: text, JSON or YAML.

use std::fmt::Write;

use serde::Serialize;

use super::state::{TopRow, TopState};
use crate::{
    printable::visible_json,
    traffic::{bytes, per_second},
};

/// The table at one moment.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TopDocument {
    replicas: usize,
    /// The errors of replicas that cannot be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<String>,
    rows: Vec<DocumentRow>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct DocumentRow {
    load_balancer: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<String>,
    usable: usize,
    of: usize,
    open: u64,
    connections_per_second: f64,
    /// Absent for endpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_per_second: Option<f64>,
    failures_per_second: f64,
    /// The endpoint in each replica, in the order of the rows. Empty for load balancers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    replicas: Vec<ReplicaRow>,
}

/// An endpoint in one replica.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ReplicaRow {
    replica: String,
    usable: bool,
    open: u64,
    connections_per_second: f64,
    failures_per_second: f64,
}

/// The rows of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextRows {
    /// Load balancers and endpoints.
    Usual,
    /// Also the replicas of each endpoint.
    All,
}

impl TopDocument {
    pub fn new(state: &TopState) -> Self {
        let row = |row: TopRow| {
            let replicas = state.replica_rows(&row.key);
            DocumentRow::new(row, replicas)
        };
        let rows = state.all_rows().into_iter().map(row).collect();
        Self { replicas: state.replicas, errors: state.errors.clone(), rows }
    }

    pub fn json(&self) -> String {
        // Strings and numbers: the serialization cannot fail.
        let text = serde_json::to_string_pretty(self).unwrap_or_default() + "\n";
        visible_json(&text).into_owned()
    }

    /// # Errors
    /// If a value cannot be written as YAML.
    pub fn yaml(&self) -> anyhow::Result<String> {
        Ok(visible_json(&serde_saphyr::to_string(self)?).into_owned())
    }
}

impl DocumentRow {
    fn new(row: TopRow, replicas: Vec<TopRow>) -> Self {
        let (rates, counts) = (row.rates.unwrap_or_default(), row.counts);
        Self {
            bytes_per_second: row.key.endpoint.is_none().then(|| rounded(rates.bytes)),
            load_balancer: row.key.load_balancer,
            endpoint: row.key.endpoint,
            usable: counts.usable,
            of: counts.endpoints,
            open: counts.open,
            connections_per_second: rounded(rates.connections),
            failures_per_second: rounded(rates.failures),
            replicas: replicas.into_iter().map(ReplicaRow::new).collect(),
        }
    }

    fn line(&self) -> Line {
        let name = match &self.endpoint {
            Some(endpoint) => format!("  {endpoint}"),
            None => self.load_balancer.clone(),
        };
        [
            name,
            format!("{}/{}", self.usable, self.of),
            self.open.to_string(),
            per_second(self.connections_per_second),
            self.bytes_per_second.map(bytes).unwrap_or_default(),
            per_second(self.failures_per_second),
        ]
    }
}

impl ReplicaRow {
    fn new(row: TopRow) -> Self {
        let rates = row.rates.unwrap_or_default();
        Self {
            replica: row.key.replica.unwrap_or_default(),
            usable: row.counts.usable > 0,
            open: row.counts.open,
            connections_per_second: rounded(rates.connections),
            failures_per_second: rounded(rates.failures),
        }
    }

    fn line(&self) -> Line {
        [
            format!("    {}", self.replica),
            format!("{}/1", u8::from(self.usable)),
            self.open.to_string(),
            per_second(self.connections_per_second),
            String::new(),
            per_second(self.failures_per_second),
        ]
    }
}

fn rounded(rate: f64) -> f64 {
    (rate * 100.0).round() / 100.0
}

/// The columns of a line.
type Line = [String; 6];

/// The table as text, with a line for each row.
pub fn text(document: &TopDocument, rows: TextRows) -> String {
    let mut lines = vec![["NAME", "USABLE", "OPEN", "NEW/S", "BYTES/S", "FAILED/S"].map(str::to_owned)];
    for row in &document.rows {
        lines.push(row.line());
        if rows == TextRows::All {
            lines.extend(row.replicas.iter().map(ReplicaRow::line));
        }
    }
    let width = lines.iter().map(|[name, ..]| name.chars().count()).max().unwrap_or_default();
    let mut text = String::new();
    for error in &document.errors {
        let _ = writeln!(text, "not counted: {error}");
    }
    for [name, usable, open, new, relayed, failed] in &lines {
        let _ = writeln!(text, "{name:<width$}   {usable:>9} {open:>8} {new:>9} {relayed:>12} {failed:>9}");
    }
    text
}
