//! The decisions about tokens, for a limited time.

use std::{collections::BTreeMap, time::Duration};

use aws_lc_rs::digest::SHA256_OUTPUT_LEN;
use tokio::time::Instant;

use super::unauthorized::Unauthorized;

/// The age at which an allowance is renewed in the background.
const RENEWED_AFTER: Duration = Duration::from_secs(60);
/// The age beyond which a request waits until its allowance is renewed.
const MAX_UNREVIEWED: Duration = Duration::from_secs(120);
/// The age at which an allowance ends that cannot be renewed because the API server does not answer.
const MAX_ALLOWANCE: Duration = Duration::from_secs(300);
/// The minimum interval of renewals in the background, and of renewals after a failed one.
const RENEWAL_PAUSE: Duration = Duration::from_secs(10);
/// The time for which a refusal is remembered.
const MAX_REFUSAL: Duration = Duration::from_secs(10);
/// The maximum number of decisions.
const MAX_DECISIONS: usize = 1024;

/// A token and the page that it is used for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DecisionKey {
    pub digest: [u8; SHA256_OUTPUT_LEN],
    pub subresource: &'static str,
}

/// The decisions so far. Beyond a limit, the oldest refusals are forgotten first, so that invalid tokens do not affect
/// known clients.
#[derive(Default)]
pub struct Decisions(BTreeMap<DecisionKey, Decision>);

struct Decision {
    outcome: Result<(), Unauthorized>,
    reviewed_at: Instant,
    /// The start of the last renewal in the background.
    renewal_at: Option<Instant>,
    /// The time of a failed renewal.
    failed_at: Option<Instant>,
}

/// The known decision about a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CachedDecision {
    Allowed,
    /// Allowed, and to be renewed in the background.
    AllowedUntilReviewed,
    /// Allowed if the API server confirms it or cannot be reached.
    ToBeRenewed,
    Refused(Unauthorized),
    Unknown,
}

impl Decisions {
    pub fn find(&mut self, key: &DecisionKey, now: Instant) -> CachedDecision {
        let Some(decision) = self.0.get_mut(key).filter(|decision| decision.holds(now)) else {
            return CachedDecision::Unknown;
        };
        if let Err(why) = &decision.outcome {
            return CachedDecision::Refused(why.clone());
        }
        let age = now.duration_since(decision.reviewed_at);
        let is_recent = |at: Option<Instant>| at.is_some_and(|at| now.duration_since(at) < RENEWAL_PAUSE);
        if age < RENEWED_AFTER || is_recent(decision.failed_at) {
            CachedDecision::Allowed
        } else if age >= MAX_UNREVIEWED {
            CachedDecision::ToBeRenewed
        } else if is_recent(decision.renewal_at) {
            CachedDecision::Allowed
        } else {
            decision.renewal_at = Some(now);
            CachedDecision::AllowedUntilReviewed
        }
    }

    pub fn record(&mut self, key: DecisionKey, outcome: Result<(), Unauthorized>, now: Instant) {
        if self.0.len() >= MAX_DECISIONS && !self.0.contains_key(&key) {
            self.forget(now);
        }
        self.0.insert(key, Decision { outcome, reviewed_at: now, renewal_at: None, failed_at: None });
    }

    /// Records that a renewal failed. The next ones do not wait for the API server at once.
    pub fn record_failure(&mut self, key: &DecisionKey, now: Instant) {
        if let Some(decision) = self.0.get_mut(key) {
            decision.failed_at = Some(now);
        }
    }

    /// Removes the decisions that no longer hold, or else the oldest refusal, or else the oldest allowance.
    fn forget(&mut self, now: Instant) {
        self.0.retain(|_, decision| decision.holds(now));
        if self.0.len() >= MAX_DECISIONS {
            let oldest = self.0.iter().min_by_key(|(_, decision)| (decision.outcome.is_ok(), decision.reviewed_at));
            if let Some(key) = oldest.map(|(key, _)| key.clone()) {
                self.0.remove(&key);
            }
        }
    }
}

impl Decision {
    fn holds(&self, now: Instant) -> bool {
        let limit = if self.outcome.is_ok() { MAX_ALLOWANCE } else { MAX_REFUSAL };
        now.duration_since(self.reviewed_at) < limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u16) -> DecisionKey {
        let mut digest = [0; SHA256_OUTPUT_LEN];
        digest[..2].copy_from_slice(&number.to_be_bytes());
        DecisionKey { digest, subresource: "report" }
    }

    #[test]
    fn an_allowance_is_renewed_and_ends_if_it_cannot_be() {
        let (mut decisions, begin) = (Decisions::default(), Instant::now());
        decisions.record(key(1), Ok(()), begin);
        for (seconds, expected) in [
            (59, CachedDecision::Allowed),
            (60, CachedDecision::AllowedUntilReviewed),
            (61, CachedDecision::Allowed),
            (70, CachedDecision::AllowedUntilReviewed),
            (120, CachedDecision::ToBeRenewed),
            (299, CachedDecision::ToBeRenewed),
            (300, CachedDecision::Unknown),
        ] {
            assert_eq!(decisions.find(&key(1), begin + Duration::from_secs(seconds)), expected, "after {seconds} s");
        }
        let elsewhere = DecisionKey { subresource: "snapshot", ..key(1) };
        assert_eq!(decisions.find(&elsewhere, begin), CachedDecision::Unknown, "another page");
    }

    #[test]
    fn after_a_failed_renewal_the_next_one_waits_for_a_while() {
        let (mut decisions, begin) = (Decisions::default(), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        decisions.record(key(1), Ok(()), begin);
        assert_eq!(decisions.find(&key(1), at(130)), CachedDecision::ToBeRenewed);
        decisions.record_failure(&key(1), at(130));
        decisions.record_failure(&key(2), at(130));
        assert_eq!(decisions.find(&key(1), at(139)), CachedDecision::Allowed);
        assert_eq!(decisions.find(&key(1), at(140)), CachedDecision::ToBeRenewed);
        decisions.record_failure(&key(1), at(299));
        assert_eq!(decisions.find(&key(1), at(300)), CachedDecision::Unknown);
    }

    #[test]
    fn a_refusal_is_remembered_for_ten_seconds() {
        let (mut decisions, begin) = (Decisions::default(), Instant::now());
        decisions.record(key(1), Err(Unauthorized::InvalidToken), begin);
        let refused = CachedDecision::Refused(Unauthorized::InvalidToken);
        assert_eq!(decisions.find(&key(1), begin + Duration::from_secs(9)), refused);
        assert_eq!(decisions.find(&key(1), begin + Duration::from_secs(10)), CachedDecision::Unknown);
    }

    #[test]
    fn many_invalid_tokens_use_limited_memory_and_displace_no_allowance() {
        let (mut decisions, begin) = (Decisions::default(), Instant::now());
        decisions.record(key(0), Ok(()), begin);
        for number in 1..5000 {
            decisions.record(key(number), Err(Unauthorized::InvalidToken), begin);
        }
        assert_eq!(decisions.0.len(), MAX_DECISIONS);
        assert_eq!(decisions.find(&key(0), begin), CachedDecision::Allowed);
        assert_eq!(decisions.find(&key(4999), begin), CachedDecision::Refused(Unauthorized::InvalidToken));
    }
}
