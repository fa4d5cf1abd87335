//! Incremental reconciliation gives the same results as a full one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Service;
use proptest::prelude::*;
use serde_json::json;
use tokio::time::Instant;

use super::{
    allocations::Claim,
    conditions::{StatusSources, Statuses, steady, with_times_of},
    observed::ProvisioningProblem,
    provisioning::concerns_services,
    replicas::have_same_listeners,
    services::{
        self,
        plan::{self, ManagedLoadBalancer, PlanInput, PlanMemory, ServicePlan},
    },
    *,
};
use crate::{
    model::{BackendHealth, FailedOver, ListenerOutcome, ObjectKey, ReplicaReport, Served},
    translate::{Part, Problem, Reason, Severity, Verdict},
    world::{Allocation, Allocations, Declared, ObjectIdentity, ProcessMode, managed_service},
};

/// A change of the input of a reconciliation. Numbers select load balancers, replicas and variants.
#[derive(Clone, Debug)]
enum InputEdit {
    Declare(usize, usize),
    Remove(usize),
    Recreate(usize),
    Verdict(usize, usize),
    Service(usize, usize),
    ForeignService(usize),
    ReplicasService(bool),
    Allocation(usize, bool),
    Served(usize, usize, usize),
    Report(usize, bool),
    Replica(usize, bool),
    Problem(usize, usize),
    WriteStatus(usize),
    EditStatus(usize),
    Wait(usize),
    Invalidate,
}

const LOAD_BALANCERS: usize = 4;
const NOW: Timestamp = Timestamp::constant(1_767_225_600, 0);
/// Seconds.
const WAITS: [i64; 5] = [0, 1, 11, 31, 20 * 86_400];
const PODS: [&str; 2] = ["tcplb-0", "tcplb-1"];

fn any_input_edit() -> impl Strategy<Value = InputEdit> {
    let object = || 0..LOAD_BALANCERS;
    let replica = || 0..PODS.len();
    prop_oneof![
        2 => (object(), 0..SPECS.len()).prop_map(|(object, variant)| InputEdit::Declare(object, variant)),
        1 => object().prop_map(InputEdit::Remove),
        1 => object().prop_map(InputEdit::Recreate),
        4 => (object(), 0..6usize).prop_map(|(object, variant)| InputEdit::Verdict(object, variant)),
        4 => (object(), 0..6usize).prop_map(|(object, variant)| InputEdit::Service(object, variant)),
        1 => (0..3usize).prop_map(InputEdit::ForeignService),
        1 => any::<bool>().prop_map(InputEdit::ReplicasService),
        2 => (object(), any::<bool>()).prop_map(|(object, is_set)| InputEdit::Allocation(object, is_set)),
        6 => (replica(), object(), 0..8usize).prop_map(|(replica, object, variant)| InputEdit::Served(replica, object, variant)),
        1 => (replica(), any::<bool>()).prop_map(|(replica, is_known)| InputEdit::Report(replica, is_known)),
        1 => (replica(), any::<bool>()).prop_map(|(replica, is_ready)| InputEdit::Replica(replica, is_ready)),
        2 => (object(), 0..4usize).prop_map(|(object, variant)| InputEdit::Problem(object, variant)),
        4 => object().prop_map(InputEdit::WriteStatus),
        1 => object().prop_map(InputEdit::EditStatus),
        4 => (0..WAITS.len()).prop_map(InputEdit::Wait),
        1 => Just(InputEdit::Invalidate),
    ]
}

const SPECS: [&str; 5] = [
    r#"{"listeners": [{"port": 5432}], "backends": [{"name": "db", "service": {"name": "db", "port": 1}}]}"#,
    r#"{"listeners": [{"port": 5432}, {"port": 80, "tls": {"certificateRefs": [{"name": "cert"}]}}],
        "backends": [{"name": "db", "service": {"name": "db", "port": 1}}], "service": {"type": "LoadBalancer"}}"#,
    r#"{"listeners": [{"port": 5432}], "backends": [], "className": "another"}"#,
    r#"{"listeners": [{"port": 5432}], "backends": [], "placement": "Sidecar"}"#,
    "",
];

