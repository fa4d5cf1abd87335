//! A TCP load balancer for Kubernetes.

pub mod api;
pub mod descriptors;
pub mod drain;
pub mod model;
pub mod proxy;
pub mod source;
pub mod takeover;
pub mod translate;
pub mod upstream;
