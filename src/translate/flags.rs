//! Command-line flags and variables that set parts of a load balancer. Messages name them in front of the field.

use super::verdict::Part;

/// Prefixes the path of a field of `part` with its flag.
pub(super) fn with_flag(part: Part, field: &str) -> String {
    format!("{} ({field})", flag(part))
}

/// The flag that sets a part. The command line declares one listener.
fn flag(part: Part) -> &'static str {
    match part {
        Part::ListenerTls(_) => "--tls-certificate, --tls-key",
        Part::Listeners | Part::WholeListener(_) | Part::Listener(_) | Part::ClientRule(_) | Part::NodePort(_) => {
            "--listen or LISTEN"
        }
        Part::Backends | Part::Backend(_) => "--backend or BACKENDS",
        Part::LoadBalancing => "--algorithm or LB_MODE",
        Part::Preconnect => "--preconnect or POOL_SIZE",
        Part::Object
        | Part::Timeouts
        | Part::TcpKeepalive
        | Part::Drain
        | Part::HealthCheck
        | Part::Connect
        | Part::Rebalance
        | Part::Service => "command line",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_named_by_their_flag() {
        for (part, field, expected) in [
            (Part::ListenerTls(0), "spec.listeners[0].tls.certificateRefs[0]", "--tls-certificate, --tls-key"),
            (Part::Listener(0), "spec.listeners[0].port", "--listen or LISTEN"),
            (Part::Backend(0), "spec.backends[0].addresses[1]", "--backend or BACKENDS"),
            (Part::Preconnect, "spec.connect.preconnect.perEndpoint", "--preconnect or POOL_SIZE"),
            (Part::Connect, "spec.connect.timeout", "command line"),
        ] {
            assert_eq!(with_flag(part, field), format!("{expected} ({field})"));
        }
    }
}
