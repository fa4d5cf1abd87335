//! A TCP load balancer for Kubernetes.

#![deny(unsafe_code)]

pub mod admin;
pub mod api;
pub mod app;
pub mod cli;
mod descriptors;
pub mod drain;
pub mod metrics;
pub mod model;
pub mod proxy;
pub mod source;
pub mod state;
pub mod takeover;
pub mod tools;
pub mod translate;
pub mod upstream;
