use std::time::{SystemTime, UNIX_EPOCH};

use rustls::{CommonState, HandshakeKind, ProtocolVersion, pki_types::CertificateDer};
use x509_parser::{
    certificate::X509Certificate,
    objects::{oid_registry, oid2abbrev},
    prelude::FromDer,
    x509::X509Name,
};

use super::HandshakeFault;

/// The TLS parameters of a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientTls {
    /// The requested server name (SNI).
    pub server_name: Option<Box<str>>,
    /// `None`: TLS is not terminated here, or its handshake is not complete.
    pub agreed: Option<Agreed>,
    /// The cause of a failed handshake.
    pub fault: Option<HandshakeFault>,
}

/// The result of a handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// `TLS1.2` or `TLS1.3`.
    pub version: &'static str,
    /// The application protocol (ALPN).
    pub protocol: Option<Box<[u8]>>,
    pub resumed: bool,
    /// The identity of the client; `None`: it showed no certificate, or none was requested.
    pub identity: Option<Identity>,
}

/// The identity in a client's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The distinguished name as text: `O=shop, CN=alice`, with the escapes of RFC 4514. It may be empty.
    pub subject: Box<str>,
    pub common_name: Option<Box<str>>,
    /// The last moment of its validity, in seconds since 1970.
    not_after: i64,
}

/// The maximum length of a name: X.520 allows a common name 64 characters.
const LONGEST_NAME: usize = 256;

impl ClientTls {
    pub fn of(connection: &CommonState, server_name: Option<Box<str>>) -> Self {
        Self {
            server_name,
            agreed: Some(Agreed {
                version: match connection.protocol_version() {
                    Some(ProtocolVersion::TLSv1_2) => "TLS1.2",
                    _ => "TLS1.3",
                },
                protocol: connection.alpn_protocol().map(Into::into),
                resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
                identity: connection.peer_certificates().and_then(|chain| Identity::of(chain.first()?)),
            }),
            fault: None,
        }
    }
}

impl Identity {
    pub fn of(certificate: &CertificateDer) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let subject = certificate.subject();
        let common_name = subject.iter_common_name().next().and_then(|name| name.as_str().ok());
        Some(Self {
            subject: cut(&text(subject)),
            // Not truncated: that could be another client's name.
            common_name: common_name.filter(|name| name.len() <= LONGEST_NAME).map(Into::into),
            not_after: certificate.validity().not_after.timestamp(),
        })
    }

    #[cfg(any(test, feature = "fuzzing"))]
    pub fn named(subject: &str) -> Self {
        Self { subject: subject.into(), common_name: None, not_after: i64::MAX }
    }

    /// True if the certificate has expired: a resumed session does not verify it again.
    pub fn has_expired(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        i64::try_from(now).is_ok_and(|now| now > self.not_after)
    }
}

fn text(subject: &X509Name) -> String {
    let attributes = subject.iter_attributes().map(|attribute| {
        let kind = attribute.attr_type();
        let name = oid2abbrev(kind, oid_registry()).map_or_else(|_| kind.to_id_string(), str::to_owned);
        format!("{name}={}", escaped(attribute.as_str().unwrap_or("?")))
    });
    attributes.collect::<Vec<_>>().join(", ")
}

/// Escapes a value so that it cannot look like another attribute (RFC 4514, section 2.4).
fn escaped(value: &str) -> String {
    let mut text = String::new();
    for letter in value.chars() {
        if "\"+,;<>=\\".contains(letter) {
            text.push('\\');
        }
        text.push(letter);
    }
    text
}

fn cut(text: &str) -> Box<str> {
    match text.char_indices().nth(LONGEST_NAME) {
        Some((end, _)) => format!("{}…", &text[..end]).into(),
        None => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, DnValue, KeyPair};

    use super::*;

    fn identity(names: &[(DnType, DnValue)]) -> Identity {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in names {
            params.distinguished_name.push(kind.clone(), value.clone());
        }
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        Identity::of(certificate.der()).unwrap()
    }

    #[test]
    fn a_certificate_identifies_its_client() {
        let text = |text: &str| DnValue::Utf8String(text.into());
        let alice = identity(&[(DnType::OrganizationName, text("shop")), (DnType::CommonName, text("alice"))]);
        assert_eq!((&*alice.subject, alice.common_name.as_deref()), ("O=shop, CN=alice", Some("alice")));
        let nobody = identity(&[]);
        assert_eq!((&*nobody.subject, nobody.common_name), ("", None));
        let long = identity(&[(DnType::CommonName, text(&"x".repeat(1000)))]);
        assert_eq!((long.subject.chars().count(), long.common_name), (LONGEST_NAME + 1, None));
        assert!(long.subject.ends_with('…'));
        let posing =
            identity(&[(DnType::OrganizationName, text("x, CN=alice")), (DnType::CommonName, text("mallory"))]);
        assert_eq!(&*posing.subject, "O=x\\, CN\\=alice, CN=mallory");
        assert_eq!(Identity::of(&CertificateDer::from(&b"nonsense"[..])), None);
    }
}
