//! The leader's loop: whenever something changed it thinks everything over, and does what is to be done.

use std::{
    collections::{BTreeMap, BTreeSet},
    future,
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use tracing::{error, info, warn};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    Replicas, Settings,
    allocations::{Allotment, Claim, Claims, allot},
    calls::{Calls, until},
    conditions::{self, Statuses},
    failure::{Failure, Failures},
    ledger, lookup,
    observed::{Observed, Problem, Problems},
    owners::Owners,
    plan::{self, Object, Plan, Situation, Successor, Waiting},
    services,
    status::Writer,
};
use crate::{
    api::Placement,
    model::ObjectKey,
    source::Settle,
    world::{
        Allocations, Site, World,
        kept::{self, Kept},
    },
};

/// How often everything is thought over though nothing changed but the time.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// For what has to be known before anything can be decided.
const PATIENCE: Duration = Duration::from_secs(5);
/// After something that had to be known was not to be found out.
const AFTER_FAILURE: Duration = Duration::from_secs(2);
/// How long the leader's own pod may be missing among the replicas: it is listed a little later than it is ready.
const UNLISTED: Duration = Duration::from_secs(30);

/// Keeps what a leader keeps.
pub struct Leader {
    client: Client,
    settings: Arc<Settings>,
    observed: watch::Receiver<Observed>,
    replicas: watch::Receiver<Arc<Replicas>>,
    writes: Calls<ObjectKey, ()>,
    lookups: Calls<(ObjectKey, Arc<str>), Option<Successor>>,
    gone: BTreeMap<(ObjectKey, Arc<str>), Successor>,
    waiting: Waiting,
    owners: Owners,
    /// Since when this replica is not among those that are listed.
    unlisted: Option<Instant>,
    /// The faults of the objects of the release.
    said: Option<String>,
    /// When the allocations were last read from the API server itself, and not from a watch.
    read: Option<Instant>,
    problems: Problems,
    /// Of allocating ports, and of looking load balancers up.
    allocation_failures: Failures,
    lookup_failures: Failures,
    /// Whether the replicas' reports have been gathered: before that, nothing is known of them.
    heard: bool,
    writer: Writer,
}

