//! Counts the cost of one operation.

use std::{
    collections::BTreeMap,
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
};

use anyhow::{Context, Result};

use super::{
    callgrind,
    counter::{Count, Counter, Tally},
    strace,
    work::CountedWork,
};
use crate::{axes::Door, bench::Bench, contender::Contender, cores};

/// Counts the cost of one operation of this contender.
pub async fn count(bench: &Bench, counter: Counter, work: &CountedWork, contender: &Contender) -> Result<Count> {
    // The contender runs on the core of the load, so that all sent data has arrived before it reads.
    let contender = &Contender { cores: cores::LOAD, ..contender.clone() };
    let operations = counter.factor() * work.operations;
    let once = tally(bench, counter, work, contender, operations).await?;
    let twice = tally(bench, counter, work, contender, 2 * operations).await?;
    Ok(difference(&once, &twice, operations))
}

async fn tally(
    bench: &Bench,
    counter: Counter,
    work: &CountedWork,
    contender: &Contender,
    operations: u32,
) -> Result<Tally> {
    let client = &Door::PLAIN.client(&bench.certificates)?;
    let out = bench.folder.join("counted");
    if out.exists() {
        fs::remove_dir_all(&out)?;
    }
    fs::create_dir_all(&out)?;
    // nginx's worker runs as another user, and must also write its counts here.
    fs::set_permissions(&out, Permissions::from_mode(0o777))?;
    let prefix = match counter {
        Counter::Instructions => callgrind::prefix(&out),
        Counter::SystemCalls => strace::prefix(&out),
    };
    let mut running = contender.start_under(prefix, &bench.folder)?;
    running.ready(client).await?;
    work.run(client, operations).await.with_context(|| format!("{} under {}", contender.name, counter.program()))?;
    let contender_itself = match counter {
        // valgrind replaces itself by the program. strace stays its parent.
        Counter::Instructions => running.processes().root,
        Counter::SystemCalls => *running.processes().processes().get(1).context("strace has no child")?,
    };
    running.end(contender_itself).await?;
    match counter {
        Counter::Instructions => callgrind::read(&out),
        Counter::SystemCalls => strace::read(&out),
    }
}

fn difference(once: &Tally, twice: &Tally, operations: u32) -> Count {
    let of = |tally: &Tally, name| tally.get(name).copied().unwrap_or_default() as f64;
    let each = twice.keys().map(|name| (name.clone(), (of(twice, name) - of(once, name)) / f64::from(operations)));
    let by_name: BTreeMap<String, f64> = each.collect();
    Count { each: by_name.values().sum(), by_name: by_name.into_iter().filter(|(_, each)| *each >= 0.1).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_of_a_start_cancels_out() {
        let tally = |pairs: &[(&str, u64)]| pairs.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        let once = tally(&[("execve", 1), ("read", 130), ("write", 100), ("futex", 3)]);
        let twice = tally(&[("execve", 1), ("read", 230), ("write", 200), ("futex", 4)]);
        let count = difference(&once, &twice, 50);
        assert_eq!(count.by_name, [("read".to_owned(), 2.0), ("write".to_owned(), 2.0)].into());
        assert!((count.each - 4.02).abs() < 1e-9);
    }
}
