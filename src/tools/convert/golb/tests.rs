use serde_json::json;

use super::*;

/// A configuration without warnings.
fn plain() -> Value {
    json!({
        "listen_addr": ":4000", "accept_tls": false, "algorithm": "round_robin",
        "health_check_interval": 10, "request_timeout": 5,
        "max_concurrent_connections": 10, "max_connections_per_minute": 50,
        "ip_filter_mode": "none", "ip_filter_list": [],
        "servers": [{"address": "localhost:9001"}, {"address": "127.0.0.1:9002"}, {"address": ":9003"}],
    })
}

fn with(field: &str, value: Value) -> String {
    let mut config = plain();
    config[field] = value;
    config.to_string()
}

fn converted(text: &str) -> (TcpLoadBalancerSpec, Vec<String>) {
    let conversion = golb(text).unwrap();
    let object: TcpLoadBalancer = serde_saphyr::from_str(&conversion.manifest).unwrap();
    assert_eq!(object.metadata.name.as_deref(), Some("golb"));
    for warning in &conversion.warnings {
        let comment = format!("# - {}\n", warning.replace('\n', " "));
        assert!(conversion.manifest.contains(&comment), "{}", conversion.manifest);
    }
    (object.spec, conversion.warnings)
}

fn problems(text: &str) -> Vec<String> {
    golb(text).unwrap_err().0
}

#[test]
fn a_whole_configuration_becomes_a_manifest_people_can_read() {
    let mut config = plain();
    config["accept_tls"] = json!(true);
    config["tls_cert_file"] = json!("/etc/golb/server.crt");
    config["tls_key_file"] = json!("/etc/golb/server.key");
    config["ip_filter_mode"] = json!("allow");
    config["ip_filter_list"] = json!(["127.0.0.1", "2001:db8::7"]);
    let conversion = golb(&config.to_string()).unwrap();
    assert_eq!(conversion.warnings, Vec::<String>::new());
    assert_eq!(
        conversion.manifest,
        "\
# Converted from a GoLB configuration.
# - Both limits count each client by itself, as in GoLB: an IPv4 address, or an IPv6 /64.
# - newConnectionsPerSource allows a burst of its count, then the same number per minute at an even rate.
# - request_timeout limits one attempt to connect, and one health check, as in GoLB.
apiVersion: tcplb.io/v1alpha1
kind: TcpLoadBalancer
metadata:
  name: golb
spec:
  listeners:
  - port: 4000
    tls:
      mode: Terminate
      certificateRefs:
      - files:
          certificate: /etc/golb/server.crt
          key: /etc/golb/server.key
      minVersion: TLS1.2
    access:
      allow:
      - 127.0.0.1/32
      - 2001:db8::7/128
    limits:
      maxConnectionsPerSource: 10
      newConnectionsPerSource:
        count: 50
        per: 1m
  backends:
  - addresses:
    - localhost:9001
    - 127.0.0.1:9002
    - localhost:9003
    weight: 1
  loadBalancing:
    algorithm: RoundRobin
  healthCheck:
    active:
      type: TCP
      interval: 10s
      timeout: 5s
      healthyAfter: 1
      unhealthyAfter: 1
  connect:
    timeout: 5s
    deadline: 15s
    attempts: 3
"
    );
}

#[test]
fn the_example_converts_without_a_warning() {
    let (spec, warnings) = converted(include_str!("../../../../examples/golb.json"));
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(spec.listeners[0].port, 4000);
}

#[test]
fn listen_addr_is_understood_as_go_does() {
    for (text, address) in [
        (":4000", None),
        ("0.0.0.0:4000", None),
        ("[::]:4000", None),
        ("localhost:4000", Some("127.0.0.1")),
        ("192.0.2.7:4000", Some("192.0.2.7")),
        ("[::1]:4000", Some("::1")),
    ] {
        let listener = converted(&with("listen_addr", json!(text))).0.listeners.remove(0);
        assert_eq!((listener.port, listener.address), (4000, address.map(|a| a.parse().unwrap())), "{text}");
    }
    for text in ["4000", ":0", ":70000", ":http", "db.example.com:4000", "192.0.2:4000"] {
        let problems = problems(&with("listen_addr", json!(text)));
        assert!(problems[0].starts_with(&format!("listen_addr: `{text}` is not an address: write")), "{problems:?}");
    }
}

