//! TLS of clients: the same version, cipher and key exchange for all contenders, so that all do the same work.

use std::sync::Arc;

use anyhow::Result;
use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    crypto::{
        CryptoProvider,
        aws_lc_rs::{cipher_suite::TLS13_AES_128_GCM_SHA256, default_provider, kx_group::X25519},
    },
    pki_types::CertificateDer,
};
use tokio_rustls::TlsConnector;

/// The storage of TLS sessions by a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sessions {
    Full,
    Resumed,
}

/// A client with its own store of sessions.
pub fn connector(certificate: &CertificateDer<'static>, sessions: Sessions) -> Result<TlsConnector> {
    let provider =
        CryptoProvider { cipher_suites: vec![TLS13_AES_128_GCM_SHA256], kx_groups: vec![X25519], ..default_provider() };
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone())?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = match sessions {
        Sessions::Full => Resumption::disabled(),
        Sessions::Resumed => Resumption::in_memory_sessions(8),
    };
    Ok(TlsConnector::from(Arc::new(config)))
}
