//! Requests for the admin pages of replicas from the network.

use std::net::SocketAddr;

use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::{Pod, ServiceAccount},
};
use kube::{Api, api::PostParams};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::scenario::Scenario;

impl Scenario {
    /// A token of a service account.
    pub async fn token(&self, namespace: &str, account: &str, audience: &str) -> String {
        let accounts = Api::<ServiceAccount>::namespaced(self.client.clone(), namespace);
        let spec = TokenRequestSpec { audiences: vec![audience.into()], ..TokenRequestSpec::default() };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let created = accounts.create_token_request(account, &PostParams::default(), &request).await.unwrap();
        serde_json::to_value(created).unwrap()["status"]["token"].as_str().unwrap().to_owned()
    }

    /// A header that gives access to the pages for browsers of the installation.
    pub async fn page_authorization(&self) -> String {
        let name = format!("page-reader-{}", self.namespace);
        let metadata = json!({"name": name, "namespace": self.installation().namespace});
        let role = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata,
            "rules": [{"apiGroups": ["tcplb.io"], "resources": ["replicas/page"], "verbs": ["get"]}],
        });
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": metadata,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": self.namespace}],
        });
        self.apply(&format!("{role}\n---\n{binding}")).await;
        format!("Authorization: Bearer {}", self.token(&self.namespace, "default", "tcplb").await)
    }
}

/// The address of the admin pages of a replica.
pub fn admin_address(pod: &Pod) -> SocketAddr {
    let containers = &pod.spec.as_ref().unwrap().containers;
    let mut ports = containers.iter().flat_map(|container| container.ports.iter().flatten());
    let port = ports.find(|port| port.name.as_deref() == Some("admin")).expect("a replica has an admin port");
    let ip = pod.status.as_ref().unwrap().pod_ip.as_deref().unwrap();
    SocketAddr::new(ip.parse().unwrap(), port.container_port.try_into().unwrap())
}

/// Requests a page, and returns status and text.
pub async fn get(address: SocketAddr, page: &str, header: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {page} HTTP/1.1\r\nHost: {address}\r\n{header}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("{head}")), body.to_owned())
}
