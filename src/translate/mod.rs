//! Compiles the declared `World` into a `Snapshot`. Pure, total and without I/O.
//!
//! A mistake costs the smallest part it touches (a certificate, then a listener, then the load balancer) and nothing
//! else. A listener that serves keeps its last good configuration while its declaration is wrong, and stops only when
//! it is no longer declared. A listener whose first declaration is wrong is not served. The verdict names the problems.

mod backends;
mod context;
mod declaration;
mod defaults;
mod draft;
mod field_errors;
mod flags;
mod last_good;
mod listeners;
mod load_balancer;
mod memo;
mod messages;
mod placements;
mod quotas;
mod references;
mod settings;
mod tls;
mod upstream;
mod verdict;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashSet},
    mem,
    net::SocketAddr,
    sync::Arc,
};

use backends::loops;
use context::{SharedLimits, TranslateContext};
use draft::Draft;
use jiff::Timestamp;
use listeners::ports;
use memo::{Baseline, NewResult};
use tls::certificates::CertificateLoader;

pub use context::{expirations::REPORT_DELAY, locality::here, pods::selects_pods};
pub use memo::Memo;
pub use verdict::{Part, Problem, Reason, Severity, Verdict, Verdicts};

use crate::{
    model::{
        CertificateCache, ListenerKey, SharedVerifiers, Snapshot, UpstreamConfig, UpstreamKey, covering, covers_locally,
    },
    shared::revised,
    world::{World, oldest_first},
};

/// Compiles a world into the configuration to serve and a verdict for each load balancer.
///
/// The generation is that of `previous` if both configure the same, else the next one. `now` affects verdicts and the
/// retention of endpoints that no source confirms, see [`Snapshot::next_expiration`].
pub fn translate(world: &World, previous: &Snapshot, now: Timestamp) -> (Snapshot, Verdicts) {
    translate_with(&mut Memo::default(), world, previous, now)
}

/// Like [`translate`], with the same result for any memo of earlier translations: results of unchanged load balancers
/// are reused, and the new ones are kept.
///
/// The cost depends on the number of affected load balancers, unless a change may concern all of them.
pub fn translate_with(memo: &mut Memo, world: &World, previous: &Snapshot, now: Timestamp) -> (Snapshot, Verdicts) {
    let Some((here, in_pods)) = memo.placements.split(world) else {
        return translate_served(memo, world, previous, now);
    };
    let (mut snapshot, mut verdicts) = translate_served(memo, &here, previous, now);
    let nothing = Snapshot { certificate_cache: previous.certificate_cache.clone(), ..Snapshot::default() };
    let (only_judged, others) = translate_all(memo.of_sidecars(), &in_pods, &nothing, now, AddressScopes::OneEach);
    verdicts.extend(others);
    Arc::make_mut(&mut snapshot.certificate_cache).extend(Arc::unwrap_or_clone(only_judged.certificate_cache));
    (snapshot, verdicts)
}

/// Like [`translate_with`] if a change affects at most [`FEW`] load balancers, which takes milliseconds at most. `None`: it
/// may affect more.
pub fn translate_few(
    memo: &mut Memo,
    world: &World,
    previous: &Snapshot,
    now: Timestamp,
) -> Option<(Snapshot, Verdicts)> {
    match memo.placements.split(world) {
        None => translate_affected(memo, world, previous, now, FEW),
        Some(_) => None,
    }
}

/// See [`translate_few`].
const FEW: usize = 16;

/// Translates load balancers that this process serves: those that are affected, or all.
fn translate_served(memo: &mut Memo, world: &World, previous: &Snapshot, now: Timestamp) -> (Snapshot, Verdicts) {
    let affected = translate_affected(memo, world, previous, now, usize::MAX);
    affected.unwrap_or_else(|| translate_all(memo, world, previous, now, AddressScopes::One))
}

/// Hosts whose addresses and ports the load balancers use.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AddressScopes {
    /// All load balancers share one host or pod.
    One,
    /// Each load balancer has a pod of its own.
    OneEach,
}

/// Listeners and upstreams that share the addresses of one host or pod.
#[derive(Default)]
struct AddressScope {
    requests: BTreeMap<ListenerKey, ports::ListenerRequest>,
    upstreams: BTreeMap<UpstreamKey, Arc<UpstreamConfig>>,
}

