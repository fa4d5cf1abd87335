//! `bench count`: the cost of one operation for every contender.

use anyhow::Result;

use super::{
    counter::{Counter, OperationCounts},
    operation::count,
    work::WORKS,
};
use crate::{
    axes::ONE_WORKER,
    bench::Bench,
    contender::{Contender, OURS, Program, in_path},
};

/// Counts everything that can be counted. The rest is reported and omitted.
pub async fn contenders(bench: &Bench, run: String, wants: impl Fn(Program) -> bool) -> Result<OperationCounts> {
    let mut counts = OperationCounts { run, ..OperationCounts::default() };
    for counter in Counter::ALL {
        if in_path(counter.program()).is_none() {
            eprintln!("{} are not counted: there is no {}", counter.name(), counter.program());
            continue;
        }
        for contender in entrants(bench, &wants) {
            for work in &WORKS {
                match count(bench, counter, work, &contender).await {
                    Ok(count) => {
                        eprintln!("{:20} {:22} {:10.1} {}", contender.name, work.name, count.each, counter.name());
                        let works = counts.of.entry(contender.name.into()).or_default();
                        works.entry(work.name.into()).or_default().insert(counter.name().into(), count);
                    }
                    Err(error) => eprintln!(
                        "{:20} {:22} {} cannot be counted: {error:#}",
                        contender.name,
                        work.name,
                        counter.name()
                    ),
                }
            }
        }
    }
    Ok(counts)
}

/// All contenders with their usual settings, and tcplb also with two workers and with each additional feature.
fn entrants(bench: &Bench, wants: impl Fn(Program) -> bool) -> Vec<Contender> {
    let mut entrants: Vec<_> =
        Program::ALL.into_iter().filter(|program| wants(*program)).filter_map(|program| bench.usual(program)).collect();
    if let Some(ours) = entrants.iter_mut().find(|entrant| entrant.name == OURS) {
        ours.configuration = "tcplb/quiet.yaml";
        let others = [
            ("tcplb, two workers", "tcplb/quiet.yaml", &["--workers", "2", "--access-log", "off"][..]),
            ("tcplb, sticky", "tcplb/sticky.yaml", ONE_WORKER),
            ("tcplb, limits", "tcplb/limits.yaml", ONE_WORKER),
            ("tcplb, PROXY v2", "tcplb/proxy.yaml", ONE_WORKER),
            ("tcplb, access log", "tcplb/quiet.yaml", &["--workers", "1"]),
        ];
        let ours = ours.clone();
        entrants.extend(others.map(|(name, configuration, arguments)| Contender {
            name,
            configuration,
            arguments,
            ..ours.clone()
        }));
    }
    entrants
}
