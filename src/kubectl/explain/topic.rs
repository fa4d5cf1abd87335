//! The sections of the documentation, by name.

const CONDITIONS: &str = include_str!("../../../docs/conditions.md");
const CLOSE_REASONS: &str = include_str!("../../../docs/close-reasons.md");

/// The pages with a section for each topic of a kind.
const PAGES: [(TopicKind, &str); 5] = [
    (TopicKind::Alert, include_str!("../../../docs/runbooks.md")),
    (TopicKind::ConditionReason, CONDITIONS),
    (TopicKind::CloseReason, CLOSE_REASONS),
    (TopicKind::Check, include_str!("../../../docs/kubectl.md")),
    (TopicKind::Symptom, include_str!("../../../docs/troubleshooting.md")),
];

/// The maximum length of a summary, in characters.
const MAX_SUMMARY: usize = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TopicKind {
    Alert,
    ConditionReason,
    CloseReason,
    /// A check of `kubectl tcplb doctor`.
    Check,
    /// An observation of users: the heading of its section is a sentence.
    Symptom,
}

impl TopicKind {
    pub const ALL: [Self; 5] = [Self::Alert, Self::ConditionReason, Self::CloseReason, Self::Check, Self::Symptom];

    pub fn label(self) -> &'static str {
        match self {
            Self::Alert => "alert",
            Self::ConditionReason => "condition reason",
            Self::CloseReason => "close reason",
            Self::Check => "check of doctor",
            Self::Symptom => "symptom",
        }
    }
}

/// A name and its section of the documentation.
#[derive(Debug)]
pub struct HelpTopic {
    pub kind: TopicKind,
    pub name: String,
    /// The heading of its section. `None`: the name.
    pub title: Option<String>,
    /// Markdown without links.
    pub text: String,
}

impl HelpTopic {
    /// All topics, by kind and in the order of the documentation.
    pub fn all() -> Vec<Self> {
        let mut topics = Vec::new();
        for (kind, page) in PAGES {
            for (heading, text) in sections(page) {
                topics.push(Self::of_section(kind, heading, &text, page));
            }
        }
        // Reasons without a problem have no section.
        for row in rows(CONDITIONS, "| condition | reason | meaning |") {
            let [condition, reason, meaning] = row[..] else { continue };
            let text = format!("{condition} is {meaning}.");
            topics.push(Self::of_row(TopicKind::ConditionReason, reason, &text));
        }
        for row in rows(CLOSE_REASONS, "| reason | outcome | meaning |") {
            let [reason, outcome, meaning] = row[..] else { continue };
            if !reason.starts_with('[') {
                topics.push(Self::of_row(TopicKind::CloseReason, reason, &format!("{meaning} Outcome: {outcome}.")));
            }
        }
        topics.sort_by_key(|topic| topic.kind);
        topics
    }

    fn of_section(kind: TopicKind, heading: &str, text: &str, page: &str) -> Self {
        let (name, title) = match kind {
            TopicKind::Symptom => (anchor(heading), Some(heading.to_owned())),
            TopicKind::Alert | TopicKind::ConditionReason | TopicKind::CloseReason | TopicKind::Check => {
                (heading.to_owned(), None)
            }
        };
        let mut text = without_links(text);
        if let Some(functions) = functions(page).filter(|_| uses_functions(&text)) {
            text += &format!("\nThe commands use these functions of the shell:\n\n{functions}");
        }
        Self { kind, name, title, text }
    }

    fn of_row(kind: TopicKind, name: &str, text: &str) -> Self {
        Self { kind, name: name.trim_matches('`').to_owned(), title: None, text: without_links(text) }
    }

    /// The heading, or the beginning of the text.
    pub fn summary(&self) -> String {
        if let Some(title) = &self.title {
            return title.clone();
        }
        let paragraph = self.text.trim().split("\n\n").next().unwrap_or_default().replace('\n', " ");
        let paragraph = paragraph.trim_start_matches("**Symptom.** ");
        let sentence = paragraph.split(". ").next().unwrap_or(paragraph).trim_end_matches('.');
        match sentence.char_indices().nth(MAX_SUMMARY) {
            Some((end, _)) => format!("{}…", &sentence[..end]),
            None => sentence.to_owned(),
        }
    }
}

/// The anchor of a heading: lower case, spaces as hyphens, no punctuation.
pub fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect::<String>().to_lowercase()
}

/// The sections of the third level: headings and texts.
fn sections(page: &str) -> Vec<(&str, String)> {
    let mut sections: Vec<(&str, String)> = Vec::new();
    let (mut is_code, mut is_open) = (false, false);
    for line in page.lines() {
        is_code ^= line.starts_with("```");
        if let Some(heading) = line.strip_prefix("### ").filter(|_| !is_code) {
            sections.push((heading, String::new()));
            is_open = true;
            continue;
        }
        is_open &= is_code || !line.starts_with("## ");
        if let Some((_, text)) = sections.last_mut().filter(|_| is_open) {
            *text += line;
            *text += "\n";
        }
    }
    sections
}

/// The cells of the rows of a table.
fn rows<'a>(page: &'a str, header: &'a str) -> impl Iterator<Item = Vec<&'a str>> {
    let rows = page.lines().skip_while(move |line| *line != header).skip(2);
    rows.take_while(|line| line.starts_with('|')).map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
}

/// The block of shell functions at the beginning of a page.
fn functions(page: &str) -> Option<String> {
    let block = page.split("```").skip(1).step_by(2).find(|block| block.contains("accesslog() {"))?;
    Some(format!("```{block}```\n"))
}

fn uses_functions(text: &str) -> bool {
    text.lines().any(|line| ["accesslog | ", "metrics | "].iter().any(|start| line.starts_with(start)))
}

/// Markdown whose links, which lead to files, are replaced by their texts. Code blocks are unchanged.
fn without_links(markdown: &str) -> String {
    let part = |(index, part)| if index % 2 == 0 { without_targets(part) } else { String::from(part) };
    markdown.split("```").enumerate().map(part).collect::<Vec<_>>().join("```")
}

fn without_targets(prose: &str) -> String {
    let mut parts = prose.split("](");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |mut text, part| {
        if let Some(start) = text.rfind('[') {
            text.remove(start);
        }
        text + part.split_once(')').map_or(part, |(_, after)| after)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_have_no_links_and_complete_code() {
        let topics = HelpTopic::all();
        for HelpTopic { name, text, .. } in &topics {
            let prose: String = text.split("```").step_by(2).collect();
            assert!(!prose.contains("]("), "{name}: {text}");
            assert_eq!(text.matches("```").count() % 2, 0, "{name}: {text}");
        }
        for (name, uses_functions) in
            [("client_reset", true), ("connections-are-accepted-and-closed-at-once", true), ("internal", false)]
        {
            let topic = topics.iter().find(|topic| topic.name == name).unwrap();
            assert_eq!(topic.text.contains("accesslog() {"), uses_functions, "{name}");
        }
    }

    #[test]
    fn links_become_their_texts() {
        let text = "see [a\nb](c.md#d), [`e`](#f)\n```sh\n[g](h)\n```\nand [i](j)";
        assert_eq!(without_links(text), "see a\nb, `e`\n```sh\n[g](h)\n```\nand i");
    }

    #[test]
    fn headings_in_code_do_not_end_a_section() {
        let page = "# A\n### b\n1\n```sh\n## 2\n### 3\n```\n## C\n4\n### d\n5\n";
        let expected = [("b", "1\n```sh\n## 2\n### 3\n```\n".to_owned()), ("d", "5\n".to_owned())];
        assert_eq!(sections(page), expected);
    }
}
