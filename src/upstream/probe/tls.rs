use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, LazyLock},
};

use rustls::{ClientConfig, client::Resumption, crypto::aws_lc_rs, pki_types::ServerName};
use tokio_rustls::TlsConnector;

use super::{connection::Connection, failure::Failure, start_tls, words::printable};
use crate::{
    model::{AnyCertificate, BackendTls, StartTls},
    upstream::dial::is_local,
};

/// How a server is asked for TLS, and verified.
#[derive(Clone)]
pub(in crate::upstream) struct TlsClient {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    start_tls: Option<StartTls>,
    /// What is spoken within (ALPN); `None`: nobody asks.
    protocol: Option<&'static [u8]>,
    /// Whether sessions are resumed, in which servers show no certificate.
    resumes: bool,
}

impl PartialEq for TlsClient {
    fn eq(&self, other: &Self) -> bool {
        let terms = |client: &Self| (client.start_tls, client.protocol, client.resumes);
        Arc::ptr_eq(&self.config, &other.config) && self.name == other.name && terms(self) == terms(other)
    }
}

impl TlsClient {
    /// As connections to the backend do. Another `name` may be asked for.
    pub fn of(tls: &BackendTls, name: Option<&ServerName<'static>>, to: SocketAddr) -> Self {
        let name = name.or(tls.terms.server_name.as_ref()).cloned().unwrap_or_else(|| nobody(to.ip()));
        Self { config: tls.client.0.clone(), name, start_tls: tls.terms.start_tls, protocol: None, resumes: true }
    }

    /// For probes that want no more than a handshake, from a server that clients verify for themselves.
    pub fn that_takes_anyone(name: Option<&ServerName<'static>>) -> Self {
        static CONFIG: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| Arc::new(that_takes_anyone()));
        Self {
            config: CONFIG.clone(),
            name: name.cloned().unwrap_or_else(|| nobody(Ipv4Addr::UNSPECIFIED.into())),
            start_tls: None,
            protocol: None,
            resumes: false,
        }
    }

    /// For probes that want to see the certificate that the server has now.
    pub fn that_never_resumes(self) -> Self {
        Self { resumes: false, ..self }
    }

    /// For a server that is not asked for TLS first.
    pub fn without_asking(self) -> Self {
        Self { start_tls: None, ..self }
    }

    pub fn speaking(self, protocol: &'static [u8]) -> Self {
        Self { protocol: Some(protocol), ..self }
    }

    /// TLS from the start, or from where the backend is asked for it.
    pub(super) async fn begin(&self, mut connection: Connection) -> Result<Connection, Failure> {
        if self.start_tls == Some(StartTls::Postgres) {
            start_tls::ask_for_tls(&mut connection).await?;
        }
        self.shake_hands(connection).await
    }

    pub(super) async fn shake_hands(&self, connection: Connection) -> Result<Connection, Failure> {
        let mut config = self.config.clone();
        if let Some(protocol) = self.protocol {
            Arc::make_mut(&mut config).alpn_protocols = vec![protocol.to_vec()];
        }
        if !self.resumes {
            Arc::make_mut(&mut config).resumption = Resumption::disabled();
        }
        let connected = TlsConnector::from(config).connect(self.name.clone(), connection).await;
        let stream = connected.map_err(|error| match is_local(&error) {
            true => Failure::Io(error),
            false => Failure::unexpected(format!("TLS handshake: {}", printable(error.to_string().as_bytes()))),
        })?;
        Ok(Box::new(stream))
    }
}

/// An address in place of a name is not asked for.
fn nobody(to: IpAddr) -> ServerName<'static> {
    ServerName::IpAddress(to.into())
}

fn that_takes_anyone() -> ClientConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Arc::new(AnyCertificate::new(&provider));
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has what these versions need")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth()
}
