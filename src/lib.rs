//! A TCP load balancer for Kubernetes.

pub mod api;
pub mod cli;
pub mod descriptors;
pub mod drain;
pub mod model;
pub mod proxy;
pub mod source;
pub mod takeover;
pub mod tools;
pub mod translate;
pub mod upstream;
