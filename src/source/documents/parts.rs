//! Splits a text into documents.

use std::iter;

use serde_json::Value;
use serde_saphyr::{Spanned, budget::BudgetBreach};

use super::{
    aliases::AliasBudget,
    kind::DocumentKind,
    line_breaks,
    lists::{self, ListKind},
    merge_keys,
    node_problem::NodeProblem,
    octal, tags,
    unique::Unique,
};

/// The maximum number of anchors in a document. The reader clears all anchors of a text at each of its documents.
const MAX_ANCHORS: usize = 1000;

/// A document and the line it starts at.
pub(super) type DocumentPart = Result<(u64, Value), SyntaxError>;

/// A text that is not valid YAML or JSON.
pub(super) struct SyntaxError {
    /// A sentence that names the line.
    pub message: String,
    pub line: Option<u64>,
}

pub(super) fn yaml(text: &str) -> Vec<DocumentPart> {
    yaml_from(0, text, &mut AliasBudget::of(text)).unwrap_or_else(|problem| {
        let parts = separated(text);
        if parts.len() < 2 {
            return vec![Err(problem)];
        }
        // A broken document does not affect the others, but their aliases have a common budget.
        let mut budget = AliasBudget::of(text);
        let read = |(line, part)| yaml_from(line, part, &mut budget).unwrap_or_else(|problem| vec![Err(problem)]);
        parts.into_iter().flat_map(read).collect()
    })
}

/// The text split before each line that begins a document, with the number of lines before each part. The directives of
/// a document (`%YAML`) are above its `---`, and below the `...` of the document before.
pub(super) fn separated(text: &str) -> Vec<(u64, &str)> {
    let is_marker = |line: &str, marker: &str| {
        line.strip_prefix(marker).is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
    };
    let (mut parts, mut part, mut at) = (Vec::new(), (0, 0), 0);
    let (mut has_ended, mut has_directives) = (true, false);
    for (line, text_of_line) in (0..).zip(text.split_inclusive('\n')) {
        let (is_start, is_directive) = (is_marker(text_of_line, "---"), has_ended && text_of_line.starts_with('%'));
        if at > part.1 && !has_directives && (is_start || is_directive) {
            parts.push((part.0, &text[part.1..at]));
            part = (line, at);
        }
        let has_content = !text_of_line.trim().is_empty() && !text_of_line.starts_with('#');
        has_ended = is_marker(text_of_line, "...") || has_ended && (is_directive || !has_content);
        has_directives = is_directive || has_directives && !is_start;
        at += text_of_line.len();
    }
    parts.push((part.0, &text[part.1..]));
    parts
}

/// The documents of a text. `lines_before` is the number of lines before it.
fn yaml_from(lines_before: u64, text: &str, budget: &mut AliasBudget) -> Result<Vec<DocumentPart>, SyntaxError> {
    let at_node = |NodeProblem { line, column, sentence }: NodeProblem| {
        let line = lines_before + line;
        SyntaxError { message: format!("line {line}, column {column}: {sentence}"), line: Some(line) }
    };
    let expansion = budget.spend(text);
    // The check of merge keys follows aliases.
    let merges = || expansion.as_ref().map_or(Ok(()), |()| merge_keys::check(text));
    let checked = tags::check(text).and_then(|()| line_breaks::check(text)).and_then(|()| merges());
    let values = expansion.map_err(at_node);
    let values = values.and_then(|()| yaml_values(text, false).map_err(|error| syntax_error(lines_before, error)));
    let documents = match (checked, values) {
        (Ok(()), values) => values?,
        // Other tools have rules of their own for objects of their kinds, which are skipped.
        (Err(refused), Ok(documents)) if !refused.of_kind && are_of_other_kinds(&documents) => documents,
        (Err(refused), _) => return Err(at_node(refused.problem)),
    };
    let octal = octal::are_possible(text).then(|| yaml_values(text, true).ok()).flatten();
    let part = |(index, document): (usize, Spanned<Unique>)| {
        let (line, value) = (lines_before + document.referenced.line(), document.value.0);
        let as_octal = octal.as_ref().and_then(|octal| Some(&octal.get(index)?.value.0));
        match as_octal.and_then(|as_octal| octal::difference(&value, as_octal)) {
            Some(path) => {
                let message = format!(
                    "line {line}: {path}: the number has a leading zero, which makes it octal for kubectl: remove the \
                     zero, or quote the value if it is text"
                );
                Err(SyntaxError { message, line: Some(line) })
            }
            None => Ok((line, value)),
        }
    };
    Ok(documents.into_iter().enumerate().map(part).collect())
}

