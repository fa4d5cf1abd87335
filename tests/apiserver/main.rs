//! What is said to a real API server and heard from it, without pods and without an installation.
//!
//! `make e2e` runs this with the cluster that it brings up; without one, and without etcd and kube-apiserver on this
//! machine, it is skipped.

mod agreement;
mod check;
mod crd;
#[path = "../harness/mod.rs"]
mod harness;
mod leader;
mod owners;
mod source;
mod status;
