//! The maximum length of clients' certificate chains.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    pki_types::{CertificateDer, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

/// The maximum number of certificates that a client may send: its own, the six intermediates that are verified at most,
/// and the root.
pub const MAX_CLIENT_CERTIFICATES: usize = 8;
/// The maximum size of these certificates together, in bytes. Chains have 1,000 to 10,000 bytes; with signatures that
/// resist quantum computers (ML-DSA), a certificate has up to 8,000. The TLS library keeps them while the connection is
/// open.
pub const MAX_CLIENT_CHAIN: usize = 32 << 10;

/// A client sent more certificates than it may.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "the client sent more than {MAX_CLIENT_CERTIFICATES} certificates or {MAX_CLIENT_CHAIN} bytes of them: configure \
     it to send only its own certificate and the intermediates"
)]
pub struct ClientChainTooLong;

/// Refuses chains that are too long. The inner verifier decides about all others.
#[derive(Debug)]
pub struct ClientChainLimit(pub Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for ClientChainLimit {
    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let bytes = intermediates.iter().fold(end_entity.len(), |bytes, certificate| bytes + certificate.len());
        if intermediates.len() >= MAX_CLIENT_CERTIFICATES || bytes > MAX_CLIENT_CHAIN {
            return Err(CertificateError::Other(OtherError(Arc::new(ClientChainTooLong))).into());
        }
        self.0.verify_client_cert(end_entity, intermediates, now)
    }

    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
