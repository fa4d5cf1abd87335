//! Rebalancing: the number of connections that endpoints have above their share, and the rate at which these are
//! closed.
//!
//! Each replica decides over its own connections. A closed connection returns to any replica, whose algorithm then
//! picks an endpoint. With algorithms that prefer the endpoint with the fewest connections, closing the excess once is
//! enough; with the others, rebalancing continues until no excess is left.

mod excess;
mod rebalancer;
mod sustained;
mod weighted_endpoint;

pub use self::{
    excess::RebalancePolicy,
    rebalancer::{ConnectionCounts, EndpointLoad, Rebalancer},
    weighted_endpoint::{Group, WeightedEndpoint},
};

#[cfg(test)]
mod tests;