fn key(object: usize) -> ObjectKey {
    ObjectKey::new("shop", &format!("l{object}"))
}

fn service_key(object: usize) -> ObjectKey {
    ObjectKey::new("lb", &managed_service::name(&key(object)))
}

fn problem(severity: Severity, reason: Reason, part: Part) -> Problem {
    Problem { severity, reason, part, field: "spec".into(), message: "is wrong".into() }
}

/// Successive inputs of reconciliations, and what is kept between these.
struct ReconcileFixture {
    settings: Settings,
    sources: StatusSources,
    now: Timestamp,
    statuses: Statuses,
    memory: PlanMemory,
    start: Instant,
    last: Option<(StatusSources, Planned)>,
}

/// Claims, ports of foreign Services, and changes to Services.
type Planned = (Vec<Claim>, BTreeSet<u16>, ServicePlan);

impl ReconcileFixture {
    fn start(load_balancers: usize) -> Self {
        let mut fixture = Self {
            settings: Settings::of_a_gateway(),
            sources: StatusSources::default(),
            now: NOW,
            statuses: Statuses::default(),
            memory: PlanMemory::default(),
            start: Instant::now(),
            last: None,
        };
        fixture.world().mode = ProcessMode::Gateway(Arc::default(), Arc::default());
        fixture.edit(&InputEdit::ReplicasService(true));
        for object in 0..load_balancers {
            for edit in
                [InputEdit::Declare(object, 0), InputEdit::Service(object, 1), InputEdit::Allocation(object, true)]
            {
                fixture.edit(&edit);
            }
        }
        for replica in 0..PODS.len() {
            fixture.edit(&InputEdit::Replica(replica, true));
            (0..load_balancers).for_each(|object| fixture.edit(&InputEdit::Served(replica, object, 1)));
        }
        fixture
    }

    fn world(&mut self) -> &mut crate::world::World {
        Arc::make_mut(&mut self.sources.observed.world)
    }

    fn edit(&mut self, edit: &InputEdit) {
        match *edit {
            InputEdit::Declare(object, variant) => self.declare(object, variant),
            InputEdit::Remove(object) => {
                self.world().load_balancers.remove(&key(object));
                Arc::make_mut(&mut self.sources.observed.verdicts).remove(&key(object));
            }
            InputEdit::Recreate(object) => {
                if let Some(declared) = self.world().load_balancers.get_mut(&key(object)) {
                    declared.identity.as_mut().unwrap().uid = format!("new{object}").into();
                    declared.status = None;
                }
            }
            InputEdit::Verdict(object, variant) => self.set_verdict(object, variant),
            InputEdit::Service(object, variant) => self.set_service(object, variant),
            InputEdit::ForeignService(variant) => self.set_foreign_service(variant),
            InputEdit::ReplicasService(is_there) => {
                let key = self.settings.replicas.clone();
                match is_there {
                    true => drop(self.world().services.insert(key, Service::default().into())),
                    false => drop(self.world().services.remove(&key)),
                }
            }
            InputEdit::Allocation(object, is_set) => self.set_allocation(object, is_set),
            InputEdit::Served(replica, object, variant) => self.set_served(replica, object, variant),
            InputEdit::Report(replica, is_known) => {
                if let Some(replica) = Arc::make_mut(&mut self.sources.replicas).get_mut(PODS[replica]) {
                    replica.report = is_known.then(|| replica.report.take().unwrap_or_default());
                }
            }
            InputEdit::Replica(replica, is_ready) => {
                let replicas = Arc::make_mut(&mut self.sources.replicas);
                let address = format!("10.99.0.{replica}:9900").parse().unwrap();
                match is_ready {
                    true => {
                        drop(replicas.insert(PODS[replica].into(), Replica { address, report: Some(Arc::default()) }))
                    }
                    false => drop(replicas.remove(PODS[replica])),
                }
            }
            InputEdit::Problem(object, variant) => self.set_problem(object, variant),
            InputEdit::WriteStatus(object) => {
                let written = self.statuses.all().get(&key(object)).map(|status| (***status).clone());
                if let Some(declared) = self.world().load_balancers.get_mut(&key(object)) {
                    declared.status = written.map(|written| Arc::new(steady(written, declared.status.as_deref())));
                }
            }
            InputEdit::EditStatus(object) => {
                let declared = self.world().load_balancers.get_mut(&key(object));
                if let Some(status) = declared.and_then(|declared| declared.status.as_mut()) {
                    let conditions = &mut Arc::make_mut(status).conditions;
                    conditions.iter_mut().for_each(|condition| condition.status = "False".into());
                }
            }
            InputEdit::Wait(wait) => self.now += SignedDuration::from_secs(WAITS[wait]),
            InputEdit::Invalidate => self.statuses.invalidate(),
        }
    }

