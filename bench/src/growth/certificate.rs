//! Certificates of load balancers.

use anyhow::Result;
use rcgen::{CertificateParams, KeyPair};

/// A certificate with its key, in PEM.
pub struct Certificate {
    pub chain: String,
    pub key: String,
}

/// Issues certificates with one key.
pub struct CertificateIssuer {
    key: KeyPair,
}

impl CertificateIssuer {
    pub fn generate() -> Result<Self> {
        Ok(Self { key: KeyPair::generate()? })
    }

    /// Issues a certificate for a name, with a new serial number.
    pub fn issue(&self, name: &str) -> Result<Certificate> {
        let chain = CertificateParams::new([format!("{name}.bench.test")])?.self_signed(&self.key)?.pem();
        Ok(Certificate { chain, key: self.key.serialize_pem() })
    }
}

/// True for one of ten load balancers: those terminate TLS.
pub fn has_certificate(index: usize) -> bool {
    index % 10 == 5
}
