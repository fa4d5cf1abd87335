//! Errors of watches.

use std::{
    error::Error,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use kube::{core::Status, runtime::watcher};
use tracing::{info, warn};

/// The time after which a refusal is reported. An API server that has just started refuses all requests until it has
/// read its own authorization rules.
pub const REFUSAL_DELAY: Duration = Duration::from_secs(5);

/// The error that broke a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchError {
    /// The API server refuses the watch, with a reason.
    Denied(String),
    /// The API server does not answer, or its answer is invalid.
    Unreachable(String),
}

impl fmt::Display for WatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(why) | Self::Unreachable(why) => f.write_str(why),
        }
    }
}

impl WatchError {
    /// The error of a watch. `None`: the resource version of the watch has expired. This is normal, and the watch
    /// starts again.
    pub fn of(error: watcher::Error) -> Option<Self> {
        match error {
            watcher::Error::InitialListFailed(error)
            | watcher::Error::WatchStartFailed(error)
            | watcher::Error::WatchFailed(error) => match error {
                kube::Error::Api(status) => Self::answered(&status),
                error => Some(Self::Unreachable(with_causes(&error))),
            },
            watcher::Error::WatchError(status) => Self::answered(&status),
            error @ watcher::Error::NoResourceVersion => Some(Self::Unreachable(error.to_string())),
        }
    }

    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Denied(_))
    }

    pub fn no_answer(within: Duration) -> Self {
        Self::Unreachable(format!("no answer within {} s", within.as_secs()))
    }

    pub fn fault() -> Self {
        Self::Unreachable("an internal error while reading the answer".into())
    }

    fn answered(status: &Status) -> Option<Self> {
        const UNAUTHORIZED: u16 = 401;
        const FORBIDDEN: u16 = 403;
        const NOT_FOUND: u16 = 404;
        const GONE: u16 = 410;
        const TOO_MANY_REQUESTS: u16 = 429;

        let message = if status.message.is_empty() { &status.reason } else { &status.message };
        match status.code {
            GONE => None,
            FORBIDDEN => Some(Self::Denied(format!("{message}: allow get, list and watch"))),
            // The request names no single object, so the kind is missing.
            NOT_FOUND => Some(Self::Denied(format!(
                "{message}: the cluster does not have this kind: install its CustomResourceDefinition, the output of \
                 `tcplb crd`"
            ))),
            UNAUTHORIZED => Some(Self::Denied(refused_token(message))),
            400..500 if status.code != TOO_MANY_REQUESTS => Some(Self::Denied(message.clone())),
            code => Some(Self::Unreachable(format!("{code} {message}"))),
        }
    }
}

/// The message for a token that the API server rejects.
pub fn refused_token(message: &str) -> String {
    format!(
        "{message}: the token of this process is not accepted; if its ServiceAccount was deleted, create it again and \
         restart the process"
    )
}

/// An error with its causes, without repetitions.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

/// The watches that cannot reach the API server. The first one is logged, and the end of the outage.
#[derive(Debug, Default)]
pub struct Outage {
    watches: AtomicUsize,
    /// True if the API server has answered a watch since the first one could not reach it. Watches also end because
    /// nothing needs them any more, or because the process ends.
    answered: AtomicBool,
}

/// A watch that cannot reach the API server.
pub struct Unreachable(Arc<Outage>);

impl Outage {
    pub fn join(self: &Arc<Self>, why: &str) -> Unreachable {
        if self.watches.fetch_add(1, Relaxed) == 0 {
            self.answered.store(false, Relaxed);
            warn!(reason = why, "cannot reach the API server: the last known objects stay in use");
        }
        Unreachable(self.clone())
    }

    /// Records an answer of the API server to a watch.
    pub fn answered(&self) {
        self.answered.store(true, Relaxed);
    }
}

#[cfg(test)]
impl Outage {
    pub fn is_on(&self) -> bool {
        self.watches.load(Relaxed) > 0
    }
}

impl Drop for Unreachable {
    fn drop(&mut self) {
        let Self(outage) = self;
        if outage.watches.fetch_sub(1, Relaxed) == 1 && outage.answered.load(Relaxed) {
            info!("the API server is reachable again");
        }
    }
}

/// The pauses between retries: longer after each failure, and different for each watch.
#[derive(Debug, Default)]
pub struct Pauses {
    failures: u32,
}

impl Pauses {
    const SHORTEST: Duration = Duration::from_millis(250);
    const LONGEST: Duration = Duration::from_secs(5);

    pub fn after_failure(&mut self) -> Duration {
        let pause = Self::SHORTEST.saturating_mul(1 << self.failures.min(16)).min(Self::LONGEST);
        self.failures += 1;
        pause.mul_f64(0.5 + fastrand::f64())
    }

    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_token_is_named_with_its_remedy_and_is_no_outage() {
        let status = Status { code: 401, message: "Unauthorized".into(), ..Status::default() };
        let watch_error = WatchError::answered(&status).unwrap();
        assert!(matches!(&watch_error, WatchError::Denied(_)), "{watch_error}");
        let message = watch_error.to_string();
        assert!(message.starts_with("Unauthorized: ") && message.contains("ServiceAccount"), "{message}");
        let forbidden = Status { code: 403, message: "no".into(), ..Status::default() };
        assert_eq!(WatchError::answered(&forbidden), Some(WatchError::Denied("no: allow get, list and watch".into())));
        let unknown_kind = Status { code: 404, message: "page not found".into(), ..Status::default() };
        let message = WatchError::answered(&unknown_kind).unwrap().to_string();
        assert!(message.contains("CustomResourceDefinition") && !message.contains("allow"), "{message}");
    }
}
