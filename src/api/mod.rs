//! The user-facing API: the [`TcpLoadBalancer`] and its parts. Field docs become `kubectl explain`.
//!
//! The types and the published schema ([`crd()`]) accept the same objects. The types ignore unknown fields, so that an
//! older program can read an object that a newer one stored. Files are checked against the schema, which refuses
//! unknown fields and names them.

mod condition_state;
mod crd;
mod rules;
mod scalar;
mod spec;
mod status;

pub use condition_state::ConditionState;
#[cfg(test)]
pub use condition_state::condition;
pub use crd::{SCHEMA_HASH, crd, schema, schema_hash};
pub use scalar::{
    AddressPort, DateTime, Duration, EndpointRef, HeaderName, HexBytes, Host, HttpHost, HttpPath, Name, Network,
    ObjectName, PortRef, ServerName, StatusRange, Text, format, ipv4_notation, port_number,
};
pub use spec::*;
pub use status::*;

pub const GROUP: &str = "tcplb.io";
pub const VERSION: &str = "v1alpha1";
pub const KIND: &str = "TcpLoadBalancer";
