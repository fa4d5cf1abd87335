use std::{collections::BTreeSet, fmt, sync::Arc};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        ParsedCertificate,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use x509_parser::{certificate::X509Certificate, extensions::ExtendedKeyUsage, prelude::FromDer};

/// Accepts certificates that are configured as their own authority, as OpenSSL's clients do. The inner verifier decides
/// about all others; it refuses the certificate of an authority as the certificate of a server or client.
pub struct WithSelfSigned<V: ?Sized> {
    pub own: BTreeSet<Box<[u8]>>,
    pub inner: Arc<V>,
    /// A verifier with revocation lists that become valid only at this time. Before that time both verifiers must
    /// accept a certificate, after it this one alone.
    pub upcoming: Option<(UnixTime, Arc<V>)>,
    /// True if all authorities are revoked. `inner` cannot be built without authorities.
    pub is_revoked: bool,
}

impl<V: ?Sized> WithSelfSigned<V> {
    fn verify<T>(&self, now: UnixTime, verify: impl Fn(&V) -> Result<T, Error>) -> Result<T, Error> {
        if self.is_revoked {
            return Err(CertificateError::Revoked.into());
        }
        let Some((from, upcoming)) = &self.upcoming else { return verify(&self.inner) };
        let verified = verify(upcoming)?;
        if now < *from { verify(&self.inner) } else { Ok(verified) }
    }

    fn has(&self, certificate: &CertificateDer<'_>) -> bool {
        self.own.contains(&**certificate)
    }
}

/// True if a certificate can be its own authority: it is a CA certificate, and its issuer is its subject.
pub fn is_self_signed_authority(certificate: &X509Certificate<'_>) -> bool {
    certificate.subject().as_raw() == certificate.issuer().as_raw() && certificate.is_ca()
}

/// Checks the validity period and the purpose of a certificate that is known byte for byte.
fn check(
    certificate: &CertificateDer<'_>,
    now: UnixTime,
    purpose: fn(&ExtendedKeyUsage<'_>) -> bool,
) -> Result<(), Error> {
    let (_, certificate) = X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if now < certificate.validity().not_before.timestamp() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > certificate.validity().not_after.timestamp() {
        return Err(CertificateError::Expired.into());
    }
    let usage = certificate.key_usage().map_err(|_| CertificateError::BadEncoding)?;
    let extended = certificate.extended_key_usage().map_err(|_| CertificateError::BadEncoding)?;
    let is_for_handshakes = usage.is_none_or(|usage| {
        usage.value.digital_signature() || usage.value.key_encipherment() || usage.value.key_agreement()
    });
    let is_for_this = extended.is_none_or(|extended| extended.value.any || purpose(extended.value));
    if is_for_handshakes && is_for_this { Ok(()) } else { Err(CertificateError::InvalidPurpose.into()) }
}

impl<V: ServerCertVerifier + ?Sized> ServerCertVerifier for WithSelfSigned<V> {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if !self.has(end_entity) {
            return self.verify(now, |inner| {
                inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            });
        }
        check(end_entity, now, |usage| usage.server_auth)?;
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        self.inner.root_hint_subjects()
    }
}

impl<V: ClientCertVerifier + ?Sized> ClientCertVerifier for WithSelfSigned<V> {
    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if !self.has(end_entity) {
            return self.verify(now, |inner| inner.verify_client_cert(end_entity, intermediates, now));
        }
        check(end_entity, now, |usage| usage.client_auth)?;
        ParsedCertificate::try_from(end_entity)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

impl<V: ?Sized> fmt::Debug for WithSelfSigned<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WithSelfSigned").field("own", &self.own.len()).finish_non_exhaustive()
    }
}
