//! Tags of a YAML text. kubectl and other tools do not agree on their meaning.

use serde_saphyr::granit_parser::{Event, Parser};

use super::node_problem::NodeProblem;

/// # Errors
/// If a node has a tag that is not of the core schema of YAML 1.2 (section 10.3), or is tagged as null and is not null.
/// The reader of the values refuses values that do not match the other tags. Messages do not quote the text.
pub fn check(text: &str) -> Result<(), NodeProblem> {
    // Most texts have no tag.
    if !text.contains('!') {
        return Ok(());
    }
    // The reader of the values reports the errors of the syntax.
    for (event, span) in Parser::new_from_str(text).map_while(Result::ok) {
        if let Some(sentence) = refusal(&event) {
            return Err(NodeProblem::at(span.tag_start.unwrap_or(span.start), sentence.into()));
        }
    }
    Ok(())
}

fn refusal(event: &Event) -> Option<&'static str> {
    let tag = event.tag()?;
    let text = event.scalar().map(|(text, _)| text);
    let is_merge = || tag.suffix_in_namespace("tag:yaml.org,2002:").is_some_and(|suffix| suffix == "merge");
    match (tag.core_suffix(), text) {
        (Some("null"), Some("" | "~" | "null" | "Null" | "NULL")) => None,
        (Some("null"), _) => Some("has the tag `!!null`, but is not null: remove the tag or the value"),
        (Some(_), _) => None,
        // Some tools write merge keys in this way.
        (None, Some("<<")) if is_merge() => None,
        (None, _) => Some("has a tag (a word after `!`), which is not supported: remove it, or quote text with a `!`"),
    }
}
