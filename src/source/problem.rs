use std::{ops::Deref, path::Path, sync::Arc};

use super::limits::bounded;
use crate::model::ObjectKey;

/// A mistake in manifest files that belongs to no load balancer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileProblem {
    /// A sentence that begins with the place.
    pub message: String,
    /// The path, as it was given. `None`: standard input, or no file at all.
    pub file: Option<Arc<str>>,
    /// `None`: the file as a whole.
    pub line: Option<u64>,
    /// The kind and key of the object that it is about, as far as it is known.
    pub object: Option<(&'static str, ObjectKey)>,
}

impl FileProblem {
    pub fn new(message: String) -> Self {
        Self { message, file: None, line: None, object: None }
    }

    pub fn of_file(file: &Path, message: String) -> Self {
        Self { file: Some(file.display().to_string().into()), ..Self::new(message) }
    }

    pub fn of_object(self, kind: &'static str, key: &ObjectKey) -> Self {
        Self { object: Some((kind, key.clone())), ..self }
    }

    /// With this at the end of its message.
    pub fn followed_by(self, more: &str) -> Self {
        Self { message: self.message + more, ..self }
    }
}

impl Deref for FileProblem {
    type Target = str;

    fn deref(&self) -> &str {
        &self.message
    }
}

/// No more than `most` problems, with the bounds of [`bounded`].
pub fn bounded_problems(problems: Vec<FileProblem>, untold: usize, most: usize) -> Vec<FileProblem> {
    let messages = bounded(problems.iter().map(|problem| problem.message.clone()).collect(), untold, most);
    let mut problems = problems.into_iter().take(most);
    let with_place = |message| match problems.next() {
        Some(problem) => FileProblem { message, ..problem },
        None => FileProblem::new(message),
    };
    messages.into_iter().map(with_place).collect()
}
