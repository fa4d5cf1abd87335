//! Translation of declared checks.

use std::sync::Arc;

use super::*;
use crate::model::{ActiveCheck, Hidden, Probe, Role, Transport};

const SECRET: &str =
    "{kind: Secret, metadata: {name: monitor}, data: {password: c2VzYW1l, other: b3RoZXI=, bad: YQpi}}";

/// A load balancer with this check, and its Secret.
fn checked(check: &str) -> World {
    let mut world = world(SECRET);
    let spec = format!(
        "{{listeners: [{{port: 1}}], backends: [{{addresses: ['10.0.0.1:1']}}], healthCheck: {{active: {check}}}}}"
    );
    world.load_balancers = load_balancer("pg", &spec).load_balancers;
    world
}

fn check_of(snapshot: &Snapshot, backend: &str) -> Option<Arc<ActiveCheck>> {
    snapshot.upstreams[&upstream("pg")].backends[backend].active_check.clone()
}

fn probe(check: &str) -> Probe {
    let (snapshot, verdicts) = first(&checked(check));
    assert_eq!(sentences(&verdicts, "pg"), Vec::<String>::new(), "{check}");
    check_of(&snapshot, "default").unwrap().probe.clone()
}

#[test]
fn checks_are_translated_as_declared() {
    let Probe::Exchange(exchange) = probe("{type: Exchange, exchange: {send: {hex: 50494e47}, expect: {text: +PONG}}}")
    else {
        panic!()
    };
    assert_eq!((&**exchange.send.reveal(), &*exchange.expect), (&b"PING"[..], &b"+PONG"[..]));

    let Probe::Http(request) = probe("{type: HTTP}") else { panic!() };
    assert_eq!((request.path.as_str(), &request.statuses[..], request.headers.len()), ("/", &[200..=399][..], 0));
    let http = "{path: '/a?b', statuses: [200, 300-302], host: h, headers: [{name: X-Y, value: z}]}";
    let Probe::Http(request) = probe(&format!("{{type: HTTP, http: {http}}}")) else { panic!() };
    assert_eq!((request.path.as_str(), &request.statuses[..]), ("/a?b", &[200..=200, 300..=302][..]));
    let headers: Vec<_> = request.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    assert_eq!(headers, [("host", &b"h"[..]), ("x-y", b"z")]);

    assert_eq!(probe("{type: Postgres}"), Probe::Postgres(None));
    let session = "{role: Primary, user: u, passwordRef: {name: monitor}}";
    let Probe::Postgres(Some(postgres)) = probe(&format!("{{type: Postgres, postgres: {session}}}")) else { panic!() };
    assert_eq!((&*postgres.user, &*postgres.database, postgres.role), ("u", "postgres", Role::Primary));
    assert_eq!(postgres.password, Some(Hidden::new("sesame".into())));
    let session = "{user: u, passwordRef: {name: monitor, key: other}}";
    let Probe::MySql(mysql) = probe(&format!("{{type: MySQL, mysql: {session}}}")) else { panic!() };
    assert_eq!((mysql.role, mysql.password), (Role::Any, Some(Hidden::new("other".into()))));
    let Probe::Redis(redis) = probe("{type: Redis, redis: {role: Replica}}") else { panic!() };
    assert_eq!((redis.role, redis.user, redis.password), (Role::Replica, None, None));
    let Probe::Grpc(grpc) = probe("{type: GRPC, grpc: {service: shop.Orders}}") else { panic!() };
    assert_eq!(&*grpc.service, "shop.Orders");
}

#[test]
fn paces_and_ports_have_their_defaults() {
    let check = |declared: &str| check_of(&first(&checked(declared)).0, "default").unwrap();
    let default = check("{interval: 7s}");
    assert_eq!((default.interval, default.unhealthy_interval), (default.interval, default.interval));
    assert_eq!((default.jitter_percent, default.port, default.transport), (10, None, Transport::AsConnections));
    let other = check("{interval: 7s, unhealthyInterval: 100ms, jitterPercent: 0, port: 8008}");
    assert_eq!((other.unhealthy_interval.as_millis(), other.jitter_percent), (100, 0));
    assert_eq!((other.port.unwrap().get(), other.transport), (8008, Transport::ByPort));
}

#[test]
fn a_backend_has_its_own_check_or_the_common_one() {
    let spec = "{listeners: [{port: 1}], healthCheck: {active: {interval: 9s}}, backends: [\
                {name: a, addresses: ['10.0.0.1:1'], healthCheck: {active: {type: Redis}}}, \
                {name: b, addresses: ['10.0.0.2:1']}, \
                {name: c, addresses: ['10.0.0.3:1'], healthCheck: {active: {type: None}}}]}";
    let (snapshot, verdicts) = first(&load_balancer("pg", spec));
    assert_eq!(sentences(&verdicts, "pg"), Vec::<String>::new());
    let [a, b, c] = ["a", "b", "c"].map(|name| check_of(&snapshot, name));
    assert_eq!(a.map(|check| (check.probe.name(), check.interval.as_secs())), Some(("Redis", 5)), "nothing is mixed");
    assert_eq!(b.map(|check| (check.probe.name(), check.interval.as_secs())), Some(("TCP", 9)));
    assert_eq!(c, None);
}

