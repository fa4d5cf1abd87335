//! Trusted authorities.

use std::{cmp::Ordering, fmt, sync::Arc};

use jiff::Timestamp;
use rustls::{
    ClientConfig, Error, RootCertStore,
    client::{ClientSessionMemoryCache, ClientSessionStore, Resumption, danger::ServerCertVerifier},
    pki_types::{CertificateDer, CertificateRevocationListDer, ServerName},
    server::danger::ClientCertVerifier,
};
use serde::{Serialize, Serializer};

use super::{Certificate, Fingerprint, StartTls};

/// The certificate authorities from one source, with their revocation lists.
#[derive(Clone)]
pub struct Authority {
    /// The origin for messages: `ConfigMap shop/clients-ca`, or the file.
    pub source: Arc<str>,
    /// A digest of the texts.
    pub fingerprint: Fingerprint,
    /// Never empty.
    pub roots: RootCertStore,
    /// The certificates of the roots, in the same order.
    pub certificates: Vec<CertificateDer<'static>>,
    pub revoked: Vec<CertificateRevocationListDer<'static>>,
    /// The issuers of the lists: their names in DER, in the same order.
    pub issuers: Vec<Box<[u8]>>,
    /// Warnings that apply from a time: a part of the source has then expired.
    pub expiries: Vec<(Timestamp, Arc<str>)>,
    /// Warnings that apply until a time: a list is not issued before it.
    pub upcoming: Vec<(Timestamp, Arc<str>)>,
}

impl PartialEq for Authority {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint && self.source == other.source
    }
}

impl Eq for Authority {}

impl PartialOrd for Authority {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Authority {
    fn cmp(&self, other: &Self) -> Ordering {
        (&self.source, &self.fingerprint).cmp(&(&other.source, &other.fingerprint))
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("source", &self.source)
            .field("certificates", &self.roots.len())
            .field("lists_of_revoked", &self.revoked.len())
            .finish_non_exhaustive()
    }
}

impl Serialize for Authority {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.source)
    }
}

/// The requirements for client certificates.
#[derive(Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientValidation {
    pub mode: ClientValidationMode,
    /// Never empty, in order, without duplicates.
    pub authorities: Vec<Arc<Authority>>,
    /// The verifier that both fields define.
    #[serde(skip)]
    pub verifier: Arc<dyn ClientCertVerifier>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum ClientValidationMode {
    /// Clients must present a certificate.
    Required,
    /// Clients may omit the certificate, but a presented one must be valid.
    Optional,
}

impl PartialEq for ClientValidation {
    fn eq(&self, other: &Self) -> bool {
        self.mode == other.mode && self.authorities == other.authorities
    }
}

impl Eq for ClientValidation {}

impl fmt::Debug for ClientValidation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientValidation")
            .field("mode", &self.mode)
            .field("authorities", &self.authorities)
            .finish_non_exhaustive()
    }
}

/// TLS origination to a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendTls {
    pub terms: BackendTlsTerms,
    /// The client configuration that the terms define, with resumable sessions.
    #[serde(skip)]
    pub client: TlsClientConfig,
}

/// The TLS settings for a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendTlsTerms {
    /// The server name to request and to verify. `None`: no name is requested.
    #[serde(serialize_with = "as_text")]
    pub server_name: Option<ServerName<'static>>,
    /// The authorities that may issue its certificate, in order. `None`: the certificate is not verified.
    pub authorities: Option<Vec<Arc<Authority>>>,
    /// The client certificate. `None`: none.
    pub certificate: Option<Arc<Certificate>>,
    /// The protocol that starts TLS within a plaintext connection. `None`: TLS starts with the first byte.
    pub start_tls: Option<StartTls>,
}

/// Derived from the terms, so comparisons ignore it.
#[derive(Clone)]
pub struct TlsClientConfig {
    pub config: Arc<ClientConfig>,
    /// The verifier in `config`. `None`: any certificate is accepted.
    pub verifier: Option<Arc<dyn ServerCertVerifier>>,
    /// The resumable sessions.
    sessions: Arc<dyn ClientSessionStore>,
}

/// The number of servers whose sessions are kept, as in rustls by default.
const SESSIONS: usize = 256;

impl TlsClientConfig {
    pub fn new(mut config: ClientConfig, verifier: Option<Arc<dyn ServerCertVerifier>>) -> Self {
        let sessions = Arc::new(ClientSessionMemoryCache::new(SESSIONS));
        config.resumption = Resumption::store(sessions.clone());
        Self { config: Arc::new(config), verifier, sessions }
    }

    /// Removes the TLS 1.2 session with the server `name` after a handshake with this error, if its keys may differ
    /// from those of the server. Otherwise each attempt to resume it would fail.
    pub fn forget_undecryptable_session(&self, name: &ServerName<'static>, error: &Error) {
        if *error == Error::DecryptError {
            self.sessions.remove_tls12_session(name);
        }
    }
}

impl PartialEq for TlsClientConfig {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for TlsClientConfig {}

impl fmt::Debug for TlsClientConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsClient")
    }
}

fn as_text<S: Serializer>(name: &Option<ServerName<'static>>, serializer: S) -> Result<S::Ok, S::Error> {
    match name {
        Some(name) => serializer.collect_str(&name.to_str()),
        None => serializer.serialize_none(),
    }
}
