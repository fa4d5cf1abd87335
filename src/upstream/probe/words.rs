//! What endpoints say, for people.

const LONGEST: usize = 120;

/// Their words, with anything that is no printable ASCII escaped, and not too many of them.
pub(super) fn printable(bytes: &[u8]) -> String {
    let bytes = bytes.trim_ascii_end();
    let text = bytes[..bytes.len().min(LONGEST)].escape_ascii().to_string().replace("\\'", "'").replace("\\\"", "\"");
    if bytes.len() > LONGEST { text + "…" } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_printable_and_few() {
        assert_eq!(printable(b"-ERR it's \"wrong\"\r\n"), "-ERR it's \"wrong\"");
        assert_eq!(printable(b"\x1b[31m\0\xff"), r"\x1b[31m\x00\xff");
        assert_eq!(printable(&[b'a'; 1000]), format!("{}…", "a".repeat(120)));
    }
}
