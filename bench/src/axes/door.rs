//! The port on which an axis uses the contenders. Each configuration has the best settings for it.

use anyhow::Result;
use rustls::pki_types::{CertificateDer, ServerName};

use crate::{
    backend::local,
    contender::certificates::{Certificates, NAME, RSA_NAME},
    load::{
        client::{Client, ClientTls},
        tls::{Sessions, connector},
    },
};

#[derive(Clone, Copy, Debug)]
pub struct Door {
    port: u16,
    tls: Option<(Key, Sessions)>,
}

/// The type of the certificate's key.
#[derive(Clone, Copy, Debug)]
pub enum Key {
    P256,
    Rsa,
}

impl Door {
    pub const PLAIN: Self = Self { port: 28401, tls: None };
    pub const BULK: Self = Self { port: 28402, tls: None };
    pub const IDLE: Self = Self { port: 28403, tls: None };
    pub const TLS_P256: Self = Self { port: 28411, tls: Some((Key::P256, Sessions::Full)) };
    pub const TLS_RESUMED: Self = Self { port: 28411, tls: Some((Key::P256, Sessions::Resumed)) };
    pub const TLS_RSA: Self = Self { port: 28412, tls: Some((Key::Rsa, Sessions::Full)) };
    pub const TLS_BULK: Self = Self { port: 28413, tls: Some((Key::P256, Sessions::Full)) };
    pub const TLS_IDLE: Self = Self { port: 28414, tls: Some((Key::P256, Sessions::Full)) };

    /// A client with its own store of TLS sessions.
    pub fn client(&self, certificates: &Certificates) -> Result<Client> {
        let tls = match self.tls {
            None => None,
            Some((key, sessions)) => Some(ClientTls {
                connector: connector(key.certificate(certificates), sessions)?,
                name: ServerName::try_from(key.server_name())?,
            }),
        };
        Ok(Client { server: local([127, 0, 0, 1], self.port), tls })
    }

    pub fn resumes(&self) -> bool {
        self.tls.is_some_and(|(_, sessions)| sessions == Sessions::Resumed)
    }
}

impl Key {
    fn server_name(self) -> &'static str {
        match self {
            Self::P256 => NAME,
            Self::Rsa => RSA_NAME,
        }
    }

    fn certificate(self, certificates: &Certificates) -> &CertificateDer<'static> {
        match self {
            Self::P256 => &certificates.p256,
            Self::Rsa => &certificates.rsa,
        }
    }
}
