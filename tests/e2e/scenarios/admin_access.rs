//! Access to the admin ports of replicas from the network.

use std::net::SocketAddr;

use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::ServiceAccount,
};
use kube::{Api, api::PostParams};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    backends::{PORT, load_balancer},
    cluster::{WAIT_LIMIT, eventually},
    scenario::{Scenario, scenario},
    turns::Isolation,
};

#[tokio::test(flavor = "multi_thread")]
async fn tenant_data_on_the_admin_port_needs_a_token_of_the_audience_and_a_right() {
    scenario("admin-access", Isolation::Shared, async |scenario| {
        scenario.backends("echo", 1).await;
        scenario.apply(&load_balancer("pg", PORT, "echo")).await;
        // The leader has read the reports of the replicas, with its token.
        scenario.programmed("pg").await;
        let installation = scenario.installation();
        let pod = installation.pods(&scenario.client).await.remove(0).status.unwrap().pod_ip.unwrap();
        let admin = SocketAddr::new(pod.parse().unwrap(), 9900);
        for page in ["/", "/report", "/snapshot"] {
            let (status, text) = get(admin, page, "X-Forwarded-For: 127.0.0.1").await;
            assert!(status == 401 && text.contains("kubectl port-forward") && !text.contains("pg"), "{page}: {text}");
        }
        for page in ["/livez", "/readyz", "/metrics", "/style.css"] {
            assert_eq!(get(admin, page, "Accept: */*").await.0, 200, "{page}");
        }

        let own = installation.full_name();
        let theirs = token(scenario, &installation.namespace, &own, "tcplb").await;
        let bearer = format!("Authorization: Bearer {theirs}");
        assert_eq!(get(admin, "/report", &bearer).await.0, 200);
        let (status, text) = get(admin, "/snapshot", &bearer).await;
        assert!(status == 403 && text.contains("replicas/snapshot"), "{text}");
        for (account, audience) in [(&*own, "other"), (&*own, "https://kubernetes.default.svc.cluster.local")] {
            let token = token(scenario, &installation.namespace, account, audience).await;
            let bearer = format!("Authorization: Bearer {token}");
            assert_eq!(get(admin, "/report", &bearer).await.0, 401, "{audience}");
        }
        let elsewhere = token(scenario, &scenario.namespace, "default", "tcplb").await;
        let bearer = format!("Authorization: Bearer {elsewhere}");
        let mut told = String::new();
        // The account exists a moment after its namespace.
        eventually("a user without the right is refused", WAIT_LIMIT, async || {
            let (status, text) = get(admin, "/report", &bearer).await;
            told = text;
            status == 403
        })
        .await;
        assert!(told.contains(&format!("system:serviceaccount:{}:default", scenario.namespace)), "{told}");
    })
    .await;
}

/// A token of a service account.
async fn token(scenario: &Scenario, namespace: &str, account: &str, audience: &str) -> String {
    let accounts = Api::<ServiceAccount>::namespaced(scenario.client.clone(), namespace);
    let spec = TokenRequestSpec { audiences: vec![audience.into()], ..TokenRequestSpec::default() };
    let request = TokenRequest { spec, ..TokenRequest::default() };
    let created = accounts.create_token_request(account, &PostParams::default(), &request).await.unwrap();
    serde_json::to_value(created).unwrap()["status"]["token"].as_str().unwrap().to_owned()
}

/// Requests a page, and returns status and text.
async fn get(address: SocketAddr, page: &str, header: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {page} HTTP/1.1\r\nHost: {address}\r\n{header}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("{head}")), body.to_owned())
}
