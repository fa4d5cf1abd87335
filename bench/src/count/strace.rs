//! System calls, from the summary of `strace -c`.

use std::{ffi::OsString, fs, path::Path};

use anyhow::{Context, Result};

use super::counter::Tally;

pub fn prefix(out: &Path) -> Vec<OsString> {
    let file = out.join("strace");
    ["strace", "-f", "-c", "-o"].iter().map(OsString::from).chain([file.into_os_string()]).collect()
}

pub fn read(out: &Path) -> Result<Tally> {
    let text = fs::read_to_string(out.join("strace")).context("strace has written nothing")?;
    let tally = parse(&text);
    anyhow::ensure!(!tally.is_empty(), "strace has written `{text}`");
    Ok(tally)
}

/// Lines of `% time, seconds, usecs/call, calls, errors (may be empty), name`, between two rules.
fn parse(text: &str) -> Tally {
    let is_rule = |line: &&str| line.starts_with("------");
    let rows = text.lines().skip_while(|line| !is_rule(line)).skip(1).take_while(|line| !is_rule(line));
    let row = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        Some(((*words.last()?).to_owned(), words.get(3)?.parse().ok()?))
    };
    rows.filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_parsed_despite_errors_and_totals() {
        let text = "\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 61.20    0.001200          12       100           read
 38.80    0.000700           7        90        11 connect
------ ----------- ----------- --------- --------- ----------------
100.00    0.001900          10       190        11 total
";
        assert_eq!(parse(text), [("connect".to_owned(), 90), ("read".to_owned(), 100)].into());
        assert!(parse("strace: attach: ptrace(PTRACE_SEIZE, 1): Operation not permitted\n").is_empty());
    }
}
