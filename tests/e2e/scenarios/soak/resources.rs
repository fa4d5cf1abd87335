//! The trend of the resources of a process with a constant number of connections.

use std::fmt;

/// The tolerated growth from the second quarter to the last one: a share, and a constant part.
const MEMORY_TOLERANCE: (f64, f64) = (0.1, 8.0);
const DESCRIPTOR_TOLERANCE: (f64, f64) = (0.1, 64.0);
const THREAD_TOLERANCE: (f64, f64) = (0.0, 4.0);

/// The resources of a process at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Resources {
    /// The resident memory in MiB.
    pub memory: f64,
    pub descriptors: f64,
    pub threads: f64,
}

impl Resources {
    /// Reads three numbers: the memory in KiB, the threads and the descriptors.
    pub fn parse(text: &str) -> Option<Self> {
        let numbers: Vec<f64> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
        let [memory, threads, descriptors] = numbers[..] else { return None };
        Some(Self { memory: memory / 1024.0, descriptors, threads })
    }
}

/// The median of a resource in each quarter of the run. The first quarter is the warm-up.
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
            let mut values = values[length * quarter / 4..length * (quarter + 1) / 4].to_vec();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        });
        Self { name, quarters, limit: quarters[1] * (1.0 + share) + constant }
    }
}

impl fmt::Display for Trend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, quarters: [first, second, third, last], limit } = self;
        write!(f, "  {name:12} medians of quarters {first:.1} {second:.1} {third:.1} {last:.1}, limit {limit:.1}")
    }
}

/// The trends of all resources.
pub fn trends(samples: &[Resources]) -> [Trend; 3] {
    let values = |read: fn(&Resources) -> f64| samples.iter().map(read).collect::<Vec<_>>();
    [
        Trend::of("memory, MiB", &values(|sample| sample.memory), MEMORY_TOLERANCE),
        Trend::of("descriptors", &values(|sample| sample.descriptors), DESCRIPTOR_TOLERANCE),
        Trend::of("threads", &values(|sample| sample.threads), THREAD_TOLERANCE),
    ]
}

mod tests {
    use super::*;

    #[test]
    fn growth_after_the_warm_up_is_found() {
        let sample = |memory: u32| Resources { memory: memory.into(), descriptors: 100.0, threads: 10.0 };
        let growing: Vec<Resources> = (0..100).map(sample).collect();
        let warming: Vec<Resources> = (0..100).map(|second: u32| sample(second.min(25))).collect();
        assert_eq!(trends(&growing).map(|trend| trend.is_flat()), [false, true, true]);
        assert_eq!(trends(&warming).map(|trend| trend.is_flat()), [true; 3]);
    }

    #[test]
    fn three_numbers_are_read() {
        let resources = Resources { memory: 2.0, threads: 7.0, descriptors: 30.0 };
        assert_eq!(Resources::parse("2048 7 30\n"), Some(resources));
        assert_eq!(Resources::parse("2048 7\n"), None);
    }
}
