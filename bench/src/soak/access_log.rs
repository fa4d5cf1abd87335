//! Lines of the access log of tcplb.

use std::net::SocketAddr;

use serde::Deserialize;

/// The end of a connection, as tcplb logs it with `--log-format json`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct LogEntry {
    /// `namespace/name:port`.
    pub listener: String,
    pub peer: SocketAddr,
    pub endpoint: Option<SocketAddr>,
    pub reason: String,
    pub bytes_to_backend: u64,
    pub bytes_to_client: u64,
}

impl LogEntry {
    pub fn parse(line: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(line)
    }

    /// The name of the load balancer.
    pub fn balancer(&self) -> &str {
        let name = self.listener.rsplit_once(':').map_or(&*self.listener, |(name, _)| name);
        name.rsplit('/').next().unwrap_or(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read() {
        let line = r#"{"time":"2026-07-01T09:30:00.123456Z","event":"end","listener":"default/steady-tls-0:28610","name":"28610",
            "peer":"127.1.0.5:40000","client":"127.1.0.5:40000","endpoint":"127.0.77.1:28600","attempts":1,
            "bytes_to_backend":3,"bytes_to_client":15,"connect_seconds":0.0004,"duration_seconds":1.5,"reason":"complete"}"#;
        let entry = LogEntry::parse(line).unwrap();
        assert_eq!((entry.balancer(), &*entry.reason, entry.bytes_to_client), ("steady-tls-0", "complete", 15));
        assert_eq!(entry.endpoint, "127.0.77.1:28600".parse().ok());
    }
}
