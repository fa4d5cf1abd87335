//! Text from endpoints, for display.

const LONGEST: usize = 120;

/// Escapes everything but printable ASCII, and truncates long text.
pub(super) fn printable(bytes: &[u8]) -> String {
    let bytes = bytes.trim_ascii_end();
    let text = bytes[..bytes.len().min(LONGEST)].escape_ascii().to_string().replace("\\'", "'").replace("\\\"", "\"");
    if bytes.len() > LONGEST { text + "…" } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_printable_and_short() {
        assert_eq!(printable(b"-ERR it's \"wrong\"\r\n"), "-ERR it's \"wrong\"");
        assert_eq!(printable(b"\x1b[31m\0\xff"), r"\x1b[31m\x00\xff");
        assert_eq!(printable(&[b'a'; 1000]), format!("{}…", "a".repeat(120)));
    }
}
