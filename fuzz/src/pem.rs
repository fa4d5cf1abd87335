use std::{
    path::PathBuf,
    sync::{Arc, LazyLock},
};

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa, KeyIdMethod,
    KeyPair, RevokedCertParams, date_time_ymd,
};
use serde_json::json;
use tcplb::{
    api::TcpLoadBalancerSpec,
    model::{ObjectKey, Snapshot},
    proxy::fuzzing::identify,
    source::schema,
    world::{Declared, World},
};

use crate::checked_translation;

/// Certificates, keys, authorities and revocation lists: any content of their files has the result that
/// [`checked_translation`] describes, and a file with one DER object is equivalent to that object in PEM.
///
/// The first byte selects the file (modulo 4), if the bytes are DER to be wrapped in PEM (bit 3), and if they are
/// appended to a valid file (bit 4).
pub fn pem(data: &[u8]) {
    let Some((&seed, bytes)) = data.split_first() else { return };
    let which = usize::from(seed & 3);
    let is_der = seed & 8 == 8;
    let now = Timestamp::from_second(1_800_000_000).expect("a time");
    let with = |content: Vec<u8>| {
        let mut files = VALID.clone().map(String::into_bytes);
        if seed & 16 == 16 {
            files[which].extend(content);
        } else {
            files[which] = content;
        }
        checked_translation(&world(files), &Snapshot::default(), now)
    };
    if !is_der {
        with(bytes.to_vec());
        return;
    }
    // Text about the subject, for logs. It must not fail for any certificate.
    let _ = identify(bytes);
    with(in_pem(LABELS[which], bytes));
}

const FILES: [&str; 4] = ["cert.pem", "key.pem", "ca.pem", "crl.pem"];
const LABELS: [&str; 4] = ["CERTIFICATE", "PRIVATE KEY", "CERTIFICATE", "X509 CRL"];

static SPEC: LazyLock<Arc<TcpLoadBalancerSpec>> = LazyLock::new(|| {
    let certificate = json!({"files": {"certificate": "cert.pem", "key": "key.pem"}});
    let authorities = json!([{"files": {"ca": "ca.pem", "crl": "crl.pem"}}]);
    let document = json!({
        "apiVersion": "tcplb.io/v1alpha1", "kind": "TcpLoadBalancer", "metadata": {"name": "x"},
        "spec": {
            "listeners": [{
                "port": 1,
                "tls": {"certificateRefs": [certificate], "clientValidation": {"caRefs": authorities}},
            }],
            "backends": [{"addresses": ["10.0.0.1:1"]}],
        },
    });
    Arc::new(schema::load_balancer(document).expect("a valid object"))
});

/// The initial content of each of [`FILES`].
static VALID: LazyLock<[String; 4]> = LazyLock::new(|| {
    let mut params = CertificateParams::new(Vec::new()).expect("valid parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "authority");
    let authority = CertifiedIssuer::self_signed(params, key()).expect("an authority");
    let params = CertificateParams::new(vec!["db.example".to_owned()]).expect("valid parameters");
    let key = key();
    let certificate = params.signed_by(&key, &authority).expect("a certificate");
    let revoked = RevokedCertParams {
        serial_number: 1.into(),
        revocation_time: date_time_ymd(2026, 1, 1),
        reason_code: None,
        invalidity_date: None,
    };
    let list = CertificateRevocationListParams {
        this_update: date_time_ymd(2026, 1, 1),
        next_update: date_time_ymd(2126, 1, 1),
        crl_number: 1.into(),
        issuing_distribution_point: None,
        revoked_certs: vec![revoked],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = list.signed_by(&authority).expect("a list").pem().expect("PEM");
    [certificate.pem(), key.serialize_pem(), authority.pem(), list]
});

fn key() -> KeyPair {
    KeyPair::generate().expect("a key")
}

fn in_pem(label: &str, der: &[u8]) -> Vec<u8> {
    pem_rfc7468::encode_string(label, pem_rfc7468::LineEnding::LF, der).expect("a short label").into_bytes()
}

fn world(files: [Vec<u8>; 4]) -> World {
    let mut world = World::default();
    for (file, content) in FILES.into_iter().zip(files) {
        world.files.insert(PathBuf::from("/f").join(file), Ok(content.into()));
    }
    let declared = Declared {
        spec: Some(SPEC.clone()),
        problems: Vec::new(),
        without_value: Vec::new(),
        origin: "a.yaml".into(),
        folder: "/f".into(),
        identity: None,
        status: None,
    };
    world.load_balancers.insert(ObjectKey::new("default", "x"), declared);
    world
}
