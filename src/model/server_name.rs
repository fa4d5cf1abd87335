//! Server names that TLS clients request (RFC 6066 section 3), normalized for comparison.

use std::{borrow::Cow, net::IpAddr};

/// A DNS name in lower case and without a final dot, which clients may send though they should not. `None`: an address,
/// which counts as no name, or a text that cannot be a name.
pub fn normalized(name: &str) -> Option<Cow<'_, str>> {
    let name = name.strip_suffix('.').unwrap_or(name);
    // The limit of RFC 1035. Each label of a name is looked up.
    let is_name = (1..=253).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_name || is_address(name) {
        return None;
    }
    Some(match name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => name.to_ascii_lowercase().into(),
        false => name.into(),
    })
}

pub fn is_address(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    // Nearly all names end with another letter.
    name.ends_with(|last: char| last.is_ascii_hexdigit() || last == ':' || last == ']')
        && name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_names_are_normalized_and_addresses_are_refused() {
        for (name, expected) in [
            ("db.example.com", Some("db.example.com")),
            ("DB.Example.COM", Some("db.example.com")),
            ("db.example.com.", Some("db.example.com")),
            ("xn--bcher-kva.example", Some("xn--bcher-kva.example")),
            ("db", Some("db")),
            ("192.0.2.1", None),
            ("192.0.2.1.", None),
            ("2001:db8::1", None),
            ("::", None),
            ("[2001:db8::1]", None),
            ("", None),
            (".", None),
            ("a b", None),
            ("bücher.example", None),
        ] {
            assert_eq!(normalized(name).as_deref(), expected, "{name}");
        }
        assert_eq!(normalized(&"a".repeat(254)), None);
    }
}
