use std::{collections::HashMap, sync::Arc};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::{
    html::{Column, byte_rate, marked, rate, table, text},
    listed_problem::ListedProblem,
    overview::Overview,
    parts::{PageRates, TrafficKey},
};
use crate::{
    instruments::LeaderView,
    model::{ListenerOutcome, LoadBalancerTraffic, ObjectKey, ReplicaReport, Served, TrafficByReplica},
    state::Configuration,
    translate::Verdict,
};

/// The replicas and load balancers as the leader sees them. Empty: this process does not lead.
#[derive(Default)]
pub struct ReplicaViews {
    view: Option<Arc<LeaderView>>,
    /// The traffic of the other replicas that answered.
    traffic: Option<Arc<TrafficByReplica>>,
    /// The name of this process, whose own problems and traffic are listed anyway.
    pub own: Arc<str>,
}

/// The state of a load balancer in one replica.
#[derive(Debug, Default, PartialEq, Eq)]
struct ReplicaState {
    endpoints: u32,
    usable: u32,
    open_listeners: usize,
    problems: Vec<String>,
}

impl ReplicaState {
    fn of(served: &Served) -> Self {
        let mut state = Self::default();
        for (port, outcome) in &served.listeners {
            match outcome {
                ListenerOutcome::Bound(_) => state.open_listeners += 1,
                ListenerOutcome::Failed(why) => state.problems.push(format!("listener {port}: {why}")),
            }
        }
        for backend in served.backends.values() {
            state.endpoints += backend.endpoints;
            state.usable += backend.usable;
        }
        if state.endpoints > 0 && state.usable == 0 {
            state.problems.push("no endpoint is usable".into());
        }
        state.problems.extend(served.here.iter().cloned());
        state
    }
}

impl ReplicaViews {
    pub fn new(view: Option<Arc<LeaderView>>, traffic: Option<Arc<TrafficByReplica>>, own: &str) -> Self {
        Self { view, traffic, own: own.into() }
    }

    /// True if connections and rates are sums of several replicas.
    pub fn has_traffic_of_others(&self) -> bool {
        self.traffic.as_ref().is_some_and(|traffic| !traffic.is_empty())
    }

    /// The traffic of a load balancer in the other replicas, by their names.
    pub fn traffic_in_others(&self, verdict: &Verdict) -> impl Iterator<Item = (&Arc<str>, &LoadBalancerTraffic)> {
        let uid = verdict.identity.as_ref().map(|identity| identity.uid.clone());
        self.traffic
            .iter()
            .flat_map(|traffic| &**traffic)
            .filter_map(move |(pod, traffic)| Some((pod, traffic.load_balancers.get(uid.as_ref()?)?)))
    }

    /// The open connections of another replica.
    fn active_in(&self, pod: &str) -> Option<u64> {
        Some(self.traffic.as_ref()?.get(pod)?.active())
    }

    fn all(&self) -> impl Iterator<Item = (&Arc<str>, Option<&ReplicaReport>)> {
        let replicas = self.view.iter().flat_map(|view| &view.replicas);
        replicas.map(|(pod, report)| (pod, report.as_deref()))
    }

