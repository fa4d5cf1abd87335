//! Objects that files declare, and which declaration is used if several files declare the same object.

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    path::Path,
    sync::Arc,
};

use k8s_openapi::api::{
    core::v1::{ConfigMap, Secret, Service},
    discovery::v1::EndpointSlice,
};

use crate::{
    model::ObjectKey,
    printable::limited,
    shared::{SharedObject, revised},
    source::{
        documents::{Document, Object, ReadResult},
        problem::FileProblem,
    },
    world::{COMMAND_LINE, Declared, MAX_SENTENCE, Objects, World},
};

/// The origin of documents from standard input.
pub(super) const STANDARD_INPUT: &str = "standard input";

/// The declaration in use for each object, by kind and key.
pub(super) type DeclarationsInUse = HashMap<(&'static str, ObjectKey), DeclarationPlace>;

/// The place of a declaration among those of the same object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct DeclarationPlace {
    /// `None`: it comes from no file.
    file: Option<Arc<str>>,
    /// The number of declarations of the object before it in the file.
    earlier: usize,
}

impl DeclarationPlace {
    /// The places of all declarations.
    fn all(declarations: &[FileDeclaration]) -> Vec<Self> {
        let mut counts: HashMap<_, usize> = HashMap::new();
        let mut places = Vec::with_capacity(declarations.len());
        for FileDeclaration { document, .. } in declarations {
            let count = counts.entry((document.identity(), document.file.as_ref())).or_default();
            places.push(Self { file: document.file.clone(), earlier: *count });
            *count += 1;
        }
        places
    }
}

/// A document, and where it is from.
#[derive(Clone, Copy)]
pub(super) struct FileDeclaration<'a> {
    pub document: &'a Document,
    /// The folder that paths in the document are relative to.
    folder: &'a Path,
    /// True if the part of the file that may still have the document cannot be read.
    is_kept: bool,
}

impl<'a> FileDeclaration<'a> {
    pub fn new(document: &'a Document, folder: &'a Path) -> Self {
        Self { document, folder, is_kept: false }
    }

    pub fn kept(self) -> Self {
        Self { is_kept: true, ..self }
    }

    fn origin(&self) -> &'a str {
        let no_file = if &*self.document.place == COMMAND_LINE { COMMAND_LINE } else { STANDARD_INPUT };
        self.document.file.as_deref().unwrap_or(no_file)
    }

    /// The precedence over other declarations of the same object; the smallest wins. The one that is used already comes
    /// first, so that others replace nothing. Among the others, what certainly exists and is valid comes first.
    fn rank(&self, place: &DeclarationPlace, before: &DeclarationsInUse) -> (bool, bool, bool) {
        let (kind, key) = self.document.identity();
        let is_used = before.get(&(kind, key.clone())) == Some(place);
        (!is_used, !self.document.object.is_valid(), self.is_kept)
    }

    /// The problem of each previously declared object while the file, or a part of it, cannot be read. The file's
    /// problem has the cause.
    fn hidden(&self) -> Option<String> {
        let message = || format!("{} cannot be read completely: see the message about that file", self.origin());
        self.is_kept.then(message)
    }
}

/// The index and the place of the declaration to use for each object. `before`: those that have been used until now.
pub(super) fn in_use<'a>(
    declarations: &[FileDeclaration<'a>],
    before: &DeclarationsInUse,
) -> HashMap<(&'static str, &'a ObjectKey), (usize, DeclarationPlace)> {
    let mut in_use: HashMap<_, (usize, DeclarationPlace)> = HashMap::new();
    for (index, (declaration, place)) in declarations.iter().zip(DeclarationPlace::all(declarations)).enumerate() {
        match in_use.entry(declaration.document.identity()) {
            Entry::Vacant(entry) => drop(entry.insert((index, place))),
            Entry::Occupied(mut entry) => {
                let (used, used_place) = entry.get();
                if declaration.rank(&place, before) < declarations[*used].rank(used_place, before) {
                    entry.insert((index, place));
                }
            }
        }
    }
    in_use
}

