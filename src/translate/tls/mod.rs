//! Certificates, authorities and lists of revoked certificates, read from PEM texts.

pub(super) mod authorities;
pub(super) mod certificates;
mod pem;
mod revocation;
