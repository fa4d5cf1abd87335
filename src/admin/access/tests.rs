use std::{
    convert::Infallible,
    pin::pin,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Method, Uri},
    middleware::from_fn_with_state,
    routing::get,
};
use futures::stream;
use kube::{Client, client::Body as KubeBody};
use serde_json::{Value, json};
use tokio::time::timeout;
use tower::ServiceExt;

use super::*;

const REMOTE: &str = "10.0.0.7:40000";
const POD: &str = "10.0.0.1:9900";

/// Access with an API server that knows the token `good` of `anna`, who may read some subresources.
fn kubernetes_with(may_read: impl Fn(&str) -> bool + Clone + Send + Sync + 'static) -> AdminAccess {
    let answer = move |request: axum::http::Request<KubeBody>| {
        let may_read = may_read.clone();
        async move {
            let is_token_review = request.uri().path().ends_with("/tokenreviews");
            let body = request.into_body().collect_bytes().await.unwrap();
            let mut review: Value = serde_json::from_slice(&body).unwrap();
            review["status"] = if is_token_review {
                let known = review["spec"]["token"] == "good";
                json!({"authenticated": known, "audiences": ["tcplb"], "user": {"username": "anna"}})
            } else {
                let subresource = review["spec"]["resourceAttributes"]["subresource"].as_str();
                json!({"allowed": subresource.is_some_and(&may_read)})
            };
            Ok::<_, Infallible>(axum::http::Response::new(KubeBody::from(review.to_string().into_bytes())))
        }
    };
    AdminAccess::Kubernetes(Authorizer::new(Client::new(tower::service_fn(answer), "default"), "lb"))
}

/// Access with an API server at which `anna` may read reports.
fn kubernetes() -> AdminAccess {
    kubernetes_with(|subresource| subresource == "report")
}

fn ends(client: &str, server: &str) -> ConnectionEnds {
    ConnectionEnds { client: client.parse().unwrap(), server: Some(server.parse().unwrap()) }
}

/// Requests `/report`, and returns status, challenge and text.
async fn ask(
    access: &AdminAccess,
    page: TenantPage,
    ends: ConnectionEnds,
    headers: &[(&str, &str)],
) -> (u16, String, String) {
    let authorized = from_fn_with_state((access.clone(), page), authorize);
    let pages = Router::new().route(page.path(), get(|| async { "tenants" }).layer(authorized));
    let mut request = Request::builder().method(Method::GET).uri(Uri::from_static(page.path())).extension(ends);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = pages.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let challenge = response.headers().get(WWW_AUTHENTICATE).map(|value| value.to_str().unwrap().to_owned());
    let status = response.status().as_u16();
    let text = to_bytes(response.into_body(), 10_000).await.unwrap();
    (status, challenge.unwrap_or_default(), String::from_utf8(text.to_vec()).unwrap())
}

#[tokio::test]
async fn loopback_connections_need_no_token() {
    for access in [kubernetes(), AdminAccess::Loopback, AdminAccess::Everyone] {
        for (client, server) in [
            ("127.0.0.1:1", "127.0.0.1:9900"),
            ("127.8.9.1:1", "127.0.0.1:9900"),
            ("[::1]:1", "[::1]:9900"),
            ("[::ffff:127.0.0.1]:1", "[::ffff:127.0.0.1]:9900"),
        ] {
            let (status, ..) = ask(&access, TenantPage::Report, ends(client, server), &[]).await;
            assert_eq!(status, 200, "{client}");
        }
    }
}

#[tokio::test]
async fn other_connections_are_refused_whatever_their_headers_claim() {
    for (client, server) in [
        (REMOTE, POD),
        ("[fd00::7]:1", "[fd00::1]:9900"),
        ("[::ffff:10.0.0.7]:1", "[::ffff:10.0.0.1]:9900"),
        // The proxy of a service mesh in the pod, and the pod itself.
        ("127.0.0.6:1", POD),
        ("10.0.0.1:1", POD),
    ] {
        for header in ["x-forwarded-for", "x-real-ip", "forwarded", "x-remote-user", "impersonate-user", "host"] {
            let ends = ends(client, server);
            let (status, challenge, text) =
                ask(&kubernetes(), TenantPage::Report, ends, &[(header, "127.0.0.1")]).await;
            assert_eq!((status, &*challenge), (401, "Bearer"), "{client} {header}");
            assert!(text.contains("port-forward") && text.contains("--audience tcplb"), "{text}");
            assert!(text.contains("may `get` replicas/report of tcplb.io in namespace lb"), "{text}");
            let (status, _, text) = ask(&AdminAccess::Loopback, TenantPage::Report, ends, &[(header, "::1")]).await;
            assert!(status == 403 && text.contains("loopback addresses only"), "{text}");
            assert_eq!(ask(&AdminAccess::Everyone, TenantPage::Report, ends, &[]).await.0, 200);
        }
    }
}

