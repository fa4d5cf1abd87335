//! Facts of a healthy installation, and what each fault changes in the results.

use std::{collections::BTreeMap, path::Path};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{
    checks::results,
    document::{CheckName, CheckResult, CheckState, DoctorDocument},
    facts::{AttemptOutcome, ConnectionAttempt, DoctorFacts, InstallationFacts, ReplicaFacts, ServerFacts, key},
    metrics::ReplicaMetrics,
    needed_permissions,
    workload::WorkloadFacts,
};
use crate::{
    api::TcpLoadBalancer,
    kubectl::{
        admin_pages::{PageError, ReplicaPages},
        golden::assert_golden,
        output::plain,
        permission::{AccessError, Permission},
        replica::{ReplicaPod, tests::pod},
    },
    model::ObjectKey,
    world::{Allocations, managed_service},
};

const NOW: &str = "2026-07-01T12:00:00Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

pub fn object() -> TcpLoadBalancer {
    let condition = json!({
        "type": "Ready", "status": "True", "reason": "Ready", "message": "connections are served as declared",
        "lastTransitionTime": NOW,
    });
    serde_json::from_value(json!({
        "apiVersion": "tcplb.io/v1alpha1",
        "kind": "TcpLoadBalancer",
        "metadata": {"namespace": "shop", "name": "pg", "uid": "u-1", "generation": 1},
        "spec": {"listeners": [{"port": 5432}], "backends": [{"service": {"name": "db", "port": 5432}}]},
        "status": {
            "addresses": [{"type": "IPAddress", "value": "10.96.0.7"}],
            "listeners": [{"port": 5432, "boundPort": 20000}],
            "conditions": [condition],
        },
    }))
    .unwrap()
}

fn pages() -> ReplicaPages {
    let report = json!({"loadBalancers": {"u-1": {
        "generation": 1, "whole": 1, "listeners": {"5432": {"bound": 20000}}, "backends": {},
        "certificates": {"Secret shop/tls": "2027-07-01T12:00:00Z"},
    }}});
    let host = json!({"localPorts": [32768, 60999], "conntrackEntries": 10, "conntrackMax": 1000});
    let picture = json!({"generation": 1, "loadBalancers": [], "problems": [], "host": host});
    ReplicaPages {
        report: serde_json::from_value(report).unwrap(),
        picture: serde_json::from_value(picture).unwrap(),
        date: Some(now()),
    }
}

fn replica(name: &str) -> ReplicaFacts {
    ReplicaFacts {
        pod: ReplicaPod::read(&pod(name, &[])).unwrap(),
        pages: Ok(pages()),
        metrics: Some(ReplicaMetrics {
            version: Some(env!("CARGO_PKG_VERSION").into()),
            connections_limit: Some(1000),
            connections_active: 10,
        }),
        clock_offset: Some(SignedDuration::from_secs(1)),
    }
}

pub fn installation() -> InstallationFacts {
    let allocation = json!({"uid": "u-1", "port": 5432, "object": "shop/pg"}).to_string();
    let (allocations, _) = Allocations::read(&BTreeMap::from([("20000".to_owned(), allocation)]));
    let lease = json!({"spec": {
        "holderIdentity": "tcplb-1", "leaseDurationSeconds": 15, "renewTime": "2026-07-01T11:59:55.000000Z",
    }});
    let home = |name: &str| ObjectKey::new("tcplb-system", name);
    let service = json!({
        "metadata": {"namespace": "tcplb-system", "name": managed_service::name(&key(&object()))},
        "spec": {"clusterIPs": ["10.96.0.7"], "ports": [{"port": 5432, "targetPort": 20000}]},
    });
    InstallationFacts {
        namespace: None,
        workloads: vec![WorkloadFacts { kind: "Deployment", key: home("tcplb"), desired: 2, existing: 2 }],
        replicas: Ok(vec![replica("tcplb-1"), replica("tcplb-2")]),
        other_pods: Vec::new(),
        leases: vec![(home("tcplb"), Ok(Some(serde_json::from_value(lease).unwrap())))],
        allocations: vec![(home("tcplb-ports"), Ok(Some(allocations)))],
        load_balancers: Ok(vec![object()]),
        services: Ok(vec![serde_json::from_value(service).unwrap()]),
        attempts: vec![ConnectionAttempt {
            object: key(&object()),
            address: "10.96.0.7:5432".into(),
            is_internal: true,
            direct: AttemptOutcome::Failed("no answer within 3 s".into()),
            through_replica: Some(("tcplb-1".into(), AttemptOutcome::Open)),
        }],
    }
}

