//! The memo: the input and the results of the previous translation, so that a change translates only the load balancers
//! that it affects.
//!
//! Only results without problems and fallbacks are kept, and none of load balancers that verify certificates. All other
//! load balancers are translated every time. Results with retained endpoints are kept until the first of them expires,
//! or an EndpointSlice changes that lists one of their addresses. The difference between two worlds determines which
//! results are outdated. Worlds are compared by pointer first: sources must keep the allocation of an unchanged object,
//! and must never modify a shared one. A different pointer only costs time.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    ops::{Range, RangeInclusive},
    path::PathBuf,
    sync::Arc,
};

use imbl::OrdMap;
use jiff::Timestamp;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::{
    backends::slices::Retention,
    context::{
        LocalityView, SharedLimits, TranslateContext,
        address_policy::{api_server, has_same_addresses},
        endpoint_slices::{SlicesByService, service_key},
        pods::{SlicesByAddress, addresses},
    },
    listeners::ports::ListenerRequest,
    load_balancer::TranslatedLoadBalancer,
    placements::Placements,
    tls::certificates::{CertificateKey, CertificateLoader},
    verdict::{Verdict, Verdicts},
};
use crate::{
    api::{Host, RefKind, TcpLoadBalancerSpec},
    model::{
        Certificate, EndpointKey, Listener, ListenerKey, ObjectKey, RetainedUntil, Snapshot, UpstreamConfig,
        UpstreamKey,
    },
    shared::changes,
    world::{Declared, ListenerShare, ObjectRef, ProcessMode, Tenancy, World, backend_services},
};

/// The results of the previous translation that can be reused. An empty one is always correct.
#[derive(Default)]
pub struct Memo {
    /// The world of the previous translation.
    world: World,
    results: BTreeMap<ObjectKey, KnownResult>,
    /// The load balancers with a result that depends on something.
    dependents: HashMap<Dependency, BTreeSet<ObjectKey>>,
    /// The load balancers with a result that has retained endpoints.
    retaining: BTreeMap<ObjectKey, KnownRetention>,
    /// `None`: before the first translation.
    last: Option<LastTranslation>,
    pub(super) placements: Placements,
    /// The indices of the load balancers that are only validated. None of their results is reused.
    sidecars: Option<Box<Memo>>,
    pub(super) slices: SlicesByService,
    pub(super) slices_by_address: SlicesByAddress,
    /// The number of reused results so far.
    #[cfg(test)]
    reused: usize,
    /// The number of translations of some load balancers so far.
    #[cfg(test)]
    partial: usize,
}

/// The circumstances of the previous translation, and what it resulted in.
struct LastTranslation {
    limits: Arc<SharedLimits>,
    locality: Option<LocalityView>,
    /// The addresses of all listeners.
    binds: Arc<HashSet<SocketAddr>>,
    /// A period in which all results are valid.
    valid: RangeInclusive<Timestamp>,
    /// The number of cached results about certificates after the last translation of all load balancers.
    cached: usize,
    /// Load balancers without a result.
    without_result: BTreeSet<ObjectKey>,
    listeners: OrdMap<ListenerKey, Arc<Listener>>,
    upstreams: OrdMap<UpstreamKey, Arc<UpstreamConfig>>,
    retained_until: RetainedUntil,
    verdicts: Verdicts,
}

/// The part of a translation that stays as it is while a change affects only some load balancers.
pub(super) struct Baseline {
    pub affected: BTreeSet<ObjectKey>,
    pub limits: Arc<SharedLimits>,
    pub locality: Option<LocalityView>,
    pub binds: Arc<HashSet<SocketAddr>>,
    pub verdicts: Verdicts,
}

/// The result of a load balancer without problems.
struct KnownResult {
    dependencies: Vec<Dependency>,
    share: Option<ListenerShare>,
    /// The period in which its certificates are valid.
    valid: RangeInclusive<Timestamp>,
    /// Listeners with the indices of their declarations.
    listeners: Vec<(ListenerKey, usize, Arc<Listener>)>,
    upstream: Arc<UpstreamConfig>,
    certificates: Vec<(CertificateKey, Arc<Certificate>)>,
}

