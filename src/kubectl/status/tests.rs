//! Golden tests: facts in, all formats out.

use clap::Parser;
use serde_json::{Value, json};

use super::{
    document::{EndpointCondition, ReplicaDetails},
    *,
};
use crate::{
    cli::{KubectlCli, KubectlCommand},
    kubectl::{
        admin_pages::{PageError, ReplicaPages},
        golden::assert_golden,
        output::plain,
        permission::Permission,
        replica::{ReplicaPod, tests::pod},
    },
};

const NOW: &str = "2026-07-01T12:00:00Z";

fn flags(line: &str) -> StatusFlags {
    match KubectlCli::parse_from(line.split(' ')).kubectl.command {
        KubectlCommand::Status(flags) => flags,
        other => panic!("{other:?}"),
    }
}

fn object(name: &str, uid: &str, status: Value) -> Value {
    json!({
        "apiVersion": "tcplb.io/v1alpha1",
        "kind": "TcpLoadBalancer",
        "metadata": {"namespace": "shop", "name": name, "uid": uid, "generation": 3},
        "spec": {
            "listeners": [{"port": 5432}],
            "backends": [{"name": "db", "service": {"name": "db", "port": 5432}}],
        },
        "status": status,
    })
}

fn condition(type_: &str, status: &str, reason: &str, message: &str) -> Value {
    json!({
        "type": type_, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": "2026-07-01T11:00:00Z", "observedGeneration": 3,
    })
}

/// A load balancer with a problem, and one without a status.
fn load_balancers() -> Value {
    let unhealthy = "backend db: 1 of 2 endpoints is unhealthy";
    let mut postgres = object(
        "postgres",
        "u-1",
        json!({
            "observedGeneration": 3,
            "summary": {"ports": "5432", "address": "10.96.34.18", "ready": "1/2", "status": "Unhealthy"},
            "addresses": [{"type": "IPAddress", "value": "10.96.34.18"}],
            "listeners": [{"port": 5432, "name": "pg", "boundPort": 20000, "conditions": []}],
            "backends": [{"name": "db", "endpoints": 2, "healthy": 1, "drained": 2}],
            "conditions": [
                condition("Ready", "False", "Unhealthy", unhealthy),
                condition("Accepted", "True", "Accepted", "the declaration is valid"),
                condition("BackendsHealthy", "False", "Unhealthy", unhealthy),
                condition("CertificatesValid", "True", "ExpiresSoon", "the certificate of Secret shop/tls is valid until \
                    2026-07-11T12:00:00Z: replace it before then"),
            ],
        }),
    );
    postgres["spec"]["drainedEndpoints"] = json!(["db-0", "10.0.0.7:5432"]);
    json!([postgres, object("new", "u-2", json!({}))])
}

fn endpoint(address: &str, more: Value) -> Value {
    let mut value = json!({
        "backend": "db", "address": address, "id": id(address), "usable": true, "inService": true, "share": 100,
        "near": false, "healthy": true, "active": 12, "connections": 345, "preconnected": 2,
    });
    value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    value
}

fn former(address: &str, state: &str, active: u32) -> Value {
    json!({
        "backend": "db", "address": address, "id": id(address), "state": state, "active": active, "connections": 99,
    })
}

/// The last byte of an IPv4 address with a port.
fn id(address: &str) -> u8 {
    address.parse::<std::net::SocketAddrV4>().unwrap().ip().octets()[3]
}

fn drains() -> Value {
    let drain = |load_balancer: &str, address: &str, reason: &str, active: u32| {
        json!({
            "loadBalancer": load_balancer, "what": address, "id": id(address), "reason": reason, "active": active,
        })
    };
    let mut due = drain("shop/postgres", "10.0.0.7:5432", "endpoint_drained", 2);
    due["until"] = "2026-07-01T12:00:30Z".into();
    json!([
        drain("shop/postgres", "10.0.0.2:5432", "endpoint_unhealthy", 1),
        due,
        drain("shop/postgres", "10.0.0.9:5432", "endpoint_removed", 4),
        {"loadBalancer": "shop/postgres", "what": "shop/postgres:5433", "reason": "listener_removed", "active": 2},
        drain("shop/other", "10.0.0.8:5432", "endpoint_removed", 8),
    ])
}

