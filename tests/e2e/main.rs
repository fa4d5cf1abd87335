//! The program on a real cluster, installed with its chart, as users see it.
//!
//! `make e2e` starts the cluster and runs this; without a cluster all tests are skipped. A scenario has its own
//! namespace, and waits for conditions with a deadline. Most scenarios run concurrently; those that take nodes or the
//! API server away, or measure, run alone afterwards.

#![expect(clippy::large_futures, reason = "a test runs a single scenario")]
#![expect(clippy::print_stdout, reason = "the tests print their measurements")]
#![expect(clippy::unwrap_used, reason = "tests panic on unexpected values")]

mod admin_pages;
mod backends;
mod clients;
mod cluster;
#[path = "../harness/mod.rs"]
mod harness;
mod installation;
mod load;
mod plugin;
#[path = "../harness/program.rs"]
mod program;
#[path = "../harness/prometheus_server.rs"]
mod prometheus_server;
mod scenario;
mod scenarios;
mod turns;
