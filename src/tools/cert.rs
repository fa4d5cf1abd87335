//! Self-signed certificates for tests.

use std::{
    fmt, fs,
    io::{self, Write},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType, date_time_ymd,
};
use rustls::pki_types::DnsName;
use thiserror::Error;

use crate::api::ObjectName;

const VALID_FOR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The limit of RFC 5280.
const LONGEST_COMMON_NAME: usize = 64;

/// A self-signed certificate and its key, both PEM.
#[derive(Clone)]
pub struct SelfSigned {
    /// The stem of the file names: the first name, with `_` in place of unsuitable characters.
    pub file_stem: String,
    pub certificate: String,
    pub key: String,
}

impl fmt::Debug for SelfSigned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SelfSigned").field("file_stem", &self.file_stem).finish_non_exhaustive()
    }
}

/// The paths of a written pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificatePaths {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// The handling of existing files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    Refuse,
    Replace,
}

#[derive(Debug, Error)]
pub enum CertError {
    #[error("no names given: give at least one DNS name or IP address")]
    NoName,
    #[error(
        "`{0}` is neither a DNS name nor an IP address: write for example db.example.com, *.example.com or 127.0.0.1"
    )]
    Name(String),
    #[error("cannot generate the certificate")]
    Generate(#[from] rcgen::Error),
    #[error("{} already exists: choose another folder (--out), or overwrite it (--force)", .0.display())]
    Exists(PathBuf),
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// Creates a key (ECDSA P-256) and a certificate for these DNS names, wildcards and IP addresses, valid for a year. The
/// first name is the common name, unless it is too long.
pub fn generate(names: &[String], now: Timestamp) -> Result<SelfSigned, CertError> {
    let first = names.first().ok_or(CertError::NoName)?;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.subject_alt_names = names.iter().map(|name| alternative_name(name)).collect::<Result<_, _>>()?;
    params.distinguished_name = DistinguishedName::new();
    if first.len() <= LONGEST_COMMON_NAME {
        params.distinguished_name.push(DnType::CommonName, first.as_str());
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = date_time_ymd(1970, 1, 1) + Duration::from_secs(now.as_second().max(0).unsigned_abs());
    params.not_after = params.not_before + VALID_FOR;
    let certificate = params.self_signed(&key)?;
    Ok(SelfSigned {
        file_stem: first.replace(['*', ':'], "_"),
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    })
}

impl SelfSigned {
    /// Writes `<first name>.crt` and `<first name>.key` into `folder`. Only the owner can read the key.
    pub fn write(&self, folder: &Path, existing: Existing) -> Result<CertificatePaths, CertError> {
        let written = CertificatePaths {
            certificate: folder.join(format!("{}.crt", self.file_stem)),
            key: folder.join(format!("{}.key", self.file_stem)),
        };
        if existing == Existing::Refuse
            && let Some(path) = [&written.certificate, &written.key].into_iter().find(|path| path.exists())
        {
            return Err(CertError::Exists(path.clone()));
        }
        for (path, text, mode) in [(&written.key, &self.key, 0o600), (&written.certificate, &self.certificate, 0o644)] {
            replace(path, text, mode).map_err(|source| CertError::Write { path: path.clone(), source })?;
        }
        Ok(written)
    }

    /// A manifest of a Secret of type kubernetes.io/tls.
    pub fn secret_manifest(&self, name: &ObjectName) -> String {
        let data = [("tls.crt", &self.certificate), ("tls.key", &self.key)];
        let secret = Secret {
            metadata: ObjectMeta { name: Some(name.to_string()), ..ObjectMeta::default() },
            type_: Some("kubernetes.io/tls".into()),
            data: Some(data.map(|(key, text)| (key.into(), ByteString(text.clone().into_bytes()))).into()),
            ..Secret::default()
        };
        let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
        serde_saphyr::to_string_with_options(&secret, options).expect("a Secret is YAML")
    }
}

fn alternative_name(name: &str) -> Result<SanType, CertError> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let wrong = || CertError::Name(name.to_owned());
    let host = name.strip_prefix("*.").unwrap_or(name);
    DnsName::try_from(host).map_err(|_| wrong())?;
    name.to_ascii_lowercase().try_into().map(SanType::DnsName).map_err(|_| wrong())
}

/// Writes a temporary file and renames it, so that a file watch sees either the old or the new text, and other users
/// can never read the key.
fn replace(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    if let Err(error) = fs::remove_file(&beside)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
    file.write_all(text.as_bytes())?;
    fs::rename(&beside, path)
}

#[cfg(test)]
mod tests;
