//! Watches files for changes.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, VecDeque},
    ffi::OsString,
    fs, future, io, mem,
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind, RenameMode},
};
use tokio::{sync::Notify, time::sleep_until};

use super::unfinished::Unfinished;

/// Watches files through inotify.
///
/// Without inotify (a full table, a sandbox) it reports no changes and logs a warning. Files are then read once a
/// minute and on SIGHUP.
pub struct FileWatch {
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
    failed: BTreeSet<PathBuf>,
    shared: Arc<SharedWatch>,
}

#[derive(Default)]
struct SharedWatch {
    state: Mutex<WatchedState>,
    changed: Notify,
    /// A file is being written, so a timeout may be necessary.
    modified: Notify,
}

/// The paths that may have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangedPaths {
    /// Any path, for example after the removal of a file.
    Unknown,
    /// Only the contents of these files, by their paths without symbolic links.
    Files(BTreeSet<PathBuf>),
}

impl Default for ChangedPaths {
    fn default() -> Self {
        Self::Files(BTreeSet::new())
    }
}

impl ChangedPaths {
    pub fn add(&mut self, other: Self) {
        match (&mut *self, other) {
            (Self::Files(files), Self::Files(others)) => files.extend(others),
            (_, Self::Unknown) => *self = Self::Unknown,
            (Self::Unknown, Self::Files(_)) => {}
        }
    }
}

#[derive(Default)]
struct WatchedState {
    interest: WatchedPaths,
    /// The changes that have not been taken.
    changed: ChangedPaths,
    /// Watched folders that were moved or deleted, which ends their watch. Another folder may now have their path.
    replaced: BTreeSet<PathBuf>,
}

impl FileWatch {
    pub fn start() -> Self {
        let shared = Arc::new(SharedWatch::default());
        let watcher = notify::recommended_watcher({
            let shared = shared.clone();
            move |event| shared.take(event)
        });
        let watcher = watcher
            .inspect_err(|error| {
                tracing::warn!(%error, "cannot watch files: send SIGHUP after changing them, or wait up to a minute \
                                        for the next reload")
            })
            .ok();
        Self { watcher, watched: BTreeSet::new(), failed: BTreeSet::new(), shared }
    }

    /// Watches exactly these paths from now on. Call it after each reading. A new folder reports a change at once,
    /// because its files may have changed between the reading and the start of the watch.
    pub fn follow(&mut self, interest: WatchedPaths) {
        let Some(watcher) = &mut self.watcher else { return };
        let wanted = interest.watched_folders();
        let replaced = {
            let mut state = self.shared.state();
            state.interest = interest;
            mem::take(&mut state.replaced)
        };
        self.watched.retain(|folder| {
            let stays = wanted.contains(folder) && !replaced.contains(folder);
            if !stays {
                // An error means that the folder is no longer watched anyway.
                let _ = watcher.unwatch(folder);
            }
            stays
        });
        self.failed.retain(|folder| wanted.contains(folder));
        for folder in wanted {
            if self.watched.contains(&folder) {
                continue;
            }
            match watcher.watch(&folder, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.failed.remove(&folder);
                    self.watched.insert(folder);
                    self.shared.state().changed = ChangedPaths::Unknown;
                    self.shared.changed.notify_one();
                }
                Err(error) => {
                    if self.failed.insert(folder.clone()) {
                        let folder = folder.display();
                        tracing::warn!(%folder, %error, "cannot watch the folder: send SIGHUP after changing files in \
                                                         it, or wait up to a minute for the next reload");
                    }
                }
            }
        }
    }

    /// The paths that may have changed since the previous call.
    pub fn take_changed(&self) -> ChangedPaths {
        mem::take(&mut self.shared.state().changed)
    }

    /// True if every wanted folder is watched.
    pub fn is_complete(&self) -> bool {
        self.watcher.is_some() && self.failed.is_empty()
    }

    /// Waits until something may have changed since the last wait. Cancel safe.
    pub async fn changed(&self) {
        loop {
            let unfinished = self.shared.state().interest.unfinished.clone();
            let next_timeout = async {
                match unfinished.next_timeout() {
                    Some(end) => sleep_until(end.into()).await,
                    None => future::pending().await,
                }
            };
            tokio::select! {
                () = self.shared.changed.notified() => return,
                () = self.shared.modified.notified() => {}
                () = next_timeout => if unfinished.give_up(Instant::now()) {
                    self.shared.state().changed = ChangedPaths::Unknown;
                    return;
                },
            }
        }
    }
}

impl SharedWatch {
    fn state(&self) -> MutexGuard<'_, WatchedState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, event: notify::Result<Event>) {
        let matters = match event {
            Ok(event) => {
                let mut state = self.state();
                if state.note_writing(&event, Instant::now()) {
                    self.modified.notify_one();
                }
                state.matters(&event)
            }
            Err(error) => {
                tracing::warn!(%error, "cannot detect changed files: send SIGHUP after changing them");
                self.state().changed = ChangedPaths::Unknown;
                true
            }
        };
        if matters {
            self.changed.notify_one();
        }
    }
}

