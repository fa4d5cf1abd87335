use crate::{
    axes::{Axis, Field, Figure},
    statistics::Spread,
};

/// A figure of an axis.
pub struct Row {
    pub axis: &'static Axis,
    pub figure: &'static Figure,
    pub entries: Vec<Entry>,
    /// The base of the comparison: the best peer, or the first way.
    pub base: Option<&'static str>,
}

/// The value of one contender.
pub struct Entry {
    pub name: &'static str,
    /// The spread of the rounds without errors. `None`: there are none.
    pub spread: Option<Spread>,
    /// The ratio to the base, within each round.
    pub ratio: Option<Spread>,
    pub errors: u64,
    pub first_error: Option<String>,
}

impl Row {
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == name)
    }

    pub fn compares_all_programs(&self) -> bool {
        self.axis.field == Field::Everybody
    }

    /// The axis, and the figure if the axis has several.
    pub fn title(&self) -> String {
        match self.figure.name {
            _ if self.axis.figures.len() == 1 => self.axis.what.to_owned(),
            "p999" => format!("{}: p99.9", self.axis.what),
            name => format!("{}: {name}", self.axis.what),
        }
    }
}

/// A comparison with the base. Less is better.
pub fn verdict(ratio: Spread) -> &'static str {
    if ratio.max < 1.0 {
        "better"
    } else if ratio.min > 1.0 {
        "worse"
    } else {
        "equal"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_depends_on_the_whole_interval() {
        for (min, max, expected) in
            [(0.8, 0.99, "better"), (0.8, 1.0, "equal"), (0.9, 1.1, "equal"), (1.0, 1.2, "equal"), (1.01, 1.2, "worse")]
        {
            assert_eq!(verdict(Spread { median: f64::midpoint(min, max), min, max }), expected);
        }
    }
}
