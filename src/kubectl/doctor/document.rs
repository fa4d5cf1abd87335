//! The results of checks, and their text.

use serde::Serialize;

use crate::kubectl::{
    output::{Cell, Tone},
    runbook,
};

/// The page with a section for each check.
const RUNBOOKS: &str = "docs/kubectl.md";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckState {
    Ok,
    Warning,
    Error,
}

impl CheckState {
    fn tone(self) -> Tone {
        match self {
            Self::Ok => Tone::Good,
            Self::Warning => Tone::Warning,
            Self::Error => Tone::Bad,
        }
    }
}

/// The checks, in the order of their output. The name of a check is its section of the runbook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckName {
    Api,
    Crd,
    Permissions,
    Replicas,
    Versions,
    Lease,
    ProxyPorts,
    LocalPorts,
    Connections,
    Conntrack,
    Clock,
    LoadBalancers,
    ListenerLimits,
    Drains,
    Certificates,
    Services,
    Reachability,
}

impl CheckName {
    #[cfg(test)]
    pub const ALL: [Self; 17] = [
        Self::Api,
        Self::Crd,
        Self::Permissions,
        Self::Replicas,
        Self::Versions,
        Self::Lease,
        Self::ProxyPorts,
        Self::LocalPorts,
        Self::Connections,
        Self::Conntrack,
        Self::Clock,
        Self::LoadBalancers,
        Self::ListenerLimits,
        Self::Drains,
        Self::Certificates,
        Self::Services,
        Self::Reachability,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Crd => "crd",
            Self::Permissions => "permissions",
            Self::Replicas => "replicas",
            Self::Versions => "versions",
            Self::Lease => "lease",
            Self::ProxyPorts => "proxy-ports",
            Self::LocalPorts => "local-ports",
            Self::Connections => "connections",
            Self::Conntrack => "conntrack",
            Self::Clock => "clock",
            Self::LoadBalancers => "load-balancers",
            Self::ListenerLimits => "listener-limits",
            Self::Drains => "drains",
            Self::Certificates => "certificates",
            Self::Services => "services",
            Self::Reachability => "reachability",
        }
    }
}

/// The result of a check for one object, or for all of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckResult {
    pub check: CheckName,
    pub state: CheckState,
    /// The object: `shop/postgres`, or the name of a pod. Absent: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    pub message: String,
    /// Absent if there is nothing to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runbook: Option<String>,
}

impl CheckResult {
    pub fn ok(check: CheckName, message: impl Into<String>) -> Self {
        Self { check, state: CheckState::Ok, object: None, message: message.into(), runbook: None }
    }

    pub fn warning(check: CheckName, message: impl Into<String>) -> Self {
        let runbook = Some(runbook::address(RUNBOOKS, check.as_str()));
        Self { check, state: CheckState::Warning, object: None, message: message.into(), runbook }
    }

    pub fn error(check: CheckName, message: impl Into<String>) -> Self {
        Self { state: CheckState::Error, ..Self::warning(check, message) }
    }

    pub fn about(self, object: impl ToString) -> Self {
        Self { object: Some(object.to_string()), ..self }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DoctorDocument {
    pub errors: usize,
    pub warnings: usize,
    pub results: Vec<CheckResult>,
}

impl DoctorDocument {
    pub fn new(mut results: Vec<CheckResult>) -> Self {
        results.sort_by_key(|result| result.check);
        let count = |state| results.iter().filter(|result| result.state == state).count();
        Self { errors: count(CheckState::Error), warnings: count(CheckState::Warning), results }
    }

    pub fn has_errors(&self) -> bool {
        self.errors > 0
    }

    pub fn has_warnings(&self) -> bool {
        self.warnings > 0
    }

    /// The results by check, and a summary.
    pub fn text(&self) -> String {
        let (mut text, mut last) = (String::new(), None);
        for result in &self.results {
            if last != Some(result.check) {
                let gap = if last.is_some() { "\n" } else { "" };
                text += &format!("{gap}{}\n", Cell::toned(result.check.as_str(), Tone::Heading));
                last = Some(result.check);
            }
            let tone = result.state.tone();
            let object = result.object.as_ref().map(|object| format!("{object}: ")).unwrap_or_default();
            let sentence = Cell::plain(format!("{object}{}", result.message));
            text += &format!("  {} {sentence}\n", Cell::toned(tone.sign(), tone));
            if let Some(address) = &result.runbook {
                let reference = runbook::reference(address, result.check.as_str());
                text += &format!("    {}\n", Cell::toned(reference, Tone::Faint));
            }
        }
        let (tone, summary) = match (self.errors, self.warnings) {
            (0, 0) => (Tone::Good, "all checks pass".into()),
            (0, warnings) => (Tone::Warning, format!("no errors, warnings: {warnings}")),
            (errors, warnings) => (Tone::Bad, format!("errors: {errors}, warnings: {warnings}")),
        };
        text + &format!("\n{} {}\n", Cell::toned(tone.sign(), tone), Cell::toned(summary, tone))
    }
}

/// `1 replica`, `2 replicas`
pub fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// The problems, or a result without one, if the facts of at least one replica are known.
pub fn or_ok(
    problems: Vec<CheckResult>,
    check: CheckName,
    known: usize,
    ok: impl FnOnce() -> String,
) -> Vec<CheckResult> {
    if problems.is_empty() && known > 0 { vec![CheckResult::ok(check, ok())] } else { problems }
}
