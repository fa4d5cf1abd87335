//! TLS termination.

mod certificates;
mod client;
mod client_chain;
mod client_hello;
mod fault;
mod sessions;
mod stream;
#[cfg(test)]
mod tests;

use std::{fmt, future::poll_fn, io, pin::pin, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{
    Error, ServerConfig, SupportedProtocolVersion,
    crypto::aws_lc_rs,
    server::ProducesTickets,
    version::{TLS12, TLS13},
};
use tokio::io::{AsyncRead, AsyncWrite};

use self::{
    certificates::{CertificateResolver, take_requested_name},
    client_chain::ClientChainLimit,
    sessions::{LimitedTickets, SessionCache},
};
pub use self::{
    client::{Agreed, ClientTls, Identity},
    client_hello::{HelloError, read_client_hello, read_client_hello_with},
    fault::HandshakeFault,
    stream::{ClientStream, ServerStream, TlsStream},
};
use crate::model::{self, ClientValidation};

/// TLS of one listener. Lives as long as the listener does: certificates and settings change inside it, while the keys
/// of session tickets and the session cache stay, so that clients resume their sessions across changes.
pub struct ServerTls {
    certificates: Arc<CertificateResolver>,
    current: ArcSwap<TlsState>,
}

struct TlsState {
    config: Arc<ServerConfig>,
    sessions: ResumptionState,
}

/// The state for session resumption.
#[derive(Clone)]
struct ResumptionState {
    ticketer: Arc<dyn ProducesTickets>,
    /// The session cache of TLS 1.2.
    cache: Arc<SessionCache>,
    /// The client validation in force when the sessions began: a resumed session shows no certificate again.
    validation: Option<Arc<ClientValidation>>,
}

/// A fatal alert in a record of its own (RFC 8446 section 6, RFC 6066 section 3).
pub const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// The size of the session cache of a listener, in bytes: about 3,000 sessions of clients without certificates. It is
/// for TLS 1.2 clients without support for tickets. All others get tickets, which cost no memory. But rustls also
/// caches the session of a TLS 1.2 client that got a ticket, so the cache fills at the rate of their full handshakes.
const SESSION_CACHE: usize = 1 << 20;

impl ServerTls {
    /// # Errors
    /// If the system's source of randomness fails.
    pub fn new(tls: &model::Tls) -> Result<Self, Error> {
        let certificates = Arc::new(CertificateResolver::new(&tls.certificates));
        let sessions = ResumptionState::new(tls.client_validation.clone())?;
        let config = Arc::new(configured(tls, &certificates, &sessions)?);
        Ok(Self { certificates, current: ArcSwap::from_pointee(TlsState { config, sessions }) })
    }

    /// Changes the settings for new handshakes; open connections are not affected.
    ///
    /// # Errors
    /// If the system's source of randomness fails. Then nothing changes.
    pub fn update(&self, tls: &model::Tls) -> Result<(), Error> {
        let sessions = self.current.load().sessions.clone();
        let sessions = match sessions.validation == tls.client_validation {
            true => sessions,
            false => ResumptionState::new(tls.client_validation.clone())?,
        };
        let config = Arc::new(configured(tls, &self.certificates, &sessions)?);
        // If TLS is no longer terminated, handshakes in progress continue with the previous certificates.
        if !tls.certificates.is_empty() {
            self.certificates.replace(&tls.certificates);
        }
        self.current.store(Arc::new(TlsState { config, sessions }));
        Ok(())
    }

    /// Does a handshake with a client. Returns the stream of plaintext, and the normalized server name that the client
    /// requests. `on_received` is called with the number of bytes received so far, and ends the handshake with its
    /// error.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        on_received: impl FnMut(usize) -> io::Result<()>,
    ) -> io::Result<(ServerStream<S>, Option<Box<str>>)> {
        let mut accepting = pin!(ServerStream::accept(self.config(), stream, on_received));
        let mut name = None;
        let accepted = poll_fn(|cx| {
            // Another handshake may have left its name when it panicked.
            drop(take_requested_name());
            let accepted = accepting.as_mut().poll(cx);
            name = take_requested_name().or(name.take());
            accepted
        });
        let accepted = accepted.await?;
        Ok((accepted, name))
    }

    /// The configuration for one handshake.
    fn config(&self) -> Arc<ServerConfig> {
        self.current.load().config.clone()
    }
}

impl ResumptionState {
    fn new(validation: Option<Arc<ClientValidation>>) -> Result<Self, Error> {
        // Its keys change every six hours, and each is accepted for twelve.
        let ticketer = Arc::new(LimitedTickets(aws_lc_rs::Ticketer::new()?));
        Ok(Self { ticketer, cache: SessionCache::new(SESSION_CACHE), validation })
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").field("certificates", &self.certificates).finish_non_exhaustive()
    }
}

fn configured(
    tls: &model::Tls,
    certificates: &Arc<CertificateResolver>,
    sessions: &ResumptionState,
) -> Result<ServerConfig, Error> {
    let versions: &[&SupportedProtocolVersion] = match tls.min_version {
        model::TlsVersion::V1_2 => &[&TLS12, &TLS13],
        model::TlsVersion::V1_3 => &[&TLS13],
    };
    let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_protocol_versions(versions)?;
    let builder = match &tls.client_validation {
        Some(validation) => builder.with_client_cert_verifier(Arc::new(ClientChainLimit(validation.verifier.clone()))),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(certificates.clone());
    config.ticketer = sessions.ticketer.clone();
    config.session_storage = sessions.cache.clone();
    config.alpn_protocols = tls.alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Ok(config)
}
