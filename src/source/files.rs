//! A [`World`] from files and flags, with memory.

mod changed;
mod declarations;
mod file_version;
mod listing;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fs,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Instant, SystemTime},
};

use declarations::{DeclarationPlace, DeclarationsInUse, FileDeclaration, FoundObjects, STANDARD_INPUT, in_use};
use file_version::{FileVersion, is_local};
use listing::{FileOrigin, KnownFile, Listed, Listing, REPLACE_DELAY, STAYS, io_message};
use xxhash_rust::xxh3::xxh3_128;

use super::{
    bounded_file::{bytes_of_file, read_at_most},
    documents::{Document, Documents, Object},
    file_watch::{WatchedPaths, look},
    limits::{MAX_DOCUMENTS, MAX_FILE, MAX_FILE_PROBLEMS},
    problem::{FileProblem, bounded_problems},
    schema,
    unfinished::Unfinished,
};
use crate::{
    api::{GROUP, KIND, TcpLoadBalancerSpec, VERSION},
    model::ObjectKey,
    shared::revised,
    world::{COMMAND_LINE, World},
};

/// Manifests in files, in folders and from the command line.
///
/// The objects of a file stay in use while the file cannot be read. The last good text of an object stays in use while
/// its current text is invalid. A document removed from a file is a deletion, and so is a file removed from a folder. A
/// named path that is missing is a mistake. While a file is being written, its previous content applies.
#[derive(Default)]
pub struct Files {
    paths: Vec<PathBuf>,
    flags: Option<Document>,
    /// The documents from standard input.
    input: Documents,
    /// The namespace of objects that set none. `None`: `default`.
    namespace: Option<String>,
    /// The problems of the latest reading.
    problems: Vec<FileProblem>,
    remembered: BTreeMap<PathBuf, Remembered>,
    /// The files that can be read alone, by their paths without symbolic links.
    by_real_path: HashMap<PathBuf, KnownFile>,
    last: World,
    in_use: DeclarationsInUse,
    unfinished: Unfinished,
    /// True if the latest reading had problems with files.
    incomplete: bool,
}

/// The objects of a file at its last successful reading.
#[derive(Default)]
struct Remembered {
    documents: Vec<Document>,
    passed_over: usize,
    /// A hash of the text if it had no problem. A text with the same hash is not parsed again.
    text: Option<u128>,
    /// `None`: the file must be read again.
    version: Option<FileVersion>,
    found: FileOrigin,
}

impl Files {
    /// Reads these files and folders. In folders, files named `*.yaml`, `*.yml` and `*.json` are manifests.
    pub fn new(paths: Vec<PathBuf>) -> Self {
        Self { paths, ..Self::default() }
    }

    /// Adds a load balancer that flags describe, as `default/cli`. It is checked like one in a file.
    pub fn with_flags(mut self, spec: &TcpLoadBalancerSpec) -> Self {
        let document = serde_json::json!({
            "apiVersion": format!("{GROUP}/{VERSION}"), "kind": KIND, "metadata": {"name": "cli"}, "spec": spec,
        });
        let object = Object::LoadBalancer(schema::load_balancer(document).map(Arc::new));
        let key = ObjectKey::new(DEFAULT_NAMESPACE, "cli");
        // No file replaces it.
        self.in_use.insert((KIND, key.clone()), DeclarationPlace::default());
        self.flags = Some(Document {
            place: COMMAND_LINE.into(),
            file: None,
            line: 0,
            key,
            object,
            without_value: Vec::new(),
            is_template: false,
        });
        self
    }

    /// Sets the namespace of objects that set none. The default is `default`. It does not affect documents that
    /// [`Self::with_input`] has read.
    pub fn in_namespace(mut self, namespace: Option<String>) -> Self {
        self.namespace = namespace;
        self
    }

    /// Adds the manifests on standard input, which is read to its end.
    ///
    /// # Errors
    /// If it cannot be read, is empty, is too large, or is not UTF-8 text.
    pub fn with_input(mut self, input: impl Read) -> Result<Self, String> {
        let wrong = |what: &str| format!("{STANDARD_INPUT}: {what}");
        let bytes = read_at_most(input, MAX_FILE, TOO_LONG).map_err(|error| wrong(&io_message(&error)))?;
        let text = decoded(bytes).map_err(|problem| wrong(&problem))?;
        // The command in front of a pipe may have failed.
        if text.trim().is_empty() {
            return Err(wrong("is empty: pass manifests to it"));
        }
        self.input = Documents::read_unnamed(STANDARD_INPUT, &text, self.namespace());
        Ok(self)
    }

