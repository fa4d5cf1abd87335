//! A [`World`] from a cluster, with memory.
//!
//! [`watches`] lists the watched kinds and selects the objects to watch, [`watch_task`] runs one watch, [`store`] holds
//! the objects that a watch has read, [`received_object`] is an object as the API server sends it, [`kinds`] reads it,
//! [`packed`] compresses it if it is not of interest, and [`watch_error`] describes errors of watches.

mod connect;
mod kind_objects;
mod kinds;
mod packed;
mod received_object;
mod scope;
mod selector;
mod store;
#[cfg(test)]
mod tests;
mod watch_error;
mod watch_task;
mod watches;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError, RwLock, atomic::Ordering::Relaxed},
    time::Duration,
};

pub use connect::{connect, installed_schema};
use imbl::OrdMap;
use jiff::Timestamp;
use k8s_openapi::api::{
    core::v1::{ConfigMap, Secret, Service},
    discovery::v1::EndpointSlice,
};
use kind_objects::KindObjects;
use kinds::{LoadBalancer, PortAllocations, WatchedObject};
use kube::Client;
pub use scope::{Home, Scope};
use selector::{Interest, Selector};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};
use tracing::warn;
pub use watch_error::{REFUSAL_DELAY, refused_token, with_causes};
use watch_task::{Common, KindVersion, KindWatches, Watch};
use watches::{Selectors, Watches};

use crate::{
    api::{KIND, RefKind, TcpLoadBalancerStatus},
    instruments::Instruments,
    model::ObjectKey,
    shared::{changes, revised},
    world::{
        Allocations, Declared, ObjectRef, Objects, ProcessMode, Quotas, SLICES_OF, World, backend_services,
        managed_service,
    },
};

/// A change in a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// Only statuses of load balancers.
    Statuses,
    World,
}

/// The maximum wait for Secrets and ConfigMaps at startup, so that load balancers without them are served early.
const FIRST_SYNC_TIMEOUT: Duration = Duration::from_secs(2);

/// The load balancers of a cluster and the objects that they refer to.
///
/// Objects stay unchanged while the API server cannot be reached. The last good text of an object stays in use while
/// its current text is invalid. Deleted objects are removed at once, except the allocated ports, which stay.
pub struct Cluster {
    scope: Scope,
    mode: ProcessMode,
    common: Common,
    changes: watch::Receiver<()>,
    status_changes: watch::Receiver<()>,
    watches: Watches,
    /// The load balancers of the latest world.
    shown: OrdMap<ObjectKey, Declared>,
    /// The version of the load balancers if `shown` has all of them in their current versions.
    shown_version: Option<KindVersion>,
    /// The load balancers of each watch whose statuses are shown.
    statuses_shown: BTreeMap<Selector, OrdMap<ObjectKey, LoadBalancer>>,
    interest: Interest,
    services: KindObjects<Service>,
    slices: KindObjects<EndpointSlice>,
    secrets: KindObjects<Secret>,
    config_maps: KindObjects<ConfigMap>,
    ports: KindObjects<PortAllocations>,
    /// The mode that results from `services` and `ports`.
    mode_in_effect: Option<ProcessMode>,
    gaps: WorldGaps,
    gaps_version: Option<GapsVersion>,
}

/// The parts of a world that could not be read.
#[derive(Clone, Default)]
struct WorldGaps {
    problems: Vec<String>,
    unreadable: BTreeMap<(&'static str, ObjectKey), Arc<str>>,
    beyond_quota: BTreeSet<ObjectRef>,
}

/// Identifies the state that gaps depend on: the shown load balancers, the outcomes of watches, and the watches.
type GapsVersion = (KindVersion, u64, u64);

impl Cluster {
    /// Starts the watches. The ports of a [`ProcessMode::Gateway`] are read from the cluster.
    pub fn start(client: Client, scope: Scope, mode: ProcessMode, instruments: Arc<Instruments>) -> Self {
        let (changed, changes) = watch::channel(());
        let (statuses_changed, status_changes) = watch::channel(());
        let common = Common {
            client,
            interest: Arc::new(RwLock::default()),
            changed: Arc::new(changed),
            statuses_changed: Arc::new(statuses_changed),
            outage: Arc::default(),
            outcomes: Arc::default(),
            // The status of a sidecar's load balancer is about its declaration only.
            has_statuses: scope.only.is_none(),
            instruments,
        };
        let mut cluster = Self {
            scope,
            mode,
            common,
            changes,
            status_changes,
            watches: Watches::default(),
            shown: OrdMap::new(),
            shown_version: None,
            statuses_shown: BTreeMap::new(),
            interest: Interest::default(),
            services: KindObjects::default(),
            slices: KindObjects::default(),
            secrets: KindObjects::default(),
            config_maps: KindObjects::default(),
            ports: KindObjects::default(),
            mode_in_effect: None,
            gaps: WorldGaps::default(),
            gaps_version: None,
        };
        cluster.watch(&Selectors::of_scope(&cluster.scope));
        cluster
    }

