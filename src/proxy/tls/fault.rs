//! Faults of TLS handshakes with clients, for the access log.

use std::io;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible, PeerMisbehaved};

use super::{client_chain::ClientChainTooLong, client_hello::HelloError};
use crate::proxy::{labeled_enum::labeled_enum, postgres::StartupError};

labeled_enum! {
    /// The reason why the handshake of a client failed.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum HandshakeFault {
        /// The client's first bytes are not TLS, but for example plain HTTP.
        NotTls = "not_tls",
        /// The client closed the connection before the end of the handshake, without an alert.
        Ended = "ended",
        /// The connection was reset, or failed in another way, before the end of the handshake.
        Reset = "reset",
        /// The client supports no TLS version that `minVersion` allows.
        Version = "unsupported_version",
        /// The client and tcplb have no cipher suite in common.
        CipherSuite = "no_common_cipher_suite",
        /// The client and tcplb have no key exchange group (elliptic curve) in common.
        Group = "no_common_group",
        /// The client cannot verify signatures of any of the listener's keys.
        SignatureScheme = "no_common_signature_scheme",
        /// The client supports no application protocol of `alpn`.
        ApplicationProtocol = "no_common_application_protocol",
        /// The client's server name is not a DNS name.
        ServerName = "bad_server_name",
        /// The ClientHello is longer than 64 KiB.
        HelloTooLarge = "hello_too_large",
        /// The client lacks another TLS feature that tcplb needs.
        Incompatible = "incompatible",
        /// The client's messages are damaged, or not allowed at this point of the handshake.
        Malformed = "malformed",
        /// The client does not start a PostgreSQL session (`startTls: Postgres`).
        NotPostgres = "not_postgres",
        /// The client starts a PostgreSQL session without TLS (`startTls: Postgres`).
        Unencrypted = "unencrypted",
        /// The client sent unencrypted bytes after its request for TLS (`startTls: Postgres`).
        BehindRequest = "bytes_behind_request",
        /// The client does not trust the issuer of the listener's certificate (alert `unknown_ca`).
        AlertUnknownCa = "alert_unknown_ca",
        /// The client refused the listener's certificate (alert `bad_certificate`).
        AlertBadCertificate = "alert_bad_certificate",
        /// The client does not support this type of certificate (alert `unsupported_certificate`).
        AlertUnsupportedCertificate = "alert_unsupported_certificate",
        /// The client considers the certificate revoked (alert `certificate_revoked`).
        AlertCertificateRevoked = "alert_certificate_revoked",
        /// The client considers the certificate expired (alert `certificate_expired`).
        AlertCertificateExpired = "alert_certificate_expired",
        /// The client refused the certificate for another reason, often its name (alert `certificate_unknown`).
        AlertCertificateUnknown = "alert_certificate_unknown",
        /// The client found no settings that both sides support (alert `handshake_failure`).
        AlertHandshakeFailure = "alert_handshake_failure",
        /// The client refused the protocol version (alert `protocol_version`).
        AlertProtocolVersion = "alert_protocol_version",
        /// The client requires stronger algorithms (alert `insufficient_security`).
        AlertInsufficientSecurity = "alert_insufficient_security",
        /// The client could not decrypt a message, or verify a signature (alert `decrypt_error` or `bad_record_mac`).
        AlertDecryptError = "alert_decrypt_error",
        /// The client had an internal error (alert `internal_error`).
        AlertInternalError = "alert_internal_error",
        /// The client canceled the handshake, for example at the request of its user (alert `user_canceled` or
        /// `close_notify`).
        AlertCanceled = "alert_canceled",
        /// The client sent another alert.
        AlertOther = "alert_other",
        /// With `tls_client_certificate`: the client presented no certificate.
        Missing = "missing",
        /// With `tls_client_certificate`: the certificate has expired.
        Expired = "expired",
        /// With `tls_client_certificate`: the certificate is not valid yet.
        NotYetValid = "not_yet_valid",
        /// With `tls_client_certificate`: the issuer has revoked the certificate.
        Revoked = "revoked",
        /// With `tls_client_certificate`: no configured authority has issued the certificate.
        UnknownIssuer = "unknown_issuer",
        /// With `tls_client_certificate`: the certificate is not for clients, or is the certificate of an authority.
        WrongPurpose = "wrong_purpose",
        /// With `tls_client_certificate`: the certificate is not signed by the authority that it names.
        BadSignature = "bad_signature",
        /// With `tls_client_certificate`: the revocation list is not from the issuer of the certificate, or cannot be
        /// read.
        BadList = "bad_list",
        /// With `tls_client_certificate`: the client sent more than 8 certificates, or more than 32 KiB of them. It
        /// needs only its own certificate and the intermediates.
        ChainTooLong = "chain_too_long",
        /// With `tls_client_certificate`: the certificate cannot be read, or has content that is not supported.
        Invalid = "invalid",
        /// An internal error of this program or host.
        Internal = "internal",
    }
}

