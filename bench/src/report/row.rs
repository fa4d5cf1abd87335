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
}
