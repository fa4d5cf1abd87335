use std::{collections::BTreeMap, os::unix::fs::symlink, time::Duration};

use tokio::time::timeout;

use super::*;

/// The watched paths on a simulated file system.
fn interest(paths: &[&str], there: &[(&str, FileType)]) -> WatchedPaths {
    let there: BTreeMap<PathBuf, FileType> = there.iter().map(|(path, entry)| (path.into(), entry.clone())).collect();
    WatchedPaths::of(paths.iter().map(PathBuf::from), |path| there.get(path).cloned().unwrap_or(FileType::Missing))
}

fn link(target: &str) -> FileType {
    FileType::Link(target.into())
}

fn set(paths: &[&str]) -> BTreeSet<PathBuf> {
    paths.iter().map(PathBuf::from).collect()
}

#[test]
fn all_folders_on_the_way_to_a_file_are_watched() {
    use FileType::{File, Folder};
    for (what, paths, there, entries, watched) in [
        ("a file", &["/e/a.yaml"][..], &[("/e", Folder), ("/e/a.yaml", File)][..], &["/e/a.yaml"][..], &["/e"][..]),
        ("a folder", &["/e"], &[("/e", Folder)], &["/e"], &["/", "/e"]),
        ("a missing file", &["/e/a.yaml"], &[("/e", Folder)], &["/e/a.yaml"], &["/e"]),
        ("a missing folder", &["/e/f/a.yaml"], &[("/e", Folder)], &["/e/f"], &["/e"]),
        ("a file where a folder should be", &["/e/a.yaml"], &[("/e", File)], &["/e"], &["/"]),
        (
            "a mounted ConfigMap",
            &["/m/a.yaml"],
            &[
                ("/m", Folder),
                ("/m/a.yaml", link("..data/a.yaml")),
                ("/m/..data", link("..2026_1")),
                ("/m/..2026_1", Folder),
                ("/m/..2026_1/a.yaml", File),
            ],
            &["/m/a.yaml", "/m/..data", "/m/..2026_1/a.yaml"],
            &["/m", "/m/..2026_1"],
        ),
        (
            "a link to another folder, there and back",
            &["/e/f/../a.yaml"],
            &[("/e", Folder), ("/e/f", link("/x/y")), ("/x", Folder), ("/x/y", Folder), ("/x/a.yaml", File)],
            &["/e/f", "/x/a.yaml"],
            &["/e", "/x"],
        ),
        (
            "a link upwards",
            &["/e/a.yaml"],
            &[("/e", Folder), ("/e/a.yaml", link("../x/./b")), ("/x", Folder), ("/x/b", link("c"))],
            &["/e/a.yaml", "/x/b", "/x/c"],
            &["/e", "/x"],
        ),
        ("a loop", &["/a"], &[("/a", link("b")), ("/b", link("a"))], &["/a", "/b"], &["/"]),
    ] {
        let interest = interest(paths, there);
        assert_eq!(interest.entries, set(entries), "{what}");
        assert_eq!(interest.watched_folders(), set(watched), "{what}");
    }
}

#[test]
fn only_relevant_events_are_reported() {
    let interest = interest(&["/e", "/f/a.txt"], &[("/e", FileType::Folder), ("/f", FileType::Folder)]);
    for (path, matters) in [
        ("/e/new.yaml", true),
        ("/e/new.json", true),
        ("/e/.new.yaml.swp", false),
        ("/e/4913", false),
        ("/e", true),
        ("/f", true),
        ("/f/a.txt", true),
        ("/f/b.yaml", false),
        ("/g", false),
    ] {
        assert_eq!(interest.concerns(Path::new(path)), matters, "{path}");
    }
}

#[tokio::test]
async fn every_rescan_is_reported() {
    let watch = FileWatch::start();
    watch.shared.take(Ok(Event::new(EventKind::Other).set_flag(notify::event::Flag::Rescan)));
    watch.changed().await;
}

/// A watched folder, and its content after each wait.
struct WatchedFolder {
    folder: tempfile::TempDir,
    path: PathBuf,
    watch: FileWatch,
}

impl WatchedFolder {
    /// Watches `path` below a folder that `fill` populates.
    async fn new(path: &str, fill: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fill(folder.path());
        let path = folder.path().join(path);
        let mut followed = Self { folder, path, watch: FileWatch::start() };
        followed.changes("the start").await;
        followed
    }

    /// Waits for a change and reads the current files.
    async fn changes(&mut self, what: &str) {
        self.watch.follow(WatchedPaths::of([self.path.clone()], look));
        timeout(Duration::from_secs(30), self.watch.changed()).await.unwrap_or_else(|_| panic!("{what} is not told"));
        // Repeats until no path is new and all events of this change have arrived.
        self.watch.follow(WatchedPaths::of([self.path.clone()], look));
        while timeout(Duration::from_millis(50), self.watch.changed()).await.is_ok() {
            self.watch.follow(WatchedPaths::of([self.path.clone()], look));
        }
    }

    async fn sees(&mut self, what: &str, change: impl FnOnce(&Path)) {
        change(self.folder.path());
        self.changes(what).await;
    }
}

#[tokio::test]
async fn a_swapped_configmap_is_seen_each_time() {
    let version = |folder: &Path, version: &str| {
        fs::create_dir(folder.join(version)).unwrap();
        fs::write(folder.join(version).join("a.yaml"), version).unwrap();
    };
    let swap = |folder: &Path, version: &str| {
        symlink(version, folder.join("..data_tmp")).unwrap();
        fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    };
    for path in ["a.yaml", ""] {
        let mut followed = WatchedFolder::new(path, |folder| {
            version(folder, "..1");
            swap(folder, "..1");
            symlink("..data/a.yaml", folder.join("a.yaml")).unwrap();
        })
        .await;
        if path.is_empty() {
            // Files that are found in a folder are watched like named files.
            followed.path = followed.path.join("a.yaml");
            followed.changes("the file in the folder").await;
        }
        for (old, new) in [("..1", "..2"), ("..2", "..3")] {
            followed
                .sees("a swap", |folder| {
                    version(folder, new);
                    swap(folder, new);
                    fs::remove_dir_all(folder.join(old)).unwrap();
                })
                .await;
        }
    }
}

