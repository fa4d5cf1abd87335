use crate::model::{self, Algorithm};

/// The rebalancing settings of an upstream.
#[derive(Clone, Copy, Debug)]
pub struct RebalancePolicy {
    pub rebalance: model::Rebalance,
    pub tolerance: Tolerance,
}

impl RebalancePolicy {
    /// `None`: rebalancing is disabled.
    pub fn of(settings: &model::UpstreamConfig) -> Option<Self> {
        let rebalance = settings.rebalance?;
        let tolerance = Tolerance::of(settings.balancing.algorithm, rebalance.max_imbalance_percent)?;
        Some(Self { rebalance, tolerance })
    }
}

/// The load of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    pub open: u32,
    /// The share of the endpoint, relative to those of the others.
    pub weight: u64,
}

/// The tolerated number of connections above the share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tolerance {
    /// In percent of the share.
    pub percent: u16,
    /// True if the algorithm places connections at random: then the square root of the share is a normal deviation.
    pub by_chance: bool,
}

impl Tolerance {
    /// `None`: closed connections return to the same endpoint.
    pub fn of(algorithm: Algorithm, percent: u16) -> Option<Self> {
        match algorithm {
            Algorithm::LeastConnections | Algorithm::PowerOfTwo => Some(Self { percent, by_chance: false }),
            Algorithm::RoundRobin | Algorithm::Random => Some(Self { percent, by_chance: true }),
            Algorithm::Maglev => None,
        }
    }

    /// The maximum tolerated number of connections for a share of `weight` out of `weights`. Rounded up, since one
    /// endpoint must have the odd connection.
    fn most(self, all: u64, weight: u64, weights: u64) -> u32 {
        let parts = u128::from(all) * u128::from(weight) * (100 + u128::from(self.percent));
        let by_percent = parts.div_ceil(u128::from(weights).max(1) * 100);
        let share = all as f64 * weight as f64 / weights as f64;
        let by_chance = if self.by_chance { (share + share.sqrt()) as u128 } else { 0 };
        by_percent.max(by_chance).try_into().unwrap_or(u32::MAX)
    }
}

/// The number of excess connections of each endpoint. `coming_back` connections were closed here and are expected to
/// return: they count towards the shares. Without them, all endpoints would have an excess while clients wait before
/// they reconnect.
pub fn excesses(loads: &[Load], coming_back: u64, tolerance: Tolerance) -> Vec<u32> {
    let all: u64 = loads.iter().map(|load| u64::from(load.open)).sum::<u64>() + coming_back;
    let weights = loads.iter().map(|load| load.weight).sum();
    let excess = |load: &Load| load.open.saturating_sub(tolerance.most(all, load.weight, weights));
    loads.iter().map(excess).collect()
}
