//! Certificates for a run, generated at its start.

use std::{fs, path::Path};

use anyhow::Result;
use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use rustls::pki_types::CertificateDer;

/// The server name that clients request.
pub const NAME: &str = "bench.test";

/// The server name for the certificate with an RSA key. Traefik selects certificates by name.
pub const RSA_NAME: &str = "rsa.bench.test";

/// The certificate that clients trust.
pub struct Certificates {
    pub p256: CertificateDer<'static>,
    pub rsa: CertificateDer<'static>,
}

impl Certificates {
    /// Writes `FILE.crt`, `FILE.key`, and both together as `FILE.pem` for programs that need it.
    pub fn write(folder: &Path) -> Result<Self> {
        Ok(Self {
            p256: write("p256", NAME, KeyPair::generate()?, folder)?,
            rsa: write("rsa", RSA_NAME, KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?, folder)?,
        })
    }
}

fn write(file: &str, name: &str, key: KeyPair, folder: &Path) -> Result<CertificateDer<'static>> {
    let certificate = CertificateParams::new([name.into()])?.self_signed(&key)?;
    fs::write(folder.join(file).with_extension("crt"), certificate.pem())?;
    fs::write(folder.join(file).with_extension("key"), key.serialize_pem())?;
    fs::write(folder.join(file).with_extension("pem"), key.serialize_pem() + &certificate.pem())?;
    Ok(certificate.der().clone())
}
