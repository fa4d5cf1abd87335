//! A simple load balancer from flags or the environment.

use std::{env::VarError, path::PathBuf};

use clap::{Args, ValueEnum};

use super::values::ListenAddress;
use crate::api::{
    AddressPort, Algorithm, Backend, CertificateFiles, CertificateRef, Connect, Listener, ListenerTls, LoadBalancing,
    Preconnect, TcpLoadBalancerSpec,
};

/// A simple load balancer: one port and its backends.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct Simple {
    /// The listening address: :4000, 127.0.0.1:4000 or `[::1]:4000`.
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<ListenAddress>,
    /// The address of a backend, host:port. May be repeated or comma-separated.
    #[arg(long = "backend", value_name = "ADDRESS", value_delimiter = ',')]
    pub backends: Vec<AddressPort>,
    /// The load balancing algorithm. Default: round-robin.
    #[arg(long, value_name = "NAME", value_enum)]
    pub algorithm: Option<AlgorithmName>,
    /// The number of connections to each backend that are opened in advance.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(0..=1000))]
    pub preconnect: Option<u16>,
    /// A PEM file with the certificate and its intermediates. Enables TLS for clients.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_certificate: Option<PathBuf>,
    /// A PEM file with the certificate's private key.
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    pub tls_key: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AlgorithmName {
    /// Backends in turn.
    RoundRobin,
    /// The backend with the fewest open connections.
    LeastConnections,
    /// The less loaded of two random backends.
    PowerOfTwo,
    /// A random backend.
    Random,
    /// Sticky: the same client always gets the same backend.
    Maglev,
}

impl Simple {
    /// The settings in LISTEN, BACKENDS, LB_MODE and POOL_SIZE.
    ///
    /// # Errors
    /// A sentence that names the variable.
    pub fn from_environment(variable: impl Fn(&str) -> Result<String, VarError>) -> Result<Self, String> {
        let variable = |name: &str| match variable(name) {
            Ok(value) => Ok(Some(value).filter(|value| !value.trim().is_empty())),
            Err(VarError::NotPresent) => Ok(None),
            Err(VarError::NotUnicode(_)) => Err(format!("{name} is not text in UTF-8: correct it")),
        };
        let listen = variable("LISTEN")?.map(|text| text.trim().parse()).transpose();
        let backends = variable("BACKENDS")?.map(|text| {
            let addresses = text.split(',').map(str::trim).filter(|address| !address.is_empty());
            addresses.map(str::parse).collect::<Result<Vec<_>, String>>()
        });
        let algorithm = match variable("LB_MODE")?.as_deref().map(str::trim) {
            None => None,
            Some("rr") => Some(AlgorithmName::RoundRobin),
            Some("sticky") => Some(AlgorithmName::Maglev),
            Some(other) => return Err(format!("LB_MODE: `{other}` is not a mode: write rr or sticky")),
        };
        let preconnect = match variable("POOL_SIZE")? {
            None => None,
            Some(text) => match text.trim().parse() {
                Ok(size @ 0..=1000) => Some(size),
                _ => return Err(format!("POOL_SIZE: `{text}` is not a number from 0 to 1000")),
            },
        };
        Ok(Self {
            listen: listen.map_err(|error| format!("LISTEN: {error}"))?,
            backends: backends.transpose().map_err(|error| format!("BACKENDS: {error}"))?.unwrap_or_default(),
            algorithm,
            preconnect,
            ..Self::default()
        })
    }

    /// These settings, completed by `there`.
    pub fn or(self, there: Self) -> Self {
        Self {
            listen: self.listen.or(there.listen),
            backends: if self.backends.is_empty() { there.backends } else { self.backends },
            algorithm: self.algorithm.or(there.algorithm),
            preconnect: self.preconnect.or(there.preconnect),
            tls_certificate: self.tls_certificate.or(there.tls_certificate),
            tls_key: self.tls_key.or(there.tls_key),
        }
    }

