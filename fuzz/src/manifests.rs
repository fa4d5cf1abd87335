use std::{
    path::PathBuf,
    sync::{Arc, LazyLock},
};

use arbitrary::{Result, Unstructured};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tcplb::{
    model::{ObjectKey, Snapshot},
    source::schema,
    translate::translate,
    world::{Allocations, Declared, ObjectIdentity, ProcessMode, Tenancy, World},
};

use crate::checked_translation;

/// Objects generated from the published schema, in every placement: their translation has the result that
/// [`checked_translation`] describes, also after other objects, and a second translation of the changed world changes
/// nothing.
pub fn manifests(data: &[u8]) {
    // An input that ends early is valid: missing parts have defaults.
    let _ = check(&mut Unstructured::new(data));
}

fn check(u: &mut Unstructured) -> Result<()> {
    let (before, after) = (world(u)?, world(u)?);
    let now = Timestamp::UNIX_EPOCH;
    let previous = checked_translation(&before, &Snapshot::default(), now);
    let (changed, _) = translate(&after, &previous, now);
    let (stable, _) = translate(&after, &changed, now);
    assert!(stable.configures_the_same(&changed), "a second translation after a change changes the snapshot");
    Ok(())
}

static SPEC: LazyLock<Value> = LazyLock::new(|| {
    let crd: Value = serde_saphyr::from_str(include_str!("../../crds/tcploadbalancers.yaml")).expect("the CRD is YAML");
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].clone()
});

/// Strings for fields of the schema, valid and invalid ones.
const WORDS: &[&str] = &[
    "",
    "a",
    "b",
    "pg",
    "db",
    "default",
    "shop",
    "x.example",
    "*.example",
    "*",
    "EXAMPLE.com.",
    "10.0.0.1:1",
    "10.0.0.2:2",
    "[::1]:5",
    "[::ffff:10.0.0.1]:7",
    "db:5432",
    "0.0.0.0:0",
    "224.0.0.1:1",
    "[fe80::1]:1",
    "0s",
    "1ms",
    "1s",
    "10s",
    "5m",
    "1h",
    "24h",
    "99999999h",
    "1.5s",
    "-1s",
    "0.000001s",
    "10.0.0.0/8",
    "10.0.0.1/8",
    "::/0",
    "::ffff:0:0/96",
    "::ffff:10.0.0.0/104",
    "0.0.0.0/0",
    "10.0.0.1",
    "fe80::1",
    "fe80::1%eth0",
    "127.0.0.1",
    "::",
    "0.0.0.0",
    "50%",
    "100%",
    "0%",
    "h2",
    "http/1.1",
    "1/s",
    "100/m",
    "5/1h",
    "1/1ms",
    "18446744073709551615/s",
    "PING\\r\\n",
    "\\x00",
    "/healthz",
    "é",
    "\u{0}",
    "\u{202e}",
    "cert.pem",
    "key.pem",
    "ca.pem",
    "../../etc/passwd",
    "crl.pem",
];

/// A value of this schema, sometimes one that it refuses.
fn value(u: &mut Unstructured, schema: &Value, depth: usize) -> Result<Value> {
    if u.is_empty() || depth > 12 {
        return Ok(schema.get("default").cloned().unwrap_or(json!(1)));
    }
    if u.ratio(1, 120)? {
        let wrong = [json!(null), json!("x"), json!(-1), json!([]), json!({}), json!(1.5), json!(true)];
        return u.choose(&wrong).cloned();
    }
    if let Some(allowed) = schema.get("enum").and_then(Value::as_array) {
        return u.choose(allowed).cloned();
    }
    match schema.get("type").and_then(Value::as_str) {
        Some("object") => object(u, schema, depth),
        Some("array") => (0..u.int_in_range(0..=3)?).map(|_| value(u, &schema["items"], depth + 1)).collect(),
        Some("integer") => integer(u, schema),
        Some("number") => u.choose(&[json!(0.0), json!(0.5), json!(1.0), json!(1e308), json!(-1.0)]).cloned(),
        Some("boolean") => Ok(u.arbitrary::<bool>()?.into()),
        _ if schema.get("x-kubernetes-int-or-string").is_some() && u.ratio(1, 2)? => {
            Ok(u.int_in_range(0..=70_000)?.into())
        }
        _ => Ok((*u.choose(WORDS)?).into()),
    }
}

fn object(u: &mut Unstructured, schema: &Value, depth: usize) -> Result<Value> {
    let mut object = Map::new();
    let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let rarity = u.int_in_range(2..=7)?;
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        if required.contains(&name.as_str()) || u.ratio(1, rarity)? {
            object.insert(name.clone(), value(u, inner, depth + 1)?);
        }
    }
    if let Some(inner) = schema.get("additionalProperties").filter(|inner| inner.is_object()) {
        for _ in 0..u.int_in_range(0..=2)? {
            object.insert((*u.choose(WORDS)?).to_owned(), value(u, inner, depth + 1)?);
        }
    }
    Ok(object.into())
}

fn integer(u: &mut Unstructured, schema: &Value) -> Result<Value> {
    let lowest = schema["minimum"].as_f64().unwrap_or(-10.0) as i64;
    let highest = (schema["maximum"].as_f64().unwrap_or(1e12) as i64).max(lowest);
    let between = u.int_in_range(lowest..=highest)?;
    let edges = [lowest, highest, lowest + 1, 1, 2, 5432, lowest - 1, highest.saturating_add(1), between];
    u.choose(&edges).map(|number| (*number).into())
}

fn world(u: &mut Unstructured) -> Result<World> {
    let mut world = World::default();
    for index in 0..u.int_in_range(1..=3)? {
        let document = json!({
            "apiVersion": "tcplb.io/v1alpha1", "kind": "TcpLoadBalancer", "metadata": {"name": "x"},
            "spec": value(u, &SPEC, 0)?,
        });
        let (spec, problems) = match schema::load_balancer(document) {
            Ok(spec) => (Some(Arc::new(spec)), Vec::new()),
            Err(problems) => (None, problems),
        };
        let identity =
            ObjectIdentity { created: Timestamp::UNIX_EPOCH, uid: format!("u{index}").into(), generation: 1 };
        let identity = u.ratio(1, 2)?.then_some(identity);
        let declared = Declared {
            spec,
            problems,
            without_value: Vec::new(),
            origin: "a.yaml".into(),
            folder: "/f".into(),
            identity,
            status: None,
        };
        let key = ObjectKey::new(u.choose(&["shop", "default"])?, ["a", "b", "pg"][index]);
        world.load_balancers.insert(key, declared);
    }
    for file in ["cert.pem", "key.pem", "ca.pem", "crl.pem"] {
        let text = b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
        world.files.insert(PathBuf::from("/f").join(file), Ok(Arc::from(&text[..])));
    }
    world.mode = match u.int_in_range(0..=3)? {
        0 => ProcessMode::Standalone,
        1 => ProcessMode::Sidecar("10.9.9.9".parse().expect("an address")),
        2 => ProcessMode::Host(Arc::new(Tenancy { host_ports: vec![1..=65535], ..Tenancy::default() })),
        _ => ProcessMode::Gateway(Arc::new(Allocations::default()), Arc::default()),
    };
    Ok(world)
}
