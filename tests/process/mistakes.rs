//! Invalid input is reported with its place and the correction, and affects nothing else.

use std::{
    net::{SocketAddr, TcpListener},
    process::Command,
};

use crate::harness::{EchoServer, Folder, Tcplb, free_address, is_root, manifest, run, skip, visit, wait_until};

/// A file with a mistake, and the expected report.
struct Mistake {
    what: &'static str,
    /// The text, from the listening port and a working backend.
    text: fn(u16, SocketAddr) -> String,
    /// The object with the mistake; empty: it cannot be determined.
    object: &'static str,
    /// The field and the message.
    said: &'static [&'static str],
    consequence: Consequence,
}

#[derive(Clone, Copy, PartialEq)]
enum Consequence {
    Refused,
    /// The object is served, with a warning.
    Warned,
    /// The object is accepted with a warning, but has no endpoint.
    Idle,
}

use Consequence::{Idle, Refused, Warned};

/// A valid manifest, as the base of mistakes.
fn right(port: u16, backend: SocketAddr) -> String {
    manifest("bad", port, &[backend], "")
}

const MISTAKES: &[Mistake] = &[
    Mistake {
        what: "bad YAML",
        text: |port, backend| right(port, backend).replace("spec:", "spec: ["),
        object: "",
        said: &["is not YAML", "line ", "column "],
        consequence: Refused,
    },
    Mistake {
        what: "an unknown field",
        text: |port, backend| right(port, backend).replace("listeners", "listenrs"),
        object: "default/bad",
        said: &["spec.listenrs: unknown field (did you mean `listeners`?)", "spec.listeners: is missing"],
        consequence: Refused,
    },
    Mistake {
        what: "an unknown field below",
        text: |port, backend| manifest("bad", port, &[backend], "timeouts: {idel: 5s}"),
        object: "default/bad",
        said: &["spec.timeouts.idel: unknown field (did you mean `idle`?)"],
        consequence: Refused,
    },
    Mistake {
        what: "a port declared twice",
        text: |port, backend| {
            let twice = format!("{{name: a, port: {port}}}, {{name: b, port: {port}}}");
            right(port, backend).replace(&format!("{{port: {port}, address: 127.0.0.1}}"), &twice)
        },
        object: "default/bad",
        said: &["spec.listeners[1].port", "is declared twice: give each listener its own port"],
        consequence: Refused,
    },
    Mistake {
        what: "a bad network",
        text: |port, backend| right(port, backend).replace("127.0.0.1}", "127.0.0.1, access: {allow: [10.0.0.0/33]}}"),
        object: "default/bad",
        said: &["spec.listeners[0].access.allow[0]", "10.0.0.0/33", "10.0.0.0/8"],
        consequence: Refused,
    },
    Mistake {
        what: "a check of a role that nobody tells strangers",
        text: |port, backend| {
            let check = "{type: Postgres, postgres: {role: Primary}}";
            manifest("bad", port, &[backend], &format!("healthCheck: {{active: {check}}}"))
        },
        object: "default/bad",
        said: &[
            "spec.healthCheck.active.postgres.role",
            "role requires user, since PostgreSQL reports its role only after a login: set `user`",
        ],
        consequence: Refused,
    },
    Mistake {
        what: "a password in a file that is not there",
        text: |port, backend| {
            let check = "{type: Redis, redis: {passwordRef: {file: nowhere}}}";
            manifest("bad", port, &[backend], &format!("healthCheck: {{active: {check}}}"))
        },
        object: "default/bad",
        said: &["spec.healthCheck.active.redis.passwordRef", "nowhere: no such file or folder"],
        consequence: Refused,
    },
    Mistake {
        what: "an answer that is half a byte",
        text: |port, backend| {
            let check = "{type: Exchange, exchange: {expect: {hex: 123}}}";
            manifest("bad", port, &[backend], &format!("healthCheck: {{active: {check}}}")).replace("123", "\"123\"")
        },
        object: "default/bad",
        said: &["spec.healthCheck.active.exchange.expect.hex", "write two digits for each byte"],
        consequence: Refused,
    },
    Mistake {
        what: "a status that is none",
        text: |port, backend| {
            let check = "{type: HTTP, http: {statuses: [2xx]}}";
            manifest("bad", port, &[backend], &format!("healthCheck: {{active: {check}}}"))
        },
        object: "default/bad",
        said: &["spec.healthCheck.active.http.statuses[0]", "not an HTTP status: write for example 200, or 200-299"],
        consequence: Refused,
    },
    Mistake {
        what: "a weight of zero",
        text: |port, backend| right(port, backend).replace("backends: [{", "backends: [{weight: 0, "),
        object: "default/bad",
        said: &["spec.backends[0].weight: 0 is out of range: write a number from 1 to 1000"],
        consequence: Refused,
    },
    Mistake {
        what: "a port out of range",
        text: |port, backend| right(port, backend).replace(&port.to_string(), "70000"),
        object: "default/bad",
        said: &["spec.listeners[0].port: 70000 is out of range: write a number from 1 to 65535"],
        consequence: Refused,
    },
    Mistake {
        what: "a backend's port out of range",
        text: |port, backend| right(port, backend).replace(&backend.to_string(), "127.0.0.1:70000"),
        object: "default/bad",
        said: &["spec.backends[0].addresses[0]", "`127.0.0.1:70000`", "write"],
        consequence: Refused,
    },
    Mistake {
        what: "no backends",
        text: |port, _| {
            format!(
                "{}  backends: []\n",
                right(port, SocketAddr::from(([127, 0, 0, 1], 1))).split("  backends").next().unwrap()
            )
        },
        object: "default/bad",
        said: &["spec.backends: must not be empty: write the backends that receive connections", "addresses"],
        consequence: Refused,
    },
    Mistake {
        what: "a Secret that is not there",
        text: |port, backend| {
            right(port, backend).replace("127.0.0.1}", "127.0.0.1, tls: {certificateRefs: [{name: nowhere}]}}")
        },
        object: "default/bad",
        said: &[
            "spec.listeners[0].tls.certificateRefs[0]",
            "Secret default/nowhere does not exist: create it, or correct the reference",
        ],
        consequence: Refused,
    },
    Mistake {
        what: "a duration without a unit",
        text: |port, backend| manifest("bad", port, &[backend], "timeouts: {idle: 30}"),
        object: "default/bad",
        said: &["spec.timeouts.idle", "`30` is not a duration", "1h30m"],
        consequence: Refused,
    },
    Mistake {
        what: "a name that cannot be resolved",
        text: |port, backend| right(port, backend).replace(&backend.to_string(), "nonexistent.invalid:5432"),
        object: "default/bad",
        said: &[
            "spec.backends[0].addresses[0]: `nonexistent.invalid` cannot be resolved",
            "correct the name, or write IP addresses",
        ],
        consequence: Idle,
    },
    Mistake {
        what: "a network that trusts everyone",
        text: |port, backend| {
            let trusting = "127.0.0.1, proxyProtocol: {mode: Optional, trustedNetworks: [\"::/0\"]}}";
            right(port, backend).replace("127.0.0.1}", trusting)
        },
        object: "default/bad",
        said: &["spec.listeners[0].proxyProtocol.trustedNetworks", "::/0", "forge", "write"],
        consequence: Warned,
    },
];

