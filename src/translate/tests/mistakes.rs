//! Messages about mistakes: each names the field and the correction.

use super::*;

#[test]
fn a_correct_load_balancer_has_a_verdict_without_problems() {
    let world = load_balancer("pg", "{listeners: [{port: 5432}], backends: [{addresses: ['10.0.0.1:5432']}]}");
    let (snapshot, verdicts) = first(&world);
    assert_eq!(sentences(&verdicts, "pg"), Vec::<String>::new());
    assert_eq!(&*verdicts[&object("pg")].origin, "test.yaml");
    assert!(!verdicts[&object("pg")].refuses());
    assert!(snapshot.listeners.contains_key(&listener("pg", 5432)));
}

/// Fields of a listener with a mistake, and the message from its path on.
const LISTENER_MISTAKES: &[(&str, &str)] = &[
    ("port: 0", "port: 0 is out of range: write 1 to 65535"),
    ("tls: {}", "tls.certificateRefs: must not be empty: write the name of a Secret"),
    ("tls: {certificateRefs: []}", "tls.certificateRefs: must not be empty: write the name of a Secret"),
    (
        "tls: {certificateRefs: [{}]}",
        "tls.certificateRefs[0]: neither name nor files is set: write the name of a Secret, or two files; it is \
         ignored",
    ),
    (
        "tls: {certificateRefs: [{name: a, files: {certificate: a, key: b}}]}",
        "tls.certificateRefs[0]: both name and files are set: keep one of them",
    ),
    (
        "tls: {certificateRefs: [{name: pg-tls}]}",
        "tls.certificateRefs[0]: Secret shop/pg-tls does not exist: create it, or correct the reference",
    ),
    (
        "tls: {certificateRefs: [{name: pg-tls}]}",
        "tls.certificateRefs: none of the certificates is usable; the listener is not served",
    ),
    (
        "tls: {certificateRefs: [{name: x}], alpn: ['']}",
        "tls.alpn[0]: not an application protocol: write at most 63 characters, for example h2",
    ),
    (
        "tls: {certificateRefs: [{name: x}], alpn: [h2, 0123456789012345678901234567890123456789012345678901234567890123]}",
        "tls.alpn[1]: not an application protocol",
    ),
    ("proxyProtocol: {mode: Required, trustedNetworks: []}", "proxyProtocol.trustedNetworks: must not be empty"),
    (
        "proxyProtocol: {mode: Optional}",
        "proxyProtocol.trustedNetworks: must not be empty, since no peer could send the header",
    ),
    ("limits: {maxConnections: 0}", "limits.maxConnections: 0 is out of range: write 1 to 10000000"),
    ("limits: {maxConnectionsPerSource: 0}", "limits.maxConnectionsPerSource: 0 is out of range"),
    ("limits: {newConnections: {count: 0, per: 1m}}", "limits.newConnections.count: 0 is out of range"),
    (
        "limits: {newConnections: {count: 1, per: 999ms}}",
        "limits.newConnections.per: 999ms is out of range: write 1s to 1h",
    ),
    (
        "limits: {newConnections: {count: 1, per: 1h1ms}}",
        "limits.newConnections.per: 1h1ms is out of range: write 1s to 1h",
    ),
    (
        "limits: {newConnectionsPerSource: {count: 1, per: 1m, burst: 0}}",
        "limits.newConnectionsPerSource.burst: 0 is out of range: write 1 to 10000000; the listener is not served",
    ),
];

#[test]
fn an_invalid_listener_is_reported_and_dropped() {
    for (mistake, expected) in LISTENER_MISTAKES {
        let port = if mistake.starts_with("port") { "" } else { "port: 1, " };
        let world = load_balancer(
            "pg",
            &format!(
                "{{listeners: [{{name: wrong, {port}{mistake}}}, {{name: right, port: 2}}], \
                 backends: [{{addresses: ['10.0.0.1:1']}}]}}"
            ),
        );
        let (snapshot, verdicts) = first(&world);
        assert_reported(&verdicts, &format!("spec.listeners[0].{expected}"));
        assert_eq!(snapshot.listeners.keys().collect::<Vec<_>>(), [&listener("pg", 2)], "{mistake}");
    }
}

