//! Where the manifests come from, and when to read them again.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::spawn_blocking,
};
use tracing::{error, info};

use crate::{
    descriptors::Manifests,
    source::{Cluster, Files, Watch, World},
};

/// How long something in a cluster that has never been read may hold up everything else.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where the manifests come from.
pub enum Source {
    Files(FileSource),
    Cluster(Box<ClusterSource>),
}

impl Source {
    /// Files and flags, read again when they change and on SIGHUP.
    ///
    /// # Errors
    /// When SIGHUP cannot be caught.
    pub fn files(files: Files) -> io::Result<Self> {
        let hangups = signal(SignalKind::hangup())?;
        Ok(Self::Files(FileSource { files: Arc::new(Mutex::new(files)), watch: Watch::start(), hangups }))
    }

    /// A cluster, read again when it changes.
    pub fn cluster(cluster: Cluster) -> Self {
        Self::Cluster(Box::new(ClusterSource { cluster, synced: false }))
    }

    /// What reading them costs descriptors for.
    pub fn manifests(&self) -> Manifests {
        match self {
            Self::Files(_) => Manifests::Files,
            Self::Cluster(_) => Manifests::Cluster,
        }
    }

    /// What is declared now. `None`: it cannot be told, and what was declared before still holds.
    pub async fn read(&mut self) -> Option<World> {
        match self {
            Self::Files(files) => files.read().await,
            Self::Cluster(cluster) => Some(cluster.read().await),
        }
    }

    /// Waits until something may have changed since the last reading. Cancel safe.
    pub async fn changed(&mut self) {
        match self {
            Self::Files(files) => files.changed().await,
            Self::Cluster(source) => source.cluster.changed().await,
        }
    }
}

/// Files and flags.
pub struct FileSource {
    files: Arc<Mutex<Files>>,
    watch: Watch,
    hangups: Signal,
}

impl FileSource {
    async fn read(&mut self) -> Option<World> {
        let files = self.files.clone();
        let reading = spawn_blocking(move || {
            // A reader that panicked has been reported; this reading starts from what is remembered.
            let mut files = files.lock().unwrap_or_else(PoisonError::into_inner);
            (files.read(), files.interest())
        });
        let (world, interest) = reading
            .await
            .inspect_err(|error| error!(%error, "the manifests could not be read: what they said before still holds"))
            .ok()?;
        self.watch.follow(interest);
        Some(world)
    }

    async fn changed(&mut self) {
        tokio::select! {
            () = self.watch.changed() => {}
            _ = self.hangups.recv() => info!("SIGHUP: reading the manifests"),
        }
    }
}

/// Objects in a cluster.
pub struct ClusterSource {
    cluster: Cluster,
    synced: bool,
}

impl ClusterSource {
    /// Nothing is told before everything has been read once; what is declared later is told when it can be.
    async fn read(&mut self) -> World {
        if !self.synced {
            self.cluster.synced(PATIENCE).await;
            self.synced = true;
        }
        self.cluster.world()
    }
}
