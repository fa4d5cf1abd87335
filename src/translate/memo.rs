//! The memo: results of the previous translation, so that a change translates only the load balancers that it affects.
//!
//! Only results without problems, retained endpoints and fallbacks are kept, and none of load balancers that verify
//! certificates. A result is reused while its declaration, its [`Dependency`] list and the [`SharedDependencies`] are
//! the same, its certificates are valid, its ports are its own, and the previous snapshot contains it unchanged. All
//! other load balancers are translated every time.
//!
//! Declarations, Kubernetes objects and files are compared by pointer: sources must keep the allocation of an unchanged
//! object, and must never modify a shared one. A different pointer only costs a translation.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    path::PathBuf,
    sync::Arc,
};

use jiff::Timestamp;
use k8s_openapi::api::{
    core::v1::{ConfigMap, Secret, Service},
    discovery::v1::EndpointSlice,
};

use super::{
    backends::slices::Retention,
    context::{TranslateContext, address_policy::InternalAddresses, pods::SlicesByAddress},
    listeners::ports::ListenerRequest,
    load_balancer::TranslatedLoadBalancer,
    tls::certificates::{CertificateKey, CertificateLoader},
    verdict::{Verdict, Verdicts},
};
use crate::{
    api::{Host, RefKind, TcpLoadBalancerSpec},
    model::{Certificate, Listener, ListenerKey, ObjectKey, Snapshot, UpstreamConfig, UpstreamKey},
    world::{
        Declared, ListenerShare, Lookup, ObjectIdentity, ObjectRef, ProcessLocality, ProcessMode, World,
        backend_services,
    },
};

/// The results of the previous translation that can be reused. An empty one is always correct.
#[derive(Default)]
pub struct Memo {
    shared: SharedDependencies,
    results: BTreeMap<ObjectKey, KnownResult>,
    pub(super) slices_by_address: SlicesByAddress,
    /// The number of reused results so far.
    reused: usize,
}

/// The dependencies of all load balancers. A change of them invalidates all results.
#[derive(Default, PartialEq)]
struct SharedDependencies {
    /// Without the proxy ports, which are compared for each listener.
    mode: ProcessMode,
    internal: Option<Arc<InternalAddresses>>,
    /// True if the process serves connections.
    serves: bool,
    beyond_quota: BTreeSet<ObjectRef>,
    unreadable: BTreeMap<(&'static str, ObjectKey), Arc<str>>,
    unread: BTreeMap<(&'static str, ObjectKey), Arc<str>>,
}

impl SharedDependencies {
    fn of(context: &TranslateContext) -> Self {
        let World { mode, locality, beyond_quota, unreadable, unread, .. } = context.world;
        Self {
            mode: match mode {
                ProcessMode::Gateway(_, tenancy) => ProcessMode::Gateway(Arc::default(), tenancy.clone()),
                ProcessMode::Standalone | ProcessMode::Sidecar(_) | ProcessMode::Host(_) => mode.clone(),
            },
            internal: context.address_policy.internal().cloned(),
            serves: locality.is_some(),
            beyond_quota: beyond_quota.clone(),
            unreadable: unreadable.clone(),
            unread: unread.clone(),
        }
    }
}

/// The result of a load balancer without problems.
struct KnownResult {
    declaration: DeclarationVersion,
    dependencies: Vec<Dependency>,
    /// The time in which its certificates are valid.
    valid: RangeInclusive<Timestamp>,
    /// Listeners with the indices of their declarations.
    listeners: Vec<(ListenerKey, usize, Arc<Listener>)>,
    upstream: Arc<UpstreamConfig>,
    certificates: Vec<(CertificateKey, Arc<Certificate>)>,
}

/// The parts of a declaration that its result depends on.
struct DeclarationVersion {
    spec: ByPointer<TcpLoadBalancerSpec>,
    origin: Arc<str>,
    folder: PathBuf,
    identity: Option<ObjectIdentity>,
}

impl DeclarationVersion {
    fn is_of(&self, declared: &Declared) -> bool {
        let Declared { spec, problems, origin, folder, identity, status: _ } = declared;
        problems.is_empty()
            && spec.as_ref().is_some_and(|spec| Arc::ptr_eq(spec, &self.spec.0))
            && (*origin == self.origin && *folder == self.folder && *identity == self.identity)
    }
}

/// Something that the translation of a load balancer depends on, apart from its declaration.
#[derive(PartialEq)]
enum Dependency {
    Share(Option<ListenerShare>),
    /// The locality of this process, and true if no endpoint is in its zone.
    Locality(ProcessLocality, bool),
    Service(Option<ByPointer<Service>>),
    Slice(ByPointer<EndpointSlice>),
    Secret(Option<ByPointer<Secret>>),
    ConfigMap(Option<ByPointer<ConfigMap>>),
    File(Option<Result<ByPointer<[u8]>, Arc<str>>>),
    Name(Option<Lookup>),
}

/// A shared value, compared by pointer.
struct ByPointer<T: ?Sized>(Arc<T>);

impl<T: ?Sized> ByPointer<T> {
    fn of(value: &Arc<T>) -> Self {
        Self(value.clone())
    }
}

impl<T: ?Sized> PartialEq for ByPointer<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// Everything that the translation of a load balancer depends on, apart from its declaration and the shared
/// dependencies.
fn dependencies<'a>(
    object: &'a ObjectKey,
    declared: &'a Declared,
    spec: &'a TcpLoadBalancerSpec,
    context: &'a TranslateContext,
) -> impl Iterator<Item = Dependency> + 'a {
    let world = context.world;
    let share = Dependency::Share(context.quotas.share(object));
    let locality = || Dependency::Locality(context.here().clone(), context.all_are_elsewhere());
    let locality = spec.load_balancing.as_ref().and_then(|balancing| balancing.locality.as_ref()).map(|_| locality());
    let of_services = backend_services(object, spec).flat_map(|key| {
        let slices = context.slices.of_service(&key).iter().map(|(_, slice)| Dependency::Slice(ByPointer::of(slice)));
        [Dependency::Service(world.services.get(&key).map(ByPointer::of))].into_iter().chain(slices)
    });
    let of_references = ObjectRef::all_by(object, spec).map(|ObjectRef { kind, key }| match kind {
        RefKind::Secret => Dependency::Secret(world.secrets.get(&key).map(ByPointer::of)),
        RefKind::ConfigMap => Dependency::ConfigMap(world.config_maps.get(&key).map(ByPointer::of)),
    });
    let of_files = spec.files().map(|file| {
        let content = world.files.get(&declared.path_of(file));
        Dependency::File(content.map(|content| content.as_ref().map(ByPointer::of).map_err(Arc::clone)))
    });
    let addresses = spec.backends.iter().flat_map(|backend| backend.addresses.iter().flatten());
    let of_names = addresses.filter_map(|address| match &address.host {
        Host::Name(name) => Some(Dependency::Name(world.names.get(name.as_str()).cloned())),
        Host::Ip(_) => None,
    });
    [share].into_iter().chain(locality).chain(of_services).chain(of_references).chain(of_files).chain(of_names)
}

