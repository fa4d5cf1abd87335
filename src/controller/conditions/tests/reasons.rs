//! The table of conditions and reasons in `docs/kubernetes.md`.

use super::*;

#[test]
fn the_documentation_describes_every_reason_of_every_condition() {
    let text = include_str!("../../../../docs/kubernetes.md");
    let listed: BTreeSet<(String, String)> = text.lines().filter_map(row).collect();
    let all = ConditionReason::ALL.iter();
    let all =
        all.flat_map(|reason| reason.types().iter().map(|type_| ((*type_).to_owned(), reason.as_str().to_owned())));
    let all: BTreeSet<(String, String)> = all.collect();
    let missing: Vec<_> = all.difference(&listed).collect();
    let unknown: Vec<_> = listed.difference(&all).collect();
    assert!(missing.is_empty() && unknown.is_empty(), "missing: {missing:?}, unknown: {unknown:?}");
}

/// A condition and one of its reasons: `| `Programmed` | `Pending` | meaning |`.
fn row(line: &str) -> Option<(String, String)> {
    let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
    let quoted = |cell: &str| cell.strip_prefix('`')?.strip_suffix('`').map(str::to_owned);
    let [type_, reason, meaning] = cells[..] else { return None };
    let (type_, reason) = (quoted(type_)?, quoted(reason)?);
    let is_condition = ConditionReason::ALL.iter().any(|reason| reason.types().contains(&&*type_));
    (is_condition && !meaning.is_empty()).then_some((type_, reason))
}
