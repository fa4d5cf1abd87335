//! Endpoints that are unreachable because of this host, not because of the network.

use crate::own_network::{OwnNetwork, SERVER};

const LISTEN: &str = "127.0.0.1:4000";
/// A network without IPv6.
const PREPARATION: &str = "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6; ip route add prohibit 10.0.0.1
    ip route add blackhole 10.0.0.2; ip route add unreachable 10.0.0.3";

const UNREACHABLE: [(&str, &str); 5] = [
    ("[fd00::11]:5001", "no source address for it"),
    ("10.0.0.1:5001", "a firewall, route or policy of this host blocks it"),
    ("10.0.0.2:5001", "a firewall, route or policy of this host blocks it: Invalid argument"),
    ("10.0.0.3:5001", "No route to host"),
    ("10.0.0.4:5001", "Network is unreachable"),
];

fn manifest(health: &str, balancing: &str) -> String {
    let addresses: Vec<_> = UNREACHABLE.iter().map(|(address, _)| format!("\"{address}\"")).collect();
    format!(
        "apiVersion: tcplb.io/v1alpha1\nkind: TcpLoadBalancer\nmetadata: {{name: shop}}\nspec:\n  \
         listeners: [{{port: 4000, address: 127.0.0.1}}]\n  backends: [{{addresses: [\"{SERVER}\", {}]}}]\n  \
         loadBalancing: {{algorithm: {balancing}}}\n  healthCheck: {health}\n",
        addresses.join(", ")
    )
}

#[test]
fn active_checks_take_out_endpoints_that_this_host_has_no_way_to() {
    // The interval is also the time limit of a check, which the reachable endpoint has to keep.
    let health = "{active: {interval: 2s, unhealthyAfter: 1}}";
    let Some(mut network) = OwnNetwork::start(PREPARATION, &manifest(health, "LeastConnections")) else { return };
    for (address, reason) in UNREACHABLE {
        let line = network.tcplb.logged(&format!("endpoint={address}"));
        assert!(line.contains("endpoint unhealthy") && line.contains(reason), "{line}");
    }
    network.tcplb.logged("listening");
    assert_eq!(network.clients(LISTEN, 20), ["hello from here"; 20]);
    assert!(
        !network.tcplb.seen.iter().any(|line| line.contains("no free local port") || line.contains("cannot probe"))
    );
}

#[test]
fn without_active_checks_failed_attempts_count_against_endpoints_that_this_host_has_no_way_to() {
    let health = "{active: {type: None}, passive: {consecutiveFailures: 1, ejectFor: 1h, maxEjectFor: 1h, maxEjectedPercent: 100}}";
    let Some(mut network) = OwnNetwork::start(PREPARATION, &manifest(health, "RoundRobin")) else { return };
    network.tcplb.logged("listening");
    // Each endpoint is picked at least once.
    network.clients(LISTEN, 12);
    for (address, reason) in UNREACHABLE {
        let line = network.tcplb.logged(&format!("endpoint={address}"));
        assert!(line.contains("endpoint ejected") && line.contains(reason), "{line}");
    }
    network.tcplb.logged("listening");
    assert_eq!(network.clients(LISTEN, 20), ["hello from here"; 20]);
    assert!(!network.tcplb.seen.iter().any(|line| line.contains("no free local port")));
}