/// What is thought over at one time.
struct Scene<'a> {
    objects: Vec<Object<'a>>,
    claims: Vec<Claim>,
    kept: BTreeMap<ObjectKey, Kept<'a>>,
    /// The proxies' ports that others' Services lead to.
    taken: BTreeSet<u16>,
    allocations: &'a Allocations,
    /// Whether these are not stored any more.
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
        let (writer, heard) = (Writer::new(client.clone(), &settings), !replicas.borrow().is_empty());
        Self {
            client,
            settings,
            observed,
            replicas,
            writes: Calls::new(),
            lookups: Calls::new(),
            gone: BTreeMap::new(),
            waiting: Waiting::new(),
            owners: Owners::default(),
            unlisted: None,
            said: None,
            read: None,
            problems: Problems::new(),
            allocation_failures: Failures::default(),
            lookup_failures: Failures::default(),
            heard,
            writer,
        }
    }

    /// Leads until it is dropped; what is under way then is called off.
    pub async fn lead(mut self) {
        let mut settle = Settle::default();
        settle.note();
        let mut wake = None;
        loop {
            tokio::select! {
                () = changed(&mut self.observed) => settle.note(),
                () = changed(&mut self.replicas) => {
                    self.heard = true;
                    settle.note();
                }
                // What went wrong is told with all that is wrong.
                _ = self.writes.answered() => settle.note(),
                (about, answer) = self.lookups.answered() => {
                    self.learn(about, answer);
                    settle.note();
                }
                () = until(wake) => {
                    wake = None;
                    settle.note();
                }
                () = settle.due() => wake = Some(self.think().await),
            }
        }
    }

    fn learn(&mut self, about: (ObjectKey, Arc<str>), answer: Result<Option<Successor>, Failure>) {
        if answer.is_ok() {
            self.lookup_failures.succeeded();
        }
        match answer {
            Ok(Some(successor)) => {
                self.gone.insert(about, successor);
            }
            Ok(None) => {}
            Err(failure) => {
                if self.lookup_failures.failed(failure.clone(), Instant::now()) {
                    warn!(load_balancer = %about.0, "cannot look up whether load balancers are gone: {failure}");
                }
            }
        }
    }

    /// Thinks everything over. The answer is when to do so again though nothing changed.
    async fn think(&mut self) -> Instant {
        let observed = self.observed.borrow_and_update().clone();
        let replicas = self.replicas.borrow_and_update().clone();
        let mut wake = Instant::now() + LOOK_AGAIN;
        let mut problems = Problems::new();
        if let (Placement::Gateway, Site::Gateway(allocations, _)) = (self.settings.placement, &observed.world.site) {
            let settings = self.settings.clone();
            let objects = plan::objects(&observed, &settings);
            let claims = objects.iter().map(Object::claim).collect();
            let kept = services::kept(&observed.world, &settings);
            let taken = services::taken(&observed.world, &kept, &settings);
            let lost = observed.world.ports_are_lost;
            let world = &*observed.world;
            let scene = Scene { objects, claims, kept, taken, allocations, lost, replicas: &replicas, world };
            wake = wake.min(self.keep_services(&scene, &mut problems).await);
        }
        self.check_replicas_service(&observed.world, &replicas);
        let report_at = self.tell(&observed, &replicas, problems);
        report_at.map_or(wake, |report_at| wake.min(report_at))
    }

    async fn keep_services(&mut self, scene: &Scene<'_>, problems: &mut Problems) -> Instant {
        let mut wake = Instant::now() + LOOK_AGAIN;
        self.look_up(scene);
        self.owners.refresh(&self.client, &self.settings, scene.world).await;
        let allocations = match self.allot(scene, problems).await {
            Ok(allocations) => {
                if self.allocation_failures.succeeded() {
                    info!("ports can be allocated again");
                }
                allocations
            }
            Err(failure) => {
                let now = Instant::now();
                wake = now + AFTER_FAILURE;
                if self.allocation_failures.failed(failure.clone(), now) {
                    error!("ports cannot be allocated: {failure}");
                }
                if let Some(failure) = self.allocation_failures.lasting(now) {
                    tell_the_portless(scene, &failure.sentence, problems);
                }
                scene.allocations.clone()
            }
        };
        let mut plan = self.plan(scene, &allocations);
        if !plan.apply.is_empty() && self.owners.refresh(&self.client, &self.settings, scene.world).await {
            plan = self.plan(scene, &allocations);
        }
        self.carry_out(&plan, scene);
        if let Some(problem) = self.owners.missing() {
            let unwritten = |object: &ObjectKey| (object.clone(), Problem::ServiceNotWritten(problem.to_owned()));
            problems.extend(plan.apply.keys().map(unwritten));
            wake = Instant::now() + AFTER_FAILURE;
        }
        let failed = self.writes.problems();
        problems.extend(failed.map(|(object, problem)| {
            let service = ObjectKey::new(&self.settings.namespace, &kept::name(object));
            (object.clone(), Problem::ServiceNotWritten(format!("Service {service} cannot be written: {problem}")))
        }));
        let later = [plan.wake, self.writes.next(), self.lookups.next()];
        later.into_iter().flatten().fold(wake, Instant::min)
    }

    /// Finds out about load balancers that something is kept for, but that are not to be seen.
    fn look_up(&mut self, scene: &Scene) {
        let doubtful = doubtful(scene);
        self.gone.retain(|about, _| doubtful.contains(about));
        self.lookups.keep(|about| doubtful.contains(about));
        for about in doubtful.iter().filter(|about| !self.gone.contains_key(about)) {
            let (client, settings, (key, uid)) = (self.client.clone(), self.settings.clone(), about.clone());
            self.lookups.make(about, 0, || async move { lookup::successor(client, &settings, &key, &uid).await });
        }
    }

    /// Sees to it that every listener has a port. The answer is what is stored.
    async fn allot(&mut self, scene: &Scene<'_>, problems: &mut Problems) -> Result<Allocations, Failure> {
        let targets = kept::targets(&scene.kept);
        let gone: BTreeSet<Arc<str>> = self.gone.keys().map(|(_, uid)| uid.clone()).collect();
        let range = self.settings.ports.clone();
        let claims = Claims { claims: &scene.claims, targets: &targets, taken: &scene.taken, gone: &gone, range };
        let mut last = allot(&claims, scene.allocations, Timestamp::now());
        let mut stored = scene.allocations.clone();
        if last.allocations != stored || scene.lost || self.read.is_none_or(|read| read.elapsed() >= LOOK_AGAIN) {
            let revise = |stored: &Allocations| {
                last = allot(&claims, stored, Timestamp::now());
                last.allocations.clone()
            };
            let seen = ledger::Seen { last: scene.allocations, owners: self.owners.references() };
            let revising = timeout(PATIENCE, ledger::revise(&self.client, &self.settings, seen, revise));
            stored = revising.await.unwrap_or_else(|_| Err("no answer in time".into()))?;
            self.read = Some(Instant::now());
        }
        self.tell_of_shortage(scene, &last, problems);
        Ok(stored)
    }

    fn tell_of_shortage(&self, scene: &Scene, allotment: &Allotment, problems: &mut Problems) {
        for object in &scene.objects {
            if let Some(listeners) = allotment.shortage.get(&object.identity.uid) {
                let (first, last) = (self.settings.ports.start(), self.settings.ports.end());
                let sentence = format!(
                    "no free proxy port in {first}-{last} for {}: the range is exhausted, or nearly so while this namespace \
                     has too many recently released ports, which stay reserved for 10 minutes. Wait, or have the \
                     administrator widen the range",
                    list(listeners)
                );
                let listeners = listeners.clone();
                problems.insert(object.key.clone(), Problem::NoFreePort { listeners, sentence });
            }
        }
    }

    fn plan(&mut self, scene: &Scene, allocations: &Allocations) -> Plan {
        let situation = Situation {
            objects: &scene.objects,
            kept: &scene.kept,
            replicas: scene.replicas,
            allocations,
            gone: &self.gone,
            owners: self.owners.references(),
            settings: &self.settings,
            now: Instant::now(),
        };
        plan::plan(&situation, &mut self.waiting)
    }

    fn carry_out(&mut self, plan: &Plan, scene: &Scene) {
        self.writes.keep(|object| plan.apply.contains_key(object) || plan.remove.contains(object));
        for object in &plan.remove {
            if let Some(kept) = scene.kept.get(object) {
                let (client, service) = (self.client.clone(), kept.service.clone());
                let version = service.metadata.resource_version.clone().unwrap_or_default();
                self.writes.make(object, xxh3_64(version.as_bytes()), || {
                    info!(load_balancer = %object, service = kept::name(object), "removing its Service");
                    remove(client, service)
                });
            }
        }
        // Once the release is uninstalled nobody would remove them.
        if self.owners.missing().is_some() {
            return;
        }
        for (object, service) in &plan.apply {
            let (client, settings, service) = (self.client.clone(), self.settings.clone(), service.clone());
            let what = xxh3_64(&serde_json::to_vec(&service).unwrap_or_default());
            self.writes.make(object, what, || apply(client, settings, service));
        }
    }

    /// Says when the Service by which replicas are found is gone, or does not list even this one.
    fn check_replicas_service(&mut self, world: &World, replicas: &Replicas) {
        let Settings { replicas: service, pod, .. } = &*self.settings;
        let is_listed = !self.heard || replicas.contains_key(&**pod);
        self.unlisted = if is_listed { None } else { self.unlisted.or(Some(Instant::now())) };
        let is_unlisted = self.unlisted.is_some_and(|since| since.elapsed() >= UNLISTED);
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
        match (&problem, &self.said) {
            (Some(problem), said) if said.as_ref() != Some(problem) => error!("{problem}"),
            (None, Some(said)) => info!("no longer: {said}"),
            _ => {}
        }
        self.said = problem;
    }

    /// Says what is wrong, and what has become right. Answers when a fault that is pending now is to be reported.
    fn tell(&mut self, observed: &Observed, replicas: &Replicas, problems: Problems) -> Option<Instant> {
        let mut report_at = None;
        for (object, problem) in
            problems.iter().filter(|(object, problem)| self.problems.get(*object) != Some(*problem))
        {
            warn!(load_balancer = %object, "{problem}");
        }
        if self.heard {
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

/// Load balancers that ports or Services are kept for, but that are not to be seen, with the uids that they had.
fn doubtful(scene: &Scene) -> BTreeSet<(ObjectKey, Arc<str>)> {
    let present: BTreeSet<&str> = scene.objects.iter().map(|object| &*object.identity.uid).collect();
    let of_ports = scene.allocations.0.values().filter(|allocation| allocation.freed.is_none());
    let of_ports = of_ports.filter_map(|allocation| {
        let (namespace, name) = allocation.object.split_once('/')?;
        Some((ObjectKey::new(namespace, name), allocation.uid.clone()))
    });
    let of_services = scene.kept.iter().map(|(key, kept)| (key.clone(), Arc::from(kept.uid)));
    of_ports.chain(of_services).filter(|(_, uid)| !present.contains(&**uid)).collect()
}

fn tell_the_portless(scene: &Scene, problem: &str, problems: &mut Problems) {
    for (object, claim) in scene.objects.iter().zip(&scene.claims) {
        let declared = claim.listeners.iter().flatten().copied();
        let portless = declared.filter(|listener| scene.allocations.port_of(&claim.uid, *listener).is_none());
        let listeners: BTreeSet<u16> = portless.collect();
        if !listeners.is_empty() {
            let sentence = format!("no port can be allocated: {problem}");
            problems.insert(object.key.clone(), Problem::AllocationFailed { listeners, sentence });
        }
    }
}

async fn apply(client: Client, settings: Arc<Settings>, service: Service) -> Result<(), Failure> {
    let services = Api::<Service>::namespaced(client, &settings.namespace);
    let name = service.metadata.name.clone().unwrap_or_default();
    let manager = PatchParams::apply(&format!("tcplb-{}", settings.class)).force();
    Ok(services.patch(&name, &manager, &Patch::Apply(&service)).await.map(drop)?)
}

/// Removes the Service as it was seen, and no other.
async fn remove(client: Client, service: Service) -> Result<(), Failure> {
    let metadata = service.metadata;
    let services = Api::<Service>::namespaced(client, &metadata.namespace.unwrap_or_default());
    let as_seen = Preconditions { uid: metadata.uid, resource_version: metadata.resource_version };
    let options = DeleteParams { preconditions: Some(as_seen), ..DeleteParams::default() };
    match services.delete(&metadata.name.unwrap_or_default(), &options).await {
        Ok(_) => Ok(()),
        // It is gone, or it is another one now, which will be seen.
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn list(listeners: &BTreeSet<u16>) -> String {
    let listeners: Vec<String> = listeners.iter().map(u16::to_string).collect();
    listeners.join(", ")
}

/// Waits for the next change; for ever, when nobody is left to make one.
async fn changed<T>(source: &mut watch::Receiver<T>) {
    if source.changed().await.is_err() {
        future::pending().await
    }
}