/// Translates the load balancers that a change affects; everything else stays. `None`: the change may concern all, or
/// affects more than `most`.
fn translate_affected(
    memo: &mut Memo,
    world: &World,
    previous: &Snapshot,
    now: Timestamp,
    most: usize,
) -> Option<(Snapshot, Verdicts)> {
    let baseline = memo.baseline(world, previous, now).filter(|baseline| baseline.affected.len() <= most)?;
    memo.slices.follow(&world.endpoint_slices);
    let (slices, by_address) = (mem::take(&mut memo.slices), mem::take(&mut memo.slices_by_address));
    let context = TranslateContext::new((world, previous, now), &baseline.limits, &slices, by_address);
    let result = draft_affected(&context, &baseline).map(|AffectedDraft { mut draft, new_results, certificates }| {
        draft.finish(&context);
        let (mut snapshot, mut verdicts) = (previous.clone(), baseline.verdicts.clone());
        snapshot.report_due = draft.report_due();
        for object in &baseline.affected {
            snapshot.retained_until.remove(&UpstreamKey { object: object.clone() });
        }
        snapshot.retained_until.extend(draft.retained_until(&context));
        if !certificates.is_empty() || !snapshot.certificate_cache.verifiers.is_empty() {
            let cache = Arc::make_mut(&mut snapshot.certificate_cache);
            // All load balancers that verify certificates are among the affected ones.
            cache.verifiers = SharedVerifiers::default();
            cache.extend(certificates);
        }
        draft.insert_into(&mut snapshot, &mut verdicts);
        let snapshot = with_generation(snapshot, previous);
        baseline.affected.iter().for_each(|object| memo.forget(object));
        memo.keep(new_results, previous, (&snapshot, &verdicts));
        memo.finish_affected(&context, &baseline.affected, (&snapshot, &verdicts));
        (snapshot, verdicts)
    });
    memo.slices_by_address = context.into_slices_by_address();
    memo.slices = slices;
    result
}

/// The results of the affected load balancers.
struct AffectedDraft {
    draft: Draft,
    new_results: Vec<NewResult>,
    certificates: CertificateCache,
}

/// Translates the affected load balancers. `None`: one of them requests another address, or may be part of a loop,
/// which can concern others.
fn draft_affected(context: &TranslateContext, baseline: &Baseline) -> Option<AffectedDraft> {
    let Baseline { affected, locality, binds, .. } = baseline;
    if locality.as_ref().is_some_and(|locality| *locality != context.locality_view()) {
        return None;
    }
    let previous = context.previous;
    let listeners = affected.iter().flat_map(|object| previous.listeners_of(object)).map(|(_, listener)| listener);
    let upstreams = affected.iter().filter_map(|object| {
        let (key, upstream) = previous.upstreams.get_key_value(&UpstreamKey { object: object.clone() })?;
        Some((&key.object, upstream))
    });
    let mut certificates = CertificateLoader::new(context, listeners, upstreams);
    let (mut draft, mut new_results) = (Draft::default(), Vec::new());
    let declared = affected.iter().map(|object| context.world.load_balancers.get_key_value(object));
    for (object, declared) in oldest_first(declared.collect::<Option<Vec<_>>>()?) {
        certificates.used.clear();
        let result = load_balancer::translate(object, declared, context, &mut certificates);
        new_results.extend(NewResult::of(object, declared, context, &result, &certificates));
        let (translated, verdict) = result;
        let binds = translated.listeners.iter().map(|(key, request)| (key, request.listener().bind));
        if !binds.eq(context.previous.listeners_of(object).map(|(key, listener)| (key, listener.bind))) {
            return None;
        }
        let granted = translated.listeners.into_iter().map(|(key, request)| (key, request.into_listener()));
        draft.listeners.extend(granted);
        let key = UpstreamKey { object: object.clone() };
        draft.retentions.insert(key.clone(), translated.retention);
        draft.upstreams.extend(translated.upstream.map(|upstream| (key, upstream)));
        draft.verdicts.insert(object.clone(), verdict);
    }
    let may_loop = draft.upstreams.values().any(|upstream| may_loop(upstream, binds));
    (!may_loop).then_some(AffectedDraft { draft, new_results, certificates: certificates.cache })
}

