use std::{cmp::Reverse, sync::Arc};

use jiff::{SignedDuration, Timestamp};

use super::{
    conditions::not_ready,
    listed_problem::ListedProblem,
    query::{PageOrder, PageQuery},
    replicas::ReplicaViews,
};
use crate::{
    admin::{
        moment::{LiveListeners, Moment},
        snapshot::bounded,
    },
    model::{BindState, LoadBalancerTraffic, ObjectKey, UpstreamKey},
    traffic::TrafficRates,
    translate::{Severity, Verdict},
    upstream::Upstream,
};

/// The page warns this long before a certificate expires.
const CERTIFICATE_WARNING: SignedDuration = SignedDuration::from_hours(14 * 24);

/// A load balancer in the list of the page, without the state of single endpoints.
pub struct Overview<'a> {
    pub object: &'a ObjectKey,
    pub verdict: &'a Verdict,
    pub name: String,
    pub upstream: Option<&'a Arc<Upstream>>,
    pub endpoints: usize,
    pub usable: usize,
    /// The traffic in this replica.
    pub own: LoadBalancerTraffic,
    /// Open connections of all replicas.
    pub active: u64,
    /// Of all replicas. `None`: not known yet.
    pub rates: Option<TrafficRates>,
    /// The worst problems come first.
    pub problems: Vec<ListedProblem>,
}

impl<'a> Overview<'a> {
    pub fn of(
        (object, verdict): (&'a ObjectKey, &'a Verdict),
        moment: &'a Moment,
        listeners: &LiveListeners,
        replicas: &ReplicaViews,
    ) -> Self {
        let upstream = moment.upstream(object);
        let (endpoints, usable) = upstream.map_or((0, 0), |upstream| {
            let all = upstream.endpoints().len();
            (all, upstream.usable().min(all))
        });
        let own = moment.traffic_of(object, listeners);
        let mut overview = Self {
            object,
            verdict,
            name: bounded(object),
            upstream,
            endpoints,
            usable,
            own,
            active: own.active + replicas.traffic_in_others(verdict).map(|(_, traffic)| traffic.active).sum::<u64>(),
            rates: None,
            problems: Vec::new(),
        };
        overview.add_problems(moment, replicas);
        overview
    }

    /// The severity of the worst problem.
    pub fn severity(&self) -> Option<Severity> {
        self.problems.first().map(|problem| problem.severity)
    }

    fn add_problems(&mut self, moment: &Moment, replicas: &ReplicaViews) {
        let view = &moment.view;
        let declared = &self.verdict.problems;
        self.problems.extend(
            declared.iter().map(|problem| ListedProblem { severity: problem.severity, sentence: problem.to_string() }),
        );
        self.problems.extend(view.report.left_out_of(self.object).into_iter().map(ListedProblem::error));
        let states = view.report.listeners.range(self.object.listeners());
        self.problems.extend(states.filter_map(|(key, state)| match state {
            BindState::Bound(_) => None,
            BindState::Failed(why) => Some(ListedProblem::error(format!("listener {}: {why}", key.port))),
        }));
        self.add_endpoint_problems();
        self.add_certificate_problems(moment, Timestamp::now());
        self.problems.extend(replicas.problems_of(self.verdict));
        let is_listed = |severity| self.problems.iter().any(|problem| problem.severity <= severity);
        let not_ready = not_ready(replicas.conditions_of(self.object)).filter(|problem| !is_listed(problem.severity));
        self.problems.extend(not_ready);
        self.problems.sort();
        self.problems.dedup();
    }

    fn add_endpoint_problems(&mut self) {
        let (endpoints, usable) = (self.endpoints, self.usable);
        if endpoints == 0 {
            if self.upstream.is_some() {
                self.problems.push(ListedProblem::error("there are no endpoints: new connections are refused".into()));
            }
            return;
        }
        match endpoints - usable {
            0 => {}
            _ if usable == 0 => self.problems.push(ListedProblem::error(format!(
                "no endpoint is usable: new connections are refused ({endpoints} endpoints)"
            ))),
            unusable => self
                .problems
                .push(ListedProblem::warning(format!("{unusable} of {endpoints} endpoints are not usable"))),
        }
    }

    fn add_certificate_problems(&mut self, moment: &Moment, now: Timestamp) {
        let snapshot = &moment.view.snapshot;
        let listeners = snapshot.listeners_of(self.object).filter_map(|(_, listener)| listener.tls.as_ref());
        let upstream = snapshot.upstreams.get(&UpstreamKey { object: self.object.clone() });
        let backends = upstream.into_iter().flat_map(|upstream| upstream.backends.values());
        let for_backends = backends.filter_map(|backend| backend.shown_certificate());
        for certificate in listeners.flat_map(|tls| &tls.certificates).chain(for_backends) {
            let left = certificate.not_after.duration_since(now);
            // An expired certificate is a problem of its verdict.
            if left.is_positive() && left < CERTIFICATE_WARNING {
                let (source, not_after) = (&certificate.source, certificate.not_after);
                let sentence =
                    format!("the certificate of {source} is valid until {not_after:.0}: replace it before then");
                self.problems.push(ListedProblem::warning(sentence));
            }
        }
    }

    /// True if a name, an address or a problem contains the text, which is in lower case.
    pub fn matches(&self, search: &str, moment: &Moment) -> bool {
        let contains = |text: &str| text.to_lowercase().contains(search);
        search.is_empty()
            || contains(&self.name)
            || contains(&self.verdict.origin)
            || self.problems.iter().any(|problem| contains(&problem.sentence))
            || moment.view.snapshot.listeners_of(self.object).any(|(key, listener)| {
                contains(&listener.name) || key.port.to_string() == search || listener.bind.to_string().contains(search)
            })
            || self.upstream.is_some_and(|upstream| {
                upstream.endpoints().iter().any(|endpoint| {
                    contains(&endpoint.key().backend) || endpoint.address().to_string().contains(search)
                })
            })
    }
}

/// Selects and sorts load balancers. Equal ones are sorted by their names.
pub fn arrange<'a>(mut all: Vec<Overview<'a>>, query: &PageQuery, moment: &Moment) -> Vec<Overview<'a>> {
    all.retain(|overview| overview.matches(&query.search, moment));
    let rates = |overview: &Overview| overview.rates.unwrap_or_default();
    // Verdicts are sorted by name, and sorting is stable.
    match query.order {
        PageOrder::Name => {}
        PageOrder::Problems => {
            all.sort_by_key(|overview| overview.severity().map_or((1, Severity::Warning), |severity| (0, severity)));
        }
        PageOrder::Endpoints => all.sort_by_key(|overview| Reverse(overview.endpoints - overview.usable)),
        PageOrder::Open => all.sort_by_key(|overview| Reverse(overview.active)),
        PageOrder::Connections => {
            all.sort_by(|one, other| rates(other).connections.total_cmp(&rates(one).connections));
        }
        PageOrder::Bytes => all.sort_by(|one, other| rates(other).bytes.total_cmp(&rates(one).bytes)),
        PageOrder::Failures => all.sort_by(|one, other| rates(other).failures.total_cmp(&rates(one).failures)),
    }
    all
}
