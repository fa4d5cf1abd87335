//! A [`World`] from a cluster, with memory.
//!
//! [`watches`] lists the watched kinds and decides what is watched, [`feed`] keeps up one watch, [`store`] has what it has
//! read, [`kinds`] reads one object, and [`trouble`] says what is wrong with a watch.

mod connect;
mod feed;
mod interest;
mod kinds;
mod scope;
mod store;
#[cfg(test)]
mod tests;
mod trouble;
mod watches;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

pub use connect::{connect, installed_schema};
use feed::{Common, Feed, Feeds};
use interest::{Interest, Subject};
use jiff::Timestamp;
use kinds::{Kept, LoadBalancer, Ports, Reading};
use kube::Client;
pub use scope::{Home, Scope};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};
use tracing::warn;
pub use trouble::{REFUSAL_DELAY, refused_token, with_causes};
use watches::{Subjects, Watches};

use crate::{
    api::{KIND, RefKind, TcpLoadBalancerStatus},
    model::ObjectKey,
    world::{Allocations, Declared, Quotas, Referred, SLICES_OF, Site, World, kept},
};

/// What has changed in a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// Statuses of load balancers, and nothing else.
    Statuses,
    World,
}

/// How long the start waits for Secrets and ConfigMaps, so that what can be served at once is.
const MOMENT: Duration = Duration::from_secs(2);

/// Load balancers in a cluster and what they refer to.
///
/// What was read stays while the API server cannot be reached, and an object's last good text stays while its present
/// one is wrong. What is deleted is gone at once, but for the allocated ports: they stay as they were.
pub struct Cluster {
    scope: Scope,
    site: Site,
    common: Common,
    changes: watch::Receiver<()>,
    status_changes: watch::Receiver<()>,
    watches: Watches,
    /// The load balancers of the latest world.
    shown: BTreeMap<ObjectKey, Declared>,
}

impl Cluster {
    /// Begins to watch. The ports of a [`Site::Gateway`] are read from the cluster.
    pub fn start(client: Client, scope: Scope, site: Site) -> Self {
        let (changed, changes) = watch::channel(());
        let (statuses_changed, status_changes) = watch::channel(());
        let common = Common {
            client,
            interest: Arc::new(RwLock::default()),
            changed: Arc::new(changed),
            statuses_changed: Arc::new(statuses_changed),
            outage: Arc::default(),
        };
        let mut cluster =
            Self { scope, site, common, changes, status_changes, watches: Watches::default(), shown: BTreeMap::new() };
        cluster.watch(&Subjects::of_scope(&cluster.scope));
        cluster
    }

    /// Waits until something has changed since the latest [`Self::world`] or [`Self::statuses`]. Cancel safe.
    pub async fn changed(&mut self) -> Changed {
        // None can fail: the senders live as long as `self`.
        tokio::select! {
            biased;
            _ = self.changes.changed() => Changed::World,
            _ = self.status_changes.changed() => Changed::Statuses,
        }
    }

    /// The present statuses of the load balancers of the latest [`Self::world`].
    pub fn statuses(&mut self) -> BTreeMap<ObjectKey, Option<Arc<TcpLoadBalancerStatus>>> {
        self.status_changes.mark_unchanged();
        let now = self.declared().into_iter();
        let same = now.filter(|(key, now)| self.shown.get(key).is_some_and(|shown| uid(shown) == uid(now)));
        same.map(|(key, now)| (key, now.status)).collect()
    }

    /// Waits until all that is watched has been read once. What the API server still refuses after `patience` is not
    /// waited for, unless it is what the load balancers need that can be read: who has lost a right must not take the
    /// place of those who know more.
    /// An API server that does not answer is waited for too, since a world without what it says would be a wrong one.
    /// Secrets and ConfigMaps get but a moment: only the load balancers that refer to them have to wait for them.
    pub async fn synced(&mut self, patience: Duration) {
        self.all_but_references_synced(patience).await;
        // Many certificates make for many watches, and whoever writes load balancers decides how many.
        let until = Instant::now() + patience.min(MOMENT);
        let is_awaited = |referred: &Unread| !referred.is_refused_for_good();
        while unread(&self.watches.secrets).iter().chain(&unread(&self.watches.config_maps)).any(is_awaited) {
            if timeout_at(until, self.changes.changed()).await.is_err() {
                return;
            }
        }
    }