fn pages() -> ReplicaPages {
    let report = json!({"loadBalancers": {"u-1": {
        "generation": 3,
        "whole": 3,
        "listeners": {"5432": {"bound": 20000}},
        "backends": {"db": {"endpoints": 2, "usable": 1}},
        "certificates": {"Secret shop/tls": "2026-07-11T12:00:00Z", "Secret shop/old": "2026-06-30T12:00:01Z"},
        "certificatesForBackends": {"Secret shop/client": "2027-07-01T12:00:00Z"},
    }}});
    let picture = json!({
        "generation": 7,
        "problems": [],
        "loadBalancers": [{
            "name": "shop/postgres",
            "origin": "cluster",
            "problems": [],
            "listeners": [{
                "port": 5432, "bound": "[::]:20000", "active": 15, "accepted": 400, "applied": {},
                "failures": {"connect_failed": 3, "listener_full": 12},
            }],
            "endpoints": [
                endpoint("10.0.0.1:5432", json!({"check": {"type": "TCP", "passed": 40, "failed": 0}, "near": true})),
                endpoint("10.0.0.2:5432", json!({
                    "usable": false,
                    "healthy": false,
                    "check": {"type": "TCP", "passed": 30, "failed": 3},
                    "lastFailure": "2026-07-01T11:59:58Z: connection refused",
                    "active": 1,
                })),
                endpoint("10.0.0.3:5432", json!({"inService": false, "share": 40, "active": 0})),
                endpoint("10.0.0.4:5432", json!({
                    "usable": false,
                    "ejectedUntil": "2026-07-01T12:00:20Z",
                    "lastFailure": "2026-07-01T11:59:50Z: timed out",
                })),
                endpoint("10.0.0.5:5432", json!({
                    "usable": false, "healthy": false, "check": {"type": "TCP", "passed": 0, "failed": 0},
                })),
            ],
            "formerEndpoints": [
                former("10.0.0.6:5432", "drained", 3),
                former("10.0.0.7:5432", "drained", 2),
                former("10.0.0.8:5432", "notReady", 0),
            ],
        }],
        "draining": drains(),
    });
    ReplicaPages {
        report: serde_json::from_value(report).unwrap(),
        picture: serde_json::from_value(picture).unwrap(),
        date: None,
    }
}

fn facts() -> StatusFacts {
    let replica = |name: &str| ReplicaPod::read(&pod(name, &[])).unwrap();
    let denied = Permission::new("create", "", "pods/portforward").in_namespace(Some("tcplb-system"));
    let denied = PageError::from(crate::kubectl::permission::AccessError::Denied(denied));
    let other_class = ReplicaPod::read(&pod("fast-1", &["--class=fast"])).unwrap();
    StatusFacts {
        load_balancers: serde_json::from_value(load_balancers()).unwrap(),
        replicas: vec![
            (replica("tcplb-1"), Ok(pages())),
            (replica("tcplb-2"), Err(denied)),
            (other_class, Ok(pages())),
        ],
        notes: Vec::new(),
    }
}

fn rendered(line: &str, facts: &StatusFacts) -> String {
    render(&StatusDocument::new(facts, NOW.parse().unwrap()), &flags(line)).unwrap()
}

#[test]
fn the_status_of_a_load_balancer_in_all_formats() {
    let mut facts = facts();
    facts.load_balancers.pop();
    for output in ["text", "wide", "json", "yaml"] {
        let text = rendered(&format!("kubectl-tcplb status postgres -o {output}"), &facts);
        assert_golden(&format!("status.{output}"), &plain(&text));
    }
}

#[test]
fn drained_endpoints_without_connections_are_shown_with_their_number() {
    let shown = |declared: Value, backends: Value| {
        let mut facts = facts();
        facts.load_balancers.pop();
        facts.replicas.clear();
        let object = &mut facts.load_balancers[0];
        object.spec.drained_endpoints = serde_json::from_value(declared).unwrap();
        object.status.as_mut().unwrap().backends = serde_json::from_value(backends).unwrap();
        let text = plain(&rendered("kubectl-tcplb status postgres", &facts));
        text.lines().find(|line| line.starts_with("Drained:")).map(str::to_owned)
    };
    let backend = |name: &str, drained: Value| json!({"name": name, "endpoints": 2, "healthy": 2, "drained": drained});
    let (db, spare) = (backend("db", json!(1)), backend("spare", json!(2)));
    let none = backend("db", Value::Null);
    for (declared, backends, expected) in [
        (json!([]), json!([none]), None),
        (json!(["db-0"]), json!([none]), Some("Drained:     db-0")),
        (json!(["db-0", "10.0.0.7"]), json!([db]), Some("Drained:     db-0, 10.0.0.7 (endpoints by backend: db 1)")),
        (
            json!(["[2001:db8::7]:5432"]),
            json!([db, spare]),
            Some("Drained:     [2001:db8::7]:5432 (endpoints by backend: db 1, spare 2)"),
        ),
    ] {
        assert_eq!(shown(declared, backends).as_deref(), expected);
    }
}

