//! Certificates from Secrets, which change while connections are open.

use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::api::DeleteParams;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use tcplb::tools::cert;
use tokio::time::Instant;

use crate::{
    backends::load_balancer_with,
    clients::{Connection, Failure},
    cluster::{PATIENCE, eventually},
    scenario::{Company, is, scenario, sentence},
};

/// A self-signed certificate.
pub struct Certificate {
    pub der: CertificateDer<'static>,
    pair: cert::Pair,
}

impl Certificate {
    pub fn new(name: &str) -> Self {
        let pair = cert::generate(&[name.to_owned()], jiff::Timestamp::now()).unwrap();
        Self { der: CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap(), pair }
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
    scenario("rotation", Company::Welcome, async |scenario| {
        let (first, second) = (Certificate::new("db.example.com"), Certificate::new("db.example.com"));
        let trusted = [&first.der, &second.der];
        scenario.backends("echo", 1).await;
        scenario.apply(&first.secret("db-tls")).await;
        let listener = "listeners: [{port: 5432, tls: {certificateRefs: [{name: db-tls}]}}]";
        scenario.apply(&load_balancer_with("rotation", listener, "echo", "")).await;
        let address = scenario.programmed("rotation").await;
        let mut opened = Err(Failure::Refused);
        eventually("TLS is served", PATIENCE, async || {
            opened = Connection::open_tls(address, "db.example.com", &trusted).await;
            opened.is_ok()
        })
        .await;
        let mut opened = opened.unwrap();
        assert_eq!(opened.certificate(), first.der);

        let rotated = Instant::now();
        scenario.apply(&second.secret("db-tls")).await;
        // Every proxy must have it: one connection after the other, until many in a row show it.
        let mut in_a_row = 0;
        let mut last_old = rotated;
        eventually("all handshakes show the new one", PATIENCE, async || {
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
        assert!(took < Duration::from_secs(2), "the old certificate was shown for {took:?}");
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
