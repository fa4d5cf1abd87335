//! Bounds on what manifests may make the process say and remember.

/// The longest sentence about one thing that is wrong, in bytes.
pub const MAX_SENTENCE: usize = 1024;
/// The most sentences about one object or one file.
pub const MAX_PROBLEMS: usize = 100;
/// The most sentences about files as a whole.
pub const MAX_FILE_PROBLEMS: usize = 1000;
/// The largest manifest file, in bytes.
pub const MAX_FILE: u64 = 16 << 20;
/// The most objects in one file, those in lists included.
pub const MAX_DOCUMENTS: usize = 10_000;
/// The longest name or namespace that is taken for one, in bytes: what Kubernetes allows for any object.
pub const MAX_NAME: usize = 253;

/// The last sentence where so many more problems are left out.
pub fn more_problems(count: usize) -> String {
    format!("and {count} more problems: correct the ones before first")
}
