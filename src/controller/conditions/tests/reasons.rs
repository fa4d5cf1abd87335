//! The tables of conditions and reasons in `docs/kubernetes.md`.

use super::*;

const TEXT: &str = include_str!("../../../../docs/kubernetes.md");

#[test]
fn the_documentation_describes_every_reason_of_every_condition() {
    let listed = sorted(table("### Reasons").map(|[type_, reason, meaning]| {
        let status = meaning.split([':', ';']).next();
        assert!(["True", "False", "Unknown"].map(Some).contains(&status), "{type_} {reason}: {meaning}");
        (type_, reason)
    }));
    let quoted = |name: &str| format!("`{name}`");
    let of_reason = |reason: &ConditionReason| {
        let reason = *reason;
        reason.types().iter().map(move |type_| (quoted(type_), quoted(reason.as_str())))
    };
    let all = sorted(ConditionReason::ALL.iter().flat_map(of_reason));
    let missing: Vec<_> = all.iter().filter(|one| !listed.contains(one)).collect();
    let unknown: Vec<_> = listed.iter().filter(|one| !all.contains(one)).collect();
    assert!(missing.is_empty() && unknown.is_empty(), "missing: {missing:?}, unknown: {unknown:?}");
    assert_eq!(listed, all, "a row is listed twice");
}

#[test]
fn the_documentation_describes_every_type_of_condition_with_reasons() {
    let listed = sorted(table("### Conditions").map(|[type_, meaning]| {
        assert!(meaning.len() > 10, "{type_}: {meaning}");
        type_
    }));
    let types: BTreeSet<&str> = ConditionReason::ALL.iter().flat_map(|reason| reason.types()).copied().collect();
    assert_eq!(listed, sorted(types.into_iter().map(|type_| format!("`{type_}`"))));
}

fn sorted<T: Ord>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut items: Vec<T> = items.collect();
    items.sort();
    items
}

/// The rows of the table below a heading: `| `Programmed` | `Pending` | meaning |`.
fn table<const CELLS: usize>(heading: &str) -> impl Iterator<Item = [String; CELLS]> {
    let (_, section) = TEXT.split_once(&format!("\n{heading}\n")).expect("the section exists");
    let lines = section.lines().take_while(|line| !line.starts_with('#')).filter(|line| line.starts_with('|'));
    lines.skip(2).map(|line| {
        let cells = line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned());
        Vec::from_iter(cells).try_into().unwrap_or_else(|_| panic!("{line}"))
    })
}