    async fn all_but_references_synced(&mut self, patience: Duration) {
        let mut deadline = Some(Instant::now() + patience);
        loop {
            self.changes.mark_unchanged();
            self.watch(&self.subjects(&self.declared()));
            let waiting = self.unread();
            let refused = waiting.iter().all(Unread::is_refused_for_good);
            if waiting.is_empty() || refused && deadline.is_none() && self.knows_enough() {
                return;
            }
            match deadline {
                // It cannot fail: the sender lives as long as `self`.
                None => drop(self.changes.changed().await),
                Some(until) => {
                    if timeout_at(until, self.changes.changed()).await.is_err() {
                        deadline = None;
                        for Unread { what, why, .. } in self.unread() {
                            warn!(reason = why, "{what} could not be read within {} s", patience.as_secs());
                        }
                    }
                }
            }
        }
    }

    /// All there is now. Watches of what load balancers refer to begin and end here.
    pub fn world(&mut self) -> World {
        self.changes.mark_unchanged();
        self.status_changes.mark_unchanged();
        let mut declared = self.declared();
        let mut subjects = self.subjects(&declared);
        self.watch(&subjects);
        self.hold_back(&mut declared, &subjects);
        self.shown = declared;
        subjects.add(&self.subjects(&self.shown));
        self.watches.retain(&subjects);
        self.gather()
    }

    /// The load balancers that matter.
    fn declared(&self) -> BTreeMap<ObjectKey, Declared> {
        let mut declared = BTreeMap::new();
        for (_, feed) in self.watches.load_balancers.iter() {
            let state = feed.state();
            let ours = state.store.objects().iter().filter(|(_, object)| self.scope.has(object));
            declared.extend(ours.map(|(key, object)| (key.clone(), object.declared.clone())));
        }
        declared
    }

    fn subjects(&self, declared: &BTreeMap<ObjectKey, Declared>) -> Subjects {
        let mut subjects = Subjects::of_scope(&self.scope);
        for (key, spec) in specs(declared) {
            subjects.add(&Subjects::of_load_balancer(&self.scope, key, spec));
        }
        let quotas = Quotas::of(declared, self.site.tenancy());
        let is_within =
            |kind, subject: &Subject| subject.key().is_some_and(|key| quotas.allow(&Referred { kind, key }));
        subjects.secrets.retain(|secret| is_within(RefKind::Secret, secret));
        subjects.config_maps.retain(|map| is_within(RefKind::ConfigMap, map));
        subjects
    }

    fn watch(&mut self, subjects: &Subjects) {
        self.watches.start(subjects, &self.common);
    }

    /// Leaves load balancers as they were while what they refer to is being read for the first time.
    fn hold_back(&self, declared: &mut BTreeMap<ObjectKey, Declared>, watched: &Subjects) {
        declared.retain(|key, declared| {
            let Some(spec) = &declared.spec else { return true };
            let needed = Subjects::of_load_balancer(&self.scope, key, spec);
            let all_read = all_read(&self.watches.services, &needed.services)
                && all_read(&self.watches.slices, &needed.slices)
                && all_read(&self.watches.secrets, needed.secrets.intersection(&watched.secrets))
                && all_read(&self.watches.config_maps, needed.config_maps.intersection(&watched.config_maps));
            if all_read {
                return true;
            }
            let before = self.shown.get(key).filter(|before| uid(before) == uid(declared));
            before.map(|before| *declared = before.clone()).is_some()
        });
    }

    fn gather(&mut self) -> World {
        let interest = self.interest();
        // First, so that whatever changes from now on is told.
        self.common.interest.write().unwrap_or_else(PoisonError::into_inner).clone_from(&interest);
        let mut world = World { load_balancers: self.shown.clone(), ..World::default() };
        world.problems.extend(self.missing());
        world.problems.extend(self.watches.refusals());
        world.unreadable.extend(not_read(&self.watches.services));
        world.unreadable.extend(self.slices_not_read());
        world.unreadable.extend(not_read(&self.watches.secrets));
        world.unreadable.extend(not_read(&self.watches.config_maps));
        world.beyond_quota = self.beyond_quota();
        world.services = add(&mut world, &self.watches.services, &interest);
        world.endpoint_slices = add(&mut world, &self.watches.slices, &interest);
        world.secrets = add(&mut world, &self.watches.secrets, &interest);
        world.config_maps = add(&mut world, &self.watches.config_maps, &interest);
        let ports = add(&mut world, &self.watches.ports, &interest);
        world.ports_are_lost = ports.is_empty();
        self.read_ports(&ports, &mut world.problems);
        world.site = self.site(&world);
        world
    }

