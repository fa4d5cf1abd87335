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
        let address = scenario.ready("pg").await;
        let authorization = scenario.page_authorization().await;
        // kube-proxy distributes the connections over the replicas.
        let mut open = Vec::new();
        eventually("the clients are connected", WAIT_LIMIT, async || {
            open.extend(Connection::open(address).await.ok());
            open.len() == CLIENTS
        })
        .await;
        let installation = scenario.installation();
        let name = format!("{}/pg", scenario.namespace);
        let mut shown = Vec::new();
        eventually("the leader's page has all connections", WAIT_LIMIT, async || {
            let leader = installation.leader(&scenario.client).await;
            let pods = installation.pods(&scenario.client).await;
            let Some(leader) = pods.iter().find(|pod| pod.metadata.name == leader) else { return false };
            let (_, page) = get(admin_address(leader), &format!("/?q={name}"), &authorization).await;
            shown = open_in_replicas(&page, &name);
            page.contains(&format!("data-unit=\"open\">{CLIENTS}<")) && shown.iter().sum::<usize>() == CLIENTS
        })
        .await;
        assert!(shown.iter().filter(|open| **open > 0).count() > 1, "{shown:?}");
    })
    .await;
}

const CLIENTS: usize = 40;

/// The open connections in the table of replicas of a load balancer, in the page of the leader.
fn open_in_replicas(page: &str, name: &str) -> Vec<usize> {
    let details = page.split_once(&format!("<details id=\"{name}\"")).map_or("", |(_, rest)| rest);
    let details = details.split_once("</details>").map_or("", |(details, _)| details);
    let table = details.split_once("<th>replica</th>").map_or("", |(_, table)| table);
    let rows = table.split("<tr>").skip(1);
    // Name, generation, listeners and usable endpoints come first.
    let open = rows.filter_map(|row| row.split("<td class=\"n\">").nth(4)?.split('<').next()?.parse().ok());
    open.collect()
}
