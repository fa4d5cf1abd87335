//! Certificates of load balancers.

use anyhow::Result;
use rcgen::{CertificateParams, KeyPair};

/// A certificate with its key, in PEM.
pub struct Certificate {
    pub chain: String,
    pub key: String,
}

/// Issues certificates with one key.
pub struct Issuer {
    key: KeyPair,
}

impl Issuer {
    pub fn generate() -> Result<Self> {
        Ok(Self { key: KeyPair::generate()? })
    }

    /// A certificate for a name. Each has another serial number.
    pub fn issue(&self, name: &str) -> Result<Certificate> {
        let chain = CertificateParams::new([format!("{name}.bench.test")])?.self_signed(&self.key)?.pem();
        Ok(Certificate { chain, key: self.key.serialize_pem() })
    }
}

/// True for one of ten load balancers: it terminates TLS.
pub fn has_certificate(index: usize) -> bool {
    index % 10 == 5
}
