//! The applied configuration as JSON. It contains no secrets.

use std::{fs, sync::Arc};

use jiff::{Timestamp, Unit};
use tokio::time::Instant;

use super::{
    instance::Instance,
    moment::{LiveListeners, Moment},
};
use crate::{
    model::{
        self, BindState, DrainView, EndpointView, FormerEndpointView, FormerState, HostLimits, ListenerKey,
        ListenerView, LoadBalancerView, ObjectKey, Picture, ProbeCounts, ProblemView, Unready, UpstreamKey,
    },
    printable::limited,
    proxy::{self, Monitor, View, accounting::CloseReason},
    state::ReadinessState,
    translate::{Severity, Verdict},
    upstream::{Endpoint, FormerEndpoint},
};

/// The document with all settings.
pub type AppliedPicture = Picture<Arc<model::Listener>, Arc<model::UpstreamConfig>>;

pub type AppliedLoadBalancer = LoadBalancerView<Arc<model::Listener>, Arc<model::UpstreamConfig>>;
pub type AppliedListener = ListenerView<Arc<model::Listener>>;

/// The current document.
pub fn of(monitor: &Monitor, state: &ReadinessState, instance: &Instance) -> AppliedPicture {
    let moment = Moment::now(monitor, state);
    let listeners = moment.listeners();
    let configuration = &moment.configuration;
    Picture {
        process: Some(instance.view(state)),
        generation: moment.view.snapshot.generation,
        load_balancers: configuration
            .verdicts
            .iter()
            .map(|(key, verdict)| load_balancer(key, verdict, &moment, &listeners))
            .collect(),
        problems: configuration.problems.iter().map(bounded).collect(),
        draining: moment.draining.iter().map(draining).collect(),
        host: Some(host_limits(|path| fs::read_to_string(path).ok())),
    }
}

/// The view of a drain in progress.
pub fn draining(departing: &proxy::Draining) -> DrainView {
    let proxy::Draining { object, reason, resource, until } = departing;
    let now = Instant::now();
    let (left, late) = (until.saturating_duration_since(now), now.saturating_duration_since(*until));
    let until = Timestamp::now().checked_add(left).and_then(|until| until.checked_sub(late));
    DrainView {
        load_balancer: bounded(object),
        what: bounded(resource),
        id: resource.endpoint_id(),
        reason: reason.label().into(),
        active: resource.open(),
        until: until.and_then(|until| until.round(Unit::Second)).ok(),
    }
}

/// The view of a load balancer.
pub fn load_balancer(
    object: &ObjectKey,
    verdict: &Verdict,
    moment: &Moment,
    listeners: &LiveListeners,
) -> AppliedLoadBalancer {
    let view = &moment.view;
    let applied = view.snapshot.upstreams.get(&UpstreamKey { object: object.clone() });
    let upstream = moment.upstream(object);
    let (endpoints, former) = upstream.map(|upstream| upstream.endpoints_and_former()).unwrap_or_default();
    let left_out = view.report.left_out_of(object).into_iter();
    let left_out = left_out.map(|sentence| ProblemView { severity: label(Severity::Refused).into(), sentence });
    LoadBalancerView {
        name: bounded(object),
        origin: bounded(&verdict.origin),
        problems: verdict.problems.iter().map(problem).chain(left_out).collect(),
        listeners: self::listeners(object, view, listeners),
        endpoints: endpoints.iter().map(|endpoint| member(endpoint, applied)).collect(),
        applied: applied.cloned(),
        former_endpoints: Some(former_endpoints(&former)),
    }
}

/// The views of the former endpoints that have open connections.
fn former_endpoints(former: &[FormerEndpoint]) -> Vec<FormerEndpointView> {
    let views = former.iter().map(|FormerEndpoint { endpoint, unready }| FormerEndpointView {
        backend: endpoint.key().backend.to_string(),
        address: endpoint.address().to_string(),
        id: Some(endpoint.id()),
        state: former_state(*unready),
        active: endpoint.active(),
        connections: endpoint.connections(),
    });
    views.filter(|view| view.active > 0).collect()
}