impl HandshakeFault {
    /// True if the connection ended because of the client's certificate, or because the client has none.
    pub const fn is_of_certificate(self) -> bool {
        match self {
            Self::Missing
            | Self::Expired
            | Self::NotYetValid
            | Self::Revoked
            | Self::UnknownIssuer
            | Self::WrongPurpose
            | Self::BadSignature
            | Self::BadList
            | Self::ChainTooLong
            | Self::Invalid => true,
            Self::NotTls
            | Self::Ended
            | Self::Reset
            | Self::Version
            | Self::CipherSuite
            | Self::Group
            | Self::SignatureScheme
            | Self::ApplicationProtocol
            | Self::ServerName
            | Self::HelloTooLarge
            | Self::Incompatible
            | Self::Malformed
            | Self::NotPostgres
            | Self::Unencrypted
            | Self::BehindRequest
            | Self::AlertUnknownCa
            | Self::AlertBadCertificate
            | Self::AlertUnsupportedCertificate
            | Self::AlertCertificateRevoked
            | Self::AlertCertificateExpired
            | Self::AlertCertificateUnknown
            | Self::AlertHandshakeFailure
            | Self::AlertProtocolVersion
            | Self::AlertInsufficientSecurity
            | Self::AlertDecryptError
            | Self::AlertInternalError
            | Self::AlertCanceled
            | Self::AlertOther
            | Self::Internal => false,
        }
    }

    /// The fault of a handshake by rustls.
    pub fn of(error: &io::Error) -> Self {
        match error.get_ref().and_then(|error| error.downcast_ref()) {
            Some(error) => Self::of_rustls(error),
            None if error.kind() == io::ErrorKind::UnexpectedEof => Self::Ended,
            None => Self::Reset,
        }
    }

    fn of_rustls(error: &Error) -> Self {
        match error {
            Error::NoCertificatesPresented => Self::Missing,
            Error::InvalidCertificate(fault) => Self::of_certificate(fault),
            Error::InvalidCertRevocationList(_) => Self::BadList,
            Error::AlertReceived(alert) => Self::of_alert(*alert),
            Error::PeerIncompatible(what) => Self::of_incompatible(what),
            Error::NoApplicationProtocol => Self::ApplicationProtocol,
            Error::InvalidMessage(InvalidMessage::InvalidContentType) => Self::NotTls,
            Error::InvalidMessage(InvalidMessage::UnknownProtocolVersion) => Self::NotTls,
            Error::InvalidMessage(InvalidMessage::InvalidServerName)
            | Error::PeerMisbehaved(PeerMisbehaved::ServerNameMustContainOneHostName) => Self::ServerName,
            Error::InvalidMessage(_)
            | Error::PeerMisbehaved(_)
            | Error::PeerSentOversizedRecord
            | Error::DecryptError
            | Error::InvalidEncryptedClientHello(_)
            | Error::InappropriateMessage { .. }
            | Error::InappropriateHandshakeMessage { .. } => Self::Malformed,
            // The others are not faults of the client; rustls may add more.
            _ => Self::Internal,
        }
    }

    fn of_certificate(fault: &CertificateError) -> Self {
        match fault {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYetValid,
            CertificateError::Revoked => Self::Revoked,
            CertificateError::UnknownIssuer => Self::UnknownIssuer,
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => Self::WrongPurpose,
            CertificateError::BadSignature => Self::BadSignature,
            CertificateError::Other(other) if other.0.is::<ClientChainTooLong>() => Self::ChainTooLong,
            _ => Self::Invalid,
        }
    }