#[tokio::test]
async fn files_are_seen_to_come_change_and_go() {
    let mut followed = WatchedFolder::new("", |_| {}).await;
    followed.sees("a new file", |folder| fs::write(folder.join("a.yaml"), "1").unwrap()).await;
    followed.sees("a written file", |folder| fs::write(folder.join("a.yaml"), "2").unwrap()).await;
    followed.sees("a new link", |folder| symlink("a.yaml", folder.join("b.yaml")).unwrap()).await;
    followed.sees("a renamed file", |folder| fs::rename(folder.join("a.yaml"), folder.join("c.yaml")).unwrap()).await;
    followed.sees("a deleted file", |folder| fs::remove_file(folder.join("c.yaml")).unwrap()).await;
}

#[tokio::test]
async fn a_replaced_folder_is_watched_again() {
    let fill = |folder: &Path| {
        fs::create_dir_all(folder.join("e/f")).unwrap();
        fs::write(folder.join("e/f/a.yaml"), "1").unwrap();
    };
    let mut followed = WatchedFolder::new("e/f/a.yaml", fill).await;
    for _ in 0..2 {
        followed.sees("a deleted folder", |folder| fs::remove_dir_all(folder.join("e")).unwrap()).await;
        followed.sees("a folder that is back", fill).await;
        followed.sees("a file in it", |folder| fs::write(folder.join("e/f/a.yaml"), "2").unwrap()).await;
        followed.sees("a moved folder", |folder| fs::rename(folder.join("e/f"), folder.join("e/g")).unwrap()).await;
        followed.sees("a folder that is back", fill).await;
        followed.sees("a file in it", |folder| fs::write(folder.join("e/f/a.yaml"), "2").unwrap()).await;
        fs::remove_dir_all(followed.folder.path().join("e/g")).unwrap();
    }
}

#[tokio::test]
async fn an_atomically_replaced_folder_is_watched_again() {
    let fill = |folder: &Path| {
        fs::create_dir_all(folder.join("e/f")).unwrap();
        fs::write(folder.join("e/f/a.yaml"), "1").unwrap();
    };
    let swap = |folder: &Path| {
        fs::rename(folder.join("e"), folder.join("old")).unwrap();
        fill(folder);
        fs::remove_dir_all(folder.join("old")).unwrap();
    };
    let mut followed = WatchedFolder::new("e/f/a.yaml", fill).await;
    for _ in 0..2 {
        followed.sees("a replaced folder", swap).await;
        followed.sees("a file in it", |folder| fs::write(folder.join("e/f/a.yaml"), "2").unwrap()).await;
    }
}

#[tokio::test]
async fn a_written_file_is_reported_when_it_is_closed() {
    use std::io::Write;
    let mut followed = WatchedFolder::new("", |_| {}).await;
    let path = followed.folder.path().join("a.yaml");
    let mut file = fs::File::create(&path).unwrap();
    file.write_all(b"half").unwrap();
    assert!(timeout(Duration::from_millis(100), followed.watch.changed()).await.is_err(), "half a file was told");
    drop(file);
    followed.changes("the whole file").await;
}

#[tokio::test]
async fn a_file_is_noted_as_unfinished_from_its_first_byte_until_it_is_closed() {
    use std::io::Write;
    let folder = tempfile::tempdir().unwrap();
    let (path, link) = (folder.path().canonicalize().unwrap().join("a.yaml"), folder.path().join("b.yaml"));
    fs::write(&path, "whole").unwrap();
    symlink("a.yaml", &link).unwrap();
    let (unfinished, mut watch) = (Unfinished::default(), FileWatch::start());
    watch.follow(WatchedPaths::of([link], look).noting(unfinished.clone()));
    watch.changed().await;
    // Events arrive in order, so the notes about the first file exist when the second one is reported.
    let other = folder.path().join("b.yaml.new");
    let next_event = async || {
        symlink("a.yaml", &other).unwrap();
        fs::rename(&other, folder.path().join("b.yaml")).unwrap();
        timeout(Duration::from_secs(30), watch.changed()).await.unwrap();
    };

    let mut file = fs::File::create(&path).unwrap();
    next_event().await;
    assert!(unfinished.contains(&path, Instant::now()), "it was emptied");
    file.write_all(b"half").unwrap();
    let written = Instant::now();
    drop(file);
    while unfinished.contains(&path, written) {
        timeout(Duration::from_secs(30), watch.changed()).await.unwrap();
    }
}

#[tokio::test]
async fn a_file_that_is_never_closed_is_reported_after_the_timeout() {
    let (unfinished, mut watch) = (Unfinished::default(), FileWatch::start());
    watch.follow(WatchedPaths::default().noting(unfinished.clone()));
    let long_ago = Instant::now().checked_sub(Unfinished::WRITE_TIMEOUT).unwrap();
    let waiting = async { timeout(Duration::from_secs(30), watch.changed()).await.unwrap() };
    let writing = async {
        unfinished.modified(Path::new("/e/a.yaml"), long_ago);
        watch.shared.modified.notify_one();
    };
    tokio::join!(waiting, writing);
    assert_eq!(unfinished.next_timeout(), None);
}
