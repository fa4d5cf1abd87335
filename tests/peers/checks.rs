//! Health checks of real servers, and the servers' logs about them.

mod grpc;
mod mariadb;
mod openssl;
mod postgres;
mod redis;
mod web;

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use crate::harness::{Folder, Tcplb, free_address, manifest, metric, wait_until};

/// A load balancer whose endpoints are probed.
struct Checked {
    address: SocketAddr,
    tcplb: Tcplb,
    folder: Folder,
}

/// Enough for a login with SCRAM in a debug build, in parallel with others on a busy machine: it is also the time limit
/// of a check.
const INTERVAL: Duration = Duration::from_secs(1);
const THRESHOLD: u32 = 2;

impl Checked {
    /// `check` is the rest of `healthCheck.active`.
    fn new(endpoints: &[SocketAddr], check: &str) -> Self {
        Self::with(endpoints, check, "", &[])
    }

    /// With further parts of the spec, and files next to it.
    fn with(endpoints: &[SocketAddr], check: &str, more: &str, files: &[(&str, &str)]) -> Self {
        let (address, folder) = (free_address(), Folder::new());
        for (name, text) in files {
            folder.write(name, text);
        }
        let pace = format!(
            "interval: {INTERVAL:?}, timeout: {INTERVAL:?}, healthyAfter: {THRESHOLD}, unhealthyAfter: {THRESHOLD}"
        );
        // Only active checks decide.
        let passive = "passive: {maxEjectedPercent: 0}";
        let health = format!("healthCheck: {{active: {{{pace}, {check}}}, {passive}}}\n{more}");
        let path = folder.write("checked.yaml", &manifest("checked", address.port(), endpoints, &health));
        Self { address, tcplb: Tcplb::standalone(&[&path]).ready(), folder }
    }

    /// One of `examples/checks`, with these servers instead of its own.
    fn example(file: &str, instead: &[(&str, SocketAddr)]) -> Self {
        let (address, folder) = (free_address(), Folder::new());
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/checks").join(file);
        let mut text = fs::read_to_string(path).unwrap().replace("port: 4000", &format!("port: {}", address.port()));
        for (own, other) in instead {
            text = text.replace(own, &other.to_string());
        }
        let path = folder.write(file, &text);
        Self { address, tcplb: Tcplb::standalone(&[&path]).ready(), folder }
    }

    fn usable(&self, endpoint: SocketAddr) -> bool {
        is_usable(&self.tcplb.metrics(), endpoint)
    }

    /// Waits until connections reach exactly these endpoints: at one moment, since two requests for the metrics could
    /// see the endpoints before and after a change.
    fn goes_to(&self, endpoints: &[SocketAddr]) {
        wait_until(&format!("connections go to {endpoints:?}"), || {
            let metrics = self.tcplb.metrics();
            metric(&metrics, "tcplb_endpoint_usable", &[]) == endpoints.len() as f64
                && endpoints.iter().all(|endpoint| is_usable(&metrics, *endpoint))
        });
    }

    /// Waits for this many more probes with this result.
    fn has_probed(&self, result: &str, count: u32) {
        let label = format!("result=\"{result}\"");
        let probes = || self.tcplb.metric("tcplb_endpoint_probes_total", &[&label]);
        let wanted = probes() + f64::from(count);
        wait_until(&format!("{count} probes have {result}"), || probes() >= wanted);
    }

    fn last_failure(&self) -> String {
        let snapshot = self.tcplb.snapshot();
        let endpoints = snapshot["loadBalancers"][0]["endpoints"].as_array().unwrap().clone();
        endpoints.iter().filter_map(|endpoint| endpoint["lastFailure"].as_str()).collect()
    }

    fn fails_saying(&self, reason: &str) {
        wait_until(&format!("a probe fails, and says `{reason}`"), || self.last_failure().contains(reason));
    }
}

fn is_usable(metrics: &str, endpoint: SocketAddr) -> bool {
    metric(metrics, "tcplb_endpoint_usable", &[&format!("endpoint_address=\"{endpoint}\"")]) == 1.0
}

/// Checks that a change of roles was detected in time: after the required number of probes and one that had already
/// begun, each with its jitter, plus some time for a busy machine: twice that of as many probes afterwards.
fn in_time(took: Duration, checked: &Checked) {
    let begun = Instant::now();
    checked.has_probed("passed", THRESHOLD + 1);
    let most = (INTERVAL.mul_f64(1.1) + INTERVAL) * (THRESHOLD + 1) + 2 * begun.elapsed();
    assert!(took <= most, "{took:?}, at most {most:?}");
}
