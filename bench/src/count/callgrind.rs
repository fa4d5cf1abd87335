//! Instructions in user space, counted by callgrind.

use std::{ffi::OsString, fs, path::Path};

use anyhow::{Context, Result, ensure};

use super::counter::Tally;

/// The name of the total of all instructions.
const NAME: &str = "instructions";

pub fn prefix(out: &Path) -> Vec<OsString> {
    let mut file = OsString::from("--callgrind-out-file=");
    file.push(out.join("callgrind.%p"));
    ["valgrind", "--tool=callgrind", "--trace-children=yes", "--quiet"]
        .iter()
        .map(OsString::from)
        .chain([file])
        .collect()
}

/// The sum of the output of each process.
pub fn read(out: &Path) -> Result<Tally> {
    let mut total = 0;
    for entry in fs::read_dir(out)? {
        let path = entry?.path();
        let text = fs::read_to_string(&path)?;
        total += totals(&text).with_context(|| format!("{} has no totals", path.display()))?;
    }
    ensure!(total > 0, "callgrind has counted nothing");
    Ok([(NAME.to_owned(), total)].into())
}

/// The total of one output.
pub fn totals(text: &str) -> Option<u64> {
    let line = text.lines().rev().find_map(|line| line.strip_prefix("totals:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_at_the_end() {
        let text = "# callgrind format\nversion: 1\nevents: Ir\nfn=(1) main\n3 17\n\ntotals: 1234567\n";
        assert_eq!(totals(text), Some(1_234_567));
        assert_eq!(totals("events: Ir\n"), None, "it was cut off");
    }
}
