//! The leader's reconcile loop: after each change it compares the desired state with the present one, and applies the
//! difference.

use std::{
    collections::{BTreeMap, BTreeSet},
    future,
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{api::core::v1::Service, apimachinery::pkg::apis::meta::v1::Condition};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tracing::{error, info, warn};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    Replicas, Settings,
    allocations::{AllocationPlan, Claim, Claims, allocate, store},
    calls::{
        Calls,
        failure::{ApiFailure, Failures},
        lookup, until,
    },
    conditions::{self, Statuses},
    observed::{Observed, ProvisioningProblem, ProvisioningProblems},
    owners::Owners,
    services::{
        self,
        plan::{self, ManagedLoadBalancer, PlanInput, Replacement, ServicePlan, WaitingPorts},
    },
    status::StatusWriter,
};
use crate::{
    api::{Placement, TcpLoadBalancerStatus},
    model::ObjectKey,
    source::Settle,
    world::{
        Allocations, Declared, ProcessMode, World,
        managed_service::{self, ManagedService},
    },
};

/// The interval of reconciliations without a change.
const RESYNC_PERIOD: Duration = Duration::from_secs(30);
/// The time limit for writing allocations, which everything else depends on.
const ALLOCATION_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause after a failure to write allocations or to find the owners.
const RETRY_DELAY: Duration = Duration::from_secs(2);
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
    client: Client,
    settings: Arc<Settings>,
    observed: watch::Receiver<Observed>,
    replicas: watch::Receiver<Arc<Replicas>>,
    writes: Calls<ObjectKey, ()>,
    lookups: Calls<(ObjectKey, Arc<str>), Option<Replacement>>,
    gone: BTreeMap<(ObjectKey, Arc<str>), Replacement>,
    waiting: WaitingPorts,
    owners: Owners,
    /// The input of the last reconciliation. Each translation makes new verdicts.
    reconciled: Observed,
    /// The time for which the current reconciliation has waited for the API server.
    waited: Duration,
    /// The time since which this replica is not listed.
    unlisted: Option<Instant>,
    /// The problem of the Service of the replicas.
    service_problem: Option<String>,
    /// The time at which allocations were last read from the API server itself, not from a watch.
    read: Option<Instant>,
    problems: ProvisioningProblems,
    /// The failures of allocating ports and of looking up load balancers.
    allocation_failures: Failures,
    lookup_failures: Failures,
    /// True once the reports of replicas are complete.
    has_reports: bool,
    writer: StatusWriter,
}

/// The input of one reconciliation.
struct ReconcileInput<'a> {
    objects: Vec<ManagedLoadBalancer<'a>>,
    claims: Vec<Claim>,
    managed: BTreeMap<ObjectKey, ManagedService<'a>>,
    /// The proxy ports that foreign Services lead to.
    taken: BTreeSet<u16>,
    allocations: &'a Allocations,
    /// True if the ConfigMap of allocations is gone.
    lost: bool,
    replicas: &'a Replicas,
    world: &'a World,
}

