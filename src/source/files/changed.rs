//! Reading only the files that have changed.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use super::{
    FileContent, Files, FoundObjects,
    file_version::FileVersion,
    is_being_written,
    listing::{FileOrigin, KnownFile},
    read_named_file,
};
use crate::{
    model::ObjectKey,
    source::{documents::Document, file_watch::ChangedPaths},
    world::{Declared, World},
};

impl Files {
    /// Reads the changed files, or all files if the change may concern others. The second result is true if all were
    /// read, so that the watched paths may differ.
    pub fn read_after(&mut self, changed: &ChangedPaths) -> (World, bool) {
        let read = match changed {
            ChangedPaths::Unknown => None,
            ChangedPaths::Files(paths) => self.read_changed(paths),
        };
        read.map_or_else(|| (self.read(), true), |world| (world, false))
    }

    /// Reads only these files. `None`: the change may concern others too. A file can be read alone if it declares the
    /// same objects as before, without any problem.
    fn read_changed(&mut self, paths: &BTreeSet<PathBuf>) -> Option<World> {
        if self.incomplete {
            return None;
        }
        let files: Vec<KnownFile> =
            paths.iter().map(|path| self.by_real_path.get(path).cloned()).collect::<Option<_>>()?;
        let mut world = self.last.clone();
        for file in files {
            match file {
                KnownFile::Manifest(file) => {
                    let found = self.read_manifest(&file)?;
                    if !found.load_balancers.iter().all(|(key, now)| names_same_files(&world, key, now)) {
                        return None;
                    }
                    found.add_to(&mut world);
                }
                KnownFile::Named(path) if is_being_written(&path, &self.unfinished) => {}
                KnownFile::Named(path) => {
                    let read = read_named_file(&path);
                    if read.is_err() {
                        return None;
                    }
                    // An equal content stays the same allocation.
                    if world.files.get(&path) != Some(&read) {
                        world.files.insert(path, read);
                    }
                }
            }
        }
        // The target of a new link must be watched. Checked last, since a file may be replaced during the reading.
        if !paths.iter().all(|path| fs::symlink_metadata(path).is_ok_and(|found| found.is_file())) {
            return None;
        }
        self.last = world.clone();
        Some(world)
    }

    /// The objects of one file. `None`: they are not the same ones as before, or there is a problem.
    fn read_manifest(&mut self, file: &Path) -> Option<FoundObjects> {
        FileVersion::of(file)?;
        let before = self.remembered.remove(file)?;
        let identities = identities(&before.documents);
        let (mut problems, namespace) = (Vec::new(), self.namespace().to_owned());
        let content = FileContent::of(file, &namespace, Some(before), &self.unfinished, &mut problems);
        let declarations: Vec<_> = content.declarations(file).collect();
        let (found, _) = FoundObjects::gather(&declarations, &self.in_use, &self.last, &mut problems);
        let is_well = content.kept.is_empty() && problems.is_empty() && self::identities(&content.fresh) == identities;
        let mut remembered = content.remembered(FileOrigin::InFolder);
        if !is_well {
            // All files are read again, so this one too.
            (remembered.text, remembered.version) = (None, None);
        }
        self.remembered.insert(file.to_owned(), remembered);
        is_well.then_some(found)
    }
}

impl FoundObjects {
    /// Replaces these objects in a world. Equal ones stay as they are.
    fn add_to(self, world: &mut World) {
        macro_rules! add {
            ($($kind:ident),*) => {
                $(for (key, object) in self.$kind {
                    if world.$kind.get(&key) != Some(&object) {
                        world.$kind.insert(key, object);
                    }
                })*
            };
        }
        add!(load_balancers, secrets, config_maps, services, endpoint_slices);
    }
}

/// The kinds and keys of documents, sorted.
fn identities(documents: &[Document]) -> Vec<(&'static str, ObjectKey)> {
    let identities = documents.iter().map(Document::identity);
    let mut identities: Vec<_> = identities.map(|(kind, key)| (kind, key.clone())).collect();
    identities.sort_unstable();
    identities
}

/// True if a load balancer names the same files as before.
fn names_same_files(before: &World, key: &ObjectKey, now: &Declared) -> bool {
    let files = |declared: &Declared| -> BTreeSet<PathBuf> {
        let specs = declared.spec.iter();
        specs.flat_map(|spec| spec.files()).map(|file| declared.path_of(file)).collect()
    };
    before.load_balancers.get(key).is_some_and(|before| files(before) == files(now))
}
