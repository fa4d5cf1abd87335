//! Backends of a load balancer, and their endpoints with weights that give each backend its declared share.

pub(super) mod checks;
pub(super) mod loops;
mod proximity;
pub(super) mod slices;
pub(super) mod sticky;
mod tls;
mod weights;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use slices::{BackendEndpoint, Retention, ServiceEndpoints};
use weights::{BackendShare, endpoint_weights};

use super::{
    context::{
        TranslateContext,
        address_policy::{AddressRefusal, RefusedAddresses},
        expirations::{MAX_RETENTION, REPORT_DELAY},
        pods::AddressOwner,
    },
    declaration::Declaration,
    field_errors::{FieldErrors, FieldPath, duplicate_of},
    tls::certificates::CertificateLoader,
    verdict::{Part, Problem, Reason},
};
use crate::{
    api::{self, AddressPort, BackendService, Host, TcpLoadBalancerSpec},
    model::{
        ActiveCheck, Backend, EndpointConfig, EndpointKey, Priority, Proximity, ProxyVersion, StableId, Unready,
        UpstreamConfig, Weight,
    },
    world::Lookup,
};

/// The maximum number of addresses that the DNS names of a load balancer have in all: as many as it can declare.
const MAX_RESOLVED: usize = 64 * 64;

/// One translated backend and its errors.
struct TranslatedBackend {
    name: Arc<str>,
    settings: Arc<Backend>,
    weight: u16,
    endpoints: Vec<EndpointConfig>,
    unready: BTreeMap<EndpointKey, Unready>,
    retention: Retention,
    absent: AbsentEndpoints,
    /// True if no EndpointSlice matches its Service, and it had no endpoints before.
    is_pending: bool,
    errors: FieldErrors,
}

/// All translated backends.
pub(super) struct TranslatedBackends {
    pub backends: BTreeMap<Arc<str>, Arc<Backend>>,
    /// Endpoints, sorted by key.
    pub endpoints: Vec<EndpointConfig>,
    /// Unready endpoints that served before.
    pub unready: BTreeMap<EndpointKey, Unready>,
    /// True if all backends are invalid and none had endpoints under its name, so these are the previous endpoints
    /// under other names.
    pub fell_back: bool,
    pub retention: Retention,
}

/// Translates all backends. An invalid backend keeps its last good settings and endpoints. If all are invalid, or wait
/// for EndpointSlices, and none had endpoints under its name, connections use the previous endpoints.
pub(super) fn translate(
    declaration: &Declaration,
    active_check: Option<&Arc<ActiveCheck>>,
    certificates: &mut CertificateLoader,
    problems: &mut Vec<Problem>,
) -> TranslatedBackends {
    let backends = &declaration.spec.backends;
    let mut left = MAX_RESOLVED;
    let mut translated = |index| part(index, declaration, active_check, certificates, &mut left);
    let parts: Vec<_> = (0..backends.len()).map(&mut translated).collect();
    let fell_back = parts.iter().all(|part| (part.errors.refuse() || part.is_pending) && part.endpoints.is_empty());
    // Connections that must be encrypted are refused rather than sent to a previous plaintext backend.
    let in_the_clear = |before: &UpstreamConfig| before.backends.values().any(|backend| backend.tls.is_none());
    let is_to_be_encrypted = backends.iter().any(|backend| backend.tls.is_some());
    let fell_back =
        fell_back && !(is_to_be_encrypted && declaration.last_good.upstream.as_deref().is_some_and(in_the_clear));
    let mut retention = Retention::default();
    let kept = if fell_back { declaration.retained() } else { None };
    let kept = match parts.iter().any(|part| part.is_pending) {
        true => kept.and_then(|kept| retained_until_replaced(&kept, &mut retention, declaration)),
        false => kept,
    };
    let fell_back = fell_back && (kept.is_some() || !parts.iter().any(|part| part.is_pending));
    let before = kept.as_ref().map_or(&[][..], |before| &before.endpoints);
    let (mut backends, mut groups, mut unready) = (BTreeMap::new(), Vec::new(), BTreeMap::new());
    for (index, part) in parts.into_iter().enumerate() {
        let TranslatedBackend { name, settings, weight, endpoints, absent, mut errors, .. } = part;
        unready.extend(part.unready);
        retention.merge(part.retention);
        if endpoints.is_empty() && kept.is_none() {
            warn_of_no_endpoints(index, absent, declaration, &mut errors);
        }
        let fallback = match endpoints.is_empty() {
            _ if !errors.refuse() => String::new(),
            true => declaration.endpoints_fallback("connections go to the previous endpoints", before),
            false => declaration.endpoints_fallback("the previous endpoints stay in use", &endpoints),
        };
        problems.extend(errors.with_consequence(&fallback));
        // Of several backends with the same name, the first one counts.
        backends.entry(name).or_insert(settings);
        if !endpoints.is_empty() {
            groups.push((weight, endpoints));
        }
    }
    match kept {
        Some(before) => {
            let UpstreamConfig { backends, endpoints, unready, .. } = UpstreamConfig::clone(&before);
            TranslatedBackends { backends, endpoints, unready, fell_back, retention }
        }
        None => TranslatedBackends { backends, endpoints: weighted(groups), unready, fell_back, retention },
    }
}

