//! Leader election: the replica that holds the Lease leads.
//!
//! Clocks of different machines are never compared: a Lease is free once this replica has seen it unchanged for its
//! duration. A write contains the version that was read, so that of two concurrent claims one is refused. The holder's
//! own term is shorter than the time that the others wait, so the holder has usually stopped writing when another
//! replica starts.
//!
//! This is not guaranteed: a machine that was paused, or a request that was in progress for long, may write after its
//! term. Two leaders do no harm: the ConfigMap of allocations is replaced only in the version that was read, so no port
//! is allocated twice. A freed port has a cooldown of ten minutes, so a write that is late by less never sends
//! connections to another listener.

use std::{future, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, api::PostParams};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::{info, warn};

use super::{
    Settings,
    calls::failure::{ApiFailure, Failures, sentence},
};
use crate::instruments::{Instruments, WriteResult, WriteTarget};

/// Other replicas leave an unchanged Lease alone for this long. With [`RENEW_PERIOD`], a leader that is gone is
/// replaced after 17 s.
const LEASE_DURATION: Duration = Duration::from_secs(15);
/// The holder leads for this long after it requested a renewal.
const TERM_DURATION: Duration = Duration::from_secs(10);
const RENEW_PERIOD: Duration = Duration::from_secs(2);
const RETRY_DELAY: Duration = Duration::from_secs(1);
const CONTEST_DELAY: Duration = Duration::from_millis(200);
/// The time limit of one read and one write.
const RENEW_TIMEOUT: Duration = Duration::from_secs(3);

/// The time until which this replica leads. `None`: it does not lead.
pub type LeaseTerm = Option<Instant>;

/// Waits until this replica leads.
pub async fn begun(terms: &mut watch::Receiver<LeaseTerm>) {
    let leads = |term: &LeaseTerm| term.is_some_and(|until| Instant::now() < until);
    if terms.wait_for(leads).await.is_err() {
        future::pending().await
    }
}

/// Waits until this replica no longer leads.
pub async fn ended(terms: &mut watch::Receiver<LeaseTerm>) {
    loop {
        let term = *terms.borrow_and_update();
        let Some(until) = term else { return };
        tokio::select! {
            () = sleep_until(until) => return,
            changed = terms.changed() => if changed.is_err() { return sleep_until(until).await },
        }
    }
}

/// Takes part in the election of a leader.
pub struct LeaderElector {
    leases: Api<Lease>,
    name: String,
    identity: String,
    /// The time of the last request that the API server answered.
    answered: Instant,
    /// The last content of a Lease of another holder, and the time since which it has been unchanged.
    seen: Option<(LeaseSpec, Instant)>,
    failures: Failures,
    instruments: Arc<Instruments>,
}

impl LeaderElector {
    pub fn new(client: Client, settings: &Settings) -> Self {
        Self {
            leases: Api::namespaced(client, &settings.namespace),
            name: settings.lease.clone(),
            identity: settings.pod.clone(),
            answered: Instant::now(),
            seen: None,
            failures: Failures::default(),
            instruments: settings.instruments.clone(),
        }
    }

    /// Claims and renews the Lease forever.
    pub async fn run(mut self, term: &watch::Sender<LeaseTerm>) {
        loop {
            let asked = Instant::now();
            let outcome =
                timeout(RENEW_TIMEOUT, self.reach()).await.unwrap_or_else(|_| Err("no answer in time".into()));
            self.note(&outcome);
            let pause = match outcome {
                Ok(LeaseOutcome::Holds) => {
                    if term.send_replace(Some(asked + TERM_DURATION)).is_none() {
                        info!(lease = self.name, "this replica is the leader");
                    }
                    RENEW_PERIOD
                }
                Ok(LeaseOutcome::Waits(pause)) => {
                    if term.send_replace(None).is_some() {
                        info!(lease = self.name, "another replica is the leader now");
                    }
                    pause
                }
                // A granted term continues until it ends.
                Ok(LeaseOutcome::Contested) => CONTEST_DELAY,
                Err(_) => RETRY_DELAY,
            };
            sleep(pause).await;
        }
    }

    fn note(&mut self, outcome: &Result<LeaseOutcome, ApiFailure>) {
        let result = match outcome {
            Ok(LeaseOutcome::Holds) => Some(WriteResult::Ok),
            Ok(LeaseOutcome::Contested) => Some(WriteResult::Conflict),
            Ok(LeaseOutcome::Waits(_)) => None,
            Err(_) => Some(WriteResult::Failed),
        };
        if let Some(result) = result {
            self.instruments.count_write(WriteTarget::Lease, result);
        }
        match outcome {
            Err(failure) => {
                // The leader that was read last may not lead any more.
                if self.answered.elapsed() >= TERM_DURATION {
                    self.instruments.set_leader_name(None);
                }
                if self.failures.failed(failure.clone(), Instant::now()) {
                    warn!(lease = self.name, "cannot renew the Lease: {failure}");
                }
            }
            Ok(_) => {
                self.answered = Instant::now();
                if self.failures.succeeded() {
                    info!(lease = self.name, "the Lease is renewed again");
                }
            }
        }
    }