#[test]
fn the_check_names_the_file_the_object_the_field_and_what_to_write() {
    let backend = EchoServer::start(None);
    for Mistake { what, text, object, said, consequence } in MISTAKES {
        let folder = Folder::new();
        let file = folder.write("bad.yaml", &text(free_address().port(), backend.address));
        let (code, verdict, error) = run(&["check", &file]);
        assert_eq!(error, "", "{what}");
        assert_eq!(code, i32::from(*consequence == Refused), "{what}: {verdict}");
        for part in said.iter().chain([object, &file.as_str()]) {
            assert!(verdict.contains(part), "{what}: no `{part}` in\n{verdict}");
        }
    }
}

#[test]
fn the_running_process_says_the_same_and_serves_everything_else() {
    let backend = EchoServer::start(None);
    for Mistake { what, text, object, said, consequence } in MISTAKES {
        let (folder, good, bad) = (Folder::new(), free_address(), free_address());
        let wrong = folder.write("bad.yaml", &text(bad.port(), backend.address));
        folder.write("good.yaml", &manifest("good", good.port(), &[backend.address], ""));
        let mut tcplb = Tcplb::standalone(&[folder.path()]).ready();
        visit(good).unwrap_or_else(|error| panic!("{what}: {error}"));
        for part in said.iter() {
            let line = tcplb.logged(part);
            assert!(line.contains(&wrong) && line.contains(object), "{what}: {line}");
        }
        let served = visit(bad).is_ok();
        assert_eq!(served, *consequence == Warned, "{what}");
        let (refused, warned) = (*consequence == Refused, *consequence != Refused);
        let problems = |severity| tcplb.metric("tcplb_configuration_problems", &[severity]) > 0.0;
        assert_eq!((problems("refused"), problems("warning")), (refused, warned), "{what}");
        let snapshot = tcplb.snapshot().to_string();
        assert!(snapshot.contains(&wrong), "{what}: {snapshot}");
    }
}

