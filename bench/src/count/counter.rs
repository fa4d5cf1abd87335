//! Counters and their results.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Instructions in user space, by `valgrind --tool=callgrind`.
    Instructions,
    /// System calls, by `strace -c`.
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

    /// The factor for the usual number of operations, so that a start does not show in one operation. Starts vary by
    /// half a million instructions and 600 system calls, since the heap that grows may be that of another thread.
    pub fn factor(self) -> u32 {
        match self {
            Self::Instructions => 4,
            Self::SystemCalls => 8,
        }
    }

    pub fn program(self) -> &'static str {
        match self {
            Self::Instructions => "valgrind",
            Self::SystemCalls => "strace",
        }
    }
}

/// The count of each name: system calls by name, instructions by one name.
pub type Tally = BTreeMap<String, u64>;

/// The cost of one operation.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Count {
    pub each: f64,
    /// Names that occur at least once in ten operations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub by_name: BTreeMap<String, f64>,
}

/// The counts by contender, work and counter.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct OperationCounts {
    /// The key of the run that produced them.
    pub run: String,
    pub of: BTreeMap<String, BTreeMap<String, BTreeMap<String, Count>>>,
}
