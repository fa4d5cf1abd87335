//! Certificates from Secrets, which change while connections are open.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::DeleteParams;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tcplb::tools::cert;
use tokio::time::Instant;

use crate::{
    backends::{PORT, load_balancer_with, sealed_pod},
    clients::{Connection, Failure},
    cluster::{WAIT_LIMIT, eventually},
    scenario::{Scenario, is, scenario, sentence},
    turns::Isolation,
};

/// A self-signed certificate.
pub struct Certificate {
    pub der: CertificateDer<'static>,
    pair: cert::SelfSigned,
}

impl Certificate {
    pub fn new(name: &str) -> Self {
        Self::issued(name, Timestamp::now())
    }

    /// A certificate that is valid for a year from this time on.
    pub fn issued(name: &str, at: Timestamp) -> Self {
        let pair = cert::generate(&[name.to_owned()], at).unwrap();
        Self { der: CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap(), pair }
    }

    /// Makes a self-signed certificate, which is its own authority.
    fn authority(&self, name: &str) -> String {
        let map = serde_json::json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name},
            "data": {"ca.crt": self.pair.certificate},
        });
        map.to_string()
    }

    fn shown(&self) -> Option<(CertificateDer<'static>, PrivateKeyDer<'static>)> {
        Some((self.der.clone(), PrivateKeyDer::from_pem_slice(self.pair.key.as_bytes()).unwrap()))
    }

    pub fn secret(&self, name: &str) -> String {
        let secret = serde_json::json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": name},
            "stringData": {"tls.crt": self.pair.certificate, "tls.key": self.pair.key},
        });
        secret.to_string()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_secret_is_used_by_the_next_handshake_and_a_deleted_one_keeps_serving() {
    scenario("rotation", Isolation::Shared, async |scenario| {
        let (first, second) = (Certificate::new("db.example.com"), Certificate::new("db.example.com"));
        let trusted = [&first.der, &second.der];
        scenario.backends("echo", 1).await;
        scenario.apply(&first.secret("db-tls")).await;
        let listener = "listeners: [{port: 5432, tls: {certificateRefs: [{name: db-tls}]}}]";
        scenario.apply(&load_balancer_with("rotation", listener, "echo", "")).await;
        let address = scenario.ready("rotation").await;
        let mut opened = Err(Failure::Refused);
        eventually("TLS is served", WAIT_LIMIT, async || {
            opened = Connection::open_tls(address, "db.example.com", &trusted).await;
            opened.is_ok()
        })
        .await;
        let mut opened = opened.unwrap();
        assert_eq!(opened.certificate(), first.der);

        let rotated = Instant::now();
        scenario.apply(&second.secret("db-tls")).await;
        let applied = rotated.elapsed();
        // Every proxy must have it: connects repeatedly, until many connections in a row show it.
        let mut in_a_row = 0;
        let mut last_old = rotated;
        eventually("all handshakes show the new one", WAIT_LIMIT, async || {
            let connection = Connection::open_tls(address, "db.example.com", &trusted).await.expect("TLS is served");
            if connection.certificate() == second.der {
                in_a_row += 1;
            } else {
                (in_a_row, last_old) = (0, Instant::now());
            }
            in_a_row >= 20
        })
        .await;
        let took = last_old - rotated;
        println!("measured: a rotated Secret is used by every handshake after {took:.0?}");
        let limit = Duration::from_secs(2) + 10 * applied;
        assert!(took < limit, "the old certificate was shown for {took:?}, and a request took {applied:?}");
        opened.echo("the open connection goes on").await.unwrap();

        scenario.api::<Secret>().delete("db-tls", &DeleteParams::default()).await.unwrap();
        let gone = |status: &_| is(status, "ResolvedRefs", "False");
        let status = scenario.status("the loss is told", "rotation", gone).await;
        assert!(sentence(&status, "ResolvedRefs").contains("db-tls"), "{status:?}");
        opened.echo("the open connection goes on").await.unwrap();
        for _ in 0..10 {
            let connection = Connection::open_tls(address, "db.example.com", &trusted).await.unwrap();
            assert_eq!(connection.certificate(), second.der);
        }
    })
    .await;
}

