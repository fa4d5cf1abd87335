//! Bounds on what manifests may make the process say and remember.

use std::borrow::Cow;

use crate::printable::limited;

/// The longest sentence about one thing that is wrong, in bytes.
pub const MAX_SENTENCE: usize = 1024;
/// The most sentences about one object or one file.
pub const MAX_PROBLEMS: usize = 100;
/// The most sentences about files as a whole.
pub const MAX_FILE_PROBLEMS: usize = 1000;
/// The largest manifest file, in bytes.
pub const MAX_FILE: u64 = 16 << 20;
/// The most objects in one file, those in lists included.
pub const MAX_DOCUMENTS: usize = 10_000;
/// The longest name or namespace that is taken for one, in bytes: what Kubernetes allows for any object.
pub const MAX_NAME: usize = 253;

/// No more than `most` sentences, none longer than [`MAX_SENTENCE`]. The last one counts what is left out, with those that
/// were `untold` before.
pub fn bounded(mut sentences: Vec<String>, untold: usize, most: usize) -> Vec<String> {
    let more = untold + sentences.len().saturating_sub(most);
    sentences.truncate(most);
    for sentence in &mut sentences {
        if let Cow::Owned(short) = limited(sentence, MAX_SENTENCE) {
            *sentence = short;
        }
    }
    if more > 0 {
        sentences.push(more_problems(more));
    }
    sentences
}

/// The last sentence where so many more problems are left out.
pub fn more_problems(count: usize) -> String {
    format!("and {count} more problems: correct the ones before first")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_beyond_the_bound_are_counted() {
        let sentences = bounded((0..150).map(|number| number.to_string()).collect(), 7, 100);
        assert_eq!(sentences.len(), 101);
        assert_eq!(sentences[100], "and 57 more problems: correct the ones before first");
        assert_eq!(bounded(vec!["x".repeat(2 << 20)], 0, 100)[0].len() / 2048, 0);
    }
}
