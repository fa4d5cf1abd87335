//! Bounds on what manifests may make the process remember.

/// The most sentences about files as a whole.
pub const MAX_FILE_PROBLEMS: usize = 1000;
/// The largest manifest file, in bytes.
pub const MAX_FILE: u64 = 16 << 20;
/// The most objects in one file, those in lists included.
pub const MAX_DOCUMENTS: usize = 10_000;
/// The longest name or namespace that is taken for one, in bytes: what Kubernetes allows for any object.
pub const MAX_NAME: usize = 253;