impl Leader {
    pub fn new(
        client: Client,
        settings: Arc<Settings>,
        observed: watch::Receiver<Observed>,
        replicas: watch::Receiver<Arc<Replicas>>,
    ) -> Self {
        let (writer, has_reports) = (StatusWriter::new(client.clone(), &settings), !replicas.borrow().is_empty());
        Self {
            client,
            settings,
            observed,
            replicas,
            writes: Calls::new(),
            lookups: Calls::new(),
            gone: BTreeMap::new(),
            waiting: WaitingPorts::new(),
            owners: Owners::default(),
            reconciled: Observed::default(),
            waited: Duration::ZERO,
            unlisted: None,
            service_problem: None,
            read: None,
            problems: ProvisioningProblems::new(),
            allocation_failures: Failures::default(),
            lookup_failures: Failures::default(),
            has_reports,
            writer,
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
                // Failures are reported with all other problems.
                _ = self.writes.answered() => settle.note(),
                (about, answer) = self.lookups.answered() => {
                    self.note_lookup(about, answer);
                    settle.note();
                }
                () = until(wake) => {
                    wake = None;
                    settle.note();
                }
                () = is_due => {
                    let started = Instant::now();
                    self.waited = Duration::ZERO;
                    wake = Some(self.reconcile().await);
                    let worked = started.elapsed().saturating_sub(self.waited);
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
        self.writer.observe(world);
        // Desired conditions depend on the present ones: a fault is reported later if it was none before.
        let is_same = |(object, declared): (&ObjectKey, &Declared)| {
            let before = self.reconciled.world.load_balancers.get(object).and_then(|before| before.status.as_ref());
            have_same_conditions(before, declared.status.as_ref())
        };
        world.load_balancers.iter().all(is_same)
    }

    fn note_lookup(&mut self, about: (ObjectKey, Arc<str>), answer: Result<Option<Replacement>, ApiFailure>) {
        if answer.is_ok() {
            self.lookup_failures.succeeded();
        }
        match answer {
            Ok(Some(replacement)) => {
                self.gone.insert(about, replacement);
            }
            Ok(None) => {}
            Err(failure) => {
                if self.lookup_failures.failed(failure.clone(), Instant::now()) {
                    warn!(load_balancer = %about.0, "cannot check whether load balancers still exist: {failure}");
                }
            }
        }
    }

    /// Reconciles once. Returns the time of the next reconciliation without a change.
    async fn reconcile(&mut self) -> Instant {
        let observed = self.observed.borrow_and_update().clone();
        self.reconciled = observed.clone();
        let replicas = self.replicas.borrow_and_update().clone();
        let mut wake = Instant::now() + RESYNC_PERIOD;
        let mut problems = ProvisioningProblems::new();
        if let (Placement::Gateway, ProcessMode::Gateway(allocations, _)) =
            (self.settings.placement, &observed.world.mode)
        {
            let settings = self.settings.clone();
            let objects = plan::objects(&observed, &settings);
            let claims = objects.iter().map(ManagedLoadBalancer::claim).collect();
            let managed = services::managed(&observed.world, &settings);
            let taken = services::taken(&observed.world, &managed, &settings);
            let lost = observed.world.ports_are_lost;
            let world = &*observed.world;
            let input =
                ReconcileInput { objects, claims, managed, taken, allocations, lost, replicas: &replicas, world };
            wake = wake.min(self.keep_services(&input, &mut problems).await);
        }
        self.check_replicas_service(&observed.world, &replicas);
        let report_at = self.report(&observed, &replicas, problems);
        report_at.map_or(wake, |report_at| wake.min(report_at))
    }

    async fn keep_services(&mut self, input: &ReconcileInput<'_>, problems: &mut ProvisioningProblems) -> Instant {
        let mut wake = Instant::now() + RESYNC_PERIOD;
        self.look_up(input);
        let started = Instant::now();
        self.owners.refresh(&self.client, &self.settings, input.world).await;
        let allocated = self.allocate(input, problems).await;
        self.waited += started.elapsed();
        let allocations = match allocated {
            Ok(allocations) => {
                if self.allocation_failures.succeeded() {
                    info!("ports can be allocated again");
                }
                allocations
            }
            Err(failure) => {
                let now = Instant::now();
                wake = now + RETRY_DELAY;
                if self.allocation_failures.failed(failure.clone(), now) {
                    error!("ports cannot be allocated: {failure}");
                }
                if let Some(failure) = self.allocation_failures.lasting(now) {
                    report_listeners_without_port(input, &failure.sentence, problems);
                }
                input.allocations.clone()
            }
        };
        let mut plan = self.plan(input, &allocations);
        if !plan.apply.is_empty() {
            let started = Instant::now();
            let are_new = self.owners.refresh(&self.client, &self.settings, input.world).await;
            self.waited += started.elapsed();
            if are_new {
                plan = self.plan(input, &allocations);
            }
        }
        self.apply(&plan, input);
        if let Some(problem) = self.owners.missing() {
            let unwritten =
                |object: &ObjectKey| (object.clone(), ProvisioningProblem::ServiceNotWritten(problem.to_owned()));
            problems.extend(plan.apply.keys().map(unwritten));
            wake = Instant::now() + RETRY_DELAY;
        }
        let failed = self.writes.problems();
        problems.extend(failed.map(|(object, problem)| {
            let service = ObjectKey::new(&self.settings.namespace, &managed_service::name(object));
            (
                object.clone(),
                ProvisioningProblem::ServiceNotWritten(format!("Service {service} cannot be written: {problem}")),
            )
        }));
        let now = Instant::now();
        let later = [plan.wake, self.writes.next(now), self.lookups.next(now)];
        later.into_iter().flatten().fold(wake, Instant::min)
    }

    /// Looks up the load balancers that have ports or a Service and are not watched.
    fn look_up(&mut self, input: &ReconcileInput) {
        let unseen = unseen(input);
        self.gone.retain(|about, _| unseen.contains(about));
        self.lookups.keep(|about| unseen.contains(about));
        for about in unseen.iter().filter(|about| !self.gone.contains_key(about)) {
            let (client, settings, (key, uid)) = (self.client.clone(), self.settings.clone(), about.clone());
            self.lookups.make(about, 0, || async move { lookup::replacement(client, &settings, &key, &uid).await });
        }
    }

    /// Allocates a port for every listener. Returns the stored allocations.
    async fn allocate(
        &mut self,
        input: &ReconcileInput<'_>,
        problems: &mut ProvisioningProblems,
    ) -> Result<Allocations, ApiFailure> {
        let targets = managed_service::targets(&input.managed);
        let gone: BTreeSet<Arc<str>> = self.gone.keys().map(|(_, uid)| uid.clone()).collect();
        let range = self.settings.ports.clone();
        let claims = Claims { claims: &input.claims, targets: &targets, taken: &input.taken, gone: &gone, range };
        let mut last = allocate(&claims, input.allocations, Timestamp::now());
        let mut stored = input.allocations.clone();
        if last.allocations != stored || input.lost || self.read.is_none_or(|read| read.elapsed() >= RESYNC_PERIOD) {
            let revise = |stored: &Allocations| {
                last = allocate(&claims, stored, Timestamp::now());
                last.allocations.clone()
            };
            let seen = store::LastSeen { last: input.allocations, owners: self.owners.references() };
            let revising = timeout(ALLOCATION_TIMEOUT, store::revise(&self.client, &self.settings, seen, revise));
            stored = revising.await.unwrap_or_else(|_| Err("no answer in time".into()))?;
            self.read = Some(Instant::now());
        }
        self.report_shortage(input, &last, problems);
        Ok(stored)
    }

    fn report_shortage(&self, input: &ReconcileInput, plan: &AllocationPlan, problems: &mut ProvisioningProblems) {
        for object in &input.objects {
            if let Some(listeners) = plan.shortage.get(&object.identity.uid) {
                let (first, last) = (self.settings.ports.start(), self.settings.ports.end());
                let sentence = format!(
                    "no free proxy port in {first}-{last} for {}: the range is exhausted, or nearly so while this namespace \
                     has too many recently released ports, which stay reserved for 10 minutes. Wait, or have the \
                     administrator widen the range",
                    list(listeners)
                );
                let listeners = listeners.clone();
                problems.insert(object.key.clone(), ProvisioningProblem::NoFreePort { listeners, sentence });
            }
        }
    }

    fn plan(&mut self, input: &ReconcileInput, allocations: &Allocations) -> ServicePlan {
        let plan_input = PlanInput {
            objects: &input.objects,
            managed: &input.managed,
            replicas: input.replicas,
            allocations,
            gone: &self.gone,
            owners: self.owners.references(),
            settings: &self.settings,
            now: Instant::now(),
        };
        plan::plan(&plan_input, &mut self.waiting)
    }

    fn apply(&mut self, plan: &ServicePlan, input: &ReconcileInput) {
        self.writes.keep(|object| plan.apply.contains_key(object) || plan.remove.contains(object));
        for object in &plan.remove {
            if let Some(managed) = input.managed.get(object) {
                let (client, service) = (self.client.clone(), managed.service.clone());
                let version = service.metadata.resource_version.clone().unwrap_or_default();
                self.writes.make(object, xxh3_64(version.as_bytes()), || {
                    info!(load_balancer = %object, service = managed_service::name(object), "removing its Service");
                    delete_service(client, service)
                });
            }
        }
        // Without an owner they would remain after the release is uninstalled.
        if self.owners.missing().is_some() {
            return;
        }
        for (object, service) in &plan.apply {
            let (client, settings, service) = (self.client.clone(), self.settings.clone(), service.clone());
            let what = xxh3_64(&serde_json::to_vec(&service).unwrap_or_default());
            self.writes.make(object, what, || apply_service(client, settings, service));
        }
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

    /// Logs new problems and writes statuses. Returns the time at which a pending fault is to be reported.
    fn report(&mut self, observed: &Observed, replicas: &Replicas, problems: ProvisioningProblems) -> Option<Instant> {
        let mut report_at = None;
        for (object, problem) in
            problems.iter().filter(|(object, problem)| self.problems.get(*object) != Some(*problem))
        {
            warn!(load_balancer = %object, "{problem}");
        }
        if self.has_reports {
            let now = Timestamp::now();
            let Statuses { statuses, report_at: then } =
                conditions::statuses(observed, replicas, &problems, &self.settings, now);
            report_at = then.map(|then| Instant::now() + then.duration_since(now).unsigned_abs());
            self.writer.write(statuses, &observed.world);
        }
        self.problems = problems;
        report_at
    }
}

/// True if the conditions are the same, apart from their messages.
fn have_same_conditions(one: Option<&Arc<TcpLoadBalancerStatus>>, other: Option<&Arc<TcpLoadBalancerStatus>>) -> bool {
    fn conditions(status: Option<&Arc<TcpLoadBalancerStatus>>) -> impl Iterator<Item = impl PartialEq> {
        status.into_iter().flat_map(|status| &status.conditions).map(|condition| {
            let Condition { type_, status, reason, observed_generation, last_transition_time, .. } = condition;
            (type_, status, reason, observed_generation, last_transition_time)
        })
    }
    one.map(Arc::as_ptr) == other.map(Arc::as_ptr) || conditions(one).eq(conditions(other))
}

/// Load balancers that have ports or Services and are not watched, with their uids.
fn unseen(input: &ReconcileInput) -> BTreeSet<(ObjectKey, Arc<str>)> {
    let present: BTreeSet<&str> = input.objects.iter().map(|object| &*object.identity.uid).collect();
    let of_ports = input.allocations.0.values().filter(|allocation| allocation.freed.is_none());
    let of_ports = of_ports.filter_map(|allocation| {
        let (namespace, name) = allocation.object.split_once('/')?;
        Some((ObjectKey::new(namespace, name), allocation.uid.clone()))
    });
    let of_services = input.managed.iter().map(|(key, managed)| (key.clone(), Arc::from(managed.uid)));
    of_ports.chain(of_services).filter(|(_, uid)| !present.contains(&**uid)).collect()
}

fn report_listeners_without_port(input: &ReconcileInput, problem: &str, problems: &mut ProvisioningProblems) {
    for (object, claim) in input.objects.iter().zip(&input.claims) {
        let declared = claim.listeners.iter().flatten().copied();
        let portless = declared.filter(|listener| input.allocations.port_of(&claim.uid, *listener).is_none());
        let listeners: BTreeSet<u16> = portless.collect();
        if !listeners.is_empty() {
            let sentence = format!("no port can be allocated: {problem}");
            problems.insert(object.key.clone(), ProvisioningProblem::AllocationFailed { listeners, sentence });
        }
    }
}

async fn apply_service(client: Client, settings: Arc<Settings>, service: Service) -> Result<(), ApiFailure> {
    let services = Api::<Service>::namespaced(client, &settings.namespace);
    let name = service.metadata.name.clone().unwrap_or_default();
    let manager = PatchParams::apply(&format!("tcplb-{}", settings.class)).force();
    Ok(services.patch(&name, &manager, &Patch::Apply(&service)).await.map(drop)?)
}

/// Deletes the Service in the version that was seen.
async fn delete_service(client: Client, service: Service) -> Result<(), ApiFailure> {
    let metadata = service.metadata;
    let services = Api::<Service>::namespaced(client, &metadata.namespace.unwrap_or_default());
    let as_seen = Preconditions { uid: metadata.uid, resource_version: metadata.resource_version };
    let options = DeleteParams { preconditions: Some(as_seen), ..DeleteParams::default() };
    match services.delete(&metadata.name.unwrap_or_default(), &options).await {
        Ok(_) => Ok(()),
        // The Service is gone or was replaced; the watch shows either.
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn list(listeners: &BTreeSet<u16>) -> String {
    let listeners: Vec<String> = listeners.iter().map(u16::to_string).collect();
    listeners.join(", ")
}

/// Waits for the next change; forever once the sender is dropped.
async fn changed<T>(source: &mut watch::Receiver<T>) {
    if source.changed().await.is_err() {
        future::pending().await
    }
}
