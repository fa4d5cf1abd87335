//! The endpoints of all backends of a load balancer, each with the weight that gives its backend the declared share.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use super::{
    Problem, Reason, Surroundings, backend_tls,
    certificates::Certificates,
    checks,
    findings::{Findings, Place},
    load_balancer::{Declaration, twin},
    reach::{Refusal, Refused, Target},
    slices,
    weights::{Share, endpoint_weights},
};
use crate::{
    api::{self, AddressPort, Host, TcpLoadBalancerSpec},
    model::{
        ActiveCheck, Backend, Distance, Endpoint, EndpointKey, ObjectKey, Priority, ProxyVersion, StableId, Unready,
        Upstream, Weight,
    },
    source::Lookup,
};

/// One address of a backend.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Member {
    pub address: SocketAddr,
    pub uid: Option<Arc<str>>,
    pub stable_id: StableId,
    pub distance: Distance,
    /// Why it does not serve; `None`: it does.
    pub unready: Option<Unready>,
    /// It serves although it terminates, for none is ready.
    pub last_resort: bool,
}

/// What a backend comes to, and what is wrong with it.
struct Part {
    name: Arc<str>,
    settings: Arc<Backend>,
    weight: u16,
    endpoints: Vec<Endpoint>,
    unready: BTreeMap<EndpointKey, Unready>,
    findings: Findings,
}

/// What all backends come to.
pub(super) struct Found {
    pub backends: BTreeMap<Arc<str>, Arc<Backend>>,
    /// Sorted by key.
    pub endpoints: Vec<Endpoint>,
    /// Those that served before.
    pub unready: BTreeMap<EndpointKey, Unready>,
    /// All backends are wrong, and none had any endpoints by its name: these are what there was before, by other names.
    pub lost: bool,
}

/// A backend that is wrong keeps the settings and endpoints it had `before`; if all are wrong and none had any by its
/// name, connections go where they went before.
pub(super) fn translate(
    declaration: &Declaration,
    active_check: Option<&Arc<ActiveCheck>>,
    certificates: &mut Certificates,
    problems: &mut Vec<Problem>,
) -> Found {
    let backends = &declaration.spec.backends;
    let parts: Vec<_> = (0..backends.len()).map(|index| part(index, declaration, active_check, certificates)).collect();
    let lost = parts.iter().all(|part| part.findings.refuse() && part.endpoints.is_empty());
    // What is to be encrypted goes nowhere rather than where it went in the clear.
    let in_the_clear = |before: &Upstream| before.backends.values().any(|backend| backend.tls.is_none());
    let is_to_be_encrypted = backends.iter().any(|backend| backend.tls.is_some());
    let lost = lost && !(is_to_be_encrypted && declaration.before.upstream.as_deref().is_some_and(in_the_clear));
    let kept = if lost { declaration.kept() } else { None };
    let before = kept.as_ref().map_or(&[][..], |before| &before.endpoints);
    let (mut backends, mut groups, mut unready) = (BTreeMap::new(), Vec::new(), BTreeMap::new());
    for part in parts {
        let Part { name, settings, weight, endpoints, findings, .. } = part;
        unready.extend(part.unready);
        let meanwhile = match endpoints.is_empty() {
            _ if !findings.refuse() => String::new(),
            true => declaration.meanwhile_to("connections go where they went before", before),
            false => declaration.meanwhile_to("it keeps the endpoints it had before", &endpoints),
        };
        problems.extend(findings.concluded(&meanwhile));
        // The first one, should several have its name.
        backends.entry(name).or_insert(settings);
        if !endpoints.is_empty() {
            groups.push((weight, endpoints));
        }
    }
    match kept {
        Some(before) => {
            let Upstream { backends, endpoints, unready, .. } = Upstream::clone(&before);
            Found { backends, endpoints, unready, lost }
        }
        None => Found { backends, endpoints: weighted(groups), unready, lost },
    }
}

