//! Bind addresses of listeners, by mode.

use super::*;

/// A load balancer with one listener.
fn load_balancer(name: &str, uid: &str, created: u8, listener: &str) -> String {
    format!(
        "---\n{{kind: TcpLoadBalancer, apiVersion: tcplb.io/v1alpha1, metadata: {{name: {name}, uid: {uid}, \
         creationTimestamp: '2026-01-01T00:00:{created:02}Z'}}, spec: {{listeners: [{listener}], \
         backends: [{{service: {{name: pg, port: 1}}}}]}}}}\n"
    )
}

fn cluster(mode: &str, load_balancers: &[String]) -> World {
    let service = "---\n{kind: Service, metadata: {name: pg}, spec: {selector: {a: b}, ports: [{port: 1}]}}\n";
    world(&format!("{mode}\n{service}{}", load_balancers.concat()))
}

const RIGHT: &str = "{port: 5432}";
const WRONG: &str = "{port: 5432, limits: {maxConnections: 0}}";

fn bound(snapshot: &Snapshot) -> Vec<String> {
    snapshot.listeners.iter().map(|(key, listener)| format!("{} {}", key.object.name, listener.bind)).collect()
}

fn messages_of(verdicts: &Verdicts, name: &str) -> Vec<String> {
    let lines = sentences(verdicts, name).into_iter();
    lines.filter(|line| !line.contains("no ready endpoint")).collect()
}

const TWO_PORTS: &str = "{kind: Gateway, ports: {20001: {uid: u-a, port: 5432, object: shop/a}, \
                         20002: {uid: u-b, port: 5432, object: shop/b}, 20003: {uid: u-a, port: 5432, object: shop/a}}}";

#[test]
fn a_gateway_binds_the_ports_that_are_allocated() {
    let both = [load_balancer("a", "u-a", 0, RIGHT), load_balancer("b", "u-b", 0, RIGHT)];
    let (snapshot, verdicts) = first(&cluster(TWO_PORTS, &both));
    assert_eq!(bound(&snapshot), ["a [::]:20001", "b [::]:20002"], "the lowest, should there be several");
    assert_eq!((messages_of(&verdicts, "a"), messages_of(&verdicts, "b")), (vec![], vec![]));
    assert_eq!(&*snapshot.listeners[&listener("a", 5432)].name, "5432");
}

#[test]
fn a_gateway_validates_load_balancers_of_sidecars_without_serving_them() {
    let in_pods = load_balancer("a", "u-a", 0, RIGHT).replace("listeners:", "placement: Sidecar, listeners:");
    let wrong = load_balancer("c", "u-c", 0, WRONG).replace("listeners:", "placement: Sidecar, listeners:");
    let none_allowed = TWO_PORTS.replacen("{kind", "{tenancy: {loadBalancersPerNamespace: 1}, kind", 1);
    let all = [in_pods, load_balancer("b", "u-b", 1, RIGHT), wrong];
    let (snapshot, verdicts) = first(&cluster(&none_allowed, &all));
    assert_eq!(bound(&snapshot), ["b [::]:20002"], "and they use up nobody's share");
    assert_eq!(messages_of(&verdicts, "a"), Vec::<String>::new());
    assert_eq!(messages_of(&verdicts, "c").len(), 1);
}

#[test]
fn sidecars_may_use_the_same_port() {
    let sidecar = |name: &str, backend: &str| {
        format!(
            "---\n{{kind: TcpLoadBalancer, apiVersion: tcplb.io/v1alpha1, metadata: {{namespace: {name}, name: {name}, uid: {name}}}, spec: {{placement: Sidecar, \
             listeners: [{{port: 5432}}], backends: [{{addresses: ['{backend}']}}]}}}}\n"
        )
    };
    // The backends are the applications of two pods, not each other's listeners.
    let both = [sidecar("a", "127.0.0.1:5434"), sidecar("b", "127.0.0.1:5434")];
    let (_, verdicts) = first(&cluster(TWO_PORTS, &both));
    for name in ["a", "b"] {
        let verdict = &verdicts[&ObjectKey::new(name, name)];
        assert!(verdict.problems.is_empty(), "{name}: {:?}", verdict.problems);
    }
    let to_itself = [sidecar("a", "127.0.0.1:5432"), sidecar("b", "127.0.0.1:5434")];
    let (_, verdicts) = first(&cluster(TWO_PORTS, &to_itself));
    assert!(verdicts[&ObjectKey::new("a", "a")].refuses());
}