    /// The number of objects of other kinds in the latest reading.
    pub fn passed_over(&self) -> usize {
        self.input.passed_over + self.remembered.values().map(|remembered| remembered.passed_over).sum::<usize>()
    }

    /// The problems of the latest reading that belong to no load balancer: the same as [`World::problems`].
    pub fn problems(&self) -> &[FileProblem] {
        &self.problems
    }

    /// The objects of the latest reading, by kind and key, whose values a tool replaces before they are applied, for
    /// example encrypted Secrets.
    pub fn templates(&self) -> BTreeSet<(&'static str, ObjectKey)> {
        let templates = self.documents().filter(|document| document.is_template);
        templates.map(|document| (document.object.kind(), document.key.clone())).collect()
    }

    fn documents(&self) -> impl Iterator<Item = &Document> {
        let of_files = self.remembered.values().flat_map(|remembered| &remembered.documents);
        self.input.objects.iter().chain(of_files)
    }

    fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE)
    }

    /// The files and lines where load balancers begin, as of the latest reading.
    pub fn places(&self) -> BTreeMap<ObjectKey, (Option<Arc<str>>, u64)> {
        let declarations: Vec<_> =
            self.documents().map(|document| FileDeclaration::new(document, Path::new(""))).collect();
        let in_use = in_use(&declarations, &self.in_use).into_iter();
        let ours = in_use.filter(|((kind, _), _)| *kind == KIND).map(|(_, (index, _))| declarations[index].document);
        ours.map(|document| (document.key.clone(), (document.file.clone(), document.line))).collect()
    }

    /// Reads everything again. Blocks while it reads the files, and for 100 ms more if a file is missing from its
    /// folder.
    ///
    /// Problems are part of the [`World`]. Its `names` are empty.
    pub fn read(&mut self) -> World {
        let mut problems: Vec<_> = self.input.problems.iter().chain(&self.input.remarks).cloned().collect();
        let listing = Listing::settled(&self.paths, self.remembered.keys(), || thread::sleep(REPLACE_DELAY));
        problems.extend(listing.problems);
        self.by_real_path.clear();
        let mut contents = Vec::new();
        for Listed { file, found, real } in listing.files {
            if found == FileOrigin::InFolder {
                self.by_real_path.insert(real, KnownFile::Manifest(file.clone()));
            }
            let before = self.remembered.remove(&file);
            let content = match found {
                FileOrigin::Gone => {
                    FileContent { kept: before.unwrap_or_default().documents, ..FileContent::default() }
                }
                // A pipe can be read only once. Folders contain none: see [`Listing`].
                FileOrigin::ByPath if before.is_some() && is_no_file(&file) => {
                    FileContent { fresh: before.unwrap_or_default().documents, ..FileContent::default() }
                }
                FileOrigin::InFolder | FileOrigin::ByPath => {
                    let namespace = self.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
                    FileContent::of(&file, namespace, before, &self.unfinished, &mut problems)
                }
            };
            contents.push((file, found, content));
        }
        let of_no_file = self.flags.iter().chain(&self.input.objects);
        let mut declarations: Vec<_> =
            of_no_file.map(|document| FileDeclaration::new(document, Path::new(""))).collect();
        declarations.extend(contents.iter().flat_map(|(file, _, content)| content.declarations(file)));
        let (found, in_use) = FoundObjects::gather(&declarations, &self.in_use, &self.last, &mut problems);
        let mut world = found.into_world(&self.last);
        read_named_files(&mut world, &self.last, &self.unfinished);
        self.note_named_files(&world);
        self.problems = bounded_problems(problems, 0, MAX_FILE_PROBLEMS);
        world.problems = self.problems.iter().map(|problem| problem.message.clone()).collect();
        self.incomplete = !world.problems.is_empty() || world.files.values().any(Result::is_err);
        self.in_use = in_use;
        self.remembered =
            contents.into_iter().map(|(file, found, content)| (file, content.remembered(found))).collect();
        self.last = world.clone();
        world
    }

    /// Records which of the files that manifests name can be read alone: those with a single name, without links.
    fn note_named_files(&mut self, world: &World) {
        let mut names: HashMap<PathBuf, Vec<&PathBuf>> = HashMap::new();
        for name in world.files.keys() {
            if let Ok(real) = fs::canonicalize(name) {
                names.entry(real).or_default().push(name);
            }
        }
        for (real, names) in names {
            let is_manifest = self.by_real_path.remove(&real).is_some();
            if !is_manifest && names == [&real] {
                self.by_real_path.insert(real.clone(), KnownFile::Named(real));
            }
        }
    }

    /// Makes the next reading read all files, also those that seem to be unchanged.
    pub fn forget_versions(&mut self) {
        self.remembered.values_mut().for_each(|remembered| remembered.version = None);
    }

    /// True if the latest reading had problems with files. The cause may be outside the text: too few descriptors, an
    /// unavailable network file system, or a file that is being replaced. A retry may help.
    pub fn is_incomplete(&self) -> bool {
        self.incomplete
    }

    /// The paths to watch for changes, as of the latest reading.
    pub fn interest(&self) -> WatchedPaths {
        // The watch of a folder covers the files in it. What cannot be listed is in one, or is one of `paths`.
        let by_path = self.remembered.iter().filter(|(_, remembered)| remembered.found == FileOrigin::ByPath);
        let paths = self.paths.iter().chain(by_path.map(|(path, _)| path)).chain(self.last.files.keys());
        let paths = paths.filter_map(|path| std::path::absolute(path).ok());
        WatchedPaths::of(paths, look).noting(self.unfinished.clone())
    }
}

