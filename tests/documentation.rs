//! Links in the documentation, and mentions of its pages elsewhere, lead to pages and sections that exist.

#![expect(clippy::unwrap_used, reason = "tests panic on unexpected values")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Component, Path, PathBuf},
};

/// The folders whose files mention pages of the documentation: `docs/PAGE.md` or `docs/PAGE.md#section`.
const MENTIONING: &[&str] = &["src", "charts", "crds", "manifests", "examples", "tests/golden-kubectl"];

/// Files in which sections are mentioned: alerts, and output of `kubectl tcplb`.
const LINKING: &[&str] =
    &["charts/tcplb/files/alerts.yaml", "tests/golden-kubectl/doctor.json", "tests/golden-kubectl/status.json"];

#[test]
fn every_link_of_the_documentation_leads_to_a_page_and_a_section() {
    let (mut count, mut wrong) = (0, Vec::new());
    for page in pages() {
        let text = fs::read_to_string(root().join(&page)).unwrap();
        for target in links(&prose(&text)) {
            count += 1;
            let (path, section) = target.split_once('#').unwrap_or((target, ""));
            let path = if path.is_empty() { page.clone() } else { normal(&page.parent().unwrap().join(path)) };
            if let Err(problem) = follow(&path, section) {
                wrong.push(format!("{}: {target}: {problem}", page.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(count > 100, "links are found: {count}");
}

#[test]
fn every_page_that_sources_and_messages_mention_exists_with_its_section() {
    let mut wrong = Vec::new();
    let mut linking: BTreeSet<PathBuf> = LINKING.iter().map(PathBuf::from).collect();
    for file in MENTIONING.iter().flat_map(|folder| files(Path::new(folder))) {
        let Ok(text) = fs::read_to_string(root().join(&file)) else { continue };
        for (path, section) in mentions(&text) {
            if !section.is_empty() {
                linking.remove(&file);
            }
            if let Err(problem) = follow(Path::new(path), section) {
                wrong.push(format!("{}: {path}#{section}: {problem}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(linking.is_empty(), "no mention of a section is found in {linking:?}");
}

#[test]
fn links_and_sections_are_found_as_github_shows_them() {
    let text = "# A `b_c`: Über [d](e.md)!\n## A\n```sh\n# comment\n[x](y)\n```\n`[x](y)` [z](https://a.b/c) [p](q.md#r) ![i](j.svg)\n## A\n";
    assert_eq!(sections(text), BTreeSet::from(["a-b_c-über-d", "a", "a-1"].map(str::to_owned)));
    assert_eq!(links(&prose(text)).collect::<Vec<_>>(), ["e.md", "q.md#r", "j.svg"]);
    let text = "see docs/a-b.md#c_d, docs/e.md. (docs/f.md#g) docs/h.json https://docs.rs/i.md";
    assert_eq!(mentions(text).collect::<Vec<_>>(), [("docs/a-b.md", "c_d"), ("docs/e.md", ""), ("docs/f.md", "g")]);
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The pages for users and contributors, relative to the root.
fn pages() -> Vec<PathBuf> {
    let is_page = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "md");
    let top = fs::read_dir(root()).unwrap().map(|entry| PathBuf::from(entry.unwrap().file_name()));
    let folders = ["bench", "charts", "docs", "examples", "tests"];
    let below = folders.into_iter().flat_map(|folder| files(Path::new(folder)));
    top.chain(below).filter(is_page).collect()
}

/// All files below a folder, relative to the root.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(root().join(folder)).unwrap() {
        let entry = entry.unwrap();
        let path = folder.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            files.extend(self::files(&path));
        } else {
            files.push(path);
        }
    }
    files
}

/// Checks that a file exists, and a section of it unless `section` is empty.
fn follow(path: &Path, section: &str) -> Result<(), String> {
    let full = root().join(path);
    if section.is_empty() {
        return if full.exists() { Ok(()) } else { Err("no such file".into()) };
    }
    let text = fs::read_to_string(full).map_err(|error| error.to_string())?;
    if sections(&text).contains(section) { Ok(()) } else { Err("no such section".into()) }
}

/// A path without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                normal.pop();
            }
            Component::CurDir => {}
            other => normal.push(other),
        }
    }
    normal
}

/// The anchors of the headings, as GitHub derives them: lower case, spaces as hyphens, no punctuation, and a number for
/// repeated ones.
fn sections(text: &str) -> BTreeSet<String> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut sections = BTreeSet::new();
    for line in outside_blocks(text).filter(|line| line.starts_with('#')) {
        let heading = without_targets(line.trim_start_matches('#').trim()).to_lowercase();
        let is_kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
        let anchor: String = heading.chars().filter(is_kept).map(|c| if c == ' ' { '-' } else { c }).collect();
        let repeated = seen.entry(anchor.clone()).or_default();
        sections.insert(if *repeated == 0 { anchor } else { format!("{anchor}-{repeated}") });
        *repeated += 1;
    }
    sections
}

/// `[text](target)` as `text`.
fn without_targets(heading: &str) -> String {
    let mut parts = heading.split("](");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.split_once(')').map_or(part, |(_, after)| after))
}

/// The text without code.
fn prose(text: &str) -> String {
    let lines: Vec<&str> = outside_blocks(text).collect();
    let text = lines.join("\n");
    // The parts between backticks are alternately text and code.
    let parts: Vec<&str> = text.split('`').step_by(2).collect();
    parts.join("")
}

fn outside_blocks(text: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        inside ^= is_fence;
        !inside && !is_fence
    })
}

/// The relative targets of the links and images in a text without code.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.filter(|target| !target.contains("://") && !target.starts_with("mailto:"))
}

/// The pages below `docs` that a text mentions, with the section or an empty text.
fn mentions(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    text.match_indices("docs/").filter_map(move |(at, start)| {
        let name = &text[at + start.len()..];
        let (name, rest) = name.split_at(name.find(|c: char| !is_name(c))?);
        let after = rest.strip_prefix(".md")?;
        let end = at + start.len() + name.len() + ".md".len();
        let section =
            after.strip_prefix('#').map_or("", |section| section.split(|c: char| !is_name(c)).next().unwrap_or(""));
        Some((&text[at..end], section))
    })
}
