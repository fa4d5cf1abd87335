use crate::{
    axes::{Axis, Field, Figure},
    statistics::Spread,
};

/// One figure of an axis.
pub struct Row {
    pub axis: &'static Axis,
    pub figure: &'static Figure,
    pub entries: Vec<Entry>,
    /// With what the others are compared: the best peer, or the first way.
    pub base: Option<&'static str>,
}

/// One contender's.
pub struct Entry {
    pub name: &'static str,
    /// Of the rounds without errors, if there are any.
    pub spread: Option<Spread>,
    /// To the base, within each round.
    pub ratio: Option<Spread>,
    pub errors: u64,
    pub first_error: Option<String>,
}

impl Row {
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == name)
    }

    pub fn compares_everybody(&self) -> bool {
        self.axis.field == Field::Everybody
    }
}