    /// Waits until something has changed since the latest [`Self::world`] or [`Self::statuses`]. Cancel safe.
    pub async fn changed(&mut self) -> Changed {
        // The receivers cannot fail, because `self` owns the senders.
        tokio::select! {
            biased;
            _ = self.changes.changed() => Changed::World,
            _ = self.status_changes.changed() => Changed::Statuses,
        }
    }

    /// The statuses of load balancers in the latest [`Self::world`] that have changed since then, or since the previous
    /// call.
    pub fn statuses(&mut self) -> Vec<(ObjectKey, Option<Arc<TcpLoadBalancerStatus>>)> {
        self.status_changes.mark_unchanged();
        let mut changed = Vec::new();
        for (selector, watch) in self.watches.load_balancers.iter() {
            let now = watch.state().store.objects().clone();
            let before = self.statuses_shown.insert(selector.clone(), now.clone()).unwrap_or_default();
            for (key, _, object) in changes(&before, &now) {
                let Some(LoadBalancer { declared, .. }) = object else { continue };
                let is_outdated = |shown: &&Declared| uid(shown) == uid(declared) && shown.status != declared.status;
                if self.shown.get(key).filter(is_outdated).is_some()
                    && let Some(shown) = self.shown.get_mut(key)
                {
                    shown.status.clone_from(&declared.status);
                    changed.push((key.clone(), declared.status.clone()));
                }
            }
        }
        changed
    }

    /// Waits until everything that is watched has been read once.
    ///
    /// After `limit`, watches that the API server refuses are no longer waited for, unless the readable load balancers
    /// need them: a replica that has lost a permission must not replace replicas that know more. There is no time limit
    /// for an API server that does not answer, because a world without its objects would be wrong. The wait for Secrets
    /// and ConfigMaps is short, because only the load balancers that refer to them need them.
    pub async fn synced(&mut self, limit: Duration) {
        self.all_but_references_synced(limit).await;
        // Many certificates need many watches, and users choose their number.
        let until = Instant::now() + limit.min(FIRST_SYNC_TIMEOUT);
        let is_awaited = |referred: &Unread| !referred.is_refused_for_good();
        while unread(&self.watches.secrets).iter().chain(&unread(&self.watches.config_maps)).any(is_awaited) {
            if timeout_at(until, self.changes.changed()).await.is_err() {
                return;
            }
        }
    }

    async fn all_but_references_synced(&mut self, limit: Duration) {
        let mut deadline = Some(Instant::now() + limit);
        loop {
            self.changes.mark_unchanged();
            self.watch(&self.selectors(&self.declared()));
            let waiting = self.unread();
            let refused = waiting.iter().all(Unread::is_refused_for_good);
            if waiting.is_empty() || refused && deadline.is_none() && self.knows_enough() {
                return;
            }
            match deadline {
                // The receiver cannot fail, because `self` owns the sender.
                None => drop(self.changes.changed().await),
                Some(until) => {
                    if timeout_at(until, self.changes.changed()).await.is_err() {
                        deadline = None;
                        for Unread { what, why, .. } in self.unread() {
                            warn!(reason = why, "{what} could not be read within {} s", limit.as_secs());
                        }
                    }
                }
            }
        }
    }

    /// The current world. Starts and ends watches of the objects that load balancers refer to.
    pub fn world(&mut self) -> World {
        self.changes.mark_unchanged();
        // The version is read first, so that a change in between is not missed.
        let version = self.watches.load_balancers.version();
        if self.shown_version != Some(version) {
            self.shown_version = self.show().then_some(version);
            self.follow_interest();
        }
        // Their statuses are those of now, whether they are listed again or not.
        self.statuses();
        self.gather()
    }

    /// Shows the load balancers whose references have been read, and watches the objects that they refer to. Returns
    /// true if these are all.
    fn show(&mut self) -> bool {
        let mut declared = self.declared();
        let mut selectors = self.selectors(&declared);
        self.watch(&selectors);
        let are_all = self.defer_until_synced(&mut declared, &selectors);
        self.shown = declared;
        selectors.add(&self.selectors(&self.shown));
        self.watches.retain(&selectors);
        are_all
    }

