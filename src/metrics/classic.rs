//! The classic text format, from OpenMetrics text. The formats differ in the names and types of families, and in lines
//! that only OpenMetrics has. Samples are the same.

use std::{
    fmt::{self, Write},
    mem,
};

/// Converts OpenMetrics text to the classic format while it is written. A large page is neither searched for lines nor
/// copied.
pub struct ClassicWriter<'a> {
    page: &'a mut String,
    /// The current line, if it begins with `#`.
    comment: String,
    /// The HELP line of the current family. Its suffix depends on the TYPE line, which follows.
    help: String,
}

impl<'a> ClassicWriter<'a> {
    pub fn new(page: &'a mut String) -> Self {
        Self { page, comment: String::new(), help: String::new() }
    }

    fn end_comment(&mut self) -> fmt::Result {
        let comment = mem::take(&mut self.comment);
        let line = comment.trim_end_matches('\n');
        if let Some(described) = line.strip_prefix("# HELP ") {
            described.clone_into(&mut self.help);
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|typed| typed.split_once(' ')) {
            let suffix = sample_suffix(kind);
            let kind = if kind == "info" { "gauge" } else { kind };
            if let Some((described, help)) = self.help.split_once(' ')
                && described == name
            {
                writeln!(self.page, "# HELP {name}{suffix} {help}")?;
            }
            writeln!(self.page, "# TYPE {name}{suffix} {kind}")?;
        }
        Ok(())
    }
}

/// Each part must be within one line, like those of the library's encoder.
impl Write for ClassicWriter<'_> {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let is_comment = || part.starts_with('#') && (self.page.is_empty() || self.page.ends_with('\n'));
        if self.comment.is_empty() && !is_comment() {
            self.page.push_str(part);
            return Ok(());
        }
        self.comment.push_str(part);
        if part.ends_with('\n') { self.end_comment() } else { Ok(()) }
    }
}

/// The suffix of sample names for a metric of this type.
pub fn sample_suffix(kind: &str) -> &'static str {
    match kind {
        "counter" => "_total",
        "info" => "_info",
        _ => "",
    }
}
