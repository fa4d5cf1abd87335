//! The alerts and dashboards of the chart, and the metrics that their queries use.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

/// Labels that Prometheus or its operator adds to series.
const TARGET_LABELS: [&str; 7] = ["instance", "job", "namespace", "pod", "container", "service", "endpoint"];
/// Metrics of Prometheus itself, with their labels.
const OTHER_METRICS: [(&str, &[&str]); 2] = [("up", &[]), ("ALERTS", &["alertname", "alertstate"])];

pub struct Alert {
    pub name: String,
    pub query: String,
    pub annotations: Value,
    pub severity: Value,
}

pub struct Panel {
    /// The dashboard and the title.
    pub name: String,
    pub query: String,
}

pub fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

pub fn rules() -> String {
    fs::read_to_string(file("charts/tcplb/files/alerts.yaml")).unwrap()
}

pub fn alerts() -> Vec<Alert> {
    let rules: Value = serde_saphyr::from_str(&rules()).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let alert = |rule: &Value| Alert {
        name: text(&rule["alert"]),
        query: text(&rule["expr"]),
        annotations: rule["annotations"].clone(),
        severity: rule["labels"]["severity"].clone(),
    };
    rules["groups"][0]["rules"].as_array().unwrap().iter().map(alert).collect()
}

/// The dashboards by file name.
pub fn dashboards() -> BTreeMap<String, Value> {
    let files = fs::read_dir(file("charts/tcplb/dashboards")).unwrap().map(|entry| entry.unwrap().path());
    let dashboard = |path: PathBuf| {
        let parsed = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        (path.file_stem().unwrap().to_str().unwrap().to_owned(), parsed)
    };
    files.map(dashboard).collect()
}

/// Each query of each panel.
pub fn panels() -> Vec<Panel> {
    let mut panels = Vec::new();
    for (dashboard, content) in dashboards() {
        for panel in content["panels"].as_array().unwrap() {
            for target in panel["targets"].as_array().into_iter().flatten() {
                let name = format!("{dashboard}: {}", panel["title"].as_str().unwrap());
                panels.push(Panel { name, query: target["expr"].as_str().unwrap().to_owned() });
            }
        }
    }
    panels
}

/// The labels of each documented metric, also under the names of samples of histograms.
fn metrics() -> BTreeMap<String, BTreeSet<String>> {
    let mut metrics = BTreeMap::new();
    for row in tcplb::metrics::table().lines().skip(2) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let quoted = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
        let (name, mut labels) = (quoted(cells[1])[0].clone(), quoted(cells[3]).into_iter().collect::<BTreeSet<_>>());
        if cells[2] == "histogram" {
            for suffix in ["_sum", "_count", "_bucket"] {
                metrics.insert(format!("{name}{suffix}"), labels.clone());
            }
            labels.insert("le".into());
            metrics.insert(format!("{name}_bucket"), labels);
        } else {
            metrics.insert(name, labels);
        }
    }
    metrics
}

/// The parts of a query outside of strings: identifiers, and other characters.
fn tokens(query: &str) -> Vec<String> {
    let code: String = query.split('"').step_by(2).collect::<Vec<_>>().join("\"\"");
    let mut tokens: Vec<String> = Vec::new();
    let mut in_word = false;
    for character in code.chars() {
        let is_word = character.is_ascii_alphanumeric() || "_:$".contains(character);
        match tokens.last_mut() {
            Some(last) if is_word && in_word => last.push(character),
            _ if character.is_whitespace() => {}
            _ => tokens.push(character.into()),
        }
        in_word = is_word;
    }
    tokens
}

/// The metrics and labels of a query that do not exist.
fn unknown(query: &str, metrics: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let all: BTreeSet<&str> = metrics.values().flatten().map(String::as_str).chain(TARGET_LABELS).collect();
    let (mut unknown, tokens) = (Vec::new(), tokens(query));
    let is_name = |token: &str| token.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    for (index, token) in tokens.iter().enumerate() {
        let next = tokens.get(index + 1).map_or("", String::as_str);
        if token.starts_with("tcplb_") || token.starts_with("process_") || next == "{" {
            let other = OTHER_METRICS.iter().find(|(name, _)| name == token);
            let labels = match (metrics.get(token), other) {
                (Some(labels), _) => labels.iter().map(String::as_str).collect(),
                (None, Some((_, labels))) => labels.to_vec(),
                (None, None) => {
                    unknown.push(format!("metric {token}"));
                    continue;
                }
            };
            let selector = tokens[index + 1..].iter().take_while(|token| next == "{" && *token != "}");
            let matched = selector.filter(|token| is_name(token)).map(String::as_str);
            let missing = matched.filter(|label| !labels.contains(label) && !TARGET_LABELS.contains(label));
            unknown.extend(missing.map(|label| format!("label {label} of {token}")));
        }
        if ["by", "on", "without", "ignoring"].contains(&token.as_str()) {
            let list = tokens[index + 1..].iter().take_while(|token| *token != ")").filter(|token| is_name(token));
            unknown.extend(list.filter(|label| !all.contains(label.as_str())).map(|label| format!("label {label}")));
        }
    }
    unknown
}

