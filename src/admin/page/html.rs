use std::fmt::{self, Display, Write};

use crate::{
    printable::printable,
    traffic::{TrafficRates, bytes, per_second},
};

/// The maximum length of a text in a cell or paragraph, in bytes.
const MAX_TEXT: usize = 4096;

/// Text from outside, escaped and limited.
pub struct HtmlText<'a>(pub &'a str);

impl Display for HtmlText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = printable(self.0, MAX_TEXT);
        let mut rest = &*text;
        while let Some(at) = rest.find(['&', '<', '>', '"', '\'']) {
            f.write_str(&rest[..at])?;
            f.write_str(match rest.as_bytes()[at] {
                b'&' => "&amp;",
                b'<' => "&lt;",
                b'>' => "&gt;",
                b'"' => "&quot;",
                _ => "&#39;",
            })?;
            rest = &rest[at + 1..];
        }
        f.write_str(rest)
    }
}

/// The column of a table.
#[derive(Clone, Copy)]
pub enum Column {
    Text(&'static str),
    /// Socket addresses. Those of IPv4 stay on one line.
    Address(&'static str),
    Number(&'static str),
    /// Text that narrow screens omit.
    WideText(&'static str),
    /// A number that narrow screens omit.
    WideNumber(&'static str),
}

impl Column {
    fn class(self) -> &'static str {
        match self {
            Self::Text(_) => "",
            Self::Address(_) => " class=\"address\"",
            Self::Number(_) => " class=\"n\"",
            Self::WideText(_) => " class=\"wide\"",
            Self::WideNumber(_) => " class=\"n wide\"",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Text(name)
            | Self::Address(name)
            | Self::Number(name)
            | Self::WideText(name)
            | Self::WideNumber(name) => name,
        }
    }
}

/// Writes a table, with a row of markup for each item of `rows`.
pub fn table<const N: usize>(page: &mut String, columns: [Column; N], rows: impl IntoIterator<Item = [String; N]>) {
    page.push_str("<div class=\"scroll\"><table><thead><tr>");
    for column in columns {
        let _ = write!(page, "<th{}>{}</th>", column.class(), column.name());
    }
    page.push_str("</tr></thead><tbody>\n");
    for row in rows {
        page.push_str("<tr>");
        for (column, cell) in columns.iter().zip(row) {
            let _ = write!(page, "<td{}>{cell}</td>", column.class());
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</tbody></table></div>\n");
}

/// Markup of a text from outside.
pub fn text(text: &str) -> String {
    HtmlText(text).to_string()
}

/// Markup of a text with a class of the style sheet.
pub fn marked(class: &str, text: &str) -> String {
    format!("<span class=\"{class}\">{}</span>", HtmlText(text))
}

/// A rate of events. `None`: it is not known yet.
pub fn rate(rates: Option<TrafficRates>, of: impl Fn(TrafficRates) -> f64) -> String {
    rates.map_or("–".into(), |rates| per_second(of(rates)))
}

/// A rate of bytes. `None`: it is not known yet.
pub fn byte_rate(rates: Option<TrafficRates>) -> String {
    rates.map_or("–".into(), |rates| bytes(rates.bytes) + "/s")
}

/// A line of the recent rates of new connections, scaled to their maximum, with room for `length` of them.
pub fn sparkline(page: &mut String, rates: impl ExactSizeIterator<Item = TrafficRates> + Clone, length: usize) {
    const HEIGHT: f64 = 20.0;
    let highest = rates.clone().map(|rates| rates.connections).fold(0.0, f64::max);
    let _ = write!(page, "<svg class=\"rates\" viewBox=\"0 0 {length} {HEIGHT}\" preserveAspectRatio=\"none\"");
    if highest == 0.0 {
        page.push_str(" aria-hidden=\"true\"></svg>");
        return;
    }
    let _ = write!(
        page,
        " role=\"img\" aria-label=\"new connections per second, at most {}\"><path d=\"",
        per_second(highest)
    );
    let first = length.saturating_sub(rates.len());
    for (index, rates) in rates.enumerate() {
        let y = HEIGHT - 1.0 - rates.connections / highest * (HEIGHT - 2.0);
        let _ = write!(page, "{}{} {y:.0}", if index == 0 { 'M' } else { 'L' }, first + index);
    }
    page.push_str("\"/></svg>");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_for_elements_and_attributes() {
        assert_eq!(text("<a b='c' d=\"e\">&amp;\u{202e}"), "&lt;a b=&#39;c&#39; d=&quot;e&quot;&gt;&amp;amp;\\u{202e}");
    }

    #[test]
    fn a_sparkline_ends_at_the_right_and_is_scaled_to_its_maximum() {
        let mut page = String::new();
        let rates = [1.0, 0.0, 2.0].map(|connections| TrafficRates { connections, ..TrafficRates::default() });
        sparkline(&mut page, rates.into_iter(), 10);
        assert!(page.contains("d=\"M7 10L8 19L9 1\""), "{page}");
    }
}
