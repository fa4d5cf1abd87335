//! The selection of an endpoint for a connection.
//!
//! A [`Balancer`] is built for one set of usable endpoints and never changes; another one is built when the set
//! changes. State that continues from one to the next (the count of picks) is kept outside.
//!
//! A new algorithm is one file here and one arm in each `match` of [`Balancer`].

mod balancer;
mod candidate;
mod least_connections;
mod maglev;
mod power_of_two;
mod random;
mod round_robin;
mod shares;
#[cfg(test)]
mod tests;

pub(super) use self::{balancer::Balancer, candidate::Candidate};
use super::endpoint::{Endpoint, TriedEndpoints};
