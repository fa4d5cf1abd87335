use super::measurement::Measurement;
use crate::{
    chart::{Chart, Line},
    svg::COLOURS,
};

/// The result of a run.
pub struct Outcome {
    pub chart: Chart,
    pub figures: Vec<Measurement>,
}

/// Lines with colors by name, the same in every panel.
pub fn lines(names: &[&str], points: Vec<Vec<(f64, f64)>>) -> Vec<Line> {
    let line = |((name, colour), points)| Line { name: String::from(name), colour, points };
    names.iter().copied().zip(COLOURS).zip(points).map(line).collect()
}