/// Fields of a load balancer with a mistake, and the message from its path on.
const COMMON_MISTAKES: &[(&str, &str)] = &[
    ("timeouts: {handshake: 0s}", "timeouts.handshake: 0s is out of range: write at least 1ms"),
    ("timeouts: {jitterPercent: 101}", "timeouts.jitterPercent: 101 is out of range: write 0 to 100"),
    ("tcpKeepalive: {idle: 1500ms}", "tcpKeepalive.idle: 1s500ms is not a whole number of seconds"),
    ("tcpKeepalive: {idle: 32768s}", "tcpKeepalive.idle: 9h6m8s is out of range: write 1s to 9h6m7s"),
    ("tcpKeepalive: {interval: 0s}", "tcpKeepalive.interval: 0s is out of range"),
    ("tcpKeepalive: {probes: 0}", "tcpKeepalive.probes: 0 is out of range: write 1 to 100"),
    ("drain: {shutdown: {spread: 61s}}", "drain.shutdown.spread: 1m1s is longer than `after`: write at most 1m"),
    (
        "drain: {endpointRemoved: {after: 2s, spread: 3s}}",
        "drain.endpointRemoved.spread: 3s is longer than `after`: write at most 2s",
    ),
    ("rebalance: {maxImbalancePercent: 0}", "rebalance.maxImbalancePercent: 0 is out of range: write 1 to 1000"),
    ("rebalance: {maxClosesPerMinute: 0}", "rebalance.maxClosesPerMinute: 0 is out of range: write 1 to 1000000"),
    ("rebalance: {minAge: 24h1s}", "rebalance.minAge: 24h1s is out of range: write at most 24h"),
    (
        "rebalance: {}, loadBalancing: {algorithm: Maglev}",
        "rebalance: has no effect with algorithm Maglev, where clients return to the same endpoint: remove it, or \
         write another algorithm",
    ),
    (
        "drain: {endpointUnhealthy: {maxPerSecond: 0}}",
        "drain.endpointUnhealthy.maxPerSecond: 0 is out of range: write 1 to 100000",
    ),
    (
        "drain: {endpointRemoved: {policy: Keep, spread: 1s}}",
        "drain.endpointRemoved.policy: after, spread and maxPerSecond have no effect with policy Keep: write \
         `policy: Close`, or remove them",
    ),
    (
        "drain: {listenerRemoved: {policy: Keep, maxPerSecond: 1}}",
        "drain.listenerRemoved.policy: after, spread and maxPerSecond have no effect with policy Keep",
    ),
    (
        "loadBalancing: {hash: {prefixV6: 64}}",
        "loadBalancing.hash: has no effect with algorithm RoundRobin: write `algorithm: Maglev`, or remove it",
    ),
    (
        "loadBalancing: {algorithm: Maglev, locality: {prefer: SameZone}}",
        "loadBalancing.locality: has no effect with algorithm Maglev, with which all processes choose the same \
         endpoint for a client: write another algorithm, or remove it",
    ),
    ("loadBalancing: {slowStart: 999ms}", "loadBalancing.slowStart: 999ms is out of range: write 1s to 1h"),
    (
        "loadBalancing: {algorithm: Maglev, slowStart: 30s}",
        "loadBalancing.slowStart: has no effect with algorithm Maglev: write another algorithm, or remove it",
    ),
    (
        "loadBalancing: {failover: {minUsablePercent: 50}}",
        "loadBalancing.failover: has no effect, since all backends have the same priority: write a higher \
         `priority` for the standby backends, or remove it",
    ),
    ("loadBalancing: {algorithm: Maglev, hash: {prefixV6: 0}}", "loadBalancing.hash.prefixV6: 0 is out of range"),
    ("healthCheck: {active: {interval: 99ms}}", "healthCheck.active.interval: 99ms is out of range: write 100ms to 1h"),
    ("healthCheck: {active: {interval: 1h1s}}", "healthCheck.active.interval: 1h1s is out of range"),
    (
        "healthCheck: {active: {interval: 2s, timeout: 3s}}",
        "healthCheck.active.timeout: 3s is longer than the interval: write at most 2s",
    ),
    ("healthCheck: {active: {timeout: 0s}}", "healthCheck.active.timeout: 0s is out of range: write at least 1ms"),
    ("healthCheck: {active: {healthyAfter: 0}}", "healthCheck.active.healthyAfter: 0 is out of range"),
    ("healthCheck: {active: {unhealthyAfter: 101}}", "healthCheck.active.unhealthyAfter: 101 is out of range"),
    ("healthCheck: {passive: {ejectFor: 999ms}}", "healthCheck.passive.ejectFor: 999ms is out of range"),
    (
        "healthCheck: {passive: {ejectFor: 1m, maxEjectFor: 30s}}",
        "healthCheck.passive.maxEjectFor: 30s is shorter than ejectFor: write at least 1m",
    ),
    ("healthCheck: {passive: {maxEjectFor: 0s}}", "healthCheck.passive.maxEjectFor: 0s is shorter than ejectFor"),
    ("healthCheck: {passive: {maxEjectedPercent: 101}}", "healthCheck.passive.maxEjectedPercent: 101 is out of"),
    ("healthCheck: {passive: {consecutiveFailures: 0}}", "healthCheck.passive.consecutiveFailures: 0 is out of"),
    ("connect: {timeout: 0s}", "connect.timeout: 0s is out of range: write at least 1ms"),
    ("connect: {timeout: 5s, deadline: 4s}", "connect.deadline: 4s is shorter than the timeout: write at least 5s"),
    ("connect: {attempts: 0}", "connect.attempts: 0 is out of range: write 1 to 10"),
    ("connect: {preconnect: {perEndpoint: 0}}", "connect.preconnect.perEndpoint: 0 is out of range"),
    ("connect: {preconnect: {perEndpoint: 1, idleTimeout: 99ms}}", "connect.preconnect.idleTimeout: 99ms is out of"),
];