#[test]
fn a_process_that_could_serve_nothing_ends_and_says_why() {
    let folder = Folder::new();
    let backend = EchoServer::start(None);
    let wrong = manifest("bad", free_address().port(), &[backend.address], "").replace("listeners", "listenrs");
    let file = folder.write("bad.yaml", &wrong);
    let (code, _, error) = run(&["standalone", "--admin", "off", &file]);
    assert_eq!(code, 1, "{error}");
    assert!(error.contains(&file) && error.contains("default/bad") && error.contains("unknown field"), "{error}");
}

#[test]
fn a_missing_file_is_named_and_costs_the_others_nothing() {
    let (backend, folder, good) = (EchoServer::start(None), Folder::new(), free_address());
    let file = folder.write("good.yaml", &manifest("good", good.port(), &[backend.address], ""));
    let missing = folder.join("missing.yaml");
    let missing = missing.to_str().unwrap();
    let sentence = format!("{missing}: no such file or folder");
    let (code, verdict, _) = run(&["check", missing, &file]);
    assert!(code == 1 && verdict.contains(&sentence) && verdict.contains("default/good"), "{code} {verdict}");
    let (code, _, error) = run(&["standalone", "--admin", "off", missing]);
    assert!(code == 1 && error.contains(&sentence), "{code} {error}");

    let mut tcplb = Tcplb::standalone(&[missing, &file]).ready();
    tcplb.logged(&sentence);
    visit(good).unwrap();
    let late = free_address();
    folder.write("missing.yaml", &manifest("late", late.port(), &[backend.address], ""));
    wait_until("the file is served when it comes", || visit(late).is_ok());
}

#[test]
fn the_check_has_a_line_for_each_object() {
    let folder = Folder::new();
    let backend = EchoServer::start(None).address;
    folder.write("a.yaml", &(manifest("one", 4001, &[backend], "") + "---\n" + &manifest("two", 4002, &[backend], "")));
    folder.write("b.yaml", &manifest("three", 4003, &[backend], ""));
    let (code, verdict, _) = run(&["check", folder.path()]);
    assert_eq!(code, 0, "{verdict}");
    let lines: Vec<_> = verdict.lines().collect();
    for (line, name) in lines.iter().zip(["one", "three", "two"]) {
        assert!(line.starts_with(&format!("default/{name} (")) && line.ends_with(": accepted"), "{verdict}");
    }
    assert_eq!(lines.len(), 3, "{verdict}");
}

#[test]
fn of_two_objects_that_want_one_port_the_first_is_served() {
    let (one, two) = (EchoServer::start(Some("hello from one")), EchoServer::start(Some("hello from two")));
    let (folder, address) = (Folder::new(), free_address());
    let first = folder.write("1.yaml", &manifest("first", address.port(), &[one.address], ""));
    let second = folder.write("2.yaml", &manifest("second", address.port(), &[two.address], ""));
    let (code, verdict, _) = run(&["check", folder.path()]);
    assert_eq!(code, 1, "{verdict}");
    assert!(verdict.contains(&format!("default/first ({first}): accepted")), "{verdict}");
    let expected = format!(
        "spec.listeners[0].port: {address} is taken by default/first, which serves {address}: write another port"
    );
    assert!(
        verdict.contains(&format!("default/second ({second}): refused")) && verdict.contains(&expected),
        "{verdict}"
    );

    let mut tcplb = Tcplb::standalone(&[folder.path()]).ready();
    let line = tcplb.logged(&expected);
    assert!(line.contains(&second) && line.contains("default/second"), "{line}");
    assert_eq!(crate::harness::who_answers(address), "one");
}

/// A valid manifest, and a listener with TLS from these files.
fn with_certificate(port: u16, backend: SocketAddr, certificate: &str, key: &str) -> String {
    right(port, backend).replace(
        "127.0.0.1}",
        &format!("127.0.0.1, tls: {{certificateRefs: [{{files: {{certificate: {certificate}, key: {key}}}}}]}}}}"),
    )
}

