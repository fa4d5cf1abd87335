use base64::{Engine, engine::general_purpose::STANDARD};
use proptest::prelude::*;

use super::*;

/// 100 bytes that are no certificate.
fn der() -> Vec<u8> {
    (0..100).map(|byte: u8| byte.wrapping_mul(37)).collect()
}

fn block(label: &str) -> String {
    let base64 = STANDARD.encode(der());
    let lines: Vec<_> = base64.as_bytes().chunks(64).map(|line| str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// A block with the headers of an encrypted one.
fn encrypted(label: &str) -> String {
    let block = block(label);
    let (begin, rest) = block.split_once('\n').unwrap();
    format!("{begin}\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00FF\n\n{rest}")
}

/// Base64 in lines of this width.
fn narrow(width: usize) -> String {
    let base64 = STANDARD.encode(der());
    base64.as_bytes().chunks(width).map(|line| format!("{}\n", str::from_utf8(line).unwrap())).collect()
}

fn labels(text: impl AsRef<[u8]>) -> Vec<(PemLabel, usize)> {
    let blocks = blocks(text.as_ref()).unwrap_or_else(|error| panic!("{}: {}", error.line, error.problem));
    assert!(blocks.iter().all(|block| block.label == PemLabel::EncryptedKey || block.der == der()));
    blocks.iter().map(|block| (block.label, block.line)).collect()
}

#[test]
fn blocks_come_with_their_labels_and_lines() {
    let text = block("CERTIFICATE") + &block("EC PARAMETERS") + &block("PRIVATE KEY") + &block("X509 CRL");
    let expected =
        [(PemLabel::Certificate, 1), (PemLabel::Parameters, 6), (PemLabel::Pkcs8Key, 11), (PemLabel::Crl, 16)];
    assert_eq!(labels(&text), expected);
    for line_end in ["\r\n", "\r"] {
        assert_eq!(labels(text.replace('\n', line_end)), expected, "{line_end:?}");
    }
    assert_eq!(labels(format!("\u{feff}{text}")), expected, "a byte order mark at the beginning");
    assert_eq!(labels(text.trim_end()), expected, "no end of the last line");
    assert_eq!(labels(text.replace('\n', "  \t\n")), expected, "white space at the end of lines");
    assert_eq!(labels(""), []);
    for label in ["RSA PRIVATE KEY", "EC PRIVATE KEY", "PRIVATE KEY", "ENCRYPTED PRIVATE KEY"] {
        assert_eq!(labels(encrypted(label)), [(PemLabel::EncryptedKey, 1)], "{label}");
    }
}

#[test]
fn text_between_blocks_is_ignored() {
    // As `openssl x509 -text`, `openssl pkcs12`, `openssl s_client -showcerts` and bundles of authorities write them.
    for explanation in [
        "Certificate:\n    Data:\n        Version: 3 (0x2)\n        Serial Number:\n            4e:f0:9a\n",
        "                pub:\n                    04:b9:b3:d2:fb:bf:b0:ea:47:78:f4:6e:2f:13:4c:f2:b8:cc:89:6c:e1:f6\n",
        "X509v3 extensions:\n    X509v3 Basic Constraints: critical\n        CA:TRUE, pathlen:0\n",
        "Bag Attributes\n    localKeyID: 01 02\nsubject=/C=DE/CN=a b\nissuer=/CN=c\n",
        " 0 s:CN = db.example.com\n   i:C = US, O = Let's Encrypt, CN = R3\n---\nServer certificate\n",
        "##\n## Bundle of CA Root Certificates\n##\n\nGlobalSign Root CA\n==================\n",
        "# Issuer: CN=NetLock Arany (Class Gold) F\u{151}tan\u{fa}s\u{ed}tv\u{e1}ny\n# MD5 Fingerprint: c5:a1\n",
        "# SHA256: 8d722f81a9c113c0791df136a2966db26c950a971db46b4199f4ea54b78bfb9f\n",
        "8d722f81a9c113c0791df136a2966db26c950a971db46b4199f4ea54b78bfb9f\n",
        "8d722f81a9c113c0791df136a2966db26c950a97\nA3F0BB16E6C2E5A1B42C0E6F2F0E63E25F2D0C51\n0000000000000000000000000000000000000000\n",
        "DigiCertGlobalRootG2\nDigiCertGlobalRootG3\nISRGRootX1\nISRGRootX2\nGTSRootR1\nGTSRootR2\n",
        "Modulus:\n    00:b5:36:32:1f\n    Exponent: 65537 (0x10001)\nsubject=CN = a\nnotAfter=Nov 12 2028\n",
        "Bag Attributes\n    friendlyName: x\n    localKeyID: 54 69 6D 65\nKey Attributes: <No Attributes>\nsubject=\n",
        "# a list of end certificates -- in the order of their names\n",
        "# front-end and back-end certificates, until the end\n# Begin certificate chain\n",
        "No revoked certificates.\n    Signature Algorithm: ecdsa-with-SHA256\n",
    ] {
        let text = format!("{explanation}{}{explanation}{}{explanation}", block("CERTIFICATE"), block("X509 CRL"));
        assert_eq!(labels(&text).len(), 2, "{explanation}");
    }
    let latin_1 = [b"# Gesch\xe4ftskunden\n".as_slice(), block("CERTIFICATE").as_bytes()].concat();
    assert_eq!(labels(latin_1), [(PemLabel::Certificate, 2)]);
}

#[test]
fn unknown_content_is_refused_with_its_line() {
    let (one, two) = (block("CERTIFICATE"), block("CERTIFICATE"));
    let indented: String = two.lines().map(|line| format!(" {line}\n")).collect();
    let body = two.lines().nth(1).unwrap();
    let twice = STANDARD.encode(&two);
    for (text, line, problem) in [
        (format!("{}{two}", one.trim_end()), 5, "no END line before this one"),
        (format!("{one}{indented}"), 6, "looks like the beginning or the end of a block"),
        (format!("{one}\u{feff}{two}"), 6, "a byte order mark within the text"),
        (format!("{one}\u{a0}{two}"), 6, "looks like the beginning or the end of a block"),
        (format!("{one}#{two}"), 6, "looks like the beginning or the end of a block"),
        (one.replace("-----BEGIN CERTIFICATE-----", "-----BEGIN CERTIFICATE----- # mine"), 1, "looks like"),
        (one.replace("-----BEGIN", "----BEGIN"), 1, "looks like the beginning"),
        (one.replace("-----BEGIN CERTIFICATE-----", "\u{2014}BEGIN CERTIFICATE\u{2014}"), 1, "looks like"),
        (one.replace("-----BEGIN CERTIFICATE-----", "BEGIN CERTIFICATE"), 1, "looks like the beginning"),
        (one.to_lowercase(), 1, "looks like the beginning"),
        (
            one.replace("-----BEGIN CERTIFICATE-----\n", ""),
            1,
            "looks like a part of a block, but is outside of any block",
        ),
        (one.replace("-----END CERTIFICATE-----\n", ""), 1, "has no END line"),
        (format!("{}{two}", one.replace("-----END CERTIFICATE-----\n", "")), 5, "no END line before this one"),
        (one.replace("END CERTIFICATE", "END X509 CRL"), 5, "no END line before this one"),
        (one.replace("-----END", " -----END"), 5, "no END line before this one"),
        (format!("{one}-----END CERTIFICATE-----\n"), 6, "this block has no BEGIN line"),
        (one.replace('\n', ""), 1, "looks like the beginning"),
        (one.replace('\n', "\\n"), 1, "looks like the beginning"),
        (one.replace(body, &body[1..]), 1, "is not base64, or is incomplete"),
        (one.replace(body, &format!("{body}!")), 2, "this is not base64"),
        (format!("{one}{body}\n"), 6, "looks like a part of a block, but is outside of any block"),
        (twice, 1, "a PEM text encoded as base64 once too often"),
        (
            format!("{one}{}", block("TRUSTED CERTIFICATE")),
            6,
            "a block `TRUSTED CERTIFICATE` has no effect here: write it as",
        ),
        (format!("{one}{}", block("SOMETHING NEW")), 6, "a block `SOMETHING NEW` has no effect here: remove it"),
        (format!("{one}{}", block("OPENSSH PRIVATE KEY")), 6, "write an ECDSA, Ed25519 or RSA key"),
        (format!("0\u{6}\u{3}U\u{4}\u{3}\n{one}"), 1, "binary bytes"),
        (format!("{one}\0{two}"), 6, "binary bytes"),
    ] {
        let error = blocks(text.as_bytes()).err().unwrap_or_else(|| panic!("taken: {text}"));
        assert!(error.line == line && error.problem.contains(problem), "{text}\n{error:?}");
    }
    for (mark, unit) in [
        (&b"\xff\xfe"[..], u16::to_le_bytes as fn(u16) -> [u8; 2]),
        (b"\xfe\xff", u16::to_be_bytes),
        (b"", u16::to_le_bytes),
    ] {
        let text: Vec<u8> = mark.iter().copied().chain(one.encode_utf16().flat_map(unit)).collect();
        let error = blocks(&text).err().unwrap();
        assert!(error.line == 1 && error.problem.contains("UTF-16: save it as UTF-8"), "{error:?}");
    }
}

#[test]
fn narrow_base64_damaged_marks_and_encrypted_certificates_are_refused() {
    let one = block("CERTIFICATE");
    for (text, line, problem) in [
        (format!("{one}{}", narrow(32)), 6, "looks like a part of a block, but is outside of any block"),
        (format!("# text\n{}{one}", narrow(20)), 2, "looks like a part of a block, but is outside of any block"),
        (format!("{one}BEGIN CERT\n{}END CERT\n", narrow(32)), 7, "looks like a part of a block"),
        (one.replace("-----", "\u{2015}\u{2015}"), 1, "looks like the beginning or the end of a block"),
        (one.replace("-----", "\u{ff0d}"), 1, "looks like the beginning or the end of a block"),
        (one.replace("-----BEGIN CERTIFICATE-----", "--BEGIN CERT--"), 1, "looks like the beginning"),
        (
            format!("{one}{}", encrypted("CERTIFICATE")),
            7,
            "the block `CERTIFICATE` that begins at line 6 is encrypted, which only keys can be",
        ),
        (encrypted("X509 CRL"), 2, "the block `X509 CRL` that begins at line 1 is encrypted"),
        (encrypted("EC PARAMETERS"), 2, "the block `EC PARAMETERS` that begins at line 1 is encrypted"),
    ] {
        let error = blocks(text.as_bytes()).err().unwrap_or_else(|| panic!("taken: {text}"));
        assert!(error.line == line && error.problem.contains(problem), "{text}\n{error:?}");
    }
}

proptest! {
    /// Each block of a text is parsed, or the text is refused; none is lost silently.
    #[test]
    fn no_block_is_lost_in_silence(
        between in proptest::collection::vec("[ -~]{0,12}|\\PC{0,3}|\u{feff}|\t", 3),
        ends in proptest::collection::vec("\n|\r\n|\r|| ", 2),
    ) {
        let (one, two) = (block("CERTIFICATE"), block("X509 CRL"));
        let text = [&*between[0], &one.trim_end().replace('\n', "\r\n"), &ends[0], &between[1], two.trim_end(), &ends[1], &between[2]].concat();
        if let Ok(blocks) = blocks(text.as_bytes()) {
            prop_assert_eq!(blocks.len(), 2, "{}", text);
            prop_assert!(blocks.iter().all(|block| block.der == der()));
        }
    }

    #[test]
    fn no_bytes_make_it_fail(text in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = blocks(&text);
    }
}
