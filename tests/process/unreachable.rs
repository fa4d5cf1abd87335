//! Endpoints that this host, and not the network behind it, has no way to.

use std::{net::SocketAddr, process::Command};

use crate::harness::{Folder, Tcplb, lacks, skip};

const LISTEN: &str = "127.0.0.1:4000";
const SERVER: &str = "127.0.0.1:5001";

/// The program in a network of its own without IPv6, in which some addresses have no way, and one has a server. `None`: there
/// can be no such network here.
fn in_own_network(spec: &str) -> Option<(Tcplb, Folder)> {
    let apart = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--net", "--", "bash", "-ec", script, env!("CARGO_BIN_EXE_tcplb")]);
        command
    };
    if !Command::new("ip").arg("-V").status().is_ok_and(|status| status.success()) {
        lacks("ip");
        return None;
    }
    if !apart("ip link set lo up").status().is_ok_and(|status| status.success()) {
        skip("no network name spaces for users");
        return None;
    }
    let folder = Folder::new();
    let file = folder.write("lb.yaml", spec);
    let script = format!(
        "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6; ip link set lo up; ip route add prohibit 10.0.0.1
         ip route add blackhole 10.0.0.2; ip route add unreachable 10.0.0.3
         setpriv --pdeathsig KILL \"$0\" backend --listen {SERVER} --name here >/dev/null 2>&1 &
         until (exec 3<>/dev/tcp/{}) 2>/dev/null; do sleep 0.05; done; exec \"$0\" \"$@\"",
        SERVER.replace(':', "/"),
    );
    let admin: SocketAddr = ([127, 0, 0, 1], 4001).into();
    let mut command = apart(&script);
    command.args(["standalone", "--admin", &admin.to_string(), &file]);
    Some((Tcplb::spawn(command, admin), folder))
}

const UNREACHABLE: [(&str, &str); 5] = [
    ("[fd00::11]:5001", "no address to reach it from"),
    ("10.0.0.1:5001", "a firewall, route or policy of this host forbids it"),
    ("10.0.0.2:5001", "Invalid argument"),
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

/// Connects in the network of the program, so many times, and says who answered.
fn clients(tcplb: &Tcplb, count: usize) -> Vec<String> {
    let (host, port) = LISTEN.split_once(':').unwrap();
    let script = format!(
        "for i in $(seq {count}); do exec 3<>/dev/tcp/{host}/{port} && read -r -t 20 line <&3 && echo \"$line\" || echo none
         exec 3>&-; done"
    );
    let mut command = Command::new("nsenter");
    let pid = tcplb.pid().to_string();
    command.args(["--target", &pid, "--user", "--net", "--preserve-credentials", "--", "bash", "-c", &script]);
    let output = command.output().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().map(Into::into).collect()
}

#[test]
fn active_checks_take_out_endpoints_that_this_host_has_no_way_to() {
    let health = "{active: {interval: 100ms, unhealthyAfter: 1}}";
    let Some((mut tcplb, _folder)) = in_own_network(&manifest(health, "LeastConnections")) else { return };
    for (address, reason) in UNREACHABLE {
        let line = tcplb.logged(&format!("endpoint={address}"));
        assert!(line.contains("endpoint unhealthy") && line.contains(reason), "{line}");
    }
    tcplb.logged("listening");
    assert_eq!(clients(&tcplb, 20), ["hello from here"; 20]);
    assert!(!tcplb.seen.iter().any(|line| line.contains("no local port") || line.contains("cannot probe")));
}

#[test]
fn without_active_checks_failed_attempts_count_against_endpoints_that_this_host_has_no_way_to() {
    let health = "{active: {type: None}, passive: {consecutiveFailures: 1, ejectFor: 1h, maxEjectFor: 1h, maxEjectedPercent: 100}}";
    let Some((mut tcplb, _folder)) = in_own_network(&manifest(health, "RoundRobin")) else { return };
    tcplb.logged("listening");
    // Each has its turn at least once.
    clients(&tcplb, 12);
    for (address, reason) in UNREACHABLE {
        let line = tcplb.logged(&format!("endpoint={address}"));
        assert!(line.contains("endpoint ejected") && line.contains(reason), "{line}");
    }
    tcplb.logged("listening");
    assert_eq!(clients(&tcplb, 20), ["hello from here"; 20]);
    assert!(!tcplb.seen.iter().any(|line| line.contains("no local port")));
}
