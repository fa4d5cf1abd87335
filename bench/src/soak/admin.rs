//! The admin address of tcplb: readiness and metrics.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use anyhow::{Context, Result, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The metrics of a process at one moment.
pub struct Metrics {
    samples: Vec<Sample>,
}

struct Sample {
    name: String,
    /// The text between the braces.
    labels: String,
    value: f64,
}

/// The connections of a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ListenerCounts {
    pub accepted: f64,
    pub active: f64,
    pub closed: f64,
}

impl Metrics {
    pub async fn read(admin: SocketAddr) -> Result<Self> {
        Ok(Self::parse(&get(admin, "/metrics").await?))
    }

    fn parse(text: &str) -> Self {
        let sample = |line: &str| {
            let (series, value) = line.rsplit_once(' ')?;
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            Some(Sample { name: name.into(), labels: labels.trim_end_matches('}').into(), value: value.parse().ok()? })
        };
        Self { samples: text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect() }
    }

    /// The sum of the series of this name that have this label.
    pub fn sum(&self, name: &str, label: &str) -> f64 {
        let matching = self.samples.iter().filter(|sample| sample.name == name && sample.labels.contains(label));
        matching.map(|sample| sample.value).sum()
    }

    /// The connections of each load balancer.
    pub fn counts(&self) -> BTreeMap<String, ListenerCounts> {
        let mut counts = BTreeMap::<String, ListenerCounts>::new();
        for Sample { name, labels, value } in &self.samples {
            let Some(balancer) = label(labels, "load_balancer") else { continue };
            let entry = counts.entry(balancer.into()).or_default();
            match &**name {
                "tcplb_connections_accepted_total" => entry.accepted += value,
                "tcplb_connections_active" => entry.active += value,
                "tcplb_connections_closed_total" => entry.closed += value,
                _ => {}
            }
        }
        counts
    }
}

fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    labels.split(',').find_map(|label| label.strip_prefix(name)?.strip_prefix("=\"")?.strip_suffix('"'))
}

/// True if the process is ready.
pub async fn is_ready(admin: SocketAddr) -> bool {
    get(admin, "/readyz").await.is_ok()
}

/// Requests a page with HTTP/1.0, so that the answer is not chunked.
async fn get(admin: SocketAddr, path: &str) -> Result<String> {
    timeout(REQUEST_TIMEOUT, async {
        let mut stream = TcpStream::connect(admin).await?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (head, body) = answer.split_once("\r\n\r\n").context("the answer has no end of its head")?;
        if head.split(' ').nth(1) != Some("200") {
            bail!("{path}: {head}");
        }
        Ok(body.into())
    })
    .await?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_read_and_added() {
        let metrics = Metrics::parse(
            "# TYPE tcplb_connections_closed_total counter\n\
             tcplb_connections_accepted_total{load_balancer_namespace=\"default\",load_balancer=\"a\",port=\"1\"} 9\n\
             tcplb_connections_closed_total{load_balancer_namespace=\"default\",load_balancer=\"a\",port=\"1\",reason=\"complete\"} 5\n\
             tcplb_connections_closed_total{load_balancer_namespace=\"default\",load_balancer=\"a\",port=\"1\",reason=\"client_reset\"} 3\n\
             tcplb_connections_active{load_balancer_namespace=\"default\",load_balancer=\"a\",port=\"1\"} 1\n\
             tcplb_configuration_mismatches_total 0\n",
        );
        assert_eq!(metrics.counts()["a"], ListenerCounts { accepted: 9.0, active: 1.0, closed: 8.0 });
        assert_eq!(metrics.sum("tcplb_connections_closed_total", "reason=\"client_reset\""), 3.0);
        assert_eq!(metrics.sum("tcplb_configuration_mismatches_total", ""), 0.0);
    }
}
