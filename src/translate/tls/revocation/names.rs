//! Comparison of distinguished names (RFC 5280, section 7.1).

use x509_parser::{asn1_rs::Tag, x509::X509Name};

use crate::{printable::quoted, translate::tls::certificates::quoted_name};

/// Normalizes a name for comparison, regardless of case, white space and string types. Verifiers compare the bytes
/// instead.
pub fn canonical(name: &X509Name<'_>) -> Vec<Vec<(String, String)>> {
    let parts = name.iter().map(|part| {
        let mut part: Vec<_> = part
            .iter()
            .map(|attribute| {
                let value = attribute.attr_value();
                (attribute.attr_type().to_id_string(), folded(&text(value.tag(), value.data)))
            })
            .collect();
        part.sort_unstable();
        part
    });
    parts.collect()
}

/// Problem of a list whose issuer is written differently from the `subject` of its authority.
pub fn misnamed(place: &str, issuer: &X509Name<'_>, subject: &str) -> String {
    let (issuer, subject) = (quoted_name(issuer), quoted(subject));
    format!(
        "{place} has a revocation list of the authority {subject} with its name encoded differently, as {issuer}, so \
         it would revoke nothing: have the list issued with the name exactly as in the CA certificate, with the same \
         characters and string types"
    )
}

/// Decodes a string of any type. Bytes of unknown types are used as they are.
fn text(tag: Tag, bytes: &[u8]) -> String {
    match tag {
        Tag::BmpString => {
            let units = bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
            char::decode_utf16(units).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
        }
        Tag::UniversalString => {
            let units = bytes.chunks_exact(4).map(|four| u32::from_be_bytes([four[0], four[1], four[2], four[3]]));
            units.map(|unit| char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
        }
        _ => match str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => bytes.iter().map(|byte| char::from(*byte)).collect(),
        },
    }
}

fn folded(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}
