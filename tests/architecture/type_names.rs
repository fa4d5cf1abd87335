//! The type names that a crate defines.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use super::gather;

/// The files that define each type name, below a folder. A file occurs once for each definition.
pub fn definitions(folder: &Path) -> BTreeMap<String, Vec<PathBuf>> {
    let mut files = Vec::new();
    gather(folder, &mut files);
    files.sort();
    let mut definitions: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for path in files {
        let file = path.strip_prefix(folder).unwrap();
        for name in names(&fs::read_to_string(&path).unwrap()) {
            definitions.entry(name.to_owned()).or_default().push(file.to_owned());
        }
    }
    definitions
}

/// The names of structs, enums, unions, traits and aliases in the source text, also of private and local ones.
pub fn names(text: &str) -> Vec<&str> {
    let lines: Vec<&str> = text.lines().collect();
    lines.iter().enumerate().filter_map(|(at, line)| name(line).filter(|_| !is_associated(at, &lines))).collect()
}

/// The name that this line defines.
fn name(line: &str) -> Option<&str> {
    let item = line.trim_start();
    let item = match item.strip_prefix("pub") {
        Some(item) if item.starts_with('(') => item.split_once(") ")?.1,
        Some(item) => item.strip_prefix(' ')?,
        None => item,
    };
    let item = item.strip_prefix("unsafe ").unwrap_or(item);
    let (keyword, name) = item.split_once(' ')?;
    let is_type = ["struct", "enum", "union", "trait", "type"].contains(&keyword);
    let end = name.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(name.len());
    let name = &name[..end];
    (is_type && name.starts_with(|letter: char| letter.is_ascii_uppercase())).then_some(name)
}

/// True for an associated type: its block begins with `impl` or `trait`, by indentation.
fn is_associated(at: usize, lines: &[&str]) -> bool {
    let indentation = |line: &str| line.len() - line.trim_start().len();
    let own = indentation(lines[at]);
    let is_header = |line: &&str| {
        let is_outside = !line.is_empty() && indentation(line) < own;
        is_outside && line.trim() != "{" && !line.trim_start().starts_with("where")
    };
    let header = lines[..at].iter().rev().copied().find(is_header).unwrap_or_default();
    let words = header.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
    let mut item = words.filter(|word| !["", "pub", "crate", "super", "in", "unsafe"].contains(word));
    lines[at].trim_start().starts_with("type ") && matches!(item.next(), Some("impl" | "trait"))
}
