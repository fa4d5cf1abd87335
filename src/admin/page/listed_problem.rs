use crate::translate::Severity;

/// A problem of a load balancer, in a sentence.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListedProblem {
    pub severity: Severity,
    pub sentence: String,
}

impl ListedProblem {
    /// Something is not served, or not as declared.
    pub fn error(sentence: String) -> Self {
        Self { severity: Severity::Refused, sentence }
    }

    /// Something needs attention.
    pub fn warning(sentence: String) -> Self {
        Self { severity: Severity::Warning, sentence }
    }
}