/// The retained endpoints of a result.
struct KnownRetention {
    /// The period in which all of them stay.
    valid: Range<Timestamp>,
    addresses: HashSet<IpAddr>,
}

/// Something in the world that the translation of a load balancer depends on, apart from its declaration.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Dependency {
    /// The Service and its EndpointSlices.
    Service(ObjectKey),
    Object(RefKind, ObjectKey),
    File(PathBuf),
    Name(Arc<str>),
    /// The locality of this process in relation to all endpoints.
    Locality,
}

/// The dependencies of a load balancer.
fn dependencies(object: &ObjectKey, declared: &Declared, spec: &TcpLoadBalancerSpec) -> Vec<Dependency> {
    let services = backend_services(object, spec).map(Dependency::Service);
    let references = ObjectRef::all_by(object, spec).map(|ObjectRef { kind, key }| Dependency::Object(kind, key));
    let files = spec.files().map(|file| Dependency::File(declared.path_of(file)));
    let addresses = spec.backends.iter().flat_map(|backend| backend.addresses.iter().flatten());
    let names = addresses.filter_map(|address| match &address.host {
        Host::Name(name) => Some(Dependency::Name(name.as_str().into())),
        Host::Ip(_) => None,
    });
    let locality = spec.load_balancing.as_ref().and_then(|balancing| balancing.locality.as_ref());
    let locality = locality.map(|_| Dependency::Locality);
    services.chain(references).chain(files).chain(names).chain(locality).collect()
}

/// True if certificates of clients or backends are verified. Revocation lists expire, which the validity of results
/// does not cover.
fn verifies_certificates(spec: &TcpLoadBalancerSpec) -> bool {
    spec.backends.iter().any(|backend| backend.tls.is_some())
        || spec.listeners.iter().filter_map(|listener| listener.tls.as_ref()).any(|tls| tls.client_validation.is_some())
}

/// True if two declarations translate in the same way. Statuses do not count.
fn is_same_declaration(before: &Declared, now: &Declared) -> bool {
    let Declared { spec, problems, without_value, origin, folder, identity, status: _ } = before;
    *spec == now.spec
        && (*problems == now.problems && *without_value == now.without_value)
        && (*origin == now.origin && *folder == now.folder && *identity == now.identity)
}

/// The mode without the allocated ports, which are compared for each listener.
fn rules(mode: &ProcessMode) -> ProcessMode {
    match mode {
        ProcessMode::Gateway(_, tenancy) => ProcessMode::Gateway(Arc::default(), tenancy.clone()),
        ProcessMode::Standalone | ProcessMode::Sidecar(_) | ProcessMode::Host(_) => mode.clone(),
    }
}

/// True if everything is the same that concerns all load balancers, apart from [`SharedLimits`].
fn has_same_circumstances(before: &World, now: &World) -> bool {
    rules(&before.mode) == rules(&now.mode)
        && before.locality.is_some() == now.locality.is_some()
        && before.beyond_quota == now.beyond_quota
        && before.unreadable == now.unreadable
        && before.unread == now.unread
}

impl Memo {
    /// The memo of the load balancers that are only validated.
    pub(super) fn of_sidecars(&mut self) -> &mut Self {
        self.sidecars.get_or_insert_default()
    }

    /// The verdicts of the previous translation.
    pub(super) fn verdicts(&self) -> Verdicts {
        self.last.as_ref().map_or_else(Verdicts::new, |last| last.verdicts.clone())
    }

    #[cfg(test)]
    pub fn reused(&self) -> usize {
        self.reused
    }

    #[cfg(test)]
    pub fn partial(&self) -> usize {
        self.partial
    }