    /// The Services whose slices a load balancer needs and may not read, with the reason.
    fn slices_not_read(&self) -> BTreeMap<(&'static str, ObjectKey), Arc<str>> {
        let services = specs(&self.shown).flat_map(|(key, spec)| interest::services(key, spec));
        let denied = services.filter_map(|service| {
            let state = self.watches.slices.of(&Subject::of_service(&service))?.state();
            let why = state.refused().filter(|_| !state.store.is_synced())?.into();
            Some(((SLICES_OF, service), why))
        });
        denied.collect()
    }

    /// All others have been read before a load balancer that refers to them is shown, or cannot be.
    fn beyond_quota(&self) -> BTreeSet<Referred> {
        if self.site.tenancy().and_then(|tenancy| tenancy.secrets_per_namespace).is_none() {
            return BTreeSet::new();
        }
        let referred = specs(&self.shown).flat_map(|(key, spec)| interest::references(key, spec));
        let is_read = |Referred { kind, key }: &Referred| match kind {
            RefKind::Secret => is_read_or_broken(&self.watches.secrets, key),
            RefKind::ConfigMap => is_read_or_broken(&self.watches.config_maps, key),
        };
        referred.filter(|referred| !is_read(referred)).collect()
    }

    fn interest(&self) -> Interest {
        let services = specs(&self.shown).flat_map(|(key, spec)| interest::services(key, spec)).collect();
        Interest { services, home: self.scope.home.as_ref().map(|home| home.namespace.as_str().into()) }
    }

    /// The ports as they were, if there are none now: nobody deletes them on purpose, and without them nothing would be
    /// served.
    fn read_ports(&mut self, read: &BTreeMap<ObjectKey, Arc<Ports>>, problems: &mut Vec<String>) {
        let Site::Gateway(allocations, _) = &mut self.site else { return };
        match read.iter().next() {
            Some((key, ports)) => {
                *allocations = ports.allocations.clone();
                problems.extend(ports.problems.iter().map(|problem| format!("ConfigMap {key}: {problem}")));
            }
            None if **allocations != Allocations::default() => {
                problems.push(
                    "the ConfigMap of ports is gone: its ports stay as they were, and the leader writes it anew".into(),
                );
            }
            None => {}
        }
    }

    /// Where this runs, with the ports as Services show them.
    fn site(&self, world: &World) -> Site {
        let (Site::Gateway(allocations, tenancy), Some(home), Some(class)) =
            (&self.site, &self.scope.home, &self.scope.class)
        else {
            return self.site.clone();
        };
        let Some((_, range)) = &home.allocations else { return self.site.clone() };
        let targets = kept::targets(&kept::kept(&world.services, &home.namespace, class));
        Site::Gateway(Arc::new(allocations.believing(&targets, range, Timestamp::now())), tenancy.clone())
    }

    /// What to do if the one load balancer is not there.
    fn missing(&self) -> Option<String> {
        let only = self.scope.only.as_ref()?;
        let feed = self.watches.load_balancers.of(&Subject::named(only))?;
        let state = feed.state();
        let found = state.store.objects().get(only);
        let wanted = kinds::written(self.scope.placement);
        match found {
            Some(found) if self.scope.has(found) => None,
            Some(found) => Some(format!(
                "{KIND} {only} has placement {}: write `placement: {wanted}` in a new one, since it cannot be changed",
                found.placement
            )),
            None if state.store.is_synced() => {
                Some(format!("there is no {KIND} {only}: create it, with `placement: {wanted}`"))
            }
            None => None,
        }
    }

    /// Whether there are load balancers that could be read, with the Services and slices of their namespaces.
    fn knows_enough(&self) -> bool {
        let mut read =
            self.watches.load_balancers.iter().filter(|(_, feed)| is_read(feed)).map(|(subject, _)| subject).peekable();
        let of_namespace = |subject: &Subject| {
            // In a pod it is for the application's own rights to name what its load balancer refers to.
            self.scope.only.is_some()
                || has_read(&self.watches.services, &subject.namespace)
                    && has_read(&self.watches.slices, &subject.namespace)
        };
        read.peek().is_some() && read.all(of_namespace) && self.watches.ports.iter().all(|(_, feed)| is_read(feed))
    }

