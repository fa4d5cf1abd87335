//! The places where users see a fault: `kubectl tcplb`, the admin pages, alerts and the documentation.

use std::{collections::BTreeMap, fs, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tokio::{
    task::block_in_place,
    time::{Instant, sleep},
};

use super::documentation::{about, addresses, explained, lists, section};
use crate::{
    admin_pages::{admin_address, get},
    cluster::{WAIT_LIMIT, eventually, root},
    harness::Folder,
    installation::is_ready,
    prometheus_server::{FiringAlert, Prometheus},
    scenario::{Scenario, condition, is_not},
};

/// The time in which every surface reports a fault that an object or a metric shows, on an idle machine.
const REPORT_LIMIT: Duration = Duration::from_secs(10);
/// The pause between two readings of a surface.
const PAUSE: Duration = Duration::from_millis(100);

/// A fault, as every surface reports it.
pub struct Fault {
    /// The arguments of `kubectl tcplb`.
    pub command: Vec<String>,
    /// Texts that its output and an admin page have.
    pub words: Vec<String>,
    /// The reason or sentence in the table of faults of the documentation.
    pub reason: &'static str,
    pub alert: &'static str,
    /// Labels of the alert.
    pub labels: Vec<(&'static str, String)>,
}

/// The fault that a condition of a load balancer has.
pub struct ConditionFault {
    pub name: &'static str,
    pub type_: &'static str,
    pub reason: &'static str,
    pub alert: &'static str,
}

/// The surfaces of the scenario's own installation.
pub struct Surfaces<'a> {
    scenario: &'a Scenario,
    prometheus: Prometheus,
    /// The header of requests for admin pages.
    authorization: String,
    _folder: Folder,
}

impl<'a> Surfaces<'a> {
    /// Starts a Prometheus that scrapes all replicas, and gets access to their admin pages.
    pub async fn of(scenario: &'a Scenario) -> Self {
        let (folder, replicas) = (Folder::new(), scenario.installation().pods(&scenario.client).await);
        let rules = folder.write("alerts.yaml", &immediate_rules());
        let prometheus = Prometheus::start(&configuration(&replicas, &rules), &folder);
        let authorization = scenario.page_authorization().await;
        let surfaces = Self { scenario, prometheus, authorization, _folder: folder };
        eventually("all replicas are scraped", WAIT_LIMIT, async || surfaces.query("up == 1").len() == replicas.len())
            .await;
        eventually("the admin pages can be read", WAIT_LIMIT, async || {
            surfaces.answers().await.values().all(|(status, _)| *status == 200)
        })
        .await;
        surfaces
    }

    /// The values of a query.
    pub fn query(&self, query: &str) -> Vec<f64> {
        block_in_place(|| self.prometheus.query(query)).into_iter().map(|(_, value)| value).collect()
    }

    /// The labels of a load balancer of the scenario.
    pub fn labels(&self, load_balancer: &str) -> Vec<(&'static str, String)> {
        vec![("load_balancer_namespace", self.scenario.namespace.clone()), ("load_balancer", load_balancer.to_owned())]
    }

    /// Waits until a condition of a load balancer is `False` with this reason, and then until every surface reports it
    /// in the words of the status.
    pub async fn report_condition(&self, fault: &ConditionFault, labels: Vec<(&'static str, String)>) {
        let ConditionFault { name, type_, reason, alert } = *fault;
        let what = format!("{type_} is False because of {reason}");
        let status = self.scenario.status(&what, name, |status| is_not(status, type_, reason)).await;
        let message = &condition(&status, type_).unwrap().message;
        let words = [reason].into_iter().chain(message.lines()).map(str::to_owned).collect();
        let command = ["status", name].map(str::to_owned).into();
        self.report(&Fault { command, words, reason, alert, labels }).await;
    }

    /// Waits until every surface reports a fault that an object or a metric shows now. Returns the alert.
    pub async fn report(&self, fault: &Fault) -> FiringAlert {
        let begun = Instant::now();
        // A command that needs no cluster shows how busy the machine is: all surfaces take longer then.
        let (code, told) = self.scenario.kubectl_tcplb(&["explain"]).await;
        assert_eq!(code, Some(0), "{told}");
        let limit = REPORT_LIMIT + 50 * begun.elapsed();
        let (told, (), alert) = tokio::join!(
            reported(fault, begun, limit, async || self.command_reports(fault).await),
            reported(fault, begun, limit, async || self.page_reports(fault).await),
            reported(fault, begun, limit, async || self.alert_reports(fault)),
        );
        println!("measured: {} is reported everywhere after {:.1?}", fault.reason, begun.elapsed());
        assert_documented(fault, &told, &alert);
        alert
    }

    /// The output of `kubectl tcplb`, or what it lacks.
    async fn command_reports(&self, fault: &Fault) -> Result<String, String> {
        let command: Vec<&str> = fault.command.iter().map(String::as_str).collect();
        let (_, told) = self.scenario.kubectl_tcplb(&command).await;
        let lacking: Vec<&String> = fault.words.iter().filter(|word| !told.contains(*word)).collect();
        match lacking.is_empty() {
            true => Ok(told),
            false => Err(format!("kubectl tcplb {} lacks {lacking:?}: {told}", command.join(" "))),
        }
    }

    /// Checks that the admin page of a replica has all words.
    async fn page_reports(&self, fault: &Fault) -> Result<(), String> {
        let answers = self.answers().await;
        let has_all = |page: &str| fault.words.iter().all(|word| page.contains(&escaped(word)));
        match answers.values().any(|(_, page)| has_all(page)) {
            true => Ok(()),
            false => Err(format!("no admin page has {:?}: {answers:#?}", fault.words)),
        }
    }

    fn alert_reports(&self, fault: &Fault) -> Result<FiringAlert, String> {
        let firing = block_in_place(|| self.prometheus.firing());
        let others = format!("{firing:#?}");
        let alert = firing.into_iter().find(|alert| is_about(alert, fault));
        alert.ok_or_else(|| format!("{} {:?} does not fire: {others}", fault.alert, fault.labels))
    }

    /// The admin pages of the ready replicas by pod, with the statuses of the answers.
    async fn answers(&self) -> BTreeMap<String, (u16, String)> {
        let mut answers = BTreeMap::new();
        for pod in self.scenario.installation().pods(&self.scenario.client).await.iter().filter(|pod| is_ready(pod)) {
            let answer = get(admin_address(pod), "/", &self.authorization).await;
            answers.insert(pod.metadata.name.clone().unwrap(), answer);
        }
        answers
    }
}

/// Reads a surface until it reports a fault.
async fn reported<T>(fault: &Fault, begun: Instant, limit: Duration, read: impl AsyncFn() -> Result<T, String>) -> T {
    loop {
        let found = read().await;
        let took = begun.elapsed();
        if took > limit {
            let missing = found.err().unwrap_or_else(|| format!("only after {took:?}"));
            panic!("{}: not reported within {limit:?}: {missing}", fault.reason);
        }
        if let Ok(found) = found {
            return found;
        }
        sleep(PAUSE).await;
    }
}

fn is_about(alert: &FiringAlert, fault: &Fault) -> bool {
    alert.name == fault.alert && fault.labels.iter().all(|(label, value)| alert.labels[*label] == **value)
}

/// Checks that the documentation has the sections to which the surfaces lead, and the words of the fault.
fn assert_documented(fault: &Fault, told: &str, alert: &FiringAlert) {
    let Fault { reason, .. } = fault;
    let runbook = section(&alert.runbook_url).unwrap_or_else(|| panic!("{} has no section", alert.runbook_url));
    assert!(runbook.contains("**Remedy.**"), "{}: {runbook}", alert.runbook_url);
    for address in addresses(told) {
        assert!(section(address).is_some(), "{address} has no section");
    }
    for name in explained(told) {
        assert!(about(name).is_some(), "{name} has no section");
    }
    assert!(runbook.contains(reason) || about(reason).is_some(), "{reason} has no section, and {runbook} lacks it");
    assert!(lists(reason, fault.alert), "the table of faults has no row with {reason} and {}", fault.alert);
}

/// A configuration that scrapes these replicas each second.
fn configuration(replicas: &[Pod], rules: &str) -> String {
    let target = |pod: &Pod| -> Value {
        let labels = json!({
            "container": "tcplb", "namespace": pod.metadata.namespace, "pod": pod.metadata.name,
        });
        json!({"targets": [admin_address(pod).to_string()], "labels": labels})
    };
    let targets: Vec<Value> = replicas.iter().map(target).collect();
    let configuration = json!({
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [rules],
        "scrape_configs": [{"job_name": "tcplb", "static_configs": targets}],
    });
    configuration.to_string()
}

/// The alerts of the chart, which fire at once.
fn immediate_rules() -> String {
    let rules = fs::read_to_string(root().join("charts/tcplb/files/alerts.yaml")).unwrap();
    // The age of an outage of watches that counts as a fault.
    assert!(rules.contains("> 300"));
    let rules = rules.replace("> 300", "> 1");
    let lines = rules.lines().map(|line| if line.trim_start().starts_with("for: ") { "    for: 0s" } else { line });
    lines.collect::<Vec<_>>().join("\n")
}

/// A text as it is in HTML.
fn escaped(text: &str) -> String {
    let escapes = [('&', "&amp;"), ('<', "&lt;"), ('>', "&gt;"), ('"', "&quot;"), ('\'', "&#39;")];
    escapes.into_iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}