#[test]
fn a_listener_of_a_gateway_waits_for_its_port() {
    let freed =
        "{kind: Gateway, ports: {20001: {uid: u-a, port: 5432, object: shop/a, freed: '2026-01-01T00:00:00Z'}}}";
    let of_another = "{kind: Gateway, ports: {20001: {uid: u-x, port: 5432, object: shop/a}}}";
    for mode in ["{kind: Gateway}", freed, of_another] {
        let (snapshot, verdicts) = first(&cluster(mode, &[load_balancer("a", "u-a", 0, RIGHT)]));
        assert!(snapshot.listeners.is_empty() && snapshot.upstreams.is_empty(), "{mode}");
        let waits = "spec.listeners[0].port: waiting for a proxy port; until then the listener is not served";
        assert_eq!(messages_of(&verdicts, "a"), [waits]);
        let verdict = &verdicts[&object("a")];
        assert!(!verdict.refuses() && verdict.problems.iter().any(|problem| problem.reason == Reason::Pending));
    }
}

#[test]
fn an_invalid_listener_keeps_serving_only_on_its_own_port() {
    let (before, _) = first(&cluster(TWO_PORTS, &[load_balancer("a", "u-a", 0, RIGHT)]));
    let with = |mode: &str, uid: &str| {
        let (snapshot, verdicts) = then(&cluster(mode, &[load_balancer("a", uid, 0, WRONG)]), &before);
        assert!(verdicts[&object("a")].refuses());
        bound(&snapshot)
    };
    assert_eq!(with(TWO_PORTS, "u-a"), ["a [::]:20001"]);
    let given_away = "{kind: Gateway, ports: {20001: {uid: u-b, port: 5432, object: shop/b}}}";
    let moved = "{kind: Gateway, ports: {20003: {uid: u-a, port: 5432, object: shop/a}}}";
    for mode in ["{kind: Gateway}", given_away, moved] {
        assert_eq!(with(mode, "u-a"), Vec::<String>::new(), "{mode}");
    }
    // A recreated object has another uid, even if allocations still contain its predecessor.
    assert_eq!(with(TWO_PORTS, "u-new"), Vec::<String>::new());
    let (after, _) = then(&cluster(moved, &[load_balancer("a", "u-a", 0, RIGHT)]), &before);
    assert_eq!(bound(&after), ["a [::]:20003"], "it moves with its allocation");
}

#[test]
fn another_object_of_the_same_name_inherits_nothing() {
    let mode = "{kind: Host, tenancy: {hostPorts: [[1, 65535]]}}";
    let (before, _) = first(&cluster(mode, &[load_balancer("a", "u-a", 0, RIGHT)]));
    let (after, _) = then(&cluster(mode, &[load_balancer("a", "u-new", 9, WRONG)]), &before);
    assert!(after.listeners.is_empty() && after.upstreams.is_empty());
    let (after, _) = then(&cluster(mode, &[load_balancer("a", "u-a", 0, WRONG)]), &before);
    assert!(after.configures_the_same(&before));
}

#[test]
fn a_sidecar_binds_its_address_at_the_declared_port() {
    for (address, expected) in [("127.0.0.1", "a 127.0.0.1:5432"), ("'::ffff:10.0.0.1'", "a 10.0.0.1:5432")] {
        let mode = format!("{{kind: Sidecar, address: {address}}}");
        assert_eq!(bound(&first(&cluster(&mode, &[load_balancer("a", "u-a", 0, RIGHT)])).0), [expected]);
    }
}