    /// What has not been read yet, and has to be before there is a world.
    fn unread(&self) -> Vec<Unread> {
        let mut waiting = unread(&self.watches.load_balancers);
        waiting.extend(unread(&self.watches.services));
        waiting.extend(unread(&self.watches.slices));
        waiting.extend(unread(&self.watches.ports));
        // Whoever installed the controller may have granted rights in the chosen namespaces alone.
        waiting.retain(|unread| !(unread.is_of_api_server && unread.is_refused_for_good()));
        waiting
    }
}

impl Scope {
    fn has(&self, object: &LoadBalancer) -> bool {
        self.class.as_ref().is_none_or(|class| **class == *object.class)
            && object.known_placement().is_some_and(|placement| self.placement.judges(placement))
    }
}

fn specs(
    declared: &BTreeMap<ObjectKey, Declared>,
) -> impl Iterator<Item = (&ObjectKey, &crate::api::TcpLoadBalancerSpec)> {
    declared.iter().filter_map(|(key, declared)| Some((key, &**declared.spec.as_ref()?)))
}

fn uid(declared: &Declared) -> Option<&str> {
    declared.identity.as_ref().map(|identity| &*identity.uid)
}

/// Whether these have been read, as far as the API server lets them be.
fn all_read<'a, K: Kept>(feeds: &Feeds<K>, subjects: impl IntoIterator<Item = &'a Subject>) -> bool {
    let is_read = |feed: &Feed<K>| {
        let state = feed.state();
        state.store.is_synced() || state.refused().is_some()
    };
    subjects.into_iter().all(|subject| feeds.of(subject).is_some_and(is_read))
}

/// The objects of a kind that can be read; what is wrong with the others is told.
fn add<T: kinds::Readable>(
    world: &mut World,
    feeds: &Feeds<Reading<T>>,
    interest: &Interest,
) -> BTreeMap<ObjectKey, Arc<T>> {
    let mut objects = BTreeMap::new();
    for (_, feed) in feeds.iter() {
        let state = feed.state();
        for (key, object) in state.store.objects().iter().filter(|(key, object)| object.concerns(key, interest)) {
            let stays = if object.good.is_some() { "; what it was before stays" } else { "" };
            world.problems.extend(object.problem.iter().map(|problem| format!("{} {key}: {problem}{stays}", T::KIND)));
            match &object.good {
                Some(good) => drop(objects.insert(key.clone(), good.clone())),
                None => {
                    let why = object.problem.as_deref().unwrap_or_default().into();
                    world.unreadable.insert((T::KIND, key.clone()), why);
                }
            }
        }
    }
    objects
}

fn is_read<K: Kept>(feed: &Feed<K>) -> bool {
    feed.state().store.is_synced()
}

/// Whether all of a namespace, or of all of them, has been read.
fn has_read<K: Kept>(feeds: &Feeds<K>, namespace: &Option<Arc<str>>) -> bool {
    feeds.iter().any(|(subject, feed)| subject.namespace == *namespace && subject.key().is_none() && is_read(feed))
}

/// Whether the API server has said an object, or why it does not.
fn is_read_or_broken<K: Kept>(feeds: &Feeds<K>, key: &ObjectKey) -> bool {
    feeds.of(&Subject::named(key)).is_some_and(|feed| {
        let state = feed.state();
        state.store.is_synced() || state.is_broken()
    })
}

/// The objects that have not been read, with the reason and what to do about it.
fn not_read<K: Kept>(feeds: &Feeds<K>) -> impl Iterator<Item = ((&'static str, ObjectKey), Arc<str>)> {
    feeds.iter().filter_map(|(subject, feed)| {
        let state = feed.state();
        let why = match (state.refused(), state.unread()?) {
            (Some(why), _) => why.to_owned(),
            (None, (why, _)) => format!("{why}; it is read as soon as the API server answers"),
        };
        Some(((K::KIND, subject.key()?), why.into()))
    })
}

/// A watch that has not read everything once.
struct Unread {
    what: String,
    why: String,
    /// How often the API server has refused it.
    refusals: u32,
    is_of_api_server: bool,
}

impl Unread {
    fn is_refused_for_good(&self) -> bool {
        self.refusals >= feed::REPEATED
    }
}

fn unread<K: Kept>(feeds: &Feeds<K>) -> Vec<Unread> {
    let unread = feeds.iter().filter_map(|(subject, feed)| {
        let state = feed.state();
        let (why, refusals) = state.unread()?;
        let (what, is_of_api_server) = (subject.of_kind(K::KIND), subject.is_of_api_server());
        Some(Unread { what, why: why.to_owned(), refusals, is_of_api_server })
    });
    unread.collect()
}
