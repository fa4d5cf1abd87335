//! The cluster's side, against a real one: `KUBECONFIG` says which.

#[path = "../harness/mod.rs"]
mod harness;

mod crd;
mod leader;
mod source;