#[test]
fn queries_use_only_documented_metrics_and_labels() {
    let metrics = metrics();
    let queries = alerts().into_iter().map(|alert| (alert.name, alert.query));
    let queries: Vec<_> = queries.chain(panels().into_iter().map(|panel| (panel.name, panel.query))).collect();
    assert!(queries.len() > 70, "{}", queries.len());
    for (name, query) in queries {
        assert_eq!(unknown(&query, &metrics), Vec::<String>::new(), "{name}: {query}");
    }
}

#[test]
fn unknown_metrics_and_labels_are_found() {
    let metrics = metrics();
    for (query, expected) in [
        ("sum by (pod, color) (tcplb_connections_active)", "label color"),
        ("rate(tcplb_connection_total{port=\"1\"}[5m])", "metric tcplb_connection_total"),
        ("tcplb_connections_active{worker=~\"a, b\", port!=\"1\"} > 0", "label worker of tcplb_connections_active"),
        (
            "histogram_quantile(0.9, tcplb_connect_duration_seconds_sum{le=\"1\"})",
            "label le of tcplb_connect_duration_seconds_sum",
        ),
    ] {
        assert_eq!(unknown(query, &metrics), [expected], "{query}");
    }
}

#[test]
fn dashboards_have_distinct_panels_and_the_data_source_that_users_select() {
    let dashboards = dashboards();
    assert_eq!(dashboards.keys().collect::<Vec<_>>(), ["load-balancer", "overview", "replica"]);
    for (name, dashboard) in dashboards {
        assert_eq!(dashboard["uid"], format!("tcplb-{name}"));
        let variables = dashboard["templating"]["list"].as_array().unwrap().iter();
        let variables: Vec<&str> = variables.map(|variable| variable["name"].as_str().unwrap()).collect();
        assert_eq!(variables[0], "datasource");
        let (mut ids, mut places) = (BTreeSet::new(), BTreeSet::new());
        for panel in dashboard["panels"].as_array().unwrap() {
            assert!(ids.insert(panel["id"].as_i64().unwrap()), "{name}: {panel}");
            let place = &panel["gridPos"];
            assert!(places.insert((place["y"].as_i64().unwrap(), place["x"].as_i64().unwrap())), "{name}: {panel}");
            if panel["type"] != "row" {
                assert_eq!(panel["datasource"]["uid"], "${datasource}", "{name}: {panel}");
            }
            for target in panel["targets"].as_array().into_iter().flatten() {
                let query = target["expr"].as_str().unwrap();
                let used = query
                    .split('$')
                    .skip(1)
                    .map(|rest| rest.split(|c: char| c != '_' && !c.is_alphanumeric()).next().unwrap());
                for variable in used.filter(|variable| *variable != "__rate_interval") {
                    assert!(variables.contains(&variable), "{name}: {query}");
                }
            }
        }
    }
}

#[test]
fn each_alert_has_a_severity_and_a_runbook() {
    let runbooks = fs::read_to_string(file("docs/runbooks.md")).unwrap();
    let headings: BTreeSet<&str> = runbooks.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let alerts = alerts();
    for alert in &alerts {
        let name = alert.name.as_str();
        assert!(headings.contains(name), "docs/runbooks.md has no section {name}");
        let anchor = format!("docs/runbooks.md#{}", name.to_lowercase());
        assert_eq!(alert.annotations["runbook_url"], anchor);
        assert!(alert.annotations["summary"].is_string() && alert.annotations["description"].is_string(), "{name}");
        assert!(alert.severity == "warning" || alert.severity == "critical", "{name}");
    }
    let names: BTreeSet<&str> = alerts.iter().map(|alert| alert.name.as_str()).collect();
    assert_eq!(headings, names, "each section of docs/runbooks.md has its alert");
}
