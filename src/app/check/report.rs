//! The findings of a check as text, JSON and annotations.

use std::{fmt::Write, sync::Arc};

use serde_json::{Value, json};

use super::{github, mode::Mode};
use crate::{
    cli::CheckOutput,
    model::ObjectKey,
    printable::{printable, visible_json},
    source::FileProblem,
    translate::{Problem, Reason, Severity, Verdict},
};

/// The maximum length of a line with text from outside, in bytes.
const MAX_TEXT: usize = 8 << 10;

const NO_LOAD_BALANCER: &str = "no TcpLoadBalancer found: name files that have one";

/// The findings of a check.
#[derive(Default)]
pub struct CheckReport {
    /// Sorted by object.
    pub entries: Vec<CheckedLoadBalancer>,
    /// Problems that belong to no load balancer.
    pub problems: Vec<FileProblem>,
    /// The number of objects of other kinds.
    pub passed_over: usize,
}

/// The findings about one load balancer.
pub struct CheckedLoadBalancer {
    pub object: ObjectKey,
    /// The path of its file as it was given. `None`: standard input.
    pub file: Option<Arc<str>>,
    /// The line in its file where it begins, if it comes from a file.
    pub line: Option<u64>,
    pub mode: Mode,
    pub verdict: Verdict,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Error,
    Warning,
    Unknown,
}

impl Level {
    fn of(problem: &Problem) -> Self {
        match (problem.severity, problem.reason) {
            (Severity::Refused, _) => Self::Error,
            (Severity::Warning, Reason::Unknown) => Self::Unknown,
            (Severity::Warning, _) => Self::Warning,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Unknown => "unknown",
        }
    }

    /// The command of GitHub Actions that displays it.
    fn annotation(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Unknown => "notice",
        }
    }
}

impl CheckedLoadBalancer {
    fn count(&self, level: Level) -> usize {
        self.verdict.problems.iter().filter(|problem| Level::of(problem) == level).count()
    }

    fn word(&self) -> &'static str {
        match (self.verdict.refuses(), self.count(Level::Warning) > 0, self.count(Level::Unknown) > 0) {
            (true, _, _) => "refused",
            (false, true, true) => "accepted, with warnings and unknown references",
            (false, true, false) => "accepted, with warnings",
            (false, false, true) => "accepted, with unknown references",
            (false, false, false) => "accepted",
        }
    }
}

impl CheckReport {
    /// True if something is refused or, with `strict`, not known to be valid.
    pub fn fails(&self, strict: bool) -> bool {
        let is_refused = !self.problems.is_empty() || self.entries.iter().any(|entry| entry.verdict.refuses());
        let has_doubts =
            !self.notes().is_empty() || self.entries.iter().any(|entry| !entry.verdict.problems.is_empty());
        is_refused || strict && has_doubts
    }

    /// Warnings that concern no single load balancer. If there is none to check, the files may be the wrong ones.
    fn notes(&self) -> &'static [&'static str] {
        if self.entries.is_empty() && self.problems.is_empty() { &[NO_LOAD_BALANCER] } else { &[] }
    }

    pub fn written(&self, output: CheckOutput, strict: bool) -> String {
        match output {
            CheckOutput::Text => self.text(strict),
            CheckOutput::Json => visible_json(&format!("{:#}\n", self.json(strict))).into_owned(),
            CheckOutput::Github => self.annotations() + &github::plain(&self.text(strict)),
        }
    }

    fn text(&self, strict: bool) -> String {
        let mut text = String::new();
        for entry in &self.entries {
            let (object, origin) = (entry.object.to_string(), &entry.verdict.origin);
            let (object, origin) = (printable(&object, MAX_TEXT), printable(origin, MAX_TEXT));
            let _ = writeln!(text, "{object} ({origin}): {}", entry.word());
            for problem in &entry.verdict.problems {
                let _ = writeln!(text, "  {}: {problem}", Level::of(problem).word());
            }
        }
        for problem in &self.problems {
            let _ = writeln!(text, "error: {}", printable(problem, MAX_TEXT));
        }
        for note in self.notes() {
            let _ = writeln!(text, "warning: {note}");
        }
        match self.passed_over {
            0 => {}
            1 => text += "1 object of another kind was ignored\n",
            more => {
                let _ = writeln!(text, "{more} objects of other kinds were ignored");
            }
        }
        if strict && !self.fails(false) && self.fails(true) {
            text += "error: with --strict, warnings and unknown references count as errors\n";
        }
        text
    }

    fn json(&self, strict: bool) -> Value {
        let count = |level| self.entries.iter().map(|entry| entry.count(level)).sum::<usize>();
        json!({
            "passed": !self.fails(strict),
            "errors": count(Level::Error) + self.problems.len(),
            "warnings": count(Level::Warning) + self.notes().len(),
            "unknown": count(Level::Unknown),
            "passedOver": self.passed_over,
            "loadBalancers": self.entries.iter().map(entry_json).collect::<Vec<_>>(),
            "problems": self.problems.iter().map(|problem| &**problem).collect::<Vec<_>>(),
            "notes": self.notes(),
        })
    }

    fn annotations(&self) -> String {
        let mut text = String::new();
        for entry in &self.entries {
            for problem in &entry.verdict.problems {
                let level = Level::of(problem);
                let object = entry.object.to_string();
                text += &annotation(level, entry.file.as_deref(), entry.line, Some(&object), &problem.to_string());
            }
        }
        for problem in &self.problems {
            let message = printable(problem, MAX_TEXT);
            text += &annotation(Level::Error, problem.file.as_deref(), problem.line, None, &message);
        }
        for note in self.notes() {
            text += &annotation(Level::Warning, None, None, None, note);
        }
        text
    }
}

/// A command for an annotation. Standard input is not a file of the repository, so it has no line to annotate.
fn annotation(level: Level, file: Option<&str>, line: Option<u64>, title: Option<&str>, message: &str) -> String {
    let file = file.map(|file| ("file", printable(file, MAX_TEXT)));
    let line = line.filter(|_| file.is_some()).map(|line| ("line", line.to_string().into()));
    let title = title.map(|title| ("title", printable(title, MAX_TEXT)));
    let properties: Vec<_> = [file, line, title].into_iter().flatten().collect();
    let properties: Vec<_> = properties.iter().map(|(key, value)| (*key, &**value)).collect();
    github::command(level.annotation(), &properties, message)
}

fn entry_json(entry: &CheckedLoadBalancer) -> Value {
    let problem = |problem: &Problem| {
        json!({
            "level": Level::of(problem).word(),
            "reason": format!("{:?}", problem.reason),
            "field": problem.field,
            "message": problem.message,
        })
    };
    json!({
        "namespace": &*entry.object.namespace,
        "name": &*entry.object.name,
        "file": &*entry.verdict.origin,
        "line": entry.line,
        "mode": match entry.mode {
            Mode::Standalone => "standalone",
            Mode::Cluster => "cluster",
        },
        "accepted": !entry.verdict.refuses(),
        "problems": entry.verdict.problems.iter().map(problem).collect::<Vec<_>>(),
    })
}
