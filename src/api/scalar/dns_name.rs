//! Names of Kubernetes objects (RFC 1123).

/// True for lower-case letters, digits and dashes, without a dash at either end.
pub fn is_dns_label(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// True for labels that are separated by dots, at most 253 characters in all.
pub fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_label)
}
