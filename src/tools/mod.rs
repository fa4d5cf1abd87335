//! What is handy around the load balancer: a test backend, self-signed certificates, and conversions into manifests.

pub mod backend;
pub mod cert;
pub mod convert;
