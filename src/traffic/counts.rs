use std::ops::AddAssign;

/// The counters of a load balancer, a listener or an endpoint at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrafficCounts {
    pub connections: u64,
    pub bytes: u64,
    pub failures: u64,
}

impl TrafficCounts {
    /// The increase since an earlier moment. A counter that is lower than before was reset, and counts as unchanged.
    pub fn since(self, before: Self) -> Self {
        Self {
            connections: self.connections.saturating_sub(before.connections),
            bytes: self.bytes.saturating_sub(before.bytes),
            failures: self.failures.saturating_sub(before.failures),
        }
    }
}

impl AddAssign for TrafficCounts {
    fn add_assign(&mut self, other: Self) {
        self.connections += other.connections;
        self.bytes += other.bytes;
        self.failures += other.failures;
    }
}
