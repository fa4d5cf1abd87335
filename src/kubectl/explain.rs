//! `kubectl tcplb explain`: sections of the documentation, which the program contains. Needs no cluster.

mod topic;

use std::process::ExitCode;

use anyhow::anyhow;

use self::topic::{HelpTopic, TopicKind, anchor};
use super::output::{Cell, TextTable, Tone};
use crate::{cli::ExplainFlags, source::schema::near, stdout::print};

/// The shortest part of a name that finds the name.
const MIN_PART: usize = 3;

/// Runs the command.
///
/// # Errors
/// If no section has this name.
pub fn run(flags: &ExplainFlags) -> anyhow::Result<ExitCode> {
    let topics = HelpTopic::all();
    print(&match &flags.name {
        Some(name) => explanation(name, &topics)?,
        None => list(&topics),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The names of all sections.
pub fn names() -> Vec<String> {
    HelpTopic::all().into_iter().map(|topic| topic.name).collect()
}

/// A line for each topic, by kind.
fn list(topics: &[HelpTopic]) -> String {
    let table = |kind: &TopicKind| {
        let mut table = TextTable::new(&[&kind.label().to_uppercase(), "MEANING"]);
        for topic in topics.iter().filter(|topic| topic.kind == *kind) {
            table.push(vec![Cell::plain(&topic.name), Cell::plain(topic.summary())]);
        }
        table.to_string()
    };
    TopicKind::ALL.iter().map(table).collect::<Vec<_>>().join("\n")
}

/// The section with this name, or at this address, which ends with `#` and the name. Case makes no difference.
fn explanation(name: &str, topics: &[HelpTopic]) -> anyhow::Result<String> {
    let wanted = anchor(name.rsplit('#').next().unwrap_or(name));
    let found = topics.iter().find(|topic| anchor(&topic.name) == wanted);
    let topic = found.ok_or_else(|| unknown(name, &wanted, topics))?;
    let title = Cell::toned(topic.title.as_ref().unwrap_or(&topic.name), Tone::Heading);
    Ok(format!("{title} ({})\n\n{}\n", topic.kind.label(), topic.text.trim()))
}

fn unknown(name: &str, wanted: &str, topics: &[HelpTopic]) -> anyhow::Error {
    let names = || topics.iter().map(|topic| topic.name.as_str());
    let has_part = |name: &&str| wanted.len() >= MIN_PART && anchor(name).contains(wanted);
    let mut similar: Vec<&str> = names().filter(has_part).collect();
    similar.extend(near(wanted, names()).filter(|name| !similar.contains(name)));
    let similar = match similar.join(", ") {
        names if names.is_empty() => names,
        names => format!("; similar names: {names}"),
    };
    anyhow!("there is no section `{name}`{similar}; `kubectl tcplb explain` lists all names")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::kubectl::output::plain;

    fn explained(name: &str) -> Result<String, String> {
        explanation(name, &HelpTopic::all()).map(|text| plain(&text)).map_err(|error| error.to_string())
    }

    #[test]
    fn alerts_reasons_checks_and_symptoms_have_sections() {
        let alerts = include_str!("../../charts/tcplb/files/alerts.yaml").lines();
        let alerts = alerts.filter_map(|line| line.trim().strip_prefix("- alert: "));
        let reasons = ["Unhealthy", "Healthy", "listener_full", "endpoint_drained"];
        let others = ["proxy-ports", "drains", "the-connection-is-refused"];
        for name in alerts.chain(reasons).chain(others) {
            assert!(explained(name).unwrap().len() > name.len() + 40, "{name}");
        }
    }

    #[test]
    fn the_output_of_commands_names_sections() {
        for output in ["doctor.text", "status.text"] {
            let path = format!("{}/tests/golden-kubectl/{output}", env!("CARGO_MANIFEST_DIR"));
            let text = std::fs::read_to_string(path).unwrap();
            let names: Vec<&str> = text.split("`kubectl tcplb explain ").skip(1).collect();
            assert!(!names.is_empty(), "{output}");
            for name in names {
                let name = name.split('`').next().unwrap();
                assert!(explained(name).is_ok(), "{output}: {name}");
            }
        }
    }

    #[test]
    fn names_and_addresses_are_found_without_case() {
        let text = explained("tcplbDRAINstuck").unwrap();
        assert!(text.starts_with("TcplbDrainStuck (alert)\n\n**Symptom.** "), "{text}");
        assert!(text.contains("```sh\n") && text.contains("| `failback` | `drain.failback` |"), "{text}");
        for address in ["docs/runbooks.md#tcplbdrainstuck", "https://example.com/runbooks.md#tcplbdrainstuck"] {
            assert_eq!(explained(address).unwrap(), text);
        }
        let text = explained("The connection is refused").unwrap();
        assert!(text.starts_with("The connection is refused (symptom)\n\n"), "{text}");
        let text = explained("drained").unwrap();
        assert!(text.starts_with("drained (close reason)\n\n") && text.ends_with(" Outcome: success.\n"), "{text}");
        let text = explained("Healthy").unwrap();
        assert!(text.starts_with("Healthy (condition reason)\n\n`BackendsHealthy` is True: "), "{text}");
    }

    #[test]
    fn an_unknown_name_has_similar_ones() {
        for (name, similar) in [
            ("DrainStuck", "; similar names: TcplbDrainStuck"),
            ("listner_full", "; similar names: listener_full"),
            ("nothing-like-it", ""),
            ("", ""),
        ] {
            let expected = format!("there is no section `{name}`{similar}; `kubectl tcplb explain` lists all names");
            assert_eq!(explained(name).unwrap_err(), expected);
        }
    }

    #[test]
    fn the_list_has_each_name_once() {
        let topics = HelpTopic::all();
        let names: BTreeSet<String> = topics.iter().map(|topic| anchor(&topic.name)).collect();
        assert_eq!(names.len(), topics.len(), "{names:?}");
        let text = plain(&list(&topics));
        assert_eq!(text.lines().filter(|line| !line.is_empty()).count(), topics.len() + TopicKind::ALL.len());
        let kinds: Vec<&str> = text.split("\n\n").filter_map(|table| table.split("  ").next()).collect();
        assert_eq!(kinds, ["ALERT", "CONDITION REASON", "CLOSE REASON", "CHECK OF DOCTOR", "SYMPTOM"]);
        let drain = text.lines().find(|line| line.starts_with("TcplbDrainStuck ")).unwrap();
        assert!(drain.contains("   For 10 minutes, a drain has been overdue") && drain.len() < 160, "{drain}");
    }
}
