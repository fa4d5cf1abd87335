use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;
use tracing::info;

use crate::{
    drain::{Pace, Schedule, parts_of},
    model::{Close, ObjectKey},
    proxy::{
        accounting::CloseReason,
        listener::LiveListener,
        worker::sessions::{Choice, Owner, Wish, Wishes},
    },
    upstream::{Endpoint, Upstream},
};

/// Something that gets no more connections.
#[derive(Clone, Debug)]
pub enum Gone {
    Endpoint { upstream: Arc<Upstream>, endpoint: Arc<Endpoint> },
    Listener(Arc<LiveListener>),
}

impl Gone {
    pub fn owner(&self) -> Owner {
        match self {
            Self::Endpoint { endpoint, .. } => Owner::Endpoint(endpoint.id()),
            Self::Listener(listener) => Owner::Listener(listener.id),
        }
    }

    /// How many connections it has.
    pub fn open(&self) -> usize {
        match self {
            Self::Endpoint { endpoint, .. } => endpoint.active() as usize,
            Self::Listener(listener) => listener.counters.totals().active() as usize,
        }
    }
}

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoint { endpoint, .. } => endpoint.key().fmt(f),
            Self::Listener(listener) => listener.key.fmt(f),
        }
    }
}

/// Something whose connections are being closed.
#[derive(Clone, Debug)]
pub struct Departing {
    pub object: ObjectKey,
    pub reason: CloseReason,
    pub gone: Gone,
}

type Case = (Owner, CloseReason);

/// What is live, as far as it matters here.
#[derive(Debug, Default)]
pub struct Seen {
    /// What gets no more connections, and what is done with those it has; `None`: they are kept.
    pub departing: BTreeMap<Case, (ObjectKey, Gone, Option<Close>)>,
    /// All that there are. What is known of the endpoints of others is what was known last.
    pub upstreams: Vec<Arc<Upstream>>,
}

/// What is being drained. Each case for which something goes has its plan, which stays in force until it comes back: an
/// endpoint that is removed while it is drained because it is unhealthy goes on being drained for that too. A failback is
/// for itself: it ends when others are not preferred any more, and keeps no other plan in force.
#[derive(Debug, Default)]
pub struct Plans {
    plans: BTreeMap<Case, Plan>,
    /// By load balancer and reason.
    paces: BTreeMap<(ObjectKey, CloseReason), Pace>,
    /// For which reasons how many of each were wished to be closed last.
    parts: BTreeMap<Owner, Vec<(CloseReason, usize)>>,
    news: bool,
}

#[derive(Debug)]
struct Plan {
    object: ObjectKey,
    gone: Gone,
    close: Close,
    since: Instant,
    /// How many connections there were at most since then.
    total: usize,
    closed: usize,
    /// It has been said that none is left.
    is_told: bool,
    /// Its load balancer is gone: it does not come back.
    is_orphan: bool,
}

impl Plans {
    /// Takes note of what goes, and of what has come back before its turn.
    pub fn follow(&mut self, seen: Seen, now: Instant) {
        let gone = seen.departing.keys().filter(|(_, reason)| *reason != CloseReason::Failback);
        let gone: BTreeSet<Owner> = gone.map(|(owner, _)| *owner).collect();
        let goes_on = |case: &Case| match case {
            (_, CloseReason::Failback) => seen.departing.contains_key(case),
            (owner, _) => gone.contains(owner),
        };
        let upstreams = seen.upstreams.iter().map(Arc::as_ptr).collect();
        self.plans.retain(|case, plan| {
            let kept = seen.departing.get(case).is_some_and(|(_, _, close)| close.is_none());
            plan.is_orphan = !plan.is_of(&upstreams);
            let stays = !kept && (goes_on(case) || plan.is_orphan);
            if !stays {
                plan.tell_end(case.1);
                self.news = true;
            }
            stays
        });
        for (case, (object, gone, close)) in seen.departing {
            let Some(close) = close else { continue };
            let plan = self.plans.entry(case).or_insert_with(|| {
                self.news = true;
                let plan =
                    Plan { object, gone, close, since: now, total: 0, closed: 0, is_told: false, is_orphan: false };
                plan.tell_begin(case.1);
                plan
            });
            plan.close = close;
            plan.total = plan.total.max(plan.gone.open());
        }
        let used: BTreeSet<_> = self.plans.iter().map(|((_, reason), plan)| (plan.object.clone(), *reason)).collect();
        self.paces.retain(|group, _| used.contains(group));
    }

    /// Whether anything may be to be closed before the next change.
    pub fn have_work(&self, now: Instant) -> bool {
        // The last connections may end between two looks: what is said and forgotten then is work, too.
        let is_open = |plan: &Plan| plan.gone.open() > 0 || !plan.is_told || plan.is_orphan;
        self.plans.values().any(|plan| is_open(plan) || now < plan.since + plan.close.after)
    }

