use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::fs::{FsWord, statfs};

/// The coarsest resolution of timestamps of file systems (FAT, older NFS servers).
const RESOLUTION: Duration = Duration::from_secs(2);

/// The properties of a file that change with its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileVersion {
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds, as of stat(2).
    modified: (i64, i64),
    /// The same for the last change of content or metadata, which programs cannot set.
    changed: (i64, i64),
}

impl FileVersion {
    /// `None`: it is not a regular file, or cannot be examined.
    pub fn of(file: &Path) -> Option<Self> {
        let found = fs::metadata(file).ok().filter(|found| found.is_file())?;
        Some(Self {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }

    /// True if the last change is older than the resolution of timestamps, so that each later change has another one.
    pub fn is_older_than_resolution(&self, now: SystemTime) -> bool {
        let is_past = |(seconds, nanoseconds): (i64, i64)| {
            let since_epoch = Duration::new(seconds.try_into().unwrap_or(0), nanoseconds.try_into().unwrap_or(0));
            now.duration_since(UNIX_EPOCH + since_epoch).is_ok_and(|age| age > RESOLUTION)
        };
        is_past(self.modified) && is_past(self.changed)
    }
}

/// True if the file is on a file system of this host whose timestamps are set by its own clock and change with each
/// write. A network file system may answer from a cache, and images have fixed timestamps.
pub fn is_local(file: &Path) -> bool {
    /// ext2 to ext4, XFS, Btrfs, tmpfs, overlayfs, F2FS and ZFS, see statfs(2).
    const LOCAL: [FsWord; 7] = [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x794c_7630, 0xf2f5_2010, 0x2fc1_2fc1];
    statfs(file).is_ok_and(|found| LOCAL.contains(&found.f_type))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_change_makes_another_version() {
        let folder = tempfile::tempdir().unwrap();
        let (file, other) = (folder.path().join("a"), folder.path().join("b"));
        fs::write(&file, "1").unwrap();
        let first = FileVersion::of(&file).unwrap();
        assert_eq!(FileVersion::of(&file), Some(first));
        fs::write(&file, "12").unwrap();
        assert_ne!(FileVersion::of(&file), Some(first), "another size");
        // With the same size and time of modification.
        fs::write(&other, "34").unwrap();
        let copied = fs::File::options().write(true).open(&other).unwrap();
        let before = FileVersion::of(&file).unwrap();
        copied.set_modified(fs::metadata(&file).unwrap().modified().unwrap()).unwrap();
        fs::rename(&other, &file).unwrap();
        assert_ne!(FileVersion::of(&file), Some(before), "another file");
        assert_eq!(FileVersion::of(folder.path()), None);
        assert_eq!(FileVersion::of(&other), None);
    }

    #[test]
    fn only_known_local_file_systems_are_trusted() {
        assert!(!is_local(Path::new("/proc/self/status")), "its files have no times of their own");
        assert!(!is_local(Path::new("/nowhere")));
    }

    #[test]
    fn a_recent_change_may_hide_the_next_one() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let version = |modified, changed| FileVersion {
            device: 1,
            inode: 1,
            size: 1,
            modified: (modified, 999_999_999),
            changed: (changed, 0),
        };
        assert!(version(5, 5).is_older_than_resolution(at(8)));
        assert!(!version(5, 5).is_older_than_resolution(at(7)), "modified 1.000000001 s ago");
        assert!(!version(1, 5).is_older_than_resolution(at(7)), "written, and the old time restored");
        assert!(!version(5, 5).is_older_than_resolution(at(3)), "in the future, after the clock was set back");
    }
}
