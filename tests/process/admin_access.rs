//! Access to the admin pages from another host.

use std::process::Command;

use crate::{
    delayed_link::DelayedLink,
    harness::{Tcplb, http_get, http_request, wait_until},
};

/// Starts `tcplb standalone` behind the link, with the admin pages at all of its addresses.
fn start(link: &DelayedLink, authorization: &str) -> Tcplb {
    let around = link.around_server();
    let mut command = Command::new(&around[0]);
    command.args(&around[1..]).args([env!("CARGO_BIN_EXE_tcplb"), "standalone", "--admin", ":9900"]);
    command.args(["--admin-authorization", authorization, "--listen", ":4000", "--backend", "127.0.0.1:5001"]);
    let mut tcplb = Tcplb::spawn(command, link.server_address(9900));
    tcplb.logged("admin pages");
    tcplb
}

#[test]
fn tenant_data_is_for_loopback_addresses_and_probes_for_everyone() {
    let Some(link) = DelayedLink::open() else { return };
    let tcplb = start(&link, "loopback");
    let admin = tcplb.admin;
    link.inside(|| {
        wait_until("it is ready", || http_get(admin, "/readyz").is_some_and(|(status, _)| status == 200));
        for path in ["/livez", "/lb-ready", "/metrics", "/style.css"] {
            assert_eq!(http_get(admin, path).unwrap().0, 200, "{path}");
        }
        for path in ["/", "/snapshot", "/report", "/snapshot?x=/livez"] {
            let (status, text) = http_get(admin, path).unwrap();
            assert!(status == 403 && text.contains("loopback addresses only"), "{path}: {status} {text}");
        }
        for path in ["/nowhere", "//snapshot", "/snapshot/", "/livez/../snapshot", "/%73napshot"] {
            assert_eq!(http_get(admin, path).unwrap().0, 404, "{path}");
        }
        for head in [
            "GET /snapshot HTTP/1.0",
            "HEAD /snapshot HTTP/1.1\r\nHost: localhost",
            "GET /snapshot HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Forwarded-For: 127.0.0.1\r\nForwarded: for=127.0.0.1",
            "GET http://127.0.0.1/snapshot HTTP/1.1\r\nHost: 127.0.0.1",
            "GET /snapshot HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer x",
        ] {
            let response = http_request(admin, &format!("{head}\r\nConnection: close\r\n\r\n")).unwrap();
            assert_eq!(response.status, 403, "{head}");
            assert_eq!(response.body.is_empty(), head.starts_with("HEAD"), "{head}");
            assert_eq!(response.header("x-frame-options"), Some("DENY"), "{head}");
        }
    });
    for address in ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]"] {
        assert!(is_answered_inside(&link, &format!("http://{address}:9900/snapshot")), "{address}");
    }
    assert!(!is_answered_inside(&link, &format!("http://{admin}/snapshot")), "its own other address");
}

#[test]
fn with_authorization_none_everyone_who_can_connect_has_access() {
    let Some(link) = DelayedLink::open() else { return };
    let tcplb = start(&link, "none");
    let status = link.inside(|| http_get(tcplb.admin, "/snapshot").unwrap().0);
    assert_eq!(status, 200);
}

/// True if a request from the host of the process is answered.
fn is_answered_inside(link: &DelayedLink, url: &str) -> bool {
    let around = link.around_server();
    let mut command = Command::new(&around[0]);
    let output = command.args(&around[1..]).args([env!("CARGO_BIN_EXE_tcplb"), "probe", url]).output().unwrap();
    output.status.success()
}
