//! The measured operations and their limits.

/// The process that an operation runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TestbedKind {
    /// `tcplb standalone` with a manifest for each load balancer.
    Standalone,
    /// `tcplb controller` while another replica holds the Lease.
    Follower,
    /// `tcplb controller` with the Lease.
    Leader,
    /// `tcplb standalone` with one load balancer that uses LeastConnections.
    LeastConnections,
    /// `tcplb standalone` with one load balancer whose endpoints are probed.
    Probed,
}

impl TestbedKind {
    /// All testbeds. Those with the longest measurements are first.
    pub const ALL: [Self; 5] = [Self::Leader, Self::Standalone, Self::Follower, Self::Probed, Self::LeastConnections];

    /// The minimum number of changes whose instructions are counted. Each may include other work. A leader has more of
    /// it: it renews a Lease, and receives reports from two replicas.
    pub fn min_changes(self) -> usize {
        match self {
            Self::Leader => 6,
            Self::Standalone | Self::Follower | Self::LeastConnections | Self::Probed => 3,
        }
    }
}

/// The measured work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// An endpoint of one load balancer gets another address.
    Endpoint,
    /// The certificate of one load balancer is replaced.
    Certificate,
    /// The only probed endpoint of a load balancer becomes unhealthy, or healthy again.
    HealthFlip,
    /// The status of one load balancer changes, and nothing else.
    Status,
    /// An admin page is rendered.
    Page(&'static str),
    /// [`CONNECTIONS`] clients connect at once, exchange a few bytes and disconnect.
    Connection,
    /// All endpoints fail together.
    Failure,
}

/// The number of connections that are opened and measured together.
pub const CONNECTIONS: u32 = 200;

/// A measured operation.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    pub name: &'static str,
    pub testbed: TestbedKind,
    pub action: Action,
    /// The maximum of the cost with the most objects, relative to the cost with the fewest.
    pub limit: f64,
}

const fn operation(name: &'static str, testbed: TestbedKind, action: Action, limit: f64) -> Operation {
    Operation { name, testbed, action, limit }
}

/// All operations.
pub const OPERATIONS: [Operation; 14] = [
    operation("file", TestbedKind::Standalone, Action::Endpoint, 1.5),
    operation("certificate", TestbedKind::Standalone, Action::Certificate, 1.5),
    operation("flip", TestbedKind::Standalone, Action::HealthFlip, 1.5),
    operation("page", TestbedKind::Standalone, Action::Page("/"), 1.5),
    operation("snapshot", TestbedKind::Standalone, Action::Page("/snapshot"), 1.5),
    operation("slice-follower", TestbedKind::Follower, Action::Endpoint, 1.5),
    operation("status-follower", TestbedKind::Follower, Action::Status, 1.5),
    operation("secret-follower", TestbedKind::Follower, Action::Certificate, 1.5),
    operation("report", TestbedKind::Follower, Action::Page("/report"), 1.5),
    operation("slice-leader", TestbedKind::Leader, Action::Endpoint, 1.5),
    operation("status-leader", TestbedKind::Leader, Action::Status, 1.5),
    operation("secret-leader", TestbedKind::Leader, Action::Certificate, 1.5),
    operation("least-connections", TestbedKind::LeastConnections, Action::Connection, 2.0),
    operation("failure", TestbedKind::Probed, Action::Failure, 1.3),
];

impl Operation {
    pub fn what(&self) -> &'static str {
        match (self.testbed, self.action) {
            (TestbedKind::Standalone, Action::Endpoint) => "one address in one manifest changes",
            (_, Action::Endpoint) => "one address in one EndpointSlice changes",
            (TestbedKind::Standalone, Action::Certificate) => "one certificate file is replaced",
            (_, Action::Certificate) => "one Secret with a certificate changes",
            (_, Action::HealthFlip) => "one endpoint becomes unhealthy or healthy",
            (_, Action::Status) => "the status of one TcpLoadBalancer changes",
            (_, Action::Page("/")) => "rendering of /, per load balancer",
            (_, Action::Page("/snapshot")) => "rendering of /snapshot, per load balancer",
            (_, Action::Page(_)) => "rendering of /report, per load balancer",
            (_, Action::Connection) => "one connection, by the number of endpoints",
            (_, Action::Failure) => "endpoints that fail together, per endpoint",
        }
    }

    /// The sizes at which it is measured: the given numbers of load balancers, or fixed numbers of endpoints.
    pub fn sizes(&self, load_balancers: &[usize]) -> Vec<usize> {
        match self.testbed {
            TestbedKind::Standalone | TestbedKind::Follower | TestbedKind::Leader => load_balancers.to_vec(),
            TestbedKind::LeastConnections => vec![10, 5000],
            TestbedKind::Probed => vec![1250, 2500],
        }
    }

    /// The number of objects that share the cost.
    pub fn divisor(&self, size: usize) -> f64 {
        match self.action {
            Action::Page(_) | Action::Failure => size as f64,
            Action::Connection => CONNECTIONS.into(),
            Action::Endpoint | Action::Certificate | Action::HealthFlip | Action::Status => 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        for operation in &OPERATIONS {
            assert_eq!(OPERATIONS.iter().filter(|other| other.name == operation.name).count(), 1);
        }
    }
}
