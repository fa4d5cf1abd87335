use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::api::{GROUP, KIND, VERSION};

fn document(spec: Value) -> Value {
    json!({"apiVersion": format!("{GROUP}/{VERSION}"), "kind": KIND, "metadata": {"name": "pg"}, "spec": spec})
}

/// The problems of the smallest valid spec with `fields` (YAML text) added.
fn problems(fields: &str) -> Vec<String> {
    let mut spec = json!({"listeners": [{"port": 5432}], "backends": [{"addresses": ["192.0.2.7:5432"]}]});
    let fields: Value = serde_saphyr::from_str(fields).unwrap();
    for (name, value) in fields.as_object().unwrap() {
        spec[name] = value.clone();
    }
    load_balancer(document(spec)).err().unwrap_or_default()
}

/// Fields with a mistake, its path, and a part of the message.
const MISTAKES: &[(&str, &str, &str)] = &[
    ("listners: []", "spec.listners", "did you mean `listeners`?"),
    ("health_check: {}", "spec.health_check", "did you mean `healthCheck`?"),
    ("healthcheck: {}", "spec.healthcheck", "did you mean `healthCheck`?"),
    ("foo: 1", "spec.foo", "known fields are backends, className, connect"),
    ("listeners: [{port: 1, prot: 2}]", "spec.listeners[0].prot", "did you mean `port`?"),
    (
        "listeners: [{port: 1}, {port: 1}]",
        "spec.listeners[1].port",
        "port 1 is declared twice: give each listener its own",
    ),
    ("listeners: [{port: 0}]", "spec.listeners[0].port", "0 is out of range: write a number from 1 to 65535"),
    ("listeners: [{port: 70000}]", "spec.listeners[0].port", "70000 is out of range"),
    ("listeners: [{port: -1}]", "spec.listeners[0].port", "-1 is out of range"),
    ("listeners: [{port: '80'}]", "spec.listeners[0].port", "write 80 without quotes"),
    ("listeners: [{port: http}]", "spec.listeners[0].port", "must be a whole number, not the text `http`"),
    ("listeners: [{port: 1.5}]", "spec.listeners[0].port", "must be a whole number, not `1.5`"),
    (
        "listeners: [{port: 1, nodePort: 30000.0}]",
        "spec.listeners[0].nodePort",
        "must be a whole number, not `30000.0`",
    ),
    ("listeners: [{}]", "spec.listeners[0].port", "is missing"),
    ("listeners: [null]", "spec.listeners[0]", "must be an object (`name: value` lines), not empty"),
    ("listeners: []", "spec.listeners", "for example `listeners: [{port: 5432}]`"),
    ("listeners: null", "spec.listeners", "is missing: write the ports"),
    ("listeners: {port: 80}", "spec.listeners", "must be a list (entries that start with `- `), not fields"),
    ("listeners: [{port: 80, address: 300.0.0.1}]", "spec.listeners[0].address", "`300.0.0.1` is not an IP address"),
    ("backends: []", "spec.backends", "must not be empty: write the backends that receive connections"),
    ("backends: null", "spec.backends", "is missing: write the backends that receive connections"),
    ("backends: [{addresses: [db]}]", "spec.backends[0].addresses[0]", "`db` is not an address: write host:port"),
    (
        "backends: [{addresses: ['2130706433:80']}]",
        "spec.backends[0].addresses[0]",
        "`2130706433:80` is an IPv4 address, but not in dotted decimal notation: write 127.0.0.1:80",
    ),
    (
        "listeners: [{port: 1, address: '0x7f.0.0.1'}]",
        "spec.listeners[0].address",
        "`0x7f.0.0.1` is an IPv4 address, but not in dotted decimal notation: write 127.0.0.1",
    ),
    ("backends: [{addresses: []}]", "spec.backends[0].addresses", "must not be empty"),
    (
        "backends: [{addresses: ['']}]",
        "spec.backends[0].addresses[0]",
        "must not be empty: write for example `addresses: [\"192.0.2.7:5432\"]`",
    ),
    (
        "listeners: [{port: 1, tls: {certificateRefs: [{name: a}], alpn: ['']}}]",
        "spec.listeners[0].tls.alpn[0]",
        "must not be empty: write a value, or remove it",
    ),
    ("backends: [{addresses: ['a:1', 'a:1']}]", "spec.backends[0].addresses[1]", "`a:1` is listed twice"),
    (
        "backends: [{weight: 0}]",
        "spec.backends[0].weight",
        "0 is out of range: write a number from 1 to 1000, or remove",
    ),
    ("backends: [{name: DB}]", "spec.backends[0].name", "`DB` is not a name: write"),
    ("backends: [{name: 7}]", "spec.backends[0].name", "must be text: write \"7\", with quotes"),
    ("backends: [{name: no}]", "spec.backends[0].name", "must be text: write it with quotes, since yes, no"),
    (
        "backends: [{name: ''}]",
        "spec.backends[0].name",
        "must not be empty: write at most 63 lower-case letters, digits and dashes",
    ),
    (
        "backends: [{service: {name: pg}}]",
        "spec.backends[0].service.port",
        "is missing: write a number from 1 to 65535, or the name of one",
    ),
    ("backends: [{service: {name: pg, port: 0}}]", "spec.backends[0].service.port", "0 is out of range"),
    ("backends: [{service: {name: pg, port: '5432'}}]", "spec.backends[0].service.port", "write 5432 without quotes"),
    (
        "backends: [{service: {name: pg, port: P_1}}]",
        "spec.backends[0].service.port",
        "`P_1` is not a port: write a number from 1 to 65535, or the name of one of the Service's ports",
    ),
    (
        "backends: [{proxyProtocol: v2}]",
        "spec.backends[0].proxyProtocol",
        "the text `v2` is not a valid value: write V1 or V2",
    ),
    (
        "backends: [{resolveInterval: 30}]",
        "spec.backends[0].resolveInterval",
        "`30` is not a duration: write for example",
    ),
    ("timeouts: {idle: 5 minutes}", "spec.timeouts.idle", "`5 minutes` is not a duration: write for example"),
    ("timeouts: {idle: [5s]}", "spec.timeouts.idle", "must be text, not a list"),
    (
        "loadBalancing: {locality: {overloadedAt: 5}}",
        "spec.loadBalancing.locality.prefer",
        "is missing: write `prefer` (SameZone or SameNode or Hints)",
    ),
    (
        "loadBalancing: {locality: PreferSameZone}",
        "spec.loadBalancing.locality",
        "must be an object (`name: value` lines), not the text `PreferSameZone`: write for example `locality: \
         {prefer: SameZone}`",
    ),
    (
        "healthCheck: {active: {type: Exchange, exchange: {expect: {hex: '0'}}}}",
        "spec.healthCheck.active.exchange.expect.hex",
        "`0` is not hexadecimal bytes: write two digits for each byte",
    ),
    (
        "healthCheck: {active: {type: Exchange, exchange: {expect: {hex: ''}}}}",
        "spec.healthCheck.active.exchange.expect.hex",
        "must not be empty: write two digits for each byte",
    ),
    // Sent bytes may contain a password.
    (
        "healthCheck: {active: {type: Exchange, exchange: {send: {hex: TOPSECRET}, expect: {text: a}}}}",
        "spec.healthCheck.active.exchange.send.hex",
        "it is not hexadecimal bytes: write two digits for each byte",
    ),
    (
        "healthCheck: {active: {type: HTTP, http: {headers: [{name: Token, value: 987654}]}}}",
        "spec.healthCheck.active.http.headers[0].value",
        "must be text: write it with quotes",
    ),
    (
        "healthCheck: {active: {type: HTTP, http: {headers: [{name: Token, value: \"a\\nb\"}]}}}",
        "spec.healthCheck.active.http.headers[0].value",
        "it is not a line of text",
    ),
    (
        "healthCheck: {active: {type: MySQL, mysql: {}}}",
        "spec.healthCheck.active.mysql.user",
        "is missing: write `user` (The user that logs in)",
    ),
    ("connect: 3s", "spec.connect", "must be an object (`name: value` lines), not the text `3s`"),
    (
        "listeners: [{port: 1, access: {allow: [10.0.0/8]}}]",
        "spec.listeners[0].access.allow[0]",
        "`10.0.0/8` is not a network: write for example 10.0.0.0/8",
    ),
    (
        "listeners: [{port: 1, access: {deny: [10.0.0.0/8, 10.0.0.0/8]}}]",
        "spec.listeners[0].access.deny[1]",
        "`10.0.0.0/8` is listed twice",
    ),
    ("service: {annotations: {a: 1}}", "spec.service.annotations.a", "must be text: write \"1\", with quotes"),
    (
        "service: {type: LoadBalancer, loadBalancerClass: a/b/c}",
        "spec.service.loadBalancerClass",
        "`a/b/c` is not a qualified name: write for example example.com/internal",
    ),
    ("loadBalancing: {algorithm: RoundRobbin}", "spec.loadBalancing.algorithm", "write RoundRobin or LeastConnections"),
    (
        "listeners: [{port: 1, accessLog: {mode: Off}}]",
        "spec.listeners[0].accessLog.mode",
        "`false` is not a valid value: write All or Failures or \"Off\", with quotes, because YAML reads Off as false",
    ),
    (
        "listeners: [{port: 1, accessLog: {mode: none}}]",
        "spec.listeners[0].accessLog.mode",
        "the text `none` is not a valid value: write All or Failures or \"Off\"",
    ),
    (
        "backends: [{proxyProtocol: yes}]",
        "spec.backends[0].proxyProtocol",
        "`true` is not a valid value: write V1 or V2",
    ),
];

