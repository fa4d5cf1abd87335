//! What is counted, and what came of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Of user space, by `valgrind --tool=callgrind`.
    Instructions,
    /// By `strace -c`.
    SystemCalls,
}

impl Counter {
    pub const ALL: [Self; 2] = [Self::SystemCalls, Self::Instructions];

    pub fn name(self) -> &'static str {
        match self {
            Self::Instructions => "instructions",
            Self::SystemCalls => "system calls",
        }
    }

    /// How many times as many operations as usual. A start varies by half a million instructions, which must not show
    /// in one operation; the calls of a start hardly vary, and each is slow to count.
    pub fn factor(self) -> u32 {
        match self {
            Self::Instructions => 4,
            Self::SystemCalls => 1,
        }
    }

    pub fn program(self) -> &'static str {
        match self {
            Self::Instructions => "valgrind",
            Self::SystemCalls => "strace",
        }
    }
}

/// How often each name was counted: system calls by name, instructions by one name.
pub type Tally = BTreeMap<String, u64>;

/// What one operation needs.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Count {
    pub each: f64,
    /// Those that are there at least once in ten operations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub by_name: BTreeMap<String, f64>,
}

/// Of each contender, of each work, of each counter.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Counts {
    /// The key of the run that they come from.
    pub run: String,
    pub of: BTreeMap<String, BTreeMap<String, BTreeMap<String, Count>>>,
}
