//! The program on a real cluster, installed with its chart: what its users see.
//!
//! `make e2e` brings the cluster up and runs this; without it all of it is skipped. A scenario has a namespace of its own,
//! and waits on conditions under a deadline. Most run beside each other; those that take nodes or the API server away
//! run alone.

mod backends;
mod clients;
mod cluster;
#[path = "../harness/mod.rs"]
mod harness;
mod installation;
mod load;
mod scenario;
mod scenarios;
