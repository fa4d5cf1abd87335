use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, LazyLock},
};

use rustls::{ClientConfig, client::Resumption, crypto::aws_lc_rs, pki_types::ServerName};
use tokio_rustls::TlsConnector;

use super::{connection::ProbeConnection, failure::ProbeError, start_tls, words::printable};
use crate::model::{AnyCertificate, BackendTls, StartTls};

/// The TLS client of probes.
#[derive(Clone)]
pub(in crate::upstream) struct ProbeTlsClient {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    start_tls: Option<StartTls>,
    /// The ALPN protocol; `None`: no ALPN.
    protocol: Option<&'static [u8]>,
    /// True if sessions are resumed. Servers show no certificate in a resumed session.
    resumes: bool,
}

impl PartialEq for ProbeTlsClient {
    fn eq(&self, other: &Self) -> bool {
        let terms = |client: &Self| (client.start_tls, client.protocol, client.resumes);
        Arc::ptr_eq(&self.config, &other.config) && self.name == other.name && terms(self) == terms(other)
    }
}

impl ProbeTlsClient {
    /// Uses the TLS settings of connections to the backend, optionally with another `name`.
    pub fn of(tls: &BackendTls, name: Option<&ServerName<'static>>, to: SocketAddr) -> Self {
        let name = name.or(tls.terms.server_name.as_ref()).cloned().unwrap_or_else(|| without_sni(to.ip()));
        Self { config: tls.client.config.clone(), name, start_tls: tls.terms.start_tls, protocol: None, resumes: true }
    }

    /// For probes that only need a handshake, with a server whose certificate only clients verify.
    pub fn accepting_any_certificate(name: Option<&ServerName<'static>>) -> Self {
        static CONFIG: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| Arc::new(accepting_any_certificate()));
        Self {
            config: CONFIG.clone(),
            name: name.cloned().unwrap_or_else(|| without_sni(Ipv4Addr::UNSPECIFIED.into())),
            start_tls: None,
            protocol: None,
            resumes: false,
        }
    }

    /// For probes that need the server's current certificate.
    pub fn that_never_resumes(self) -> Self {
        Self { resumes: false, ..self }
    }

    /// For a server without a StartTLS request.
    pub fn without_asking(self) -> Self {
        Self { start_tls: None, ..self }
    }

    pub fn speaking(self, protocol: &'static [u8]) -> Self {
        Self { protocol: Some(protocol), ..self }
    }

    /// Negotiates TLS, after a StartTLS request if configured.
    pub(super) async fn begin(&self, mut connection: ProbeConnection) -> Result<ProbeConnection, ProbeError> {
        if self.start_tls == Some(StartTls::Postgres) {
            start_tls::ask_for_tls(&mut connection).await?;
        }
        self.shake_hands(connection).await
    }

    pub(super) async fn shake_hands(&self, connection: ProbeConnection) -> Result<ProbeConnection, ProbeError> {
        let mut config = self.config.clone();
        if let Some(protocol) = self.protocol {
            Arc::make_mut(&mut config).alpn_protocols = vec![protocol.to_vec()];
        }
        if !self.resumes {
            Arc::make_mut(&mut config).resumption = Resumption::disabled();
        }
        let connected = TlsConnector::from(config).connect(self.name.clone(), connection).await;
        let stream = connected.map_err(|error| {
            ProbeError::unexpected(format!("TLS handshake: {}", printable(error.to_string().as_bytes())))
        })?;
        Ok(Box::new(stream))
    }
}

/// An address as server name, so that no SNI is sent.
fn without_sni(to: IpAddr) -> ServerName<'static> {
    ServerName::IpAddress(to.into())
}

fn accepting_any_certificate() -> ClientConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Arc::new(AnyCertificate::new(&provider));
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has what these versions need")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth()
}