/// Translates a backend. `left` is the number of further addresses that DNS names may have.
fn part(
    index: usize,
    declaration: &Declaration,
    active_check: Option<&Arc<ActiveCheck>>,
    certificates: &mut CertificateLoader,
    left: &mut usize,
) -> TranslatedBackend {
    let backends = &declaration.spec.backends;
    let backend = &backends[index];
    let mut errors = FieldErrors::default();
    let path = &mut FieldPath::new(Part::Backend(index), &mut errors);
    check_name(backends, index, path);
    let before = declaration.last_good.upstream.as_ref().and_then(|before| before.backends.get(backend.name()));
    let service = backend.service.as_ref().map(|service| service.name.0.as_str());
    let previous_endpoints = previous_endpoints(index, before, service, declaration);
    let Endpoints { mut serving, mut unready, absent, last_resort, mut retention } =
        endpoints(backend, &previous_endpoints, declaration, left, path);
    let own_check = backend.health_check.as_ref().and_then(|check| check.active.as_ref());
    let settings = Backend {
        active_check: match own_check {
            Some(own) => checks::active_check(own, declaration, &mut path.at("healthCheck").at("active")),
            None => active_check.cloned(),
        },
        unready: if asks_for_shares(declaration.spec) { absent.not_ready } else { 0 },
        drained: absent.drained,
        last_resort,
        ..settings(backend, declaration, before, certificates, path)
    };
    checks::refuse_impossible(backend, &settings, &serving, declaration, path);
    if errors.refuse() {
        retention = Retention::default();
        let is_to_be_encrypted = backend.tls.is_some() && before.is_none_or(|before| before.tls.is_none());
        serving = if is_to_be_encrypted { Vec::new() } else { kept(index, declaration) };
        if let Some(before) = &declaration.last_good.upstream {
            let own = before.unready.iter().filter(|(key, _)| *key.backend == *backend.name());
            unready = own.map(|(key, why)| (key.clone(), *why)).collect();
        }
    }
    let settings = before.filter(|_| errors.refuse()).cloned().unwrap_or_else(|| Arc::new(settings));
    TranslatedBackend {
        name: backend.name().into(),
        settings,
        weight: backend.weight,
        endpoints: serving,
        unready,
        retention,
        absent,
        is_pending: absent.is_unlisted && previous_endpoints.is_empty(),
        errors,
    }
}

/// Previous endpoints of a backend from the same Service. They belong to the first backend of this name.
fn previous_endpoints<'a>(
    index: usize,
    before: Option<&Arc<Backend>>,
    service: Option<&str>,
    declaration: &'a Declaration,
) -> Vec<&'a EndpointConfig> {
    let same = before.is_some_and(|before| before.service.is_some() && before.service.as_deref() == service);
    let Some(upstream) = declaration.last_good.upstream.as_ref().filter(|_| same) else { return Vec::new() };
    own(index, declaration, &upstream.endpoints).collect()
}

/// Endpoints under the backend's name, if it is the first backend of this name.
fn own<'a>(
    index: usize,
    declaration: &Declaration,
    endpoints: &'a [EndpointConfig],
) -> impl Iterator<Item = &'a EndpointConfig> {
    let backends = &declaration.spec.backends;
    let name: Arc<str> = backends[index].name().into();
    let is_first = !backends[..index].iter().any(|other| *other.name() == *name);
    endpoints.iter().filter(move |endpoint| is_first && endpoint.key.backend == name)
}

