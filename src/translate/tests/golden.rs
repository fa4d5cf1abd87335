//! `tests/golden/<case>/in.yaml`, and its translation in `expected.txt`. `before.yaml`, if present, is the previous
//! world. A document of kind Gateway, Host or Sidecar states the mode. A new case needs files only; `GOLDEN=write`
//! writes the expected results.

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use super::*;
use crate::model::{Access, AccessLogSettings, EndpointDrain, Limits};

#[test]
fn every_golden_world_translates_as_expected() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut cases: Vec<PathBuf> = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    let mut wrong = String::new();
    for case in cases {
        let read = |name: &str| fs::read_to_string(case.join(name)).unwrap_or_default();
        let before = match read("before.yaml").as_str() {
            "" => Snapshot::default(),
            text => first(&world(text)).0,
        };
        let (snapshot, verdicts) = then(&world(&read("in.yaml")), &before);
        let text = rendered(&snapshot, &verdicts);
        if std::env::var("GOLDEN").is_ok_and(|value| value == "write") {
            fs::write(case.join("expected.txt"), &text).unwrap();
        } else if text != read("expected.txt") {
            writeln!(wrong, "{} is now:\n{text}", case.display()).unwrap();
        }
    }
    assert!(wrong.is_empty(), "{wrong}\nIf this is right, write it with GOLDEN=write.");
}

fn rendered(snapshot: &Snapshot, verdicts: &Verdicts) -> String {
    let mut text = String::new();
    let out = &mut text;
    for (key, listener) in &snapshot.listeners {
        writeln!(out, "listener {key} `{}` on {} to {}", listener.name, listener.bind, listener.upstream).unwrap();
        if let Some(tls) = &listener.tls {
            writeln!(out, "  {tls:?}").unwrap();
        }
        if let Some(proxy_protocol) = &listener.proxy_protocol {
            writeln!(out, "  {proxy_protocol:?}").unwrap();
        }
        if listener.access != Access::default() {
            writeln!(out, "  {:?}", listener.access).unwrap();
        }
        if listener.limits != Limits::default() {
            writeln!(out, "  {:?}", listener.limits).unwrap();
        }
        if listener.access_log != AccessLogSettings::default() {
            writeln!(out, "  {:?}", listener.access_log).unwrap();
        }
        writeln!(out, "  {:?}", listener.timeouts).unwrap();
        writeln!(out, "  keepalive {:?}", listener.keepalive).unwrap();
        writeln!(out, "  {:?}", listener.drain).unwrap();
    }
    for (key, upstream) in &snapshot.upstreams {
        writeln!(out, "upstream {key}").unwrap();
        for (name, backend) in &upstream.backends {
            writeln!(out, "  {name} {backend:?}").unwrap();
        }
        for endpoint in &upstream.endpoints {
            writeln!(
                out,
                "  endpoint {} of {}, uid {:?}, id {}, weight {}",
                endpoint.key.address,
                endpoint.key.backend,
                endpoint.key.uid,
                endpoint.stable_id,
                endpoint.weight.value(),
            )
            .unwrap();
        }
        writeln!(out, "  {:?}", upstream.balancing).unwrap();
        writeln!(out, "  passive {:?}", upstream.passive_check).unwrap();
        writeln!(out, "  {:?}", upstream.connect).unwrap();
        writeln!(out, "  keepalive {:?}", upstream.keepalive).unwrap();
        if let Some(rebalance) = &upstream.rebalance {
            writeln!(out, "  {rebalance:?}").unwrap();
        }
        if upstream.drain != EndpointDrain::default() {
            writeln!(out, "  {:?}", upstream.drain).unwrap();
        }
    }
    for (object, verdict) in verdicts {
        writeln!(out, "verdict on {object}").unwrap();
        for problem in &verdict.problems {
            assert!(problem.field.contains(&problem.part.to_string()), "{problem:?}");
            assert_eq!(problem.field.contains("nodePort"), matches!(problem.part, Part::NodePort(_)), "{problem:?}");
            writeln!(out, "  {:?} {:?} {problem}", problem.severity, problem.reason).unwrap();
        }
    }
    text
}
