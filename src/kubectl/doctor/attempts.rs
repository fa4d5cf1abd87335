//! One real connection through each address of a load balancer.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::TcpStream,
    time::timeout,
};

use super::facts::{AttemptOutcome, ConnectionAttempt, InstallationFacts, key};
use crate::{
    api::{AddressType, Listener, Placement, TcpLoadBalancer},
    kubectl::{connection::ClusterConnection, permission::Permission, replica::ReplicaPod},
    model::{ListenerOutcome, ObjectKey},
    printable::printable,
    world::managed_service,
};

/// The time limit for establishing a connection.
const CONNECT: Duration = Duration::from_secs(3);
/// A connection that stays open for this long counts as served: the proxy closes those without an endpoint at once.
const STAYS_OPEN: Duration = Duration::from_millis(500);
/// The number of connections at a time.
const CONCURRENT: usize = 32;
/// The maximum length of an error, in bytes.
const MAX_ERROR: usize = 256;

/// An address that is connected to.
struct AttemptTarget<'a> {
    object: ObjectKey,
    host: String,
    port: u16,
    is_internal: bool,
    /// A replica that serves the load balancer, and its proxy port.
    replica: Option<(&'a ReplicaPod, u16)>,
}

/// Connects to a listener of each load balancer, at each of its addresses.
pub async fn attempts(connection: &ClusterConnection, facts: &InstallationFacts) -> Vec<ConnectionAttempt> {
    let targets = facts.load_balancers().iter().flat_map(|object| targets(object, facts));
    let connecting = targets.map(async |target| attempt(connection, target).await);
    stream::iter(connecting).buffered(CONCURRENT).collect().await
}

fn targets<'a>(object: &TcpLoadBalancer, facts: &'a InstallationFacts) -> Vec<AttemptTarget<'a>> {
    let (Some(listener), Some(status)) = (tested_listener(object), &object.status) else { return Vec::new() };
    let object_key = key(object);
    let is_host = object.spec.placement == Some(Placement::Host);
    let external = external_addresses(&object_key, facts);
    // The name of the managed Service resolves in the cluster only.
    let own_name = managed_service::name(&object_key) + ".";
    let uid = object.metadata.uid.as_deref().unwrap_or_default();
    let replica = facts.accepting().find_map(|(pod, pages)| {
        let served = pages.report.load_balancers.get(uid)?;
        match served.listeners.get(&listener.port)? {
            ListenerOutcome::Bound(port) => Some((pod, *port)),
            ListenerOutcome::Failed(_) => None,
        }
    });
    let addresses = status.addresses.iter();
    let addresses =
        addresses.filter(|address| address.type_ != AddressType::Hostname || !address.value.starts_with(&own_name));
    let target = |address: &crate::api::Address| AttemptTarget {
        object: object_key.clone(),
        host: address.value.clone(),
        port: listener.port,
        is_internal: !is_host && !external.contains(&address.value),
        replica,
    };
    addresses.map(target).collect()
}

/// The first listener that picks an endpoint without waiting for the client's first bytes, otherwise the first one.
fn tested_listener(object: &TcpLoadBalancer) -> Option<&Listener> {
    let listeners = &object.spec.listeners;
    let plain = listeners.iter().find(|listener| listener.tls.is_none() && listener.proxy_protocol.is_none());
    plain.or(listeners.first())
}

/// The addresses that a cloud assigned to the managed Service of a load balancer, as in its status.
fn external_addresses(object: &ObjectKey, facts: &InstallationFacts) -> BTreeSet<String> {
    let name = managed_service::name(object);
    let services = facts.services.iter().flatten().filter(|service| service.metadata.name.as_ref() == Some(&name));
    let balancers = services.filter_map(|service| service.status.as_ref()?.load_balancer.as_ref());
    let ingress = balancers.flat_map(|balancer| balancer.ingress.iter().flatten());
    // The status has the canonical form of IP addresses.
    let canonical = |text: &String| text.parse::<IpAddr>().map_or_else(|_| text.clone(), |address| address.to_string());
    ingress.flat_map(|ingress| ingress.ip.iter().chain(&ingress.hostname)).map(canonical).collect()
}

async fn attempt(connection: &ClusterConnection, target: AttemptTarget<'_>) -> ConnectionAttempt {
    let AttemptTarget { object, host, port, is_internal, replica } = target;
    let direct = match timeout(CONNECT, TcpStream::connect((host.as_str(), port))).await {
        Ok(Ok(stream)) => outcome(stream).await,
        Ok(Err(error)) => AttemptOutcome::Failed(error.to_string()),
        Err(_) => AttemptOutcome::Failed(format!("no answer within {} s", CONNECT.as_secs())),
    };
    let through_replica = match (&direct, replica) {
        (AttemptOutcome::Failed(_), Some((pod, port))) => {
            Some((pod.key.name.to_string(), through(connection, pod, port).await))
        }
        _ => None,
    };
    let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    ConnectionAttempt { object, address, is_internal, direct, through_replica }
}

