//! Fills the pools of preconnected sockets.

use std::{io, sync::Arc, time::Duration};

use futures::future;
use tokio::time::{sleep, timeout};
use tracing::warn;

use crate::{
    capacity::{Permit, Share},
    model::{Connect, Keepalive},
    upstream::{
        dial::{dial, is_local},
        endpoint::{
            Endpoint,
            pool::{Idle, Pool},
        },
        socket_options::{set_keepalive, set_urgent_inline},
    },
};

/// The settings for filling a pool.
#[derive(Clone)]
pub(super) struct Refill {
    pub connect: Connect,
    pub keepalive: Option<Keepalive>,
    /// The sockets of the upstream.
    pub sockets: Arc<Share>,
}

impl Refill {
    /// Keeps `pool` full forever.
    pub async fn run(self, endpoint: Arc<Endpoint>, pool: Arc<Pool>) {
        const FIRST_PAUSE: Duration = Duration::from_millis(100);
        const LONGEST_PAUSE: Duration = Duration::from_secs(5);
        const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
        let mut pause = FIRST_PAUSE;
        loop {
            let sweep = pool.sweep(endpoint.pool_counters());
            if sweep.dead == 0 && pool.missing() == 0 {
                pause = FIRST_PAUSE;
                let _ = timeout(sweep.next.min(SWEEP_INTERVAL), pool.taken.notified()).await;
                continue;
            }
            let round = if sweep.dead > 0 { Err(RefillFailure::Closed) } else { self.round(&endpoint, &pool).await };
            match round {
                // Do not reset the pause yet: the backend may close the connections that it accepts.
                Ok(()) => {}
                Err(RefillFailure::BudgetUsedUp) => drop(timeout(SWEEP_INTERVAL, pool.taken.notified()).await),
                Err(failure) => {
                    if pause == FIRST_PAUSE {
                        failure.log_if_local(&endpoint);
                    }
                    sleep(pause.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Dials some of the missing connections concurrently. All failures of a round count as one observation of the
    /// endpoint.
    async fn round(&self, endpoint: &Endpoint, pool: &Pool) -> Result<(), RefillFailure> {
        const AT_ONCE: usize = 8;
        let permits: Vec<_> = (0..pool.missing().min(AT_ONCE)).map_while(|_| Share::permit(&self.sockets)).collect();
        if permits.is_empty() {
            return Err(RefillFailure::BudgetUsedUp);
        }
        let dials = permits.into_iter().map(|permit| self.open(endpoint, permit));
        let (opened, failed): (Vec<_>, Vec<_>) = future::join_all(dials).await.into_iter().partition(Result::is_ok);
        if !opened.is_empty() {
            endpoint.reached();
        }
        for idle in opened.into_iter().flatten() {
            pool.put(idle);
        }
        let mut errors: Vec<io::Error> = failed.into_iter().filter_map(Result::err).collect();
        if let Some(error) = errors.iter().find(|error| !is_local(error)) {
            endpoint.connect_failed(error);
            return Err(RefillFailure::Unreachable);
        }
        errors.pop().map_or(Ok(()), |error| Err(RefillFailure::Local(error)))
    }

    async fn open(&self, endpoint: &Endpoint, permit: Permit) -> io::Result<Idle> {
        let limit = self.connect.timeout;
        let stream = match timeout(limit, dial(endpoint.address())).await {
            Ok(dialled) => dialled?.into_std(),
            Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {limit:?}"))),
        };
        set_keepalive(&stream, self.keepalive)?;
        set_urgent_inline(&stream)?;
        Ok(Idle::new(stream, permit))
    }
}

/// The reason for a pause before the next round.
enum RefillFailure {
    BudgetUsedUp,
    /// The backend closed pooled connections.
    Closed,
    Unreachable,
    Local(io::Error),
}

impl RefillFailure {
    fn log_if_local(&self, endpoint: &Endpoint) {
        if let Self::Local(error) = self {
            warn!(endpoint = %endpoint.key(), reason = %error, "cannot preconnect");
        }
    }
}
