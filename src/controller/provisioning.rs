//! Allocates ports, and manages the Services of load balancers.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use tokio::time::{Instant, timeout};
use tracing::{error, info, warn};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    Replicas, Settings,
    allocations::{AllocationPlan, Claim, Claims, allocate, store},
    calls::{
        Calls,
        failure::{ApiFailure, Failures},
        lookup,
    },
    observed::{Observed, ProvisioningProblem, ProvisioningProblems},
    owners::Owners,
    replicas::have_same_listeners,
    services::{
        self,
        plan::{self, ManagedLoadBalancer, PlanInput, PlanMemory, Replacement, ServicePlan},
    },
};
use crate::{
    api::Placement,
    instruments::{WriteResult, WriteTarget},
    model::ObjectKey,
    shared::changes,
    translate::Verdict,
    world::{
        Allocations, Declared, ProcessMode, World,
        managed_service::{self, ManagedService},
    },
};

/// The interval of passes without a change.
pub const RESYNC_PERIOD: Duration = Duration::from_secs(30);
/// The time limit for writing allocations, which everything else depends on.
const ALLOCATION_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause after a failure to write allocations or to find the owners.
const RETRY_DELAY: Duration = Duration::from_secs(2);

/// Writes allocations and Services. A pass considers all load balancers, and is skipped while nothing that it depends
/// on has changed.
pub struct Provisioner {
    client: Client,
    settings: Arc<Settings>,
    writes: Calls<ObjectKey, ()>,
    lookups: Calls<(ObjectKey, Arc<str>), Option<Replacement>>,
    gone: BTreeMap<(ObjectKey, Arc<str>), Replacement>,
    memory: PlanMemory,
    owners: Owners,
    /// The time for which the current pass has waited for the API server.
    waited: Duration,
    /// The time at which allocations were last read from the API server itself, not from a watch.
    read: Option<Instant>,
    /// The failures of allocating ports and of looking up load balancers.
    allocation_failures: Failures,
    lookup_failures: Failures,
    /// The input and the result of the last pass.
    observed: Observed,
    replicas: Arc<Replicas>,
    problems: Arc<ProvisioningProblems>,
    /// The time of the next pass without a change.
    due: Instant,
}

/// The input of one pass.
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

impl Provisioner {
    pub fn new(client: Client, settings: Arc<Settings>) -> Self {
        Self {
            client,
            settings,
            writes: Calls::new(),
            lookups: Calls::new(),
            gone: BTreeMap::new(),
            memory: PlanMemory::default(),
            owners: Owners::default(),
            waited: Duration::ZERO,
            read: None,
            allocation_failures: Failures::default(),
            lookup_failures: Failures::default(),
            observed: Observed::default(),
            replicas: Arc::default(),
            problems: Arc::default(),
            due: Instant::now(),
        }
    }

    /// The reasons why ports and Services are not as desired, after the last pass.
    pub fn problems(&self) -> &Arc<ProvisioningProblems> {
        &self.problems
    }

    /// Returns the time for which passes have waited for the API server since the last call.
    pub fn take_waited(&mut self) -> Duration {
        mem::take(&mut self.waited)
    }

    /// Waits until a call is answered, which makes the next pass due. Cancel safe.
    pub async fn answered(&mut self) {
        tokio::select! {
            // Failures are reported with all other problems.
            (_, answer) = self.writes.answered() => {
                self.settings.instruments.count_write(WriteTarget::Service, WriteResult::of(&answer));
            }
            (about, answer) = self.lookups.answered() => self.note_lookup(about, answer),
        }
        self.due = Instant::now();
    }

