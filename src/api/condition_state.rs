use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

/// The meaning of a condition of a load balancer for users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionState {
    AsDesired,
    /// It needs attention, or it waits for something.
    Warning,
    Fault,
}

impl ConditionState {
    pub fn of(condition: &Condition) -> Self {
        match (&*condition.type_, &*condition.status, &*condition.reason) {
            (_, "True", "ExpiresSoon" | "FailedOver") => Self::Warning,
            ("Reconciling", "True", _) => Self::Warning,
            ("Stalled", "True", _) => Self::Fault,
            ("ClientAddressPreserved", "False", _) => Self::Warning,
            (_, "True", _) => Self::AsDesired,
            (_, "False", "Pending" | "ServiceTerminating") => Self::Warning,
            (_, "False", _) => Self::Fault,
            _ => Self::Warning,
        }
    }
}

/// A condition of generation 1 whose last transition was at Unix time 0.
#[cfg(test)]
pub fn condition(type_: &str, status: &str, reason: &str, message: &str) -> Condition {
    use jiff::Timestamp;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    Condition {
        type_: type_.into(),
        status: status.into(),
        reason: reason.into(),
        message: message.into(),
        last_transition_time: Time(Timestamp::UNIX_EPOCH),
        observed_generation: Some(1),
    }
}
