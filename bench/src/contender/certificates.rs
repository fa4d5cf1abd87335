//! Certificates for a run, made when it starts.

use std::{fs, path::Path};

use anyhow::Result;
use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use rustls::pki_types::CertificateDer;

/// Whom clients ask for.
pub const NAME: &str = "bench.test";

/// What clients have to trust.
pub struct Certificates {
    pub p256: CertificateDer<'static>,
    pub rsa: CertificateDer<'static>,
}

impl Certificates {
    /// Writes `NAME.crt`, `NAME.key` and both together, which some want, as `NAME.pem`.
    pub fn write(folder: &Path) -> Result<Self> {
        Ok(Self {
            p256: write("p256", KeyPair::generate()?, folder)?,
            rsa: write("rsa", KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?, folder)?,
        })
    }
}

fn write(name: &str, key: KeyPair, folder: &Path) -> Result<CertificateDer<'static>> {
    let certificate = CertificateParams::new([NAME.into()])?.self_signed(&key)?;
    fs::write(folder.join(name).with_extension("crt"), certificate.pem())?;
    fs::write(folder.join(name).with_extension("key"), key.serialize_pem())?;
    fs::write(folder.join(name).with_extension("pem"), key.serialize_pem() + &certificate.pem())?;
    Ok(certificate.der().clone())
}
