//! Rates of counters over the last seconds.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

/// The averaging time of a rate.
const WINDOW: Duration = Duration::from_secs(3);

/// The counters at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub at: Instant,
    pub accepted: u64,
    pub bytes: u64,
}

/// Averages per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Throughput {
    pub accepted: f64,
    pub bytes: f64,
}

/// The samples of the last [`WINDOW`], or only the last one if all are older.
#[derive(Debug)]
pub struct Rates(VecDeque<Sample>);

impl Rates {
    pub fn since(start: Sample) -> Self {
        Self(VecDeque::from([start]))
    }

    /// The rate since the first sample in the window. Samples may arrive late or several at once: a pause of the
    /// process counts once, and a sample right after another one has almost no effect.
    pub fn observe(&mut self, now: Sample) -> Throughput {
        while self.0.len() > 1 && now.at - self.0[0].at > WINDOW {
            self.0.pop_front();
        }
        let first = self.0[0];
        self.0.push_back(now);
        let seconds = (now.at - first.at).as_secs_f64();
        if seconds == 0.0 {
            return Throughput::default();
        }
        let per_second = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        Throughput { accepted: per_second(now.accepted, first.accepted), bytes: per_second(now.bytes, first.bytes) }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn sample(accepted: u64) -> Sample {
        Sample { at: Instant::now(), accepted, bytes: accepted * 100 }
    }

    #[tokio::test(start_paused = true)]
    async fn a_steady_rate_does_not_depend_on_the_sampling_interval() {
        for milliseconds in [1, 10, 500, 2_999, 3_001, 5_000, 60_000] {
            let (mut rates, mut accepted) = (Rates::since(sample(0)), 0);
            assert_eq!(rates.observe(sample(0)), Throughput::default(), "the first tick comes at once");
            for _ in 0..20 {
                advance(Duration::from_millis(milliseconds)).await;
                accepted += milliseconds;
                let rate = rates.observe(sample(accepted));
                assert_eq!((rate.accepted.round(), rate.bytes.round()), (1e3, 1e5), "{milliseconds} ms");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_does_not_distort_later_rates() {
        let mut rates = Rates::since(sample(0));
        advance(Duration::from_millis(500)).await;
        assert_eq!(rates.observe(sample(50)).accepted, 100.0);
        advance(Duration::from_secs(99)).await;
        assert_eq!(rates.observe(sample(50)).accepted, 0.0, "the process was stopped");
        assert_eq!(rates.observe(sample(50)).accepted, 0.0, "another tick at once");
        for second in 1..10 {
            advance(Duration::from_secs(1)).await;
            assert_eq!(rates.observe(sample(50 + 10 * second)).accepted, 10.0);
        }
        advance(Duration::from_millis(1)).await;
        let (again, window) = (rates.observe(sample(140)).accepted, WINDOW.as_secs_f64());
        assert!((10.0 * (window - 1.0) / window..=10.0).contains(&again), "a resized terminal: {again}");
    }
}