fn former_state(unready: Option<Unready>) -> FormerState {
    match unready {
        Some(Unready::Drained) => FormerState::Drained,
        Some(Unready::Terminating) => FormerState::Terminating,
        Some(Unready::NotReady) => FormerState::NotReady,
        None => FormerState::Removed,
    }
}

/// The views of the listeners of a load balancer.
pub fn listeners(object: &ObjectKey, view: &View, live: &LiveListeners) -> Vec<AppliedListener> {
    view.snapshot.listeners_of(object).map(|(key, listener)| port(key, listener, view, live)).collect()
}

fn problem(problem: &crate::translate::Problem) -> ProblemView {
    ProblemView { severity: label(problem.severity).into(), sentence: problem.to_string() }
}

fn label(severity: Severity) -> &'static str {
    match severity {
        Severity::Refused => "refused",
        Severity::Warning => "warning",
    }
}

fn port(key: &ListenerKey, listener: &Arc<model::Listener>, view: &View, live: &LiveListeners) -> AppliedListener {
    let (bound, failure) = match view.report.listeners.get(key) {
        Some(BindState::Bound(address)) => (Some(address.to_string()), None),
        Some(BindState::Failed(sentence)) => (None, Some(bounded(sentence))),
        None => (None, None),
    };
    let totals = live.get(key).map(|live| live.counters.totals()).unwrap_or_default();
    let failures = CloseReason::ALL.into_iter().filter(|reason| reason.is_failure());
    let failures = failures.map(|reason| (reason.label().into(), totals.closed(reason)));
    ListenerView {
        port: key.port,
        bound,
        failure,
        active: totals.active(),
        accepted: totals.accepted,
        bytes_to_backend: totals.bytes_to_backend,
        bytes_to_client: totals.bytes_to_client,
        failures: failures.filter(|(_, count)| *count > 0).collect(),
        applied: listener.clone(),
    }
}

/// The view of an endpoint. `applied` is the configuration of its upstream.
pub fn member(endpoint: &Endpoint, applied: Option<&Arc<model::UpstreamConfig>>) -> EndpointView {
    let state = endpoint.state();
    // The endpoints are sorted. One that was just removed is absent.
    let config = applied.and_then(|applied| {
        let place = applied.endpoints.binary_search_by(|config| config.key.cmp(endpoint.key())).ok()?;
        Some(&applied.endpoints[place])
    });
    EndpointView {
        backend: endpoint.key().backend.to_string(),
        address: endpoint.address().to_string(),
        id: Some(endpoint.id()),
        usable: endpoint.usable(),
        in_service: endpoint.in_service(),
        weight: config.map_or(0, |config| config.weight.value()),
        priority: endpoint.backend().priority.0,
        share: endpoint.share(),
        near: endpoint.near(),
        healthy: state.healthy,
        check: check(endpoint),
        ejected_until: state.ejected_until.map(|until| format!("{until:.0}")),
        last_failure: state.last_failure.map(|failure| format!("{:.0}: {}", failure.at, bounded(&failure.reason))),
        active: endpoint.active(),
        connections: endpoint.connections(),
        connect_failures: endpoint.connect_failures(),
        preconnected: endpoint.pool_figures().idle,
    }
}

fn check(endpoint: &Endpoint) -> Option<ProbeCounts> {
    let check = endpoint.backend().active_check.clone()?;
    let (passed, failed) = (endpoint.probes_passed(), endpoint.probes_failed());
    Some(ProbeCounts { type_: check.probe.name().into(), passed, failed })
}

/// Reads the limits from files of the kernel. Pods of other network namespaces have other values.
fn host_limits(read: impl Fn(&str) -> Option<String>) -> HostLimits {
    let numbers = |path: &str| -> Vec<u64> {
        let text = read(path).unwrap_or_default();
        text.split_whitespace().filter_map(|number| number.parse().ok()).collect()
    };
    let local_ports = match numbers("/proc/sys/net/ipv4/ip_local_port_range")[..] {
        [first, last] => u16::try_from(first).ok().zip(u16::try_from(last).ok()),
        _ => None,
    };
    HostLimits {
        local_ports,
        reserved_ports: port_ranges(&read("/proc/sys/net/ipv4/ip_local_reserved_ports").unwrap_or_default()),
        conntrack_entries: numbers("/proc/sys/net/netfilter/nf_conntrack_count").first().copied(),
        conntrack_max: numbers("/proc/sys/net/netfilter/nf_conntrack_max").first().copied(),
    }
}