    /// The part of the previous translation that applies to this world, with the load balancers that have to be
    /// translated. `None`: all have to be considered.
    pub(super) fn baseline(&self, world: &World, previous: &Snapshot, now: Timestamp) -> Option<Baseline> {
        let last = self.last.as_ref()?;
        let is_last = previous.listeners.ptr_eq(&last.listeners)
            && previous.upstreams.ptr_eq(&last.upstreams)
            && previous.retained_until.ptr_eq(&last.retained_until);
        // A translation of some load balancers does not know which cached results the others need.
        let of_sidecars = self.sidecars.iter().filter_map(|memo| memo.last.as_ref()).map(|last| last.cached);
        let needed = last.cached + of_sidecars.sum::<usize>();
        let has_old_certificates = previous.certificate_cache.len() > 2 * needed + 64;
        if !is_last || has_old_certificates || !last.valid.contains(&now) || !self.has_same_limits(world) {
            return None;
        }
        let mut affected = self.outdated(world);
        affected.extend(last.without_result.iter().cloned());
        affected.extend(self.outdated_retentions(world, now));
        Some(Baseline {
            affected,
            limits: last.limits.clone(),
            locality: last.locality.clone(),
            binds: last.binds.clone(),
            verdicts: last.verdicts.clone(),
        })
    }

    /// True if the world certainly leads to the same [`SharedLimits`] as before, and the same load balancers are
    /// declared.
    fn has_same_limits(&self, world: &World) -> bool {
        let before = &self.world;
        if !has_same_circumstances(before, world) || before.mode != world.mode || before.locality != world.locality {
            return false;
        }
        let tenancy = world.mode.tenancy();
        // Quotas and the owners of ports depend on all specs.
        let may_differ = tenancy.is_none();
        let is_same = |before: Option<&Declared>, now: Option<&Declared>| {
            before.zip(now).is_some_and(|(before, now)| may_differ || is_same_declaration(before, now))
        };
        let mut declared = changes(&before.load_balancers, &world.load_balancers);
        if !declared.all(|(_, before, now)| is_same(before, now)) {
            return false;
        }
        let Some(tenancy) = tenancy else { return true };
        let mut services = changes(&before.services, &world.services);
        let mut slices = changes(&before.endpoint_slices, &world.endpoint_slices);
        services.all(|(_, before, now)| before.zip(now).is_some_and(|(before, now)| has_same_addresses(before, now)))
            && slices.all(|(key, before, now)| !before.into_iter().chain(now).any(|it| is_internal(tenancy, key, it)))
    }

    /// The load balancers whose declarations or dependencies have changed.
    fn outdated(&self, world: &World) -> BTreeSet<ObjectKey> {
        let before = &self.world;
        let declared = changes(&before.load_balancers, &world.load_balancers)
            .filter(|(_, before, now)| !before.zip(*now).is_some_and(|(before, now)| is_same_declaration(before, now)));
        let mut outdated: BTreeSet<_> = declared.map(|(object, ..)| object.clone()).collect();
        let mut add = |dependency: Dependency| {
            outdated.extend(self.dependents.get(&dependency).into_iter().flatten().cloned());
        };
        for (key, ..) in changes(&before.services, &world.services) {
            add(Dependency::Service(key.clone()));
        }
        for (key, before, now) in changes(&before.endpoint_slices, &world.endpoint_slices) {
            let services = before.into_iter().chain(now).filter_map(|slice| service_key(key, slice));
            services.map(Dependency::Service).for_each(&mut add);
        }
        for (key, ..) in changes(&before.secrets, &world.secrets) {
            add(Dependency::Object(RefKind::Secret, key.clone()));
        }
        for (key, ..) in changes(&before.config_maps, &world.config_maps) {
            add(Dependency::Object(RefKind::ConfigMap, key.clone()));
        }
        for (path, ..) in changes(&before.files, &world.files) {
            add(Dependency::File(path.clone()));
        }
        for (name, ..) in changes(&before.names, &world.names) {
            add(Dependency::Name(name.clone()));
        }
        outdated
    }

