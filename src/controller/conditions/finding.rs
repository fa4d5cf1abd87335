use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

#[cfg(test)]
use super::types::is_summary;
use super::{input::StatusInput, reason::ConditionReason};
use crate::printable::{limited, printable, printable_lines};

/// The longest message that a condition can have, in bytes; the API server counts characters.
pub const LONGEST_MESSAGE: usize = 32 * 1024;
/// The maximum length of a line of a message, in bytes: it may quote another program.
const LONGEST_LINE: usize = 8 * 1024;

/// The state of a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub holds: Holds,
    pub reason: ConditionReason,
    pub message: String,
    /// The time at which the finding changes although its input stays the same: a pending fault must be reported, or a
    /// certificate expires.
    pub changes_at: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    True,
    False,
    Unknown,
}

impl Finding {
    pub fn yes(reason: ConditionReason, message: impl Into<String>) -> Self {
        Self { holds: Holds::True, reason, message: message.into(), changes_at: None }
    }

    pub fn no(reason: ConditionReason, message: impl Into<String>) -> Self {
        Self { holds: Holds::False, reason, message: message.into(), changes_at: None }
    }

    pub fn unknown(reason: ConditionReason, message: impl Into<String>) -> Self {
        Self { holds: Holds::Unknown, reason, message: message.into(), changes_at: None }
    }

    pub fn condition(self, type_: &str, input: &StatusInput) -> Condition {
        let status = match self.holds {
            Holds::True => "True",
            Holds::False => "False",
            Holds::Unknown => "Unknown",
        };
        #[cfg(test)]
        assert!(is_summary(type_) || self.reason.types().contains(&type_), "{type_} has {:?}", self.reason);
        Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: self.reason.as_str().to_owned(),
            message: limited(&printable_lines(&self.message, LONGEST_LINE), LONGEST_MESSAGE).into_owned(),
            observed_generation: Some(input.identity.generation),
            last_transition_time: Time(whole_seconds(input.now)),
        }
    }
}

/// Truncates a time to whole seconds, as it is stored.
fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// Joins sentences, each on its own line.
pub fn lines(sentences: impl IntoIterator<Item = impl ToString>) -> String {
    let line = |sentence: String| printable(&sentence, LONGEST_LINE).into_owned();
    sentences.into_iter().map(|sentence| line(sentence.to_string())).collect::<Vec<_>>().join("\n")
}
