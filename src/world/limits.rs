//! Bounds on messages about manifests.

/// The longest sentence about one thing that is wrong, in bytes.
pub const MAX_SENTENCE: usize = 1024;

/// The most sentences about one object or one file.
pub const MAX_PROBLEMS: usize = 100;

/// The last sentence where so many more problems are left out.
pub fn more_problems(count: usize) -> String {
    format!("and {count} more problems: correct these first")
}
