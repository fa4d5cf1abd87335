use super::failure::Failure;
use crate::model::Role;

pub fn expect_role(is_replica: bool, expected: Role) -> Result<(), Failure> {
    match (expected, is_replica) {
        (Role::Primary, true) => Err(Failure::unexpected("is a replica, expected a primary")),
        (Role::Replica, false) => Err(Failure::unexpected("is a primary, expected a replica")),
        _ => Ok(()),
    }
}
