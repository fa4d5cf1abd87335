//! The cluster's side, against a real one: `KUBECONFIG` says which.

#[path = "../harness/mod.rs"]
mod harness;

mod crd;
mod source;
mod status;