#[test]
fn values_that_yaml_reads_as_booleans_are_written_with_quotes() {
    let problems = problems("listeners: [{port: 1, accessLog: {mode: \"Off\"}}]");
    assert!(problems.is_empty(), "{problems:?}");
    for (read, word) in [(true, "Yes"), (true, "on"), (true, "TRUE"), (false, "No"), (false, "off"), (false, "False")] {
        let expected = format!("`{read}` is not a valid value: write V1 or \"{word}\", with quotes");
        let message = unlisted(&json!(read), &["V1", word]);
        assert!(message.starts_with(&expected), "{message}");
        let other = unlisted(&json!(!read), &["V1", word]);
        assert_eq!(other, format!("`{}` is not a valid value: write V1 or \"{word}\"", !read));
    }
}

#[test]
fn each_mistake_is_answered_by_its_path_and_what_to_write_instead() {
    for (fields, path, words) in MISTAKES {
        let problems = problems(fields);
        assert_eq!(problems.len(), 1, "{fields}: {problems:?}");
        assert!(problems[0].starts_with(&format!("{path}: ")), "{fields}: {}", problems[0]);
        assert!(problems[0].contains(words), "{fields}: {}", problems[0]);
    }
}

#[test]
fn nothing_that_may_be_a_password_is_quoted_wherever_it_is_written() {
    // A line break makes a text invalid that would otherwise be accepted.
    const SECRETS: [&str; 4] = ["TOPSECRET", "\"TOPSECRET\\n\"", "[TOPSECRET]", "{TOPSECRET: TOPSECRET}"];
    let quoted = |fields: &str| problems(fields).into_iter().find(|problem| problem.contains("TOPSECRET"));
    for check in [
        "type: Exchange, exchange: SECRET",
        "type: Exchange, exchange: {send: SECRET, expect: {text: a}}",
        "type: Exchange, exchange: {send: {text: SECRET}, expect: {text: a}}",
        "type: Exchange, exchange: {send: {hex: SECRET}, expect: {text: a}}",
        "type: Exchange, exchange: {send: {txet: SECRET}, expect: {text: a}}",
        "type: HTTP, http: SECRET",
        "type: HTTP, http: {headers: SECRET}",
        "type: HTTP, http: {headers: [SECRET]}",
        "type: HTTP, http: {headers: [SECRET, SECRET]}",
        "type: HTTP, http: {headers: [{name: SECRET, value: a}, {name: SECRET, value: b}]}",
        "type: HTTP, http: {headers: [{name: Token, value: SECRET}]}",
        "type: HTTP, http: {headers: [{name: Token, valeu: SECRET}]}",
        "type: HTTP, http: {headers: {Token: SECRET}}",
        "type: HTTP, http: {headers: [{Token: SECRET}]}",
        "type: Redis, redis: SECRET",
        "type: Redis, redis: {passwordRef: SECRET}",
        "type: Redis, redis: {passwordRef: {name: SECRET}}",
        "type: Redis, redis: {passwordRef: {name: a, key: SECRET}}",
        "type: Redis, redis: {passwordRef: {file: SECRET}}",
        "type: Redis, redis: {passwordRef: {password: SECRET}}",
        "type: Redis, redis: {password: SECRET}",
        "type: MySQL, mysql: {user: a, passwordRef: {name: SECRET}}",
        "type: Postgres, postgres: {user: a, passwordRef: {name: SECRET}}",
    ] {
        // The message names an unknown field, except below fields that may contain a password.
        let in_place_of_fields = check.ends_with(": SECRET") && check.matches(':').count() == 2;
        for secret in SECRETS.iter().take(if in_place_of_fields { 3 } else { 4 }) {
            let check = check.replace("SECRET", secret);
            let of_all = format!("healthCheck: {{active: {{{check}}}}}");
            assert_eq!(quoted(&of_all), None, "{of_all}");
            let of_backend = format!("backends: [{{addresses: ['db:1'], healthCheck: {{active: {{{check}}}}}}}]");
            assert_eq!(quoted(&of_backend), None, "{of_backend}");
        }
    }
    assert!(quoted("className: [TOPSECRET]").is_none() && quoted("connect: TOPSECRET").is_some());
}

