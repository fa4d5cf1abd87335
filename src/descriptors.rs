//! The budget of file descriptors.

use std::os::fd::RawFd;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The parts of this process's descriptors. All together are no more than the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// For listening sockets, one each, and for connections of clients, two each: one to a backend.
    pub serving: usize,
    /// Connections to backends that are opened ahead.
    pub preconnected: usize,
    /// Pipes of each worker, for connections that move much. Two descriptors each.
    pub pipes: usize,
    /// Probes that are under way.
    pub probes: usize,
    /// Connections to servers that hand over PostgreSQL's requests to cancel queries.
    pub cancels: usize,
    /// Connections to the admin address.
    pub admin: usize,
    /// No client gets a descriptor from this one on, whatever has taken the others. The kernel gives the lowest free one,
    /// so these are left for probes, admin connections and files even where something takes more than its part.
    pub spare_from: RawFd,
}

/// Where the manifests come from, which costs descriptors too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manifests {
    Files,
    /// Each Secret that is watched has a connection to the API server.
    Cluster,
}

/// Raises the limit to what this process may have at most, and divides it for so many `workers`.
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
const MOST_ADMIN: usize = 256;
const MOST_CANCELS: usize = 512;
const MOST_SPARE: usize = 256;

impl Budget {
    /// A sixteenth each, or less, for preconnected sockets, probes, cancel requests, admin connections, what is kept
    /// spare, and watches of a cluster; a fixed part for event loops, files, DNS and the log; the rest serves clients.
    fn of(limit: usize, workers: usize, manifests: Manifests) -> Self {
        let sixteenth = limit / 16;
        let pipes = MOST_PIPES.max(workers).min(sixteenth / 2) / workers;
        let (admin, cancels) = (sixteenth.clamp(1, MOST_ADMIN), sixteenth.clamp(1, MOST_CANCELS));
        let (probes, spare) = (sixteenth.max(1), sixteenth.min(MOST_SPARE));
        let watches = match manifests {
            Manifests::Files => 0,
            Manifests::Cluster => sixteenth,
        };
        let fixed = (64 + 8 * workers).min(limit / 6);
        let taken = fixed + 2 * pipes * workers + sixteenth + probes + cancels + admin + spare + watches;
        let spare_from = RawFd::try_from(limit - spare).unwrap_or(RawFd::MAX);
        Self {
            serving: limit.saturating_sub(taken),
            preconnected: sixteenth,
            pipes,
            probes,
            cancels,
            admin,
            spare_from,
        }
    }

    /// The connections that clients can have while there is no listening socket.
    pub fn connections(&self) -> usize {
        self.serving / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_parts_together_stay_within_the_limit() {
        for limit in [64, 256, 1024, 20_000, 1 << 20] {
            for workers in [1, 2, 64] {
                for (manifests, watches) in [(Manifests::Files, 0), (Manifests::Cluster, limit / 16)] {
                    let budget = Budget::of(limit, workers, manifests);
                    let Budget { serving, preconnected, pipes, probes, cancels, admin, spare_from } = budget;
                    let others = preconnected + 2 * workers * pipes + probes + cancels + admin + watches;
                    assert!(serving + others < spare_from as usize, "{limit} {workers} {manifests:?}: {budget:?}");
                    assert!(budget.connections() >= limit / 8, "{limit} {workers} {manifests:?}: {budget:?}");
                    assert!(probes > 0 && cancels > 0 && admin > 0, "{limit} {workers} {manifests:?}: {budget:?}");
                }
            }
        }
    }
}