    fn declare(&mut self, object: usize, variant: usize) {
        let before = self.world().load_balancers.get(&key(object)).cloned();
        let identity = before.as_ref().and_then(|before| before.identity.clone());
        let identity =
            identity.unwrap_or(ObjectIdentity { created: NOW, uid: format!("l{object}").into(), generation: 0 });
        let identity = ObjectIdentity { generation: identity.generation + 1, ..identity };
        let declared = Declared {
            spec: serde_json::from_str(SPECS[variant]).ok().map(Arc::new),
            problems: Vec::new(),
            without_value: Vec::new(),
            origin: "cluster".into(),
            folder: "".into(),
            identity: Some(identity.clone()),
            status: before.and_then(|before| before.status),
        };
        self.world().load_balancers.insert(key(object), declared);
        let verdict = Verdict { origin: "cluster".into(), identity: Some(identity), problems: Vec::new() };
        Arc::make_mut(&mut self.sources.observed.verdicts).insert(key(object), verdict);
    }

    fn set_verdict(&mut self, object: usize, variant: usize) {
        let Some(verdict) = Arc::make_mut(&mut self.sources.observed.verdicts).get_mut(&key(object)) else { return };
        verdict.problems = match variant {
            0 => vec![],
            1 => vec![problem(Severity::Warning, Reason::NoEndpoints, Part::Backend(0))],
            2 => vec![problem(Severity::Warning, Reason::EndpointsNotReady, Part::Backend(0))],
            3 => vec![problem(Severity::Refused, Reason::RefNotFound, Part::Backend(0))],
            4 => vec![problem(Severity::Refused, Reason::NotPermitted, Part::WholeListener(0))],
            _ => vec![problem(Severity::Refused, Reason::Invalid, Part::Service)],
        };
    }

