use super::failure::ProbeError;
use crate::model::Role;

pub fn expect_role(is_replica: bool, expected: Role) -> Result<(), ProbeError> {
    match (expected, is_replica) {
        (Role::Primary, true) => Err(ProbeError::unexpected("is a replica, expected a primary")),
        (Role::Replica, false) => Err(ProbeError::unexpected("is a primary, expected a replica")),
        (Role::Primary, false) | (Role::Replica, true) | (Role::Any, _) => Ok(()),
    }
}