    /// The replicas that report a load balancer.
    fn serving<'a>(&'a self, verdict: &Verdict) -> impl Iterator<Item = (&'a Arc<str>, &'a Arc<Served>)> {
        let uid = verdict.identity.as_ref().map(|identity| identity.uid.clone());
        self.all().filter_map(move |(pod, report)| Some((pod, report?.load_balancers.get(uid.as_ref()?)?)))
    }

    /// The problems of a load balancer in other replicas.
    pub fn problems_of(&self, verdict: &Verdict) -> Vec<ListedProblem> {
        let others = self.serving(verdict).filter(|(pod, _)| ***pod != *self.own);
        let problems = others.flat_map(|(pod, served)| {
            let problems = ReplicaState::of(served).problems.into_iter();
            problems.map(move |problem| ListedProblem::error(format!("pod {pod}: {problem}")))
        });
        problems.collect()
    }

    /// The number of replicas that do not report.
    pub fn silent(&self) -> usize {
        self.view.as_ref().map_or(0, |view| view.replicas_silent())
    }

    /// The number of replicas that are not ready.
    pub fn unready(&self) -> usize {
        self.view.as_ref().map_or(0, |view| view.unready.len())
    }

    /// The conditions of a load balancer. Empty: they are not known.
    pub fn conditions_of(&self, object: &ObjectKey) -> &[Condition] {
        self.view.as_ref().map_or(&[][..], |view| view.conditions_of(object))
    }

    /// Writes the table of all replicas. `own_active` is the number of open connections of this one.
    pub fn write(&self, page: &mut String, configuration: &Configuration, own_active: u64, rates: &PageRates) {
        if self.view.is_none() {
            return;
        }
        let identities = configuration.verdicts.values().filter_map(|verdict| verdict.identity.as_ref());
        let generations: HashMap<&str, i64> =
            identities.map(|identity| (&*identity.uid, identity.generation)).collect();
        page.push_str("<section id=\"replicas\"><h2>Replicas</h2>");
        let columns = [
            Column::Text("pod"),
            Column::Text("report"),
            Column::Number("load balancers"),
            Column::Number("outdated"),
            Column::Number("with problems"),
            Column::Number("usable endpoints"),
            Column::Number("open"),
            Column::Number("new/s"),
            Column::WideNumber("relayed"),
            Column::Number("failures/s"),
        ];
        let unready = self.view.iter().flat_map(|view| &view.unready);
        let rows = self.all().map(|(pod, report)| {
            let active = if *pod == self.own { Some(own_active) } else { self.active_in(pod) };
            self.row(pod, report, &generations, traffic(active, TrafficKey::in_replica(None, pod), rates))
        });
        table(page, columns, rows.chain(unready.map(|pod| without_report(text(pod), "the pod is not ready"))));
        page.push_str("</section>");
    }

    fn row(
        &self,
        pod: &str,
        report: Option<&ReplicaReport>,
        generations: &HashMap<&str, i64>,
        [open, new, relayed, failures]: [String; 4],
    ) -> [String; 10] {
        let note = if *pod == *self.own { " <span class=\"muted\">this replica</span>" } else { "" };
        let pod = text(pod) + note;
        let Some(report) = report else { return without_report(pod, "none") };
        let (mut served_now, mut with_problems, mut endpoints, mut usable) = (0, 0, 0, 0);
        for (uid, served) in &report.load_balancers {
            let state = ReplicaState::of(served);
            served_now += usize::from(generations.get(&**uid) == Some(&served.generation));
            with_problems += usize::from(!state.problems.is_empty());
            endpoints += state.endpoints;
            usable += state.usable;
        }
        let count = |class: &str, count: usize| {
            if count == 0 { "0".into() } else { marked(class, &count.to_string()) }
        };
        [
            pod,
            marked("good", "received"),
            report.load_balancers.len().to_string(),
            count("warning", generations.len().saturating_sub(served_now)),
            count("bad", with_problems),
            format!("{usable}/{endpoints}"),
            open,
            new,
            relayed,
            failures,
        ]
    }

    /// Writes the table of a load balancer with its state in each replica.
    pub fn write_of(&self, page: &mut String, overview: &Overview, rates: &PageRates) {
        let Some(identity) = overview.verdict.identity.as_ref().filter(|_| self.view.is_some()) else { return };
        let columns = [
            Column::Text("replica"),
            Column::Number("generation"),
            Column::Number("open listeners"),
            Column::Number("usable endpoints"),
            Column::Number("open"),
            Column::Number("new/s"),
            Column::WideNumber("relayed"),
            Column::Number("failures/s"),
            Column::Text("problems"),
        ];
        let in_others: HashMap<&str, u64> =
            self.traffic_in_others(overview.verdict).map(|(pod, traffic)| (&**pod, traffic.active)).collect();
        let row = |(pod, report): (&Arc<str>, Option<&ReplicaReport>)| {
            let active = if *pod == self.own { Some(overview.own.active) } else { in_others.get(&**pod).copied() };
            let [open, new, relayed, failures] =
                traffic(active, TrafficKey::in_replica(Some(overview.object), pod), rates);
            let served = report.and_then(|report| report.load_balancers.get(&identity.uid));
            let Some(served) = served else {
                let unknown = || "–".to_owned();
                let why = marked("warning", if report.is_some() { "not served yet" } else { "no report" });
                return [text(pod), unknown(), unknown(), unknown(), open, new, relayed, failures, why];
            };
            let ReplicaState { endpoints, usable, open_listeners, problems } = ReplicaState::of(served);
            let generation = served.generation.to_string();
            let generation =
                if served.generation == identity.generation { generation } else { marked("warning", &generation) };
            let problems: Vec<String> = problems.iter().map(|problem| marked("bad", problem)).collect();
            let listeners = format!("{open_listeners}/{}", served.listeners.len());
            let (endpoints, problems) = (format!("{usable}/{endpoints}"), problems.join("<br>"));
            [text(pod), generation, listeners, endpoints, open, new, relayed, failures, problems]
        };
        table(page, columns, self.all().map(row));
    }
}

/// The cells of open connections and rates. `None`: they are not known.
fn traffic(active: Option<u64>, key: TrafficKey, rates: &PageRates) -> [String; 4] {
    let rates = active.and_then(|_| rates.load_balancers.latest(&key));
    [
        active.map_or("–".into(), |active| active.to_string()),
        rate(rates, |rates| rates.connections),
        byte_rate(rates),
        rate(rates, |rates| rates.failures),
    ]
}

/// The row of a replica whose state is not known.
fn without_report(pod: String, why: &str) -> [String; 10] {
    let mut row = [const { String::new() }; 10].map(|_| "–".to_owned());
    (row[0], row[1]) = (pod, marked("bad", why));
    row
}
