//! Tags of a YAML text. kubectl and other tools do not agree on their meaning.

use serde_saphyr::granit_parser::{Event, Parser};

use super::node_problem::{NodeProblem, RefusedNode};

/// # Errors
/// If a node has a tag that is not of the core schema of YAML 1.2 (section 10.3), or is tagged as null and is not null:
/// the first such tag, but preferably that of a document's kind. The reader of the values refuses values that do not
/// match the other tags. Messages do not quote the text.
pub fn check(text: &str) -> Result<(), RefusedNode> {
    // Most texts have no tag.
    if !text.contains('!') {
        return Ok(());
    }
    let mut first = Ok(());
    let (mut depth, mut follows_kind) = (0_usize, false);
    // The reader of the values reports the errors of the syntax.
    for (event, span) in Parser::new_from_str(text).map_while(Result::ok) {
        if let Some(sentence) = refusal(&event) {
            let problem = NodeProblem::at(span.tag_start.unwrap_or(span.start), sentence.into());
            if follows_kind {
                return Err(RefusedNode { problem, of_kind: true });
            }
            first = first.and(Err(RefusedNode { problem, of_kind: false }));
        }
        follows_kind = depth == 1 && matches!(event.scalar(), Some(("apiVersion" | "kind", _)));
        match event {
            Event::MappingStart(..) | Event::SequenceStart(..) => depth += 1,
            Event::MappingEnd | Event::SequenceEnd => depth -= 1,
            _ => {}
        }
    }
    first
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::source::documents::Documents;

    const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n";

    fn read(text: &str) -> Documents {
        Documents::read(Path::new("a.yaml"), text, "default")
    }

    #[test]
    fn tags_in_objects_of_other_kinds_are_ignored() {
        let deployment = "apiVersion: apps/v1\nkind: Deployment\n";
        for tagged in [
            "image: !Ref Image\n",
            "env: [!env {a: 1}, !Sub [a, b]]\nkey: !vault |\n  text\n",
            "key: !!binary //79\n",
            "owner: {kind: !x Deployment}\n",
        ] {
            let object = format!("{deployment}{tagged}");
            let documents = read(&format!("{SERVICE}---\n{object}---\n{SERVICE}"));
            let found = (documents.objects.len(), documents.problems.len(), documents.passed_over);
            assert_eq!(found, (2, 0, 1), "{tagged}: {documents:?}");
            let documents = read(&object);
            assert_eq!((documents.problems.len(), documents.passed_over), (0, 1), "{tagged}: {documents:?}");
        }
    }

    #[test]
    fn tags_in_supported_objects_and_lists_are_refused() {
        let other = "---\napiVersion: apps/v1\nkind: Deployment\nimage: !Ref Image\n";
        for refused in [
            "apiVersion: v1\nkind: Service\nmetadata: {name: !env b}\n",
            "apiVersion: v1\nkind: !x Secret\nmetadata: {name: b}\n",
            "apiVersion: apps/v1\nimage: !Ref Image\nkind: !x Deployment\n",
            "apiVersion: !x apps/v1\nkind: Deployment\n",
            "apiVersion: tcplb.io/v1\nkind: !!binary VGNwTG9hZEJhbGFuY2Vy\n",
            "apiVersion: v1\nkind: List\nitems: [{apiVersion: apps/v1, kind: Deployment, image: !Ref b}]\n",
            "apiVersion: v1\nkind: Lists\nitems: [{apiVersion: v1, kind: Service, metadata: {name: !env b}}]\n",
            "kind: service\napiVersion: v1\nmetadata: {name: !env b}\n",
            "image: !Ref b\n",
        ] {
            let documents = read(&format!("{SERVICE}{other}---\n{refused}"));
            let found = (documents.objects.len(), documents.problems.len(), documents.passed_over);
            assert_eq!(found, (1, 1, 1), "{refused}: {documents:?}");
            assert!(documents.problems[0].contains("has a tag (a word after `!`)"), "{documents:?}");
        }
    }
}
