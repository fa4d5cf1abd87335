//! Tables in Markdown.

use std::fmt::Write;

use super::row::{Entry, Row};
use crate::{
    axes::Goal,
    contender::{OURS, Program},
    count::{Counter, OperationCounts, WORKS},
    results::{Results, Run},
    statistics::Spread,
};

pub fn render(results: &Results, rows: &[Row]) -> String {
    let (peers, own): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.compares_all_programs());
    let counts = results.counts.as_ref().map(counted).unwrap_or_default();
    let parts = [peer_comparison(&peers), own_ways(&own), counts, errors(rows), origins(results)];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n")
}

fn peer_comparison(rows: &[&Row]) -> String {
    let mut text = String::new();
    if rows.is_empty() {
        return text;
    }
    let names: Vec<_> = Program::ALL.iter().map(|program| program.name()).collect();
    line(&mut text, [vec!["axis", "unit"], names.clone(), vec!["ours ÷ best peer", "goal"]].concat());
    line(&mut text, vec!["---"; names.len() + 4]);
    for row in rows {
        let mut cells = vec![row.axis.what.to_owned(), unit(row)];
        cells.extend(names.iter().map(|name| cell(row.entry(name))));
        cells.push(match (row.entry(OURS).and_then(|ours| ours.ratio), row.base) {
            (Some(ratio), Some(base)) => format!("{} × {base}", interval(ratio, two_places)),
            _ => "–".into(),
        });
        cells.push(row.entry(OURS).map_or_else(String::new, |ours| goal(row.figure.goal, ours)));
        line(&mut text, cells);
    }
    text
}

/// The ways of tcplb. Each is compared with the first one.
fn own_ways(rows: &[&Row]) -> String {
    let mut text = String::new();
    if rows.is_empty() {
        return text;
    }
    line(&mut text, ["axis", "unit", "compared", "with", "ratio", "goal"]);
    line(&mut text, ["---"; 6]);
    for row in rows {
        let Some((first, others)) = row.entries.split_first() else { continue };
        for other in others {
            line(
                &mut text,
                [
                    row.axis.what.to_owned(),
                    unit(row),
                    format!("{}: {}", other.name, cell(Some(other))),
                    format!("{}: {}", first.name, cell(Some(first))),
                    other.ratio.map_or_else(|| "–".into(), |ratio| interval(ratio, two_places)),
                    goal(row.figure.goal, other),
                ],
            );
        }
    }
    text
}

/// The counts of one operation.
fn counted(counts: &OperationCounts) -> String {
    let mut text = String::new();
    let names: Vec<&str> = counts.of.keys().map(String::as_str).collect();
    line(&mut text, [vec!["counted"], names.clone()].concat());
    line(&mut text, vec!["---"; names.len() + 1]);
    for counter in Counter::ALL {
        for work in &WORKS {
            let each = |name: &str| Some(counts.of.get(name)?.get(work.name)?.get(counter.name())?.each);
            let mut cells = vec![format!("{} of one {}", counter.name(), work.name)];
            cells.extend(names.iter().map(|name| each(name).map_or_else(|| "–".into(), rounded)));
            line(&mut text, cells);
        }
    }
    text
}

fn errors(rows: &[Row]) -> String {
    let mut text = String::new();
    let mut reported = Vec::new();
    for (row, entry) in rows.iter().flat_map(|row| row.entries.iter().map(move |entry| (row, entry))) {
        // Once for all figures of an axis.
        if entry.errors > 0 && !reported.contains(&(row.axis.name, entry.name)) {
            reported.push((row.axis.name, entry.name));
            let first = one_line(entry.first_error.as_deref().unwrap_or("unknown"));
            writeln!(
                text,
                "- `{}`, {}: {} errors; such rounds do not count. The first one: {first}",
                row.axis.name, entry.name, entry.errors
            )
            .expect("strings take all");
        }
    }
    text
}

fn origins(results: &Results) -> String {
    let mut text = String::new();
    for (name, run) in &results.runs {
        let of_run = || results.axes.iter().filter(|(_, measured)| measured.run == *name);
        let mut parts: Vec<_> = of_run().map(|(axis, _)| axis.as_str()).collect();
        if results.counts.as_ref().is_some_and(|counts| counts.run == *name) {
            parts.push("counts");
        }
        let whose = if results.runs.len() == 1 { "All of it".to_owned() } else { parts.join(", ") };
        // All axes of a run have the same settings.
        let rounds = of_run()
            .next()
            .map(|(_, measured)| format!("; {} rounds of {} s each", measured.rounds.len(), measured.seconds));
        writeln!(text, "- {whose}: {}{}.", origin(name, run), rounds.unwrap_or_default()).expect("strings take all");
    }
    text
}

