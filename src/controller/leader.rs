//! The leader's reconcile loop: after each change it compares the desired state with the present one, and applies the
//! difference.

use std::{future, ops::RangeInclusive, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use kube::Client;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info, warn};

use super::{
    Replicas, Settings,
    calls::until,
    conditions::{StatusSources, Statuses, have_same_conditions},
    observed::{Observed, ProvisioningProblems},
    provisioning::{Provisioner, RESYNC_PERIOD},
    replicas::{TrafficReader, unready},
    status::StatusWriter,
};
use crate::{
    instruments::{LeaderInstruments, LeaderView, PortCounts},
    shared::changes,
    source::Settle,
    world::{Allocations, Declared, ProcessMode, World},
};

/// The time for which the leader's own pod may be missing among the replicas: it is listed a little later than it is
/// ready.
const UNLISTED_DELAY: Duration = Duration::from_secs(30);
/// The pause after a reconciliation, as a multiple of its duration without calls to the API server, so that
/// reconciliations take a tenth of a thread.
const PAUSE_FACTOR: u32 = 9;
/// The maximum pause after a reconciliation.
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// Writes allocations, Services and statuses.
pub struct Leader {
    settings: Arc<Settings>,
    observed: watch::Receiver<Observed>,
    replicas: watch::Receiver<Arc<Replicas>>,
    provisioner: Provisioner,
    /// The input of the last reconciliation. Each translation makes new verdicts.
    reconciled: Observed,
    /// The time since which this replica is not listed.
    unlisted: Option<Instant>,
    /// The problem of the Service of the replicas.
    service_problem: Option<String>,
    /// The problems that have been logged.
    problems: Arc<ProvisioningProblems>,
    /// True once the reports of replicas are complete.
    has_reports: bool,
    statuses: Statuses,
    /// The time at which all statuses are derived again.
    resync_at: Instant,
    writer: StatusWriter,
    instruments: LeaderInstruments,
    /// Answers requests of the admin page.
    _traffic: AbortOnDropHandle<()>,
    /// The use of the proxy ports by these allocations.
    port_counts: (Arc<Allocations>, PortCounts),
}

impl Leader {
    pub fn new(
        client: Client,
        settings: Arc<Settings>,
        observed: watch::Receiver<Observed>,
        replicas: watch::Receiver<Arc<Replicas>>,
    ) -> Self {
        let (writer, has_reports) = (StatusWriter::new(client.clone(), &settings), !replicas.borrow().is_empty());
        let instruments = settings.instruments.lead(&settings.lease);
        let traffic = TrafficReader::new(replicas.clone(), settings.admin_token.clone(), settings.pod.clone());
        let traffic = traffic.answer(instruments.open_traffic_requests());
        Self {
            provisioner: Provisioner::new(client, settings.clone()),
            settings,
            observed,
            replicas,
            reconciled: Observed::default(),
            unlisted: None,
            service_problem: None,
            problems: Arc::default(),
            has_reports,
            statuses: Statuses::default(),
            resync_at: Instant::now(),
            writer,
            instruments,
            _traffic: AbortOnDropHandle::new(tokio::spawn(traffic)),
            port_counts: Default::default(),
        }
    }

    /// Leads until it is dropped, which aborts the calls in progress.
    pub async fn lead(mut self) {
        let mut settle = Settle::default();
        settle.note();
        let (mut wake, mut paused_until) = (None, Instant::now());
        loop {
            let is_due = async {
                sleep_until(paused_until).await;
                settle.due().await;
            };
            tokio::select! {
                () = changed(&mut self.observed) => {
                    if !self.follow_statuses() {
                        settle.note();
                    }
                }
                () = changed(&mut self.replicas) => {
                    self.has_reports = true;
                    settle.note();
                }
                () = self.provisioner.answered() => settle.note(),
                () = until(wake) => {
                    wake = None;
                    settle.note();
                }
                () = is_due => {
                    let started = Instant::now();
                    wake = Some(self.reconcile().await);
                    self.settings.instruments.reconcile_duration.observe(started.elapsed().as_secs_f64());
                    let worked = started.elapsed().saturating_sub(self.provisioner.take_waited());
                    paused_until = Instant::now() + (worked * PAUSE_FACTOR).min(MAX_PAUSE);
                }
            }
        }
    }

    /// Passes changed statuses to the writer. Returns false if something has changed since the last reconciliation that
    /// the desired statuses depend on. Most changes are the leader's own writes.
    fn follow_statuses(&mut self) -> bool {
        let Observed { world, verdicts } = &*self.observed.borrow_and_update();
        if !Arc::ptr_eq(verdicts, &self.reconciled.verdicts) {
            return false;
        }
        self.writer.write(self.statuses.all(), &world.load_balancers);
        let status = |declared: Option<&Declared>| declared.and_then(|declared| declared.status.clone());
        let mut changes = changes(&self.reconciled.world.load_balancers, &world.load_balancers);
        changes.all(|(_, before, now)| have_same_conditions(status(before).as_ref(), status(now).as_ref()))
    }

