//! The budget of file descriptors.

use std::os::fd::RawFd;

use anyhow::ensure;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The shares of this process's descriptors. Their sum is within the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// For listening sockets, one descriptor each, and for client connections, two each (one to a backend).
    pub serving: usize,
    /// Preconnected sockets to backends.
    pub preconnected: usize,
    /// Pipes of each worker, for connections with much data. Two descriptors each.
    pub pipes: usize,
    /// Pending probes.
    pub probes: usize,
    /// Connections to servers that forward PostgreSQL's cancel requests.
    pub cancels: usize,
    /// Connections to the admin pages.
    pub admin: usize,
    /// Clients get no descriptor from this number on. The kernel assigns the lowest free one, so these descriptors
    /// remain for probes, admin connections and files even if something exceeds its share.
    pub spare_from: RawFd,
}

/// The source of the manifests, which also needs descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manifests {
    Files,
    /// Each watched Secret needs a connection to the API server.
    Cluster,
}

/// Raises the limit to the maximum for this process, and divides it for `workers` workers.
///
/// # Errors
/// If the limit leaves nothing for clients.
pub fn raise_limit(workers: usize, manifests: Manifests) -> anyhow::Result<Budget> {
    let limit = getrlimit(Resource::Nofile);
    // A higher limit is never useful, and some kernels report "unlimited" as a number that is unsuitable for
    // calculations.
    let most = limit.maximum.unwrap_or(u64::MAX).min(4 << 20);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum: limit.maximum });
    let limit = if raised.is_ok() { most } else { limit.current.unwrap_or(most) } as usize;
    let least = used_by_process(workers);
    ensure!(
        limit >= least,
        "the limit of open files is {limit}, which is too low for {workers} workers: raise it to at least {least}, and \
         two more for each client (ulimit -n), or lower --workers"
    );
    Ok(Budget::of(limit, workers, manifests))
}

/// The descriptors for event loops, files, DNS and the log.
fn used_by_process(workers: usize) -> usize {
    64 + 8 * workers
}

/// The maximum number of pipes of all workers, unless there are more workers. Each pipe has up to 1 MiB; together they
/// use half of the kernel's default limit for all processes of a user. A connection has a pipe only while its receiver
/// is behind. Connections without a pipe copy their data.
const MOST_PIPES: usize = 32;
const MOST_ADMIN: usize = 256;
const MOST_CANCELS: usize = 512;
const MOST_SPARE: usize = 256;

impl Budget {
    /// A sixteenth of the limit, or less, each for preconnected sockets, probes, cancel requests, admin connections,
    /// spare descriptors, and watches of a cluster. A fixed part is for event loops, files, DNS and the log. The rest
    /// serves clients.
    fn of(limit: usize, workers: usize, manifests: Manifests) -> Self {
        let sixteenth = limit / 16;
        let pipes = MOST_PIPES.max(workers).min(sixteenth / 2) / workers;
        let (admin, cancels) = (sixteenth.clamp(1, MOST_ADMIN), sixteenth.clamp(1, MOST_CANCELS));
        let (probes, spare) = (sixteenth.max(1), sixteenth.min(MOST_SPARE));
        let watches = match manifests {
            Manifests::Files => 0,
            Manifests::Cluster => sixteenth,
        };
        let fixed = used_by_process(workers).min(limit / 6);
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

    /// The maximum number of client connections without any listening socket.
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
