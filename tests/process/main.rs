//! The built program as a process: its commands, signals, files and sockets, observed from outside.

#![expect(clippy::unwrap_used, reason = "tests panic on unexpected values")]

#[path = "../harness/mod.rs"]
mod harness;

mod access_log;
mod admin_access;
mod connections;
mod delayed_link;
mod drain;
mod examples;
mod explain;
mod faults;
mod foreign_text;
mod load;
mod logs;
mod metrics;
mod mistakes;
mod names;
mod own_addresses;
mod own_network;
mod quick_start;
mod reload;
mod sandbox;
mod sharing;
mod shutdown;
mod sources;
mod takeover;
mod tls_client;
mod top;
mod unreachable;