#[test]
fn unset_settings_get_golbs_default_and_a_warning() {
    let (spec, warnings) = converted(r#"{"servers": [{"address": "127.0.0.1:9001"}], "request_timeout": 0}"#);
    assert_eq!(
        warnings,
        [
            "max_connections_per_minute is not set, using GoLB's default, 50",
            "max_concurrent_connections is not set, using GoLB's default, 10",
            "health_check_interval is not set, using GoLB's default, 10",
            "request_timeout is not set, using GoLB's default, 5",
            "listen_addr is not set, using GoLB's default, :8080",
        ]
    );
    assert_eq!(spec.listeners[0].port, 8080);
    assert_eq!(spec.listeners[0].limits.as_ref().unwrap().max_connections_per_source, Some(10));
    assert_eq!(spec.connect.unwrap().timeout, Some(seconds(5)));
}

#[test]
fn the_filter_admits_the_same_clients_as_golb() {
    let access = |mode: &str, list: Value| {
        let mut config = plain();
        config["ip_filter_mode"] = json!(mode);
        config["ip_filter_list"] = list;
        let (mut spec, warnings) = converted(&config.to_string());
        (spec.listeners.remove(0).access, warnings)
    };
    let one: Vec<Network> = vec!["192.0.2.7".parse().unwrap()];
    let list = json!(["192.0.2.7"]);
    assert_eq!(access("Allow", list.clone()), (Some(Access { allow: one.clone(), deny: vec![] }), vec![]));
    assert_eq!(access("deny", list.clone()), (Some(Access { allow: vec![], deny: one }), vec![]));
    assert_eq!(access("none", json!([])), (None, vec![]));
    for (mode, list, warning) in [
        ("", list.clone(), "ip_filter_list was ignored, because ip_filter_mode is none: all clients may connect"),
        ("allow", json!([]), "ip_filter_mode was ignored, because ip_filter_list is empty: all clients may connect"),
        (
            "deny",
            json!(["10.0.0.0/8"]),
            "ip_filter_list[0]: GoLB compares whole addresses, so `10.0.0.0/8` had no effect there, but it has one \
             here",
        ),
    ] {
        assert_eq!(access(mode, list).1, [warning]);
    }
}

#[test]
fn settings_without_a_counterpart_get_a_warning() {
    for (field, value, warning) in [
        ("max_retries", json!(3), "max_retries is not a field of GoLB and was ignored"),
        ("evil\nspec: {}", json!(3), "evil\nspec: {} is not a field of GoLB and was ignored"),
        ("algorithm", json!("least_connections"), "algorithm: GoLB ignores `least_connections` and uses round robin"),
        ("tls_key_file", json!("a.key"), "tls_key_file was ignored, because accept_tls is false"),
        (
            "servers",
            json!([{"address": "a:1", "weight": 2}]),
            "servers[0].weight is not a field of GoLB and was ignored",
        ),
        (
            "servers",
            json!([{"address": "a:1"}, {"address": "A:1"}]),
            "servers[1].address: a:1 is a duplicate and was ignored",
        ),
    ] {
        let warnings = converted(&with(field, value)).1;
        assert!(warnings.len() == 1 && warnings[0].starts_with(warning), "{warnings:?}");
    }
}

#[test]
fn relative_certificate_paths_are_pointed_out() {
    let mut config = plain();
    config["accept_tls"] = json!(true);
    config["tls_cert_file"] = json!("./certs/server.crt");
    config["tls_key_file"] = json!("/etc/server.key");
    let warnings = converted(&config.to_string()).1;
    assert_eq!(
        warnings,
        ["tls_cert_file: `./certs/server.crt` is now relative to the folder of the manifest, not to the working \
          directory"]
    );
}

#[test]
fn a_check_never_takes_longer_than_its_interval() {
    let active = converted(&with("health_check_interval", json!(2))).0.health_check.unwrap().active.unwrap();
    assert_eq!((active.interval, active.timeout), (Some(seconds(2)), Some(seconds(2))));
}

#[test]
fn names_of_fields_are_read_in_any_case() {
    let text = plain().to_string().replace("listen_addr", "Listen_Addr");
    assert_eq!(converted(&text).1, Vec::<String>::new());
}

#[test]
fn unconvertible_fields_are_refused_by_name() {
    for (field, value, problem) in [
        (
            "health_check_interval",
            json!("10s"),
            r#"health_check_interval: "10s" is not a number that GoLB accepts, write"#,
        ),
        ("request_timeout", json!(1.5), "request_timeout: 1.5 is not a number that GoLB accepts, write"),
        ("request_timeout", json!(7200), "request_timeout: 7200 is too large, write at most 3600"),
        ("listen_addr", json!(4000), "listen_addr: invalid type: integer `4000`, expected a string"),
        ("accept_tls", json!(true), "tls_cert_file is not set, but accept_tls is true"),
        ("ip_filter_list", json!(["::1", "everyone"]), "ip_filter_list[1]: `everyone` is not a network: write"),
        ("servers", json!([]), "servers is empty: write at least one"),
        ("servers", json!([7]), "servers[0]: invalid type: integer `7`, expected an object with an address"),
        ("servers", json!([{"address": "a:1"}, {"address": "b"}]), "servers[1].address: `b` is not an address: write"),
        ("servers", json!([{}]), "servers[0].address: `` is not an address: write"),
    ] {
        let problems = problems(&with(field, value));
        assert!(problems[0].starts_with(problem), "{problems:?}");
    }
    let mut config = plain();
    config["ip_filter_mode"] = json!("whitelist");
    config["ip_filter_list"] = json!(["::1"]);
    assert!(problems(&config.to_string())[0].starts_with("ip_filter_mode: `whitelist` is not a mode"));
    assert!(problems("{")[0].starts_with("the file is not JSON: "));
    assert!(problems("[]")[0].starts_with("the file is not a GoLB configuration: "));
}

#[test]
fn all_problems_are_reported_at_once() {
    assert_eq!(problems(r#"{"listen_addr": "x", "request_timeout": true, "servers": []}"#).len(), 3);
}
