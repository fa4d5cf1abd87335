//! Reads the metrics that checks need from the text format of Prometheus.

/// Metrics of a replica.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaMetrics {
    /// The version of the program.
    pub version: Option<String>,
    /// The number of connections that the file descriptors allow.
    pub connections_limit: Option<u64>,
    pub connections_active: u64,
}

impl ReplicaMetrics {
    pub fn read(text: &str) -> Self {
        let mut metrics = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            match name {
                "tcplb_build_info" => metrics.version = label(labels, "version").map(str::to_owned),
                "tcplb_process_connections_limit" => metrics.connections_limit = whole(value),
                "tcplb_worker_connections_active" => metrics.connections_active += whole(value).unwrap_or_default(),
                _ => {}
            }
        }
        metrics
    }
}

/// A number without a fraction.
fn whole(text: &str) -> Option<u64> {
    text.strip_suffix(".0").unwrap_or(text).parse().ok()
}

fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = labels.split_once(&format!("{name}=\""))?;
    rest.split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_needed_metrics_are_read() {
        let text = "# HELP tcplb_build_info Version of the program.\n\
            tcplb_build_info{version=\"0.1.0\"} 1\n\
            tcplb_process_connections_limit 4321\n\
            tcplb_worker_connections_active{worker=\"0\"} 7\n\
            tcplb_worker_connections_active{worker=\"1\"} 5.0\n\
            tcplb_connections_active{port=\"1\"} 12\n# EOF\n";
        let expected =
            ReplicaMetrics { version: Some("0.1.0".into()), connections_limit: Some(4321), connections_active: 12 };
        assert_eq!(ReplicaMetrics::read(text), expected);
        assert_eq!(ReplicaMetrics::read("no metrics"), ReplicaMetrics::default());
    }
}