    /// The load balancers in the scope of this process.
    fn declared(&self) -> OrdMap<ObjectKey, Declared> {
        let mut declared = BTreeMap::new();
        for (_, watch) in self.watches.load_balancers.iter() {
            let state = watch.state();
            let ours = state.store.objects().iter().filter(|(_, object)| self.scope.has(object));
            declared.extend(ours.map(|(key, object)| (key.clone(), object.declared.clone())));
        }
        revised(&self.shown, declared)
    }

    fn selectors(&self, declared: &OrdMap<ObjectKey, Declared>) -> Selectors {
        let mut selectors = Selectors::of_scope(&self.scope);
        for (key, spec) in specs(declared) {
            selectors.add(&Selectors::of_load_balancer(&self.scope, key, spec));
        }
        let quotas = Quotas::of(declared, self.mode.tenancy());
        let is_within =
            |kind, selector: &Selector| selector.key().is_some_and(|key| quotas.allow(&ObjectRef { kind, key }));
        selectors.secrets.retain(|secret| is_within(RefKind::Secret, secret));
        selectors.config_maps.retain(|map| is_within(RefKind::ConfigMap, map));
        selectors
    }

    fn watch(&mut self, selectors: &Selectors) {
        self.watches.start(selectors, &self.common);
    }

    /// Keeps the previous version of load balancers whose references are being read for the first time. Returns true if
    /// there are none.
    fn defer_until_synced(&self, declared: &mut OrdMap<ObjectKey, Declared>, watched: &Selectors) -> bool {
        let is_read = |(key, declared): &(&ObjectKey, &Declared)| {
            let Some(spec) = &declared.spec else { return true };
            let needed = Selectors::of_load_balancer(&self.scope, key, spec);
            all_read(&self.watches.services, &needed.services)
                && all_read(&self.watches.slices, &needed.slices)
                && all_read(&self.watches.secrets, needed.secrets.intersection(&watched.secrets))
                && all_read(&self.watches.config_maps, needed.config_maps.intersection(&watched.config_maps))
        };
        let unread = declared.iter().filter(|entry| !is_read(entry));
        let unread: Vec<_> = unread.map(|(key, declared)| (key.clone(), declared.clone())).collect();
        for (key, now) in &unread {
            match self.shown.get(key).filter(|before| uid(before) == uid(now)) {
                // Their statuses are those of now, see [`Self::statuses`].
                Some(before) => {
                    declared.insert(key.clone(), Declared { status: now.status.clone(), ..before.clone() });
                }
                None => drop(declared.remove(key)),
            }
        }
        unread.is_empty()
    }

    fn gather(&mut self) -> World {
        self.find_gaps();
        if self.services.update(&self.watches.services, &self.interest) {
            self.mode_in_effect = None;
        }
        if self.ports.update(&self.watches.ports, &self.interest) {
            self.mode_in_effect = None;
        }
        self.slices.update(&self.watches.slices, &self.interest);
        self.secrets.update(&self.watches.secrets, &self.interest);
        self.config_maps.update(&self.watches.config_maps, &self.interest);
        let WorldGaps { problems, unreadable, beyond_quota } = self.gaps.clone();
        let load_balancers = self.shown.clone();
        let mut world = World { load_balancers, problems, unreadable, beyond_quota, ..World::default() };
        world.services = self.services.add_to(&mut world);
        world.endpoint_slices = self.slices.add_to(&mut world);
        world.secrets = self.secrets.add_to(&mut world);
        world.config_maps = self.config_maps.add_to(&mut world);
        let ports = self.ports.add_to(&mut world);
        world.ports_are_lost = ports.is_empty();
        self.read_ports(&ports, &mut world.problems);
        world.mode = self.mode_in_effect.clone().unwrap_or_else(|| self.mode(&world));
        self.mode_in_effect = Some(world.mode.clone());
        world
    }

    /// Updates the gaps after a change of the load balancers or of a watch.
    fn find_gaps(&mut self) {
        let watches = self.watches.changes();
        let version = self.shown_version.map(|shown| (shown, self.common.outcomes.load(Relaxed), watches));
        if version.is_some() && version == self.gaps_version {
            return;
        }
        let problems = self.missing().into_iter().chain(self.watches.refusals()).collect();
        let mut unreadable: BTreeMap<_, _> = not_read(&self.watches.services).collect();
        unreadable.extend(self.slices_not_read());
        unreadable.extend(not_read(&self.watches.secrets));
        unreadable.extend(not_read(&self.watches.config_maps));
        self.gaps = WorldGaps { problems, unreadable, beyond_quota: self.beyond_quota() };
        self.gaps_version = version;
    }

