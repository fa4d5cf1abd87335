//! Completion of the words after `kubectl tcplb`, for kubectl.
//!
//! kubectl runs the program `kubectl_complete-tcplb` with the words, the last of which is incomplete, and reads one
//! candidate from each line. The last line is a number of cobra's shell completion directives.

use clap::{Arg, Command, CommandFactory, Parser};

use super::{Kubectl, KubectlCli};

/// Cobra's directive for candidates that are not files.
const NO_FILES: &str = ":4";
/// Cobra's directive for no candidates: the shell completes files.
const FILES: &str = ":0";

/// Takes the place of a name that is being completed.
const PLACEHOLDER: &str = "word-to-complete";

/// The answer to kubectl. `names` returns the possible names in a command line.
pub fn kubectl_completion(words: &[String], names: impl FnOnce(Kubectl) -> Vec<String>) -> String {
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
        None if command.has_subcommands() => {
            command.get_subcommands().filter_map(|command| candidate(command.get_name(), command)).collect()
        }
        None => with_placeholder(before).map(names).unwrap_or_default(),
    };
    let mut lines: Vec<String> = candidates.into_iter().filter(|candidate| candidate.starts_with(last)).collect();
    lines.push(if value_of.is_some() && lines.is_empty() { FILES } else { NO_FILES }.to_owned());
    lines.join("\n") + "\n"
}

/// The command line with a placeholder for its next word. `None`: the next word is not a name.
fn with_placeholder(before: &[String]) -> Option<Kubectl> {
    let typed = || ["kubectl-tcplb"].into_iter().chain(before.iter().map(String::as_str));
    // Some commands need endpoints after the name.
    [1, 2].into_iter().find_map(|missing| {
        let words = typed().chain(std::iter::repeat_n(PLACEHOLDER, missing));
        let parsed = KubectlCli::try_parse_from(words).ok()?.kubectl;
        (parsed.command.name() == Some(PLACEHOLDER)).then_some(parsed)
    })
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
        let names = |arguments: Kubectl| {
            let namespace = arguments.cluster.namespace.unwrap_or_default();
            vec![format!("pg{namespace}"), "redis".into()]
        };
        let answer = kubectl_completion(&words, names);
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
    }

    #[test]
    fn names_are_completed_where_commands_take_them() {
        for words in ["status ", "connections --sort idle ", "drain ", "undrain ", "failback ", "explain "] {
            assert_eq!(completed(words), ["pg", "redis", ":4"], "{words}");
        }
        assert_eq!(completed("drain r"), ["redis", ":4"]);
        assert_eq!(completed("-n shop status p"), ["pgshop", ":4"]);
        for words in ["status pg ", "status -A ", "drain pg ", "doctor ", "top ", "bundle ", "status --wrong "] {
            assert_eq!(completed(words), [":4"], "{words}");
        }
    }
}
