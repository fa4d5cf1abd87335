use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// The files that are being written. Their current content is incomplete.
///
/// [`FileWatch`](super::FileWatch) records files that are being written, and [`Files`](super::Files) reads the record.
/// Paths contain no symbolic links.
#[derive(Clone, Debug, Default)]
pub struct Unfinished(Arc<Mutex<BTreeMap<PathBuf, Instant>>>);

impl Unfinished {
    /// A file that is not closed but has not been modified for this long counts as finished.
    pub const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

    /// Records that a file was modified at this time.
    pub fn modified(&self, file: &Path, now: Instant) {
        self.files().insert(file.to_owned(), now);
    }

    /// Records that a file, or all files of a folder, was closed or removed.
    pub fn finished(&self, path: &Path) {
        self.files().retain(|file, _| !file.starts_with(path));
    }

    /// Removes the files that have not been modified for [`Self::WRITE_TIMEOUT`]. Returns true if there were any.
    pub fn give_up(&self, now: Instant) -> bool {
        let mut files = self.files();
        let before = files.len();
        files.retain(|_, modified| now < *modified + Self::WRITE_TIMEOUT);
        files.len() < before
    }

    /// The time at which the first file counts as finished.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.files().values().min().map(|modified| *modified + Self::WRITE_TIMEOUT)
    }

    pub fn contains(&self, file: &Path, now: Instant) -> bool {
        self.files().get(file).is_some_and(|modified| now < *modified + Self::WRITE_TIMEOUT)
    }

    pub fn is_empty(&self) -> bool {
        self.files().is_empty()
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_unfinished_until_it_is_closed_or_left_alone_for_long() {
        let (a, b, start) = (Path::new("/e/a.yaml"), Path::new("/e/f/b.yaml"), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        let unfinished = Unfinished::default();
        assert_eq!(unfinished.next_timeout(), None);
        unfinished.modified(a, start);
        unfinished.modified(b, start);
        unfinished.modified(a, after(2));
        assert_eq!(unfinished.next_timeout(), Some(after(5)));
        assert!(!unfinished.give_up(after(4)));
        assert!(unfinished.give_up(after(6)));
        assert!(unfinished.contains(a, after(6)) && !unfinished.contains(b, after(6)));
        assert!(!unfinished.contains(a, after(7)), "whether or not anybody has given it up");

        unfinished.modified(b, after(7));
        unfinished.finished(a);
        assert!(!unfinished.contains(a, after(6)) && unfinished.contains(b, after(7)));
        unfinished.finished(Path::new("/e/f"));
        assert!(!unfinished.contains(b, after(7)));
    }
}