    /// Computes which objects are of interest. After a change, all except the port allocations are gathered again.
    fn follow_interest(&mut self) {
        let interest = self.interest();
        if interest == self.interest {
            return;
        }
        // Set first, so that no later change is missed.
        self.common.interest.write().unwrap_or_else(PoisonError::into_inner).clone_from(&interest);
        self.interest = interest;
        for (_, watch) in self.watches.services.iter() {
            watch.state().store.follow_interest(&self.interest);
        }
        for (_, watch) in self.watches.slices.iter() {
            watch.state().store.follow_interest(&self.interest);
        }
        self.services.reset();
        self.slices.reset();
        self.secrets.reset();
        self.config_maps.reset();
    }

    /// The Services whose EndpointSlices a load balancer needs but this process may not read, with the reason.
    fn slices_not_read(&self) -> BTreeMap<(&'static str, ObjectKey), Arc<str>> {
        // Without a single load balancer, slices are watched by namespace.
        let shown = specs(&self.shown).filter(|_| self.scope.only.is_some());
        let services = shown.flat_map(|(key, spec)| backend_services(key, spec));
        let denied = services.filter_map(|service| {
            let state = self.watches.slices.of(&Selector::of_service(&service))?.state();
            let why = state.refused().filter(|_| !state.store.is_synced())?.into();
            Some(((SLICES_OF, service), why))
        });
        denied.collect()
    }

    /// The referenced objects without a watch. All others are read, or refused, before a load balancer that refers to
    /// them is shown.
    fn beyond_quota(&self) -> BTreeSet<ObjectRef> {
        if self.mode.tenancy().and_then(|tenancy| tenancy.secrets_per_namespace).is_none() {
            return BTreeSet::new();
        }
        let referred = specs(&self.shown).flat_map(|(key, spec)| ObjectRef::all_by(key, spec));
        let is_read = |ObjectRef { kind, key }: &ObjectRef| match kind {
            RefKind::Secret => is_read_or_broken(&self.watches.secrets, key),
            RefKind::ConfigMap => is_read_or_broken(&self.watches.config_maps, key),
        };
        referred.filter(|referred| !is_read(referred)).collect()
    }

    fn interest(&self) -> Interest {
        let services = specs(&self.shown).flat_map(|(key, spec)| backend_services(key, spec)).collect();
        Interest { services, home: self.scope.home.as_ref().map(|home| home.namespace.as_str().into()) }
    }

    /// Keeps the known ports if the ConfigMap is missing: its deletion is a mistake, and without the ports no load
    /// balancer would be served.
    fn read_ports(&mut self, read: &Objects<PortAllocations>, problems: &mut Vec<String>) {
        let ProcessMode::Gateway(allocations, _) = &mut self.mode else { return };
        match read.iter().next() {
            Some((key, ports)) => {
                *allocations = ports.allocations.clone();
                problems.extend(ports.problems.iter().map(|problem| format!("ConfigMap {key}: {problem}")));
            }
            None if **allocations != Allocations::default() => {
                problems.push(
                    "the ConfigMap of ports is missing: allocated ports stay as they are, and the leader recreates \
                     it"
                    .into(),
                );
            }
            None => {}
        }
    }

    /// The mode of this process, with ports corrected by Services.
    fn mode(&self, world: &World) -> ProcessMode {
        let (ProcessMode::Gateway(allocations, tenancy), Some(home), Some(class)) =
            (&self.mode, &self.scope.home, &self.scope.class)
        else {
            return self.mode.clone();
        };
        let Some((_, range)) = &home.allocations else { return self.mode.clone() };
        let targets = managed_service::targets(&managed_service::of_class(&world.services, &home.namespace, class));
        ProcessMode::Gateway(Arc::new(allocations.corrected_by(&targets, range, Timestamp::now())), tenancy.clone())
    }