/// Connects to a port of a replica by port forwarding.
async fn through(connection: &ClusterConnection, pod: &ReplicaPod, port: u16) -> AttemptOutcome {
    let pods: Api<Pod> = Api::namespaced(connection.client.clone(), &pod.key.namespace);
    let failed = |error: String| AttemptOutcome::Failed(printable(&error, MAX_ERROR).into_owned());
    let permission = || Permission::new("create", "", "pods/portforward").in_namespace(Some(&pod.key.namespace));
    match timeout(CONNECT, pods.portforward(&pod.key.name, &[port])).await {
        Err(_) => failed(format!("no answer within {} s", CONNECT.as_secs())),
        Ok(Err(error)) => failed(permission().error(&error).to_string()),
        Ok(Ok(mut forwarder)) => match forwarder.take_stream(port) {
            Some(stream) => outcome(stream).await,
            None => failed("the port is not forwarded".into()),
        },
    }
}

/// The outcome of an established connection.
async fn outcome(mut stream: impl AsyncRead + Unpin) -> AttemptOutcome {
    match timeout(STAYS_OPEN, stream.read(&mut [0; 1])).await {
        Ok(Ok(0) | Err(_)) => AttemptOutcome::Closed,
        Ok(Ok(_)) | Err(_) => AttemptOutcome::Open,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Service;
    use serde_json::json;
    use tokio::io::{AsyncWriteExt, duplex};

    use super::*;
    use crate::kubectl::doctor::tests::{installation, object};

    #[test]
    fn an_address_is_internal_unless_a_cloud_assigned_it_or_it_is_of_a_host() {
        let status: Service = serde_json::from_value(json!({"status": {"loadBalancer": {"ingress": [
            {"ip": "192.0.2.1"}, {"hostname": "lb.example.com"}, {"ip": "2001:0db8::1"},
        ]}}}))
        .unwrap();
        let mut facts = installation();
        let mut object = object();
        object.status.as_mut().unwrap().addresses = serde_json::from_value(json!([
            {"type": "IPAddress", "value": "192.0.2.1"},
            {"type": "Hostname", "value": "lb.example.com"},
            {"type": "IPAddress", "value": "2001:db8::1"},
            {"type": "IPAddress", "value": "10.96.0.7"},
        ]))
        .unwrap();
        let internal = |object: &TcpLoadBalancer, facts: &InstallationFacts| {
            targets(object, facts).iter().map(|target| target.is_internal).collect::<Vec<_>>()
        };
        assert_eq!(internal(&object, &facts), [true, true, true, true]);
        facts.services.as_mut().unwrap()[0].status = status.status;
        assert_eq!(internal(&object, &facts), [false, false, false, true]);
        object.spec.placement = Some(Placement::Host);
        assert_eq!(internal(&object, &facts), [false, false, false, false]);
    }

    #[test]
    fn a_listener_that_picks_an_endpoint_at_once_is_preferred() {
        let mut object = object();
        let mut tested = |listeners: serde_json::Value| {
            object.spec.listeners = serde_json::from_value(listeners).unwrap();
            tested_listener(&object).map(|listener| listener.port)
        };
        let tls = json!({"port": 1, "tls": {"mode": "Passthrough"}});
        let proxied = json!({"port": 2, "proxyProtocol": {"mode": "Required", "trustedNetworks": ["10.0.0.0/8"]}});
        assert_eq!(tested(json!([tls, proxied, {"port": 3}, {"port": 4}])), Some(3));
        assert_eq!(tested(json!([tls, proxied])), Some(1));
        assert_eq!(tested(json!([])), None);
    }

    #[test]
    fn a_terminating_replica_is_not_connected_to() {
        let mut facts = installation();
        let target = |facts: &InstallationFacts| {
            let targets = targets(&object(), facts);
            targets[0].replica.map(|(pod, port)| (pod.key.name.to_string(), port))
        };
        assert_eq!(target(&facts), Some(("tcplb-1".into(), 20000)));
        facts.replicas.as_mut().unwrap()[0].pod.is_terminating = true;
        assert_eq!(target(&facts), Some(("tcplb-2".into(), 20000)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_served_unless_it_is_closed_at_once() {
        let (silent, _open) = duplex(16);
        assert_eq!(outcome(silent).await, AttemptOutcome::Open);
        let (greeted, mut server) = duplex(16);
        server.write_all(b"hello").await.unwrap();
        drop(server);
        assert_eq!(outcome(greeted).await, AttemptOutcome::Open);
        let (closed, server) = duplex(16);
        drop(server);
        assert_eq!(outcome(closed).await, AttemptOutcome::Closed);
    }
}
