//! Additional tools: a test backend, self-signed certificates, conversions into manifests, and an HTTP probe.

pub mod backend;
pub mod cert;
pub mod convert;
pub mod probe;
