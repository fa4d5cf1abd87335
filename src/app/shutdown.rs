//! The sequence of a shutdown.

use std::{io, process::ExitCode, thread, time::Duration};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::sleep,
};
use tracing::{info, warn};

use crate::{drain::DrainMode, proxy::Proxy, state::ReadinessState};

/// The time limit of the shutdown after a second signal.
const HURRY: Duration = Duration::from_secs(1);
/// The part of it for writing the access log.
pub const HURRIED_WRITE: Duration = Duration::from_millis(200);

/// The cause of the shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    Signal,
    TakenOver,
}

/// The number of SIGTERM and SIGINT signals so far.
#[derive(Clone, Debug)]
pub struct Signals(watch::Receiver<u32>);

impl Signals {
    /// Catches the signals, which no longer end the process by themselves.
    pub fn catch() -> io::Result<Self> {
        // A later task handles SIGHUP. Until then it must not end the process.
        drop(signal(SignalKind::hangup())?);
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let (count, counted) = watch::channel(0);
        tokio::spawn(async move {
            loop {
                let signal = tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                };
                count.send_modify(|count| *count += 1);
                info!("{signal}");
                if *count.borrow() == 2 {
                    end_soon();
                }
            }
        });
        Ok(Self(counted))
    }

    pub async fn first(&self) {
        self.wait_for(1).await;
    }

    pub async fn second(&self) {
        self.wait_for(2).await;
    }

    pub fn are_two(&self) -> bool {
        *self.0.borrow() >= 2
    }

    async fn wait_for(&self, wanted: u32) {
        let gone = self.0.clone().wait_for(|count| *count >= wanted).await.is_err();
        if gone {
            std::future::pending().await
        }
    }
}

/// Ends the process even if it is blocked, for example by a log without a reader or a stopped terminal.
#[expect(clippy::exit, reason = "a blocked process cannot end in another way")]
fn end_soon() {
    thread::spawn(|| {
        thread::sleep(HURRY);
        std::process::exit(1);
    });
}

/// Runs an orderly shutdown, which a second signal ends early.
pub async fn unless_hurried(orderly: impl Future<Output = ()>, signals: &Signals) -> ExitCode {
    tokio::select! {
        () = orderly => ExitCode::SUCCESS,
        () = signals.second() => {
            warn!("second signal: resetting open connections");
            ExitCode::FAILURE
        }
    }
}

/// Stops accepting connections. After a signal, the shutdown is reported first, and clients have `delay` to notice it.
pub async fn stop_accepting(cause: Cause, proxy: &Proxy, state: &ReadinessState, delay: Duration) {
    match cause {
        Cause::Signal => {
            state.leave();
            sleep(delay).await;
            proxy.stop_accepting().await;
            state.set_ready(false);
        }
        // Probes are sent to the address, which the other process serves.
        Cause::TakenOver => {
            info!("another process has taken over");
            proxy.stop_accepting().await;
        }
    }
}

/// Waits until open connections have ended or are closed, at most `max_drain`.
pub async fn drain(cause: Cause, proxy: &Proxy, max_drain: Duration, signals: &Signals) {
    info!("stopped accepting connections; draining");
    let as_declared = proxy.drain(DrainMode::AsDeclared, max_drain);
    let drained = match cause {
        Cause::Signal => as_declared.await,
        Cause::TakenOver => tokio::select! {
            drained = proxy.drain(DrainMode::UntilTheyEnd, max_drain) => drained,
            // A signal requests the end of this process during the drain.
            () = async { signals.first().await } => as_declared.await,
        },
    };
    info!(ended_by_themselves = drained.by_themselves, closed = drained.closed, reset = drained.reset, "drained");
}
