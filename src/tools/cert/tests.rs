use std::os::unix::fs::PermissionsExt;

use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    sign::CertifiedKey,
};

use super::*;

fn pair(names: &[&str]) -> Result<SelfSigned, CertError> {
    let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
    generate(&names, "2026-01-01T00:00:00Z".parse().unwrap())
}

/// True if a client that trusts the certificate accepts it for `name` at `time`.
fn accepted(pair: &SelfSigned, name: &str, time: &str) -> bool {
    let certificate = CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let provider = aws_lc_rs::default_provider().into();
    let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider).build().unwrap();
    let seconds = time.parse::<Timestamp>().unwrap().as_second().unsigned_abs();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    verifier.verify_server_cert(&certificate, &[], &ServerName::try_from(name).unwrap(), &[], now).is_ok()
}

#[test]
fn a_certificate_is_accepted_for_each_of_its_names_and_no_other() {
    let pair = pair(&["db.example.com", "*.apps.example.com", "127.0.0.1", "::1"]).unwrap();
    for (name, right) in [
        ("db.example.com", true),
        ("a.apps.example.com", true),
        ("127.0.0.1", true),
        ("::1", true),
        ("example.com", false),
        ("127.0.0.2", false),
    ] {
        assert_eq!(accepted(&pair, name, "2026-06-01T00:00:00Z"), right, "{name}");
    }
}

#[test]
fn a_certificate_is_valid_for_a_year() {
    let pair = pair(&["db"]).unwrap();
    for (time, right) in [
        ("2025-12-31T23:59:59Z", false),
        ("2026-01-01T00:00:01Z", true),
        ("2026-12-31T23:59:59Z", true),
        ("2027-01-02T00:00:00Z", false),
    ] {
        assert_eq!(accepted(&pair, "db", time), right, "{time}");
    }
}

#[test]
fn the_key_belongs_to_the_certificate() {
    let pair = pair(&["db"]).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
    CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).unwrap();
}

#[test]
fn the_first_name_is_the_common_name_unless_it_is_too_long() {
    let subject = |name: &str| {
        let certificate = CertificateDer::from_pem_slice(pair(&[name]).unwrap().certificate.as_bytes()).unwrap();
        x509_parser::parse_x509_certificate(&certificate).unwrap().1.subject().to_string()
    };
    assert_eq!(subject("db.example.com"), "CN=db.example.com");
    assert_eq!(subject(&format!("{}.example.com", "a".repeat(63))), "");
}

#[test]
fn invalid_names_are_refused_with_a_message() {
    for name in ["", "*", "a b", "*.*.example.com", "a.*.example.com", "*.127.0.0.1", "../../etc/passwd", "dé.fr"] {
        let sentence = pair(&[name]).unwrap_err().to_string();
        assert!(sentence.starts_with(&format!("`{name}` is neither a DNS name nor an IP address")), "{sentence}");
    }
    assert!(matches!(pair(&[]), Err(CertError::NoName)));
}

#[test]
fn files_are_named_after_the_first_name_and_the_key_is_private() {
    let folder = tempfile::tempdir().unwrap();
    let pair = pair(&["*.example.com", "example.com"]).unwrap();
    let written = pair.write(folder.path(), Existing::Refuse).unwrap();
    assert_eq!(written.certificate, folder.path().join("_.example.com.crt"));
    assert_eq!(written.key, folder.path().join("_.example.com.key"));
    assert_eq!(fs::read_to_string(&written.certificate).unwrap(), pair.certificate);
    assert_eq!(fs::read_to_string(&written.key).unwrap(), pair.key);
    assert_eq!(fs::metadata(&written.key).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn files_that_exist_are_kept_unless_replacing_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("db.key");
    fs::write(&key, "mine").unwrap();
    let pair = pair(&["db"]).unwrap();
    assert!(matches!(pair.write(folder.path(), Existing::Refuse), Err(CertError::Exists(path)) if path == key));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);

    pair.write(folder.path(), Existing::Replace).unwrap();
    assert_eq!(fs::read_to_string(&key).unwrap(), pair.key);
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_secret_manifest_holds_the_pair() {
    let pair = pair(&["db"]).unwrap();
    let manifest = pair.secret_manifest(&"db-tls".parse().unwrap());
    let secret: Secret = serde_saphyr::from_str(&manifest).unwrap();
    assert_eq!(secret.metadata.name.as_deref(), Some("db-tls"));
    assert_eq!(secret.type_.as_deref(), Some("kubernetes.io/tls"));
    let data = secret.data.unwrap();
    assert_eq!(data["tls.crt"].0, pair.certificate.as_bytes());
    assert_eq!(data["tls.key"].0, pair.key.as_bytes());
}
