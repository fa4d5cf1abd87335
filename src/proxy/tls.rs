//! TLS that ends at a listener.

mod certificates;
mod client_hello;
mod last_flight;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{
    Error, ServerConfig, SupportedProtocolVersion,
    crypto::aws_lc_rs,
    server::ServerSessionMemoryCache,
    version::{TLS12, TLS13},
};

use self::certificates::Certificates;
pub use self::{client_hello::read_client_hello, last_flight::LastFlight};
use crate::model;

/// TLS of one listener. Lives as long as the listener does: certificates and settings change inside it, while the keys of
/// session tickets and the session cache stay, so that clients resume their sessions across changes.
pub struct ServerTls {
    certificates: Arc<Certificates>,
    /// For each minimum version the configuration without what the manifest says beyond that.
    from_1_2: ServerConfig,
    from_1_3: ServerConfig,
    current: ArcSwap<ServerConfig>,
}

/// A fatal alert in a record of its own (RFC 8446 section 6, RFC 6066 section 3).
pub const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// Sessions remembered for TLS 1.2 clients that know no tickets. All others get tickets, which cost no memory: but
/// rustls also remembers the session of a TLS 1.2 client that got one, so this is refilled at the rate of their full
/// handshakes, and its default of 256 would last seconds. Takes about a megabyte when it is full.
const SESSIONS_1_2: usize = 4096;

impl ServerTls {
    /// Fails only if the system's source of randomness does.
    pub fn new(tls: &model::Tls) -> Result<Self, Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let certificates = Arc::new(Certificates::new(&tls.certificates));
        // Its keys change every six hours, and each is accepted for twelve.
        let ticketer = aws_lc_rs::Ticketer::new()?;
        let sessions = ServerSessionMemoryCache::new(SESSIONS_1_2);
        let from = |versions: &[&'static SupportedProtocolVersion]| {
            let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
                .with_protocol_versions(versions)?
                .with_no_client_auth()
                .with_cert_resolver(certificates.clone());
            config.ticketer = Arc::clone(&ticketer);
            config.session_storage = sessions.clone();
            Ok::<_, Error>(config)
        };
        let (from_1_2, from_1_3) = (from(&[&TLS12, &TLS13])?, from(&[&TLS13])?);
        let current = ArcSwap::from_pointee(configured(&from_1_2, &from_1_3, tls));
        Ok(Self { certificates, from_1_2, from_1_3, current })
    }

    /// From the next handshake on, this is in force; connections keep what they have.
    pub fn update(&self, tls: &model::Tls) {
        // Where nothing is terminated any more, a handshake under way goes on with those before.
        if !tls.certificates.is_empty() {
            self.certificates.replace(&tls.certificates);
        }
        self.current.store(Arc::new(configured(&self.from_1_2, &self.from_1_3, tls)));
    }

    /// The configuration for one handshake.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").field("certificates", &self.certificates).finish_non_exhaustive()
    }
}

fn configured(from_1_2: &ServerConfig, from_1_3: &ServerConfig, tls: &model::Tls) -> ServerConfig {
    let mut config = match tls.min_version {
        model::TlsVersion::V1_2 => from_1_2.clone(),
        model::TlsVersion::V1_3 => from_1_3.clone(),
    };
    config.alpn_protocols = tls.alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    config
}