fn part(
    index: usize,
    declaration: &Declaration,
    active_check: Option<&Arc<ActiveCheck>>,
    certificates: &mut Certificates,
) -> Part {
    let backends = &declaration.spec.backends;
    let backend = &backends[index];
    let mut findings = Findings::default();
    let field = format!("spec.backends[{index}]");
    let place = &mut Place::new(&field, &mut findings);
    check_name(backends, index, place);
    let before = declaration.before.upstream.as_ref().and_then(|before| before.backends.get(name(backend)));
    let Endpoints { mut serving, mut unready, not_ready, last_resort } = endpoints(backend, declaration, place);
    let not_ready = if asks_for_shares(declaration.spec) { not_ready } else { 0 };
    let settings = settings(backend, not_ready, declaration, before, active_check, certificates, place);
    let settings = Backend { last_resort, ..settings };
    checks::refuse_impossible(backend, &settings, &serving, declaration, place);
    if serving.is_empty() && place.is_unremarked() {
        warn_of_no_endpoints(backend, declaration.object, place);
    }
    if findings.refuse() {
        let is_to_be_encrypted = backend.tls.is_some() && before.is_none_or(|before| before.tls.is_none());
        serving = if is_to_be_encrypted { Vec::new() } else { kept(index, declaration) };
        if let Some(before) = &declaration.before.upstream {
            let own = before.unready.iter().filter(|(key, _)| *key.backend == *name(backend));
            unready = own.map(|(key, why)| (key.clone(), *why)).collect();
        }
    }
    let settings = before.filter(|_| findings.refuse()).cloned().unwrap_or_else(|| Arc::new(settings));
    Part { name: name(backend).into(), settings, weight: backend.weight, endpoints: serving, unready, findings }
}

/// What a backend had before and may keep: the first one, should several have its name.
fn kept(index: usize, declaration: &Declaration) -> Vec<Endpoint> {
    let Declaration { object, spec, surroundings, before, .. } = declaration;
    let backends = &spec.backends;
    let name = name(&backends[index]);
    if backends[..index].iter().any(|other| self::name(other) == name) {
        return Vec::new();
    }
    let before = before.upstream.as_ref().map_or(&[][..], |before| &before.endpoints);
    let own = before.iter().filter(|endpoint| *endpoint.key.backend == *name);
    own.filter(|endpoint| surroundings.may_stay(object, endpoint)).cloned().collect()
}

/// The declared name, else the Service's, else `default`.
pub fn name(backend: &api::Backend) -> &str {
    let service = || backend.service.as_ref().map(|service| service.name.0.as_str());
    backend.name.as_ref().map(|name| name.0.as_str()).or_else(service).unwrap_or("default")
}

fn check_name(backends: &[api::Backend], index: usize, place: &mut Place) {
    let mut place = place.at("name");
    if backends[index].name.is_none() && backends.len() > 1 {
        place.refuse("it is missing: with several backends write a name for each");
    } else if let Some(other) = twin(backends, index, name) {
        let name = name(&backends[index]);
        place.refuse(format!("`{name}` is also the name of spec.backends[{other}]: write another"));
    }
}

/// Whether it matters how many of the endpoints are usable, as long as some are.
fn asks_for_shares(spec: &TcpLoadBalancerSpec) -> bool {
    let failover = spec.load_balancing.as_ref().and_then(|balancing| balancing.failover.as_ref());
    failover.and_then(|failover| failover.min_usable_percent).is_some_and(|percent| percent > 0)
}

fn settings(
    backend: &api::Backend,
    unready: usize,
    declaration: &Declaration,
    before: Option<&Arc<Backend>>,
    active_check: Option<&Arc<ActiveCheck>>,
    certificates: &mut Certificates,
    place: &mut Place,
) -> Backend {
    let tls_before = before.and_then(|before| before.tls.as_ref());
    let own = backend.health_check.as_ref().and_then(|check| check.active.as_ref());
    Backend {
        active_check: match own {
            Some(own) => checks::active_check(own, declaration, &mut place.at("healthCheck").at("active")),
            None => active_check.cloned(),
        },
        tls: backend.tls.as_ref().and_then(|declared| {
            backend_tls::translate(declared, declaration, tls_before, certificates, &mut place.at("tls"))
        }),
        priority: Priority(place.at("priority").number(backend.priority, 0..=15)),
        unready,
        last_resort: false,
        proxy_protocol: backend.proxy_protocol.map(|version| match version {
            api::ProxyProtocolVersion::V1 => ProxyVersion::V1,
            api::ProxyProtocolVersion::V2 => ProxyVersion::V2,
        }),
    }
}

/// The endpoints of one backend.
struct Endpoints {
    serving: Vec<Endpoint>,
    /// Those that served before and are still listed.
    unready: BTreeMap<EndpointKey, Unready>,
    /// How many are not ready, whether they served before or not, without those that terminate.
    not_ready: usize,
    /// Those that serve terminate.
    last_resort: bool,
}

