use std::{cmp::Ordering, sync::Arc};

use super::candidate::Candidate;
use crate::upstream::endpoint::Endpoint;

/// The usable endpoints in a row on a line. The length of each is its weight.
#[derive(Debug)]
pub struct Shares {
    endpoints: Vec<Arc<Endpoint>>,
    /// The end of each endpoint on the line.
    ends: Vec<u64>,
}

impl Shares {
    /// Builds the line. Weights are divided by their greatest common divisor.
    pub fn of_usable(candidates: &[Candidate]) -> Self {
        let usable: Vec<_> = candidates.iter().filter(|candidate| candidate.endpoint.usable()).collect();
        let weight = |candidate: &Candidate| u64::from(candidate.weight.value());
        let divisor = usable.iter().fold(0, |divisor, candidate| gcd(divisor, weight(candidate))).max(1);
        let ends = usable.iter().scan(0, |end, candidate| {
            *end += weight(candidate) / divisor;
            Some(*end)
        });
        Self { ends: ends.collect(), endpoints: usable.iter().map(|candidate| candidate.endpoint.clone()).collect() }
    }

    /// The length of the line.
    pub fn total(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    pub fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    /// The endpoints with their weights.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<Endpoint>, u64)> {
        self.endpoints.iter().enumerate().map(|(index, endpoint)| (endpoint, self.weight(index)))
    }

    /// True if all have the same weight, which is then 1.
    pub fn are_equal(&self) -> bool {
        self.total() == self.endpoints.len() as u64
    }

    /// The weight of the endpoint at `index`.
    pub fn weight(&self, index: usize) -> u64 {
        self.ends[index] - self.start(index)
    }

    /// The index of the endpoint that covers a point of the line below `total`.
    pub fn covering(&self, point: u64) -> usize {
        self.ends.partition_point(|end| *end <= point)
    }

    /// The index of a random allowed endpoint, by weight.
    pub fn random(&self, allowed: impl Fn(usize) -> bool) -> Option<usize> {
        if self.total() == 0 {
            return None;
        }
        // Nearly always at most a few endpoints are not allowed, and the first try succeeds.
        for _ in 0..4 {
            let index = self.covering(fastrand::u64(..self.total()));
            if allowed(index) {
                return Some(index);
            }
        }
        let allowed = || (0..self.endpoints.len()).filter(|index| allowed(*index));
        let total: u64 = allowed().map(|index| self.weight(index)).sum();
        let mut point = fastrand::u64(..total.max(1));
        allowed().find(|index| match point.checked_sub(self.weight(*index)) {
            Some(rest) => {
                point = rest;
                false
            }
            None => true,
        })
    }

    fn start(&self, index: usize) -> u64 {
        index.checked_sub(1).map_or(0, |before| self.ends[before])
    }
}

/// The number of connections of an endpoint, and its weight.
#[derive(Clone, Copy, Debug)]
pub struct LoadRatio {
    active: u32,
    weight: u64,
}

impl LoadRatio {
    pub fn now(shares: &Shares, index: usize) -> Self {
        Self { active: shares.endpoints[index].active(), weight: shares.weight(index) }
    }

    /// The load with one more connection.
    pub fn with_another(self) -> Self {
        Self { active: self.active.saturating_add(1), ..self }
    }

    /// Compares connections per weight.
    pub fn compare(self, other: Self) -> Ordering {
        let product = |load: Self, by: Self| u128::from(load.active) * u128::from(by.weight);
        product(self, other).cmp(&product(other, self))
    }
}

/// The fractional part of `turn` times the golden section, scaled to `length`: consecutive turns are spread evenly over
/// it.
pub(super) fn golden_part(turn: u64, length: u64) -> u64 {
    /// 2^64 divided by the golden ratio.
    const SECTION: u64 = 0x9e37_79b9_7f4a_7c15;
    ((u128::from(turn.wrapping_mul(SECTION)) * u128::from(length)) >> 64) as u64
}

pub(super) fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}
