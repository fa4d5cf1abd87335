//! The table without a terminal: text or JSON.

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
}

impl TopDocument {
    pub fn new(state: &TopState) -> Self {
        let rows = state.all_rows().into_iter().map(DocumentRow::new).collect();
        Self { replicas: state.replicas, errors: state.errors.clone(), rows }
    }

    pub fn json(&self) -> String {
        // Strings and numbers: the serialization cannot fail.
        let text = serde_json::to_string_pretty(self).unwrap_or_default() + "\n";
        visible_json(&text).into_owned()
    }
}

impl DocumentRow {
    fn new(row: TopRow) -> Self {
        let (rates, counts) = (row.rates.unwrap_or_default(), row.counts);
        let rounded = |rate: f64| (rate * 100.0).round() / 100.0;
        Self {
            bytes_per_second: row.key.endpoint.is_none().then(|| rounded(rates.bytes)),
            load_balancer: row.key.load_balancer,
            endpoint: row.key.endpoint,
            usable: counts.usable,
            of: counts.endpoints,
            open: counts.open,
            connections_per_second: rounded(rates.connections),
            failures_per_second: rounded(rates.failures),
        }
    }
}

/// The table as text, with a line for each row.
pub fn text(document: &TopDocument) -> String {
    let name = |row: &DocumentRow| match &row.endpoint {
        Some(endpoint) => format!("  {endpoint}"),
        None => row.load_balancer.clone(),
    };
    let names: Vec<String> = document.rows.iter().map(name).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or_default().max("NAME".len());
    let mut text = String::new();
    for error in &document.errors {
        let _ = writeln!(text, "not counted: {error}");
    }
    let _ = writeln!(
        text,
        "{:<width$}   {:>9} {:>8} {:>9} {:>12} {:>9}",
        "NAME", "USABLE", "OPEN", "NEW/S", "BYTES/S", "FAILED/S"
    );
    for (name, row) in names.iter().zip(&document.rows) {
        let usable = format!("{}/{}", row.usable, row.of);
        let relayed = row.bytes_per_second.map(bytes).unwrap_or_default();
        let (new, failed) = (per_second(row.connections_per_second), per_second(row.failures_per_second));
        let _ = writeln!(text, "{name:<width$}   {usable:>9} {:>8} {new:>9} {relayed:>12} {failed:>9}", row.open);
    }
    text
}
