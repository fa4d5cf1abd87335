use axum::{
    Router,
    body::{Body, to_bytes},
    middleware::from_fn_with_state,
    routing::get,
};
use tower::ServiceExt;

use super::*;

fn pages() -> Router {
    let hosts = AllowedHosts::new(&["tcplb-admin.shop".to_owned(), "LB.Example.com.".to_owned()]);
    let page = || async { "page" };
    Router::new().route("/", get(page)).route("/livez", get(page)).layer(from_fn_with_state(hosts, guard))
}

async fn ask(method: &str, uri: &str, hosts: &[&[u8]]) -> Response {
    let mut request = Request::builder().method(method).uri(uri);
    for host in hosts {
        request = request.header(HOST, HeaderValue::from_bytes(host).unwrap());
    }
    pages().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
}

#[tokio::test]
async fn pages_are_answered_under_addresses_and_known_names_only() {
    let own = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().to_owned();
    for host in [
        "127.0.0.1",
        "192.0.2.7:9900",
        "[::1]",
        "[2001:db8::7]:9900",
        "[fe80::1%eth0]:9900",
        "localhost",
        "LocalHost.:9900",
        "localhost:",
        "tcplb-admin.shop:9900",
        "lb.example.com",
        &own,
        &format!("{own}:1"),
    ] {
        assert_eq!(ask("GET", "/", &[host.as_bytes()]).await.status(), 200, "{host}");
    }
    assert_eq!(ask("GET", "/", &[]).await.status(), 200, "HTTP/1.0");
    for host in [
        "evil.example",
        "evil.example:9900",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "x.lb.example.com",
        "tcplb-admin",
        "0x7f.1",
    ] {
        assert_eq!(ask("GET", "/", &[host.as_bytes()]).await.status(), 421, "{host}");
        assert_eq!(ask("GET", "/livez", &[host.as_bytes()]).await.status(), 200, "{host}: a probe");
    }
    for malformed in [
        &b""[..],
        b"a b",
        b"<script>",
        b"a\xff",
        b"a/b",
        b"127.0.0.1, evil.example",
        b"a@evil.example",
        b"evil.example@127.0.0.1",
        b"[::1]evil.example",
        b"[::1]evil.example:9900",
        b"localhost:9900:9900",
        b"127.0.0.1%evil.example",
    ] {
        let status = ask("GET", "/", &[malformed]).await.status();
        assert_eq!(status, 400, "{malformed:?}");
    }
}

#[tokio::test]
async fn every_host_that_a_request_names_counts() {
    assert_eq!(ask("GET", "/", &[b"127.0.0.1", b"evil.example"]).await.status(), 421);
    assert_eq!(ask("GET", "http://evil.example/", &[b"127.0.0.1"]).await.status(), 421);
    assert_eq!(ask("GET", "http://127.0.0.1/", &[b"evil.example"]).await.status(), 421);
    assert_eq!(ask("GET", "http://localhost:9900/", &[b"127.0.0.1"]).await.status(), 200);
}

#[tokio::test]
async fn a_refusal_says_which_flag_allows_the_name() {
    let response = ask("GET", "/", &[b"lb.internal:9900"]).await;
    let sentence = to_bytes(response.into_body(), 1000).await.unwrap();
    assert!(sentence.ends_with(b"--admin-host lb.internal\n"), "{sentence:?}");
}

#[tokio::test]
async fn every_response_forbids_inline_scripts_frames_and_caches() {
    for (method, uri, host, status) in [
        ("GET", "/", "127.0.0.1", 200),
        ("HEAD", "/livez", "127.0.0.1", 200),
        ("GET", "/nowhere", "127.0.0.1", 404),
        ("GET", "/", "evil.example", 421),
        ("POST", "/", "127.0.0.1", 405),
        ("OPTIONS", "/nowhere", "127.0.0.1", 405),
        ("TRACE", "/livez", "127.0.0.1", 405),
    ] {
        let response = ask(method, uri, &[host.as_bytes()]).await;
        assert_eq!(response.status(), status, "{method} {uri}");
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        assert!(header("content-security-policy").starts_with("default-src 'none'"), "{method} {uri}");
        assert!(header("content-security-policy").contains("frame-ancestors 'none'"), "{method} {uri}");
        assert!(!header("content-security-policy").contains("unsafe-inline"), "{method} {uri}");
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert_eq!(header("x-frame-options"), "DENY");
        assert_eq!(header("referrer-policy"), "no-referrer");
        assert_eq!(header("cross-origin-resource-policy"), "same-origin");
        assert_eq!(header("cache-control"), "no-store");
    }
    assert_eq!(ask("POST", "/", &[]).await.headers()["allow"], "GET, HEAD");
}
