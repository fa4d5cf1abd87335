//! The admin ports of replicas, from the network.

use crate::{
    admin_pages::{admin_address, get},
    backends::{PORT, load_balancer},
    clients::Connection,
    cluster::{WAIT_LIMIT, eventually},
    scenario::scenario,
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
        let admin = admin_address(&installation.pods(&scenario.client).await[0]);
        for page in ["/", "/report", "/snapshot"] {
            let (status, text) = get(admin, page, "X-Forwarded-For: 127.0.0.1").await;
            assert!(status == 401 && text.contains("kubectl port-forward") && !text.contains("pg"), "{page}: {text}");
        }
        for page in ["/livez", "/readyz", "/metrics", "/style.css"] {
            assert_eq!(get(admin, page, "Accept: */*").await.0, 200, "{page}");
        }

        let own = installation.full_name();
        let theirs = scenario.token(&installation.namespace, &own, "tcplb").await;
        let bearer = format!("Authorization: Bearer {theirs}");
        assert_eq!(get(admin, "/report", &bearer).await.0, 200);
        let (status, text) = get(admin, "/snapshot", &bearer).await;
        assert!(status == 403 && text.contains("replicas/snapshot"), "{text}");
        for (account, audience) in [(&*own, "other"), (&*own, "https://kubernetes.default.svc.cluster.local")] {
            let token = scenario.token(&installation.namespace, account, audience).await;
            let bearer = format!("Authorization: Bearer {token}");
            assert_eq!(get(admin, "/report", &bearer).await.0, 401, "{audience}");
        }
        let elsewhere = scenario.token(&scenario.namespace, "default", "tcplb").await;
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

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_the_leader_counts_the_connections_of_all_replicas() {
    scenario("leader-page", Isolation::Shared, async |scenario| {
        scenario.backends("echo", 1).await;
        scenario.apply(&load_balancer("pg", PORT, "echo")).await;
        let address = scenario.programmed("pg").await;
        let authorization = scenario.page_authorization().await;
        // kube-proxy spreads them over the replicas.
        let mut open = Vec::new();
        while open.len() < 40 {
            open.extend(Connection::open(address).await.ok());
        }
        let installation = scenario.installation();
        let details = format!("<details id=\"{}/pg\"", scenario.namespace);
        let mut shown = String::new();
        eventually("the leader's page has all connections", WAIT_LIMIT, async || {
            let leader = installation.leader(&scenario.client).await;
            let pods = installation.pods(&scenario.client).await;
            let Some(leader) = pods.iter().find(|pod| pod.metadata.name == leader) else { return false };
            let (status, page) = get(admin_address(leader), "/?q=pg", &authorization).await;
            let Some((_, details)) = page.split_once(&details) else { return false };
            shown = details.to_owned();
            status == 200 && shown.contains("data-unit=\"open\">40<")
        })
        .await;
        assert!(shown.contains("listeners and endpoints in this replica"), "{shown}");
    })
    .await;
}