    async fn reach(&mut self) -> Result<LeaseOutcome, ApiFailure> {
        let lease = self.leases.get_opt(&self.name).await?;
        let holder = lease.as_ref().and_then(|lease| lease.spec.as_ref()?.holder_identity.as_deref());
        self.instruments.set_leader_name(holder.filter(|holder| !holder.is_empty()));
        let claim = match claim(lease, &self.identity, &mut self.seen, Instant::now(), Timestamp::now()) {
            Move::Claim(claim) => *claim,
            Move::Wait(pause) => return Ok(LeaseOutcome::Waits(pause)),
        };
        let written = match claim.metadata.resource_version {
            Some(_) => self.leases.replace(&self.name, &PostParams::default(), &claim).await,
            None => {
                let metadata = ObjectMeta { name: Some(self.name.clone()), ..claim.metadata };
                self.leases.create(&PostParams::default(), &Lease { metadata, ..claim }).await
            }
        };
        match written {
            Ok(_) => {
                self.instruments.set_leader_name(Some(&self.identity));
                Ok(LeaseOutcome::Holds)
            }
            // Another replica wrote first; the next read shows the result.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(LeaseOutcome::Contested),
            Err(error) => Err(error.into()),
        }
    }
}

/// Releases the Lease if this replica holds it, so that no other replica has to wait for it.
pub async fn release(client: Client, settings: &Settings) {
    let leases = Api::<Lease>::namespaced(client, &settings.namespace);
    let given_back = async {
        loop {
            match give_back(&leases, settings).await {
                // A renewal that was still in progress.
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                other => return other,
            }
        }
    };
    match timeout(RENEW_TIMEOUT, given_back).await {
        Ok(Ok(true)) => info!(lease = settings.lease, "the Lease is released"),
        Ok(Ok(false)) => {}
        Ok(Err(error)) => warn!(lease = settings.lease, "cannot release the Lease: {}", sentence(&error)),
        Err(_) => warn!(lease = settings.lease, "cannot release the Lease: no answer in time"),
    }
}

async fn give_back(leases: &Api<Lease>, settings: &Settings) -> kube::Result<bool> {
    let Some(mut lease) = leases.get_opt(&settings.lease).await? else { return Ok(false) };
    let spec = lease.spec.get_or_insert_default();
    if spec.holder_identity.as_deref() != Some(&settings.pod) {
        return Ok(false);
    }
    spec.holder_identity = None;
    leases.replace(&settings.lease, &PostParams::default(), &lease).await.map(|_| true)
}

enum LeaseOutcome {
    Holds,
    /// Another replica holds the Lease.
    Waits(Duration),
    /// Another replica wrote the Lease between this replica's read and write.
    Contested,
}

#[derive(Debug, PartialEq)]
enum Move {
    Claim(Box<Lease>),
    Wait(Duration),
}

/// Decides whether to claim the Lease as it was just read.
fn claim(
    lease: Option<Lease>,
    identity: &str,
    seen: &mut Option<(LeaseSpec, Instant)>,
    now: Instant,
    time: Timestamp,
) -> Move {
    let mut lease = lease.unwrap_or_default();
    let spec = lease.spec.get_or_insert_default();
    let holder = spec.holder_identity.as_deref().unwrap_or_default();
    if holder != identity {
        if !holder.is_empty() {
            let left = time_left(spec, seen, now);
            if !left.is_zero() {
                return Move::Wait(left.min(RENEW_PERIOD));
            }
        }
        spec.holder_identity = Some(identity.to_owned());
        spec.acquire_time = Some(MicroTime(time));
        spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
    }
    *seen = None;
    spec.renew_time = Some(MicroTime(time));
    spec.lease_duration_seconds = Some(LEASE_DURATION.as_secs() as i32);
    Move::Claim(Box::new(lease))
}

/// The time for which the Lease of another holder must not be claimed.
fn time_left(spec: &LeaseSpec, seen: &mut Option<(LeaseSpec, Instant)>, now: Instant) -> Duration {
    let since = match seen {
        Some((before, since)) if before == spec => *since,
        _ => {
            *seen = Some((spec.clone(), now));
            now
        }
    };
    // The duration in the Lease is bounded, so that a Lease is neither taken at once nor waited for without end.
    let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    let lasts = seconds.map_or(LEASE_DURATION, |seconds| Duration::from_secs(seconds.clamp(5, 60)));
    (since + lasts).saturating_duration_since(now)
}

#[cfg(test)]
mod tests {
    use std::io;

    use hyper::{Request, Response};
    use kube::client::Body;

    use super::*;