#[test]
fn all_mistyped_texts_are_reported_at_once() {
    let problems = problems(
        "listeners: [{port: 1, name: A, address: x, access: {allow: [a, b]}, tls: {certificateRefs: [{name: _}]}}]\n\
         backends: [{addresses: [db, 'db:0']}, {service: {name: S, port: P}}]\n\
         timeouts: {idle: 5, handshake: soon, halfClosed: 1d}",
    );
    let paths: Vec<_> = problems.iter().map(|problem| problem.split(": ").next().unwrap()).collect();
    assert_eq!(
        paths,
        [
            "spec.backends[0].addresses[0]",
            "spec.backends[0].addresses[1]",
            "spec.backends[1].service.name",
            "spec.backends[1].service.port",
            "spec.listeners[0].access.allow[0]",
            "spec.listeners[0].access.allow[1]",
            "spec.listeners[0].address",
            "spec.listeners[0].name",
            "spec.listeners[0].tls.certificateRefs[0].name",
            "spec.timeouts.halfClosed",
            "spec.timeouts.handshake",
            "spec.timeouts.idle",
        ],
        "{problems:#?}"
    );
}

#[test]
fn every_text_with_a_rule_is_checked_here_too() {
    fn visit(schema: &Value, path: &str) {
        let rules = schema["x-kubernetes-validations"].as_array().into_iter().flatten();
        let mut of_the_text = rules.filter(|rule| rule["rule"] != "self == oldSelf");
        if schema["type"] == "string" && of_the_text.next().is_some() {
            let format = schema["format"].as_str().unwrap_or_default();
            assert!(api::format(format).is_some(), "{path} has a rule that nothing checks here");
        }
        match schema {
            Value::Object(fields) => fields.iter().for_each(|(name, value)| visit(value, &format!("{path}.{name}"))),
            Value::Array(list) => list.iter().for_each(|value| visit(value, path)),
            _ => {}
        }
    }
    visit(&SCHEMA, "");
    let published = serde_json::to_string(&api::crd()).unwrap();
    for format in ["Duration", "IpAddress", "PortRef"] {
        assert!(SCHEMA.to_string().contains(format) && !published.contains(&format!("\"format\":\"{format}\"")));
    }
}

