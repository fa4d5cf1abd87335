//! The source of manifests and the schedule of reading them.

use std::{
    future, io, mem,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::spawn_blocking,
    time::{Instant, sleep_until},
};
use tracing::{error, info};

use crate::{
    api::TcpLoadBalancerStatus,
    descriptors::Manifests,
    model::ObjectKey,
    source::{Changed, ChangedPaths, Cluster, FileWatch, Files},
    world::World,
};

/// The maximum delay by an object of a cluster that has never been read.
const SYNC_TIMEOUT: Duration = Duration::from_secs(30);

/// The source of manifests.
pub enum Source {
    Files(FileSource),
    Cluster(Box<ClusterSource>),
}

impl Source {
    /// Files and flags, read again on changes and on SIGHUP.
    ///
    /// # Errors
    /// If SIGHUP cannot be caught.
    pub fn files(files: Files) -> io::Result<Self> {
        let hangups = signal(SignalKind::hangup())?;
        Ok(Self::Files(FileSource {
            files: Arc::new(Mutex::new(files)),
            watch: FileWatch::start(),
            hangups,
            reads_all: false,
            changed: ChangedPaths::Unknown,
            retry: Retry::default(),
        }))
    }

    /// A cluster, read again on changes.
    pub fn cluster(cluster: Cluster) -> Self {
        Self::Cluster(Box::new(ClusterSource { cluster, synced: false }))
    }

    /// The kind of source, for the descriptor budget.
    pub fn manifests(&self) -> Manifests {
        match self {
            Self::Files(_) => Manifests::Files,
            Self::Cluster(_) => Manifests::Cluster,
        }
    }

    /// The current world. `None`: it cannot be read, and the previous one stays in use.
    pub async fn read(&mut self) -> Option<World> {
        match self {
            Self::Files(files) => files.read().await,
            Self::Cluster(cluster) => Some(cluster.read().await),
        }
    }

    /// Waits until something may have changed since the last reading. Cancel safe.
    pub async fn changed(&mut self) -> Changed {
        match self {
            Self::Files(files) => {
                files.changed().await;
                Changed::World
            }
            Self::Cluster(source) => source.cluster.changed().await,
        }
    }

    /// The statuses of load balancers that have changed since the last reading or the previous call.
    pub fn statuses(&mut self) -> Vec<(ObjectKey, Option<Arc<TcpLoadBalancerStatus>>)> {
        match self {
            Self::Files(_) => Vec::new(),
            Self::Cluster(source) => source.cluster.statuses(),
        }
    }
}

/// Files and flags.
pub struct FileSource {
    files: Arc<Mutex<Files>>,
    watch: FileWatch,
    hangups: Signal,
    /// True after SIGHUP, which makes the next reading read all files.
    reads_all: bool,
    /// The changes that have not been read successfully.
    changed: ChangedPaths,
    retry: Retry,
}

/// The schedule of retries after an incomplete reading without a change: after a second at first, then after twice as
/// long each time, up to a minute.
#[derive(Default)]
struct Retry {
    pause: Duration,
    due: Option<Instant>,
}

impl Retry {
    const SHORTEST: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_secs(60);

    /// Records the result of a reading.
    fn read(&mut self, is_incomplete: bool, now: Instant) {
        if is_incomplete {
            self.pause = (self.pause * 2).clamp(Self::SHORTEST, Self::LONGEST);
            self.due = Some(now + self.pause);
        } else {
            *self = Self::default();
        }
    }

    /// Waits until the next retry is due, forever if the last reading was complete. Cancel safe.
    async fn due(&self) {
        match self.due {
            Some(due) => sleep_until(due).await,
            None => future::pending().await,
        }
    }
}

impl FileSource {
    async fn read(&mut self) -> Option<World> {
        let (files, reads_all) = (self.files.clone(), mem::take(&mut self.reads_all));
        self.changed.add(self.watch.take_changed());
        // A reading that fails must be repeated completely.
        let changed = mem::replace(&mut self.changed, ChangedPaths::Unknown);
        let reading = spawn_blocking(move || {
            // A panic of an earlier reader has been logged. This reading starts from the remembered state.
            let mut files = files.lock().unwrap_or_else(PoisonError::into_inner);
            if reads_all {
                files.forget_versions();
            }
            let (world, watches_others) = files.read_after(&changed);
            (world, watches_others.then(|| files.interest()), files.is_incomplete())
        });
        let (world, interest, is_incomplete) = reading
            .await
            .inspect_err(
                |error| error!(%error, "cannot read the manifests: the previous configuration stays in effect"),
            )
            .ok()?;
        self.changed = ChangedPaths::default();
        if let Some(interest) = interest {
            self.watch.follow(interest);
        }
        self.retry.read(is_incomplete || !self.watch.is_complete(), Instant::now());
        Some(world)
    }

    async fn changed(&mut self) {
        tokio::select! {
            () = self.watch.changed() => {}
            () = self.retry.due() => {
                self.retry.due = None;
                self.changed = ChangedPaths::Unknown;
            }
            _ = self.hangups.recv() => {
                info!("SIGHUP: reloading the manifests");
                self.reads_all = true;
                self.changed = ChangedPaths::Unknown;
            }
        }
    }
}

/// Objects in a cluster.
pub struct ClusterSource {
    cluster: Cluster,
    synced: bool,
}

impl ClusterSource {
    /// Returns the world after everything has been read once. Objects that are declared later appear as soon as they
    /// can be read.
    async fn read(&mut self) -> World {
        if !self.synced {
            self.cluster.synced(SYNC_TIMEOUT).await;
            self.synced = true;
        }
        self.cluster.world()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn unreadable_files_are_retried_with_delays_up_to_a_minute() {
        let (mut retry, start) = (Retry::default(), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..9 {
            retry.read(true, Instant::now());
            let before = Instant::now();
            retry.due().await;
            pauses.push(before.elapsed().as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(start.elapsed().as_secs(), 243);
        retry.read(false, Instant::now());
        assert!(retry.due.is_none());
        retry.read(true, Instant::now());
        assert_eq!(retry.pause, Retry::SHORTEST);
    }
}
