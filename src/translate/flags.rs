//! Command-line flags and variables that set fields of a load balancer. Messages name them in front of the field.

/// Field path prefixes and the flags that set them; the first match wins.
const TYPED: [(&str, &str); 6] = [
    ("spec.listeners[0].tls", "--tls-certificate, --tls-key"),
    ("spec.listeners", "--listen or LISTEN"),
    ("spec.backends", "--backend or BACKENDS"),
    ("spec.loadBalancing", "--algorithm or LB_MODE"),
    ("spec.connect.preconnect", "--preconnect or POOL_SIZE"),
    ("", "command line"),
];

/// Prefixes a field path with its flag.
pub(super) fn with_flag(field: &str) -> String {
    let typed = TYPED.iter().find(|(path, _)| field.starts_with(path)).map_or("", |(_, typed)| typed);
    format!("{typed} ({field})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_named_by_their_flag() {
        for (field, expected) in [
            ("spec.listeners[0].tls.certificateRefs[0]", "--tls-certificate, --tls-key"),
            ("spec.listeners[0].port", "--listen or LISTEN"),
            ("spec.backends[0].addresses[1]", "--backend or BACKENDS"),
            ("spec.connect.preconnect.perEndpoint", "--preconnect or POOL_SIZE"),
            ("spec.connect.timeout", "command line"),
        ] {
            assert_eq!(with_flag(field), format!("{expected} ({field})"));
        }
    }
}