/// The remedy for a file that is too long.
const TOO_LONG: &str = "split it";

/// The namespace of objects that set none, unless another one is configured.
const DEFAULT_NAMESPACE: &str = "default";

/// The result of reading a file.
#[derive(Default)]
struct FileContent {
    fresh: Vec<Document>,
    /// Documents of the previous reading. The unreadable part may still declare them.
    kept: Vec<Document>,
    passed_over: usize,
    /// See [`Remembered::text`].
    text: Option<u128>,
    /// See [`Remembered::version`].
    version: Option<FileVersion>,
}

impl FileContent {
    fn declarations<'a>(&'a self, file: &'a Path) -> impl Iterator<Item = FileDeclaration<'a>> {
        let folder = file.parent().unwrap_or(Path::new(""));
        let fresh = self.fresh.iter().map(move |document| FileDeclaration::new(document, folder));
        let kept = self.kept.iter().map(move |document| FileDeclaration::new(document, folder).kept());
        fresh.chain(kept)
    }

    fn remembered(mut self, found: FileOrigin) -> Remembered {
        self.fresh.append(&mut self.kept);
        let Self { fresh: documents, passed_over, text, version, .. } = self;
        Remembered { documents, passed_over, text, version, found }
    }

    fn of(
        file: &Path,
        namespace: &str,
        before: Option<Remembered>,
        unfinished: &Unfinished,
        problems: &mut Vec<FileProblem>,
    ) -> Self {
        let Remembered { documents: mut kept, text: text_before, version: version_before, passed_over, .. } =
            before.unwrap_or_default();
        let stays = if kept.is_empty() { "" } else { STAYS };
        // Examined before and after the reading, so that a change in between causes another one.
        let (version, now) = (FileVersion::of(file), SystemTime::now());
        if version.is_some() && version == version_before && text_before.is_some() {
            return Self { fresh: kept, passed_over, text: text_before, version, ..Self::default() };
        }
        let text = read_text(file);
        let version = version.filter(|version| {
            version.is_older_than_resolution(now) && is_local(file) && FileVersion::of(file) == Some(*version)
        });
        // Checked after the reading, because the writing may begin just before the reading.
        if is_being_written(file, unfinished) {
            return Self { fresh: kept, ..Self::default() };
        }
        let text = match text {
            Ok(text) => text,
            Err(why) => {
                problems.push(FileProblem::of_file(file, format!("{why}{stays}")));
                return Self { kept, ..Self::default() };
            }
        };
        let hash = Some(xxh3_128(text.as_bytes()));
        if hash == text_before {
            return Self { fresh: kept, passed_over, text: hash, version, ..Self::default() };
        }
        let documents = Documents::read(file, &text, namespace);
        let fresh: HashSet<_> = documents.objects.iter().map(Document::identity).collect();
        // Other documents that are no longer in the file were deleted.
        kept.retain(|old| !fresh.contains(&old.identity()) && documents.hidden.may_have(old.object.kind()));
        kept.truncate(MAX_DOCUMENTS.saturating_sub(documents.objects.len()));
        let all_well = documents.problems.is_empty() && documents.remarks.is_empty();
        let stays = if kept.is_empty() { "" } else { STAYS };
        problems.extend(documents.problems.into_iter().map(|problem| problem.followed_by(stays)));
        problems.extend(documents.remarks);
        let passed_over = documents.passed_over;
        Self { fresh: documents.objects, kept, passed_over, text: hash.filter(|_| all_well), version }
    }
}