fn syntax_error(lines_before: u64, error: serde_saphyr::Error) -> SyntaxError {
    match error {
        serde_saphyr::Error::DuplicateMappingKey { key: Some(key), location } => {
            let line = lines_before + location.line();
            let column = location.column();
            let message = format!("is not YAML: `{key}` is written twice at line {line}, column {column}");
            SyntaxError { message, line: Some(line) }
        }
        serde_saphyr::Error::Budget { breach: BudgetBreach::Anchors { .. }, location } => {
            let line = lines_before + location.line();
            let message = format!(
                "line {line}: the document has more than {MAX_ANCHORS} anchors (`&name`): write values out instead of \
                 anchors and aliases"
            );
            SyntaxError { message, line: Some(line) }
        }
        serde_saphyr::Error::Budget { breach: BudgetBreach::Depth { depth }, location } => {
            let line = lines_before + location.line();
            let most = depth.saturating_sub(1);
            let message = format!("line {line}: has more than {most} levels of mappings and lists: write fewer");
            SyntaxError { message, line: Some(line) }
        }
        error => {
            let line = error.location().map(|location| location.line()).filter(|line| *line > 0);
            let counted = serde_saphyr::render_options! { line_offset: lines_before };
            let message = format!("is not YAML: {}", error.render_with_options(counted));
            SyntaxError { message, line: line.map(|line| lines_before + line) }
        }
    }
}

/// True for objects of kinds that are skipped.
fn are_of_other_kinds(documents: &[Spanned<Unique>]) -> bool {
    !documents.is_empty() && documents.iter().all(|document| is_of_other_kind(&document.value.0))
}

fn is_of_other_kind(document: &Value) -> bool {
    let text = |field: &str| document[field].as_str().unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    ListKind::of(api_version, kind).is_none()
        && !lists::is_mistyped(document)
        && matches!(DocumentKind::of(api_version, kind), DocumentKind::Other)
}

fn yaml_values(text: &str, legacy_octal_numbers: bool) -> Result<Vec<Spanned<Unique>>, serde_saphyr::Error> {
    // The size of the file bounds these values. The expansion of aliases has a budget of its own.
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: usize::MAX,
            max_nodes: usize::MAX,
            max_documents: usize::MAX,
            max_aliases: usize::MAX,
            max_anchors: MAX_ANCHORS,
            max_merge_keys: usize::MAX,
            enforce_alias_anchor_ratio: false,
        },
        with_snippet: false,
        // It may not be text.
        ignore_binary_tag_for_string: true,
        legacy_octal_numbers: legacy_octal_numbers,
    };
    serde_saphyr::from_multiple_with_options(text, options)
}

/// The documents of a JSON text, up to the first error. The text after an error cannot be interpreted. As in YAML, byte
/// order marks at the beginning are ignored.
pub(super) fn json(text: &str) -> impl Iterator<Item = DocumentPart> {
    let text = text.trim_start_matches('\u{feff}');
    let mut documents = serde_json::Deserializer::from_str(text).into_iter();
    // Each line is counted once, independently of the number of documents.
    let (mut line, mut counted, mut ended) = (1, 0, false);
    iter::from_fn(move || {
        if ended {
            return None;
        }
        let rest = &text[documents.byte_offset()..];
        let start = text.len() - rest.trim_start().len();
        line += text[counted..start].bytes().filter(|byte| *byte == b'\n').count();
        counted = start;
        // It comes from a concatenation of files.
        if text[start..].starts_with('\u{feff}') {
            ended = true;
            let message = format!("has a byte order mark within the text, at line {line}: remove it");
            return Some(Err(SyntaxError { message, line: Some(line as u64) }));
        }
        let document = documents.next()?;
        ended = document.is_err();
        Some(match document {
            Ok(Unique(document)) => Ok((line as u64, document)),
            Err(error) => {
                let line = Some(error.line() as u64);
                Err(SyntaxError { message: format!("is not JSON: {error}"), line })
            }
        })
    })
}