impl Scenario {
    /// A pod that terminates TLS and requires client certificates, and its Service.
    async fn strict_backend(&self, name: &str) {
        let manifest = format!(
            "
apiVersion: tcplb.io/v1alpha1
kind: TcpLoadBalancer
metadata: {{name: strict}}
spec:
  listeners:
  - port: {PORT}
    tls:
      certificateRefs: [{{files: {{certificate: /tls/tls.crt, key: /tls/tls.key}}}}]
      clientValidation: {{caRefs: [{{files: {{ca: /clients/ca.crt}}}}]}}
  backends: [{{addresses: ['127.0.0.1:{}']}}]
",
            PORT + 1
        );
        let map = serde_json::json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name},
            "data": {"load-balancer.yaml": manifest},
        });
        self.apply(&map.to_string()).await;
        let volumes = [
            ("manifest", format!("configMap: {{name: {name}}}")),
            ("tls", format!("secret: {{secretName: {name}-tls}}")),
            ("clients", "configMap: {name: proxies-ca}".to_owned()),
        ];
        let volumes = volumes.each_ref().map(|(name, what)| (*name, what.as_str()));
        self.deploy(name, 1, &sealed_pod("/manifest", &volumes)).await;
    }
}

/// A load balancer with mutual TLS on both sides.
fn mutual() -> String {
    format!(
        "
apiVersion: tcplb.io/v1alpha1
kind: TcpLoadBalancer
metadata: {{name: mutual}}
spec:
  listeners:
  - port: 5432
    tls: {{certificateRefs: [{{name: front-tls}}], clientValidation: {{caRefs: [{{name: clients-ca}}]}}}}
  backends:
  - service: {{name: strict, port: {PORT}}}
    tls: {{serverName: back.example.com, caRefs: [{{name: backends-ca}}], certificateRef: {{name: proxy-tls}}}}
"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn mutual_tls_works_and_a_changed_authority_applies_at_once() {
    scenario("mutual", Isolation::Shared, async |scenario| {
        let [front, back, proxy, alice, bob] =
            ["front.example.com", "back.example.com", "proxy.example.com", "alice.example.com", "bob.example.com"]
                .map(Certificate::new);
        for (certificate, secret) in [(&front, "front-tls"), (&back, "strict-tls"), (&proxy, "proxy-tls")] {
            scenario.apply(&certificate.secret(secret)).await;
        }
        for (certificate, map) in [(&back, "backends-ca"), (&proxy, "proxies-ca"), (&alice, "clients-ca")] {
            scenario.apply(&certificate.authority(map)).await;
        }
        scenario.strict_backend("strict").await;
        scenario.apply(&mutual()).await;
        let address = scenario.programmed("mutual").await;
        let open = async |who: Option<&Certificate>| {
            let shown = who.and_then(Certificate::shown);
            Connection::open_tls_showing(address, "front.example.com", &[&front.der], shown).await
        };
        let mut opened = Err(Failure::Refused);
        eventually("alice is served", WAIT_LIMIT, async || {
            opened = open(Some(&alice)).await;
            opened.is_ok()
        })
        .await;
        let mut opened = opened.unwrap();
        assert!(opened.backend.starts_with("strict-"), "{}", opened.backend);
        assert!(open(None).await.is_err() && open(Some(&bob)).await.is_err());

        scenario.apply(&bob.authority("clients-ca")).await;
        let changed = Instant::now();
        let mut in_a_row = 0;
        eventually("every proxy believes another authority", WAIT_LIMIT, async || {
            let changed = open(Some(&bob)).await.is_ok() && open(Some(&alice)).await.is_err();
            in_a_row = if changed { in_a_row + 1 } else { 0 };
            in_a_row >= 20
        })
        .await;
        println!(
            "measured: a changed ConfigMap of authorities is believed by every proxy, and seen to be, after {:.0?}",
            changed.elapsed()
        );
        opened.echo("who was let in stays").await.unwrap();

        scenario.api::<ConfigMap>().delete("clients-ca", &DeleteParams::default()).await.unwrap();
        let gone = |status: &_| is(status, "ResolvedRefs", "False");
        let status = scenario.status("the loss is told", "mutual", gone).await;
        assert!(sentence(&status, "ResolvedRefs").contains("clients-ca"), "{status:?}");
        for _ in 0..10 {
            assert!(open(Some(&bob)).await.is_ok() && open(None).await.is_err(), "it is as it was");
        }
    })
    .await;
}