    /// The load balancers with retained endpoints that may have expired, or whose addresses other pods may have now.
    fn outdated_retentions(&self, world: &World, now: Timestamp) -> Vec<ObjectKey> {
        if self.retaining.is_empty() {
            return Vec::new();
        }
        // They determine which slices are trusted.
        let has_same_services = changes(&self.world.services, &world.services).next().is_none();
        let slices = changes(&self.world.endpoint_slices, &world.endpoint_slices);
        let slices = slices.flat_map(|(_, before, now)| before.into_iter().chain(now));
        let listed: HashSet<IpAddr> = slices.flat_map(|slice| addresses(slice)).collect();
        let stays = |KnownRetention { valid, addresses }: &KnownRetention| {
            has_same_services && valid.contains(&now) && addresses.is_disjoint(&listed)
        };
        let outdated = self.retaining.iter().filter(|(_, retention)| !stays(retention));
        outdated.map(|(object, _)| object.clone()).collect()
    }

    /// Prepares for a translation of all load balancers: drops the results that are outdated.
    pub(super) fn begin(&mut self, world: &World, limits: &SharedLimits) {
        let internal = limits.address_policy.internal();
        let is_same = self.last.as_ref().is_some_and(|last| last.limits.address_policy.internal() == internal);
        if is_same && has_same_circumstances(&self.world, world) {
            self.outdated(world).iter().for_each(|object| self.forget(object));
        } else {
            (self.results, self.dependents, self.retaining) = Default::default();
        }
    }

    /// Drops the results that depend on the locality of this process, if it has changed.
    pub(super) fn follow_locality(&mut self, context: &TranslateContext) {
        let Some(dependents) = self.dependents.get(&Dependency::Locality) else { return };
        if self.last.as_ref().is_none_or(|last| last.locality.as_ref() != Some(&context.locality_view())) {
            dependents.clone().iter().for_each(|object| self.forget(object));
        }
    }

    /// The view of the locality on which results depend. `None`: none does.
    pub(super) fn locality_view(&self, context: &TranslateContext) -> Option<LocalityView> {
        self.dependents.contains_key(&Dependency::Locality).then(|| context.locality_view())
    }

    pub(super) fn forget(&mut self, object: &ObjectKey) {
        let Some(known) = self.results.remove(object) else { return };
        self.retaining.remove(object);
        for dependency in known.dependencies {
            let Some(dependents) = self.dependents.get_mut(&dependency) else { continue };
            dependents.remove(object);
            if dependents.is_empty() {
                self.dependents.remove(&dependency);
            }
        }
    }

    /// The known result of a load balancer; `None`: it must be translated.
    pub(super) fn recall(
        &mut self,
        object: &ObjectKey,
        declared: &Declared,
        context: &TranslateContext,
        certificates: &mut CertificateLoader,
    ) -> Option<(TranslatedLoadBalancer, Verdict)> {
        let known = self.results.get(object)?;
        if self.retaining.contains_key(object) || !known.is_current(object, declared, context) {
            self.forget(object);
            return None;
        }
        #[cfg(test)]
        {
            self.reused += 1;
        }
        for (key, certificate) in &known.certificates {
            certificates.cache.certificates.insert(key.clone(), Ok(certificate.clone()));
        }
        let request = |(key, index, listener): &(ListenerKey, usize, Arc<Listener>)| {
            let (listener, before) = (listener.clone(), Some(listener.clone()));
            (key.clone(), ListenerRequest::Declared { listener, index: *index, before })
        };
        let translated = TranslatedLoadBalancer {
            listeners: known.listeners.iter().map(request).collect(),
            upstream: Some(known.upstream.clone()),
            retention: Retention::default(),
        };
        let verdict =
            Verdict { origin: declared.origin.clone(), identity: declared.identity.clone(), problems: Vec::new() };
        Some((translated, verdict))
    }

