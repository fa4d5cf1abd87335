//! What to say of calls to the API server that failed, and when to try them again.

use std::time::Duration;

use crate::source::{refused_token, with_causes};

/// For people, without the details that only programs read.
pub fn sentence(error: &kube::Error) -> String {
    const UNAUTHORIZED: u16 = 401;
    match error {
        kube::Error::Api(status) if status.code == UNAUTHORIZED => refused_token(&status.message),
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        kube::Error::Api(status) => format!("the API server answers {}", status.code),
        other => with_causes(other),
    }
}

/// How long to wait after this many tries in vain.
pub fn backoff(tries: u32) -> Duration {
    const LONGEST: Duration = Duration::from_mins(1);
    Duration::from_secs(1 << tries.saturating_sub(1).min(6)).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_minute() {
        let pauses: Vec<u64> = [1, 2, 3, 6, 7, 1000].map(|tries| backoff(tries).as_secs()).into();
        assert_eq!(pauses, [1, 2, 4, 32, 60, 60]);
    }
}