/// The retained upstream until EndpointSlices of the new Services arrive, with an expiration for each endpoint.
fn retained_until_replaced(
    kept: &Arc<UpstreamConfig>,
    retention: &mut Retention,
    declaration: &Declaration,
) -> Option<Arc<UpstreamConfig>> {
    let Declaration { object, context, .. } = declaration;
    let mut kept = UpstreamConfig::clone(kept);
    kept.endpoints.retain(|endpoint| {
        let until = context.recorded_expiration(object, &endpoint.key, MAX_RETENTION);
        let stays = context.now < until;
        if stays {
            retention.expirations.insert(endpoint.key.clone(), until);
        }
        stays
    });
    (!kept.endpoints.is_empty()).then(|| Arc::new(kept))
}

/// Endpoints that a backend retains. They belong to the first backend of this name.
fn kept(index: usize, declaration: &Declaration) -> Vec<EndpointConfig> {
    let Declaration { object, context, last_good, .. } = declaration;
    let before = last_good.upstream.as_ref().map_or(&[][..], |before| &before.endpoints);
    own(index, declaration, before).filter(|endpoint| context.is_retained(object, endpoint)).cloned().collect()
}

fn check_name(backends: &[api::Backend], index: usize, path: &mut FieldPath) {
    let mut path = path.at("name");
    if backends[index].name.is_none() && backends.len() > 1 {
        path.refuse("is missing: several backends require a name for each");
    } else if let Some(other) = duplicate_of(backends, index, api::Backend::name) {
        let name = backends[index].name();
        path.refuse(format!("`{name}` is also the name of spec.backends[{other}]: write another"));
    }
}

/// True if the number of usable endpoints matters beyond zero.
fn asks_for_shares(spec: &TcpLoadBalancerSpec) -> bool {
    let failover = spec.load_balancing.as_ref().and_then(|balancing| balancing.failover.as_ref());
    failover.and_then(|failover| failover.min_usable_percent).is_some_and(|percent| percent > 0)
}

/// The settings of a backend, without its check and the state of its endpoints.
fn settings(
    backend: &api::Backend,
    declaration: &Declaration,
    before: Option<&Arc<Backend>>,
    certificates: &mut CertificateLoader,
    path: &mut FieldPath,
) -> Backend {
    let tls_before = before.and_then(|before| before.tls.as_ref());
    Backend {
        active_check: None,
        tls: backend
            .tls
            .as_ref()
            .and_then(|declared| tls::translate(declared, declaration, tls_before, certificates, &mut path.at("tls"))),
        priority: Priority(path.at("priority").number(backend.priority, 0..=15)),
        unready: 0,
        drained: 0,
        service: backend.service.as_ref().map(|service| service.name.0.as_str().into()),
        last_resort: false,
        proxy_protocol: backend.proxy_protocol.map(|version| match version {
            api::ProxyProtocolVersion::V1 => ProxyVersion::V1,
            api::ProxyProtocolVersion::V2 => ProxyVersion::V2,
        }),
    }
}

/// The endpoints of one backend.
struct Endpoints {
    serving: Vec<EndpointConfig>,
    /// Unready endpoints that served before and are still listed.
    unready: BTreeMap<EndpointKey, Unready>,
    absent: AbsentEndpoints,
    /// True if the serving endpoints are terminating.
    last_resort: bool,
    retention: Retention,
}

/// The endpoints of a backend that do not serve.
#[derive(Clone, Copy)]
struct AbsentEndpoints {
    /// True if no EndpointSlice matches the Service.
    is_unlisted: bool,
    /// The number of endpoints that are not ready, without terminating ones.
    not_ready: usize,
    drained: u32,
}