/// The objects of all files.
#[derive(Default)]
pub(super) struct FoundObjects {
    pub load_balancers: BTreeMap<ObjectKey, Declared>,
    pub secrets: BTreeMap<ObjectKey, SharedObject<Secret>>,
    pub config_maps: BTreeMap<ObjectKey, SharedObject<ConfigMap>>,
    pub services: BTreeMap<ObjectKey, SharedObject<Service>>,
    pub endpoint_slices: BTreeMap<ObjectKey, SharedObject<EndpointSlice>>,
    unreadable: BTreeMap<(&'static str, ObjectKey), Arc<str>>,
}

impl FoundObjects {
    /// The declared objects and the declarations in use. Problems of objects and superfluous declarations are added to
    /// `problems`. `before`: the declarations that have been used until now, for the objects of `last`.
    pub fn gather(
        declarations: &[FileDeclaration],
        before: &DeclarationsInUse,
        last: &World,
        problems: &mut Vec<FileProblem>,
    ) -> (Self, DeclarationsInUse) {
        let in_use = in_use(declarations, before);
        let mut found = Self::default();
        for (index, declaration) in declarations.iter().enumerate() {
            let document = declaration.document;
            let (used, _) = in_use[&document.identity()];
            if used == index {
                found.declare(declaration, last, problems);
            } else {
                let Document { place, key, object, .. } = document;
                let used = &declarations[used];
                let place_of_used = match used.is_kept {
                    true => format!("may still be declared in {}, which cannot be read completely and", used.origin()),
                    false => format!("is also declared at {}, which", used.document.place),
                };
                let errors = object.problems().iter().map(|problem| format!("; in this one, {problem}"));
                let message = format!(
                    "{place}: {} {key} {place_of_used} is used: remove one of them, or rename it{}",
                    object.kind(),
                    errors.collect::<String>()
                );
                problems.push(about(document, limited(&message, MAX_SENTENCE).into_owned()));
            }
        }
        let in_use = in_use.into_iter().map(|((kind, key), (_, place))| ((kind, key.clone()), place));
        (found, in_use.collect())
    }

    fn declare(&mut self, declaration: &FileDeclaration, last: &World, problems: &mut Vec<FileProblem>) {
        let document = declaration.document;
        let Document { key, object, .. } = document;
        let read = match object {
            Object::LoadBalancer(read) => {
                let before = last.load_balancers.get(key).and_then(|last| last.spec.clone());
                let (spec, mut problems) = match read {
                    Ok(spec) => (Some(spec.clone()), Vec::new()),
                    Err(problems) => (before, problems.clone()),
                };
                problems.extend(declaration.hidden());
                let without_value = if read.is_ok() { document.without_value.clone() } else { Vec::new() };
                let declared = Declared {
                    spec,
                    problems,
                    without_value,
                    origin: declaration.origin().into(),
                    folder: declaration.folder.into(),
                    identity: None,
                    status: None,
                };
                self.load_balancers.insert(key.clone(), declared);
                return;
            }
            Object::Secret(read) => good(&mut self.secrets, &last.secrets, key, read),
            Object::ConfigMap(read) => good(&mut self.config_maps, &last.config_maps, key, read),
            Object::Service(read) => good(&mut self.services, &last.services, key, read),
            Object::EndpointSlice(read) => good(&mut self.endpoint_slices, &last.endpoint_slices, key, read),
        };
        if let Err((wrong, is_there)) = read {
            problems.push(self.remark(document, wrong, is_there));
        }
    }

    /// The problem of an invalid object. `is_there`: its last good text is in use.
    fn remark(&mut self, document: &Document, wrong: &[String], is_there: bool) -> FileProblem {
        let Document { place, key, object, .. } = document;
        let stays = if is_there { "; the previous version stays in use" } else { "" };
        let wrong = wrong.join("; ");
        let wrong = &*limited(&wrong, MAX_SENTENCE);
        if !is_there {
            self.unreadable.insert((object.kind(), key.clone()), wrong.into());
        }
        about(document, format!("{place}: {} {key}: {wrong}{stays}", object.kind()))
    }

    /// A world with these objects, which shares what is equal with the last one.
    pub fn into_world(self, last: &World) -> World {
        World {
            load_balancers: revised(&last.load_balancers, self.load_balancers),
            secrets: revised(&last.secrets, self.secrets),
            config_maps: revised(&last.config_maps, self.config_maps),
            services: revised(&last.services, self.services),
            endpoint_slices: revised(&last.endpoint_slices, self.endpoint_slices),
            unreadable: self.unreadable,
            ..World::default()
        }
    }
}

/// Adds an object to the world, or the last good version if the current one is invalid.
///
/// # Errors
/// The problems of the current version, and true if there is a last good one.
fn good<'a, T>(
    now: &mut BTreeMap<ObjectKey, SharedObject<T>>,
    last: &Objects<T>,
    key: &ObjectKey,
    read: &'a ReadResult<T>,
) -> Result<(), (&'a [String], bool)> {
    let object = match read {
        Ok(object) => Some(object.clone().into()),
        Err(_) => last.get(key).cloned(),
    };
    let is_there = object.is_some();
    now.extend(object.map(|object| (key.clone(), object)));
    read.as_ref().map(drop).map_err(|wrong| (&**wrong, is_there))
}

fn about(document: &Document, message: String) -> FileProblem {
    let Document { file, line, key, object, .. } = document;
    let line = Some(*line).filter(|line| *line > 0);
    FileProblem { file: file.clone(), line, ..FileProblem::new(message) }.of_object(object.kind(), key)
}