    /// Keeps the results of translated load balancers that are complete and settled: the snapshot has them as they were
    /// translated, and another translation would retain the same endpoints.
    pub(super) fn keep(
        &mut self,
        new: Vec<NewResult>,
        previous: &Snapshot,
        (snapshot, verdicts): (&Snapshot, &Verdicts),
    ) {
        for NewResult { object, result, expirations, now } in new {
            if !verdicts[&object].problems.is_empty() || !result.is_in(snapshot, &object) {
                continue;
            }
            if let Some(retention) = KnownRetention::of(&expirations, now) {
                let key = UpstreamKey { object: object.clone() };
                let is_recorded = snapshot.retained_until.get(&key).is_some_and(|recorded| **recorded == expirations);
                let before = previous.upstreams.get(&key);
                if !is_recorded || !before.is_some_and(|before| result.has_same_backends(before, &expirations)) {
                    continue;
                }
                self.retaining.insert(object.clone(), retention);
            }
            for dependency in &result.dependencies {
                self.dependents.entry(dependency.clone()).or_default().insert(object.clone());
            }
            self.results.insert(object, result);
        }
    }

    /// Completes a translation of all load balancers.
    pub(super) fn finish(
        &mut self,
        context: &TranslateContext,
        limits: Arc<SharedLimits>,
        made: (&Snapshot, &Verdicts),
    ) {
        let (snapshot, verdicts) = made;
        let since = self.results.values().map(|known| *known.valid.start()).max();
        let until = self.results.values().map(|known| *known.valid.end()).min();
        let objects = context.world.load_balancers.keys();
        self.last = Some(LastTranslation {
            limits,
            locality: self.locality_view(context),
            binds: Arc::new(snapshot.listeners.values().map(|listener| listener.bind).collect()),
            valid: since.unwrap_or(Timestamp::MIN)..=until.unwrap_or(Timestamp::MAX),
            cached: snapshot.certificate_cache.len(),
            without_result: objects.filter(|object| !self.results.contains_key(object)).cloned().collect(),
            listeners: snapshot.listeners.clone(),
            upstreams: snapshot.upstreams.clone(),
            retained_until: snapshot.retained_until.clone(),
            verdicts: verdicts.clone(),
        });
        self.world = context.world.clone();
    }

    /// Completes a translation of some load balancers.
    pub(super) fn finish_affected(
        &mut self,
        context: &TranslateContext,
        affected: &BTreeSet<ObjectKey>,
        made: (&Snapshot, &Verdicts),
    ) {
        #[cfg(test)]
        {
            self.reused += context.world.load_balancers.len() - affected.len();
            self.partial += 1;
        }
        let locality = self.locality_view(context);
        let Some(last) = &mut self.last else { return };
        for object in affected {
            let Some(known) = self.results.get(object) else {
                last.without_result.insert(object.clone());
                continue;
            };
            last.without_result.remove(object);
            let (since, until) = (last.valid.start().max(known.valid.start()), last.valid.end().min(known.valid.end()));
            last.valid = *since..=*until;
        }
        last.locality = locality;
        let (snapshot, verdicts) = made;
        (last.listeners, last.upstreams) = (snapshot.listeners.clone(), snapshot.upstreams.clone());
        last.retained_until = snapshot.retained_until.clone();
        last.verdicts = verdicts.clone();
        self.world = context.world.clone();
    }
}

/// True if a slice may list the pods of the proxies or the API server.
fn is_internal(tenancy: &Tenancy, key: &ObjectKey, slice: &EndpointSlice) -> bool {
    let of_replicas = || service_key(key, slice).is_some_and(|service| tenancy.replicas.as_ref() == Some(&service));
    *key == api_server() || of_replicas()
}

