//! Objects for monitoring systems: monitors, alerts, dashboards.

use serde_json::{Value, json};

use crate::{objects, of_kind, read};

#[test]
fn monitors_have_what_their_values_say() {
    for (kind, value, endpoints) in
        [("PodMonitor", "podMonitor", "podMetricsEndpoints"), ("ServiceMonitor", "serviceMonitor", "endpoints")]
    {
        let settings = json!({"metrics": {value: {
            "enabled": true,
            "namespace": "monitoring",
            "scrapeTimeout": "9s",
            "honorLabels": true,
            "relabelings": [{"targetLabel": "cluster", "replacement": "a"}],
            "metricRelabelings": [{"action": "drop", "regex": "tcplb_endpoint_.*", "sourceLabels": ["__name__"]}],
            "annotations": {"a": "b"},
        }}});
        let Some(objects) = objects(&["--set-json", &format!("metrics={}", settings["metrics"])]) else { return };
        let monitor = of_kind(&objects, kind)[0];
        assert_eq!(monitor["metadata"]["namespace"], "monitoring");
        assert_eq!(monitor["metadata"]["annotations"], json!({"a": "b"}));
        assert_eq!(monitor["spec"]["namespaceSelector"], json!({"matchNames": ["tcplb-system"]}));
        let declared = &settings["metrics"][value];
        let expected = json!({
            "port": "admin", "path": "/metrics", "interval": "30s", "scrapeTimeout": "9s", "honorLabels": true,
            "relabelings": declared["relabelings"], "metricRelabelings": declared["metricRelabelings"],
        });
        assert_eq!(monitor["spec"][endpoints], json!([expected]), "{kind}");
    }
}

#[test]
fn pods_are_annotated_for_scraping_on_request() {
    let options = "host.enabled=true,host.allowedPorts={5432}";
    let annotations = |more: &str| {
        let objects = objects(&[
            "--set-string",
            "podAnnotations.own=0,host.podAnnotations.own=1",
            "--set",
            options,
            "--set",
            more,
        ])?;
        let of = |kind| of_kind(&objects, kind)[0]["spec"]["template"]["metadata"]["annotations"].clone();
        Some((of("Deployment"), of("DaemonSet")))
    };
    let Some((gateway, host)) = annotations("metrics.scrapeAnnotations=true") else { return };
    let scraped = |own: &str, port: &str| {
        json!({
            "own": own, "prometheus.io/scrape": "true", "prometheus.io/path": "/metrics", "prometheus.io/port": port,
        })
    };
    assert_eq!((gateway, host), (scraped("0", "9900"), scraped("1", "9901")));
    assert_eq!(annotations("workers=1").unwrap().0, json!({"own": "0"}));
}

#[test]
fn the_rule_has_the_alerts_of_the_file_and_those_that_are_added() {
    let file: Value = serde_saphyr::from_str(&read("charts/tcplb/files/alerts.yaml")).unwrap();
    let own = file["groups"][0]["rules"].as_array().unwrap();
    let extra = json!([{"alert": "Mine", "expr": "vector(1)"}]);
    let options = [
        "--set=metrics.prometheusRule.enabled=true",
        "--set=metrics.prometheusRule.runbooks=https://example.com/runbooks",
        "--set=metrics.prometheusRule.disabledAlerts={TcplbNoLeader}",
        &format!("--set-json=metrics.prometheusRule.extraAlerts={extra}"),
    ];
    let Some(objects) = objects(&options) else { return };
    let rules = of_kind(&objects, "PrometheusRule")[0]["spec"]["groups"][0]["rules"].as_array().unwrap();
    let (last, rules) = rules.split_last().unwrap();
    assert_eq!(*last, extra[0]);
    let mut expected: Vec<Value> = own.iter().filter(|rule| rule["alert"] != "TcplbNoLeader").cloned().collect();
    assert_eq!(expected.len() + 1, own.len());
    for rule in &mut expected {
        let url = rule["annotations"]["runbook_url"].as_str().unwrap();
        rule["annotations"]["runbook_url"] = url.replace("docs/runbooks.md", "https://example.com/runbooks").into();
    }
    assert_eq!(rules, expected);
}

#[test]
fn dashboards_are_config_maps_that_grafana_selects() {
    let Some(objects) = objects(&["--set", "metrics.dashboards.enabled=true,metrics.dashboards.namespace=grafana"])
    else {
        return;
    };
    let maps = of_kind(&objects, "ConfigMap").into_iter();
    let maps: Vec<&Value> = maps.filter(|map| map["metadata"]["labels"]["grafana_dashboard"] == "1").collect();
    assert_eq!(maps.len(), 3);
    for name in ["overview", "load-balancer", "replica"] {
        let map = maps.iter().find(|map| map["metadata"]["name"] == format!("tcplb-{name}-dashboard")).unwrap();
        assert_eq!(map["metadata"]["namespace"], "grafana");
        let text = map["data"][format!("tcplb-{name}.json")].as_str().unwrap();
        assert_eq!(text.trim(), read(&format!("charts/tcplb/dashboards/{name}.json")).trim());
    }
}
