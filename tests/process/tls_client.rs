//! A TLS client of the load balancer.

use std::{
    io::{self, BufReader, Write},
    net::{SocketAddr, TcpStream},
    sync::{Arc, Mutex},
};

use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};

use crate::harness::WAIT_LIMIT;

/// An open TLS connection through the load balancer.
pub struct TlsClient {
    stream: BufReader<StreamOwned<ClientConnection, TcpStream>>,
}

impl TlsClient {
    /// Sends a line to a backend that echoes, and waits for the echo.
    pub fn echo(&mut self, text: &str) -> io::Result<()> {
        self.stream.get_mut().write_all(format!("{text}\n").as_bytes())?;
        let answer = self.line()?;
        if answer == text { Ok(()) } else { Err(io::Error::other(format!("`{answer}` instead of `{text}`"))) }
    }

    /// Reads a line, without its line end.
    pub fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        io::BufRead::read_line(&mut self.stream, &mut line)?;
        Ok(line.trim_end().to_owned())
    }
}

/// Connects, and trusts only these certificate files.
pub fn connect(address: SocketAddr, name: &str, trusted: &[&str]) -> io::Result<TlsClient> {
    let trusted: Vec<_> =
        trusted.iter().flat_map(|file| certificates(&std::fs::read_to_string(file).unwrap())).collect();
    let (client, presented) = shake_hands(address, name)?;
    if trusted.contains(&presented) { Ok(client) } else { Err(io::Error::other("another certificate is presented")) }
}

/// The certificate that is presented for a name.
pub fn presented(address: SocketAddr, name: &str) -> io::Result<CertificateDer<'static>> {
    shake_hands(address, name).map(|(_, presented)| presented)
}

/// The certificate in a PEM text.
pub fn certificate_in(text: &str) -> CertificateDer<'static> {
    certificates(text).remove(0)
}

fn certificates(text: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(text.as_bytes()).map(Result::unwrap).collect()
}

fn shake_hands(address: SocketAddr, name: &str) -> io::Result<(TlsClient, CertificateDer<'static>)> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let seen = Arc::new(Seen { algorithms: provider.signature_verification_algorithms, certificate: Mutex::default() });
    let config = ClientConfig::builder_with_provider(provider as Arc<CryptoProvider>)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(seen.clone())
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut tcp = TcpStream::connect(address)?;
    tcp.set_read_timeout(Some(WAIT_LIMIT))?;
    while connection.is_handshaking() {
        connection.complete_io(&mut tcp)?;
    }
    let presented = seen.certificate.lock().unwrap().clone().expect("a certificate is presented");
    Ok((TlsClient { stream: BufReader::new(StreamOwned::new(connection, tcp)) }, presented))
}

/// Records the certificate without verifying it. The proof that the server has its key is checked.
#[derive(Debug)]
struct Seen {
    algorithms: WebPkiSupportedAlgorithms,
    certificate: Mutex<Option<CertificateDer<'static>>>,
}

impl ServerCertVerifier for Seen {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.certificate.lock().unwrap() = Some(certificate.clone().into_owned());
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
