//! Many random edits of objects, with thousands of open connections.

use std::{net::SocketAddr, time::Duration};

use fastrand::Rng;
use kube::api::DeleteParams;
use serde_json::json;
use tcplb::api::TcpLoadBalancer;
use tokio::time::interval;

use crate::{
    backends::{PORT, load_balancer},
    clients::Connection,
    cluster::{WAIT_LIMIT, eventually},
    harness::raise_descriptor_limit,
    load::{Guests, Load},
    scenario::{Isolation, Scenario, is, scenario},
    scenarios::{certificates::Certificate, traffic::served},
};

const CONNECTIONS: usize = 5_000;
/// Every tenth connection uses TLS.
const TLS_EVERY: usize = 10;
/// The descriptors of this process that are not those of the connections.
const OTHER_DESCRIPTORS: usize = 500;
/// The interval of messages on each connection.
const MESSAGE_INTERVAL: Duration = Duration::from_secs(10);
const EDITS: usize = 1_000;
const EDIT_INTERVAL: Duration = Duration::from_millis(100);
const ALGORITHMS: [&str; 5] = ["RoundRobin", "LeastConnections", "PowerOfTwo", "Random", "Maglev"];
/// Load balancers that are added and removed.
const OTHERS: usize = 5;
const NAME: &str = "db.example.com";

/// The state of the edited objects.
struct Editor<'a> {
    scenario: &'a Scenario,
    rng: Rng,
    algorithm: &'static str,
    has_extra_backend: bool,
    others: [bool; OTHERS],
    /// All certificates whose Secret was valid.
    certificates: Vec<Certificate>,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_random_edits_lose_none_of_five_thousand_connections() {
    scenario("soak", Isolation::Exclusive, async |scenario| {
        let own = scenario.install_own(json!({})).await;
        scenario.backends("echo", 3).await;
        scenario.backends("extra", 2).await;
        let seed = fastrand::u64(..);
        println!("soak: seed {seed}");
        let mut editor = Editor::new(scenario, Rng::with_seed(seed)).await;
        let address = scenario.programmed("soak").await;
        served(address).await;
        let guests = editor.open_connections(address).await;
        let (load, count) = (Load::with_clients(address, 2), guests.still_here());
        let proxies = own.ready_pods(&scenario.client, 2).await;

        let mut ticks = interval(EDIT_INTERVAL);
        for _ in 0..EDITS {
            ticks.tick().await;
            editor.edit().await;
        }
        editor.repair().await;
        scenario.status("the last edit is in effect", "soak", |status| is(status, "Programmed", "True")).await;
        load.goes_on_for(200).await;
        load.end().await.assert_no_failure();
        guests.all_answer().await;
        let lost = guests.leave().await;
        println!("measured: {EDITS} edits lost {} of {count} connections", lost.len());
        assert!(lost.is_empty(), "{lost:?}");
        let after = own.ready_pods(&scenario.client, 2).await;
        assert!(after.keys().eq(proxies.keys()), "no proxy has been replaced");
    })
    .await;
}

impl<'a> Editor<'a> {
    /// Creates the load balancer that is edited, with a plain and a TLS listener.
    async fn new(scenario: &'a Scenario, rng: Rng) -> Self {
        let mut editor = Self {
            scenario,
            rng,
            algorithm: ALGORITHMS[0],
            has_extra_backend: true,
            others: [false; OTHERS],
            certificates: Vec::new(),
        };
        editor.repair().await;
        editor.declare().await;
        editor
    }

    /// Opens as many of the connections as the descriptors of this process allow.
    async fn open_connections(&self, plain: SocketAddr) -> Guests {
        let limit = usize::try_from(raise_descriptor_limit()).unwrap_or(usize::MAX);
        let tls = SocketAddr::new(plain.ip(), plain.port() + 1);
        let trusted = self.certificates.iter().map(|certificate| &certificate.der).collect::<Vec<_>>();
        eventually("TLS is served", WAIT_LIMIT, async || Connection::open_tls(tls, NAME, &trusted).await.is_ok()).await;
        let mut guests = Guests::none();
        for number in 0..CONNECTIONS.min(limit.saturating_sub(OTHER_DESCRIPTORS)) {
            if number.is_multiple_of(TLS_EVERY) {
                let connection = Connection::open_tls(tls, NAME, &trusted).await;
                guests.add(connection.expect("TLS is served"), MESSAGE_INTERVAL);
            } else {
                guests.add(Connection::open(plain).await.expect("it is served"), MESSAGE_INTERVAL);
            }
        }
        guests
    }

    /// Makes a random edit.
    async fn edit(&mut self) {
        match self.rng.u8(..8) {
            0..3 => {
                self.has_extra_backend = !self.has_extra_backend;
                self.declare().await;
            }
            3 => {
                self.algorithm = ALGORITHMS[self.rng.usize(..ALGORITHMS.len())];
                self.declare().await;
            }
            4 => self.repair().await,
            5 => self.invalidate_secret().await,
            _ => self.toggle_other().await,
        }
    }

    async fn declare(&self) {
        let extra = format!(", {{name: extra, service: {{name: extra, port: {PORT}}}}}");
        let (extra, algorithm) = (if self.has_extra_backend { extra.as_str() } else { "" }, self.algorithm);
        let manifest = format!(
            "
apiVersion: tcplb.io/v1alpha1
kind: TcpLoadBalancer
metadata: {{name: soak}}
spec:
  listeners:
  - {{name: plain, port: 5432}}
  - {{name: tls, port: 5433, tls: {{certificateRefs: [{{name: soak-tls}}]}}}}
  backends: [{{name: echo, service: {{name: echo, port: {PORT}}}}}{extra}]
  loadBalancing: {{algorithm: {algorithm}}}
"
        );
        self.scenario.apply(&manifest).await;
    }

    /// Writes a new certificate with its key.
    async fn repair(&mut self) {
        let certificate = Certificate::new(NAME);
        self.scenario.apply(&certificate.secret("soak-tls")).await;
        self.certificates.push(certificate);
    }

    /// Makes the Secret invalid: the previous certificate stays in use.
    async fn invalidate_secret(&self) {
        let invalid = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": "soak-tls"},
            "stringData": {"tls.crt": "-----BEGIN CERTIFICATE-----", "tls.key": ""},
        });
        self.scenario.try_apply_value(invalid).await.unwrap();
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