    /// The problem if the only load balancer is missing.
    fn missing(&self) -> Option<String> {
        let only = self.scope.only.as_ref()?;
        let watch = self.watches.load_balancers.of(&Selector::named(only))?;
        let state = watch.state();
        let found = state.store.objects().get(only);
        let wanted = kinds::written(self.scope.placement);
        match found {
            Some(found) if self.scope.has(found) => None,
            Some(found) => Some(format!(
                "{KIND} {only} has placement {}, which is immutable: create a new one with `placement: {wanted}`",
                found.placement
            )),
            None if state.store.is_synced() => {
                Some(format!("there is no {KIND} {only}: create it, with `placement: {wanted}`"))
            }
            None => None,
        }
    }

    /// True if some load balancers have been read, with the Services and slices of their namespaces.
    fn knows_enough(&self) -> bool {
        let mut read = self
            .watches
            .load_balancers
            .iter()
            .filter(|(_, watch)| is_read(watch))
            .map(|(selector, _)| selector)
            .peekable();
        let of_namespace = |selector: &Selector| {
            // In a sidecar, the application's role lists the objects that its load balancer refers to.
            self.scope.only.is_some()
                || has_read(&self.watches.services, &selector.namespace)
                    && has_read(&self.watches.slices, &selector.namespace)
        };
        read.peek().is_some() && read.all(of_namespace) && self.watches.ports.iter().all(|(_, watch)| is_read(watch))
    }

    /// The watches that must be read before there is a world but are not.
    fn unread(&self) -> Vec<Unread> {
        let mut waiting = unread(&self.watches.load_balancers);
        waiting.extend(unread(&self.watches.services));
        waiting.extend(unread(&self.watches.slices));
        waiting.extend(unread(&self.watches.ports));
        // The administrator may have granted permissions in the selected namespaces only.
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
    declared: &OrdMap<ObjectKey, Declared>,
) -> impl Iterator<Item = (&ObjectKey, &crate::api::TcpLoadBalancerSpec)> {
    declared.iter().filter_map(|(key, declared)| Some((key, &**declared.spec.as_ref()?)))
}

fn uid(declared: &Declared) -> Option<&str> {
    declared.identity.as_ref().map(|identity| &*identity.uid)
}

/// True if all of these have been read or are refused by the API server.
fn all_read<'a, K: WatchedObject>(watches: &KindWatches<K>, selectors: impl IntoIterator<Item = &'a Selector>) -> bool {
    let is_read = |watch: &Watch<K>| {
        let state = watch.state();
        state.store.is_synced() || state.refused().is_some()
    };
    selectors.into_iter().all(|selector| watches.of(selector).is_some_and(is_read))
}

fn is_read<K: WatchedObject>(watch: &Watch<K>) -> bool {
    watch.state().store.is_synced()
}

/// True if all objects of a namespace, or of all namespaces, have been read.
fn has_read<K: WatchedObject>(watches: &KindWatches<K>, namespace: &Option<Arc<str>>) -> bool {
    watches
        .iter()
        .any(|(selector, watch)| selector.namespace == *namespace && selector.key().is_none() && is_read(watch))
}

/// True if the API server has answered for an object, with the object or an error.
fn is_read_or_broken<K: WatchedObject>(watches: &KindWatches<K>, key: &ObjectKey) -> bool {
    watches.of(&Selector::named(key)).is_some_and(|watch| {
        let state = watch.state();
        state.store.is_synced() || state.is_broken()
    })
}

/// The objects that have not been read, with the reason and what to do about it.
fn not_read<K: WatchedObject>(watches: &KindWatches<K>) -> impl Iterator<Item = ((&'static str, ObjectKey), Arc<str>)> {
    watches.iter().filter_map(|(selector, watch)| {
        let state = watch.state();
        let why = match (state.refused(), state.unread()?) {
            (Some(why), _) => why.to_owned(),
            (None, (why, _)) => format!("{why}; it is read as soon as the API server answers"),
        };
        Some(((K::KIND, selector.key()?), why.into()))
    })
}

/// A watch that has not been read completely.
struct Unread {
    what: String,
    why: String,
    /// The number of refusals by the API server.
    refusals: u32,
    is_of_api_server: bool,
}

impl Unread {
    fn is_refused_for_good(&self) -> bool {
        self.refusals >= watch_task::REPEATED_REFUSALS
    }
}

fn unread<K: WatchedObject>(watches: &KindWatches<K>) -> Vec<Unread> {
    let unread = watches.iter().filter_map(|(selector, watch)| {
        let state = watch.state();
        let (why, refusals) = state.unread()?;
        let (what, is_of_api_server) = (selector.of_kind(K::KIND), selector.is_of_api_server());
        Some(Unread { what, why: why.to_owned(), refusals, is_of_api_server })
    });
    unread.collect()
}
