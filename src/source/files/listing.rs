//! The files to read.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::source::{file_watch::is_manifest, problem::FileProblem};

/// The time for which a file may be missing while it is replaced.
pub const REPLACE_DELAY: Duration = Duration::from_millis(100);

/// The files to read, in order and without duplicates. Entries of folders are read only if they are regular files.
#[derive(Default)]
pub struct Listing {
    pub files: Vec<Listed>,
    pub problems: Vec<FileProblem>,
    /// The paths without symbolic links.
    seen: HashSet<PathBuf>,
}

pub struct Listed {
    pub file: PathBuf,
    pub found: FileOrigin,
    /// The path without symbolic links, as far as it can be resolved.
    pub real: PathBuf,
}

/// A file that can be read alone.
#[derive(Clone)]
pub enum KnownFile {
    /// A regular file in a folder of manifests.
    Manifest(PathBuf),
    /// A file that a manifest names, as in [`World::files`](crate::world::World::files).
    Named(PathBuf),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FileOrigin {
    /// A regular file in a named folder. The watch of the folder notices its changes.
    InFolder,
    /// A named path, or a link in a folder.
    #[default]
    ByPath,
    /// The path cannot be listed, or is not a file. Only the remembered content is used.
    Gone,
}

impl Listing {
    /// Lists the files. Editors and `git` replace a file by removing it and writing it again, so a missing file counts
    /// as deleted only after [`REPLACE_DELAY`].
    pub fn settled<'a>(
        paths: &[PathBuf],
        remembered: impl Iterator<Item = &'a PathBuf> + Clone,
        wait: impl FnOnce(),
    ) -> Self {
        let listing = Self::of(paths, remembered.clone());
        let listed: HashSet<_> = listing.files.iter().map(|listed| &listed.file).collect();
        if remembered.clone().all(|file| listed.contains(file)) {
            return listing;
        }
        wait();
        Self::of(paths, remembered)
    }

    fn of<'a>(paths: &[PathBuf], remembered: impl Iterator<Item = &'a PathBuf> + Clone) -> Self {
        let mut listing = Self::default();
        let known: HashSet<&PathBuf> = remembered.clone().collect();
        let folders: HashSet<&Path> = remembered.clone().filter_map(|file| file.parent()).collect();
        for path in paths {
            match fs::metadata(path).and_then(|metadata| metadata.is_dir().then(|| manifests(path)).transpose()) {
                Ok(None) if folders.contains(path.as_path()) && !known.contains(path) => {
                    let message = format!("{}: is no longer a folder: restore it{STAYS}", path.display());
                    listing.add_gone(path, remembered.clone(), message);
                }
                Ok(None) => listing.add(path.clone(), FileOrigin::ByPath, None),
                Ok(Some(_)) if known.contains(path) => listing.add_replaced(path.clone(), true),
                Ok(Some(files)) => {
                    if files.iter().all(|(_, found)| *found == FileOrigin::Gone) {
                        let message = format!("{}: has no *.yaml, *.yml or *.json file", path.display());
                        listing.problems.push(FileProblem::of_file(path, message));
                    }
                    let folder = fs::canonicalize(path).ok();
                    for (file, found) in files {
                        match found {
                            FileOrigin::Gone => {
                                let is_remembered = known.contains(&file);
                                listing.add_replaced(file, is_remembered);
                            }
                            _ => listing.add(file, found, folder.as_deref()),
                        }
                    }
                }
                Err(error) => {
                    let is_remembered = known.contains(path) || folders.contains(path.as_path());
                    let stays = if is_remembered { STAYS } else { "" };
                    let message = format!("{}: {}{stays}", path.display(), io_message(&error));
                    listing.add_gone(path, remembered.clone(), message);
                }
            }
        }
        listing
    }

    /// Adds the remembered files at or below a path that cannot be listed, which is a problem.
    fn add_gone<'a>(&mut self, path: &Path, remembered: impl Iterator<Item = &'a PathBuf>, message: String) {
        let below = remembered.filter(|file| *file == path || file.parent() == Some(path));
        below.for_each(|file| self.add(file.clone(), FileOrigin::Gone, None));
        self.problems.push(FileProblem::of_file(path, message));
    }

    /// Adds a path that has become something else than a file, or always was.
    fn add_replaced(&mut self, file: PathBuf, is_remembered: bool) {
        // Subfolders may have any name.
        if !is_remembered && file.is_dir() {
            return;
        }
        let stays = if is_remembered { STAYS } else { "" };
        let message = format!(
            "{}: is not a regular file: move it elsewhere, or write a manifest in its place{stays}",
            file.display()
        );
        self.problems.push(FileProblem::of_file(&file, message));
        if is_remembered {
            self.add(file, FileOrigin::Gone, None);
        }
    }

    /// Adds a file, unless it is already listed under any name. For regular files in a folder, resolving the folder's
    /// path is sufficient.
    fn add(&mut self, file: PathBuf, found: FileOrigin, folder: Option<&Path>) {
        let within = folder.filter(|_| found == FileOrigin::InFolder).zip(file.file_name());
        let real = match found {
            // Two of them may be links to the same device.
            FileOrigin::Gone => None,
            _ => within.map(|(folder, name)| folder.join(name)).or_else(|| fs::canonicalize(&file).ok()),
        };
        let real = real.unwrap_or_else(|| file.clone());
        if self.seen.insert(real.clone()) {
            self.files.push(Listed { file, found, real });
        }
    }
}

/// The entries of a folder that are named like manifests.
fn manifests(folder: &Path) -> io::Result<Vec<(PathBuf, FileOrigin)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let file = entry.path();
        if !is_manifest(&file) {
            continue;
        }
        let itself = entry.file_type().is_ok_and(|kind| kind.is_file());
        // Reading a pipe or a device in a folder might never end. Files without metadata are reported when they are
        // read.
        let found = if itself {
            FileOrigin::InFolder
        } else if fs::metadata(&file).map_or(true, |metadata| metadata.is_file()) {
            FileOrigin::ByPath
        } else {
            FileOrigin::Gone
        };
        files.push((file, found));
    }
    files.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    Ok(files)
}

/// The end of a message about a file that currently cannot be read.
pub const STAYS: &str = "; the previous content stays in use";

/// The message for an I/O error.
pub fn io_message(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file or folder: create it, or correct the path".into(),
        io::ErrorKind::PermissionDenied => "permission denied: change its owner or its mode; it will be retried".into(),
        _ if error.raw_os_error().is_some() => format!("cannot be read: {error}; it will be retried"),
        _ => format!("cannot be read: {error}"),
    }
}
