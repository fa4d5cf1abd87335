//! Authorization of requests by bearer tokens, which the API server reviews.
//!
//! A token must be valid for the audience [`AUDIENCE`], and its user must be allowed to `get` a subresource of
//! `replicas` in the namespace of the process. Decisions are cached by a digest of the token. Tokens are neither kept
//! nor logged.

mod decisions;
mod review;
mod review_queue;
#[cfg(test)]
mod tests;
mod unauthorized;

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use aws_lc_rs::digest;
use kube::Client;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};
use tracing::{info, warn};

use self::{
    decisions::{CachedDecision, DecisionKey, Decisions},
    review::{Reviewer, TokenHolder},
    review_queue::ReviewQueue,
};
pub use self::{
    review::{AUDIENCE, GROUP, RESOURCE},
    unauthorized::Unauthorized,
};

/// The maximum length of a token, in bytes. Those of service accounts have 1 to 2 KiB.
const MAX_TOKEN: usize = 8 << 10;
/// The time limit of a review. It is below the time limit of the leader for a report.
const REVIEW_TIMEOUT: Duration = Duration::from_secs(2);
/// The maximum wait for the review of an unknown token to begin.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(2);
/// The maximum wait for a renewal to begin.
const RENEWAL_WAIT: Duration = Duration::from_millis(500);
/// The number of reviews at a time that renew decisions, apart from those of unknown tokens.
const RENEWALS: usize = 4;

/// Authorizes requests for tenant data.
pub struct Authorizer {
    reviewer: Reviewer,
    decisions: Mutex<Decisions>,
    unknown: ReviewQueue,
    renewals: Semaphore,
    /// True if the last review failed.
    failing: AtomicBool,
}

impl Authorizer {
    /// Authorizes by permissions in this namespace.
    pub fn new(client: Client, namespace: &str) -> Arc<Self> {
        Arc::new(Self {
            reviewer: Reviewer::new(client, namespace),
            decisions: Mutex::default(),
            unknown: ReviewQueue::default(),
            renewals: Semaphore::new(RENEWALS),
            failing: AtomicBool::new(false),
        })
    }

    /// The namespace of the permissions.
    pub fn namespace(&self) -> &str {
        self.reviewer.namespace()
    }

    /// Decides whether the holder of a token may read a subresource of `replicas`. The source is the address of the
    /// client.
    ///
    /// # Errors
    /// The reason of a refusal.
    pub async fn authorize(
        self: &Arc<Self>,
        token: &str,
        subresource: &'static str,
        source: IpAddr,
    ) -> Result<(), Unauthorized> {
        if token.is_empty() || token.len() > MAX_TOKEN {
            return Err(Unauthorized::InvalidToken);
        }
        let key = DecisionKey { digest: digest_of(token), subresource };
        match self.cached(&key) {
            CachedDecision::Allowed => Ok(()),
            CachedDecision::AllowedUntilReviewed => {
                self.renew_in_background(token, &key);
                Ok(())
            }
            CachedDecision::ToBeRenewed => self.renew(token, &key).await,
            CachedDecision::Refused(why) => Err(why),
            CachedDecision::Unknown => self.review_unknown(token, &key, source).await,
        }
    }

    fn cached(&self, key: &DecisionKey) -> CachedDecision {
        self.decisions().find(key, Instant::now())
    }

    /// Reviews an unknown token. Such reviews are limited, since everyone who can connect causes them.
    async fn review_unknown(&self, token: &str, key: &DecisionKey, source: IpAddr) -> Result<(), Unauthorized> {
        let turn = self.unknown.turn(source);
        let _turn = timeout(QUEUE_TIMEOUT, turn).await.ok().flatten().ok_or(Unauthorized::TooManyReviews)?;
        // Another request with this token may have had its turn before.
        match self.cached(key) {
            CachedDecision::Unknown => self.review(token, key).await,
            CachedDecision::Refused(why) => Err(why),
            CachedDecision::Allowed | CachedDecision::AllowedUntilReviewed | CachedDecision::ToBeRenewed => Ok(()),
        }
    }

    /// Reviews an allowed token again. It stays allowed while the API server cannot be reached.
    async fn renew(&self, token: &str, key: &DecisionKey) -> Result<(), Unauthorized> {
        let Ok(_turn) = timeout(RENEWAL_WAIT, self.renewals.acquire()).await else { return Ok(()) };
        let renewed = match self.cached(key) {
            CachedDecision::ToBeRenewed | CachedDecision::Unknown => self.review(token, key).await,
            CachedDecision::Refused(why) => Err(why),
            CachedDecision::Allowed | CachedDecision::AllowedUntilReviewed => Ok(()),
        };
        match renewed {
            Err(Unauthorized::ReviewFailed(_)) => Ok(()),
            decided => decided,
        }
    }

    fn renew_in_background(self: &Arc<Self>, token: &str, key: &DecisionKey) {
        let (authorizer, token, key) = (self.clone(), token.to_owned(), key.clone());
        tokio::spawn(async move {
            let _turn = authorizer.renewals.acquire().await;
            authorizer.review(&token, &key).await
        });
    }

    /// Asks the API server, and records its decision.
    async fn review(&self, token: &str, key: &DecisionKey) -> Result<(), Unauthorized> {
        let reviewed = timeout(REVIEW_TIMEOUT, self.reviewer.review(token, key.subresource)).await;
        let reviewed = reviewed.unwrap_or_else(|_| Err(format!("no answer within {REVIEW_TIMEOUT:?}")));
        self.log_failure(reviewed.as_ref().err());
        let decision = match reviewed {
            Ok(TokenHolder::Authorized) => Ok(()),
            Ok(TokenHolder::Unauthenticated) => Err(Unauthorized::InvalidToken),
            Ok(TokenHolder::Forbidden(user)) => Err(Unauthorized::Forbidden(user)),
            Err(error) => {
                self.decisions().record_failure(key, Instant::now());
                return Err(Unauthorized::ReviewFailed(error));
            }
        };
        self.decisions().record(key.clone(), decision.clone(), Instant::now());
        decision
    }

    /// Logs the first failure of reviews, and the first review after failures.
    fn log_failure(&self, error: Option<&String>) {
        let failed_before = self.failing.swap(error.is_some(), Relaxed);
        match error {
            Some(error) if !failed_before => warn!(%error, "tokens of admin requests cannot be reviewed"),
            None if failed_before => info!("tokens of admin requests can be reviewed again"),
            Some(_) | None => {}
        }
    }

    fn decisions(&self) -> MutexGuard<'_, Decisions> {
        self.decisions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn digest_of(token: &str) -> [u8; digest::SHA256_OUTPUT_LEN] {
    let mut bytes = [0; digest::SHA256_OUTPUT_LEN];
    bytes.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
    bytes
}