fn endpoints(
    backend: &api::Backend,
    before: &[&EndpointConfig],
    declaration: &Declaration,
    left: &mut usize,
    path: &mut FieldPath,
) -> Endpoints {
    path.at("weight").number(backend.weight, 1..=1000);
    if let Some(interval) = backend.resolve_interval {
        path.at("resolveInterval").duration(interval.0, Duration::from_secs(1)..=Duration::from_hours(24));
    }
    let context = declaration.context;
    let ServiceEndpoints { members, is_pending, report_due } = match (&backend.service, &backend.addresses) {
        (Some(service), None) => slices::members(service, before, declaration, &mut path.at("service")),
        (None, Some(addresses)) => ServiceEndpoints {
            members: resolved(addresses, context, left, &mut path.at("addresses")),
            ..ServiceEndpoints::default()
        },
        (Some(_), Some(_)) => {
            path.refuse("the backend has both service and addresses: keep one of them, or split it into two backends");
            ServiceEndpoints::default()
        }
        (None, None) => {
            path.refuse("the backend has neither service nor addresses: set one of them");
            ServiceEndpoints::default()
        }
    };
    if let (Some(service), Some(due)) = (&backend.service, report_due.filter(|due| *due <= context.now)) {
        warn_of_retained(service, due, declaration, &mut path.at("service"));
    }
    let mut retention = Retention { report_due: report_due.filter(|due| *due > context.now), ..Retention::default() };
    let name: Arc<str> = backend.name().into();
    let mut absent = AbsentEndpoints { is_unlisted: is_pending, not_ready: 0, drained: 0 };
    let last_resort = members.iter().any(|member| member.last_resort);
    let (mut serving, mut unready) = (Vec::new(), BTreeMap::new());
    for BackendEndpoint { address, uid, pod, stable_id, proximity, unready: why, until, .. } in members {
        let is_drained =
            declaration.spec.drained_endpoints.iter().any(|drained| drained.matches(address, pod.as_deref()));
        let why = if is_drained { Some(Unready::Drained) } else { why };
        // Only endpoints that serve are retained.
        if until.is_some() && why.is_some() {
            continue;
        }
        absent.drained += u32::from(is_drained);
        absent.not_ready += usize::from(why == Some(Unready::NotReady));
        let key = declaration.last_good.shared(EndpointKey { backend: name.clone(), address, uid });
        retention.expirations.extend(until.map(|until| (key.clone(), until)));
        match why {
            None => serving.push(EndpointConfig { key, stable_id, weight: Weight::ONE, proximity }),
            Some(why) if declaration.last_good.contained(&key) => drop(unready.insert(key, why)),
            Some(_) => {}
        }
    }
    Endpoints { serving, unready, absent, last_resort, retention }
}

/// Declared addresses, and the known addresses of each DNS name. `left` is the number of further addresses that DNS
/// names may have.
fn resolved(
    addresses: &[AddressPort],
    context: &TranslateContext,
    left: &mut usize,
    path: &mut FieldPath,
) -> Vec<BackendEndpoint> {
    if addresses.is_empty() {
        path.refuse("must not be empty: write at least one host:port");
    }
    let mut found = Vec::with_capacity(addresses.len());
    for (index, address) in addresses.iter().enumerate() {
        let path = &mut path.item(index);
        let (name, ips) = match &address.host {
            Host::Ip(ip) => (None, vec![*ip]),
            // Names are not resolved in this mode.
            Host::Name(name) if !context.world.mode.reaches_addresses() => {
                let why = context.address_policy.sentence(AddressRefusal::Outside);
                path.drop_item(Reason::NotPermitted, format!("`{name}` is {why}; ignored"));
                continue;
            }
            Host::Name(name) => {
                let lookup = context.world.names.get(name.as_str());
                warn_of_lookup(name, lookup, path);
                (Some(name.as_str()), lookup.map_or_else(Vec::new, |lookup| within_limits(name, lookup, left, path)))
            }
        };
        let all = ips.into_iter().map(|ip| SocketAddr::new(ip.to_canonical(), address.port));
        let mut refused = RefusedAddresses::default();
        found.extend(all.filter(|address| refused.admit(*address, AddressOwner::Unknown, context.address_policy)));
        refused.report(name, context.address_policy, path);
    }
    found.sort_unstable();
    found.dedup();
    found
        .into_iter()
        .map(|address| {
            let stable_id = StableId::Address(address);
            let (uid, pod, unready, until) = Default::default();
            BackendEndpoint {
                address,
                uid,
                pod,
                stable_id,
                proximity: Proximity::Remote,
                unready,
                last_resort: false,
                until,
            }
        })
        .collect()
}

