//! The mode of each load balancer: standalone or a cluster.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::templates::TEMPLATE;
use crate::{
    api::{Placement, RefKind, TcpLoadBalancerSpec},
    cli::CheckMode,
    model::ObjectKey,
    translate::{Part, Problem, Reason, selects_pods},
    world::{Allocations, Declared, ObjectRef, ProcessMode, Quotas, Tenancy, World, backend_services, service_of},
};

/// The mode in which a load balancer will be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Standalone,
    Cluster,
}

/// Load balancers that are compiled together, because they may use the same ports.
pub struct CompilationUnit {
    pub mode: Mode,
    pub world: World,
    /// See [`awaiting_pods`].
    awaiting_pods: BTreeSet<ObjectKey>,
}

impl CompilationUnit {
    /// True if the problem is only that Kubernetes has not yet selected the pods of a Service.
    pub fn is_awaited(&self, object: &ObjectKey, problem: &Problem) -> bool {
        let service = || {
            let Part::Backend(index) = problem.part else { return None };
            let spec = self.world.load_balancers.get(object)?.spec.as_ref()?;
            spec.backends.get(index)?.service.as_ref()
        };
        problem.reason == Reason::EndpointsPending
            && service().is_some_and(|service| self.awaiting_pods.contains(&object.sibling(&service.name.0)))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum UnitKey<'a> {
    /// In one process. `Some`: the process for this namespace, as far as known.
    Standalone(Option<&'a str>),
    Gateway,
    Host,
}

/// The meaning of a referenced object of a cluster that is not in the world.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    /// The object was looked up. It does not exist, unless [`World::unread`] contains it.
    Missing,
    Unknown,
}

/// The cluster for which load balancers are checked, as far as it is known.
pub struct TargetCluster {
    /// The meaning of objects that are not in the world.
    pub absent: Absent,
    /// See [`awaiting_pods`].
    pub awaiting_pods: BTreeSet<ObjectKey>,
    pub tenancy: Arc<Tenancy>,
}

/// The load balancers of a world, by placement.
pub fn parts(world: &World, mode: CheckMode, cluster: &TargetCluster) -> Vec<CompilationUnit> {
    let modes = world.load_balancers.iter().map(|(object, declared)| {
        let mode = match mode {
            CheckMode::Standalone => Mode::Standalone,
            CheckMode::Cluster => Mode::Cluster,
            CheckMode::Auto => probable_mode(object, declared, world),
        };
        (object, declared, mode)
    });
    let one_process = mode == CheckMode::Standalone
        || world.load_balancers.values().filter_map(|declared| declared.spec.as_deref()).any(is_standalone);
    let mut members: BTreeMap<UnitKey, BTreeSet<ObjectKey>> = BTreeMap::new();
    for (object, declared, mode) in modes {
        let place = match mode {
            Mode::Standalone => UnitKey::Standalone((!one_process).then_some(&*object.namespace)),
            Mode::Cluster => place_in_cluster(declared),
        };
        members.entry(place).or_default().insert(object.clone());
    }
    let part = |(place, members): (&UnitKey, &BTreeSet<ObjectKey>)| {
        let mut world = world.clone();
        world.load_balancers =
            world.load_balancers.into_iter().filter(|(object, _)| members.contains(object)).collect();
        part(*place, world, cluster)
    };
    members.iter().map(part).collect()
}

/// The Services in the files that select pods but have no EndpointSlices. Kubernetes creates the slices after they are
/// applied.
pub fn awaiting_pods(world: &World) -> BTreeSet<ObjectKey> {
    let slices = world.endpoint_slices.iter();
    let with_slices: BTreeSet<(&str, &str)> =
        slices.filter_map(|(key, slice)| Some((&*key.namespace, service_of(slice)?))).collect();
    let has_slices = |service: &ObjectKey| with_slices.contains(&(&*service.namespace, &*service.name));
    let services = world.services.iter().filter(|(key, service)| selects_pods(service) && !has_slices(key));
    services.map(|(key, _)| key.clone()).collect()
}

fn place_in_cluster(declared: &Declared) -> UnitKey<'static> {
    match declared.spec.as_ref().and_then(|spec| spec.placement).unwrap_or_default() {
        Placement::Host => UnitKey::Host,
        // The gateway also validates the load balancers of sidecars.
        Placement::Gateway | Placement::Sidecar => UnitKey::Gateway,
    }
}

