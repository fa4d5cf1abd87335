//! How many connections the process's file descriptors allow.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What the descriptors of this process are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Connections of clients, each with one to a backend.
    pub connections: usize,
    /// Connections to backends that are opened ahead.
    pub preconnected: usize,
    /// Pipes of each worker, for connections that move much.
    pub pipes: usize,
}

/// Where the manifests come from, which costs descriptors too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manifests {
    Files,
    /// Each Secret that is watched has a connection to the API server.
    Cluster,
}

/// Raises the limit to what this process may have at most, and shares it out among `workers`.
pub fn raise_limit(workers: usize, manifests: Manifests) -> Budget {
    let limit = getrlimit(Resource::Nofile);
    // More than this is never of use, and some kernels report "unlimited" as a number that nothing can be derived from.
    let most = limit.maximum.unwrap_or(u64::MAX).min(4 << 20);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum: limit.maximum });
    let limit = if raised.is_ok() { most } else { limit.current.unwrap_or(most) };
    Budget::of(limit as usize, workers, manifests)
}

/// Pipes of all workers, where these are not more: each of up to 1 MiB, together half of what the kernel lets all processes
/// of a user have by default. A connection has one only while its receiver is behind; those beyond copy what they move.
const MOST_PIPES: usize = 32;

impl Budget {
    /// A sixteenth each for preconnected sockets, for probes, and for watches of a cluster; a fixed part for files, the
    /// admin page, pipes, and listening sockets, of which every worker has its own.
    fn of(limit: usize, workers: usize, manifests: Manifests) -> Self {
        let sixteenth = limit / 16;
        let pipes = MOST_PIPES.max(workers).min(sixteenth / 2) / workers;
        let fixed = (384 + 64 * workers).min(limit / 4) + 2 * pipes * workers;
        let sixteenths = match manifests {
            Manifests::Files => 2,
            Manifests::Cluster => 3,
        };
        Self { connections: ((limit - fixed - sixteenths * sixteenth) / 2).max(1), preconnected: sixteenth, pipes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_together_stays_below_the_limit() {
        for limit in [64, 256, 1024, 20_000, 1 << 20] {
            for workers in [1, 2, 64] {
                for (manifests, sixteenths) in [(Manifests::Files, 2), (Manifests::Cluster, 3)] {
                    let budget = Budget::of(limit, workers, manifests);
                    let pipes = 2 * workers * budget.pipes;
                    let taken = 2 * budget.connections + sixteenths * budget.preconnected + pipes;
                    assert!(taken < limit, "{limit} {workers} {manifests:?}: {budget:?}");
                    assert!(budget.connections >= limit / 8, "{limit} {workers} {manifests:?}: {budget:?}");
                }
            }
        }
    }
}
