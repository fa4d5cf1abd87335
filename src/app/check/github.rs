//! Lines for the log of GitHub Actions, which interprets some of them as commands.
//!
//! <https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands>, and the runner's
//! `ActionCommand`.

/// A command with its properties and message, on a single line. Their content cannot end the line or begin another
/// command.
pub fn command(name: &str, properties: &[(&str, &str)], message: &str) -> String {
    let properties: Vec<_> = properties.iter().map(|(key, value)| format!("{key}={}", property(value))).collect();
    format!("::{name} {}::{}\n", properties.join(","), data(message))
}

/// Lines without commands: texts that would be commands are escaped.
pub fn plain(text: &str) -> String {
    // The prefix of an older kind of command, which may occur anywhere in a line.
    let text = text.replace("##[", "%23%23[");
    text.split_inclusive(['\n', '\r']).map(plain_line).collect()
}

/// The runner ignores spaces in front of a command.
fn plain_line(line: &str) -> String {
    let begin = line.trim_start_matches(|c: char| c.is_whitespace() || c.is_control() || c == '\u{feff}');
    match begin.strip_prefix("::") {
        Some(rest) => format!("{}%3A%3A{rest}", &line[..line.len() - begin.len()]),
        None => line.to_owned(),
    }
}

fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_foreign_ends_a_command_or_a_property() {
        assert_eq!(
            command(
                "error",
                &[("file", "a,b:c%3A\r\n.yaml"), ("line", "7")],
                "100% of a::b,\n::set-output name=x::y\r"
            ),
            "::error file=a%2Cb%3Ac%253A%0D%0A.yaml,line=7::100%25 of a::b,%0A::set-output name=x::y%0D\n"
        );
        assert_eq!(command("error", &[], "it"), "::error ::it\n");
    }

    #[test]
    fn plain_lines_are_no_commands() {
        for (text, shown) in [
            ("default/a (a.yaml): accepted\n", "default/a (a.yaml): accepted\n"),
            ("  error: spec::x\n", "  error: spec::x\n"),
            ("::error ::x\n", "%3A%3Aerror ::x\n"),
            ("a\n \u{a0}\t::stop-commands::x\nb\r::debug::x", "a\n \u{a0}\t%3A%3Astop-commands::x\nb\r%3A%3Adebug::x"),
            ("\u{feff}::debug::x", "\u{feff}%3A%3Adebug::x"),
            ("a ##[add-mask]a\n", "a %23%23[add-mask]a\n"),
            ("##[[error]##[error]", "%23%23[[error]%23%23[error]"),
            (":: \n", "%3A%3A \n"),
            (": :\n", ": :\n"),
            ("", ""),
        ] {
            assert_eq!(plain(text), shown);
        }
    }
}