#[test]
fn an_address_cannot_be_chosen_in_a_cluster() {
    for mode in [TWO_PORTS, "{kind: Sidecar, address: 127.0.0.1}", "{kind: Host, tenancy: {hostPorts: [[1, 65535]]}}"] {
        let addressed = load_balancer("a", "u-a", 0, "{port: 5432, address: 10.0.0.1}");
        let (snapshot, verdicts) = first(&cluster(mode, &[addressed]));
        assert!(snapshot.listeners.is_empty());
        let expected =
            "spec.listeners[0].address: is not supported in a cluster: remove it; the listener is not served";
        assert_eq!(messages_of(&verdicts, "a"), [expected]);
    }
}

#[test]
fn a_node_port_belongs_to_the_older_object() {
    let mode = "{kind: Host, tenancy: {hostPorts: [[1, 65535]]}}";
    let world = |a: (u8, &str), b: (u8, &str)| {
        cluster(mode, &[load_balancer("a", "u-a", a.0, a.1), load_balancer("b", "u-b", b.0, b.1)])
    };
    let alone = |name| first(&cluster(mode, &[load_balancer(name, &format!("u-{name}"), 5, RIGHT)])).0;
    for (a, b, owner) in [
        ((5, RIGHT), (5, RIGHT), Some("a [::]:5432")),
        ((6, RIGHT), (5, RIGHT), Some("b [::]:5432")),
        // The load balancer owns the port even where it serves nothing there: other replicas may have served it before.
        ((4, WRONG), (5, RIGHT), None),
    ] {
        for previous in [Snapshot::default(), alone("a"), alone("b")] {
            let (snapshot, verdicts) = then(&world(a, b), &previous);
            let owns = if a.0 <= b.0 { "a" } else { "b" };
            let loser = if owns == "a" { "b" } else { "a" };
            let kept = format!("{owns} [::]:5432");
            let expected = owner.or(previous.listeners.contains_key(&listener(owns, 5432)).then_some(&kept));
            assert_eq!(bound(&snapshot), Vec::from_iter(expected.map(str::to_owned)), "{a:?} {b:?}");
            let expected = format!(
                "spec.listeners[0].port: 5432 of the nodes belongs to shop/{owns}, which is older: write another port; \
                 the listener is not served"
            );
            assert_eq!(messages_of(&verdicts, loser), [expected]);
        }
    }
}

#[test]
fn only_allowed_ports_and_namespaces_have_ports_of_the_nodes() {
    let host = |tenancy: &str| format!("{{kind: Host, tenancy: {{{tenancy}}}}}");
    for (tenancy, expected) in [
        ("hostPorts: [[5000, 6000]]", None),
        ("hostPorts: [[80, 80], [5432, 5432]], hostNamespaces: [shop]", None),
        (
            "hostPorts: [[80, 80], [8000, 8999]]",
            Some(
                "spec.listeners[0].port: 5432 may not be opened on the nodes: the administrator allows 80, 8000-8999; the \
                 listener is not served",
            ),
        ),
        (
            "hostPorts: [[5432, 5432]], hostNamespaces: [games, iot]",
            Some(
                "spec.listeners[0].port: namespace shop may not open ports on the nodes: the administrator allows \
                 games, iot; the listener is not served",
            ),
        ),
        (
            "",
            Some(
                "spec.listeners[0].port: 5432 may not be opened on the nodes: the administrator allows none; the listener \
                 is not served",
            ),
        ),
    ] {
        let (snapshot, verdicts) = first(&cluster(&host(tenancy), &[load_balancer("a", "u-a", 0, RIGHT)]));
        assert_eq!(messages_of(&verdicts, "a"), Vec::from_iter(expected.map(str::to_owned)));
        assert_eq!(snapshot.listeners.is_empty(), expected.is_some());
        let reasons: Vec<_> = verdicts[&object("a")].problems.iter().map(|problem| problem.reason).collect();
        assert_eq!(reasons.contains(&Reason::NotPermitted), expected.is_some());
    }
}