#[test]
fn invalid_common_settings_of_a_new_object_drop_all_listeners() {
    for (mistake, expected) in COMMON_MISTAKES {
        let world = load_balancer(
            "pg",
            &format!("{{listeners: [{{port: 1}}], backends: [{{addresses: ['10.0.0.1:1']}}], {mistake}}}"),
        );
        let (snapshot, verdicts) = first(&world);
        assert_reported(&verdicts, &format!("spec.{expected}"));
        assert!(sentences(&verdicts, "pg")[0].ends_with("; none of its listeners is served"), "{mistake}");
        assert_eq!(sentences(&verdicts, "pg").len(), 1, "{mistake}: told once");
        assert!(snapshot.listeners.is_empty() && snapshot.upstreams.is_empty(), "{mistake}");
    }
}

#[test]
fn invalid_failover_of_a_new_object_refuses_it() {
    for (mistake, expected) in [
        ("minUsablePercent: 101", "minUsablePercent: 101 is out of range: write 0 to 100"),
        ("failback: {after: 24h1s}", "failback.after: 24h1s is out of range: write at most 24h"),
        (
            "failback: {policy: Never, after: 1m}",
            "failback.after: has no effect with policy Never: write `policy: Automatic`, or remove it",
        ),
    ] {
        let world = load_balancer(
            "pg",
            &format!(
                "{{listeners: [{{port: 1}}], loadBalancing: {{failover: {{{mistake}}}}}, backends: [\
                 {{name: a, addresses: ['10.0.0.1:1']}}, {{name: b, addresses: ['10.0.0.2:1'], priority: 1}}]}}"
            ),
        );
        let (snapshot, verdicts) = first(&world);
        assert_reported(&verdicts, &format!("spec.loadBalancing.failover.{expected}; none of its listeners is served"));
        assert!(snapshot.listeners.is_empty(), "{mistake}");
    }
}

#[test]
fn a_drain_for_failbacks_that_are_disabled_gets_a_warning() {
    let declared = |priority: u8| {
        load_balancer(
            "pg",
            &format!(
                "{{listeners: [{{port: 1}}], drain: {{failback: {{after: 1m}}}}, backends: [\
                 {{name: a, addresses: ['10.0.0.1:1']}}, {{name: b, addresses: ['10.0.0.2:1'], priority: {priority}}}]}}"
            ),
        )
    };
    let (_, verdicts) = first(&declared(0));
    assert_reported(
        &verdicts,
        "spec.drain.failback: has no effect, since all backends have the same priority: write a higher `priority`",
    );
    assert!(!verdicts[&object("pg")].refuses());
    assert_eq!(sentences(&first(&declared(1)).1, "pg"), Vec::<String>::new());
}

