//! Tables in Markdown.

use std::fmt::Write;

use super::{
    figures::{count, interval, three_digits, two_places},
    origins::origins,
    row::{Entry, Row, verdict},
};
use crate::{
    contender::{OURS, Program},
    count::{Counter, OperationCounts, WORKS},
    results::Results,
};

pub fn render(results: &Results, rows: &[Row]) -> String {
    let (peers, own): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.compares_all_programs());
    let counts = results.counts.as_ref().map(counted).unwrap_or_default();
    let parts = [best_peer(&peers), all_medians(&peers), own_ways(&own), counts, errors(rows), origins(results)];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n")
}

/// tcplb and the best peer of each row.
fn best_peer(rows: &[&Row]) -> String {
    let line_of = |row: &&Row| {
        let ours = row.entry(OURS);
        let base = row.base.map_or_else(|| "–".into(), |base| format!("{base}: {}", cell(row.entry(base))));
        let mut cells = vec![row.title(), row.figure.unit.to_owned(), cell(ours), base];
        cells.extend(comparison(ours, row));
        cells
    };
    table(&["axis", "unit", "tcplb", "best peer", "ratio", "tcplb is"], rows.iter().map(line_of))
}

/// The medians of all contenders.
fn all_medians(rows: &[&Row]) -> String {
    let names: Vec<_> = Program::ALL.iter().map(|program| program.name()).collect();
    let line_of = |row: &&Row| {
        let medians = names.iter().map(|name| match row.entry(name) {
            Some(Entry { spread: Some(spread), .. }) => three_digits(spread.median),
            entry => cell(entry),
        });
        [row.title(), row.figure.unit.to_owned()].into_iter().chain(medians).collect()
    };
    table(&[&["medians", "unit"], &names[..]].concat(), rows.iter().map(line_of))
}

/// The ways of tcplb. Each is compared with the first one.
fn own_ways(rows: &[&Row]) -> String {
    let lines = rows.iter().flat_map(|row| {
        let (first, others) = row.entries.split_first().expect("an axis has ways");
        others.iter().map(|other| {
            let named = |entry: &Entry| format!("{}: {}", entry.name, cell(Some(entry)));
            let mut cells = vec![row.title(), row.figure.unit.to_owned(), named(other), named(first)];
            cells.extend(comparison(Some(other), row));
            cells
        })
    });
    table(&["axis", "unit", "compared", "with", "ratio", "verdict"], lines)
}

/// The ratio of an entry to the base of its row, and the verdict. Equal medians without a ratio are zeros.
fn comparison(entry: Option<&Entry>, row: &Row) -> [String; 2] {
    let median = |entry: &Entry| entry.spread.map(|spread| spread.median);
    let base = row.base.and_then(|base| row.entry(base)).and_then(median);
    match entry {
        Some(Entry { ratio: Some(ratio), .. }) => [interval(*ratio, two_places), verdict(*ratio).into()],
        Some(entry) if base.is_some() && median(entry) == base => ["–".into(), "equal".into()],
        _ => ["–".into(), "–".into()],
    }
}

/// The counts of one operation.
fn counted(counts: &OperationCounts) -> String {
    let names: Vec<&str> = counts.of.keys().map(String::as_str).collect();
    let lines = Counter::ALL.iter().flat_map(|counter| {
        let names = &names;
        WORKS.iter().map(move |work| {
            let each = |name: &str| Some(counts.of.get(name)?.get(work.name)?.get(counter.name())?.each);
            let mut cells = vec![format!("{} of one {}", counter.name(), work.name)];
            cells.extend(names.iter().map(|name| each(name).map_or_else(|| "–".into(), count)));
            cells
        })
    });
    table(&[&["counted"], &names[..]].concat(), lines)
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

fn cell(entry: Option<&Entry>) -> String {
    match entry {
        Some(Entry { spread: Some(spread), .. }) => interval(*spread, three_digits),
        Some(Entry { errors: 1.., .. }) => "failed".into(),
        _ => "–".into(),
    }
}

/// The beginning of a text on one line.
fn one_line(text: &str) -> String {
    text.replace('\n', " ").chars().take(200).collect()
}

/// A table. Without lines, it is empty.
fn table(heading: &[&str], lines: impl Iterator<Item = Vec<String>>) -> String {
    let mut lines = lines.peekable();
    let mut text = String::new();
    if lines.peek().is_some() {
        line(&mut text, heading);
        line(&mut text, &vec!["---"; heading.len()]);
        lines.for_each(|cells| line(&mut text, &cells));
    }
    text
}

fn line<T: AsRef<str>>(text: &mut String, cells: &[T]) {
    for cell in cells {
        write!(text, "| {} ", cell.as_ref()).expect("strings take all");
    }
    text.push_str("|\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{axes::AXES, statistics::Spread};

    fn entry(name: &'static str, median: f64, ratio: Option<f64>) -> Entry {
        let spread = |median| Spread { median, min: median / 2.0, max: median };
        Entry { name, spread: Some(spread(median)), ratio: ratio.map(spread), errors: 0, first_error: None }
    }

    fn row(entries: Vec<Entry>) -> Row {
        Row { axis: &AXES[0], figure: &AXES[0].figures[0], entries, base: Some("nginx") }
    }

    #[test]
    fn a_row_has_the_best_peer_and_the_verdict() {
        let row = row(vec![entry("tcplb", 40.0, Some(0.8)), entry("nginx", 50.0, Some(1.0))]);
        assert_eq!(
            best_peer(&[&row]).lines().nth(2).unwrap(),
            "| New connection, 64 B echo, close; 32 clients | µs CPU | 40.0 (20.0–40.0) | nginx: 50.0 (25.0–50.0) | \
             0.80 (0.40–0.80) | better |"
        );
        assert_eq!(
            all_medians(&[&row]).lines().nth(2).unwrap(),
            "| New connection, 64 B echo, close; 32 clients | µs CPU | 40.0 | – | – | 50.0 | – | – | – |"
        );
    }

    #[test]
    fn zeros_are_equal_without_a_ratio() {
        let row = row(vec![entry("tcplb", 0.0, None), entry("nginx", 0.0, None)]);
        assert!(best_peer(&[&row]).ends_with("| 0 | nginx: 0 | – | equal |\n"));
    }

    #[test]
    fn a_contender_without_a_figure_says_why() {
        let mut broken = entry("tcplb", 1.0, None);
        (broken.spread, broken.errors, broken.first_error) = (None, 7, Some("a connection: reset".into()));
        let row = row(vec![broken]);
        assert!(best_peer(&[&row]).contains("| failed |"));
        assert!(
            errors(&[row]).contains("tcplb: 7 errors; such rounds do not count. The first one: a connection: reset")
        );
    }
}
