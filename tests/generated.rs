//! Committed generated files are current.

#![expect(clippy::unwrap_used, reason = "tests panic on unexpected values")]

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;

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

/// The tests of the chart compare its copy and the rendered manifest as a whole, which needs Helm.
#[test]
fn copies_of_the_crd_have_its_schema() {
    // They are rewritten by the tests of the chart.
    if std::env::var_os("UPDATE").is_some() {
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let hash_in = |file: &str| {
        let text = fs::read_to_string(root.join(file)).unwrap();
        text.lines().find_map(|line| Some(line.split_once("tcplb.io/schema-hash: ")?.1.to_owned()))
    };
    let hash = hash_in("crds/tcploadbalancers.yaml");
    assert!(hash.is_some());
    for copy in ["charts/tcplb/files/tcploadbalancers.yaml", "manifests/install.yaml"] {
        assert_eq!(hash_in(copy), hash, "{copy} is not current: run `make generate`");
    }
}

#[test]
fn the_committed_schema_of_the_access_log_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/access-log.schema.json");
    let current = serde_json::to_string_pretty(&tcplb::proxy::access_log::schema()).unwrap() + "\n";
    if std::env::var_os("UPDATE").is_some() {
        fs::write(path, current).unwrap();
    } else {
        let committed = fs::read_to_string(path).unwrap_or_default();
        assert!(committed == current, "docs/access-log.schema.json is not current: run `make generate`");
    }
}

/// The list is not generated, but examples and tests that it names must exist.
#[test]
fn the_list_of_features_names_examples_and_tests_that_there_are() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let list = fs::read_to_string(docs.join("features.md")).unwrap();
    let sources: String = sources(&docs.join("../src")).chain(sources(&docs.join("../tests"))).collect();
    let tests = tests(&sources);
    let mut wrong = Vec::new();
    let rows = list.lines().filter(|line| line.matches('|').count() == 9 && !line.contains("---"));
    for row in rows.filter(|row| !row.starts_with("| feature |")) {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let (feature, fields, examples, test) = (cells[1], cells[2], cells[3], cells[4].trim_matches('`'));
        let fields: Vec<_> = quoted(fields).map(written).collect();
        let mut nowhere = fields.clone();
        for file in links(examples) {
            let text = fs::read_to_string(docs.join(file)).unwrap_or_default();
            if !file.starts_with("../examples/") || !fields.iter().any(|field| has(&text, field)) {
                wrong.push(format!("{feature}: {file} is no example of it"));
            }
            nowhere.retain(|field| !has(&text, field));
        }
        if !nowhere.is_empty() {
            wrong.push(format!("{feature}: no example has {nowhere:?}"));
        }
        if !tests.contains(test) {
            wrong.push(format!("{feature}: there is no test {test}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_manual_has_every_field_with_its_values_and_limits() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manual = fs::read_to_string(root.join("docs/manifest.md")).unwrap().replace(",000", "000");
    let schema = tcplb::api::schema()["properties"]["spec"].take();
    let mut wrong = Vec::new();
    check_fields(&schema, "", &manual, &mut wrong);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Checks that each field below is named in the manual, in a row with its range and its values.
fn check_fields(schema: &Value, path: &str, manual: &str, wrong: &mut Vec<String>) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        let names = |text: &str| text.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == name);
        if !quoted(manual).any(names) && !manual.lines().any(|line| line.starts_with('#') && names(line)) {
            wrong.push(format!("{path}: is not there"));
        }
        let rows: Vec<_> = manual.lines().filter(|line| line.split('|').nth(1).is_some_and(names)).collect();
        let says = |text: &str| rows.iter().any(|row| row.contains(text));
        if let Some(most) = field["maximum"].as_f64() {
            let range = format!("{} to {most}", field["minimum"].as_f64().unwrap_or_default());
            if !says(&range) {
                wrong.push(format!("{path}: no row has {range}"));
            }
        }
        for value in field["enum"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !says(value) {
                wrong.push(format!("{path}: no row has {value}"));
            }
        }
        check_fields(field, &path, manual, wrong);
        check_fields(&field["items"], &format!("{path}[]"), manual, wrong);
    }
}

/// The comparison in the README is generated from the overview and the list of features that are not provided.
#[test]
fn the_readme_compares_the_features_that_are_listed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let list = fs::read_to_string(root.join("docs/features.md")).unwrap();
    let rows = |section: &str| -> Vec<Vec<String>> {
        let (_, rest) = list.split_once(&format!("## {section}\n")).expect(section);
        let lines = rest.lines().take_while(|line| !line.starts_with("## "));
        let lines = lines.filter(|line| line.starts_with("| ") && !line.starts_with("| feature |"));
        lines.map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
    };
    let provided = rows("Overview").into_iter().map(|row| (row[0].clone(), "yes", row[4..].join(" | ")));
    let missing = rows("Not provided").into_iter().map(|row| (row[0].clone(), "no", row[1..].join(" | ")));
    let mut table =
        String::from("| | tcplb | HAProxy | NGINX (open source) | Envoy | Traefik |\n|---|---|---|---|---|---|\n");
    for (feature, ours, peers) in provided.chain(missing) {
        let ours = if feature == "configuration change" { "the same process; open connections stay" } else { ours };
        table += &format!("| {feature} | {ours} | {peers} |\n");
    }
    let (begin, end) = ("<!-- generated from docs/features.md -->\n", "<!-- end -->");
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let (head, rest) = readme.split_once(begin).expect("README.md has the comparison");
    let (_, tail) = rest.split_once(end).expect("README.md has the end of the comparison");
    let current = format!("{head}{begin}\n{table}\n{end}{tail}");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(root.join("README.md"), current).unwrap();
    } else {
        assert!(readme == current, "README.md is not current: run `make generate`");
    }
}

/// The targets of the links in a text.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| rest.split(')').next())
}

fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The text of a field in a manifest: `a.b[].c` as `c:`, `a.b: C` as `b: C`. A key of a ConfigMap keeps its dot.
fn written(field: &str) -> String {
    let (path, value) = field.split_once(": ").unwrap_or((field, ""));
    let name = if path.starts_with("ca.") { path } else { path.rsplit('.').next().unwrap_or(path) };
    format!("{name}: {value}").trim_end().to_owned()
}

/// True if a manifest has a field, not only as the end of another field's name, or in a comment.
fn has(text: &str, field: &str) -> bool {
    let code = |line: &str| line.split(" #").next().filter(|line| !line.starts_with('#')).map(str::to_owned);
    text.lines().filter_map(code).any(|line| {
        line.match_indices(field).any(|(at, _)| !line[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '.'))
    })
}

/// The names of all test functions.
fn tests(sources: &str) -> BTreeSet<&str> {
    let marked = |before: &str| {
        let lines = before.lines().rev().map(str::trim).skip_while(|line| line.is_empty());
        let mut attributes = lines.take_while(|line| line.starts_with('#') || line.starts_with("///"));
        attributes.any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"))
    };
    let functions = sources.match_indices("fn ").filter_map(|(at, _)| {
        let before = sources[..at].trim_end_matches("async ").trim_end_matches(' ');
        let name = sources[at + 3..].split(['(', '<']).next()?;
        (before.ends_with('\n') && marked(before)).then_some(name)
    });
    functions.collect()
}

/// The texts of all Rust files below a folder.
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
