//! Inserts the table into a document.

use anyhow::{Context, Result};

const BEGIN: &str = "<!-- begin: bench report -->\n";
/// The line above the table.
const PLOT: &str = "![Ratios to the best peer](../bench/results/results.svg)";
const END: &str = "<!-- end: bench report -->";

/// The document with this table in place of the previous one.
pub fn with_table(document: &str, table: &str) -> Result<String> {
    let (before, rest) = document.split_once(BEGIN).with_context(|| format!("the document lacks the line {BEGIN}"))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("the document lacks the line {END}"))?;
    Ok(format!("{before}{BEGIN}\n{PLOT}\n\n{table}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_table_is_replaced() {
        let page = |table: &str| format!("# Title\n\n{BEGIN}{table}{END}\n\nMore.\n");
        let once = with_table(&page("old"), "| new |\n").unwrap();
        assert_eq!(once, page(&format!("\n{PLOT}\n\n| new |\n\n")));
        assert_eq!(with_table(&once, "| new |\n").unwrap(), once);
        assert!(with_table("# Title\n", "").is_err());
    }
}