    /// The load balancer of these settings. `None`: nothing is set.
    ///
    /// # Errors
    /// A sentence that names the missing flag or variable.
    pub fn spec(&self) -> Result<Option<TcpLoadBalancerSpec>, String> {
        if *self == Self::default() {
            return Ok(None);
        }
        let Some(listen) = self.listen else {
            return Err("the listening address is missing: add --listen :4000 (or LISTEN)".into());
        };
        if self.backends.is_empty() {
            return Err("the backends are missing: add --backend 127.0.0.1:5001 (or BACKENDS)".into());
        }
        let certificate = self.tls_certificate.as_ref().zip(self.tls_key.as_ref());
        let tls = certificate.map(|(certificate, key)| ListenerTls {
            certificate_refs: vec![CertificateRef {
                name: None,
                files: Some(CertificateFiles {
                    certificate: certificate.to_string_lossy().into_owned(),
                    key: key.to_string_lossy().into_owned(),
                }),
            }],
            ..ListenerTls::default()
        });
        let preconnect = self.preconnect.filter(|size| *size > 0);
        Ok(Some(TcpLoadBalancerSpec {
            listeners: vec![Listener { port: listen.port, address: listen.host, tls, ..Listener::default() }],
            backends: vec![Backend { addresses: Some(self.backends.clone()), ..Backend::default() }],
            load_balancing: self
                .algorithm
                .map(|name| LoadBalancing { algorithm: name.into(), ..LoadBalancing::default() }),
            connect: preconnect.map(|per_endpoint| Connect {
                preconnect: Some(Preconnect { per_endpoint, idle_timeout: None }),
                ..Connect::default()
            }),
            ..TcpLoadBalancerSpec::default()
        }))
    }
}

impl From<AlgorithmName> for Algorithm {
    fn from(name: AlgorithmName) -> Self {
        match name {
            AlgorithmName::RoundRobin => Self::RoundRobin,
            AlgorithmName::LeastConnections => Self::LeastConnections,
            AlgorithmName::PowerOfTwo => Self::PowerOfTwo,
            AlgorithmName::Random => Self::Random,
            AlgorithmName::Maglev => Self::Maglev,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Result<Option<TcpLoadBalancerSpec>, String> {
        let pairs: Vec<(String, String)> = pairs.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
        let variable = |name: &str| {
            let pair = pairs.iter().find(|(n, _)| n == name);
            pair.map(|(_, value)| value.clone()).ok_or(VarError::NotPresent)
        };
        Simple::from_environment(variable)?.spec()
    }

    #[test]
    fn the_environment_makes_a_load_balancer() {
        let spec = environment(&[
            ("LISTEN", "127.0.0.1:4000"),
            ("BACKENDS", "127.0.0.1:5001, db.example.com:5432"),
            ("LB_MODE", "sticky"),
            ("POOL_SIZE", "4"),
        ]);
        let spec = spec.unwrap().unwrap();
        assert_eq!((spec.listeners[0].port, spec.listeners[0].address), (4000, Some([127, 0, 0, 1].into())));
        let addresses: Vec<_> = spec.backends[0].addresses.iter().flatten().map(ToString::to_string).collect();
        assert_eq!(addresses, ["127.0.0.1:5001", "db.example.com:5432"]);
        assert_eq!(spec.load_balancing.unwrap().algorithm, Algorithm::Maglev);
        assert_eq!(spec.connect.unwrap().preconnect.unwrap().per_endpoint, 4);
        assert_eq!(environment(&[]), Ok(None));
    }

    #[test]
    fn wrong_and_missing_variables_are_named() {
        for (pairs, named) in [
            (&[("LISTEN", "4000"), ("BACKENDS", "db")][..], "BACKENDS: `db` is not an address"),
            (&[("LISTEN", "all:4000")], "LISTEN: `all:4000` is not an address to listen on"),
            (&[("LB_MODE", "fair")], "LB_MODE: `fair`"),
            (&[("POOL_SIZE", "-1")], "POOL_SIZE: `-1`"),
            (&[("LISTEN", ":4000")], "--backend"),
            (&[("BACKENDS", "127.0.0.1:1")], "--listen"),
        ] {
            let error = environment(pairs).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
        let backends_in_latin1 = |name: &str| match name {
            "BACKENDS" => Err(VarError::NotUnicode("b".into())),
            _ => Err(VarError::NotPresent),
        };
        let error = Simple::from_environment(backends_in_latin1).unwrap_err();
        assert_eq!(error, "BACKENDS is not text in UTF-8: correct it");
    }
}