    /// Does a pass if one is due. Returns the time of the next one without a change.
    pub async fn reconcile(&mut self, observed: &Observed, replicas: &Arc<Replicas>) -> Instant {
        let settings = self.settings.clone();
        let (Placement::Gateway, ProcessMode::Gateway(allocations, _)) = (settings.placement, &observed.world.mode)
        else {
            self.problems = Arc::default();
            return Instant::now() + RESYNC_PERIOD;
        };
        let is_same =
            !concerns_services(&self.observed, observed, &settings) && have_same_listeners(&self.replicas, replicas);
        self.observed = observed.clone();
        self.replicas = replicas.clone();
        if is_same && Instant::now() < self.due {
            return self.due;
        }
        // A pass that is interrupted is repeated.
        self.due = Instant::now();
        let objects = plan::objects(observed, &settings);
        let claims = objects.iter().map(ManagedLoadBalancer::claim).collect();
        let world = &*observed.world;
        let managed = services::managed(world, &settings);
        let taken = services::taken(world, &managed, &settings);
        let lost = world.ports_are_lost;
        let input = ReconcileInput { objects, claims, managed, taken, allocations, lost, replicas, world };
        let mut problems = ProvisioningProblems::new();
        self.due = self.keep_services(&input, &mut problems).await;
        if *self.problems != problems {
            self.problems = Arc::new(problems);
        }
        self.due
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
                self.settings.instruments.count_write(WriteTarget::Allocations, WriteResult::Failed);
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
        plan::plan(&plan_input, &mut self.memory)
    }

    fn apply(&mut self, plan: &ServicePlan, input: &ReconcileInput) {
        self.writes.keep(|object| plan.apply.contains_key(object) || plan.remove.contains(object));
        for object in &plan.remove {
            if let Some(managed) = input.managed.get(object) {
                let (client, service) = (self.client.clone(), Service::clone(managed.service));
                let version = service.metadata.resource_version.clone().unwrap_or_default();
                if self.writes.make(object, xxh3_64(version.as_bytes()), || delete_service(client, service)) {
                    info!(load_balancer = %object, service = managed_service::name(object), "removing its Service");
                }
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
}

/// Load balancers that have ports or Services and are not watched, with their uids.
fn unseen(input: &ReconcileInput) -> BTreeSet<(ObjectKey, Arc<str>)> {
    let present: BTreeSet<&str> = input.objects.iter().map(|object| &*object.identity.uid).collect();
    let of_ports = input.allocations.0.values().filter(|allocation| allocation.freed.is_none());
    let of_ports = of_ports.filter(|allocation| !present.contains(&*allocation.uid)).filter_map(|allocation| {
        let (namespace, name) = allocation.object.split_once('/')?;
        Some((ObjectKey::new(namespace, name), allocation.uid.clone()))
    });
    let of_services = input.managed.iter().filter(|(_, managed)| !present.contains(managed.uid));
    let of_services = of_services.map(|(key, managed)| (key.clone(), Arc::from(managed.uid)));
    of_ports.chain(of_services).collect()
}

fn report_listeners_without_port(input: &ReconcileInput, problem: &str, problems: &mut ProvisioningProblems) {
    let ports = input.allocations.by_listener();
    for (object, claim) in input.objects.iter().zip(&input.claims) {
        let declared = claim.listeners.iter().flatten().copied();
        let portless = declared.filter(|listener| !ports.contains_key(&(&*claim.uid, *listener)));
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

/// True if allocations or Services may depend on the difference of two states.
pub fn concerns_services(before: &Observed, now: &Observed, settings: &Settings) -> bool {
    let (old, new) = (&*before.world, &*now.world);
    let has_same_allocations = match (&old.mode, &new.mode) {
        (ProcessMode::Gateway(old, _), ProcessMode::Gateway(new, _)) => old == new,
        _ => false,
    };
    let identified = |declared: Option<&Declared>| declared.map(|declared| declared.identity.clone());
    let is_same_object = |old: Option<&Declared>, new: Option<&Declared>| {
        let [old_spec, new_spec] = [old, new].map(|declared| declared.and_then(|declared| declared.spec.as_ref()));
        identified(old) == identified(new) && old_spec == new_spec
    };
    !has_same_allocations
        || old.ports_are_lost != new.ports_are_lost
        || changes(&old.load_balancers, &new.load_balancers).any(|(_, old, new)| !is_same_object(old, new))
        || changes(&before.verdicts, &now.verdicts).any(|(_, old, new)| !refuse_the_same(old, new))
        || changes(&old.services, &new.services).any(|(key, ..)| *key.namespace == *settings.namespace)
}

/// True if both verdicts refuse the same parts for the same reasons.
fn refuse_the_same(before: Option<&Verdict>, now: Option<&Verdict>) -> bool {
    let refused =
        |verdict: &Verdict| verdict.refused().map(|problem| (problem.reason, problem.part)).collect::<Vec<_>>();
    before.map(refused) == now.map(refused)
}
