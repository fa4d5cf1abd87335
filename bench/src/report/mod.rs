//! Reports of results: comparing rows, and their formats.

mod document;
mod figures;
mod origins;
mod plot;
mod row;
mod table;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use self::row::{Entry, Row};
use crate::{
    axes::{AXES, Axis, Field, Figure},
    contender::{OURS, Program},
    results::{Measured, Results},
    statistics::Spread,
};

/// Writes the table into the document between its marks, and the plot next to the results. Returns the table.
pub fn write(results: &Path, document: &Path) -> Result<String> {
    let text = of(results)?;
    let page = fs::read_to_string(document).with_context(|| format!("{} cannot be read", document.display()))?;
    fs::write(document, document::with_table(&page, &text)?)?;
    Ok(text)
}

/// The table of these results. Also writes the plot to a file in the same folder.
pub fn of(path: &Path) -> Result<String> {
    let (text, plot) = rendered(path)?;
    fs::write(plot_of(path), plot).context("the plot cannot be written")?;
    Ok(text)
}

/// The table and the plot of these results.
fn rendered(path: &Path) -> Result<(String, String)> {
    let results = Results::read(path)?;
    let rows = rows(&results);
    Ok((table::render(&results, &rows), plot::draw(&rows)))
}

fn plot_of(results: &Path) -> PathBuf {
    results.with_extension("svg")
}

fn rows(results: &Results) -> Vec<Row> {
    let measured = AXES.iter().filter_map(|axis| Some((axis, results.axes.get(axis.name)?)));
    measured.flat_map(|(axis, measured)| axis.figures.iter().map(|figure| row(axis, figure, measured))).collect()
}

fn row(axis: &'static Axis, figure: &'static Figure, measured: &Measured) -> Row {
    let spread = |name| Spread::of(&measured.figures(name, figure.name).into_iter().flatten().collect::<Vec<_>>());
    let names: Vec<&'static str> = match axis.field {
        Field::Everybody => Program::ALL.iter().map(|program| program.name()).collect(),
        Field::Ours(ways) => ways.iter().map(|way| way.name).collect(),
    };
    let base = match axis.field {
        Field::Everybody => {
            let peers =
                names.iter().filter(|name| **name != OURS).filter_map(|name| Some((*name, spread(name)?.median)));
            peers.min_by(|(_, one), (_, other)| one.total_cmp(other)).map(|(name, _)| name)
        }
        Field::Ours(ways) => ways.first().map(|way| way.name),
    };
    let entries = names.into_iter().map(|name| {
        let (errors, first_error) = measured.errors(name);
        let to_base =
            |base| Spread::of_ratios(&measured.figures(name, figure.name), &measured.figures(base, figure.name));
        let ratio = base.and_then(to_base);
        Entry { name, spread: spread(name), ratio, errors, first_error: first_error.map(Into::into) }
    });
    Row { axis, figure, entries: entries.collect(), base }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::axes::Round;

    /// Rounds of an axis, with the CPU time of each contender.
    fn measured(rounds: &[&[(&str, f64)]]) -> Measured {
        let round = |figures: &&[(&str, f64)]| {
            figures.iter().map(|(name, cpu)| ((*name).to_owned(), Round::default().with("cpu", *cpu))).collect()
        };
        Measured { run: "today".into(), seconds: 1.0, rounds: rounds.iter().map(round).collect() }
    }

    #[test]
    fn the_committed_page_and_plot_show_the_committed_results() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let results = root.join("bench/results/results.json");
        let (text, plot) = rendered(&results).unwrap();
        let page = fs::read_to_string(root.join("docs/performance.md")).unwrap();
        let current = page == document::with_table(&page, &text).unwrap()
            && plot == fs::read_to_string(plot_of(&results)).unwrap();
        assert!(current, "docs/performance.md or results.svg is not current: run tcplb-bench report");
    }

    fn row_of(measured: Measured) -> Row {
        let results = Results { axes: [("conn".to_owned(), measured)].into(), ..Results::default() };
        rows(&results).remove(0)
    }

    #[test]
    fn ours_is_compared_with_the_best_peer_of_the_axis() {
        let row = row_of(measured(&[
            &[("tcplb", 9.0), ("HAProxy", 12.0), ("nginx", 10.0)],
            &[("tcplb", 8.0), ("HAProxy", 9.0), ("nginx", 10.0)],
            &[("tcplb", 8.0), ("HAProxy", 12.0), ("nginx", 16.0)],
        ]));
        assert_eq!(row.base, Some("nginx"), "its median is the best");
        let ratio = row.entry("tcplb").unwrap().ratio.unwrap();
        assert_eq!((ratio.min, ratio.median, ratio.max), (0.5, 0.8, 0.9));
        assert!(row.entry("Envoy").unwrap().spread.is_none(), "it was left out");
    }

    #[test]
    fn rounds_with_errors_do_not_count() {
        let mut measured = measured(&[&[("tcplb", 9.0), ("nginx", 10.0)], &[("tcplb", 1.0), ("nginx", 10.0)]]);
        let broken = measured.rounds[1].get_mut("tcplb").unwrap();
        (broken.errors, broken.first_error) = (3, Some("a connection: reset".into()));
        let row = row_of(measured);
        let ours = row.entry("tcplb").unwrap();
        assert_eq!((ours.spread.unwrap().median, ours.ratio.unwrap().median, ours.errors), (9.0, 0.9, 3));
    }
}
