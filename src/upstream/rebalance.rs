//! How many connections endpoints have beyond their share, a function over counts, and how many of them are closed when.
//!
//! Each replica decides over its own connections by itself. What it closes comes back to any replica, and there goes where
//! the algorithm sends new connections. So closing as many as are too many is right where these go to whoever has the
//! fewest, and by and by too few where they go anywhere: then it goes on until it is enough.

mod excess;
mod rebalancer;
mod sustained;
mod weighted_endpoint;

pub use self::{
    excess::Rebalancing,
    rebalancer::{Counts, EndpointLoad, Rebalancer},
    weighted_endpoint::{Group, WeightedEndpoint},
};

#[cfg(test)]
mod tests;
