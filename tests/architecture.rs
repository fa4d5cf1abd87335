//! Checks the directions of dependencies; ARCHITECTURE.md has them and the reasons.

#![expect(clippy::unwrap_used, reason = "tests panic on unexpected values")]

#[path = "architecture/imports.rs"]
mod imports;
#[path = "architecture/type_names.rs"]
mod type_names;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use imports::Crate;

/// The modules that each module may use. A new module needs a line here.
const MAY_USE: &[(&str, &[&str])] = &[
    ("shared", &[]),
    ("model", &["shared"]),
    ("printable", &[]),
    ("stdout", &[]),
    ("drain", &["model"]),
    ("log_limit", &[]),
    ("tcp", &["log_limit"]),
    ("capacity", &[]),
    ("upstream", &["capacity", "drain", "log_limit", "model", "shared", "tcp"]),
    ("proxy", &["capacity", "drain", "log_limit", "model", "printable", "shared", "tcp", "upstream"]),
    ("descriptors", &[]),
    ("memory", &[]),
    ("takeover", &[]),
    ("api", &[]),
    ("instruments", &["api", "model", "shared"]),
    ("world", &["api", "model", "shared"]),
    ("source", &["api", "capacity", "instruments", "model", "printable", "shared", "world"]),
    ("translate", &["api", "model", "printable", "shared", "world"]),
    ("state", &["instruments", "model", "translate"]),
    ("metrics", &["instruments", "model", "printable", "proxy", "state", "translate", "upstream"]),
    ("authorization", &["model", "printable"]),
    (
        "admin",
        &[
            "api",
            "authorization",
            "instruments",
            "log_limit",
            "metrics",
            "model",
            "printable",
            "proxy",
            "shared",
            "state",
            "tcp",
            "traffic",
            "translate",
            "upstream",
        ],
    ),
    ("controller", &["api", "instruments", "model", "printable", "shared", "source", "translate", "world"]),
    ("tools", &["api"]),
    ("cost", &[]),
    ("traffic", &[]),
    ("top", &["model", "printable", "stdout", "traffic"]),
    ("cli", &["api", "metrics", "model", "proxy"]),
    ("kubectl", &["api", "cli", "model", "printable", "source", "stdout", "top", "world"]),
];

/// The only module that may use all others.
const KNOWS_EVERYTHING: &str = "app";

/// Crates that a module must not use.
const DOES_WITHOUT: &[(&str, &[&str])] = &[
    ("model", &["kube", "k8s_openapi", "tokio", "tokio_util", "tokio_rustls"]),
    ("upstream", &["kube", "k8s_openapi"]),
    ("proxy", &["kube", "k8s_openapi"]),
    ("translate", &["kube", "tokio", "tokio_util", "notify", "socket2", "rustix", "tracing"]),
    ("world", &["kube", "tokio", "tokio_util", "notify", "socket2", "rustix", "tracing"]),
];

/// Items that would make the translation depend on more than its arguments.
const IMPURE: &[&str] = &[
    "std::fs",
    "std::env",
    "std::process",
    "std::thread",
    "Instant",
    "SystemTime",
    "Timestamp::now",
    "Zoned::now",
    "TcpListener",
    "TcpStream",
    "UdpSocket",
    "ToSocketAddrs",
    "Mutex",
    "RwLock",
    "OnceLock",
    "LazyLock",
    "thread_local",
    "fastrand",
    "println",
    "eprintln",
];

