//! Completion of the words after `kubectl tcplb`, for kubectl.
//!
//! kubectl runs the program `kubectl_complete-tcplb` with the words, the last of which is incomplete, and reads one
//! candidate from each line. The last line is a number of cobra's shell completion directives.

use clap::{Arg, Command, CommandFactory};

use super::KubectlCli;

/// Cobra's directive for candidates that are not files.
const NO_FILES: &str = ":4";
/// Cobra's directive for no candidates: the shell completes files.
const FILES: &str = ":0";

/// The answer to kubectl.
pub fn kubectl_completion(words: &[String]) -> String {
    let mut root = KubectlCli::command();
    root.build();
    let (last, before) = words.split_last().map_or(("", words), |(last, before)| (last.as_str(), before));
    let (mut command, mut value_of) = (&root, None);
    for word in before {
        value_of = match value_of {
            Some(_) => None,
            None => flag(command, word).filter(|flag| !word.contains('=') && flag.get_action().takes_values()),
        };
        command = command.find_subcommand(word).unwrap_or(command);
    }
    let candidates = match value_of {
        Some(flag) => values(flag),
        None if last.starts_with('-') => flags(command),
        None => command.get_subcommands().filter_map(|command| candidate(command.get_name(), command)).collect(),
    };
    let mut lines: Vec<String> = candidates.into_iter().filter(|candidate| candidate.starts_with(last)).collect();
    lines.push(if value_of.is_some() && lines.is_empty() { FILES } else { NO_FILES }.to_owned());
    lines.join("\n") + "\n"
}

/// The flag that a word names.
fn flag<'a>(command: &'a Command, word: &str) -> Option<&'a Arg> {
    let name = word.split('=').next().unwrap_or(word);
    command.get_arguments().find(|argument| {
        let long = argument.get_long().is_some_and(|long| name.strip_prefix("--") == Some(long));
        long || argument.get_short().is_some_and(|short| *name == format!("-{short}"))
    })
}

fn values(flag: &Arg) -> Vec<String> {
    flag.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect()
}

fn flags(command: &Command) -> Vec<String> {
    let shown = command.get_arguments().filter(|argument| !argument.is_hide_set());
    shown.filter_map(|argument| Some(format!("--{}{}", argument.get_long()?, help(argument.get_help())))).collect()
}

fn candidate(name: &str, command: &Command) -> Option<String> {
    (name != "help").then(|| format!("{name}{}", help(command.get_about())))
}

/// The first line of a description, after a tabulator.
fn help(text: Option<&clap::builder::StyledStr>) -> String {
    let text = text.map(ToString::to_string).unwrap_or_default();
    text.lines().next().map(|line| format!("\t{line}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(words: &str) -> Vec<String> {
        let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
        let answer = kubectl_completion(&words);
        answer.lines().map(|line| line.split('\t').next().unwrap().to_owned()).collect()
    }

    #[test]
    fn commands_flags_and_values_are_completed() {
        assert_eq!(completed("")[..3], ["status", "doctor", "connections"]);
        assert_eq!(completed("sta"), ["status", ":4"]);
        assert_eq!(completed("status --out"), ["--output", ":4"]);
        assert_eq!(completed("status --names"), ["--namespace", ":4"]);
        assert_eq!(completed("status -o "), ["text", "wide", "json", "yaml", ":4"]);
        assert_eq!(completed("-n shop doctor --output j"), ["json", ":4"]);
        assert_eq!(completed("bundle --output "), [":0"]);
        assert_eq!(completed("status p"), [":4"]);
    }
}
