//! A certificate authority for tests.

#![allow(dead_code, reason = "each test program uses a part")]

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DistinguishedName, DnType,
    IsCa, KeyIdMethod, KeyPair, RevokedCertParams, date_time_ymd,
};

/// A certificate authority for tests.
pub struct Authority(pub CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, format!("authority {}", next_serial()));
        change(&mut params);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// The authority's own certificate, as PEM.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// The authority's own certificate with its key, to be presented like an issued one.
    pub fn itself(&self) -> Issued {
        Issued { certificate: self.pem(), key: self.0.key().serialize_pem(), serial: 0 }
    }

    /// Issues a certificate for this name.
    pub fn issue(&self, name: &str) -> Issued {
        self.issue_with(name, |_| {})
    }

    pub fn issue_with(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Issued {
        let key = KeyPair::generate().unwrap();
        let serial = next_serial();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(serial.into());
        change(&mut params);
        Issued { certificate: params.signed_by(&key, &self.0).unwrap().pem(), key: key.serialize_pem(), serial }
    }

    /// The revocation list with these certificates, as PEM.
    pub fn revoked(&self, all: &[&Issued]) -> String {
        self.revoked_with(all, |_| {})
    }

    pub fn revoked_with(&self, all: &[&Issued], change: impl FnOnce(&mut CertificateRevocationListParams)) -> String {
        let revoked = |issued: &&Issued| RevokedCertParams {
            serial_number: issued.serial.into(),
            revocation_time: date_time_ymd(2026, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let mut list = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 1, 1),
            next_update: date_time_ymd(2126, 1, 1),
            crl_number: next_serial().into(),
            issuing_distribution_point: None,
            revoked_certs: all.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        change(&mut list);
        list.signed_by(&self.0).unwrap().pem().unwrap()
    }
}

/// A certificate with its key, as PEM.
pub struct Issued {
    pub certificate: String,
    pub key: String,
    serial: u64,
}

pub fn next_serial() -> u64 {
    static SERIAL: AtomicU64 = AtomicU64::new(1);
    SERIAL.fetch_add(1, Relaxed)
}
