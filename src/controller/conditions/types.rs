//! The types of conditions.

pub const ACCEPTED: &str = "Accepted";
pub const RESOLVED_REFS: &str = "ResolvedRefs";
pub const PROGRAMMED: &str = "Programmed";
pub const BACKENDS_HEALTHY: &str = "BackendsHealthy";
pub const CERTIFICATES_VALID: &str = "CertificatesValid";
pub const CLIENT_ADDRESS_PRESERVED: &str = "ClientAddressPreserved";
pub const READY: &str = "Ready";
pub const RECONCILING: &str = "Reconciling";
pub const STALLED: &str = "Stalled";

/// True if a condition only summarises others.
pub fn is_summary(type_: &str) -> bool {
    [READY, RECONCILING, STALLED].contains(&type_)
}