    fn of_incompatible(what: &PeerIncompatible) -> Self {
        match what {
            PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled => Self::Version,
            PeerIncompatible::NoCipherSuitesInCommon => Self::CipherSuite,
            PeerIncompatible::NoKxGroupsInCommon | PeerIncompatible::NamedGroupsExtensionRequired => Self::Group,
            PeerIncompatible::NoSignatureSchemesInCommon | PeerIncompatible::SignatureAlgorithmsExtensionRequired => {
                Self::SignatureScheme
            }
            _ => Self::Incompatible,
        }
    }

    fn of_alert(alert: AlertDescription) -> Self {
        match alert {
            AlertDescription::UnknownCA => Self::AlertUnknownCa,
            AlertDescription::BadCertificate => Self::AlertBadCertificate,
            AlertDescription::UnsupportedCertificate => Self::AlertUnsupportedCertificate,
            AlertDescription::CertificateRevoked => Self::AlertCertificateRevoked,
            AlertDescription::CertificateExpired => Self::AlertCertificateExpired,
            AlertDescription::CertificateUnknown => Self::AlertCertificateUnknown,
            AlertDescription::HandshakeFailure => Self::AlertHandshakeFailure,
            AlertDescription::ProtocolVersion => Self::AlertProtocolVersion,
            AlertDescription::InsufficientSecurity => Self::AlertInsufficientSecurity,
            AlertDescription::DecryptError | AlertDescription::BadRecordMac => Self::AlertDecryptError,
            AlertDescription::InternalError => Self::AlertInternalError,
            AlertDescription::UserCanceled | AlertDescription::CloseNotify => Self::AlertCanceled,
            _ => Self::AlertOther,
        }
    }

    /// The fault of a ClientHello that was read for routing; `read` has its first bytes.
    pub fn of_hello(error: &HelloError, read: &[u8]) -> Self {
        const HANDSHAKE: u8 = 22;
        const ALERT: u8 = 21;

        match error {
            HelloError::Invalid if !matches!(read, [HANDSHAKE | ALERT, 3, ..]) => Self::NotTls,
            HelloError::Invalid => Self::Malformed,
            HelloError::TooLarge => Self::HelloTooLarge,
            HelloError::Ended => Self::Ended,
            HelloError::MemoryFull(_) => Self::Internal,
            HelloError::Io(_) => Self::Reset,
        }
    }
}

impl From<StartupError> for HandshakeFault {
    fn from(error: StartupError) -> Self {
        match error {
            StartupError::Invalid => Self::NotPostgres,
            StartupError::Unencrypted => Self::Unencrypted,
            StartupError::BehindRequest => Self::BehindRequest,
            StartupError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => Self::Ended,
            StartupError::Io(_) => Self::Reset,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_documented_table_of_handshake_faults_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md");
        let text = std::fs::read_to_string(path).unwrap();
        let table = "| `tls_client_fault` | meaning |\n|---|---|\n";
        let (before, rows) = text.split_once(table).expect("docs/operations.md has the table");
        let after: String = rows.split_inclusive('\n').skip_while(|line| line.starts_with('|')).collect();
        let row = |fault: HandshakeFault| format!("| `{}` | {} |\n", fault.label(), fault.meaning());
        let current = format!("{before}{table}{}{after}", HandshakeFault::ALL.map(row).concat());
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, current).unwrap();
        } else {
            assert_eq!(text, current, "docs/operations.md is not current: run `make generate`");
        }
        let labels: BTreeSet<_> = HandshakeFault::ALL.map(HandshakeFault::label).into();
        assert_eq!(labels.len(), HandshakeFault::ALL.len());
    }

    #[test]
    fn plaintext_and_damaged_tls_have_different_faults() {
        let of = |read: &[u8]| HandshakeFault::of_hello(&HelloError::Invalid, read);
        assert_eq!(of(b"GET / HTTP/1.0\r\n"), HandshakeFault::NotTls);
        assert_eq!(of(b"\x16\x03\x01\0\0"), HandshakeFault::Malformed);
        assert_eq!(of(b"\x16"), HandshakeFault::NotTls);
    }
}