/// Reads a list of ports and of ranges in the format of the kernel: `8080,9148-9200`.
fn port_ranges(text: &str) -> Vec<(u16, u16)> {
    let range = |part: &str| -> Option<(u16, u16)> {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some((first.parse().ok()?, last.parse().ok()?))
    };
    text.trim().split(',').filter_map(range).collect()
}

/// Limits a text from outside, which may have any length. Invisible characters are escaped when the document is
/// written.
pub fn bounded(text: &(impl ToString + ?Sized)) -> String {
    limited(&text.to_string(), MAX_TEXT).into_owned()
}

/// The maximum length of a text.
const MAX_TEXT: usize = 4096;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
        time::{sleep, timeout},
    };

    use super::*;
    use crate::admin::report::tests::rig::{Rig, free_port, instance, spec};

    #[tokio::test]
    async fn connections_that_a_drained_endpoint_keeps_are_in_the_snapshot() {
        let (mut rig, port) = (Rig::start(), free_port());
        let backend = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = backend.local_addr().unwrap().to_string();
        let mut spec = spec(port);
        spec["backends"] = json!([{"name": "db", "addresses": [address]}]);
        rig.declare("a", Some(("uid", 1)), spec.clone());
        rig.apply().await;
        let mut client = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (mut server, _) = timeout(Duration::from_secs(5), backend.accept()).await.unwrap().unwrap();
        // The answer shows that the connection is established.
        server.write_all(b"a").await.unwrap();
        client.read_exact(&mut [0]).await.unwrap();
        let id = rig.proxy.monitor().view().upstreams[0].1.endpoints()[0].id();

        spec["drainedEndpoints"] = json!([address]);
        rig.declare("a", Some(("uid", 2)), spec);
        rig.apply().await;
        let former = || {
            let picture = of(&rig.proxy.monitor(), &rig.state, &instance());
            let document: Value = serde_json::to_value(&picture).unwrap();
            document["loadBalancers"][0]["formerEndpoints"].clone()
        };
        let view = json!({
            "backend": "db", "address": address, "id": id, "state": "drained", "active": 1, "connections": 1,
        });
        assert_eq!(former(), json!([view]), "it has the id that it had before");
        drop((client, server));
        let closed = async {
            while former() != json!([]) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(5), closed).await.unwrap();
    }

    #[test]
    fn host_limits_are_read_and_optional() {
        let file = |path: &str| match path.rsplit('/').next() {
            Some("ip_local_port_range") => Some("32768\t60999\n".into()),
            Some("ip_local_reserved_ports") => Some("8080,9148-9200\n".into()),
            Some("nf_conntrack_count") => Some("17\n".into()),
            _ => None,
        };
        let limits = host_limits(file);
        assert_eq!(limits.local_ports, Some((32768, 60999)));
        assert_eq!(limits.reserved_ports, [(8080, 8080), (9148, 9200)]);
        assert_eq!((limits.conntrack_entries, limits.conntrack_max), (Some(17), None));
        assert_eq!(host_limits(|_| None), HostLimits::default());
        assert_eq!(host_limits(|_| Some("1 2 3".into())).local_ports, None);
    }

    #[test]
    fn lists_of_ports_are_read_in_the_format_of_the_kernel() {
        let cases: [(&str, &[(u16, u16)]); 4] = [
            ("\n", &[]),
            ("8080\n", &[(8080, 8080)]),
            ("1-2,20000-24999,65535\n", &[(1, 2), (20000, 24999), (65535, 65535)]),
            ("a,5-,70000,7\n", &[(7, 7)]),
        ];
        for (text, expected) in cases {
            assert_eq!(port_ranges(text), expected, "{text}");
        }
    }
}