fn facts() -> DoctorFacts {
    let mut crd = crate::api::crd();
    crd.status = None;
    let permissions = needed_permissions::of_commands(None, &[replica("tcplb-1").pod], None);
    DoctorFacts {
        now: now(),
        server: Ok(ServerFacts {
            version: (1, 34),
            git_version: "v1.34.1".into(),
            clock_offset: Some(SignedDuration::from_secs(1)),
        }),
        crd: Ok(Some(serde_json::from_value(serde_json::to_value(crd).unwrap()).unwrap())),
        permissions: permissions.into_iter().map(|permission| (permission, Ok(true))).collect(),
        installation: Some(installation()),
    }
}

fn home(facts: &mut DoctorFacts) -> &mut InstallationFacts {
    facts.installation.as_mut().unwrap()
}

fn first(facts: &mut DoctorFacts) -> &mut ReplicaFacts {
    &mut home(facts).replicas.as_mut().unwrap()[0]
}

fn first_object(facts: &mut DoctorFacts) -> &mut TcpLoadBalancer {
    &mut home(facts).load_balancers.as_mut().unwrap()[0]
}

/// Makes a replica report its role.
fn set_leads(replica: &mut ReplicaFacts, leads: bool) {
    let process = json!({
        "name": &*replica.pod.key.name, "version": "0.1.0", "started": NOW, "accepts": true, "leads": leads,
    });
    replica.pages.as_mut().unwrap().picture.process = Some(serde_json::from_value(process).unwrap());
}

/// The page of the first replica, changed at a JSON pointer.
fn report(facts: &mut DoctorFacts, change: impl Fn(&mut Value)) {
    let pages = first(facts).pages.as_mut().unwrap();
    let mut value = serde_json::to_value(&pages.report).unwrap();
    change(&mut value);
    pages.report = serde_json::from_value(value).unwrap();
}

fn problems(facts: &DoctorFacts) -> Vec<(CheckName, CheckState)> {
    let problems = results(facts).into_iter().filter(|result| result.state != CheckState::Ok);
    problems.map(|result| (result.check, result.state)).collect()
}

/// Asserts that a fault causes exactly one problem, and returns its message.
fn one_problem(expected: (CheckName, CheckState), fault: impl FnOnce(&mut DoctorFacts)) -> String {
    let mut facts = facts();
    fault(&mut facts);
    let found: Vec<CheckResult> = results(&facts).into_iter().filter(|result| result.state != CheckState::Ok).collect();
    assert_eq!(found.iter().map(|result| (result.check, result.state)).collect::<Vec<_>>(), [expected], "{found:#?}");
    assert!(found[0].runbook.is_some());
    found[0].message.clone()
}

#[test]
fn a_healthy_installation_passes_every_check() {
    let results = results(&facts());
    for name in CheckName::ALL {
        assert!(results.iter().any(|result| result.check == name), "{name:?} has a result");
    }
    assert_eq!(problems(&facts()), []);
}

#[test]
fn the_results_as_text_and_json() {
    let mut facts = facts();
    first(&mut facts).pages = Err(PageError::Connect("connection refused".into()));
    home(&mut facts).services = Err(denied());
    let document = DoctorDocument::new(results(&facts));
    let text = plain(&document.text()).replace(env!("CARGO_PKG_VERSION"), "VERSION");
    assert_golden("doctor.text", &text);
    let json = crate::kubectl::output::json(&document).replace(env!("CARGO_PKG_VERSION"), "VERSION");
    assert_golden("doctor.json", &json);
}

fn denied() -> AccessError {
    AccessError::Denied(Permission::new("list", "", "services").in_namespace(Some("tcplb-system")))
}