fn part(place: UnitKey, mut world: World, cluster: &TargetCluster) -> CompilationUnit {
    let mode = match place {
        UnitKey::Standalone(_) => Mode::Standalone,
        UnitKey::Gateway | UnitKey::Host => Mode::Cluster,
    };
    world.mode = match place {
        UnitKey::Standalone(_) => ProcessMode::Standalone,
        UnitKey::Gateway => ProcessMode::Gateway(Arc::new(Allocations::default()), cluster.tenancy.clone()),
        UnitKey::Host => ProcessMode::Host(cluster.tenancy.clone()),
    };
    match mode {
        Mode::Standalone => {
            // No tool completes them before they are served.
            let templates = std::mem::take(&mut world.unread);
            world.unreadable.extend(templates.into_keys().map(|template| (template, TEMPLATE.into())));
        }
        Mode::Cluster => {
            if cluster.absent == Absent::Unknown {
                note_unread(&mut world, &cluster.awaiting_pods);
            }
            note_beyond_quota(&mut world, &cluster.tenancy);
        }
    }
    CompilationUnit { mode, world, awaiting_pods: cluster.awaiting_pods.clone() }
}

/// True if only `tcplb standalone` can serve it.
fn is_standalone(spec: &TcpLoadBalancerSpec) -> bool {
    spec.files().next().is_some() || spec.listeners.iter().any(|listener| listener.address.is_some())
}

fn probable_mode(object: &ObjectKey, declared: &Declared, world: &World) -> Mode {
    let Some(spec) = &declared.spec else { return Mode::Standalone };
    let has_fields_of_a_cluster = spec.class_name.is_some()
        || spec.placement.is_some()
        || spec.service.is_some()
        || spec.listeners.iter().any(|listener| listener.node_port.is_some());
    let is_complete = || missing(object, spec, world).next().is_none();
    if is_standalone(spec) || !has_fields_of_a_cluster && is_complete() { Mode::Standalone } else { Mode::Cluster }
}

/// A referenced object that the world does not contain.
pub enum Missing {
    Service(ObjectKey),
    /// All EndpointSlices of this Service, which exists.
    EndpointSlices(ObjectKey),
    Object(ObjectRef),
}

/// The references of a load balancer that the world does not contain.
pub fn missing(object: &ObjectKey, spec: &TcpLoadBalancerSpec, world: &World) -> impl Iterator<Item = Missing> {
    let services = backend_services(object, spec).filter_map(|key| {
        if is_unreadable("Service", &key, world) {
            return None;
        }
        let Some(service) = world.services.get(&key) else { return Some(Missing::Service(key)) };
        let is_name = service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some("ExternalName");
        (!is_name && world.slices_of(&key).next().is_none()).then_some(Missing::EndpointSlices(key))
    });
    let references = ObjectRef::all_by(object, spec).filter(|referred| {
        let is_there = match referred.kind {
            RefKind::ConfigMap => world.config_maps.contains_key(&referred.key),
            RefKind::Secret => world.secrets.contains_key(&referred.key),
        };
        !is_there && !is_unreadable(referred.kind.name(), &referred.key, world)
    });
    services.chain(references.map(Missing::Object))
}

fn is_unreadable(kind: &'static str, key: &ObjectKey, world: &World) -> bool {
    world.unreadable.contains_key(&(kind, key.clone()))
}

/// Marks the objects that the files do not contain as unread.
fn note_unread(world: &mut World, awaiting_pods: &BTreeSet<ObjectKey>) {
    let mut unread = std::mem::take(&mut world.unread);
    for (object, declared) in &world.load_balancers {
        let Some(spec) = &declared.spec else { continue };
        for missing in missing(object, spec, world) {
            let (kind, key, what) = match missing {
                Missing::Service(key) => ("Service", key.clone(), format!("Service {key} is")),
                Missing::EndpointSlices(key) if awaiting_pods.contains(&key) => continue,
                Missing::EndpointSlices(key) => {
                    ("EndpointSlice", key.clone(), format!("the endpoints of Service {key} are"))
                }
                Missing::Object(referred) => (referred.kind.name(), referred.key.clone(), format!("{referred} is")),
            };
            let why =
                format!("{what} not in these files: add the manifest, or use --cluster to read it from the cluster");
            unread.entry((kind, key)).or_insert_with(|| why.into());
        }
    }
    world.unread = unread;
}

fn note_beyond_quota(world: &mut World, tenancy: &Tenancy) {
    let quotas = Quotas::of(&world.load_balancers, Some(tenancy));
    let specs = world.load_balancers.iter().filter_map(|(object, declared)| Some((object, declared.spec.as_ref()?)));
    let referred = specs.flat_map(|(object, spec)| ObjectRef::all_by(object, spec));
    let beyond = referred.filter(|referred| !quotas.allow(referred)).collect();
    world.beyond_quota = beyond;
}
