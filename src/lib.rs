//! A TCP load balancer for Kubernetes.

pub mod api;
pub mod model;
pub mod proxy;
pub mod source;
pub mod tools;
pub mod translate;
pub mod upstream;
