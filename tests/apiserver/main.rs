//! Tests against a real API server, without pods and without an installation.
//!
//! `make e2e` runs this with the cluster that it starts. Without a cluster, and without etcd and kube-apiserver on this
//! machine, it is skipped.

#![expect(clippy::unwrap_used, reason = "tests panic on unexpected values")]

mod agreement;
mod authorization;
#[path = "../cases/mod.rs"]
mod cases;
mod check;
mod crd;
#[path = "../harness/mod.rs"]
mod harness;
mod kubectl;
mod leader;
mod owners;
mod source;
mod status;
