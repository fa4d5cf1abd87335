//! The trend of the resources of a process.

use std::fmt;

use super::process::Resources;
use crate::statistics::Spread;

/// The tolerated growth from the second quarter to the last one: a share, and a constant part.
const MEMORY_TOLERANCE: (f64, f64) = (0.1, 3.0);
const DESCRIPTOR_TOLERANCE: (f64, f64) = (0.1, 16.0);
/// Threads that read files end after some seconds without work, so their number varies.
const THREAD_TOLERANCE: (f64, f64) = (0.0, 4.0);

/// The median of a resource in each quarter of the run. The first quarter is the warm-up.
#[derive(Clone, Debug, PartialEq)]
pub struct Trend {
    name: &'static str,
    quarters: [f64; 4],
    limit: f64,
}

impl Trend {
    pub fn is_flat(&self) -> bool {
        self.quarters[3] <= self.limit
    }

    fn of(name: &'static str, values: &[f64], (share, constant): (f64, f64)) -> Self {
        let length = values.len();
        let quarters = [0, 1, 2, 3].map(|quarter| {
            let values = &values[length * quarter / 4..length * (quarter + 1) / 4];
            Spread::of(values).map_or(0.0, |spread| spread.median)
        });
        Self { name, quarters, limit: quarters[1] * (1.0 + share) + constant }
    }
}

impl fmt::Display for Trend {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, quarters: [first, second, third, last], limit } = self;
        write!(formatter, "{name:18} {first:>9.1} {second:>9.1} {third:>9.1} {last:>9.1} {limit:>9.1}")
    }
}

pub const HEADER: &str = "median of quarter          1.        2.        3.        4.     limit";

/// The trends of all resources of a process.
pub fn trends(samples: &[Resources]) -> [Trend; 3] {
    let values = |read: fn(&Resources) -> f64| samples.iter().map(read).collect::<Vec<_>>();
    [
        Trend::of("memory (RSS), MiB", &values(|sample| sample.memory as f64 / f64::from(1 << 20)), MEMORY_TOLERANCE),
        Trend::of("descriptors", &values(|sample| sample.descriptors as f64), DESCRIPTOR_TOLERANCE),
        Trend::of("threads", &values(|sample| sample.threads as f64), THREAD_TOLERANCE),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_after_the_warm_up_is_found() {
        let growing: Vec<f64> = (0..100).map(|second| 100.0 + f64::from(second)).collect();
        assert!(!Trend::of("memory", &growing, (0.1, 0.0)).is_flat());
        let warming: Vec<f64> = (0..100).map(|second| f64::from(second.min(25))).collect();
        let trend = Trend::of("memory", &warming, (0.1, 0.0));
        assert!(trend.is_flat(), "{trend:?}");
        assert_eq!(trend.quarters, [12.0, 25.0, 25.0, 25.0]);
    }
}