/// Active checks with a mistake, and the message from its path on.
const CHECK_MISTAKES: &[(&str, &str)] = &[
    ("{http: {}}", ".http: requires type HTTP: write `type: HTTP`, or remove it"),
    ("{type: HTTP, redis: {}}", ".redis: requires type Redis: write `type: Redis`, or remove it"),
    ("{type: Exchange}", ".exchange: type Exchange requires `exchange`: write for example `exchange: {"),
    ("{type: Exchange, exchange: {expect: {}}}", ".exchange.expect: write one of text and hex"),
    ("{type: Exchange, exchange: {expect: {text: a, hex: '61'}}}", ".exchange.expect: write one of text and hex"),
    ("{type: Exchange, exchange: {send: {}, expect: {text: a}}}", ".exchange.send: write one of text and hex"),
    (
        "{type: HTTP, http: {headers: [{name: Host, value: a}]}}",
        ".http.headers[0]: the Host header is set by `host`: write it there",
    ),
    (
        "{type: HTTP, http: {headers: [{name: transfer-Encoding, value: chunked}]}}",
        ".http.headers[0]: probes have no body: remove Content-Length and Transfer-Encoding",
    ),
    ("{type: HTTP, http: {headers: [{name: Content-Length, value: '5'}]}}", ".http.headers[0]: probes have no body"),
    ("{transport: TLS}", ".transport: transport has no effect with types TCP, TLS and None"),
    ("{type: TLS, transport: Plain}", ".transport: transport has no effect with types TCP, TLS and None"),
    ("{type: None, transport: TLS}", ".transport: transport has no effect with types TCP, TLS and None"),
    ("{type: TLS, tls: {serverName: '*.a'}}", ".tls.serverName: a wildcard cannot be requested: write one name"),
    (
        "{type: TLS, tls: {serverName: db.7}}",
        ".tls.serverName: `db.7` is not a server name that can be requested: write labels of at most 63 characters",
    ),
    ("{type: MySQL}", ".mysql: type MySQL requires an account, since the server counts connections that do not log"),
    ("{type: Postgres, postgres: {role: Replica}}", ".postgres.role: role requires user, since PostgreSQL reports"),
    (
        "{type: Postgres, postgres: {passwordRef: {name: monitor}}}",
        ".postgres.passwordRef: passwordRef requires user: set `user` or remove `passwordRef`",
    ),
    ("{type: Redis, redis: {user: u}}", ".redis.user: user requires passwordRef: set `passwordRef` or remove `user`"),
    (
        "{type: Redis, redis: {passwordRef: {name: nowhere}}}",
        ".redis.passwordRef: Secret shop/nowhere does not exist: create it, or correct the reference",
    ),
    (
        "{type: Redis, redis: {passwordRef: {name: monitor, key: pass}}}",
        ".redis.passwordRef: Secret shop/monitor has no password under that `key`: set `key` to the key",
    ),
    (
        "{type: Redis, redis: {passwordRef: {name: monitor, key: bad}}}",
        ".redis.passwordRef: bad of Secret shop/monitor is not a password: write one line of at most 1024 bytes",
    ),
    (
        "{type: Redis, redis: {passwordRef: {}}}",
        ".redis.passwordRef: neither name nor file is set: write the name of a Secret, or a file",
    ),
    (
        "{type: Redis, redis: {passwordRef: {name: monitor, file: a}}}",
        ".redis.passwordRef: both name and file are set: keep one of them",
    ),
    ("{type: Redis, redis: {passwordRef: {file: a}}}", ".redis.passwordRef: file /etc/tcplb/a has not been read"),
    ("{port: 0}", ".port: 0 is out of range: write 1 to 65535"),
    ("{jitterPercent: 51}", ".jitterPercent: 51 is out of range: write 0 to 50"),
    ("{unhealthyInterval: 99ms}", ".unhealthyInterval: 99ms is out of range: write 100ms to 1h"),
];

#[test]
fn mistakes_in_checks_get_a_message() {
    for (mistake, expected) in CHECK_MISTAKES {
        let (snapshot, verdicts) = first(&checked(mistake));
        let messages = sentences(&verdicts, "pg");
        assert!(
            messages.len() == 1 && messages[0].contains(&format!("healthCheck.active{expected}")),
            "{mistake}: {messages:#?}"
        );
        assert!(
            messages[0].ends_with("none of its listeners is served") && !messages[0].contains("sesame"),
            "{messages:?}"
        );
        assert!(snapshot.listeners.is_empty(), "{mistake}");
    }
}

