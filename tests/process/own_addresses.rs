//! Backends that are listeners of the program itself, at an address that only the host knows as its own, and connections
//! that reach themselves.

use crate::{
    harness::{WAIT_LIMIT, wait_until},
    own_network::{OwnNetwork, SERVER},
};

const LISTEN: &str = "127.0.0.1:4000";
const LEFT_OUT: &str = "endpoint ignored";
const NO_LONGER: &str = "endpoint no longer ignored";

fn load_balancer(name: &str, port: u16, addresses: &[&str]) -> String {
    format!(
        "apiVersion: tcplb.io/v1alpha1\nkind: TcpLoadBalancer\nmetadata: {{name: {name}}}\nspec:\n  \
         listeners: [{{port: {port}}}]\n  backends: [{{name: db, addresses: {addresses:?}}}]\n  \
         healthCheck: {{active: {{type: None}}}}\n"
    )
}

/// True if a load balancer has this endpoint.
fn served(network: &OwnNetwork, address: &str) -> bool {
    let page = network.page("/snapshot");
    let picture: serde_json::Value = serde_json::from_str(page.split_once("\r\n\r\n").unwrap().1).unwrap();
    let endpoints =
        picture["loadBalancers"].as_array().unwrap().iter().flat_map(|one| one["endpoints"].as_array().unwrap());
    endpoints.into_iter().any(|endpoint| endpoint["address"] == address)
}

#[test]
fn endpoints_that_are_listeners_by_another_address_of_the_host_are_left_out() {
    // Directly, and over another load balancer.
    let manifests = format!(
        "{}---\n{}",
        load_balancer("shop", 4000, &[SERVER, "10.0.0.9:4000", "10.0.0.9:4100", "[fd00::9]:4000"]),
        load_balancer("other", 4100, &["10.0.0.9:4000"])
    );
    let preparation = "ip address add 10.0.0.9/32 dev lo; ip address add fd00::9/128 dev lo nodad";
    let Some(mut network) = OwnNetwork::start(preparation, &manifests) else { return };
    for endpoint in ["10.0.0.9:4000", "10.0.0.9:4100", "[fd00::9]:4000"] {
        let line = network.tcplb.logged(&format!("endpoint={endpoint}"));
        assert!(line.contains(LEFT_OUT), "{line}");
    }
    network.tcplb.logged("admin pages");
    assert_eq!(network.clients(LISTEN, 20), ["hello from here"; 20]);
    let page = network.page("/snapshot");
    let expected =
        "backend `db`: 10.0.0.9:4100 is an address of this host and leads to the listener 4100 of default/other";
    assert!(page.contains(expected), "{page}");
    assert!(!served(&network, "10.0.0.9:4000") && !served(&network, "10.0.0.9:4100"), "{page}");
}

#[test]
fn endpoints_that_are_listeners_by_an_address_of_a_local_prefix_are_left_out() {
    let endpoints = ["10.0.9.5:4000", "[fd12::5]:4000"];
    let manifests = load_balancer("shop", 4000, &[SERVER, endpoints[0], endpoints[1]]);
    for settings in ["", "echo 1 > /proc/sys/net/ipv6/ip_nonlocal_bind; echo 1 > /proc/sys/net/ipv4/ip_nonlocal_bind"] {
        let preparation =
            format!("ip route add local 10.0.9.0/24 dev lo; ip route add local fd12::/64 dev lo; {settings}");
        let Some(mut network) = OwnNetwork::start(&preparation, &manifests) else { return };
        for endpoint in endpoints {
            let line = network.tcplb.logged(&format!("endpoint={endpoint}"));
            assert!(line.contains(LEFT_OUT), "{line}");
        }
        network.tcplb.logged("admin pages");
        assert_eq!(network.clients(LISTEN, 20), ["hello from here"; 20]);
    }
}

#[test]
fn addresses_that_come_and_go_while_the_program_runs_are_noticed() {
    let manifests = load_balancer("shop", 4000, &[SERVER, "10.0.0.9:4000"]);
    let Some(mut network) = OwnNetwork::start("", &manifests) else { return };
    network.tcplb.logged("admin pages");
    wait_until("it is served", || served(&network, "10.0.0.9:4000"));
    for _ in 0..2 {
        network.run("ip address add 10.0.0.9/32 dev lo");
        network.tcplb.logged(LEFT_OUT);
        wait_until("it gets no connections", || !served(&network, "10.0.0.9:4000"));
        assert_eq!(network.clients(LISTEN, 20), ["hello from here"; 20]);
        network.run("ip address del 10.0.0.9/32 dev lo");
        network.tcplb.logged(NO_LONGER);
        wait_until("it gets connections", || served(&network, "10.0.0.9:4000"));
        network.tcplb.forget_log();
    }
}

#[test]
fn clients_do_not_get_their_own_bytes_if_nothing_listens_at_a_local_port() {
    // The kernel chooses the port of the endpoint for the connection to it.
    let preparation = "echo 40008 40009 > /proc/sys/net/ipv4/ip_local_port_range";
    let manifests = load_balancer("shop", 4000, &["127.0.0.1:40008", "[::1]:40008"]);
    let Some(mut network) = OwnNetwork::start(preparation, &manifests) else { return };
    network.tcplb.logged("admin pages");
    let answers = network.run(&format!(
        "for i in $(seq 20); do exec 3<>/dev/tcp/{} && echo secret >&3; read -r -t {} line <&3 && echo \"$line\" || echo none
         exec 3>&-; done",
        LISTEN.replace(':', "/"),
        WAIT_LIMIT.as_secs()
    ));
    assert_eq!(answers.lines().collect::<Vec<_>>(), ["none"; 20]);
}
