//! The tables that a run prints at its end.

use std::collections::BTreeMap;

use super::{
    accounting::ClassCounts,
    edits::Edit,
    resources::{HEADER, Trend},
};

/// The interval of progress lines, in seconds.
pub const PROGRESS_INTERVAL: u32 = 15;

/// The results of a run.
pub struct Summary<'a> {
    pub classes: ClassCounts,
    pub edits: [&'a BTreeMap<Edit, u64>; 2],
    pub kills: usize,
    pub takeovers: u64,
    pub trends: &'a [Trend],
}

impl Summary<'_> {
    pub fn print(&self) {
        println!("\nconnections by their end:");
        for ((kind, transport, class), count) in &self.classes {
            println!("  {kind:10} {transport:6} {class:20} {count:>9}");
        }
        let mut totals = BTreeMap::<Edit, u64>::new();
        for (edit, count) in self.edits.into_iter().flatten() {
            *totals.entry(*edit).or_default() += count;
        }
        println!("\ndisturbances:");
        for (edit, count) in totals {
            println!("  {:38} {count:>9}", format!("{edit:?}"));
        }
        println!("  {:38} {:>9}\n  {:38} {:>9}", "kills of backends", self.kills, "takeovers", self.takeovers);
        println!("\n{HEADER}");
        self.trends.iter().for_each(|trend| println!("{trend}"));
    }
}