#[test]
fn an_invalid_backend_is_dropped() {
    for (mistake, expected) in [
        ("name: b", "the backend has neither service nor addresses: set one of them"),
        (
            "{name: b, service: {name: pg, port: 1}, addresses: ['10.0.0.2:1']}",
            "the backend has both service and addresses: keep one of them, or split it into two backends",
        ),
        ("{name: b, addresses: []}", "addresses: must not be empty: write at least one host:port"),
        ("{name: b, addresses: ['10.0.0.2:1'], weight: 0}", "weight: 0 is out of range: write 1 to 1000"),
        ("{name: b, addresses: ['10.0.0.2:1'], weight: 1001}", "weight: 1001 is out of range: write 1 to 1000"),
        (
            "{name: b, addresses: ['10.0.0.2:1'], resolveInterval: 999ms}",
            "resolveInterval: 999ms is out of range: write 1s to 24h",
        ),
        ("{addresses: ['10.0.0.2:1']}", "name: is missing: several backends require a name for each"),
        (
            "{name: b, service: {name: pg, port: 1}}",
            "service.name: Service shop/pg does not exist: create it, or correct the reference; it has no endpoints",
        ),
    ] {
        let mistake = if mistake.starts_with('{') { mistake.into() } else { format!("{{{mistake}}}") };
        let world = load_balancer(
            "pg",
            &format!("{{listeners: [{{port: 1}}], backends: [{{name: a, addresses: ['10.0.0.1:1']}}, {mistake}]}}"),
        );
        let (snapshot, verdicts) = first(&world);
        let colon = if expected.starts_with("the backend") { ": " } else { "." };
        assert_reported(&verdicts, &format!("spec.backends[1]{colon}{expected}"));
        assert_eq!(addresses(&snapshot, "pg"), ["10.0.0.1:1"], "{mistake}");
    }
}

#[test]
fn settings_that_refuse_all_or_trust_all_get_a_warning() {
    for (listener_part, expected) in [
        (
            "proxyProtocol: {mode: Optional, trustedNetworks: [0.0.0.0/0]}",
            "spec.listeners[0].proxyProtocol.trustedNetworks: 0.0.0.0/0 trusts all peers, so every client can forge",
        ),
        ("proxyProtocol: {mode: Optional, trustedNetworks: ['::/1', '8000::/1']}", "::/0 trusts all peers"),
        (
            "tls: {mode: Passthrough, minVersion: TLS1.3}",
            "spec.listeners[0].tls.minVersion: has no effect, since TLS of all connections is passed through: remove \
             it",
        ),
        ("access: {deny: [0.0.0.0/0, '::/0']}", "spec.listeners[0].access.deny: covers all allowed clients"),
        ("access: {allow: [10.1.0.0/16], deny: [10.0.0.0/9, 10.128.0.0/9]}", "covers all allowed clients"),
        ("access: {allow: []}", "spec.listeners[0].access: has no networks, so all clients may connect"),
        ("access: {}", "spec.listeners[0].access: has no networks, so all clients may connect"),
    ] {
        let world = load_balancer(
            "pg",
            &format!("{{listeners: [{{port: 1, {listener_part}}}], backends: [{{addresses: ['10.0.0.1:1']}}]}}"),
        );
        let (snapshot, verdicts) = first(&world);
        assert_reported(&verdicts, expected);
        assert!(!verdicts[&object("pg")].refuses(), "{listener_part}");
        assert_eq!(snapshot.listeners.len(), 1);
    }
    let world = load_balancer(
        "pg",
        "{listeners: [{port: 1, access: {allow: [10.1.0.0/16], deny: [10.1.2.0/24]}}], backends: [{addresses: ['10.0.0.1:1']}]}",
    );
    assert_eq!(sentences(&first(&world).1, "pg"), Vec::<String>::new());
}

