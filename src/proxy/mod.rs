//! The data plane: makes sockets and connections equal to the latest snapshot.

pub mod admission;
pub mod prefixed;
pub mod proxy_protocol;
pub mod tls;