    /// What is to be closed now.
    pub fn due(&mut self, now: Instant) -> Wishes {
        let mut wishes = Wishes::new();
        self.parts.clear();
        let mut groups: BTreeMap<(ObjectKey, CloseReason), Vec<(Owner, usize)>> = BTreeMap::new();
        for ((owner, reason), plan) in &mut self.plans {
            let excess = plan.excess(now);
            if excess > 0 {
                groups.entry((plan.object.clone(), *reason)).or_default().push((*owner, excess));
            }
        }
        for (group, excesses) in groups {
            let excesses: Vec<(Owner, usize)> = excesses
                .into_iter()
                // For another reason some of them are closed anyway.
                .map(|(owner, excess)| (owner, excess.saturating_sub(wishes.get(&owner).map_or(0, |wish| wish.count))))
                .collect();
            let allowed = self.allowed(&group, now);
            let counts = parts_of(allowed, &excesses.iter().map(|(_, excess)| *excess).collect::<Vec<_>>());
            for ((owner, _), count) in excesses.into_iter().zip(counts).filter(|(_, count)| *count > 0) {
                let wish = Wish { count: 0, reason: group.1, choice: Choice::default() };
                wishes.entry(owner).or_insert(wish).count += count;
                self.parts.entry(owner).or_default().push((group.1, count));
            }
        }
        wishes
    }

    /// Takes note of what has been closed.
    pub fn note(&mut self, closed: &BTreeMap<Owner, usize>, now: Instant) {
        for (owner, count) in closed {
            let mut rest = *count;
            // Each reason has a rate of its own, and pays for its part only.
            for (reason, wished) in self.parts.remove(owner).unwrap_or_default() {
                let part = rest.min(wished);
                rest -= part;
                let Some(plan) = self.plans.get_mut(&(*owner, reason)) else { continue };
                plan.closed += part;
                if let Some(pace) = self.paces.get_mut(&(plan.object.clone(), reason)) {
                    pace.spend(part, now);
                }
            }
        }
        for ((_, reason), plan) in self.plans.iter_mut().filter(|(_, plan)| !plan.is_told && plan.gone.open() == 0) {
            plan.is_told = true;
            plan.tell_end(*reason);
        }
        let before = self.plans.len();
        self.plans.retain(|_, plan| !plan.is_orphan || plan.gone.open() > 0);
        self.news |= self.plans.len() != before;
    }

    /// What is being drained, if that is not the same as when it was last asked.
    pub fn news(&mut self) -> Option<Vec<Departing>> {
        let departing = |((_, reason), plan): (&Case, &Plan)| {
            let (object, gone) = (plan.object.clone(), plan.gone.clone());
            Departing { object, reason: *reason, gone }
        };
        std::mem::take(&mut self.news).then(|| self.plans.iter().map(departing).collect())
    }

    /// How many the rate lets be closed. All plans of a load balancer for one reason share it.
    fn allowed(&mut self, group: &(ObjectKey, CloseReason), now: Instant) -> usize {
        let of_group = |((_, reason), plan): &(&Case, &Plan)| (&plan.object, reason) == (&group.0, &group.1);
        // They have the same settings, but for those of something that is gone.
        let rates = self.plans.iter().filter(of_group).filter_map(|(_, plan)| plan.close.max_per_second);
        let Some(most) = rates.min().map(|most| most.get() as usize) else { return usize::MAX };
        let second = Duration::from_secs(1);
        let pace = self.paces.entry(group.clone()).or_insert_with(|| Pace::new(most, second, now));
        pace.changed(most, second, now).allows(now)
    }
}

impl Plan {
    /// How many more are open than should be.
    fn excess(&mut self, now: Instant) -> usize {
        let open = self.gone.open();
        self.total = self.total.max(open);
        self.is_told &= open == 0;
        let schedule = Schedule::new(self.close, Duration::MAX);
        open.saturating_sub(schedule.may_remain(self.total, now.saturating_duration_since(self.since)))
    }

    /// Whether one of these would tell if it came back.
    fn is_of(&self, upstreams: &HashSet<*const Upstream>) -> bool {
        match &self.gone {
            Gone::Endpoint { upstream, .. } => upstreams.contains(&Arc::as_ptr(upstream)),
            Gone::Listener(_) => true,
        }
    }

    fn tell_begin(&self, reason: CloseReason) {
        let Close { after, spread, .. } = self.close;
        let (load_balancer, what, connections) = (&self.object, &self.gone, self.gone.open());
        if connections > 0 {
            info!(%load_balancer, %what, reason = reason.label(), connections, ?after, ?spread, "draining");
        }
    }

    fn tell_end(&self, reason: CloseReason) {
        let (load_balancer, what, closed, stay) = (&self.object, &self.gone, self.closed, self.gone.open());
        if self.total == 0 || (self.is_told && stay == 0) {
            return;
        }
        if stay == 0 {
            info!(%load_balancer, %what, reason = reason.label(), closed, "drained");
        } else {
            info!(%load_balancer, %what, reason = reason.label(), closed, stay, "no longer draining");
        }
    }
}

#[cfg(test)]
mod tests;
