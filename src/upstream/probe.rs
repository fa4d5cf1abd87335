use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, sleep_until, timeout_at},
};
use tracing::warn;

use super::dial::{dial, is_local};
use crate::model::ActiveCheck;

/// What a probe found, or why it failed.
pub(super) type Outcome = Result<(), String>;

/// Opens a TCP connection to `target` at each interval, and closes it. The first time after `delay`.
///
/// Failures that are not the target's are not reported.
pub(super) async fn probe(target: SocketAddr, check: ActiveCheck, delay: Duration, report: impl Fn(Outcome)) {
    let mut told = false;
    sleep(delay).await;
    loop {
        let started = Instant::now();
        let deadline = started + check.timeout;
        match timeout_at(deadline, dial(target)).await {
            Ok(Ok(stream)) => {
                report(Ok(()));
                let _ = timeout_at(deadline, close(stream)).await;
            }
            Ok(Err(error)) if is_local(&error) => {
                if !told {
                    warn!(endpoint = %target, reason = %error, "cannot probe");
                }
                told = true;
            }
            Ok(Err(error)) => report(Err(error.to_string())),
            Err(_) => report(Err(format!("no answer within {:?}", check.timeout))),
        }
        sleep_until(started + jittered(check.interval)).await;
    }
}

/// Says the end first and reads what the target has to say: closing with unread bytes would reset the connection, which
/// servers that greet log as an error.
async fn close(mut stream: TcpStream) {
    let mut unread = [0; 512];
    if stream.shutdown().await.is_ok() {
        while stream.read(&mut unread).await.is_ok_and(|count| count > 0) {}
    }
}

/// 10 % more or less, so that probes of many endpoints do not stay in step.
fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(0.9 + fastrand::f64() / 5.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_varies_by_a_tenth() {
        let interval = Duration::from_secs(10);
        let all: Vec<_> = (0..1000).map(|_| jittered(interval)).collect();
        assert!(all.iter().all(|jittered| (9.0..=11.0).contains(&jittered.as_secs_f64())));
        assert!(all.iter().any(|jittered| *jittered < interval) && all.iter().any(|jittered| *jittered > interval));
    }
}