fn endpoints(backend: &api::Backend, declaration: &Declaration, place: &mut Place) -> Endpoints {
    place.at("weight").number(backend.weight, 1..=1000);
    if let Some(interval) = backend.resolve_interval {
        place.at("resolveInterval").duration(interval.0, Duration::from_secs(1)..=Duration::from_hours(24));
    }
    let surroundings = declaration.surroundings;
    let members = match (&backend.service, &backend.addresses) {
        (Some(service), None) => slices::members(service, declaration, &mut place.at("service")),
        (None, Some(addresses)) => resolved(addresses, surroundings, &mut place.at("addresses")),
        (Some(_), Some(_)) => {
            place.refuse("it has both service and addresses: write one of them, or two backends");
            Vec::new()
        }
        (None, None) => {
            place.refuse("it has neither service nor addresses: write where its connections go");
            Vec::new()
        }
    };
    let name: Arc<str> = name(backend).into();
    let not_ready = members.iter().filter(|member| member.unready == Some(Unready::NotReady)).count();
    let last_resort = members.iter().any(|member| member.last_resort);
    let (mut serving, mut unready) = (Vec::new(), BTreeMap::new());
    for Member { address, uid, stable_id, distance, unready: why, .. } in members {
        let key = EndpointKey { backend: name.clone(), address, uid };
        match why {
            None => serving.push(Endpoint { key, stable_id, weight: Weight::ONE, distance }),
            Some(why) if declaration.before.had(&key) => drop(unready.insert(key, why)),
            Some(_) => {}
        }
    }
    Endpoints { serving, unready, not_ready, last_resort }
}

/// The addresses, with all that is known of each DNS name.
fn resolved(addresses: &[AddressPort], surroundings: &Surroundings, place: &mut Place) -> Vec<Member> {
    if addresses.is_empty() {
        place.refuse("it is empty: write at least one host:port");
    }
    let mut found = Vec::with_capacity(addresses.len());
    for (index, address) in addresses.iter().enumerate() {
        let place = &mut place.item(index);
        let (name, ips) = match &address.host {
            Host::Ip(ip) => (None, vec![*ip]),
            // It is not looked up.
            Host::Name(name) if !surroundings.world.site.reaches_addresses() => {
                let why = surroundings.reach.sentence(Refusal::Outside);
                place.leave_out(Reason::NotPermitted, format!("`{name}` is {why}; left out"));
                continue;
            }
            Host::Name(name) => {
                let lookup = surroundings.world.names.get(name.as_str());
                warn_of_lookup(name, lookup, place);
                let known = lookup.into_iter().flat_map(|lookup| lookup.addresses.iter().copied());
                (Some(name.as_str()), known.collect())
            }
        };
        let all = ips.into_iter().map(|ip| SocketAddr::new(ip.to_canonical(), address.port));
        let mut refused = Refused::default();
        found.extend(all.filter(|address| refused.admit(*address, Target::Anybody, &surroundings.reach)));
        refused.tell(name, &surroundings.reach, place);
    }
    found.sort_unstable();
    found.dedup();
    found
        .into_iter()
        .map(|address| {
            let stable_id = StableId::Address(address);
            Member { address, uid: None, stable_id, distance: Distance::Far, unready: None, last_resort: false }
        })
        .collect()
}

fn warn_of_lookup(host: &str, lookup: Option<&Lookup>, place: &mut Place) {
    let (known, problem) =
        lookup.map_or((false, None), |lookup| (!lookup.addresses.is_empty(), lookup.problem.as_ref()));
    let message = match (known, problem) {
        (true, None) => return,
        (true, Some(problem)) => format!("`{host}` {problem}; its last known addresses are used"),
        (false, Some(problem)) => {
            format!("`{host}` {problem}: correct the name, or write IP addresses; it has none until it is answered")
        }
        (false, None) => format!("`{host}` has not been looked up yet; it has no addresses until then"),
    };
    place.warn(Reason::NameNotResolved, message);
}

fn warn_of_no_endpoints(backend: &api::Backend, object: &ObjectKey, place: &mut Place) {
    let who = match &backend.service {
        Some(service) => {
            format!("Service {}/{} has no ready endpoint on port {}", object.namespace, service.name, service.port)
        }
        None => "it has no endpoint".into(),
    };
    place.warn(Reason::NoEndpoints, format!("{who}; connections are refused while no other backend has one"));
}

/// Sorted, and with weights that give each group its share.
fn weighted(groups: Vec<(u16, Vec<Endpoint>)>) -> Vec<Endpoint> {
    let shares: Vec<_> = groups
        .iter()
        // A weight of zero was refused; what is left of its backend counts like one without a weight.
        .map(|(weight, endpoints)| Share { weight: (*weight).max(1), endpoints: endpoints.len() })
        .collect();
    let weights = endpoint_weights(&shares);
    let mut endpoints: Vec<_> = groups
        .into_iter()
        .zip(weights)
        .flat_map(|((_, endpoints), weight)| endpoints.into_iter().map(move |endpoint| Endpoint { weight, ..endpoint }))
        .collect();
    endpoints.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    endpoints
}
