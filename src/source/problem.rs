use std::{borrow::Cow, ops::Deref, path::Path, sync::Arc};

use crate::{
    model::ObjectKey,
    printable::limited,
    world::{MAX_SENTENCE, more_problems},
};

/// A mistake in manifest files that belongs to no load balancer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileProblem {
    /// A sentence that begins with the place.
    pub message: String,
    /// The path as it was given. `None`: standard input, or no file.
    pub file: Option<Arc<str>>,
    /// `None`: the file as a whole.
    pub line: Option<u64>,
    /// The kind and key of the affected object, if known.
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

    /// Appends `more` to the message.
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

/// Limits the problems to `most`, and each message to [`MAX_SENTENCE`]. The last problem counts the omitted ones,
/// including the `omitted` ones.
pub fn bounded_problems(mut problems: Vec<FileProblem>, omitted: usize, most: usize) -> Vec<FileProblem> {
    let more = omitted + problems.len().saturating_sub(most);
    problems.truncate(most);
    for problem in &mut problems {
        if let Cow::Owned(short) = limited(&problem.message, MAX_SENTENCE) {
            problem.message = short;
        }
    }
    if more > 0 {
        problems.push(FileProblem::new(more_problems(more)));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_beyond_the_bound_are_counted() {
        let problems = bounded_problems((0..150).map(|number| FileProblem::new(number.to_string())).collect(), 7, 100);
        assert_eq!(problems.len(), 101);
        assert_eq!(problems[100].message, "and 57 more problems: correct these first");
        assert_eq!(bounded_problems(vec![FileProblem::new("x".repeat(2 << 20))], 0, 100)[0].message.len() / 2048, 0);
    }
}