impl WatchedState {
    /// Records the files whose writing begins or ends. Returns true if any begins.
    fn note_writing(&self, event: &Event, now: Instant) -> bool {
        let WatchedPaths { unfinished, .. } = &self.interest;
        match event.kind {
            EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Any) | EventKind::Create(_) => {
                let written = |path: &&PathBuf| event.kind.is_modify() || !is_whole(path);
                let concerned = event.paths.iter().filter(|path| self.interest.concerns(path)).filter(written);
                concerned.map(|path| unfinished.modified(path, now)).count() > 0
            }
            EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Remove(_)
            | EventKind::Modify(ModifyKind::Name(_)) => {
                event.paths.iter().for_each(|path| unfinished.finished(path));
                false
            }
            _ => false,
        }
    }

    fn matters(&mut self, event: &Event) -> bool {
        if event.need_rescan() {
            self.changed = ChangedPaths::Unknown;
            return true;
        }
        let whole = match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Modify(ModifyKind::Metadata(_))
            | EventKind::Any
            | EventKind::Other => true,
            EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) => {
                let mut folders = self.interest.watched_folders();
                folders.retain(|folder| event.paths.iter().any(|path| folder.starts_with(path)));
                self.replaced.extend(folders);
                true
            }
            EventKind::Create(_) => event.paths.iter().all(|path| is_whole(path)),
            // A file that is being written is incomplete. Closing it is an event.
            EventKind::Modify(_) | EventKind::Access(_) => false,
        };
        let concerned: BTreeSet<_> = event.paths.iter().filter(|path| self.interest.concerns(path)).cloned().collect();
        let matters = whole && !concerned.is_empty();
        if matters {
            let is_content = match event.kind {
                EventKind::Access(_) | EventKind::Modify(ModifyKind::Metadata(_)) | EventKind::Create(_) => true,
                EventKind::Modify(ModifyKind::Name(mode)) => mode != RenameMode::From,
                EventKind::Modify(_) | EventKind::Remove(_) | EventKind::Any | EventKind::Other => false,
            };
            self.changed.add(if is_content { ChangedPaths::Files(concerned) } else { ChangedPaths::Unknown });
        }
        matters
    }
}

/// True if a new path is complete, which a file that is being written is not.
fn is_whole(path: &Path) -> bool {
    fs::symlink_metadata(path).map_or(true, |metadata| !metadata.is_file() || metadata.nlink() > 1)
}

/// The paths to watch, with all their symbolic links, and the manifests in folders.
#[derive(Clone, Debug, Default)]
pub struct WatchedPaths {
    /// Links, files, and the first missing part of a path. Their folders contain no links in their paths.
    entries: BTreeSet<PathBuf>,
    /// The folders of the entries.
    parents: BTreeSet<PathBuf>,
    /// Folders in which any manifest is relevant.
    folders: BTreeSet<PathBuf>,
    /// Records which of these files are being written.
    unfinished: Unfinished,
}

/// The type of the file at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileType {
    Missing,
    Link(PathBuf),
    File,
    Folder,
}

/// The type of the file at a path. Links are not followed.
pub fn look(path: &Path) -> FileType {
    let found = || -> io::Result<FileType> {
        let kind = fs::symlink_metadata(path)?.file_type();
        Ok(match () {
            () if kind.is_symlink() => FileType::Link(fs::read_link(path)?),
            () if kind.is_dir() => FileType::Folder,
            () => FileType::File,
        })
    };
    found().unwrap_or(FileType::Missing)
}

impl WatchedPaths {
    /// The watched paths for absolute paths. `look` returns the type of the file at a path.
    pub fn of(paths: impl IntoIterator<Item = PathBuf>, look: impl Fn(&Path) -> FileType) -> Self {
        let mut interest = Self::default();
        for path in paths {
            interest.add(&path, &look);
        }
        interest
    }

    /// Records in `unfinished` which of these files are being written.
    pub fn noting(self, unfinished: Unfinished) -> Self {
        Self { unfinished, ..self }
    }

    fn add(&mut self, path: &Path, look: impl Fn(&Path) -> FileType) {
        // The limit of the kernel. More links are a loop.
        const MOST_LINKS: usize = 40;

        let mut links = 0;
        let mut here = PathBuf::from("/");
        let mut ahead: VecDeque<OsString> = parts(path).collect();
        while let Some(part) = ahead.pop_front() {
            if part == ".." {
                here.pop();
                continue;
            }
            let next = here.join(part);
            match look(&next) {
                FileType::Folder => here = next,
                FileType::Link(target) => {
                    if target.is_absolute() {
                        here = PathBuf::from("/");
                    }
                    for part in parts(&target).collect::<Vec<_>>().into_iter().rev() {
                        ahead.push_front(part);
                    }
                    self.insert(next);
                    links += 1;
                    if links > MOST_LINKS {
                        return;
                    }
                }
                FileType::File | FileType::Missing => {
                    self.insert(next);
                    return;
                }
            }
        }
        self.insert(here.clone());
        self.folders.insert(here);
    }

    fn insert(&mut self, entry: PathBuf) {
        self.parents.extend(entry.parent().map(Path::to_path_buf));
        self.entries.insert(entry);
    }

    /// The folders whose events cover all relevant paths.
    fn watched_folders(&self) -> BTreeSet<PathBuf> {
        self.parents.union(&self.folders).cloned().collect()
    }

    /// True if an event at this path is relevant.
    pub(super) fn concerns(&self, path: &Path) -> bool {
        let parent = path.parent();
        self.entries.contains(path)
            || self.parents.contains(path)
            || is_manifest(path) && parent.is_some_and(|parent| self.folders.contains(parent))
    }
}

/// The parts of a path after its root.
fn parts(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir)).map(
        |part| match part {
            Component::ParentDir => "..".into(),
            part => part.as_os_str().to_owned(),
        },
    )
}

/// True if a file in a folder counts as a manifest.
pub fn is_manifest(file: &Path) -> bool {
    let hidden = file.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    let extension = file.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    !hidden && ["yaml", "yml", "json"].contains(&extension.to_ascii_lowercase().as_str())
}
