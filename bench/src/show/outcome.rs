use super::figure::Figure;
use crate::{
    chart::{Chart, Line},
    svg::COLOURS,
};

/// What a run was like.
pub struct Outcome {
    pub chart: Chart,
    pub figures: Vec<Figure>,
}

/// Each name has its colour, whichever panel it is in.
pub fn lines(names: &[&str], points: Vec<Vec<(f64, f64)>>) -> Vec<Line> {
    let line = |((name, colour), points)| Line { name: String::from(name), colour, points };
    names.iter().copied().zip(COLOURS).zip(points).map(line).collect()
}
