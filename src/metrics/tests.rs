use std::collections::BTreeSet;

use super::*;

#[test]
fn the_documented_table_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (head, _) = text.split_once("| metric |").expect("docs/metrics.md has the table");
    let current = format!("{head}{}", table());
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, current).unwrap();
    } else {
        assert_eq!(text, current, "docs/metrics.md is not current: run `make generate`");
    }
}

#[test]
fn no_label_is_one_that_prometheus_or_its_operator_sets() {
    const TARGET: [&str; 9] =
        ["endpoint", "namespace", "pod", "service", "job", "instance", "container", "node", "prometheus"];
    const RESERVED: [&str; 2] = ["le", "quantile"];
    for family in FAMILIES {
        let labels: BTreeSet<&str> = family.labels.iter().copied().collect();
        assert_eq!(labels.len(), family.labels.len(), "{}: each once", family.name);
        for taken in TARGET.iter().chain(&RESERVED) {
            assert!(!labels.contains(taken), "{} has the label {taken}", family.name);
        }
        assert!(labels.iter().all(|label| !label.starts_with("__") && !label.starts_with("exported_")));
        assert!(family.labels.contains(&"load_balancer") == family.labels.contains(&"load_balancer_namespace"));
    }
}

#[test]
fn the_classic_format_names_families_like_their_samples() {
    let open_metrics = "# HELP a_bytes Bytes, of all\n# TYPE a_bytes counter\n# UNIT a_bytes bytes\na_bytes_total{x=\"# EOF\"} 3\n\
        # HELP b Version\n# TYPE b info\nb_info{version=\"1\"} 1\n# HELP c Seconds\n# TYPE c histogram\nc_sum 0.0\n\
        # HELP d Open\n# TYPE d gauge\nd 1\n# EOF\n";
    assert_eq!(
        classic::from_open_metrics(open_metrics),
        "# HELP a_bytes_total Bytes, of all\n# TYPE a_bytes_total counter\na_bytes_total{x=\"# EOF\"} 3\n\
         # HELP b_info Version\n# TYPE b_info gauge\nb_info{version=\"1\"} 1\n# HELP c Seconds\n# TYPE c histogram\nc_sum 0.0\n\
         # HELP d Open\n# TYPE d gauge\nd 1\n"
    );
}

#[test]
fn the_accept_header_chooses_the_format() {
    const PROMETHEUS: &str =
        "application/openmetrics-text;version=1.0.0;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    for (accept, format) in [
        ("", ExpositionFormat::Classic),
        ("*/*", ExpositionFormat::Classic),
        ("text/plain;version=0.0.4", ExpositionFormat::Classic),
        ("text/html, application/xhtml+xml, */*;q=0.8", ExpositionFormat::Classic),
        ("application/openmetrics-text; q=0", ExpositionFormat::Classic),
        ("application/openmetrics-text", ExpositionFormat::OpenMetrics),
        ("text/plain, Application/OpenMetrics-Text; version=1.0.0", ExpositionFormat::OpenMetrics),
        (PROMETHEUS, ExpositionFormat::OpenMetrics),
    ] {
        assert_eq!(ExpositionFormat::accepted(accept), format, "{accept}");
    }
}