#[tokio::test]
async fn a_token_opens_the_pages_that_its_user_may_get() {
    let access = kubernetes();
    let ask = async |page, token: &str| ask(&access, page, ends(REMOTE, POD), &[("authorization", token)]).await;
    for token in ["Bearer good", "bearer good", "BEARER  good "] {
        for page in [TenantPage::Report, TenantPage::Traffic] {
            assert_eq!(ask(page, token).await.0, 200, "{token}");
        }
    }
    for page in [TenantPage::Overview, TenantPage::Snapshot] {
        let (status, challenge, text) = ask(page, "Bearer good").await;
        assert_eq!((status, &*challenge), (403, "Bearer error=\"insufficient_scope\""));
        let rule = format!("{{apiGroups: [tcplb.io], resources: [replicas/{}], verbs: [get]}}", page.subresource());
        assert!(text.contains("user anna") && text.contains(&rule) && text.contains("namespace lb"), "{text}");
    }
    let (status, challenge, text) = ask(TenantPage::Report, "Bearer bad").await;
    assert_eq!((status, &*challenge), (401, "Bearer error=\"invalid_token\""));
    assert!(text.contains("not valid for the audience tcplb") && !text.contains("bad"), "{text}");
    let long = format!("Bearer {}", "x".repeat(30_000));
    assert_eq!(ask(TenantPage::Report, &long).await.0, 401);
    for other in ["good", "Bearer", "Bearer ", "Basic good", "Bearergood"] {
        assert_eq!(ask(TenantPage::Report, other).await.1, "Bearer", "{other}");
    }
}

#[tokio::test]
async fn several_authorization_headers_are_no_token() {
    let headers = [("authorization", "Bearer good"), ("authorization", "Bearer good")];
    let (status, challenge, _) = ask(&kubernetes(), TenantPage::Report, ends(REMOTE, POD), &headers).await;
    assert_eq!((status, &*challenge), (401, "Bearer"));
}

#[tokio::test]
async fn without_an_api_server_the_answer_is_503() {
    let failing = async |_: axum::http::Request<KubeBody>| {
        let status =
            json!({"kind": "Status", "status": "Failure", "message": "tokenreviews is forbidden", "code": 403});
        let response = axum::http::Response::builder().status(403);
        Ok::<_, Infallible>(response.body(KubeBody::from(status.to_string().into_bytes())).unwrap())
    };
    let access = AdminAccess::Kubernetes(Authorizer::new(Client::new(tower::service_fn(failing), "default"), "lb"));
    let headers = [("authorization", "Bearer good")];
    let (status, challenge, text) = ask(&access, TenantPage::Report, ends(REMOTE, POD), &headers).await;
    assert_eq!((status, &*challenge), (503, ""));
    assert!(text.contains("tokenreviews is forbidden") && text.contains("port-forward"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_after_its_permission_is_revoked() {
    let is_permitted = Arc::new(AtomicBool::new(true));
    let permitted = is_permitted.clone();
    let access = kubernetes_with(move |_| permitted.load(Relaxed));
    let authorized = from_fn_with_state((access, TenantPage::Connections), authorize);
    let endless = async || Body::from_stream(stream::pending::<Result<String, Infallible>>());
    let pages = Router::new().route("/connections", get(endless).layer(authorized));
    let request = Request::builder().uri("/connections?follow=true").extension(ends(REMOTE, POD));
    let request = request.header("authorization", "Bearer good").body(Body::empty()).unwrap();
    let response = pages.oneshot(request).await.unwrap();
    assert_eq!(response.status(), 200);
    let mut stream = pin!(to_bytes(response.into_body(), 10_000));
    assert!(timeout(Duration::from_secs(600), &mut stream).await.is_err(), "it stays open");
    is_permitted.store(false, Relaxed);
    timeout(Duration::from_secs(180), stream).await.expect("it ends").unwrap();
}