#[test]
fn faults_of_the_cluster_are_found() {
    use CheckName::{Api, Crd, Permissions};
    use CheckState::{Error, Warning};
    let unreachable =
        || AccessError::Failed { request: Permission::new("get", "", "/version"), answer: "refused".into() };
    one_problem((Api, Error), |facts| facts.server = Err(unreachable()));
    one_problem((Api, Error), |facts| facts.server.as_mut().unwrap().version = (1, 32));
    one_problem((Crd, Error), |facts| facts.crd = Ok(None));
    one_problem((Crd, Warning), |facts| {
        facts.crd.as_mut().unwrap().as_mut().unwrap().metadata.annotations = None;
    });
    one_problem((Crd, Error), |facts| {
        let crd = facts.crd.as_mut().unwrap().as_mut().unwrap();
        let conditions = json!({"conditions": [{"type": "NamesAccepted", "status": "False", "message": "taken"}]});
        crd.status = Some(serde_json::from_value(conditions).unwrap());
    });
    let message = one_problem((Permissions, Warning), |facts| facts.permissions[2].1 = Ok(false));
    assert!(message.starts_with("this user may not list pods in all namespaces: "), "{message}");
    let message = one_problem((Permissions, Warning), |facts| {
        facts.permissions.iter_mut().find(|(permission, _)| permission.verb == "patch").unwrap().1 = Ok(false);
    });
    assert!(message.ends_with(" (for drain, undrain and failback)"), "{message}");
}

