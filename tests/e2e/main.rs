//! Against a real Kubernetes API server.

#[path = "../harness/mod.rs"]
mod harness;
mod source;
