//! Replays the committed corpus: `corpus/TARGET/*`, and one empty input for each target; then tries random changes of it.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use fastrand::Rng;
use tcplb_fuzz::{Property, TARGETS};

/// The time for which changes of the corpus of each target are tried.
const CHANGED_FOR: Duration = Duration::from_secs(2);
/// The maximum length of a changed input, in bytes. Longer ones take most of the time.
const MAX_CHANGED: usize = 4096;

#[test]
fn every_input_of_the_corpus_has_the_property_of_its_target() {
    let mut failed = Vec::new();
    for (target, property) in TARGETS {
        property(&[]);
        let inputs = inputs(target);
        assert!(inputs.len() >= 5, "corpus/{target} has only {} inputs", inputs.len());
        failed.extend(inputs.into_iter().filter(|(_, bytes)| !has_property(*property, bytes)).map(|(path, _)| path));
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

/// Without the coverage that libFuzzer measures, but also without another build of all dependencies.
#[test]
fn random_changes_of_the_corpus_have_the_property_of_their_target() {
    let mut failed = Vec::new();
    for (target, property) in TARGETS {
        let (inputs, mut rng, begun) = (inputs(target), Rng::new(), Instant::now());
        while begun.elapsed() < CHANGED_FOR {
            let input = changed(&inputs, &mut rng);
            if !has_property(*property, &input) {
                let artifacts = Path::new(env!("CARGO_MANIFEST_DIR")).join("artifacts").join(target);
                fs::create_dir_all(&artifacts).unwrap();
                let path = artifacts.join(format!("changed-{:016x}", rng.u64(..)));
                fs::write(&path, &input).unwrap();
                failed.push((path, input));
                break;
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

fn has_property(property: Property, input: &[u8]) -> bool {
    catch_unwind(AssertUnwindSafe(|| property(input))).is_ok()
}

fn inputs(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let inputs = fs::read_dir(&corpus).unwrap_or_else(|error| panic!("{}: {error}", corpus.display()));
    let paths = inputs.map(|input| input.expect("the folder can be read").path());
    paths.map(|path| (path.clone(), fs::read(path).expect("the input can be read"))).collect()
}

/// An input of the corpus with a few random changes.
fn changed(inputs: &[(PathBuf, Vec<u8>)], rng: &mut Rng) -> Vec<u8> {
    let any = |rng: &mut Rng| &inputs[rng.usize(..inputs.len())].1;
    let mut input = any(rng).clone();
    for _ in 0..rng.usize(1..=4) {
        let (from, to) = (rng.usize(..=input.len()), rng.usize(..=input.len()));
        let range = from.min(to)..from.max(to);
        match rng.u8(..5) {
            0 => input.extend_from_within(range),
            1 => drop(input.drain(range)),
            2 => {
                let other = any(rng);
                let part = rng.usize(..=other.len())..;
                drop(input.splice(range, other[part].iter().copied()));
            }
            3 => input.insert(from, rng.u8(..)),
            _ => input.get_mut(from).into_iter().for_each(|byte| *byte ^= 1 << rng.u8(..8)),
        }
        input.truncate(MAX_CHANGED);
    }
    input
}

#[test]
fn every_target_has_its_binary_and_nothing_else_is_a_target() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let names = |part: &str, end: &str| {
        let entries = fs::read_dir(folder.join(part)).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = entries.filter_map(|name| Some(name.to_str()?.strip_suffix(end)?.to_owned())).collect();
        names.sort();
        names
    };
    let targets: Vec<_> = TARGETS.iter().map(|(target, _)| (*target).to_owned()).collect();
    assert_eq!(names("fuzz_targets", ".rs"), targets);
    assert_eq!(names("corpus", ""), targets);
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    for target in targets {
        assert!(manifest.contains(&format!("name = \"{target}\"\npath = \"fuzz_targets/{target}.rs\"")), "{target}");
    }
}
