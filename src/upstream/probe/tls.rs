use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, LazyLock},
};

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio_rustls::TlsConnector;

use super::{Connection, Failure, printable};
use crate::upstream::is_local;

/// How the server of a TLS connection is asked for and verified.
#[derive(Clone)]
pub(in crate::upstream) struct TlsClient {
    pub config: Arc<ClientConfig>,
    pub name: ServerName<'static>,
}

impl PartialEq for TlsClient {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.config, &other.config) && self.name == other.name
    }
}

impl TlsClient {
    /// For probes that want no more than a handshake, from a server that clients verify for themselves.
    pub fn that_trusts_anyone(name: Option<&ServerName<'static>>) -> Self {
        static CONFIG: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| Arc::new(trusting()));
        // In place of a name an address, which is not sent.
        let nameless = || ServerName::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        Self { config: CONFIG.clone(), name: name.cloned().unwrap_or_else(nameless) }
    }

    pub(super) async fn shake_hands(&self, connection: Connection) -> Result<Connection, Failure> {
        let connected = TlsConnector::from(self.config.clone()).connect(self.name.clone(), connection).await;
        let stream = connected.map_err(|error| match is_local(&error) {
            true => Failure::Io(error),
            false => Failure::unexpected(format!("TLS handshake: {}", printable(error.to_string().as_bytes()))),
        })?;
        Ok(Box::new(stream))
    }
}

fn trusting() -> ClientConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("the provider has what these versions need")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustingAnyone(provider)))
        .with_no_client_auth();
    // What is to be seen is a whole handshake.
    config.resumption = rustls::client::Resumption::disabled();
    config
}

/// Takes any certificate, of somebody who has its key.
#[derive(Debug)]
struct TrustingAnyone(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustingAnyone {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
