//! Output: tables, colours, JSON and YAML.

use std::{
    fmt,
    io::{self, IsTerminal},
};

use anstyle::{AnsiColor, Style};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;

use crate::printable::{printable, visible_json};

/// The maximum length of a text from outside, in bytes.
const MAX_TEXT: usize = 4096;
/// Between two columns, as in kubectl.
const GAP: usize = 3;

/// The meaning of a text, shown as a colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    #[default]
    Plain,
    Good,
    Warning,
    Bad,
    Faint,
    Heading,
}

impl Tone {
    fn style(self) -> Style {
        match self {
            Self::Plain => Style::new(),
            Self::Good => AnsiColor::Green.on_default(),
            Self::Warning => AnsiColor::Yellow.on_default(),
            Self::Bad => AnsiColor::Red.on_default().bold(),
            Self::Faint => Style::new().dimmed(),
            Self::Heading => Style::new().bold(),
        }
    }

    /// The sign of a result.
    pub fn sign(self) -> &'static str {
        match self {
            Self::Good => "✔",
            Self::Warning => "‼",
            Self::Bad => "✘",
            Self::Plain | Self::Faint | Self::Heading => "-",
        }
    }
}

/// A text in one line, safe for a terminal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    pub fn plain(text: impl fmt::Display) -> Self {
        Self::toned(text, Tone::Plain)
    }

    /// Lines of a message are separated by semicolons.
    pub fn toned(text: impl fmt::Display, tone: Tone) -> Self {
        let text = text.to_string().replace('\n', "; ");
        Self { text: printable(&text, MAX_TEXT).into_owned(), tone }
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }
}

/// The text with the control sequences of its colour. They are removed if the output is not a terminal.
impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let style = self.tone.style();
        write!(f, "{style}{}{style:#}", self.text)
    }
}

/// Aligned columns with a header.
#[derive(Debug, Default)]
pub struct TextTable {
    rows: Vec<Vec<Cell>>,
}

impl TextTable {
    pub fn new(header: &[&str]) -> Self {
        Self { rows: vec![header.iter().map(|name| Cell::toned(name, Tone::Heading)).collect()] }
    }

    pub fn push(&mut self, row: Vec<Cell>) {
        self.rows.push(row);
    }

    /// True if there are no rows below the header.
    pub fn is_empty(&self) -> bool {
        self.rows.len() < 2
    }
}

impl fmt::Display for TextTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| self.rows.iter().filter_map(|row| row.get(column)).map(Cell::width).max();
        let widths: Vec<usize> = (0..count).map(|column| width(column).unwrap_or(0)).collect();
        for row in &self.rows {
            // No spaces at the end of a line.
            let used = row.iter().rposition(|cell| !cell.text.is_empty()).map_or(0, |last| last + 1);
            for (column, cell) in row.iter().take(used).enumerate() {
                write!(f, "{cell}")?;
                if column + 1 < used {
                    write!(f, "{:1$}", "", widths[column] - cell.width() + GAP)?;
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// A document as JSON. Invisible characters are escaped.
pub fn json(document: &impl Serialize) -> String {
    // Strings, numbers and maps with string keys: the serialization cannot fail.
    let text = serde_json::to_string_pretty(document).unwrap_or_default() + "\n";
    visible_json(&text).into_owned()
}

/// A document as YAML. Invisible characters are escaped; in text without quotes, their escapes are text.
///
/// # Errors
/// If a value cannot be written as YAML.
pub fn yaml(document: &impl Serialize) -> anyhow::Result<String> {
    Ok(visible_json(&serde_saphyr::to_string(document)?).into_owned())
}

/// True if the reader has closed the output.
pub fn is_closed() -> bool {
    let stdout = io::stdout();
    let mut polled = [PollFd::new(&stdout, PollFlags::empty())];
    poll(&mut polled, Some(&Timespec::default())).is_ok() && polled[0].revents().contains(PollFlags::ERR)
}

/// Clears the screen of a terminal.
pub fn clear_screen() -> &'static str {
    if io::stdout().is_terminal() { "\x1b[H\x1b[2J" } else { "" }
}

/// A text without its colours.
#[cfg(test)]
pub fn plain(text: &str) -> String {
    anstream::adapter::strip_str(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_whatever_their_colours() {
        let mut table = TextTable::new(&["NAME", "STATE", "REASON"]);
        assert!(table.is_empty());
        table.push(vec![Cell::plain("pg"), Cell::toned("usable", Tone::Good), Cell::default()]);
        table.push(vec![Cell::plain("postgres-münchen"), Cell::toned("no", Tone::Bad), Cell::plain("a\nb\u{1b}[2J")]);
        let expected = "\
NAME               STATE    REASON
pg                 usable
postgres-münchen   no       a; b\\u{1b}[2J
";
        assert_eq!(plain(&table.to_string()), expected);
        assert!(table.to_string().contains("\u{1b}[32musable\u{1b}[0m"), "{table:?}");
    }

    #[test]
    fn documents_show_hidden_characters() {
        assert_eq!(json(&["a\u{202e}b"]), "[\n  \"a\\u202eb\"\n]\n");
        assert!(!yaml(&["a\u{202e}b"]).unwrap().contains('\u{202e}'));
    }
}
