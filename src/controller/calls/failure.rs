//! Failures of calls to the API server: their messages, and the pauses before the next try.

use std::{fmt, time::Duration};

use tokio::time::Instant;

use crate::source::{REFUSAL_DELAY, refused_token, with_causes};

/// A call to the API server that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiFailure {
    pub sentence: String,
    /// True if a permission is missing.
    pub is_refusal: bool,
}

impl From<kube::Error> for ApiFailure {
    fn from(error: kube::Error) -> Self {
        let is_refusal = matches!(&error, kube::Error::Api(status) if matches!(status.code, 401 | 403));
        Self { sentence: sentence(&error), is_refusal }
    }
}

impl From<String> for ApiFailure {
    fn from(sentence: String) -> Self {
        Self { sentence, is_refusal: false }
    }
}

impl From<&str> for ApiFailure {
    fn from(sentence: &str) -> Self {
        sentence.to_owned().into()
    }
}

impl fmt::Display for ApiFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

/// Consecutive failures, each of which is reported once.
#[derive(Clone, Debug, Default)]
pub struct Failures {
    since: Option<Instant>,
    last: Option<ApiFailure>,
    reported: Option<String>,
}

impl Failures {
    /// Records a failure. Returns true if it must be reported now.
    pub fn failed(&mut self, failure: ApiFailure, now: Instant) -> bool {
        self.since.get_or_insert(now);
        self.last = Some(failure);
        let Some(failure) = self.lasting(now).cloned() else { return false };
        self.reported.as_ref() != Some(&failure.sentence) && {
            self.reported = Some(failure.sentence);
            true
        }
    }

    /// Records a success. Returns true if a failure was reported before.
    pub fn succeeded(&mut self) -> bool {
        self.since = None;
        self.last = None;
        self.reported.take().is_some()
    }

    /// The last failure, once it must be reported.
    pub fn lasting(&self, now: Instant) -> Option<&ApiFailure> {
        let lasts = self.since.is_some_and(|since| now.duration_since(since) >= REFUSAL_DELAY);
        self.last.as_ref().filter(|failure| !failure.is_refusal || lasts)
    }
}

/// The message for users, without the details that only programs read.
pub fn sentence(error: &kube::Error) -> String {
    const UNAUTHORIZED: u16 = 401;
    match error {
        kube::Error::Api(status) if status.code == UNAUTHORIZED => refused_token(&status.message),
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        kube::Error::Api(status) => format!("the API server answers {}", status.code),
        other => with_causes(other),
    }
}

/// The pause after this many failed tries.
pub fn backoff(tries: u32) -> Duration {
    const LONGEST: Duration = Duration::from_mins(1);
    Duration::from_secs(1 << tries.saturating_sub(1).min(6)).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_reported_once_they_have_lasted_and_other_failures_at_once() {
        let refusal = || ApiFailure { sentence: "services is forbidden".into(), is_refusal: true };
        let now = Instant::now();
        let after = |seconds| now + Duration::from_secs(seconds);
        let mut failures = Failures::default();
        let reported = [0, 1, 3, 7, 15].map(|second| failures.failed(refusal(), after(second)));
        assert_eq!(reported, [false, false, false, true, false]);
        assert_eq!(failures.lasting(after(15)), Some(&refusal()));
        assert!(failures.succeeded());
        assert!(
            !failures.failed(refusal(), after(16)) && failures.lasting(after(16)).is_none(),
            "counted from the start"
        );
        assert!(!failures.succeeded(), "nothing was reported");
        assert!(failures.failed("no answer in time".into(), after(17)));
        assert!(
            !failures.failed("no answer in time".into(), after(18)) && failures.failed("a webhook".into(), after(19))
        );
    }

    #[test]
    fn a_forbidden_call_is_a_refusal() {
        for (code, is_refusal) in [(403, true), (404, false), (409, false), (503, false)] {
            let status = kube::core::Status { code, message: "why".into(), ..kube::core::Status::default() };
            assert_eq!(
                ApiFailure::from(kube::Error::Api(Box::new(status))),
                ApiFailure { sentence: "why".into(), is_refusal }
            );
        }
    }

    #[test]
    fn pauses_grow_to_a_minute() {
        let pauses: Vec<u64> = [1, 2, 3, 6, 7, 1000].map(|tries| backoff(tries).as_secs()).into();
        assert_eq!(pauses, [1, 2, 4, 32, 60, 60]);
    }
}