#[test]
fn every_module_uses_only_what_it_may() {
    let modules = modules();
    let listed: BTreeSet<&str> = MAY_USE.iter().map(|(module, _)| *module).chain([KNOWS_EVERYTHING]).collect();
    let all: BTreeSet<&str> = modules.keys().map(String::as_str).collect();
    assert_eq!(all, listed, "each module of the library has its line in MAY_USE, and each line its module");
    let mut wrong = Vec::new();
    for (module, may_use) in MAY_USE {
        for (file, words) in &modules[*module] {
            let used = used_of_ours(words, is_root(file), &all);
            for other in used.iter().filter(|other| *other != module && !may_use.contains(&other.as_str())) {
                wrong.push(format!("{} uses {other}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}\nARCHITECTURE.md says which way dependencies point.");
}

#[test]
fn files_do_not_import_each_other_in_cycles() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut wrong = String::new();
    for src in ["src", "bench/src"] {
        for text in Crate::read(&root.join(src)).cycles() {
            wrong += &format!("in {src}, {text}");
        }
    }
    assert!(wrong.is_empty(), "{wrong}Move what several files need to a file of its own.");
}

#[test]
fn each_type_name_has_one_meaning() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut wrong = Vec::new();
    for src in ["src", "bench/src"] {
        for (name, files) in type_names::definitions(&root.join(src)) {
            if files.len() > 1 && !is_declared_and_compiled(&files) {
                wrong.push(format!("in {src}, {name}: {files:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}\nA type name has one definition; tests and private types count as well.");
}

/// A setting may have the same name in the manifest and in the snapshot.
fn is_declared_and_compiled(files: &[PathBuf]) -> bool {
    matches!(files, [declared, compiled] if declared.starts_with("api") && compiled.starts_with("model"))
}

#[test]
fn type_names_are_found_in_all_their_forms() {
    let text = "pub struct A;\npub(in crate::x) enum B {}\nstruct C<'a>(&'a str);\npub unsafe trait D {\n    type No;\n}\n\
        impl Iterator for A {\n    type No = u8;\n}\nimpl<T> D for C<T>\nwhere\n    T: D,\n{\n    type No = T;\n}\n\
        // struct No\nfn f() {\n    type E = u8;\n    enum F {}\n}\npub type G<T> = Vec<T>;\n";
    assert_eq!(type_names::names(text), ["A", "B", "C", "D", "E", "F", "G"]);
}

#[test]
fn the_data_plane_knows_no_kubernetes_and_the_model_no_runtime() {
    assert_absent(DOES_WITHOUT);
}

#[test]
fn the_translation_and_its_input_depend_on_nothing_but_their_arguments() {
    assert_absent(&[("translate", IMPURE), ("world", IMPURE)]);
}

/// The only files that may allow unsafe code: each calls the kernel or the C library for a function that no library
/// has.
const UNSAFE: [&str; 2] = ["memory.rs", "proxy/stream/undelivered.rs"];

#[test]
fn unsafe_code_is_in_two_small_modules() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = |file: &str| fs::read_to_string(root.join(file)).unwrap();
    assert!(text("src/lib.rs").contains("#![deny(unsafe_code)]"));
    assert!(text("src/main.rs").contains("#![forbid(unsafe_code)]"));
    let files = modules().into_values().flatten();
    let allowing = files.filter(|(_, words)| words.iter().any(|word| word == "unsafe_code"));
    let allowing: Vec<PathBuf> = allowing.map(|(file, _)| file).collect();
    assert_eq!(allowing, UNSAFE.map(PathBuf::from));
    for file in UNSAFE {
        assert!(text(&format!("src/{file}")).lines().count() < 50, "{file}");
    }
}

/// The lints that limit functions, with their settings in clippy.toml.
const FUNCTION_LIMITS: [(&str, &str); 2] =
    [("too_many_lines", "too-many-lines-threshold = 60"), ("too_many_arguments", "too-many-arguments-threshold = 5")];

#[test]
fn the_limits_of_functions_apply_to_all_packages_without_exception() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = |file: &str| fs::read_to_string(root.join(file)).unwrap();
    let (manifest, settings) = (text("Cargo.toml"), text("clippy.toml"));
    for (lint, setting) in FUNCTION_LIMITS {
        assert!(manifest.contains(&format!("\n{lint} = \"warn\"\n")), "Cargo.toml: {lint}");
        assert!(settings.contains(&format!("\n{setting}\n")), "clippy.toml: {setting}");
    }
    for package in [".", "bench", "fuzz", "models"] {
        assert!(text(&format!("{package}/Cargo.toml")).contains("\n[lints]\nworkspace = true\n"), "{package}");
        let mut files = Vec::new();
        for folder in ["src", "tests", "fuzz_targets"].map(|folder| root.join(package).join(folder)) {
            if folder.is_dir() {
                gather(&folder, &mut files);
            }
        }
        for file in files {
            let words = words(&fs::read_to_string(&file).unwrap());
            let excepted = FUNCTION_LIMITS.iter().find(|(lint, _)| words.iter().any(|word| word == lint));
            assert_eq!(excepted, None, "{}", file.display());
        }
    }
}

#[test]
fn uses_are_found_in_all_their_forms() {
    let all = BTreeSet::from(["api", "model", "proxy", "source"]);
    let used = |text: &str, root| used_of_ours(&words(text), root, &all);
    let named = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(used("use crate::model::Key;", false), named(&["model"]));
    assert_eq!(used("use crate::{\n api::{self, source},\n model,\n};", false), named(&["api", "model"]));
    assert_eq!(used("let x = crate::proxy::Options { model: 1 };", false), named(&["proxy"]));
    assert_eq!(used("use super::api::Duration;", true), named(&["api"]));
    assert_eq!(used("use super::api::Duration;", false), named(&[]), "a neighbour of that name");
    assert_eq!(used("// see crate::proxy\n\"crate::api\"; use std::fs;", false), named(&[]));
    assert_eq!(used("fn f() {}\n#[cfg(test)]\nmod tests { use crate::proxy; }", false), named(&[]), "tests may");
}

fn assert_absent(rules: &[(&str, &[&str])]) {
    let modules = modules();
    let mut wrong = Vec::new();
    for (module, unwanted) in rules {
        for (file, found) in &modules[*module] {
            for unwanted in unwanted.iter().filter(|unwanted| {
                let unwanted = words(unwanted);
                found.windows(unwanted.len()).any(|found| found == unwanted)
            }) {
                wrong.push(format!("{} has {unwanted}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

type Files = BTreeMap<PathBuf, Vec<String>>;

/// The files of each module of the library, split into words.
fn modules() -> BTreeMap<String, Files> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    gather(&src, &mut files);
    let mut modules: BTreeMap<String, Files> = BTreeMap::new();
    for path in files {
        let file = path.strip_prefix(&src).unwrap().to_owned();
        let first = file.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned();
        if ["lib", "main"].contains(&first.as_str()) || is_of_tests(&file) {
            continue;
        }
        modules.entry(first).or_default().insert(file, words(&fs::read_to_string(&path).unwrap()));
    }
    modules
}

fn gather(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            gather(&entry, files);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            files.push(entry);
        }
    }
}

/// Tests may use any module.
fn is_of_tests(file: &Path) -> bool {
    file.components().any(|part| part.as_os_str() == "tests" || part.as_os_str() == "tests.rs")
}

/// True if `super` is the library itself in this file.
fn is_root(file: &Path) -> bool {
    file.components().count() == 1 || (file.components().count() == 2 && file.ends_with("mod.rs"))
}

/// The own modules that are named after `crate::`, alone or in braces.
fn used_of_ours(words: &[String], root: bool, all: &BTreeSet<&str>) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for (at, word) in words.iter().enumerate() {
        let from_the_top = word == "crate" || (root && word == "super");
        if !from_the_top || words.get(at + 1).map(String::as_str) != Some("::") {
            continue;
        }
        let mut depth = 0;
        let mut expected = true;
        for word in &words[at + 2..] {
            match word.as_str() {
                "{" => depth += 1,
                "}" => depth -= 1,
                "," => expected = true,
                name if expected && depth <= 1 => {
                    used.insert(name.to_owned());
                    expected = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    used.retain(|name| all.contains(name.as_str()));
    used
}

/// The words and punctuation of a source file, without its comments, strings and unit tests.
fn words(text: &str) -> Vec<String> {
    let (text, _) = text.split_once("#[cfg(test)]\nmod tests {").unwrap_or((text, ""));
    let code: String = text
        .lines()
        .map(|line| line.split_once("//").map_or(line, |(code, _)| code))
        .flat_map(|line| line.split('"').step_by(2).chain(["\n"]))
        .collect();
    let mut words: Vec<String> = Vec::new();
    let mut letters = code.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter.is_alphanumeric() || letter == '_' {
            let mut word = String::from(letter);
            while let Some(next) = letters.next_if(|next| next.is_alphanumeric() || *next == '_') {
                word.push(next);
            }
            words.push(word);
        } else if letter == ':' && letters.next_if_eq(&':').is_some() {
            words.push("::".into());
        } else if !letter.is_whitespace() {
            words.push(letter.into());
        }
    }
    words
}