#[test]
fn all_schema_mistakes_are_reported_at_once() {
    let problems = problems("listeners: [{port: 0}, {port: 1, x: 1}]\nbackends: []\nfoo: 1");
    assert_eq!(problems.len(), 4, "{problems:?}");
}

#[test]
fn a_long_list_says_how_long_it_may_be() {
    let listeners: Vec<_> = (1..=17).map(|port| json!({ "port": port })).collect();
    let problems = problems(&json!({ "listeners": listeners }).to_string());
    assert_eq!(problems, ["spec.listeners: has 17 entries: write at most 16"]);
}

#[test]
fn a_document_without_a_spec_gets_a_message_about_it() {
    let mut bare = document(json!(null));
    assert!(load_balancer(bare.clone()).unwrap_err()[0].starts_with("spec: is missing: write `spec:`"));
    bare["specs"] = json!({});
    let problems = load_balancer(bare).unwrap_err();
    assert!(problems[1].starts_with("specs: unknown field (did you mean `spec`?)"), "{problems:?}");
    assert!(load_balancer(json!([])).unwrap_err()[0].starts_with("the document: must be an object"));
}

#[test]
fn nulls_and_a_status_are_ignored_as_the_server_does() {
    let mut good = document(json!({
        "listeners": [{"port": 5432, "name": null}], "backends": [{"addresses": ["db:5432"], "weight": 3}], "connect": null,
    }));
    good["status"] = json!({"anything": 1, "conditions": "none"});
    good["metadata"]["creationTimestamp"] = json!(null);
    let spec = load_balancer(good).unwrap();
    assert_eq!((spec.listeners[0].port, spec.backends[0].weight), (5432, 3));
    assert_eq!(spec.listeners[0].name, None);
}

