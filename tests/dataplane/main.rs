//! The data plane over real sockets: what clients and backends see of a proxy that is told its snapshots by hand.

mod balance;
mod connect;
mod drain;
mod endings;
mod limits;
mod memory;
mod postgres;
mod proxy_protocol;
mod relay;
mod rig;
mod routes;
mod snapshots;
mod sockets;
mod timeouts;
mod tls;