#[test]
fn a_key_that_does_not_match_its_certificate_is_refused() {
    let (backend, folder) = (EchoServer::start(None), Folder::new());
    let (good, bad) = (free_address(), free_address());
    assert_eq!(run(&["cert", "--out", folder.path(), "one.example.test"]).0, 0);
    assert_eq!(run(&["cert", "--out", folder.path(), "two.example.test"]).0, 0);
    let text = with_certificate(bad.port(), backend.address, "one.example.test.crt", "two.example.test.key");
    let file = folder.write("bad.yaml", &text);
    folder.write("good.yaml", &manifest("good", good.port(), &[backend.address], ""));
    let expected = [
        "spec.listeners[0].tls.certificateRefs[0]",
        "two.example.test.key does not match",
        "one.example.test.crt: write the key of the certificate",
    ];
    let (code, verdict, _) = run(&["check", &file]);
    assert!(code == 1 && expected.iter().all(|part| verdict.contains(part)), "{code} {verdict}");
    let mut tcplb = Tcplb::standalone(&[folder.path()]).ready();
    let line = tcplb.logged(expected[1]);
    assert!(expected.iter().chain(&[file.as_str(), "default/bad"]).all(|part| line.contains(part)), "{line}");
    visit(good).unwrap();
    assert!(visit(bad).is_err());
    assert!(!tcplb.seen.iter().any(|line| line.contains("BEGIN")), "{:?}", tcplb.seen);

    assert_eq!(run(&["cert", "--out", folder.path(), "--force", "two.example.test"]).0, 0);
    folder.write("bad.yaml", &text.replace("one.example", "two.example"));
    wait_until("the matching pair is served", || crate::tls_client::presented(bad, "two.example.test").is_ok());
}

#[test]
fn a_certificate_file_that_is_missing_is_named_once() {
    let (backend, folder) = (EchoServer::start(None), Folder::new());
    let text = with_certificate(free_address().port(), backend.address, "gone.crt", "gone.key");
    let file = folder.write("bad.yaml", &text);
    let (code, verdict, _) = run(&["check", &file]);
    let gone = folder.join("gone.crt");
    assert!(code == 1 && verdict.contains("spec.listeners[0].tls.certificateRefs[0]"), "{verdict}");
    assert_eq!(verdict.matches(gone.to_str().unwrap()).count(), 1, "{verdict}");
}