/// The addresses of a name, at most as many as are left for the load balancer.
fn within_limits(host: &str, lookup: &Lookup, left: &mut usize, path: &mut FieldPath) -> Vec<IpAddr> {
    const MAX_ADDRESSES: usize = Lookup::MAX_ADDRESSES;
    let used: Vec<_> = lookup.addresses.iter().copied().take(*left).collect();
    *left -= used.len();
    if used.len() < lookup.addresses.len() {
        let message = format!(
            "only {} addresses of `{host}` are used, because the DNS names of a load balancer may have {MAX_RESOLVED} \
             addresses in all: remove names, or divide them among several load balancers",
            used.len()
        );
        path.warn(Reason::NameNotResolved, message);
    } else if lookup.is_truncated {
        let message = format!(
            "`{host}` has more than {MAX_ADDRESSES} addresses, of which only {MAX_ADDRESSES} are used: use names with \
             fewer addresses, or a Service"
        );
        path.warn(Reason::NameNotResolved, message);
    }
    used
}

fn warn_of_lookup(host: &str, lookup: Option<&Lookup>, path: &mut FieldPath) {
    let (known, problem) =
        lookup.map_or((false, None), |lookup| (!lookup.addresses.is_empty(), lookup.problem.as_ref()));
    let message = match (known, problem) {
        (true, None) => return,
        (true, Some(problem)) => format!("`{host}` {problem}; its last known addresses are used"),
        (false, Some(problem)) => {
            format!(
                "`{host}` {problem}: correct the name, or write IP addresses; it has no addresses until a lookup \
                 succeeds"
            )
        }
        (false, None) => format!("`{host}` has not been resolved yet; it has no addresses until then"),
    };
    path.warn(Reason::NameNotResolved, message);
}

/// Warns about a backend without endpoints, unless another problem explains it.
fn warn_of_no_endpoints(index: usize, absent: AbsentEndpoints, declaration: &Declaration, errors: &mut FieldErrors) {
    let mut path = FieldPath::new(Part::Backend(index), errors);
    if !path.is_clean() {
        return;
    }
    let namespace = &declaration.object.namespace;
    let AbsentEndpoints { is_unlisted, not_ready, drained } = absent;
    let (reason, who) = match &declaration.spec.backends[index].service {
        Some(service) if is_unlisted => {
            let BackendService { name, port, .. } = service;
            let who = format!("Service {namespace}/{name} has no ready endpoint on port {port}");
            (Reason::EndpointsPending, format!("{who}, because no EndpointSlice has that port yet"))
        }
        Some(service) => {
            let BackendService { name, port, .. } = service;
            let who = format!("Service {namespace}/{name} has no ready endpoint on port {port}");
            match not_ready {
                0 => (Reason::NoEndpoints, who),
                1 => (Reason::EndpointsNotReady, format!("{who}: 1 endpoint is not ready")),
                some => (Reason::EndpointsNotReady, format!("{who}: {some} endpoints are not ready")),
            }
        }
        None => (Reason::NoEndpoints, "it has no endpoint".into()),
    };
    let who = match drained {
        0 => who,
        1 => format!("{who}: 1 endpoint is in `drainedEndpoints`"),
        some => format!("{who}: {some} endpoints are in `drainedEndpoints`"),
    };
    path.warn(reason, format!("{who}; connections are refused while no other backend has a ready endpoint"));
}

/// Warns about endpoints that are retained although no EndpointSlice of their Service lists them.
fn warn_of_retained(service: &BackendService, due: Timestamp, declaration: &Declaration, path: &mut FieldPath) {
    let namespace = &declaration.object.namespace;
    let until = due.saturating_add(MAX_RETENTION - REPORT_DELAY).unwrap_or(Timestamp::MAX);
    let BackendService { name, port, .. } = service;
    path.warn(
        Reason::EndpointsPending,
        format!(
            "no EndpointSlice of Service {namespace}/{name} has its port {port}: check its selector and the \
             targetPort; the previous endpoints stay in use until {until:.0}"
        ),
    );
}

/// Sorts the endpoints and sets the weights that give each group its share.
fn weighted(groups: Vec<(u16, Vec<EndpointConfig>)>) -> Vec<EndpointConfig> {
    let shares: Vec<_> = groups
        .iter()
        // A weight of zero was refused; retained endpoints of its backend count with weight 1.
        .map(|(weight, endpoints)| BackendShare { weight: (*weight).max(1), endpoints: endpoints.len() })
        .collect();
    let weights = endpoint_weights(&shares);
    let mut endpoints: Vec<_> = groups
        .into_iter()
        .zip(weights)
        .flat_map(|((_, endpoints), weight)| {
            endpoints.into_iter().map(move |endpoint| EndpointConfig { weight, ..endpoint })
        })
        .collect();
    endpoints.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    endpoints
}