    /// Reconciles once. Returns the time of the next reconciliation without a change.
    async fn reconcile(&mut self) -> Instant {
        let observed = self.observed.borrow_and_update().clone();
        self.reconciled = observed.clone();
        self.has_reports |= self.replicas.has_changed().unwrap_or(false);
        let replicas = self.replicas.borrow_and_update().clone();
        let provision_at = self.provisioner.reconcile(&observed, &replicas).await;
        self.check_replicas_service(&observed.world, &replicas);
        let view = self.view(&observed.world, &replicas);
        let report_at = self.report(observed, replicas);
        self.instruments.set_view(LeaderView { statuses: self.statuses.all().clone(), ..view });
        [Some(provision_at), report_at].into_iter().flatten().fold(self.resync_at, Instant::min)
    }

    /// Reports that the Service of the replicas is gone, or does not list this pod.
    fn check_replicas_service(&mut self, world: &World, replicas: &Replicas) {
        let Settings { replicas: service, pod, .. } = &*self.settings;
        let is_listed = !self.has_reports || replicas.contains_key(&**pod);
        self.unlisted = if is_listed { None } else { self.unlisted.or(Some(Instant::now())) };
        let is_unlisted = self.unlisted.is_some_and(|since| since.elapsed() >= UNLISTED_DELAY);
        let problem = if !world.services.contains_key(service) {
            Some(self.settings.replicas_unknown())
        } else if is_unlisted {
            Some(format!(
                "Service {service} does not list pod {pod}, which leads: statuses may lack what replicas report. Check the \
                 selector of the Service and its port `admin`, and that the pod is ready"
            ))
        } else {
            None
        };
        match (&problem, &self.service_problem) {
            (Some(problem), said) if said.as_ref() != Some(problem) => error!("{problem}"),
            (None, Some(said)) => info!("resolved: {said}"),
            _ => {}
        }
        self.service_problem = problem;
    }

    /// The view of the cluster, without statuses.
    fn view(&mut self, world: &World, replicas: &Replicas) -> LeaderView {
        let ports = match &world.mode {
            ProcessMode::Gateway(allocations, _) => Some(self.port_counts(allocations)),
            ProcessMode::Standalone | ProcessMode::Sidecar(_) | ProcessMode::Host(_) => None,
        };
        let replicas = replicas.iter().map(|(pod, replica)| (pod.clone(), replica.report.clone())).collect();
        let unready = unready(world, &self.settings.replicas);
        let own = self.settings.pod.as_str().into();
        LeaderView { own, replicas, unready, ports, ..LeaderView::default() }
    }

    fn port_counts(&mut self, allocations: &Arc<Allocations>) -> PortCounts {
        let (counted, counts) = &mut self.port_counts;
        if !Arc::ptr_eq(counted, allocations) {
            *counts = port_counts(allocations, &self.settings.ports);
            *counted = allocations.clone();
        }
        *counts
    }

    /// Logs new problems and writes statuses. Returns the time at which a status changes without another change.
    fn report(&mut self, observed: Observed, replicas: Arc<Replicas>) -> Option<Instant> {
        let problems = self.provisioner.problems().clone();
        let is_new = |(object, problem): &(&_, &_)| self.problems.get(*object) != Some(*problem);
        for (object, problem) in problems.iter().filter(is_new) {
            warn!(load_balancer = %object, "{problem}");
        }
        self.problems = problems.clone();
        let (now, instant) = (Timestamp::now(), Instant::now());
        if instant >= self.resync_at {
            self.resync_at = instant + RESYNC_PERIOD;
            self.statuses.invalidate();
        }
        if !self.has_reports {
            return None;
        }
        let load_balancers = observed.world.load_balancers.clone();
        self.statuses.update(StatusSources { observed, replicas, problems }, &self.settings, now);
        self.writer.write(self.statuses.all(), &load_balancers);
        self.statuses
            .changes_at()
            .map(|then| instant + then.duration_since(now).max(SignedDuration::ZERO).unsigned_abs())
    }
}

fn port_counts(allocations: &Allocations, range: &RangeInclusive<u16>) -> PortCounts {
    let in_range = allocations.0.range(range.clone());
    let mut counts = PortCounts::default();
    for (_, allocation) in in_range {
        match allocation.freed {
            None => counts.allocated += 1,
            Some(_) => counts.cooldown += 1,
        }
    }
    PortCounts { free: range.len() - counts.allocated - counts.cooldown, ..counts }
}

/// Waits for the next change; forever once the sender is dropped.
async fn changed<T>(source: &mut watch::Receiver<T>) {
    if source.changed().await.is_err() {
        future::pending().await
    }
}

#[cfg(test)]
mod tests;
