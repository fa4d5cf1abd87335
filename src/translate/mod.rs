//! Compiles the declared `World` into a `Snapshot`. Pure, total and without I/O.
//!
//! A mistake costs the smallest part it touches (a certificate, then a listener, then the load balancer) and nothing
//! else. A listener that serves keeps its last good configuration while its declaration is wrong, and stops only when
//! it is no longer declared. A listener whose first declaration is wrong is not served. The verdict names the problems.

mod backends;
mod context;
mod declaration;
mod defaults;
mod field_errors;
mod flags;
mod last_good;
mod listeners;
mod load_balancer;
mod memo;
mod messages;
mod quotas;
mod references;
mod settings;
mod tls;
mod upstream;
mod verdict;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    net::Ipv4Addr,
    sync::Arc,
};

use backends::{loops, slices::Retention, sticky};
use context::TranslateContext;
use jiff::Timestamp;
use listeners::ports;
use memo::NewResult;
use tls::certificates::CertificateLoader;

pub use context::{expirations::REPORT_DELAY, pods::selects_pods};
pub use memo::Memo;
pub use verdict::{Part, Problem, Reason, Severity, Verdict, Verdicts};

use crate::{
    api::Placement,
    model::{EndpointKey, ListenerKey, ObjectKey, Snapshot, UpstreamConfig, UpstreamKey},
    world::{COMMAND_LINE, Declared, ProcessMode, World},
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
pub fn translate_with(memo: &mut Memo, world: &World, previous: &Snapshot, now: Timestamp) -> (Snapshot, Verdicts) {
    let Some((here, in_pods)) = split_by_mode(world) else {
        return translate_all(memo, world, previous, now, AddressScopes::One);
    };
    let (mut snapshot, mut verdicts) = translate_all(memo, &here, previous, now, AddressScopes::One);
    let nothing = Snapshot { certificate_cache: previous.certificate_cache.clone(), ..Snapshot::default() };
    let no_memo = &mut Memo::default();
    let (only_judged, others) = translate_all(no_memo, &in_pods, &nothing, now, AddressScopes::OneEach);
    verdicts.extend(others);
    Arc::make_mut(&mut snapshot.certificate_cache).extend(Arc::unwrap_or_clone(only_judged.certificate_cache));
    (snapshot, verdicts)
}

/// Splits a world into load balancers served by this process and those served by sidecars, which are only validated
/// here. `None`: this process serves all of them.
fn split_by_mode(world: &World) -> Option<(World, World)> {
    let in_pods = |declared: &Declared| {
        let placement = declared.spec.as_ref().and_then(|spec| spec.placement);
        matches!(world.mode, ProcessMode::Gateway(..)) && placement == Some(Placement::Sidecar)
    };
    if !world.load_balancers.values().any(in_pods) {
        return None;
    }
    let (mut here, mut others) = (world.clone(), world.clone());
    here.load_balancers.retain(|_, declared| !in_pods(declared));
    others.load_balancers.retain(|_, declared| in_pods(declared));
    others.mode = ProcessMode::Sidecar(Ipv4Addr::LOCALHOST.into());
    Some((here, others))
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

/// The expirations of the endpoints that are retained, by upstream.
fn retained_until(
    snapshot: &Snapshot,
    verdicts: &Verdicts,
    retentions: BTreeMap<UpstreamKey, Retention>,
    context: &TranslateContext,
) -> BTreeMap<UpstreamKey, BTreeMap<EndpointKey, Timestamp>> {
    // Valid load balancers retain nothing but what their retentions say.
    let is_well =
        |object: &ObjectKey| context.world.load_balancers[object].spec.is_some() && !verdicts[object].refuses();
    let with_kept = snapshot.upstreams.iter().filter(|(key, _)| !is_well(&key.object));
    let expirations =
        with_kept.filter_map(|(key, upstream)| Some((key.clone(), context.expirations_of(key, upstream)?)));
    let mut retained_until: BTreeMap<_, BTreeMap<_, _>> = expirations.collect();
    for (key, retention) in retentions.into_iter().filter(|(_, retention)| !retention.expirations.is_empty()) {
        retained_until.entry(key).or_default().extend(retention.expirations);
    }
    retained_until
}

/// Names the flag of each field in problems of load balancers from the command line.
fn name_flags(verdicts: &mut Verdicts) {
    for verdict in verdicts.values_mut().filter(|verdict| *verdict.origin == *COMMAND_LINE) {
        for problem in verdict.problems.iter_mut().filter(|problem| !problem.field.is_empty()) {
            problem.field = flags::with_flag(problem.part, &problem.field);
        }
    }
}

fn translate_all(
    memo: &mut Memo,
    world: &World,
    previous: &Snapshot,
    now: Timestamp,
    scopes_of: AddressScopes,
) -> (Snapshot, Verdicts) {
    let context = TranslateContext::of(world, previous, now, mem::take(&mut memo.slices_by_address));
    memo.begin(&context);
    let mut new_results = Vec::new();
    let mut certificates = CertificateLoader::new(world, previous, now);
    let mut scopes: Vec<AddressScope> = Vec::new();
    let mut retentions = BTreeMap::new();
    let mut verdicts = Verdicts::new();
    for (object, declared) in &world.load_balancers {
        let known = memo.recall(object, declared, &context, &mut certificates);
        let (translated, verdict) = known.unwrap_or_else(|| {
            certificates.used.clear();
            let result = load_balancer::translate(object, declared, &context, &mut certificates);
            new_results.extend(NewResult::of(object, declared, &context, &result, &certificates));
            result
        });
        if scopes.is_empty() || scopes_of == AddressScopes::OneEach {
            scopes.push(AddressScope::default());
        }
        let key = UpstreamKey { object: object.clone() };
        retentions.insert(key.clone(), translated.retention);
        if let Some(scope) = scopes.last_mut() {
            scope.requests.extend(translated.listeners);
            scope.upstreams.extend(translated.upstream.map(|upstream| (key, upstream)));
        }
        verdicts.insert(object.clone(), verdict);
    }

    let mut snapshot = Snapshot { generation: previous.generation, ..Snapshot::default() };
    for AddressScope { requests, upstreams } in scopes {
        let (listeners, conflicts) = ports::settle(requests);
        for (listener, problem) in conflicts {
            verdicts.entry(listener.object).or_default().problems.push(problem);
        }
        let mut settled = Snapshot { listeners, upstreams, ..Snapshot::default() };
        loops::drop_loops(&mut settled, world, &mut verdicts);
        snapshot.listeners.extend(settled.listeners);
        snapshot.upstreams.extend(settled.upstreams);
    }
    name_flags(&mut verdicts);
    for listener in snapshot.listeners.values() {
        if let Some(upstream) = snapshot.upstreams.get_mut(&listener.upstream) {
            context.restore_routed_endpoints(listener, upstream);
        }
    }
    let used: BTreeSet<_> = snapshot.listeners.values().map(|listener| listener.upstream.clone()).collect();
    snapshot.upstreams.retain(|key, _| used.contains(key));
    sticky::settle(&mut snapshot, &mut verdicts);
    verdicts.values_mut().for_each(Verdict::limit);

    retentions.retain(|key, _| used.contains(key));
    snapshot.report_due = retentions.values().filter_map(|retention| retention.report_due).min();
    snapshot.retained_until = retained_until(&snapshot, &verdicts, retentions, &context);
    snapshot.certificate_cache = Arc::new(certificates.cache);
    if !snapshot.configures_the_same(previous) {
        snapshot.generation = previous.generation.saturating_add(1);
    }
    new_results.into_iter().for_each(|result| memo.keep(result, &snapshot, &verdicts));
    memo.slices_by_address = context.into_slices_by_address();
    (snapshot, verdicts)
}