fn is_no_file(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| !metadata.is_file())
}

fn is_being_written(file: &Path, unfinished: &Unfinished) -> bool {
    // The usual case. The check of each part of each path would take longer than reading the files.
    if unfinished.is_empty() {
        return false;
    }
    let is_file = fs::metadata(file).is_ok_and(|metadata| metadata.is_file());
    is_file && fs::canonicalize(file).is_ok_and(|file| unfinished.contains(&file, Instant::now()))
}

fn read_text(file: &Path) -> Result<String, String> {
    let wrong = |what: &str| format!("{}: {what}", file.display());
    // A named path may be a pipe.
    let bytes = fs::File::open(file).and_then(|opened| read_at_most(opened, MAX_FILE, TOO_LONG));
    let bytes = bytes.map_err(|error| wrong(&io_message(&error)))?;
    let text = decoded(bytes).map_err(|problem| wrong(&problem))?;
    // Writing a file in place begins with truncating it.
    if text.trim().is_empty() { Err(wrong("is empty: write a manifest, or delete the file")) } else { Ok(text) }
}

/// Decodes UTF-8 without the byte order marks at the beginning. A concatenation of files may have several.
///
/// # Errors
/// If the bytes are not UTF-8 text.
pub fn decoded(mut bytes: Vec<u8>) -> Result<String, String> {
    const MARK: &[u8] = b"\xef\xbb\xbf";

    let line_at = |bytes: &[u8], at: usize| 1 + bytes[..at].iter().filter(|byte| **byte == b'\n').count();
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err("is text in UTF-16 or UTF-32: save it as UTF-8".into());
    }
    if bytes.starts_with(b"\x1f\x8b") {
        return Err("is compressed (gzip): decompress it".into());
    }
    if let Some(at) = bytes.iter().position(|byte| *byte == 0) {
        return Err(format!(
            "has a NUL byte at line {}, and is probably UTF-16 or UTF-32: save it as UTF-8",
            line_at(&bytes, at)
        ));
    }
    let marks = bytes.chunks_exact(MARK.len()).take_while(|chunk| *chunk == MARK).count();
    bytes.drain(..marks * MARK.len());
    // After a concatenation of files with byte order marks, a mark hides the `---` that follows it.
    if let Some(at) = bytes.windows(MARK.len() + 1).position(|part| part[0] == b'\n' && &part[1..] == MARK) {
        let line = line_at(&bytes, at) + 1;
        return Err(format!("has a byte order mark within the text, at line {line}: remove it"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let line = line_at(error.as_bytes(), error.utf8_error().valid_up_to());
        format!("is not text in UTF-8, from line {line} on: save it as UTF-8")
    })
}

/// Reads certificates, keys and passwords.
fn read_named_files(world: &mut World, last: &World, unfinished: &Unfinished) {
    let declared = world.load_balancers.values().filter_map(|declared| Some((declared, declared.spec.as_ref()?)));
    let paths: BTreeSet<PathBuf> =
        declared.flat_map(|(declared, spec)| spec.files().map(|file| declared.path_of(file))).collect();
    let read = |path: PathBuf| {
        let read = read_named_file(&path);
        // An equal content stays the same allocation, which shows that nothing has changed.
        let last = last.files.get(&path).filter(|last| **last == read || is_being_written(&path, unfinished));
        (path, last.cloned().unwrap_or(read))
    };
    world.files = revised(&last.files, paths.into_iter().map(read).collect());
}

fn read_named_file(file: &Path) -> Result<Arc<[u8]>, Arc<str>> {
    const MOST: u64 = 1 << 20;

    bytes_of_file(file, MOST, TOO_LONG).map(Arc::from).map_err(|error| io_message(&error).into())
}
