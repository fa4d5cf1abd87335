//! Converts OpenMetrics text to the classic text format. The formats differ in the names and types of families, and in
//! lines that only OpenMetrics has. Samples are the same.

pub fn from_open_metrics(text: &str) -> String {
    let mut classic = String::with_capacity(text.len());
    // The suffix of a family depends on its TYPE line, which follows the HELP line.
    let mut help = None;
    for line in text.lines() {
        if let Some(described) = line.strip_prefix("# HELP ") {
            help = described.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|typed| typed.split_once(' ')) {
            let suffix = sample_suffix(kind);
            let kind = if kind == "info" { "gauge" } else { kind };
            if let Some((_, help)) = help.take().filter(|(described, _)| *described == name) {
                classic += &format!("# HELP {name}{suffix} {help}\n");
            }
            classic += &format!("# TYPE {name}{suffix} {kind}\n");
        } else if !line.starts_with('#') {
            classic += line;
            classic.push('\n');
        }
    }
    classic
}

/// The suffix of sample names for a metric of this type.
pub fn sample_suffix(kind: &str) -> &'static str {
    match kind {
        "counter" => "_total",
        "info" => "_info",
        _ => "",
    }
}
