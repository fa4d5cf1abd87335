//! The machine, the versions and the dates of the results.

use std::{collections::BTreeMap, fmt::Write};

use crate::results::{Results, Run};

/// A list of the runs, grouped by machine and versions.
pub fn origins(results: &Results) -> String {
    let mut groups: BTreeMap<String, String> = BTreeMap::new();
    for (date, run) in &results.runs {
        let parts = groups.entry(origin(run)).or_default();
        writeln!(parts, "  - {date}: {}", parts_of(date, results)).expect("strings take all");
    }
    groups.into_iter().map(|(origin, parts)| format!("- {origin}\n{parts}")).collect()
}

/// The axes of a run, with their rounds.
fn parts_of(date: &str, results: &Results) -> String {
    let of_run = || results.axes.iter().filter(|(_, measured)| measured.run == date);
    let mut parts: Vec<_> = of_run().map(|(axis, _)| axis.as_str()).collect();
    if results.counts.as_ref().is_some_and(|counts| counts.run == date) {
        parts.push("counts");
    }
    // All axes of a run have the same settings.
    let rounds = of_run().next().map(|(_, one)| format!("; {} rounds of {} s each", one.rounds.len(), one.seconds));
    format!("{}{}", parts.join(", "), rounds.unwrap_or_default())
}

fn origin(run: &Run) -> String {
    let versions: Vec<_> = run.versions.iter().map(|(program, version)| format!("{program} {version}")).collect();
    let left_out = match &run.left_out[..] {
        [] => String::new(),
        names => format!("; left out: {}", names.join(", ")),
    };
    let machine = &run.machine;
    format!(
        "tcplb at commit {}; {} cores of {}, {:.0} GiB, Linux {}; {}{left_out}:",
        run.revision,
        machine.cores,
        machine.cpu,
        machine.memory_gib,
        machine.kernel,
        versions.join(", "),
    )
}