impl KnownResult {
    /// True if a translation would have this result again, while its declaration and its dependencies are the same.
    fn is_current(&self, object: &ObjectKey, declared: &Declared, context: &TranslateContext) -> bool {
        let TranslateContext { previous, bindings, quotas, now, .. } = context;
        self.share == quotas.share(object)
            && self.valid.contains(now)
            && self.listeners.iter().all(|(key, _, listener)| bindings.allow(key, declared.uid(), listener))
            && self.is_in(previous, object)
    }

    /// True if the snapshot has the listeners and the upstream of this result.
    fn is_in(&self, snapshot: &Snapshot, object: &ObjectKey) -> bool {
        let is_served = |(key, _, listener): &(ListenerKey, usize, Arc<Listener>)| {
            snapshot.listeners.get(key).is_some_and(|served| Arc::ptr_eq(served, listener))
        };
        let upstream = snapshot.upstreams.get(&UpstreamKey { object: object.clone() });
        self.listeners.iter().all(is_served) && upstream.is_some_and(|served| Arc::ptr_eq(served, &self.upstream))
    }

    /// True if the backends of retained endpoints are those of the previous upstream, on which the retention depends.
    fn has_same_backends(&self, before: &UpstreamConfig, retained: &BTreeMap<EndpointKey, Timestamp>) -> bool {
        let is_same = |name: &Arc<str>| before.backends.get(name) == self.upstream.backends.get(name);
        retained.keys().all(|endpoint| is_same(&endpoint.backend))
    }
}

/// A result that may be reused once the translation of all load balancers confirms it.
pub(super) struct NewResult {
    object: ObjectKey,
    result: KnownResult,
    /// The expirations of its retained endpoints.
    expirations: BTreeMap<EndpointKey, Timestamp>,
    /// The time of the translation.
    now: Timestamp,
}

impl NewResult {
    /// `None`: the result cannot be reused.
    pub fn of(
        object: &ObjectKey,
        declared: &Declared,
        context: &TranslateContext,
        (translated, verdict): &(TranslatedLoadBalancer, Verdict),
        certificates: &CertificateLoader,
    ) -> Option<Self> {
        let spec = declared.spec.as_ref()?;
        let TranslatedLoadBalancer { listeners, upstream, retention } = translated;
        let is_settled = verdict.problems.is_empty() && retention.report_due.is_none();
        if !is_settled || !declared.problems.is_empty() || verifies_certificates(spec) {
            return None;
        }
        let declared_listener = |(key, request): (&ListenerKey, &ListenerRequest)| match request {
            ListenerRequest::Declared { listener, index, .. } => Some((key.clone(), *index, listener.clone())),
            ListenerRequest::LastGood(_) => None,
        };
        let used = certificates.used.iter().map(|key| {
            let certificate = certificates.cache.certificates.get(key)?.as_ref().ok()?;
            Some((key.clone(), certificate.clone()))
        });
        let certificates: Vec<_> = used.collect::<Option<_>>()?;
        let since = certificates.iter().map(|(_, certificate)| certificate.not_before).max();
        let until = certificates.iter().map(|(_, certificate)| certificate.not_after).min();
        let result = KnownResult {
            dependencies: dependencies(object, declared, spec),
            share: context.quotas.share(object),
            valid: since.unwrap_or(Timestamp::MIN)..=until.unwrap_or(Timestamp::MAX),
            listeners: listeners.iter().map(declared_listener).collect::<Option<_>>()?,
            upstream: upstream.clone()?,
            certificates,
        };
        Some(Self { object: object.clone(), result, expirations: retention.expirations.clone(), now: context.now })
    }
}

impl KnownRetention {
    /// `None`: no endpoints are retained.
    fn of(expirations: &BTreeMap<EndpointKey, Timestamp>, now: Timestamp) -> Option<Self> {
        let until = expirations.values().min()?;
        let addresses = expirations.keys().map(|endpoint| endpoint.address.ip().to_canonical());
        Some(Self { valid: now..*until, addresses: addresses.collect() })
    }
}
