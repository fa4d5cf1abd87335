//! Replays the committed corpus: `corpus/TARGET/*`, and one empty input for each target.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use tcplb_fuzz::TARGETS;

#[test]
fn every_input_of_the_corpus_has_the_property_of_its_target() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut failed = Vec::new();
    for (target, property) in TARGETS {
        property(&[]);
        let inputs = fs::read_dir(corpus.join(target)).unwrap_or_else(|error| panic!("corpus/{target}: {error}"));
        let mut count = 0;
        for input in inputs.map(|input| input.unwrap().path()) {
            let bytes = fs::read(&input).unwrap();
            count += 1;
            if catch_unwind(AssertUnwindSafe(|| property(&bytes))).is_err() {
                failed.push(input);
            }
        }
        assert!(count >= 5, "corpus/{target} has only {count} inputs");
    }
    assert!(failed.is_empty(), "{failed:#?}");
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