    fn set_service(&mut self, object: usize, variant: usize) {
        let uid = format!("l{object}");
        let mut service = json!({
            "metadata": {
                "name": service_key(object).name, "namespace": "lb",
                "labels": {"app.kubernetes.io/managed-by": "tcplb", "tcplb.io/class": "tcplb"},
                "annotations": {"tcplb.io/owner": key(object).to_string(), "tcplb.io/uid": uid},
            },
            "spec": {"type": "ClusterIP", "clusterIPs": ["10.96.0.7"], "ports": [{"port": 5432, "targetPort": 20000 + object}]},
        });
        match variant {
            0 => return drop(self.world().services.remove(&service_key(object))),
            1 => {}
            2 => service["spec"]["type"] = "LoadBalancer".into(),
            3 => {
                service["spec"]["type"] = "LoadBalancer".into();
                service["status"] = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}});
            }
            4 => service["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into(),
            _ => return self.write_service(object),
        }
        let service: Service = serde_json::from_value(service).unwrap();
        self.world().services.insert(service_key(object), service.into());
    }

    /// Stores the Service that is planned.
    fn write_service(&mut self, object: usize) {
        let (_, _, plan) = self.planned(&mut PlanMemory::default());
        if let Some(service) = plan.apply.get(&key(object)) {
            self.world().services.insert(service_key(object), service.clone().into());
        }
    }

    fn set_foreign_service(&mut self, variant: usize) {
        let service = |port: u16| -> Service {
            let spec = json!({"selector": {"app": "tcplb"}, "ports": [{"port": 1, "targetPort": port}]});
            serde_json::from_value(json!({"metadata": {"name": "foreign", "namespace": "lb"}, "spec": spec})).unwrap()
        };
        let key = ObjectKey::new("lb", "foreign");
        match variant {
            0 => drop(self.world().services.remove(&key)),
            _ => drop(self.world().services.insert(key, service(20100 + variant as u16).into())),
        }
    }

    fn set_allocation(&mut self, object: usize, is_set: bool) {
        let ProcessMode::Gateway(allocations, _) = &mut self.world().mode else { return };
        let Allocations(ports) = Arc::make_mut(allocations);
        for (port, listener) in [(20000 + object as u16, 5432), (22000 + object as u16, 80)] {
            let (uid, owner) = (format!("l{object}").into(), key(object).to_string().into());
            match is_set {
                true => drop(ports.insert(port, Allocation { uid, port: listener, object: owner, freed: None })),
                false => drop(ports.remove(&port)),
            }
        }
    }

    fn set_served(&mut self, replica: usize, object: usize, variant: usize) {
        let Some(replica) = Arc::make_mut(&mut self.sources.replicas).get_mut(PODS[replica]) else { return };
        let Some(report) = &mut replica.report else { return };
        let uid: Arc<str> = format!("l{object}").into();
        let load_balancers = &mut Arc::<ReplicaReport>::make_mut(report).load_balancers;
        if variant == 0 {
            return drop(load_balancers.remove(&uid));
        }
        let port = 20000 + object as u16;
        let health = |endpoints, usable| BackendHealth { endpoints, usable, ..BackendHealth::default() };
        let mut served = Served {
            generation: 5,
            whole: Some(5),
            listeners: [(5432, ListenerOutcome::Bound(port)), (80, ListenerOutcome::Bound(port + 2000))].into(),
            backends: [("db".to_owned(), health(3, 3))].into(),
            ..Served::default()
        };
        match variant {
            2 => served.listeners = [(5432, ListenerOutcome::Failed("it is in use".into()))].into(),
            3 => served.generation = 1,
            4 => served.backends = [("db".to_owned(), health(3, 0))].into(),
            5 => served.backends = BTreeMap::new(),
            6 => served.certificates = [("Secret cert".to_owned(), NOW + SignedDuration::from_hours(20 * 24))].into(),
            7 => served.failed_over = [FailedOver { backends: Vec::new(), priority: 1 }].into(),
            _ => {}
        }
        load_balancers.insert(uid, served.into());
    }

    fn set_problem(&mut self, object: usize, variant: usize) {
        let (listeners, sentence) = ([5432].into(), "there is none".to_owned());
        let problem = match variant {
            0 => None,
            1 => Some(ProvisioningProblem::NoFreePort { listeners, sentence }),
            2 => Some(ProvisioningProblem::AllocationFailed { listeners, sentence }),
            _ => Some(ProvisioningProblem::ServiceNotWritten(sentence)),
        };
        let problems = Arc::make_mut(&mut self.sources.problems);
        problems.remove(&key(object));
        problems.extend(problem.map(|problem| (key(object), problem)));
    }

    fn planned(&self, memory: &mut PlanMemory) -> Planned {
        let StatusSources { observed, replicas, .. } = &self.sources;
        let ProcessMode::Gateway(allocations, _) = &observed.world.mode else { panic!("it is a gateway") };
        let objects = plan::objects(observed, &self.settings);
        let managed = services::managed(&observed.world, &self.settings);
        let taken = services::taken(&observed.world, &managed, &self.settings);
        let input = PlanInput {
            objects: &objects,
            managed: &managed,
            replicas,
            allocations,
            gone: &BTreeMap::new(),
            owners: &[],
            settings: &self.settings,
            now: self.start,
        };
        let plan = plan::plan(&input, memory);
        (objects.iter().map(ManagedLoadBalancer::claim).collect(), taken, plan)
    }

    /// Compares the results with newly derived ones, and returns the number of derived statuses.
    fn reconcile(&mut self) -> Result<usize, TestCaseError> {
        let derived = self.statuses.update(self.sources.clone(), &self.settings, self.now);
        let mut fresh = Statuses::default();
        fresh.update(self.sources.clone(), &self.settings, self.now);
        let status =
            |statuses: &Statuses, object: &ObjectKey| statuses.all().get(object).map(|status| (***status).clone());
        for object in (0..LOAD_BALANCERS).map(key) {
            let (kept, fresh) = (status(&self.statuses, &object), status(&fresh, &object));
            let fresh = fresh
                .map(|fresh| kept.as_ref().map_or_else(|| fresh.clone(), |kept| with_times_of(fresh.clone(), kept)));
            prop_assert_eq!(kept, fresh);
        }
        prop_assert_eq!(self.statuses.all().len(), fresh.all().len());

        let planned = self.planned(&mut PlanMemory::default());
        let mut memory = std::mem::take(&mut self.memory);
        let (.., with_memory) = self.planned(&mut memory);
        self.memory = memory;
        prop_assert_eq!(&with_memory, &planned.2);
        if let Some((before, last)) = &self.last {
            let StatusSources { observed, replicas, .. } = &self.sources;
            let is_skipped = !concerns_services(&before.observed, observed, &self.settings)
                && have_same_listeners(&before.replicas, replicas);
            prop_assert!(!is_skipped || *last == planned, "{:?} instead of {:?}", last, planned);
        }
        self.last = Some((self.sources.clone(), planned));
        Ok(derived)
    }
}

