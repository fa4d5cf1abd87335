//! What is handy around the load balancer: a test backend, self-signed certificates, conversions into manifests,
//! and a question over HTTP.

pub mod backend;
pub mod cert;
pub mod convert;
pub mod probe;
