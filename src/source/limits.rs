//! Bounds on the memory that manifests can use.

/// The maximum number of sentences about files as a whole.
pub const MAX_FILE_PROBLEMS: usize = 1000;
/// The maximum size of a manifest file, in bytes.
pub const MAX_FILE: u64 = 16 << 20;
/// The maximum number of objects in one file, including those in lists.
pub const MAX_DOCUMENTS: usize = 10_000;
/// The maximum length of a name or namespace, in bytes: the limit of Kubernetes for all objects.
pub const MAX_NAME: usize = 253;
