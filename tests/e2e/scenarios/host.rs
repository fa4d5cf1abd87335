//! Placement Host: ports of the nodes themselves.

use std::net::SocketAddr;

use kube::api::DeleteParams;
use serde_json::json;
use tcplb::api::TcpLoadBalancer;

use crate::{
    backends::load_balancer_with,
    clients::visit,
    cluster::{WAIT_LIMIT, eventually, nodes},
    scenario::{is, is_not, scenario, sentence},
    turns::Isolation,
};

#[tokio::test(flavor = "multi_thread")]
async fn the_older_load_balancer_has_the_node_port_and_the_younger_names_it() {
    scenario("host", Isolation::Shared, async |scenario| {
        let host = json!({"enabled": true, "allowedPorts": ["15432-15439"], "adminPort": 19901});
        scenario.install_own(json!({"kind": "None", "host": host})).await;
        scenario.backends("first", 1).await;
        scenario.backends("second", 1).await;
        let on_nodes = |name: &str, port: u16| {
            load_balancer_with(name, &format!("listeners: [{{port: {port}}}]"), name, "placement: Host")
        };
        scenario.apply(&on_nodes("first", 15432)).await;
        scenario.status("it is programmed", "first", |status| is(status, "Programmed", "True")).await;
        let nodes = nodes(&scenario.client).await;
        let addresses: Vec<SocketAddr> = nodes.into_iter().map(|(_, ip)| SocketAddr::new(ip, 15432)).collect();
        let serves = async |backend: &str| {
            for address in &addresses {
                eventually(&format!("{address} leads to {backend}"), WAIT_LIMIT, async || {
                    visit(*address).await.is_ok_and(|name| name.starts_with(backend))
                })
                .await;
            }
        };
        serves("first-").await;

        scenario.apply(&on_nodes("second", 15432)).await;
        let loses = |status: &_| is(status, "Accepted", "False");
        let status = scenario.status("the younger one is refused", "second", loses).await;
        assert!(sentence(&status, "Accepted").contains("first"), "{status:?}");
        serves("first-").await;

        scenario.apply(&on_nodes("forbidden", 15999)).await;
        let refused = |status: &_| is_not(status, "Accepted", "NotPermitted");
        scenario.status("a port that is not allowed is refused", "forbidden", refused).await;

        scenario.api::<TcpLoadBalancer>().delete("first", &DeleteParams::default()).await.unwrap();
        scenario.status("the younger one has the port now", "second", |status| is(status, "Programmed", "True")).await;
        serves("second-").await;
    })
    .await;
}