#[test]
fn an_invalid_check_keeps_the_last_good_one() {
    let good = "{type: Redis, redis: {role: Primary, passwordRef: {name: monitor}}}";
    let before = first(&checked(good)).0;
    let mut without_secret = checked(good);
    without_secret.secrets.clear();
    for wrong in [without_secret, checked("{type: MySQL}")] {
        let (snapshot, verdicts) = then(&wrong, &before);
        assert_eq!(check_of(&snapshot, "default"), check_of(&before, "default"));
        assert!(sentences(&verdicts, "pg")[0].ends_with("; the previous settings stay in effect"));
    }
    let mut changed = checked(good);
    changed.secrets = world(&SECRET.replace("c2VzYW1l", "b3RoZXI=")).secrets;
    assert!(!then(&changed, &before).0.configures_the_same(&before), "another password is another check");
}

#[test]
fn a_check_over_tls_needs_a_backend_with_tls() {
    let spec = |check: &str, backend: &str| {
        format!(
            "{{listeners: [{{port: 1}}], healthCheck: {{active: {check}}}, \
             backends: [{{addresses: ['10.0.0.1:1'], {backend}}}]}}"
        )
    };
    let check = "{type: HTTP, transport: TLS}";
    for (spec, expected) in [
        (
            spec(check, ""),
            "spec.healthCheck.active.transport: backend `default` has neither `tls` nor a check of its own: set `tls` \
             there",
        ),
        (
            spec("{}", &format!("healthCheck: {{active: {check}}}")),
            "spec.backends[0].healthCheck.active.transport: transport TLS requires the backend's `tls`: set `tls`, or remove `transport`",
        ),
    ] {
        let (_, verdicts) = first(&load_balancer("pg", &spec));
        assert!(sentences(&verdicts, "pg")[0].starts_with(expected), "{verdicts:?}");
    }
    let (snapshot, _) = first(&load_balancer("pg", &spec(check, "tls: {insecureSkipVerify: true}")));
    assert_eq!(check_of(&snapshot, "default").unwrap().transport, Transport::Tls);
}

#[test]
fn a_handshake_is_verified_as_connections_are_on_another_port_too() {
    let (snapshot, verdicts) = first(&checked("{type: TLS, port: 8443}"));
    assert_eq!(sentences(&verdicts, "pg"), Vec::<String>::new());
    assert_eq!(check_of(&snapshot, "default").unwrap().transport, Transport::AsConnections);
}

#[test]
fn passwords_with_a_byte_order_mark_are_refused() {
    for (text, expected) in [
        (&b"\xef\xbb\xbfsesame\n"[..], "has a byte order mark, which would be part of the password: save it without"),
        (b"\xff\xfes\0e\0s\0", "is UTF-16 or not text: save it as UTF-8"),
        (b"s\0e\0s\0", "is UTF-16 or not text: save it as UTF-8"),
        (b"s\xe9same", "is not text in UTF-8: save it as UTF-8"),
        (b"", "is empty: write a password there"),
        (b"sesame\nsesame\n", "is not a password: write one line of at most 1024 bytes"),
    ] {
        let mut world = checked("{type: Redis, redis: {passwordRef: {file: a}}}");
        world.files.insert("/etc/tcplb/a".into(), Ok(text.into()));
        let messages = sentences(&first(&world).1, "pg");
        assert!(messages[0].contains(&format!("passwordRef: file /etc/tcplb/a {expected}")), "{messages:?}");
        assert!(!messages[0].contains("same"), "{messages:?}");
    }
}

#[test]
fn a_line_break_at_the_end_of_a_password_is_ignored() {
    let served = |world: &World| {
        let (snapshot, _) = first(world);
        let Probe::Redis(redis) = &check_of(&snapshot, "default").unwrap().probe else { panic!() };
        redis.password.clone()
    };
    for (text, encoded) in
        [(&b"sesame"[..], "c2VzYW1l"), (b"sesame\n", "c2VzYW1lCg=="), (b"sesame\r\n", "c2VzYW1lDQo=")]
    {
        let mut in_file = checked("{type: Redis, redis: {passwordRef: {file: a}}}");
        in_file.files.insert("/etc/tcplb/a".into(), Ok(text.into()));
        let mut in_secret = checked("{type: Redis, redis: {passwordRef: {name: monitor}}}");
        let secret = format!("{{kind: Secret, metadata: {{name: monitor}}, data: {{password: {encoded}}}}}");
        in_secret.secrets = world(&secret).secrets;
        for world in [in_file, in_secret] {
            assert_eq!(served(&world), Some(Hidden::new("sesame".into())), "{text:?}");
        }
    }
}
