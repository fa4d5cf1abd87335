//! From what is declared to what is served: pure, total, and without I/O.

mod verdict;

pub use verdict::{Problem, Reason, Severity, Verdict, Verdicts};