proptest! {
    #[test]
    fn reconciled_changes_equal_a_full_reconciliation(
        steps in prop::collection::vec(prop::collection::vec(any_input_edit(), 0..3), 1..16),
    ) {
        let mut fixture = ReconcileFixture::start(LOAD_BALANCERS);
        fixture.reconcile()?;
        for edits in steps {
            edits.iter().for_each(|edit| fixture.edit(edit));
            fixture.reconcile()?;
        }
    }
}

#[test]
fn only_the_statuses_of_changed_load_balancers_are_derived() {
    let mut fixture = ReconcileFixture::start(LOAD_BALANCERS);
    let mut derived = |edit: Option<InputEdit>| {
        edit.iter().for_each(|edit| fixture.edit(edit));
        fixture.reconcile().unwrap()
    };
    assert_eq!(derived(None), LOAD_BALANCERS);
    assert_eq!(derived(None), 0);
    assert_eq!(derived(Some(InputEdit::Served(0, 2, 4))), 1);
    assert_eq!(derived(Some(InputEdit::Verdict(1, 1))), 1);
    assert_eq!(derived(Some(InputEdit::Service(3, 2))), 1);
    assert_eq!(derived(Some(InputEdit::Problem(3, 1))), 1);
    assert_eq!(derived(Some(InputEdit::WriteStatus(0))), 1);
    assert_eq!(derived(Some(InputEdit::WriteStatus(0))), 0, "the same status again");
    assert_eq!(derived(Some(InputEdit::Remove(0))), 1);
    assert_eq!(derived(Some(InputEdit::ForeignService(1))), 0);
    assert_eq!(derived(Some(InputEdit::Replica(1, false))), LOAD_BALANCERS - 1);
    assert_eq!(derived(Some(InputEdit::Invalidate)), LOAD_BALANCERS - 1);
}
