//! What is generated and committed is current.

use std::{fs, path::Path};

#[path = "harness/mod.rs"]
mod harness;

#[test]
fn the_committed_crd_is_what_the_program_prints() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("crds/tcploadbalancers.yaml");
    let (code, printed, complaints) = harness::run(&["crd"]);
    assert_eq!((code, complaints.as_str()), (0, ""));
    if std::env::var_os("UPDATE").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, printed).unwrap();
    } else {
        let committed = fs::read_to_string(path).unwrap_or_default();
        assert!(committed == printed, "crds/tcploadbalancers.yaml is not current: run `make generate`");
    }
}

/// Nobody generates it, but what it names has to be there.
#[test]
fn the_list_of_features_names_examples_and_tests_that_there_are() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let list = fs::read_to_string(root.join("docs/features.md")).unwrap();
    let sources: String = sources(&root.join("src")).chain(sources(&root.join("tests"))).collect();
    let mut wrong = Vec::new();
    let rows = list.lines().filter(|line| line.matches('|').count() == 9 && !line.contains("---"));
    for row in rows.filter(|row| !row.starts_with("| feature |")) {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let (example, test) = (cells[3], cells[4].trim_matches('`'));
        let file = example.split_once("](").and_then(|(_, rest)| rest.split([')', '#']).next()).unwrap_or_default();
        if file.is_empty() || !root.join("docs").join(file).is_file() {
            wrong.push(format!("{}: there is no {example}", cells[1]));
        }
        if !sources.contains(&format!("fn {test}(")) {
            wrong.push(format!("{}: there is no test {test}", cells[1]));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The texts of all files below a folder that are Rust.
fn sources(folder: &Path) -> Box<dyn Iterator<Item = String>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    Box::new(entries.flat_map(|path| match path.is_dir() {
        true => sources(&path),
        false if path.extension().is_some_and(|extension| extension == "rs") => {
            Box::new(std::iter::once(fs::read_to_string(path).unwrap()))
        }
        false => Box::new(std::iter::empty()) as Box<dyn Iterator<Item = String>>,
    }))
}