#[test]
fn the_list_of_load_balancers_in_both_widths() {
    let facts = facts();
    assert_golden("statuses.text", &plain(&rendered("kubectl-tcplb status", &facts)));
    assert_golden("statuses.wide", &plain(&rendered("kubectl-tcplb status -A -o wide", &facts)));
}

/// The state in the only replica, with these endpoints, former endpoints and drains in its snapshot.
fn replica(endpoints: Value, former: Value, draining: Value) -> ReplicaDetails {
    let mut pages = pages();
    pages.picture.load_balancers[0].endpoints = serde_json::from_value(endpoints).unwrap();
    pages.picture.load_balancers[0].former_endpoints = serde_json::from_value(former).unwrap();
    pages.picture.draining = serde_json::from_value(draining).unwrap();
    let mut facts = facts();
    facts.load_balancers.pop();
    facts.replicas.truncate(1);
    facts.replicas[0].1 = Ok(pages);
    let document = StatusDocument::new(&facts, NOW.parse().unwrap());
    document.load_balancers.into_iter().flat_map(|object| object.replicas).next().unwrap()
}

fn drain(id: Option<u64>, address: &str, reason: &str, until: &str) -> Value {
    json!({
        "loadBalancer": "shop/postgres", "what": address, "id": id, "reason": reason, "active": 1, "until": until,
    })
}

fn with_id(id: u64, mut endpoint: Value) -> Value {
    endpoint["id"] = id.into();
    endpoint
}

/// The states and drains of the rows.
fn rows(replica: &ReplicaDetails) -> Vec<(EndpointCondition, Option<&str>)> {
    replica.endpoints.iter().map(|endpoint| (endpoint.state, endpoint.draining.as_deref())).collect()
}

#[test]
fn endpoints_show_the_drain_that_is_due_first() {
    let (earlier, later) = ("2026-07-01T12:00:10Z", "2026-07-01T12:00:20Z");
    let (address, due): (&str, Timestamp) = ("10.0.0.6:5432", earlier.parse().unwrap());
    let drain = |reason, until| drain(Some(6), address, reason, until);
    let drains = json!([drain("failback", later), drain("endpoint_drained", earlier)]);
    let shown = replica(json!([]), json!([former(address, "drained", 1)]), drains);
    let [endpoint] = &shown.endpoints[..] else { panic!("{shown:?}") };
    assert_eq!((&*endpoint.backend, endpoint.state), ("db", EndpointCondition::Drained));
    assert_eq!((endpoint.draining.as_deref(), endpoint.draining_until), (Some("endpoint_drained"), Some(due)));
}

#[test]
fn all_states_of_former_endpoints_are_shown() {
    use EndpointCondition::{Drained, NotReady, Removed, Terminating};
    let states = ["drained", "terminating", "notReady", "removed", "frozen"];
    let former = states.map(|state| former("10.0.0.6:5432", state, 1));
    let shown = replica(json!([]), json!(former), json!([]));
    let expected = [Drained, Terminating, NotReady, Removed, Removed].map(|state| (state, None::<&str>));
    assert_eq!(rows(&shown), expected);
}

const ADDRESS: &str = "10.0.0.1:5432";

#[test]
fn a_drain_is_shown_for_one_of_two_backends_with_its_address() {
    let endpoints = json!([
        with_id(1, endpoint(ADDRESS, json!({}))),
        with_id(2, endpoint(ADDRESS, json!({"backend": "spare", "usable": false}))),
    ]);
    let shown = replica(endpoints, json!([]), json!([drain(Some(2), ADDRESS, "endpoint_unhealthy", NOW)]));
    let unhealthy = (EndpointCondition::Unusable, Some("endpoint_unhealthy"));
    assert_eq!(rows(&shown), [(EndpointCondition::Usable, None), unhealthy]);
}

#[test]
fn a_drain_is_shown_for_one_of_two_former_endpoints_with_its_address() {
    let former = json!([with_id(1, former(ADDRESS, "drained", 1)), with_id(2, former(ADDRESS, "removed", 1))]);
    let shown = replica(json!([]), former, json!([drain(Some(2), ADDRESS, "endpoint_removed", NOW)]));
    let removed = (EndpointCondition::Removed, Some("endpoint_removed"));
    assert_eq!(rows(&shown), [(EndpointCondition::Drained, None), removed]);
}

