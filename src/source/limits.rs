//! Bounds on what manifests may make the process say and remember.

use std::borrow::Cow;

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

/// The beginning and the end of a text that is longer than `most` bytes: sentences name the field first, and what to write
/// last.
pub fn shortened(text: &str, most: usize) -> Cow<'_, str> {
    if text.len() <= most {
        return text.into();
    }
    let start = text.floor_char_boundary(most / 2);
    let end = text.ceil_char_boundary(text.len() - most / 4);
    format!("{}… ({} bytes left out) …{}", &text[..start], end - start, &text[end..]).into()
}

/// No more than `most` sentences, none longer than [`MAX_SENTENCE`]. The last one counts what is left out.
pub fn bounded(mut sentences: Vec<String>, most: usize) -> Vec<String> {
    let more = sentences.len().saturating_sub(most);
    sentences.truncate(most);
    for sentence in &mut sentences {
        if let Cow::Owned(short) = shortened(sentence, MAX_SENTENCE) {
            *sentence = short;
        }
    }
    if more > 0 {
        sentences.push(format!("and {more} more problems: correct the ones before first"));
    }
    sentences
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_keep_their_beginning_and_their_end() {
        assert_eq!(shortened("short", 5), "short");
        let text = format!("name: `{}` is wrong: write another", "ä".repeat(100_000));
        let short = shortened(&text, 100);
        assert!(short.starts_with("name: `ä") && short.ends_with("is wrong: write another"), "{short}");
        assert!(short.len() < 150 && short.contains("bytes left out"), "{short}");
    }

    #[test]
    fn sentences_beyond_the_bound_are_counted() {
        let sentences = bounded((0..150).map(|number| number.to_string()).collect(), 100);
        assert_eq!(sentences.len(), 101);
        assert_eq!(sentences[100], "and 50 more problems: correct the ones before first");
        assert_eq!(bounded(vec!["x".repeat(2 << 20)], 100)[0].len() / 2048, 0);
    }
}
