use crate::model::{self, Algorithm};

/// How an upstream's connections are spread anew.
#[derive(Clone, Copy, Debug)]
pub struct Rebalancing {
    pub rebalance: model::Rebalance,
    pub tolerance: Tolerance,
}

impl Rebalancing {
    /// `None`: connections stay where they are.
    pub fn of(settings: &model::Upstream) -> Option<Self> {
        let rebalance = settings.rebalance?;
        let tolerance = Tolerance::of(settings.balancing.algorithm, rebalance.max_imbalance_percent)?;
        Some(Self { rebalance, tolerance })
    }
}

/// An endpoint that connections are spread over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    pub open: u32,
    /// Its share is as large, compared with those of the others.
    pub weight: u64,
}

/// How far above its share an endpoint may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tolerance {
    /// In percent of the share.
    pub percent: u16,
    /// Whether chance decides where connections go: then as many above it are nothing out of the ordinary as its square
    /// root.
    pub by_chance: bool,
}

impl Tolerance {
    /// `None`: these connections come back to the endpoint they were closed at.
    pub fn of(algorithm: Algorithm, percent: u16) -> Option<Self> {
        match algorithm {
            Algorithm::LeastConnections | Algorithm::PowerOfTwo => Some(Self { percent, by_chance: false }),
            Algorithm::RoundRobin | Algorithm::Random => Some(Self { percent, by_chance: true }),
            Algorithm::Maglev => None,
        }
    }

    /// The most connections that are not too many, of a share of `weight` out of `weights`. It is rounded up: somebody
    /// has to have the odd one.
    fn most(self, all: u64, weight: u64, weights: u64) -> u32 {
        let parts = u128::from(all) * u128::from(weight) * (100 + u128::from(self.percent));
        let by_percent = parts.div_ceil(u128::from(weights).max(1) * 100);
        let share = all as f64 * weight as f64 / weights as f64;
        let by_chance = if self.by_chance { (share + share.sqrt()) as u128 } else { 0 };
        by_percent.max(by_chance).try_into().unwrap_or(u32::MAX)
    }
}

/// How many connections of each endpoint are too many. `coming_back` were closed here and are expected to be opened
/// again: they belong to the shares as well. Otherwise, while clients wait before they come back, everybody would have
/// too many of the few that are left.
pub fn excesses(loads: &[Load], coming_back: u64, tolerance: Tolerance) -> Vec<u32> {
    let all: u64 = loads.iter().map(|load| u64::from(load.open)).sum::<u64>() + coming_back;
    let weights = loads.iter().map(|load| load.weight).sum();
    let excess = |load: &Load| load.open.saturating_sub(tolerance.most(all, load.weight, weights));
    loads.iter().map(excess).collect()
}
