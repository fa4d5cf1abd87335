use std::time::Duration;

use tcplb::upstream::fuzzing::{PASSWORD, probe, sends_password};
use tokio::runtime::{Builder, Runtime};

use crate::cpu_time;

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
}

/// Responses of servers to health checks: every check ends, and its failure is a short printable sentence without the
/// password. The first byte selects the check, the second the size of the fragments.
pub fn probe_response(data: &[u8]) {
    let [which, size, answer @ ..] = data else { return };
    let begin = cpu_time();
    let outcome = RUNTIME.with(|runtime| runtime.block_on(probe(*which, 1 + usize::from(*size) * 8, answer)));
    let took = cpu_time() - begin;
    assert!(took < Duration::from_secs(10), "took {took:?}");
    let Err(sentence) = outcome else { return };
    assert!(sentence.len() < 2000, "a sentence of {} bytes", sentence.len());
    assert!(!sentence.contains(char::is_control), "control characters: {sentence:?}");
    assert!(!sends_password(*which) || !sentence.contains(PASSWORD), "the password is in {sentence:?}");
}