#[test]
fn names_and_ports_that_are_used_twice_are_refused_wherever_they_are() {
    let world = load_balancer(
        "pg",
        "{listeners: [{name: a, port: 1}, {name: b, port: 1}, {name: a, port: 2}, {port: 3}, {name: c, port: 4}], \
          backends: [{name: x, addresses: ['10.0.0.1:1']}, {name: x, addresses: ['10.0.0.2:1']}, \
                     {name: y, addresses: ['10.0.0.3:1']}]}",
    );
    let (snapshot, verdicts) = first(&world);
    assert_eq!(snapshot.listeners.keys().collect::<Vec<_>>(), [&listener("pg", 4)]);
    assert_eq!(addresses(&snapshot, "pg"), ["10.0.0.3:1"]);
    for expected in [
        "spec.listeners[0].port: 1 is also the port of spec.listeners[1]: write each port once; the listener is not served",
        "spec.listeners[1].port: 1 is also the port of spec.listeners[0]",
        "spec.listeners[2].name: `a` is also the name of spec.listeners[0]: write another",
        "spec.listeners[3].name: is missing: several listeners require a name for each",
        "spec.backends[0].name: `x` is also the name of spec.backends[1]: write another; it has no endpoints",
        "spec.backends[1].name: `x` is also the name of spec.backends[0]",
    ] {
        assert_reported(&verdicts, expected);
    }
}

#[test]
fn a_mistake_on_the_command_line_is_named_by_its_flag() {
    let mut world = load_balancer(
        "pg",
        "{listeners: [{port: 1, tls: {certificateRefs: [{files: {certificate: a, key: b}}]}}], \
          backends: [{addresses: ['10.0.0.1:1']}]}",
    );
    world.load_balancers.get_mut(&object("pg")).unwrap().origin = crate::world::COMMAND_LINE.into();
    assert_reported(&first(&world).1, "--tls-certificate, --tls-key (spec.listeners[0].tls.certificateRefs[0]): file ");
}

#[test]
fn objects_without_listeners_or_backends_are_refused() {
    let world = load_balancer("pg", "{listeners: [], backends: []}");
    let (snapshot, verdicts) = first(&world);
    assert_reported(
        &verdicts,
        "spec.listeners: must not be empty: write at least one port; none of its listeners is served",
    );
    assert_reported(
        &verdicts,
        "spec.backends: must not be empty: write at least one backend; none of its listeners is served",
    );
    assert!(snapshot.listeners.is_empty());
}

#[test]
fn a_default_gives_way_to_what_is_declared() {
    let declared = |settings: &str| {
        let world = load_balancer(
            "pg",
            &format!("{{listeners: [{{port: 1}}], backends: [{{addresses: ['10.0.0.1:1']}}], {settings}}}"),
        );
        let (snapshot, verdicts) = first(&world);
        assert_eq!(sentences(&verdicts, "pg"), Vec::<String>::new(), "{settings}");
        snapshot.upstreams[&upstream("pg")].clone()
    };
    let seconds = std::time::Duration::from_secs;
    let connect = declared("connect: {deadline: 1s}").connect;
    assert_eq!((connect.timeout, connect.deadline), (seconds(1), seconds(1)));
    let connect = declared("connect: {timeout: 20s}").connect;
    assert_eq!((connect.timeout, connect.deadline), (seconds(20), seconds(20)));
    let passive = declared("healthCheck: {passive: {maxEjectFor: 10s}}").passive_check.unwrap();
    assert_eq!((passive.eject_for, passive.max_eject_for), (seconds(10), seconds(10)));
    let active = declared("healthCheck: {active: {interval: 500ms}}").active_check.clone().unwrap();
    assert_eq!(active.timeout.as_millis(), 500);
}

#[test]
fn settings_can_be_disabled() {
    let world = load_balancer(
        "pg",
        "{listeners: [{port: 1}], backends: [{addresses: ['10.0.0.1:1']}], tcpKeepalive: {idle: 0s}, \
          timeouts: {idle: 0s, halfClosed: 0s, maxDuration: 0s}, \
          healthCheck: {active: {type: None}, passive: {maxEjectedPercent: 0}}}",
    );
    let (snapshot, _) = first(&world);
    let (listener, upstream) = (&snapshot.listeners[&listener("pg", 1)], &snapshot.upstreams[&upstream("pg")]);
    let timeouts = listener.timeouts;
    assert_eq!((timeouts.idle, timeouts.half_closed, timeouts.max_duration), (None, None, None));
    assert_eq!((listener.keepalive, upstream.keepalive), (None, None));
    assert_eq!((&upstream.active_check, upstream.passive_check), (&None, None));
}

fn assert_reported(verdicts: &Verdicts, expected: &str) {
    let sentences = sentences(verdicts, "pg");
    assert!(sentences.iter().any(|sentence| sentence.contains(expected)), "{expected} is not in {sentences:#?}");
}

