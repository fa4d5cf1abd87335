use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

#[cfg(test)]
use super::types::{
    ACCEPTED, BACKENDS_HEALTHY, CERTIFICATES_VALID, CLIENT_ADDRESS_PRESERVED, PROGRAMMED, READY, RESOLVED_REFS,
};

macro_rules! condition_reasons {
    ($($reason:ident: $($type_:ident)|+;)*) => {
        /// The reasons of conditions. `docs/conditions.md` describes each.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum ConditionReason {
            $($reason),*
        }

        impl ConditionReason {
            #[cfg(test)]
            pub const ALL: &[Self] = &[$(Self::$reason),*];

            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$reason => stringify!($reason)),*
                }
            }

            /// The types of conditions that have this reason. Summary conditions can have the reasons of the conditions
            /// that they summarise as well.
            #[cfg(test)]
            pub fn types(self) -> &'static [&'static str] {
                match self {
                    $(Self::$reason => &[$($type_),+]),*
                }
            }
        }
    };
}

condition_reasons! {
    Ready: READY;
    ServedInPods: PROGRAMMED | READY;
    Accepted: ACCEPTED;
    Invalid: ACCEPTED | PROGRAMMED | CERTIFICATES_VALID;
    NotPermitted: ACCEPTED;
    PortConflict: ACCEPTED;
    ResolvedRefs: RESOLVED_REFS;
    RefNotFound: RESOLVED_REFS;
    InvalidCertificateRef: RESOLVED_REFS | CERTIFICATES_VALID;
    Programmed: PROGRAMMED;
    Pending: RESOLVED_REFS | PROGRAMMED | BACKENDS_HEALTHY | CERTIFICATES_VALID;
    ReplicasUnknown: PROGRAMMED;
    PartiallyBound: PROGRAMMED;
    PortUnavailable: PROGRAMMED;
    NoFreePort: PROGRAMMED;
    AllocationFailed: PROGRAMMED;
    ServiceNotWritten: PROGRAMMED;
    ServiceTerminating: PROGRAMMED;
    AddressNotAssigned: PROGRAMMED;
    Healthy: BACKENDS_HEALTHY;
    FailedOver: BACKENDS_HEALTHY;
    NoEndpoints: BACKENDS_HEALTHY;
    Unhealthy: BACKENDS_HEALTHY;
    ConnectionsFail: BACKENDS_HEALTHY;
    Valid: CERTIFICATES_VALID;
    ExpiresSoon: CERTIFICATES_VALID;
    CertificateExpired: CERTIFICATES_VALID;
    ProxyProtocol: CLIENT_ADDRESS_PRESERVED;
    DirectConnections: CLIENT_ADDRESS_PRESERVED;
    LocalTrafficPolicy: CLIENT_ADDRESS_PRESERVED;
    ClusterTrafficPolicy: CLIENT_ADDRESS_PRESERVED;
}

impl ConditionReason {
    /// The reasons of states that pass without an intervention.
    pub const WAITING: [Self; 2] = [Self::Pending, Self::ServiceTerminating];

    pub fn is_waiting(self) -> bool {
        Self::WAITING.contains(&self)
    }
}

/// True if a condition with this reason waits for something that happens by itself.
pub fn is_waiting(condition: &Condition) -> bool {
    ConditionReason::WAITING.iter().any(|reason| reason.as_str() == condition.reason)
}