    fn held_by(holder: &str, renewed: i64) -> Lease {
        let spec = LeaseSpec {
            holder_identity: Some(holder.into()),
            renew_time: Some(MicroTime(Timestamp::from_second(renewed).unwrap())),
            lease_duration_seconds: Some(15),
            lease_transitions: Some(4),
            ..LeaseSpec::default()
        };
        let metadata = ObjectMeta { resource_version: Some("7".into()), ..ObjectMeta::default() };
        Lease { metadata, spec: Some(spec) }
    }

    fn claimed(found: Move) -> LeaseSpec {
        match found {
            Move::Claim(lease) => lease.spec.unwrap(),
            Move::Wait(pause) => panic!("waits for {pause:?}"),
        }
    }

    const NOON: Timestamp = Timestamp::constant(1_800_000_000, 0);

    #[test]
    fn a_lease_unchanged_for_its_duration_is_taken_whatever_its_times_say() {
        let (mut seen, start) = (None, Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        // Renewed long ago, or in the future: the clocks of other machines are ignored.
        for renewed in [0, NOON.as_second() + 3600] {
            let mut seen = None;
            let found = claim(Some(held_by("b", renewed)), "a", &mut seen, at(0), NOON);
            assert_eq!(found, Move::Wait(RENEW_PERIOD));
        }
        claim(Some(held_by("b", 1)), "a", &mut seen, at(0), NOON);
        claim(Some(held_by("b", 2)), "a", &mut seen, at(10), NOON);
        let found = claim(Some(held_by("b", 2)), "a", &mut seen, at(24), NOON);
        assert_eq!(found, Move::Wait(Duration::from_secs(1)), "it was renewed after 10 s");
        let spec = claimed(claim(Some(held_by("b", 2)), "a", &mut seen, at(25), NOON));
        assert_eq!((spec.holder_identity.as_deref(), spec.lease_transitions), (Some("a"), Some(5)));
    }

    #[test]
    fn a_free_lease_and_an_own_lease_are_taken_at_once() {
        let now = Instant::now();
        let spec = claimed(claim(None, "a", &mut None, now, NOON));
        assert_eq!((spec.holder_identity.as_deref(), spec.lease_transitions), (Some("a"), Some(1)));
        let spec = claimed(claim(Some(held_by("", 1)), "a", &mut None, now, NOON));
        assert_eq!((spec.holder_identity.as_deref(), spec.lease_transitions), (Some("a"), Some(5)));
        let spec = claimed(claim(Some(held_by("a", 1)), "a", &mut None, now, NOON));
        assert_eq!((spec.acquire_time, spec.lease_transitions), (None, Some(4)), "renewed, not acquired");
        assert_eq!(spec.renew_time, Some(MicroTime(NOON)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_leader_is_unknown_once_no_request_was_answered_for_a_term() {
        let nothing = async |_: Request<Body>| Err::<Response<Body>, _>(io::Error::other("not asked"));
        let client = Client::new(tower::service_fn(nothing), "lb");
        let instruments = Arc::<Instruments>::default();
        instruments.set_leader_name(Some("b"));
        let mut elector = LeaderElector {
            leases: Api::namespaced(client, "lb"),
            name: "tcplb".into(),
            identity: "a".into(),
            answered: Instant::now(),
            seen: None,
            failures: Failures::default(),
            instruments: instruments.clone(),
        };
        let mut refused_after = async |pause: Duration| {
            sleep(pause).await;
            elector.note(&Err("forbidden".into()));
            instruments.leader_name().is_some()
        };
        assert!(refused_after(TERM_DURATION - RETRY_DELAY).await);
        assert!(!refused_after(RETRY_DELAY).await);
    }

    #[test]
    fn lease_durations_of_others_are_clamped() {
        let now = Instant::now();
        for (seconds, wait) in [(-1, 15), (0, 5), (i32::MAX, 60)] {
            let mut lease = held_by("b", 1);
            lease.spec.as_mut().unwrap().lease_duration_seconds = Some(seconds);
            assert_eq!(time_left(&lease.spec.unwrap(), &mut None, now), Duration::from_secs(wait));
        }
    }

    #[test]
    fn the_holder_stops_before_others_may_start() {
        assert!(TERM_DURATION + RENEW_TIMEOUT < LEASE_DURATION);
    }

    #[tokio::test(start_paused = true)]
    async fn a_term_ends_when_it_is_not_renewed() {
        let start = Instant::now();
        let (term, mut terms) = watch::channel(None);
        term.send_replace(Some(start + TERM_DURATION));
        begun(&mut terms).await;
        let ending = ended(&mut terms);
        tokio::pin!(ending);
        sleep(Duration::from_secs(8)).await;
        term.send_replace(Some(start + Duration::from_secs(12)));
        ending.await;
        assert_eq!(start.elapsed().as_secs(), 12);
        drop(term);
    }
}
