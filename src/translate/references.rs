//! Texts in Secrets, ConfigMaps and files that load balancers refer to, and the fallback for unreadable ones.

use std::{path::Path, sync::Arc};

use super::{declaration::Declaration, field_errors::FieldPath, messages::missing, quotas, verdict::Reason};
use crate::{
    api::{RefKind, Reference},
    world::{ObjectRef, ProcessMode, World},
};

/// The content of a referenced key or file.
pub(super) struct ReferencedText<'a> {
    /// Title for messages: `tls.crt of Secret shop/pg-tls`, or the file name.
    pub title: String,
    pub bytes: &'a [u8],
}

impl<'a> ReferencedText<'a> {
    /// The value of a key. `None`: the object has no such key.
    pub fn of(referred: &ObjectRef, key: &str, world: &'a World) -> Result<Option<Self>, String> {
        let ObjectRef { kind, key: name } = referred;
        let missing = || missing(kind.name(), name, world);
        let bytes = match kind {
            RefKind::Secret => {
                let data = &world.secrets.get(name).ok_or_else(missing)?.data;
                data.as_ref().and_then(|data| data.get(key)).map(|bytes| bytes.0.as_slice())
            }
            RefKind::ConfigMap => {
                let map = world.config_maps.get(name).ok_or_else(missing)?;
                let text = map.data.as_ref().and_then(|data| data.get(key)).map(|text| text.as_bytes());
                // kubectl stores content that is not UTF-8 in binaryData. It is read too, to report that it is not PEM.
                let binary = map.binary_data.as_ref().and_then(|data| data.get(key)).map(|bytes| bytes.0.as_slice());
                if text.is_some() && binary.is_some() {
                    return Err(format!("{referred} has {key} twice, in data and in binaryData: remove one of them"));
                }
                text.or(binary)
            }
        };
        Ok(bytes.map(|bytes| Self { title: format!("{key} of {referred}"), bytes }))
    }

    pub fn of_file(file: &str, folder: &Path, world: &'a World) -> Result<Self, String> {
        let path = folder.join(file);
        let title = format!("file {}", path.display());
        match world.files.get(&path) {
            Some(Ok(text)) => Ok(Self { title, bytes: text }),
            Some(Err(problem)) => Err(format!("{title}: {problem}")),
            None => Err(format!("{title} has not been read")),
        }
    }
}

/// The last good value of a reference, and the message about its use while the reference is unreadable.
pub(super) struct ReferenceFallback<T> {
    /// `None`: there was none, and the reference is dropped.
    pub value: Option<T>,
    pub retained: &'static str,
    pub dropped: &'static str,
}

/// A reference to an object that is not read here. Nothing that depends on it is refused.
pub(super) enum Unchecked {
    /// Sidecars have no quotas and read the object themselves.
    BySidecar(ObjectRef),
    /// See [`World::unread`].
    Unread(Arc<str>),
}

impl Unchecked {
    pub fn warn(&self, path: &mut FieldPath) {
        match self {
            Self::BySidecar(referred) => path.warn(
                Reason::NotPermitted,
                format!(
                    "{referred} is not checked here, because the administrator limits the Secrets of a namespace; the \
                     pods read it themselves"
                ),
            ),
            Self::Unread(why) => path.warn(Reason::Unknown, &**why),
        }
    }
}

impl Declaration<'_> {
    /// Reads a reference. An unreadable one falls back to the last good value, or is dropped.
    pub fn read_or_last_good<T>(
        &self,
        reference: Option<Reference>,
        fallback: ReferenceFallback<T>,
        path: &mut FieldPath,
        read: impl FnOnce() -> Result<T, String>,
    ) -> Option<T> {
        if let Some(unchecked) = self.unchecked(reference) {
            unchecked.warn(path);
            return None;
        }
        let read = match self.beyond_quota(reference) {
            Some(referred) => Err((Reason::NotPermitted, quotas::beyond(&referred, self))),
            None => read().map_err(|message| (Reason::InvalidCertificateRef, message)),
        };
        read.map_err(|(reason, message)| {
            let use_instead = if fallback.value.is_some() { fallback.retained } else { fallback.dropped };
            path.drop_item(reason, format!("{message}; {use_instead}"));
        })
        .ok()
        .or(fallback.value)
    }

    /// The referenced object, if it exceeds the quota of its namespace.
    pub fn beyond_quota(&self, reference: Option<Reference>) -> Option<ObjectRef> {
        let referred = ObjectRef::by(self.object, reference?);
        self.context.world.beyond_quota.contains(&referred).then_some(referred)
    }

    /// The reason not to read a reference. `None`: it is read.
    pub fn unchecked(&self, reference: Option<Reference>) -> Option<Unchecked> {
        let world = self.context.world;
        match self.beyond_quota(reference) {
            Some(referred) => matches!(world.mode, ProcessMode::Sidecar(_)).then_some(Unchecked::BySidecar(referred)),
            None => {
                let ObjectRef { kind, key } = ObjectRef::by(self.object, reference?);
                world.unread(kind.name(), &key).map(Unchecked::Unread)
            }
        }
    }
}

/// The referenced object or files. `instead` names the kind of object to write where files are not allowed.
pub(super) fn object_or_files<'f, F>(
    reference: Option<Reference>,
    (field, files): (&str, Option<&'f F>),
    instead: &str,
    declaration: &Declaration,
) -> Result<(Option<ObjectRef>, Option<&'f F>), String> {
    let is_standalone = declaration.context.world.mode == ProcessMode::Standalone;
    match (reference, files) {
        (Some(_), Some(_)) => Err(format!("both name and {field} are set: keep one of them")),
        (None, Some(_)) if !is_standalone => {
            Err(format!("files are not supported in a cluster: write the name of {instead}"))
        }
        (reference, files) => Ok((reference.map(|reference| ObjectRef::by(declaration.object, reference)), files)),
    }
}
