//! Text of foreign origin in everything that people read.

use serde_json::json;

use crate::harness::{EchoServer, Folder, Tcplb, free_address, http_get, http_request, program, wait_until};

/// Forges a line, clears a terminal, reorders text, and is markup.
const FORGED: &str = "a\n2026-01-01T00:00:00Z ERROR forged\x1b[2J\u{9b}2J\u{202e}<img src=x onerror=alert(1)>";

fn documents(port: u16, backend: &str) -> Vec<(&'static str, serde_json::Value)> {
    let object = |name: &str, spec: serde_json::Value| json!({"apiVersion": "tcplb.io/v1alpha1", "kind": "TcpLoadBalancer", "metadata": {"name": name}, "spec": spec});
    let good = json!({
        "listeners": [{"port": port, "address": "127.0.0.1"}],
        "backends": [{"name": "db", "addresses": [backend]}],
        "healthCheck": {"active": {
            "type": "Exchange", "interval": "1s", "timeout": "500ms",
            "exchange": {"send": {"text": "TOPSECRET"}, "expect": {"text": FORGED}},
        }},
    });
    let field = json!({FORGED: 1, "listeners": [{"port": 1, "address": FORGED}], "backends": [{"name": FORGED}]});
    let secrets = json!({
        "listeners": [{"port": 2}], "backends": [{"addresses": ["192.0.2.1:1"]}],
        "healthCheck": {"active": {"type": "HTTP", "http": {"headers": {"Authorization": "TOPSECRET"}}}},
    });
    let send = json!({
        "listeners": [{"port": 3}], "backends": [{"addresses": ["192.0.2.1:1"]}],
        "healthCheck": {"active": {"type": "Exchange", "exchange": {"send": "TOPSECRET", "expect": {"text": "a"}}}},
    });
    vec![
        ("good.json", object("good", good)),
        ("field.json", object("field", field)),
        ("name.json", object(FORGED, json!({"listeners": [{"port": 9}], "backends": []}))),
        ("long.json", object(&"x".repeat(1 << 20), json!({"listeners": [{"port": 9}], "backends": []}))),
        ("secrets.json", object("secrets", secrets)),
        ("send.json", object("send", send)),
        ("kind.json", json!({"apiVersion": "tcplb.io/v1alpha1", "kind": FORGED, "metadata": {"name": "kind"}})),
        (
            "password.json",
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"a": "TOPSECRET!"}}),
        ),
    ]
}

fn is_fit_for_people(what: &str, text: &str) {
    let odd: String = text.chars().filter(|c| *c != '\n' && (c.is_control() || *c == '\u{202e}')).collect();
    assert!(odd.is_empty(), "{what}: {odd:?} in {text}");
    assert!(!text.lines().any(|line| line.starts_with("2026-01-01T00:00:00Z ERROR forged")), "{what}: {text}");
    assert!(!text.contains("TOPSECRET"), "{what}: {text}");
    let longest = text.lines().map(str::len).max().unwrap_or_default();
    assert!(longest < 100_000, "{what}: a line of {longest} bytes");
}

#[test]
fn foreign_text_is_escaped_bounded_and_without_passwords_everywhere() {
    let (server, folder) = (EchoServer::start(Some("TOPSE\x1b[31mCRET")), Folder::new());
    let listen = free_address();
    for (file, document) in documents(listen.port(), &server.address.to_string()) {
        folder.write(file, &document.to_string());
    }
    folder.write("broken\n2026-01-01T00:00:00Z ERROR forged\x1b[2J.yaml", "a: [b\u{202e}\x07");
    for format in ["text", "json"] {
        let mut tcplb = Tcplb::standalone(&["--log-format", format, folder.path()]).ready();
        tcplb.logged("endpoint unhealthy");
        for path in ["/", "/snapshot", "/metrics", "/report"] {
            let (status, text) = http_get(tcplb.admin, path).unwrap();
            assert_eq!(status, 200, "{path}");
            is_fit_for_people(path, &text);
            assert!(path != "/" || !text.contains("<img"), "{text}");
        }
        tcplb.signal("TERM");
        let _ = tcplb.ended();
        assert!(tcplb.seen.len() > 8, "{:?}", tcplb.seen);
        is_fit_for_people(format, &tcplb.seen.join("\n"));
        if format == "json" {
            let object = |line: &String| serde_json::from_str::<serde_json::Value>(line).is_ok();
            assert!(tcplb.seen.iter().all(object), "{:?}", tcplb.seen);
        } else {
            let dated = |line: &String| line.as_bytes()[..4].iter().all(u8::is_ascii_digit) && line.contains('Z');
            assert!(tcplb.seen.iter().all(dated), "{:?}", tcplb.seen);
        }
    }
    let check = program().args(["check", folder.path()]).output().unwrap();
    assert_eq!(check.status.code(), Some(1));
    is_fit_for_people("check", &String::from_utf8(check.stdout).unwrap());
    let missing = program().args(["convert", "golb", &folder.join(FORGED).to_string_lossy()]).output().unwrap();
    is_fit_for_people("an error", &String::from_utf8(missing.stderr).unwrap());
}

