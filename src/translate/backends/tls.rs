//! TLS origination to a backend.

use std::sync::Arc;

use jiff::Timestamp;
use rustls::{
    ClientConfig,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::aws_lc_rs,
    pki_types::ServerName,
    sign::SingleCertAndKey,
};

use crate::{
    api,
    model::{
        AnyCertificate, Authority, BackendTls, BackendTlsTerms, TlsClientConfig, VerifiedPeer, VerifierKey,
        WithSelfSigned,
    },
    translate::{
        declaration::Declaration,
        field_errors::FieldPath,
        settings::{requestable, start_tls},
        tls::{authorities::verifier, certificates::CertificateLoader},
        verdict::Reason,
    },
};

/// Translates the TLS settings; the result is valid only if nothing was refused. Unchanged settings keep the previous
/// value and its TLS sessions.
pub(super) fn translate(
    declared: &api::BackendTls,
    declaration: &Declaration,
    before: Option<&Arc<BackendTls>>,
    certificates: &mut CertificateLoader,
    path: &mut FieldPath,
) -> Option<Arc<BackendTls>> {
    let terms = terms(declared, declaration, before.map(|before| &before.terms), certificates, path)?;
    let verifier = terms.authorities.as_ref().map(|authorities| {
        let (namespace, peer) = (declaration.object.namespace.clone(), VerifiedPeer::Backend);
        let key = VerifierKey { namespace, peer, authorities: authorities.clone() };
        certificates.backend_verifier(&key, server_verifier)
    });
    if let Some(before) = before.filter(|before| before.terms == terms) {
        return Some(before.clone());
    }
    let client = verifier
        .transpose()
        .and_then(|verifier| client(&terms, verifier))
        .map_err(|error| path.refuse(format!("cannot set up TLS with these settings: {error}")))
        .ok()?;
    Some(Arc::new(BackendTls { terms, client }))
}

fn terms(
    declared: &api::BackendTls,
    declaration: &Declaration,
    before: Option<&BackendTlsTerms>,
    certificates: &mut CertificateLoader,
    path: &mut FieldPath,
) -> Option<BackendTlsTerms> {
    let server_name = server_name(declared, &mut path.at("serverName"));
    let combination = match declared.insecure_skip_verify {
        true => {
            if !declared.ca_refs.is_empty() {
                path.at("caRefs").refuse(
                    "has no effect with insecureSkipVerify, which accepts any certificate: remove one of the two",
                );
            }
            path.at("insecureSkipVerify").warn(
                Reason::Invalid,
                "any certificate is accepted, so anyone on the path can read and change the traffic: set serverName \
                 and caRefs instead",
            );
            None
        }
        false => {
            let kept = before.and_then(|before| before.authorities.as_ref()).map_or(&[][..], Vec::as_slice);
            let authorities = certificates.authorities(&declared.ca_refs, declaration, kept, &mut path.at("caRefs"));
            Some(authorities.and_then(|authorities| {
                certificates.combination(VerifiedPeer::Backend, authorities, declaration, &mut path.at("caRefs"))
            }))
        }
    };
    let certificate = match &declared.certificate_ref {
        None => None,
        Some(reference) => {
            let kept = before.and_then(|before| before.certificate.clone());
            let mut path = path.at("certificateRef");
            let read = certificates.one(reference, declaration, kept.as_slice(), &mut path);
            if read.is_none() && declaration.unchecked(reference.reference()).is_none() {
                path.refuse_for(Reason::InvalidCertificateRef, "without it the backend gets no client certificate");
            }
            Some(read?)
        }
    };
    let authorities = match combination {
        // Authorities that only other processes can read are unknown here.
        Some(known) => Some(known?.authorities),
        None => None,
    };
    Some(BackendTlsTerms { server_name, authorities, certificate, start_tls: start_tls(declared.start_tls) })
}

fn server_name(declared: &api::BackendTls, path: &mut FieldPath) -> Option<ServerName<'static>> {
    let Some(name) = &declared.server_name else {
        if !declared.insecure_skip_verify {
            path.refuse("is missing: write a name in the backend's certificate");
        }
        return None;
    };
    let wildcard = format!("`{name}` is not the name of one server: write one name in the backend's certificate");
    requestable(name, &wildcard, path)
}

fn client(terms: &BackendTlsTerms, verifier: Option<Arc<dyn ServerCertVerifier>>) -> Result<TlsClientConfig, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let effective = verifier.clone().unwrap_or_else(|| Arc::new(AnyCertificate::new(&provider)));
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(effective);
    let config = match &terms.certificate {
        Some(certificate) => {
            let pair = SingleCertAndKey::from(rustls::sign::CertifiedKey::clone(&certificate.key));
            builder.with_client_cert_resolver(Arc::new(pair))
        }
        None => builder.with_no_client_auth(),
    };
    Ok(TlsClientConfig::new(config, verifier))
}

fn server_verifier(authorities: &[Arc<Authority>], now: Timestamp) -> Result<Arc<dyn ServerCertVerifier>, String> {
    let built: Result<WithSelfSigned<WebPkiServerVerifier>, _> = verifier(authorities, now, |roots, lists| {
        let provider = Arc::new(aws_lc_rs::default_provider());
        WebPkiServerVerifier::builder_with_provider(roots, provider)
            .with_crls(lists)
            .allow_unknown_revocation_status()
            .build()
    });
    Ok(Arc::new(built.map_err(|error| error.to_string())?))
}
