//! Certificates that clients trust, and new ones for rotations.

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::CertificateDer;

use crate::contender::certificates::NAME;

/// A certificate authority.
pub struct CertificateAuthority(CertifiedIssuer<'static, KeyPair>);

/// A certificate, with its text and that of its key in one PEM text.
pub struct IssuedCertificate {
    pub certificate: CertificateDer<'static>,
    pub pem: String,
}

impl CertificateAuthority {
    pub fn new() -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "soak authority");
        Ok(Self(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?))
    }

    pub fn certificate(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    pub fn issue(&self) -> Result<IssuedCertificate> {
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new([NAME.into()])?.signed_by(&key, &self.0)?;
        Ok(IssuedCertificate { certificate: certificate.der().clone(), pem: certificate.pem() + &key.serialize_pem() })
    }
}
