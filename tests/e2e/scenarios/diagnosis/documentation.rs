//! Sections of the documentation.

use std::fs;

use crate::cluster::root;

/// The page with the table of faults.
const TROUBLESHOOTING: &str = "docs/troubleshooting.md#faults-and-their-reports";

/// The text of a section, by its address `docs/PAGE.md#section`. Sections below it are not part of it.
pub fn section(address: &str) -> Option<String> {
    let (page, anchor) = address.split_once('#')?;
    let text = fs::read_to_string(root().join(page)).ok()?;
    let heading = |line: &&str| line.starts_with("##");
    let is_it =
        |line: &&str| heading(line) && line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-") == anchor;
    let mut lines = text.lines().skip_while(|line| !is_it(line));
    lines.next()?;
    Some(lines.take_while(|line| !heading(line)).map(|line| format!("{line}\n")).collect())
}

/// The addresses of sections in a text: `see docs/PAGE.md#section`.
pub fn addresses(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let (_, address) = line.split_once("see ")?;
        address.find("docs/").map(|at| address[at..].trim_end()).filter(|address| address.contains('#'))
    })
}

/// The names of sections in a text: see `kubectl tcplb explain NAME`.
pub fn explained(text: &str) -> impl Iterator<Item = &str> {
    text.split("see `kubectl tcplb explain ").skip(1).filter_map(|rest| rest.split('`').next())
}

/// True if a row of the table of faults has the words of a report and its alert.
pub fn lists(words: &str, alert: &str) -> bool {
    let table = section(TROUBLESHOOTING).expect("the table of faults");
    table.lines().any(|row| row.starts_with('|') && row.contains(words) && row.contains(&format!("[{alert}]")))
}

/// The section about a reason of a condition, a close reason, or a check of `kubectl tcplb doctor`.
pub fn about(reason: &str) -> Option<String> {
    let pages = ["docs/conditions.md", "docs/close-reasons.md", "docs/kubectl.md"];
    pages.into_iter().find_map(|page| section(&format!("{page}#{}", reason.to_lowercase())))
}

#[test]
fn sections_and_their_addresses_are_found() {
    let text = section("docs/conditions.md#noendpoints").unwrap();
    assert!(text.contains("**Symptom.**") && !text.contains("### Unhealthy"), "{text}");
    assert_eq!(section("docs/conditions.md#nothing"), None);
    let text = "Ready: see the log\n    see docs/a.md#b\nsee https://example.com/blob/v1/docs/c.md#d\n";
    assert_eq!(addresses(text).collect::<Vec<_>>(), ["docs/a.md#b", "docs/c.md#d"]);
    let text = "Ready: see the log\n    see `kubectl tcplb explain drains`\nsee `kubectl tcplb explain Unhealthy`\n";
    assert_eq!(explained(text).collect::<Vec<_>>(), ["drains", "Unhealthy"]);
}
