use serde_saphyr::granit_parser::Marker;

/// A node of a YAML text that is not accepted.
pub struct NodeProblem {
    /// Counted from 1.
    pub line: u64,
    /// Counted from 1.
    pub column: u64,
    pub sentence: String,
}

impl NodeProblem {
    pub fn at(start: Marker, sentence: String) -> Self {
        Self { line: start.line() as u64, column: start.col() as u64 + 1, sentence }
    }
}

/// A node whose meaning depends on the program that reads it.
pub struct RefusedNode {
    pub problem: NodeProblem,
    /// True if it may decide a document's `apiVersion` or `kind`, so that the kind is not known.
    pub of_kind: bool,
}
