//! Characters that end a line for kubectl, as in YAML 1.1, and are ordinary characters in YAML 1.2.

use super::node_problem::{NodeProblem, RefusedNode};

const BREAKS: [char; 3] = ['\u{85}', '\u{2028}', '\u{2029}'];

/// # Errors
/// If the text has such a character: what follows it in a comment is content for kubectl.
pub fn check(text: &str) -> Result<(), RefusedNode> {
    let Some(at) = text.find(BREAKS) else { return Ok(()) };
    let before = &text[..at];
    let line = 1 + before.bytes().filter(|byte| *byte == b'\n').count() as u64;
    let column = 1 + before.rsplit('\n').next().unwrap_or_default().chars().count() as u64;
    let code = text[at..].chars().next().map_or(0, u32::from);
    let sentence = format!(
        "has the character U+{code:04X}, which ends a line for kubectl but not for tcplb: remove it, or write \
         `\\u{code:04X}` in a text in double quotes"
    );
    Err(RefusedNode { problem: NodeProblem { line, column, sentence }, of_kind: false })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::source::documents::Documents;

    #[test]
    fn line_breaks_of_yaml_1_1_are_refused_in_supported_objects() {
        for (text, expected) in [
            ("# x\u{85}spec: {}", "line 4, column 4: has the character U+0085, which ends a line for kubectl"),
            ("a:\n  b: 'ä\u{2028}'", "line 5, column 8: has the character U+2028"),
            ("data: {\u{2029}}", "line 4, column 8: has the character U+2029"),
        ] {
            let of_kind = |kind: &str| {
                let text = format!("apiVersion: v1\nkind: {kind}\nmetadata: {{name: a}}\n{text}\n");
                Documents::read(Path::new("a.yaml"), &text, "default")
            };
            let documents = of_kind("Secret");
            assert_eq!((documents.objects.len(), documents.problems.len()), (0, 1), "{documents:?}");
            assert!(documents.problems[0].starts_with(&format!("a.yaml: {expected}")), "{documents:?}");
            let documents = of_kind("Pod");
            assert_eq!((documents.passed_over, documents.problems.len()), (1, 0), "{documents:?}");
        }
        let text = "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\nstringData: {a: \"\\u2028\"}";
        assert_eq!(Documents::read(Path::new("a.yaml"), text, "default").objects.len(), 1);
    }
}