#[test]
fn near_names_are_found_and_far_ones_are_not() {
    let names = ["listeners", "backends", "healthCheck", "connect", "tls", "port"];
    for (name, found) in [
        ("listener", Some("listeners")),
        ("Listeners", Some("listeners")),
        ("health-check", Some("healthCheck")),
        ("prot", Some("port")),
        ("tsl", Some("tls")),
        ("conect", Some("connect")),
        ("x", None),
        ("timeouts", None),
        ("", None),
    ] {
        assert_eq!(near(name, names), found, "{name}");
    }
}

#[test]
fn every_field_has_a_description() {
    fn visit(schema: &Value, path: &str) {
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{name}");
            let described = field["description"].as_str().is_some_and(|text| text.len() > 10);
            assert!(described, "{path} has no description: write its doc comment");
            visit(field, &path);
            visit(&field["items"], &path);
        }
    }
    assert!(SCHEMA["properties"]["spec"]["properties"]["listeners"].is_object());
    visit(&SCHEMA, "");
}

#[test]
fn every_bounded_list_and_number_has_its_bounds() {
    fn visit(schema: &Value, path: &str) {
        match schema["type"].as_str() {
            Some("array") => assert!(schema["maxItems"].is_number(), "{path} has no maxItems"),
            // The API server accepts the numbers that the controller counts.
            Some("integer") if !path.starts_with(".status") => {
                assert!(schema["minimum"].is_number() && schema["maximum"].is_number(), "{path} has no range");
            }
            _ => {}
        }
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            visit(field, &format!("{path}.{name}"));
        }
        if schema["items"].is_object() {
            visit(&schema["items"], &format!("{path}[]"));
        }
    }
    visit(&SCHEMA, "");
}

/// Values of any shape, including field names of the schema.
fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[ -~]{0,12}".prop_map(Value::from),
        prop_oneof!["[0-9]{1,6}(ms|s|h|x)", "[0-9.]{1,10}(/[0-9]{1,3})?", "\\PC{0,8}"].prop_map(Value::from),
    ];
    let name = prop_oneof![
        4 => proptest::sample::select(vec![
            "spec", "listeners", "backends", "port", "tls", "access", "allow", "proxyProtocol", "trustedNetworks", "weight",
            "addresses", "service", "name", "mode", "certificateRefs", "files", "metadata", "timeouts", "idle", "limits",
        ]),
        1 => Just("unknown"),
    ];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(name.clone().prop_map(str::to_owned), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_document_makes_the_check_panic(value in any_value()) {
        let _ = load_balancer(value.clone());
        let _ = load_balancer(document(value));
    }

    #[test]
    fn specs_survive_a_round_trip(port in 1_u16.., weight in 1_u16..=1000, idle in 0_u32..90_000) {
        let spec = json!({
            "listeners": [{"port": port}],
            "backends": [{"addresses": ["192.0.2.7:5432"], "weight": weight}],
            "timeouts": {"idle": format!("{idle}ms")},
        });
        let spec = load_balancer(document(spec)).unwrap();
        let again = load_balancer(document(serde_json::to_value(&spec).unwrap())).unwrap();
        prop_assert_eq!(spec, again);
    }
}