#[test]
fn faults_of_replicas_are_found() {
    use CheckName::{Lease, ProxyPorts, Replicas, Versions};
    use CheckState::{Error, Warning};
    one_problem((Replicas, Error), |facts| first(facts).pod.ready = false);
    one_problem((Replicas, Warning), |facts| first(facts).pod.is_terminating = true);
    let message = one_problem((Replicas, Error), |facts| {
        first(facts).pages.as_mut().unwrap().picture.problems.push("Secrets cannot be watched: forbidden".into());
    });
    assert_eq!(message, "Secrets cannot be watched: forbidden");
    one_problem((Versions, Warning), |facts| {
        first(facts).metrics.as_mut().unwrap().version = Some("0.0.1".into());
    });
    one_problem((Lease, Error), |facts| home(facts).leases[0].1 = Ok(None));
    one_problem((Lease, Error), |facts| {
        facts.now = "2026-07-01T12:01:00Z".parse().unwrap();
    });
    let message = one_problem((Lease, Error), |facts| {
        home(facts).replicas.as_mut().unwrap().iter_mut().for_each(|replica| set_leads(replica, false));
    });
    assert!(message.starts_with("no replica is the leader"), "{message}");
    let message = one_problem((Lease, Warning), |facts| {
        let lease = home(facts).leases[0].1.as_mut().unwrap().as_mut().unwrap();
        lease.spec.as_mut().unwrap().holder_identity = Some("gone".into());
    });
    assert!(message.starts_with("the leader gone is not one of the replicas"), "{message}");
    for (outcome, part) in [
        (json!({"bound": 20001}), "port 20001 is open instead"),
        (json!({"failed": "port 20000 is in use"}), "is not open: port 20000 is in use"),
    ] {
        let message = one_problem((ProxyPorts, Error), |facts| {
            report(facts, |report| report["loadBalancers"]["u-1"]["listeners"]["5432"] = outcome.clone());
        });
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn the_age_of_a_lease_is_measured_by_the_clock_of_the_api_server() {
    let hour = SignedDuration::from_hours(1);
    let set_offset = |facts: &mut DoctorFacts, offset| {
        facts.server.as_mut().unwrap().clock_offset = Some(offset);
        let replicas = home(facts).replicas.as_mut().unwrap();
        replicas.iter_mut().for_each(|replica| replica.clock_offset = Some(offset));
    };
    for offset in [hour, -hour] {
        let mut facts = facts();
        set_offset(&mut facts, offset);
        facts.now = now().checked_sub(offset).unwrap();
        assert_eq!(problems(&facts), [], "{offset:?}");
    }
    let message = one_problem((CheckName::Lease, CheckState::Error), |facts| set_offset(facts, hour));
    assert!(message.contains("last renewed the Lease 3605 s ago"), "{message}");
}

#[test]
fn a_terminating_replica_is_not_expected_to_serve() {
    one_problem((CheckName::Replicas, CheckState::Warning), |facts| {
        report(facts, |report| {
            let served = &mut report["loadBalancers"]["u-1"];
            served["listeners"] = json!({});
            served["certificates"]["Secret shop/tls"] = "2026-07-01T11:59:59Z".into();
        });
        let replica = first(facts);
        replica.pod.is_terminating = true;
        replica.metrics.as_mut().unwrap().connections_active = 1000;
    });
}

#[test]
fn missing_replicas_of_a_workload_are_an_error() {
    let too_few = |facts: &mut DoctorFacts| {
        let workload = &mut home(facts).workloads[0];
        (workload.desired, workload.existing) = (3, 1);
    };
    let expected = "1 of 3 replicas exist: see the Events of Deployment tcplb-system/tcplb";
    let message = one_problem((CheckName::Replicas, CheckState::Error), too_few);
    assert_eq!(message, expected);
    let message = one_problem((CheckName::Replicas, CheckState::Error), |facts| {
        too_few(facts);
        home(facts).replicas = Ok(Vec::new());
        home(facts).leases.clear();
        home(facts).attempts.clear();
    });
    assert_eq!(message, expected, "instead of the advice to install the chart");
    let mut facts = facts();
    home(&mut facts).workloads.clear();
    assert_eq!(problems(&facts), [], "they could not be listed");
}

#[test]
fn a_leader_is_missing_only_if_every_replica_reports_so() {
    let mut facts = facts();
    set_leads(first(&mut facts), false);
    assert_eq!(problems(&facts), [], "the other replica does not report its role");
    set_leads(&mut home(&mut facts).replicas.as_mut().unwrap()[1], true);
    assert_eq!(problems(&facts), []);
}

#[test]
fn many_problems_of_a_process_are_limited() {
    let mut facts = facts();
    first(&mut facts).pages.as_mut().unwrap().picture.problems =
        (0..100).map(|number: u32| number.to_string()).collect();
    let found: Vec<CheckResult> = results(&facts).into_iter().filter(|result| result.state != CheckState::Ok).collect();
    assert_eq!((found.len(), found[10].message.as_str()), (11, "90 more problems: see its admin page"));
}

#[test]
fn no_replica_is_one_error() {
    let mut facts = facts();
    home(&mut facts).replicas = Ok(Vec::new());
    home(&mut facts).leases.clear();
    home(&mut facts).allocations.clear();
    home(&mut facts).attempts.clear();
    assert_eq!(problems(&facts), [(CheckName::Replicas, CheckState::Error)]);
}

#[test]
fn scarce_resources_of_hosts_are_found() {
    use CheckName::{Clock, Connections, Conntrack, LocalPorts};
    use CheckState::{Error, Warning};
    let host = |facts: &mut DoctorFacts, entries, local_ports| {
        let host = first(facts).pages.as_mut().unwrap().picture.host.as_mut().unwrap();
        (host.conntrack_entries, host.local_ports) = (Some(entries), Some(local_ports));
    };
    one_problem((Conntrack, Warning), |facts| host(facts, 800, (32768, 60999)));
    one_problem((Conntrack, Error), |facts| host(facts, 950, (32768, 60999)));
    let message = one_problem((LocalPorts, Warning), |facts| host(facts, 0, (24999, 60999)));
    assert!(message.starts_with("the proxy ports 20000-24999 can be taken"), "{message}");
    assert!(message.ends_with("or reserve all such ports in net.ipv4.ip_local_reserved_ports"), "{message}");
    let active =
        |active| move |facts: &mut DoctorFacts| first(facts).metrics.as_mut().unwrap().connections_active = active;
    one_problem((Connections, Warning), active(800));
    one_problem((Connections, Error), active(1000));
    let ahead =
        |seconds| move |facts: &mut DoctorFacts| first(facts).clock_offset = Some(SignedDuration::from_secs(seconds));
    assert!(one_problem((Clock, Warning), ahead(7)).contains("6 s ahead of"));
    assert!(one_problem((Clock, Error), ahead(-90)).contains("91 s behind"));
}

/// The state of the check `local-ports` with one replica, whose kernel assigns the ports from `first_port` on.
fn local_ports(arguments: &[&str], first_port: u16, reserved: &Value) -> CheckState {
    let mut facts = facts();
    home(&mut facts).replicas.as_mut().unwrap().truncate(1);
    first(&mut facts).pod = ReplicaPod::read(&pod("tcplb-1", arguments)).unwrap();
    let host = json!({"localPorts": [first_port, 60999], "reservedPorts": reserved});
    first(&mut facts).pages.as_mut().unwrap().picture.host = Some(serde_json::from_value(host).unwrap());
    let found: Vec<CheckResult> =
        results(&facts).into_iter().filter(|result| result.check == CheckName::LocalPorts).collect();
    assert_eq!(found.len(), 1, "{found:#?}");
    found[0].state
}

#[test]
fn reserved_ports_are_not_assigned_to_outgoing_connections() {
    let (ok, warning) = (CheckState::Ok, CheckState::Warning);
    for (reserved, expected) in [
        (json!([]), warning),
        (json!([[24000, 24999]]), ok),
        (json!([[8080, 8080], [20000, 24499], [24500, 30000]]), ok),
        (json!([[24000, 24998]]), warning),
        (json!([[24001, 24999]]), warning),
    ] {
        assert_eq!(local_ports(&[], 24000, &reserved), expected, "the proxy ports 20000-24999: {reserved}");
    }
    for (reserved, expected) in
        [(json!([]), warning), (json!([[20000, 20000]]), ok), (json!([[20001, 24999]]), warning)]
    {
        assert_eq!(local_ports(&["--placement=host"], 15000, &reserved), expected, "the open port 20000: {reserved}");
    }
}

#[test]
fn problems_of_load_balancers_are_found_in_the_words_of_the_status() {
    use CheckName::{Certificates, LoadBalancers, Services};
    use CheckState::{Error, Warning};
    let ready = |status: &'static str, reason: &'static str| {
        move |facts: &mut DoctorFacts| {
            let condition = &mut first_object(facts).status.as_mut().unwrap().conditions[0];
            (condition.status, condition.reason, condition.message) = (status.into(), reason.into(), "because".into());
        }
    };
    assert_eq!(one_problem((LoadBalancers, Error), ready("False", "Unhealthy")), "Unhealthy: because");
    one_problem((LoadBalancers, Warning), ready("False", "Pending"));
    one_problem((LoadBalancers, Warning), ready("Unknown", "ReplicasUnknown"));
    let expires = |time: &'static str| {
        move |facts: &mut DoctorFacts| {
            report(facts, |report| report["loadBalancers"]["u-1"]["certificates"]["Secret shop/tls"] = time.into());
        }
    };
    one_problem((Certificates, Error), expires("2026-07-01T11:59:59Z"));
    one_problem((Certificates, Warning), expires("2026-07-15T11:59:59Z"));
    // Its own clock decides.
    one_problem((Certificates, Error), |facts| {
        first(facts).pages.as_mut().unwrap().date = Some("2027-07-01T12:00:01Z".parse().unwrap());
    });
    one_problem((Services, Error), |facts| home(facts).services.as_mut().unwrap().clear());
    one_problem((Services, Error), |facts| {
        let service = &mut home(facts).services.as_mut().unwrap()[0];
        service.spec.as_mut().unwrap().cluster_ips = Some(vec!["10.96.0.8".into()]);
    });
    let message = one_problem((Services, Error), |facts| {
        let service = &mut home(facts).services.as_mut().unwrap()[0];
        service.spec.as_mut().unwrap().ports.as_mut().unwrap()[0].port = 1;
    });
    assert!(message.contains("port 5432 of Service") && message.contains("is missing"), "{message}");
}

#[test]
fn listeners_that_refuse_connections_are_found_in_replicas_with_open_listeners() {
    let refuse = |facts: &mut DoctorFacts| {
        let limits = serde_json::from_value(json!({"maxConnections": 10})).unwrap();
        first_object(facts).spec.listeners[0].limits = Some(limits);
        let failures = json!({"listener_full": 3});
        let listener = json!({"port": 5432, "active": 10, "accepted": 20, "failures": failures, "applied": null});
        let shown = json!({"name": "shop/pg", "origin": "", "problems": [], "listeners": [listener], "endpoints": []});
        let picture = &mut first(facts).pages.as_mut().unwrap().picture;
        picture.load_balancers = vec![serde_json::from_value(shown).unwrap()];
    };
    let message = one_problem((CheckName::ListenerLimits, CheckState::Warning), refuse);
    let expected = "listener 5432 refuses connections (listener_full) in 1 replica: raise limits.maxConnections, or \
                    find out why connections stay open";
    assert_eq!(message, expected);
    one_problem((CheckName::Replicas, CheckState::Warning), |facts| {
        refuse(facts);
        first(facts).pod.is_terminating = true;
    });
}

#[test]
fn pods_that_only_look_like_replicas_are_named() {
    let other = |facts: &mut DoctorFacts| home(facts).other_pods = vec![ObjectKey::new("shop", "fake")];
    let message = one_problem((CheckName::Replicas, CheckState::Warning), other);
    assert!(message.starts_with("the pod has the labels of a replica, but is ignored: "), "{message}");
    let mut facts = facts();
    other(&mut facts);
    home(&mut facts).replicas = Ok(Vec::new());
    assert!(problems(&facts).contains(&(CheckName::Replicas, CheckState::Error)));
}

#[test]
fn late_drains_are_found() {
    let drain = |what: &'static str, active: usize, until: &'static str| {
        move |facts: &mut DoctorFacts| {
            let drain = json!({
                "loadBalancer": "shop/pg", "what": what, "reason": "endpoint_removed", "active": active, "until": until,
            });
            let picture = &mut first(facts).pages.as_mut().unwrap().picture;
            picture.draining = vec![serde_json::from_value(drain).unwrap()];
        }
    };
    let expected = (CheckName::Drains, CheckState::Warning);
    let message = one_problem(expected, drain("10.0.0.7:5432", 3, "2026-07-01T11:58:59Z"));
    assert_eq!(
        message,
        "the drain of endpoint 10.0.0.7:5432 (endpoint_removed) should have ended 61 s ago, but replica \
         tcplb-system/tcplb-1 still has 3 connections open: raise maxPerSecond of the drain, or see the log of the \
         replica"
    );
    let message = one_problem(expected, drain("shop/pg:5432", 1, "2026-07-01T11:58:00Z"));
    assert!(message.starts_with("the drain of listener shop/pg:5432 "), "{message}");
    for (active, until) in [(3, "2026-07-01T11:59:00Z"), (3, "2026-07-01T12:10:00Z"), (0, "2026-07-01T11:58:00Z")] {
        let mut facts = facts();
        drain("10.0.0.7:5432", active, until)(&mut facts);
        assert_eq!(problems(&facts), [], "{active} {until}");
    }
    let mut facts = facts();
    drain("10.0.0.7:5432", 3, "2026-07-01T11:58:00Z")(&mut facts);
    home(&mut facts).namespace = Some("bank".into());
    assert_eq!(problems(&facts), [], "of another namespace");
}

#[test]
fn connections_are_judged_by_address_and_replica() {
    use AttemptOutcome::{Closed, Open};
    use CheckState::{Error, Warning};
    let failed = || AttemptOutcome::Failed("refused".into());
    let through = |outcome| Some(("tcplb-1".to_owned(), outcome));
    for (is_internal, direct, through_replica, expected) in [
        (false, Open, None, None),
        (false, Closed, None, Some(Error)),
        (true, failed(), through(Open), None),
        (false, failed(), through(Open), Some(Warning)),
        (true, failed(), through(Closed), Some(Error)),
        (true, failed(), through(failed()), Some(Error)),
        (true, failed(), None, Some(Error)),
    ] {
        let mut facts = facts();
        let attempt = &mut home(&mut facts).attempts[0];
        let described = format!("{is_internal} {direct:?} {through_replica:?}");
        (attempt.is_internal, attempt.direct, attempt.through_replica) = (is_internal, direct, through_replica);
        let found: Vec<_> = problems(&facts);
        let expected: Vec<_> = expected.into_iter().map(|state| (CheckName::Reachability, state)).collect();
        assert_eq!(found, expected, "{described}");
    }
}

#[test]
fn before_installation_only_the_cluster_is_checked() {
    let mut facts = DoctorFacts { installation: None, crd: Ok(None), ..facts() };
    let needed = needed_permissions::for_installation("tcplb-system");
    facts.permissions = needed.into_iter().map(|permission| (permission, Ok(true))).collect();
    assert_eq!(problems(&facts), []);
    assert_eq!(results(&facts).len(), 3);
    facts.permissions[0].1 = Ok(false);
    assert_eq!(problems(&facts), [(CheckName::Permissions, CheckState::Error)]);
}

/// Each check has a section of this name in the runbook.
#[test]
fn every_check_has_a_runbook() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/kubectl.md")).unwrap();
    let sections: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let names: Vec<&str> = CheckName::ALL.iter().map(|name| name.as_str()).collect();
    let of_checks: Vec<&str> = sections.into_iter().filter(|section| names.contains(section)).collect();
    assert_eq!(of_checks, names);
}
