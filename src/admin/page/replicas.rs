use std::{
    array,
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::{
    html::{Column, byte_rate, marked, rate, table, text},
    listed_problem::ListedProblem,
    rates::{PageRates, TrafficSum},
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
    /// The traffic of the other replicas.
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
    /// `name` is the name of this process, unless it leads under that of its pod.
    pub fn new(view: Option<Arc<LeaderView>>, traffic: Option<Arc<TrafficByReplica>>, name: &str) -> Self {
        let own = view.as_ref().map_or_else(|| name.into(), |view| view.own.clone());
        Self { view, traffic, own }
    }

    /// If there are several replicas, the number of those whose connections and rates are part of the sums, and that of
    /// all.
    pub fn summed(&self) -> Option<(usize, usize)> {
        let known = self.traffic.as_ref()?.values().filter(|traffic| traffic.is_ok()).count() + 1;
        let all = self.all().filter(|(pod, _)| ***pod != *self.own).count() + 1;
        (all > 1).then_some((known, all))
    }

    /// The traffic of a load balancer in the other replicas, by their names.
    pub fn traffic_in_others(&self, verdict: &Verdict) -> impl Iterator<Item = (&Arc<str>, &LoadBalancerTraffic)> {
        let uid = verdict.identity.as_ref().map(|identity| identity.uid.clone());
        self.traffic
            .iter()
            .flat_map(|traffic| &**traffic)
            .filter_map(move |(pod, traffic)| Some((pod, traffic.as_ref().ok()?.load_balancers.get(uid.as_ref()?)?)))
    }

    /// The reason why the traffic of a replica is not known.
    fn without_traffic(&self, pod: &str) -> Option<&str> {
        self.traffic.as_ref()?.get(pod)?.as_ref().err().map(String::as_str)
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

    /// Writes the table of all replicas. `active` has the open connections in each one whose traffic is known.
    pub fn write(
        &self,
        page: &mut String,
        configuration: &Configuration,
        active: &BTreeMap<Arc<str>, u64>,
        rates: &PageRates,
    ) {
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
            self.row(pod, report, &generations, traffic_cells(pod, active.get(pod).copied(), rates))
        });
        let unready =
            unready.map(|pod| without_report(text(pod), "the pod is not ready", traffic_cells(pod, None, rates)));
        table(page, columns, rows.chain(unready));
        page.push_str("</section>");
    }

    fn row(
        &self,
        name: &str,
        report: Option<&ReplicaReport>,
        generations: &HashMap<&str, i64>,
        traffic: [String; 4],
    ) -> [String; 10] {
        let note = if *name == *self.own { " <span class=\"muted\">this replica</span>" } else { "" };
        let pod = text(name) + note;
        let Some(report) = report else { return without_report(pod, "none", traffic) };
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
        let mut state = marked("good", "received");
        if let Some(error) = self.without_traffic(name) {
            state += "<br>";
            state += &marked("warning", &format!("without traffic: {error}"));
        }
        let [open, new, relayed, failures] = traffic;
        [
            pod,
            state,
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
    pub fn write_of(&self, page: &mut String, verdict: &Verdict, own: &LoadBalancerTraffic) {
        let Some(identity) = verdict.identity.as_ref().filter(|_| self.view.is_some()) else { return };
        let columns = [
            Column::Text("replica"),
            Column::Number("generation"),
            Column::Number("open listeners"),
            Column::Number("usable endpoints"),
            Column::Number("open"),
            Column::Number("accepted"),
            Column::Number("failures"),
            Column::Text("problems"),
        ];
        let traffic: HashMap<&Arc<str>, &LoadBalancerTraffic> =
            self.traffic_in_others(verdict).chain([(&self.own, own)]).collect();
        let row = |(pod, report): (&Arc<str>, Option<&ReplicaReport>)| {
            let count = |of: fn(&LoadBalancerTraffic) -> u64| {
                traffic.get(pod).map_or("–".to_owned(), |traffic| of(traffic).to_string())
            };
            let open = count(|traffic| traffic.active);
            let (accepted, failures) = (count(|traffic| traffic.connections), count(|traffic| traffic.failures));
            let served = report.and_then(|report| report.load_balancers.get(&identity.uid));
            let Some(served) = served else {
                let unknown = || "–".to_owned();
                let why = marked("warning", if report.is_some() { "not served yet" } else { "no report" });
                return [text(pod), unknown(), unknown(), unknown(), open, accepted, failures, why];
            };
            let ReplicaState { endpoints, usable, open_listeners, problems } = ReplicaState::of(served);
            let generation = served.generation.to_string();
            let generation =
                if served.generation == identity.generation { generation } else { marked("warning", &generation) };
            let problems: Vec<String> = problems.iter().map(|problem| marked("bad", problem)).collect();
            let listeners = format!("{open_listeners}/{}", served.listeners.len());
            let (endpoints, problems) = (format!("{usable}/{endpoints}"), problems.join("<br>"));
            [text(pod), generation, listeners, endpoints, open, accepted, failures, problems]
        };
        table(page, columns, self.all().map(row));
    }
}

/// The cells of the open connections and rates of a replica. `None`: they are not known.
fn traffic_cells(pod: &Arc<str>, active: Option<u64>, rates: &PageRates) -> [String; 4] {
    let rates = active.and_then(|_| rates.traffic.latest(&TrafficSum::Replica(pod.clone())));
    [
        active.map_or("–".into(), |active| active.to_string()),
        rate(rates, |rates| rates.connections),
        byte_rate(rates),
        rate(rates, |rates| rates.failures),
    ]
}

/// The row of a replica whose state is not known.
fn without_report(pod: String, why: &str, [open, new, relayed, failures]: [String; 4]) -> [String; 10] {
    let [one, two, three, four] = array::from_fn(|_| "–".to_owned());
    [pod, marked("bad", why), one, two, three, four, open, new, relayed, failures]
}