#[test]
fn admin_pages_are_closed_to_other_sites_and_odd_requests() {
    let (server, listen) = (EchoServer::start(None), free_address());
    let (listen, backend) = (listen.to_string(), server.address.to_string());
    let flags = ["--listen", &listen, "--backend", &backend, "--admin-host", "lb.example.com,other.example.com"];
    let tcplb = Tcplb::standalone(&flags).ready();
    let ask = |head: &str| http_request(tcplb.admin, &format!("{head}\r\nConnection: close\r\n\r\n")).unwrap();
    for (head, status) in [
        ("GET /snapshot HTTP/1.1\r\nHost: 127.0.0.1:9900", 200),
        ("GET /snapshot HTTP/1.1\r\nHost: localhost:9900", 200),
        ("GET /snapshot HTTP/1.1\r\nHost: LB.example.com", 200),
        ("GET /snapshot HTTP/1.1\r\nHost: other.example.com:80", 200),
        ("GET /snapshot HTTP/1.0", 200),
        ("GET /readyz HTTP/1.0", 200),
        ("HEAD /readyz HTTP/1.1\r\nHost: probe.example", 200),
        ("GET /snapshot HTTP/1.1\r\nHost: rebound.example", 421),
        ("GET / HTTP/1.1\r\nHost: rebound.example:9900", 421),
        ("GET /metrics HTTP/1.1\r\nHost: rebound.example", 421),
        ("GET /report HTTP/1.1\r\nHost: rebound.example", 421),
        ("GET http://rebound.example/ HTTP/1.1\r\nHost: 127.0.0.1", 421),
        ("POST /snapshot HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000000", 405),
        ("DELETE / HTTP/1.1\r\nHost: 127.0.0.1", 405),
    ] {
        let response = ask(head);
        assert_eq!(response.status, status, "{head}: {response:?}");
        assert_eq!(response.header("x-content-type-options"), Some("nosniff"), "{head}");
        assert_eq!(response.header("x-frame-options"), Some("DENY"), "{head}");
        let policy = response.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
    }
    let page = ask("GET / HTTP/1.1\r\nHost: 127.0.0.1").body;
    assert!(!page.contains("<style") && !page.contains("style="), "{page}");
    assert_eq!(page.matches("<script").count(), 1, "{page}");
    assert!(page.contains("<script src=\"/script.js\" defer></script>"), "{page}");
    for (path, content_type) in [
        ("/style.css", "text/css; charset=utf-8"),
        ("/script.js", "text/javascript; charset=utf-8"),
        ("/icon.svg", "image/svg+xml"),
    ] {
        let file = ask(&format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1"));
        assert_eq!((file.status, file.header("content-type")), (200, Some(content_type)), "{path}");
    }
    for (head, what) in [
        (format!("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: {}", "y".repeat(1 << 20)), "a head of 1 MiB"),
        (format!("GET /{} HTTP/1.1\r\nHost: 127.0.0.1", "a".repeat(100_000)), "a long path"),
        (format!("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n{}X: y", "A: b\r\n".repeat(2000)), "2,000 headers"),
    ] {
        // Unread input may reset the connection before the answer arrives.
        let response = http_request(tcplb.admin, &format!("{head}\r\n\r\n"));
        assert!(response.is_none_or(|response| [414, 431].contains(&response.status)), "{what}");
    }
    wait_until("all is well", || tcplb.answers("/livez", 200));
}
