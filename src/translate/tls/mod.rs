//! Certificates, authorities and revocation lists, read from PEM texts.

pub(super) mod authorities;
pub(super) mod certificates;
mod pem;
mod revocation;
mod verifiers;
