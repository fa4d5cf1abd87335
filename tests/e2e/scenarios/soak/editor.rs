//! Random edits of the objects of a run.

use std::collections::{BTreeMap, VecDeque};

use fastrand::Rng;
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use serde_json::json;
use tcplb::api::TcpLoadBalancer;

use super::{LOAD_BALANCERS, NAME, PLAIN_PORT, TLS_PORT, population::TrustedCertificates};
use crate::{
    backends::{PORT, load_balancer},
    scenario::Scenario,
    scenarios::certificates::Certificate,
};

const ALGORITHMS: [&str; 5] = ["RoundRobin", "LeastConnections", "PowerOfTwo", "Random", "Maglev"];
const PREPARED_CERTIFICATES: usize = 4;
/// Load balancers that are added and removed.
const OTHERS: usize = 5;

/// The kind of an edit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Edit {
    Backend,
    Endpoints,
    Algorithm,
    Certificate,
    InvalidSecret,
    OtherLoadBalancer,
}

/// The state of the edited objects.
pub struct Editor<'a> {
    scenario: &'a Scenario,
    rng: Rng,
    algorithms: [&'static str; LOAD_BALANCERS.len()],
    has_extra_backend: [bool; LOAD_BALANCERS.len()],
    others: [bool; OTHERS],
    /// The next certificates. Clients accept them before they are used: a client may connect during a rotation.
    prepared: VecDeque<Certificate>,
    trusted: TrustedCertificates,
    pub counts: BTreeMap<Edit, usize>,
}

impl<'a> Editor<'a> {
    /// Creates the load balancers that are edited, each with a plain and a TLS listener.
    pub async fn new(scenario: &'a Scenario, rng: Rng, trusted: TrustedCertificates) -> Self {
        let mut editor = Self {
            scenario,
            rng,
            algorithms: [ALGORITHMS[0]; LOAD_BALANCERS.len()],
            has_extra_backend: [true; LOAD_BALANCERS.len()],
            others: [false; OTHERS],
            prepared: VecDeque::new(),
            trusted,
            counts: BTreeMap::new(),
        };
        editor.rotate_certificate().await;
        editor.create_listed_service().await;
        editor.declare_all().await;
        editor
    }

    /// Makes a random edit. A Secret is made invalid only on request: a replica that starts then has no earlier
    /// certificate.
    pub async fn edit(&mut self, with_invalid_secrets: bool) {
        let index = self.rng.usize(..LOAD_BALANCERS.len());
        let edit = match self.rng.u8(..8) {
            0..2 => Edit::Backend,
            2 => Edit::Endpoints,
            3 => Edit::Algorithm,
            4 => Edit::Certificate,
            5 if with_invalid_secrets => Edit::InvalidSecret,
            5 => Edit::Endpoints,
            _ => Edit::OtherLoadBalancer,
        };
        match edit {
            Edit::Backend => {
                self.has_extra_backend[index] = !self.has_extra_backend[index];
                self.declare(index).await;
            }
            Edit::Endpoints => self.list_endpoints().await,
            Edit::Algorithm => {
                self.algorithms[index] = ALGORITHMS[self.rng.usize(..ALGORITHMS.len())];
                self.declare(index).await;
            }
            Edit::Certificate => self.rotate_certificate().await,
            Edit::InvalidSecret => self.invalidate_secret().await,
            Edit::OtherLoadBalancer => self.toggle_other().await,
        }
        *self.counts.entry(edit).or_default() += 1;
    }

    /// Changes the algorithm of each load balancer.
    pub async fn declare_all(&mut self) {
        for index in 0..LOAD_BALANCERS.len() {
            let others: Vec<_> = ALGORITHMS.into_iter().filter(|other| *other != self.algorithms[index]).collect();
            self.algorithms[index] = self.rng.choice(others).expect("several algorithms");
            self.declare(index).await;
        }
    }

    async fn declare(&self, index: usize) {
        let (name, algorithm) = (LOAD_BALANCERS[index], self.algorithms[index]);
        let mut services = vec!["echo", "listed"];
        services.extend(self.has_extra_backend[index].then_some("extra"));
        let backend = |name: &&str| format!("{{name: {name}, service: {{name: {name}, port: {PORT}}}}}");
        let backends: Vec<String> = services.iter().map(backend).collect();
        let manifest = format!(
            "
apiVersion: tcplb.io/v1alpha1
kind: TcpLoadBalancer
metadata: {{name: {name}}}
spec:
  service: {{type: NodePort, externalTrafficPolicy: Local}}
  listeners:
  - {{name: plain, port: {PLAIN_PORT}}}
  - {{name: tls, port: {TLS_PORT}, tls: {{certificateRefs: [{{name: soak-tls}}]}}}}
  backends: [{}]
  loadBalancing: {{algorithm: {algorithm}}}
  # A connection to a lost node ends after 20 s without an answer.
  tcpKeepalive: {{idle: 10s, interval: 5s, probes: 2}}
",
            backends.join(", ")
        );
        self.scenario.apply(&manifest).await;
    }

    /// Writes a new certificate with its key.
    pub async fn rotate_certificate(&mut self) {
        while self.prepared.len() <= PREPARED_CERTIFICATES {
            let certificate = Certificate::new(NAME);
            self.trusted.add(certificate.der.clone());
            self.prepared.push_back(certificate);
        }
        let certificate = self.prepared.pop_front().expect("certificates are prepared");
        self.scenario.apply(&certificate.secret("soak-tls")).await;
    }

    /// Makes the Secret invalid: the previous certificate stays in use.
    async fn invalidate_secret(&self) {
        let invalid = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": "soak-tls"},
            "stringData": {"tls.crt": "-----BEGIN CERTIFICATE-----", "tls.key": ""},
        });
        self.scenario.try_apply_value(invalid).await.unwrap();
    }

    /// Creates a Service whose endpoints are listed by hand.
    async fn create_listed_service(&mut self) {
        let service = format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: listed}}, spec: {{ports: [{{name: echo, port: {PORT}}}]}}}}"
        );
        self.scenario.apply(&service).await;
        self.list_endpoints().await;
    }

    /// Lists a random part of the pods.
    async fn list_endpoints(&mut self) {
        let address = |pod: &Pod| pod.status.as_ref().and_then(|status| status.pod_ip.clone());
        let mut addresses: Vec<String> = self.scenario.pods_of("extra").await.iter().filter_map(address).collect();
        self.rng.shuffle(&mut addresses);
        addresses.truncate(self.rng.usize(..=addresses.len()));
        let endpoint = |address| json!({"addresses": [address], "conditions": {"ready": true}});
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "listed", "labels": {"kubernetes.io/service-name": "listed"}},
            "ports": [{"name": "echo", "port": PORT}],
            "endpoints": addresses.into_iter().map(endpoint).collect::<Vec<_>>(),
        });
        self.scenario.try_apply_value(slice).await.unwrap();
    }

    /// Adds or removes another load balancer.
    async fn toggle_other(&mut self) {
        let index = self.rng.usize(..OTHERS);
        let name = format!("other-{index}");
        if self.others[index] {
            self.scenario.api::<TcpLoadBalancer>().delete(&name, &DeleteParams::default()).await.unwrap();
        } else {
            self.scenario.apply(&load_balancer(&name, 5440 + index as u16, "echo")).await;
        }
        self.others[index] = !self.others[index];
    }
}