fn addresses(snapshot: &Snapshot, name: &str) -> Vec<String> {
    snapshot.upstreams[&upstream(name)].endpoints.iter().map(|endpoint| endpoint.key.address.to_string()).collect()
}

#[test]
fn unconnectable_declared_addresses_are_dropped_with_their_field() {
    for (address, kind) in [
        ("0.0.0.0", "an unspecified address"),
        ("[::]", "an unspecified address"),
        ("255.255.255.255", "a broadcast address"),
        ("224.0.0.1", "a multicast address"),
        ("[ff02::1]", "a multicast address"),
        ("[fe80::1]", "an IPv6 link-local address"),
    ] {
        let world = load_balancer(
            "pg",
            &format!("{{listeners: [{{port: 1}}], backends: [{{addresses: ['10.0.0.1:2', '{address}:2']}}]}}"),
        );
        let (snapshot, verdicts) = first(&world);
        let problem = &verdicts[&object("pg")].problems[0];
        assert_eq!((problem.severity, &*problem.field), (Severity::Refused, "spec.backends[0].addresses[1]"));
        let expected =
            format!("{address}:2 is {kind}, which is not connectable: write the address of a server; ignored");
        assert_eq!(problem.message, expected);
        assert_eq!(snapshot.upstreams[&upstream("pg")].endpoints.len(), 1);
    }
}

#[test]
fn a_listener_at_an_address_that_clients_cannot_reach_is_refused() {
    let of = |address: &str| {
        let spec =
            format!("{{listeners: [{{port: 1, address: '{address}'}}], backends: [{{addresses: ['10.0.0.1:2']}}]}}");
        first(&load_balancer("pg", &spec))
    };
    for (address, kind) in [
        ("255.255.255.255", "a broadcast address"),
        ("224.0.0.1", "a multicast address"),
        ("ff02::1", "a multicast address"),
        ("fe80::1", "an IPv6 link-local address"),
    ] {
        let (snapshot, verdicts) = of(address);
        let problem = &verdicts[&object("pg")].problems[0];
        assert_eq!((problem.severity, &*problem.field), (Severity::Refused, "spec.listeners[0].address"));
        let expected = format!("{address} is {kind}, at which no client can reach the listener: write an address of");
        assert!(problem.message.starts_with(&expected), "{}", problem.message);
        assert!(snapshot.listeners.is_empty());
    }
    for address in ["0.0.0.0", "::", "127.0.0.1", "169.254.1.1", "192.0.2.1", "2001:db8::1"] {
        let (snapshot, verdicts) = of(address);
        assert_eq!((sentences(&verdicts, "pg"), snapshot.listeners.len()), (vec![], 1), "{address}");
    }
}

#[test]
fn unconnectable_addresses_of_names_and_slices_are_dropped_with_a_warning() {
    let mut by_name = load_balancer("pg", "{listeners: [{port: 1}], backends: [{addresses: ['db.example:2']}]}");
    let addresses = ["10.0.0.1", "0.0.0.0", "::ffff:0.0.0.0", "ff02::1"].map(|address| address.parse().unwrap());
    let lookup = crate::world::Lookup { addresses: addresses.into(), ..Default::default() };
    by_name.names.insert("db.example".into(), lookup);
    let by_slice = world(
        "{kind: TcpLoadBalancer, apiVersion: tcplb.io/v1alpha1, metadata: {name: pg}, spec: {listeners: [{port: 1}], \
         backends: [{service: {name: db, port: 1}}]}}\n---\n{kind: Service, metadata: {name: db}, spec: {ports: [{port: \
         1}]}}\n---\n{kind: EndpointSlice, metadata: {name: db, labels: {kubernetes.io/service-name: db}}, addressType: \
         IPv4, ports: [{port: 2}], endpoints: [{addresses: [10.0.0.1]}, {addresses: [224.0.0.1]}]}",
    );
    for (world, sentence) in [
        (by_name, "db.example has 0.0.0.0:2 and 1 more, each of which is an unspecified address"),
        (by_slice, "EndpointSlice shop/db has 224.0.0.1:2, which is a multicast address"),
    ] {
        let (snapshot, verdicts) = first(&world);
        assert_reported(&verdicts, sentence);
        assert!(!verdicts[&object("pg")].refuses(), "{:?}", sentences(&verdicts, "pg"));
        assert_eq!(snapshot.upstreams[&upstream("pg")].endpoints.len(), 1);
    }
}