#[test]
fn an_expired_certificate_is_served_with_a_warning() {
    let (backend, folder, address) = (EchoServer::start(None), Folder::new(), free_address());
    let key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::new(vec!["old.example.test".into()]).unwrap();
    parameters.not_before = rcgen::date_time_ymd(2020, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(2021, 1, 1);
    folder.write("old.crt", &parameters.self_signed(&key).unwrap().pem());
    folder.write("old.key", &key.serialize_pem());
    let text = with_certificate(address.port(), backend.address, "old.crt", "old.key");
    let file = folder.write("bad.yaml", &text);
    let (code, verdict, _) = run(&["check", &file]);
    assert!(code == 0 && verdict.contains("accepted, with warnings"), "{code} {verdict}");
    let expected = ["spec.listeners[0].tls.certificateRefs[0]", "expired", "2021-01-01"];
    assert!(expected.iter().all(|part| verdict.contains(part)), "{verdict}");

    let mut tcplb = Tcplb::standalone(&[&file]).ready();
    let line = tcplb.logged("expired");
    assert!(expected.iter().chain(&[file.as_str(), "default/bad"]).all(|part| line.contains(part)), "{line}");
    crate::tls_client::presented(address, "old.example.test").unwrap();
}

#[test]
fn a_port_in_use_is_reported_and_bound_when_free() {
    let (backend, folder, good) = (EchoServer::start(None), Folder::new(), free_address());
    let held = TcpListener::bind(free_address()).unwrap();
    let taken = held.local_addr().unwrap();
    let file = folder.write("bad.yaml", &manifest("bad", taken.port(), &[backend.address], ""));
    folder.write("good.yaml", &manifest("good", good.port(), &[backend.address], ""));
    let sentence =
        format!("port {} is in use on 127.0.0.1 by another process: stop it, or choose another", taken.port());

    let (code, _, error) = run(&["standalone", "--admin", "off", &file]);
    assert!(code == 1 && error.contains(&sentence) && error.contains(&file), "{code} {error}");

    let mut tcplb = Tcplb::standalone(&[folder.path()]).ready();
    let line = tcplb.logged(&sentence);
    assert!(line.contains(&file) && line.contains("default/bad") && line.contains("spec.listeners"), "{line}");
    visit(good).unwrap();
    assert_eq!(tcplb.metric("tcplb_listeners_unbound", &[]), 1.0);
    assert!(tcplb.snapshot().to_string().contains(&sentence));
    drop(held);
    wait_until("the port is taken when it is free", || visit(taken).is_ok());
    // Clients are served a moment before this is reported.
    wait_until("no listener counts as unbound", || tcplb.metric("tcplb_listeners_unbound", &[]) == 0.0);
    assert_eq!(tcplb.seen.iter().filter(|line| line.contains(&sentence)).count(), 1, "said once: {:?}", tcplb.seen);
}

#[test]
fn an_address_of_another_host_is_reported() {
    let (backend, folder) = (EchoServer::start(None), Folder::new());
    let text = manifest("bad", free_address().port(), &[backend.address], "")
        .replace("address: 127.0.0.1", "address: 192.0.2.1");
    let file = folder.write("bad.yaml", &text);
    let (code, _, error) = run(&["standalone", "--admin", "off", &file]);
    assert_eq!(code, 1, "{error}");
    for part in [&file, "default/bad", "192.0.2.1 is not an address of this host", "remove `address`"] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[test]
fn a_port_without_permission_is_reported() {
    const PORT: u16 = 971;
    let first_free: u16 = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(1024);
    if first_free <= PORT {
        return skip(&format!("every user may listen on port {PORT} here"));
    }
    let (backend, folder, good) = (EchoServer::start(None), Folder::new(), free_address());
    let file = folder.write("bad.yaml", &manifest("bad", PORT, &[backend.address], ""));
    folder.write("good.yaml", &manifest("good", good.port(), &[backend.address], ""));
    let admin = free_address();
    let mut command = without_capability("net_bind_service");
    command.args(["standalone", "--admin", &admin.to_string(), folder.path()]);
    let mut tcplb = Tcplb::spawn(command, admin).ready();
    let line = tcplb.logged(&format!("no permission for port {PORT}"));
    for part in [&file, "default/bad", "spec.listeners", "choose a port of 1024 or higher", "NET_BIND_SERVICE"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    visit(good).unwrap();
}

/// The program without these capabilities of root. Other users do not have them.
pub fn without_capability(names: &str) -> Command {
    if !is_root() {
        return crate::harness::program();
    }
    let without: String = names.split(',').map(|name| format!(",-{name}")).collect();
    let without = without.trim_start_matches(',');
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", without, "--inh-caps", without, "--", env!("CARGO_BIN_EXE_tcplb")]);
    command
}

#[test]
fn the_first_of_very_many_mistakes_are_reported() {
    let folder = Folder::new();
    let (server, good) = (EchoServer::start(None), free_address());
    folder.write("good.yaml", &manifest("good", good.port(), &[server.address], ""));
    let pairs: Vec<_> = (0..32).map(|n| format!("{{files: {{certificate: {n}.crt, key: {n}.key}}}}")).collect();
    let listener = |n: usize| {
        let (port, pairs) = (free_address().port(), pairs.join(", "));
        format!("{{name: l{n}, port: {port}, tls: {{certificateRefs: [{pairs}]}}}}")
    };
    let listeners: Vec<_> = (0..3).map(listener).collect();
    folder.write(
        "bad.yaml",
        &format!(
            "apiVersion: tcplb.io/v1alpha1\nkind: TcpLoadBalancer\nmetadata: {{name: bad}}\nspec: {{listeners: [{}], \
             backends: [{{addresses: ['{}']}}]}}\n",
            listeners.join(", "),
            server.address
        ),
    );
    let mut tcplb = Tcplb::standalone(&[folder.path()]).ready();
    tcplb.logged("more for the same object");
    let count = tcplb.seen.iter().filter(|line| line.contains("load_balancer=default/bad")).count();
    assert!((50..60).contains(&count), "{count} lines: {:?}", tcplb.seen);
    visit(good).unwrap();
}

/// docs/standalone.md lists the codes.
#[test]
fn exit_codes_tell_unknown_arguments_from_nothing_to_serve() {
    for (arguments, expected, sentence) in [
        (&["standalone"][..], 1, "nothing to serve"),
        (&["standalone", "--listen", "127.0.0.1:1"], 1, "--backend"),
        (&["standalone", "--listn", ":1"], 2, "unexpected argument '--listn'"),
        (&["standalone", "--listen", ":0"], 2, "`:0` is not an address to listen on"),
        (&["standalone", "--admin", "224.0.0.1:1"], 2, "'--admin <ADDRESS>': 224.0.0.1 is a multicast address"),
        (&["backend", "--listen", "224.0.0.1:1"], 2, "'--listen <ADDRESS>': 224.0.0.1 is a multicast address"),
        (&["demo", "--address", "224.0.0.1"], 2, "'--address <ADDRESS>': 224.0.0.1 is a multicast address"),
    ] {
        let (code, _, error) = run(arguments);
        assert!(code == expected && error.contains(sentence), "{arguments:?}: {code} {error}");
    }
}
