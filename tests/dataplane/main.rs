//! The data plane over real sockets, as clients and backends see it. The tests publish snapshots directly.

#![expect(clippy::print_stdout, reason = "the tests print their measurements")]
#![expect(clippy::unwrap_used, reason = "tests panic on unexpected values")]

#[path = "../harness/authority.rs"]
mod authority;
mod backend_tls;
mod balance;
mod connect;
mod drain;
mod endings;
mod first_probe;
mod limits;
mod memory;
mod mtls;
mod postgres;
mod proxy_protocol;
mod rebalance;
mod relay;
mod rig;
mod routes;
mod smuggling;
mod snapshots;
mod sockets;
mod storms;
mod timeouts;
mod tls;
mod urgent;
