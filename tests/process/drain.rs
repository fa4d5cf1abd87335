//! Logs, metrics and pages about drains, and the drain after the deletion of a manifest.

use std::{fs, io::ErrorKind, net::SocketAddr};

use crate::harness::{Client, EchoServer, Folder, Tcplb, free_address, manifest, wait_until};

fn connected(address: SocketAddr) -> Client {
    let mut client = Client::connect(address);
    client.echo("here").unwrap();
    client
}

#[test]
fn drains_are_shown_until_the_endpoint_returns() {
    const DRAIN: &str = "drain: {endpointRemoved: {policy: Close, after: 1h, spread: 1s}}";
    let (one, other) = (EchoServer::start(None), EchoServer::start(None));
    let (folder, address) = (Folder::new(), free_address());
    let shop = |backend: SocketAddr| manifest("shop", address.port(), &[backend], DRAIN);
    let file = folder.write("shop.yaml", &shop(one.address));
    let mut tcplb = Tcplb::standalone(&[&file]).ready();
    let mut clients: Vec<_> = (0..3).map(|_| connected(address)).collect();
    let draining = |tcplb: &Tcplb| tcplb.metric("tcplb_connections_draining", &["reason=\"endpoint_removed\""]);

    folder.write("shop.yaml", &shop(other.address));
    let line = tcplb.logged("draining");
    let what = one.address.to_string();
    assert!(line.contains(&what) && line.contains("connections=3") && line.contains("endpoint_removed"), "{line}");
    wait_until("the metric tells it", || draining(&tcplb) == 3.0);
    let not_overdue = "tcplb_connections_draining_overdue{load_balancer_namespace=\"default\",load_balancer=\"shop\",\
                       reason=\"endpoint_removed\"} 0";
    let metrics = tcplb.metrics();
    assert!(metrics.lines().any(|line| line == not_overdue), "{metrics}");
    let snapshot = tcplb.snapshot();
    let draining = &snapshot["draining"][0];
    assert_eq!(
        (&draining["what"], &draining["active"], &draining["loadBalancer"]),
        (&what.into(), &3.into(), &"default/shop".into())
    );
    let former = &snapshot["loadBalancers"][0]["formerEndpoints"][0];
    assert!(former["id"].is_u64() && former["id"] == draining["id"], "{snapshot}");
    assert_eq!((&former["state"], &former["active"]), (&"removed".into(), &3.into()));

    folder.write("shop.yaml", &shop(one.address));
    let line = tcplb.logged("no longer draining");
    assert!(line.contains("stay=3") && line.contains("closed=0"), "{line}");
    wait_until("nothing is drained", || tcplb.snapshot()["draining"].is_null());
    clients.iter_mut().for_each(|client| client.echo("still here").unwrap());
}

#[test]
fn a_deleted_manifest_drains_by_its_last_policy() {
    let (server, folder, address) = (EchoServer::start(None), Folder::new(), free_address());
    let drain = "drain: {listenerRemoved: {policy: Close, after: 0s}}";
    folder.write("shop.yaml", &manifest("shop", address.port(), &[server.address], drain));
    let _tcplb = Tcplb::standalone(&[folder.path()]).ready();
    let mut client = connected(address);
    fs::remove_file(folder.join("shop.yaml")).unwrap();
    assert_eq!(client.end().unwrap_err().kind(), ErrorKind::ConnectionReset);
}