/// True if an endpoint may be a listener of this process, by its address alone.
fn may_loop(upstream: &UpstreamConfig, binds: &HashSet<SocketAddr>) -> bool {
    let mut addresses = upstream.endpoints.iter().map(|endpoint| endpoint.key.address);
    addresses.any(|address| covering(address).any(|bind| binds.contains(&bind) && covers_locally(bind, address)))
}

fn translate_all(
    memo: &mut Memo,
    world: &World,
    previous: &Snapshot,
    now: Timestamp,
    scopes_of: AddressScopes,
) -> (Snapshot, Verdicts) {
    memo.slices.follow(&world.endpoint_slices);
    let limits = Arc::new(SharedLimits::of(world, previous, &memo.slices));
    memo.begin(world, &limits);
    let (slices, by_address) = (mem::take(&mut memo.slices), mem::take(&mut memo.slices_by_address));
    let context = TranslateContext::new((world, previous, now), &limits, &slices, by_address);
    memo.follow_locality(&context);
    let upstreams = previous.upstreams.iter().map(|(key, upstream)| (&key.object, upstream));
    let mut certificates = CertificateLoader::new(&context, previous.listeners.values(), upstreams);
    let (mut draft, new_results) = translate_each(memo, &context, &mut certificates, scopes_of);
    draft.finish(&context);
    let snapshot = Snapshot {
        generation: previous.generation,
        report_due: draft.report_due(),
        retained_until: revised(&previous.retained_until, draft.retained_until(&context)),
        certificate_cache: Arc::new(certificates.cache),
        listeners: revised(&previous.listeners, draft.listeners),
        upstreams: revised(&previous.upstreams, draft.upstreams),
    };
    let snapshot = with_generation(snapshot, previous);
    let verdicts = revised(&memo.verdicts(), draft.verdicts);
    memo.keep(new_results, previous, (&snapshot, &verdicts));
    memo.finish(&context, limits.clone(), (&snapshot, &verdicts));
    memo.slices_by_address = context.into_slices_by_address();
    memo.slices = slices;
    (snapshot, verdicts)
}

/// Translates all load balancers without a known result, and resolves conflicts between all.
fn translate_each(
    memo: &mut Memo,
    context: &TranslateContext,
    certificates: &mut CertificateLoader,
    scopes_of: AddressScopes,
) -> (Draft, Vec<NewResult>) {
    let (mut draft, mut new_results) = (Draft::default(), Vec::new());
    let mut scopes: Vec<AddressScope> = Vec::new();
    for (object, declared) in oldest_first(&context.world.load_balancers) {
        let known = memo.recall(object, declared, context, certificates);
        let (translated, verdict) = known.unwrap_or_else(|| {
            certificates.used.clear();
            let result = load_balancer::translate(object, declared, context, certificates);
            new_results.extend(NewResult::of(object, declared, context, &result, certificates));
            result
        });
        if scopes.is_empty() || scopes_of == AddressScopes::OneEach {
            scopes.push(AddressScope::default());
        }
        let key = UpstreamKey { object: object.clone() };
        draft.retentions.insert(key.clone(), translated.retention);
        if let Some(scope) = scopes.last_mut() {
            scope.requests.extend(translated.listeners);
            scope.upstreams.extend(translated.upstream.map(|upstream| (key, upstream)));
        }
        draft.verdicts.insert(object.clone(), verdict);
    }
    for AddressScope { requests, mut upstreams } in scopes {
        let (listeners, conflicts) = ports::settle(requests);
        for (listener, problem) in conflicts {
            draft.verdicts.entry(listener.object).or_default().problems.push(problem);
        }
        loops::drop_loops(&listeners, &mut upstreams, context.world, &mut draft.verdicts);
        draft.listeners.extend(listeners);
        draft.upstreams.extend(upstreams);
    }
    (draft, new_results)
}

/// The snapshot with the generation of `previous` if both configure the same, else with the next one.
fn with_generation(snapshot: Snapshot, previous: &Snapshot) -> Snapshot {
    let is_same = snapshot.configures_the_same(previous);
    let generation = if is_same { previous.generation } else { previous.generation.saturating_add(1) };
    Snapshot { generation, ..snapshot }
}
