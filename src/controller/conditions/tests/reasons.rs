//! The tables and sections of `docs/conditions.md`.

use super::{super::types::READY, *};

const TEXT: &str = include_str!("../../../../docs/conditions.md");

/// The reasons of desired states only. Each other reason has a section.
const NORMAL: [ConditionReason; 9] = [
    ConditionReason::Ready,
    ConditionReason::Accepted,
    ConditionReason::ResolvedRefs,
    ConditionReason::Programmed,
    ConditionReason::Healthy,
    ConditionReason::Valid,
    ConditionReason::ProxyProtocol,
    ConditionReason::DirectConnections,
    ConditionReason::LocalTrafficPolicy,
];

#[test]
fn the_documentation_lists_every_normal_reason() {
    let listed = table("## Normal reasons").map(|[type_, reason, meaning]| {
        assert_eq!(meaning.split([':', ';']).next(), Some("True"), "{type_} {reason}: {meaning}");
        (type_, reason)
    });
    let of_reason =
        |reason: ConditionReason| reason.types().iter().map(move |type_| (quoted(type_), quoted(reason.as_str())));
    assert_eq!(sorted(listed), sorted(NORMAL.into_iter().flat_map(of_reason)));
}

#[test]
fn the_documentation_has_a_section_for_every_other_reason() {
    let sections = TEXT.split("\n### ").skip(1).map(|section| {
        let (reason, text) = section.split_once('\n').expect("a heading is a line");
        (reason, text.split("\n## ").next().unwrap_or(text))
    });
    let sections: BTreeMap<&str, &str> = sections.collect();
    let others = ConditionReason::ALL.iter().filter(|reason| !NORMAL.contains(reason));
    let names: BTreeSet<&str> = others.clone().map(|reason| reason.as_str()).collect();
    assert_eq!(sections.keys().copied().collect::<BTreeSet<_>>(), names);
    for reason in others {
        let section = sections[reason.as_str()];
        // `Ready` takes the reasons of other conditions.
        for type_ in reason.types().iter().filter(|type_| **type_ != READY) {
            assert!(section.contains(&quoted(type_)), "the section {} does not name {type_}", reason.as_str());
        }
        for part in ["**Symptom.**", "```sh", "**Output.**", "**Remedy.**"] {
            assert!(section.contains(part), "the section {} has no {part}", reason.as_str());
        }
    }
}

#[test]
fn the_documentation_describes_every_type_of_condition_with_reasons() {
    let listed = sorted(table("## Types").map(|[type_, meaning]| {
        assert!(meaning.len() > 10, "{type_}: {meaning}");
        type_
    }));
    let types: BTreeSet<&str> = ConditionReason::ALL.iter().flat_map(|reason| reason.types()).copied().collect();
    assert_eq!(listed, sorted(types.into_iter().map(quoted)));
}

fn quoted(name: &str) -> String {
    format!("`{name}`")
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