fn origin(name: &str, run: &Run) -> String {
    let versions: Vec<_> = run.versions.iter().map(|(program, version)| format!("{program} {version}")).collect();
    let left_out = match &run.left_out[..] {
        [] => String::new(),
        names => format!("; left out: {}", names.join(", ")),
    };
    let machine = &run.machine;
    format!(
        "{name}, {} cores of {}, {:.0} GiB, Linux {}; {} (commit {}){left_out}",
        machine.cores,
        machine.cpu,
        machine.memory_gib,
        machine.kernel,
        versions.join(", "),
        run.revision
    )
}

fn unit(row: &Row) -> String {
    // If there are several figures, the unit does not identify them.
    match row.figure.name {
        "p50" | "p99" => format!("{}, {}", row.figure.name, row.figure.unit),
        "p999" => format!("p99.9, {}", row.figure.unit),
        _ => row.figure.unit.to_owned(),
    }
}

fn cell(entry: Option<&Entry>) -> String {
    match entry {
        Some(Entry { spread: Some(spread), .. }) => interval(*spread, three_digits),
        Some(Entry { errors: 1.., .. }) => "failed".into(),
        _ => "–".into(),
    }
}

fn goal(goal: Goal, ours: &Entry) -> String {
    let (limit, text, reached) = match goal {
        Goal::None => return String::new(),
        Goal::Ratio(limit) => (limit, format!("≤ {limit:.2}"), ours.ratio),
        Goal::Value(limit) => (limit, format!("≤ {limit}"), ours.spread),
    };
    match reached {
        None => text,
        Some(reached) if reached.median <= limit => format!("{text}: met"),
        Some(_) => format!("{text}: **missed**"),
    }
}

/// The median, and the range of all rounds.
fn interval(spread: Spread, shown: fn(f64) -> String) -> String {
    let (median, min, max) = (shown(spread.median), shown(spread.min), shown(spread.max));
    if min == max { median } else { format!("{median} ({min}–{max})") }
}

fn two_places(value: f64) -> String {
    format!("{value:.2}")
}

fn three_digits(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// The beginning of a text on one line.
fn one_line(text: &str) -> String {
    text.replace('\n', " ").chars().take(200).collect()
}

fn rounded(count: f64) -> String {
    if count < 100.0 { format!("{count:.1}") } else { format!("{count:.0}") }
}

fn line<T: AsRef<str>>(text: &mut String, cells: impl IntoIterator<Item = T>) {
    for cell in cells {
        write!(text, "| {} ", cell.as_ref()).expect("strings take all");
    }
    text.push_str("|\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::axes::AXES;

    fn entry(name: &'static str, median: f64, ratio: Option<f64>) -> Entry {
        let spread = |median| Spread { median, min: median / 2.0, max: median };
        Entry { name, spread: Some(spread(median)), ratio: ratio.map(spread), errors: 0, first_error: None }
    }

    fn row(entries: Vec<Entry>) -> Row {
        Row { axis: &AXES[0], figure: &AXES[0].figures[0], entries, base: Some("nginx") }
    }

    #[test]
    fn a_row_has_medians_their_spread_and_the_goal() {
        let row = row(vec![entry("tcplb", 40.0, Some(0.8)), entry("nginx", 50.0, Some(1.0))]);
        let text = peer_comparison(&[&row]);
        assert_eq!(
            text.lines().nth(2).unwrap(),
            "| New connection, 64 B echo, close; 32 clients | µs CPU | 40.0 (20.0–40.0) | – | 50.0 (25.0–50.0) | – | \
             0.80 (0.40–0.80) × nginx | ≤ 1.00: met |"
        );
    }

    #[test]
    fn a_contender_without_a_figure_says_why() {
        let mut broken = entry("tcplb", 1.0, None);
        (broken.spread, broken.errors, broken.first_error) = (None, 7, Some("a connection: reset".into()));
        let row = row(vec![broken]);
        assert!(peer_comparison(&[&row]).contains("| failed |"));
        assert!(
            errors(&[row]).contains("tcplb: 7 errors; such rounds do not count. The first one: a connection: reset")
        );
    }

    #[test]
    fn figures_have_three_digits() {
        assert_eq!([1234.5, 43.21, 1.234, 0.1234, 0.0].map(three_digits), ["1234", "43.2", "1.23", "0.123", "0"]);
    }
}
