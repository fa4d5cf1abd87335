//! Bounds on messages about manifests.

/// The maximum length of the sentence about one problem, in bytes.
pub const MAX_SENTENCE: usize = 1024;

/// The maximum number of sentences about one object or one file.
pub const MAX_PROBLEMS: usize = 100;

/// The last sentence, which counts the omitted problems.
pub fn more_problems(count: usize) -> String {
    format!("and {count} more problems: correct these first")
}