/// True if certificates of clients or backends are verified. Revocation lists expire, which the dependencies do not
/// cover.
fn verifies_certificates(spec: &TcpLoadBalancerSpec) -> bool {
    spec.backends.iter().any(|backend| backend.tls.is_some())
        || spec.listeners.iter().filter_map(|listener| listener.tls.as_ref()).any(|tls| tls.client_validation.is_some())
}

impl Memo {
    #[cfg(test)]
    pub fn reused(&self) -> usize {
        self.reused
    }

    /// Prepares for a translation: drops all results if dependencies of all load balancers have changed, and those of
    /// load balancers that are no longer declared.
    pub(super) fn begin(&mut self, context: &TranslateContext) {
        let shared = SharedDependencies::of(context);
        if shared != self.shared {
            (self.shared, self.results) = (shared, BTreeMap::new());
        }
        self.results.retain(|object, _| context.world.load_balancers.contains_key(object));
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
        if !known.is_current(object, declared, context) {
            self.results.remove(object);
            return None;
        }
        self.reused += 1;
        let loaded = known.certificates.iter().map(|(key, certificate)| (key.clone(), Ok(certificate.clone())));
        certificates.cache.certificates.extend(loaded);
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

    /// Keeps a new result, if it is complete and settled: the snapshot has it as it was translated.
    pub(super) fn keep(&mut self, new: NewResult, snapshot: &Snapshot, verdicts: &Verdicts) {
        let NewResult { object, result } = new;
        if verdicts[&object].problems.is_empty() && result.is_in(snapshot, &object) {
            self.results.insert(object, result);
        }
    }
}

impl KnownResult {
    /// True if a translation would have this result again.
    fn is_current(&self, object: &ObjectKey, declared: &Declared, context: &TranslateContext) -> bool {
        let Some(spec) = &declared.spec else { return false };
        let TranslateContext { previous, bindings, now, .. } = context;
        self.declaration.is_of(declared)
            && self.valid.contains(now)
            && self.listeners.iter().all(|(key, _, listener)| bindings.allow(key, declared.uid(), listener))
            && self.is_in(previous, object)
            && self.has_dependencies(dependencies(object, declared, spec, context))
    }

    /// True if the snapshot has the listeners and the upstream of this result.
    fn is_in(&self, snapshot: &Snapshot, object: &ObjectKey) -> bool {
        let is_served = |(key, _, listener): &(ListenerKey, usize, Arc<Listener>)| {
            snapshot.listeners.get(key).is_some_and(|served| Arc::ptr_eq(served, listener))
        };
        let upstream = snapshot.upstreams.get(&UpstreamKey { object: object.clone() });
        self.listeners.iter().all(is_served) && upstream.is_some_and(|served| Arc::ptr_eq(served, &self.upstream))
    }

    fn has_dependencies(&self, mut dependencies: impl Iterator<Item = Dependency>) -> bool {
        self.dependencies.iter().all(|known| dependencies.next().is_some_and(|dependency| dependency == *known))
            && dependencies.next().is_none()
    }
}

/// A result that may be reused once the translation of all load balancers confirms it.
pub(super) struct NewResult {
    object: ObjectKey,
    result: KnownResult,
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
        let is_settled = verdict.problems.is_empty() && *retention == Retention::default();
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
            declaration: DeclarationVersion {
                spec: ByPointer::of(spec),
                origin: declared.origin.clone(),
                folder: declared.folder.clone(),
                identity: declared.identity.clone(),
            },
            dependencies: dependencies(object, declared, spec, context).collect(),
            valid: since.unwrap_or(Timestamp::MIN)..=until.unwrap_or(Timestamp::MAX),
            listeners: listeners.iter().map(declared_listener).collect::<Option<_>>()?,
            upstream: upstream.clone()?,
            certificates,
        };
        Some(Self { object: object.clone(), result })
    }
}
