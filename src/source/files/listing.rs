//! Which files there are.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{STAYS, said};

/// How long a file may be away while it is replaced.
pub const MOMENT: Duration = Duration::from_millis(100);

/// Whether a file in a folder is taken for a manifest.
pub fn is_manifest(file: &Path) -> bool {
    let hidden = file.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    let extension = file.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    !hidden && ["yaml", "yml", "json"].contains(&extension.to_ascii_lowercase().as_str())
}

/// The files to read, in order, each once.
#[derive(Default)]
pub struct Listing {
    pub files: Vec<Listed>,
    pub problems: Vec<String>,
    seen: BTreeSet<PathBuf>,
}

pub struct Listed {
    pub file: PathBuf,
    /// It cannot even be listed: it is remembered only.
    pub gone: bool,
}

impl Listing {
    /// Editors and `git` replace a file by taking it away and writing it anew: one that has gone gets a [`MOMENT`] to come
    /// back before it counts as deleted.
    pub fn settled<'a>(
        paths: &[PathBuf],
        remembered: impl Iterator<Item = &'a PathBuf> + Clone,
        wait: impl FnOnce(),
    ) -> Self {
        let listing = Self::of(paths, remembered.clone());
        let listed = |file: &PathBuf| listing.files.iter().any(|listed| listed.file == *file);
        if remembered.clone().all(listed) {
            return listing;
        }
        wait();
        Self::of(paths, remembered)
    }

    fn of<'a>(paths: &[PathBuf], remembered: impl Iterator<Item = &'a PathBuf> + Clone) -> Self {
        let mut listing = Self::default();
        for path in paths {
            match fs::metadata(path).and_then(|metadata| metadata.is_dir().then(|| manifests(path)).transpose()) {
                Ok(None) => listing.add(path.clone()),
                Ok(Some(files)) => {
                    if files.is_empty() {
                        listing.problems.push(format!("{}: has no *.yaml, *.yml or *.json file", path.display()));
                    }
                    files.into_iter().for_each(|file| listing.add(file));
                }
                Err(error) => {
                    let why = format!("{}: {}", path.display(), said(&error));
                    let below = remembered.clone().filter(|file| *file == path || file.parent() == Some(path));
                    let below: Vec<_> = below.filter(|file| listing.seen.insert(file.to_path_buf())).collect();
                    let stays = if below.is_empty() { "" } else { STAYS };
                    let gone = below.into_iter().map(|file| Listed { file: file.clone(), gone: true });
                    listing.files.extend(gone);
                    listing.problems.push(format!("{why}{stays}"));
                }
            }
        }
        listing
    }

    /// Adds a file, unless it is there already under this name or another.
    fn add(&mut self, file: PathBuf) {
        if self.seen.insert(fs::canonicalize(&file).unwrap_or_else(|_| file.clone())) {
            self.files.push(Listed { file, gone: false });
        }
    }
}

fn manifests(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let file = entry?.path();
        // Reading a pipe or a device in a folder might never end. What cannot be looked at is told of when it is read.
        let readable = fs::metadata(&file).map_or(true, |metadata| metadata.is_file());
        if is_manifest(&file) && readable {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}