#[test]
fn a_drain_of_the_previous_object_of_a_name_has_its_own_row() {
    let endpoints = json!([with_id(2, endpoint(ADDRESS, json!({})))]);
    let shown = replica(endpoints, json!([]), json!([drain(Some(1), ADDRESS, "endpoint_drained", NOW)]));
    let removed = (EndpointCondition::Removed, Some("endpoint_drained"));
    assert_eq!(rows(&shown), [(EndpointCondition::Usable, None), removed]);
    let connections: Vec<u32> = shown.endpoints.iter().map(|endpoint| endpoint.connections).collect();
    assert_eq!(connections, [12, 1]);
}

#[test]
fn replicas_of_older_versions_show_draining_endpoints_only() {
    use EndpointCondition::{Drained, Removed, Terminating, Unusable};
    let mut old = endpoint(ADDRESS, json!({"usable": false}));
    old["id"] = Value::Null;
    let without_connections = json!({
        "loadBalancer": "shop/postgres", "what": "10.0.0.9:5432", "reason": "endpoint_removed", "active": 0,
    });
    let shown = replica(
        json!([old]),
        Value::Null,
        json!([
            drain(None, ADDRESS, "endpoint_unhealthy", NOW),
            drain(None, "10.0.0.6:5432", "endpoint_drained", NOW),
            drain(None, "10.0.0.7:5432", "endpoint_terminating", NOW),
            drain(None, "10.0.0.8:5432", "endpoint_removed", NOW),
            without_connections,
        ]),
    );
    let expected = [
        (Unusable, Some("endpoint_unhealthy")),
        (Drained, Some("endpoint_drained")),
        (Terminating, Some("endpoint_terminating")),
        (Removed, Some("endpoint_removed")),
    ];
    assert_eq!(rows(&shown), expected);
    assert_eq!((&*shown.endpoints[1].backend, shown.endpoints[1].connections), ("", 1));
    let problem = "connections kept by drained endpoints are not shown: this replica has an older version";
    assert_eq!((&shown.problems[..], shown.current), (&[problem.to_owned()][..], true));
}

#[test]
fn problems_are_coloured() {
    let mut facts = facts();
    facts.load_balancers.pop();
    let text = rendered("kubectl-tcplb status postgres", &facts);
    assert!(text.contains("\u{1b}[1m\u{1b}[31m✘ Ready\u{1b}[0m"), "{text:?}");
    assert!(text.contains("\u{1b}[32m✔ Accepted\u{1b}[0m"), "{text:?}");
}

#[test]
fn names_and_messages_cannot_control_the_terminal() {
    let mut facts = facts();
    let conditions = &mut facts.load_balancers[0].status.as_mut().unwrap().conditions;
    conditions[0].message = "a\u{1b}[2Jb\u{202e}c".into();
    conditions[0].reason = "d\u{1b}[2Je\u{202e}f".into();
    for output in ["text", "wide", "json", "yaml"] {
        for name in ["", " postgres"] {
            let text = plain(&rendered(&format!("kubectl-tcplb status{name} -o {output}"), &facts));
            let hidden = text.chars().find(|c| *c != '\n' && !crate::printable::is_visible(*c));
            assert_eq!(hidden, None, "{output}{name}: {text}");
        }
    }
}

#[test]
fn without_replicas_and_load_balancers_the_status_explains_itself() {
    let facts = StatusFacts { load_balancers: Vec::new(), replicas: Vec::new(), notes: Vec::new() };
    assert_eq!(rendered("kubectl-tcplb status", &facts), "no TcpLoadBalancer was found\n");
    let facts =
        StatusFacts { notes: vec!["replicas are not shown: why".into()], replicas: Vec::new(), ..self::facts() };
    let text = plain(&rendered("kubectl-tcplb status", &facts));
    assert!(text.ends_with("\nreplicas are not shown: why\n"), "{text}");
}

#[test]
fn a_watch_goes_on_after_errors_of_later_readings() {
    let refused = || anyhow::anyhow!("connection refused").context("cannot list tcploadbalancers");
    assert!(LastReading::Missing.next(Err(refused())).is_err());
    let status = |text: &str| LastReading::Status(text.to_owned());
    let error = || LastReading::Failed("cannot list tcploadbalancers: connection refused".to_owned());
    let mut last = LastReading::Missing;
    for (reading, expected) in [
        (Ok("a"), Some(status("a"))),
        (Ok("a"), None),
        (Err(refused()), Some(error())),
        (Err(refused()), None),
        (Ok("a"), Some(status("a"))),
        (Err(refused()), Some(error())),
        (Ok("b"), Some(status("b"))),
        (Ok("b"), None),
    ] {
        let next = last.next(reading.map(str::to_owned)).unwrap();
        assert_eq!(next, expected);
        last = next.unwrap_or(last);
    }
}
