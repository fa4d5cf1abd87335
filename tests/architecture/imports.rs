//! Imports between the files of a crate.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use super::{gather, is_of_tests, words};

/// A module's path from the root of its crate.
type Module = Vec<String>;

/// The files of a crate by their modules, without tests.
pub struct Crate(BTreeMap<Module, Source>);

struct Source {
    file: PathBuf,
    words: Vec<String>,
    /// The items that `use` brings into scope, by their local names.
    used: BTreeMap<String, Vec<String>>,
}

/// The names that each file imports from others.
type Imports = BTreeMap<Module, BTreeMap<Module, BTreeSet<String>>>;

impl Crate {
    pub fn read(src: &Path) -> Self {
        let mut paths = Vec::new();
        gather(src, &mut paths);
        Self::of(paths.into_iter().map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            (path.strip_prefix(src).unwrap().to_owned(), text)
        }))
    }

    fn of(files: impl IntoIterator<Item = (PathBuf, String)>) -> Self {
        let (mut modules, mut tests) = (BTreeMap::new(), BTreeSet::new());
        for (file, text) in files.into_iter().filter(|(file, _)| !is_of_tests(file)) {
            let module = module_of(&file);
            let (words, modules_of_tests) = without_tests(&words(&text));
            tests.extend(modules_of_tests.into_iter().map(|name| below(&module, &name)));
            let used = used(&words);
            modules.insert(module, Source { file, words, used });
        }
        modules.retain(|module: &Module, _| !(1..=module.len()).any(|length| tests.contains(&module[..length])));
        Self(modules)
    }

    /// The import cycles, one for each set of files that all depend on each other: a text that lists each file with its
    /// imports from the others.
    pub fn cycles(&self) -> Vec<String> {
        let imports = self.imports();
        let reached: BTreeMap<&Module, BTreeSet<&Module>> =
            self.0.keys().map(|module| (module, reached_from(module, &imports))).collect();
        let mut cycles: BTreeSet<Vec<Module>> = BTreeSet::new();
        for module in self.0.keys().filter(|module| reached[module].contains(*module)) {
            let cycle = reached[module].iter().filter(|other| reached[**other].contains(module));
            cycles.insert(cycle.map(|module| (*module).clone()).collect());
        }
        cycles.iter().map(|cycle| self.describe(cycle, &imports)).collect()
    }

    fn describe(&self, cycle: &[Module], imports: &Imports) -> String {
        let file = |module: &Module| self.0[module].file.display();
        let mut text = format!("{} files import each other:\n", cycle.len());
        for module in cycle {
            for (other, names) in imports[module].iter().filter(|(other, _)| cycle.contains(other)) {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                writeln!(text, "  {} -> {}: {}", file(module), file(other), names.join(", ")).unwrap();
            }
        }
        text
    }

    fn imports(&self) -> Imports {
        let mut imports = Imports::new();
        for (module, source) in &self.0 {
            let of_file = imports.entry(module.clone()).or_default();
            for path in all_paths(&source.words) {
                if let Some((other, name)) = self.resolve(module, &path).filter(|(other, _)| other != module) {
                    of_file.entry(other).or_default().insert(name);
                }
            }
        }
        imports
    }

    /// The module that defines the item at a path in another module, and the name of the item there. Imports of modules
    /// on the path are followed. `None`: the item is in another crate.
    fn resolve(&self, module: &[String], path: &[String]) -> Option<(Module, String)> {
        let mut module = module.to_vec();
        let mut path = path.iter().peekable();
        match path.peek()?.as_str() {
            "crate" => module.clear(),
            "self" | "super" => {}
            name if self.0.contains_key(&below(&module, name)) => {}
            _ => return None,
        }
        path.next_if(|name| *name == "crate");
        while let Some(name) = path.next_if(|name| *name == "self" || *name == "super") {
            if name == "super" {
                module.pop();
            }
        }
        while let Some(name) = path.next_if(|name| self.0.contains_key(&below(&module, name))) {
            module.push(name.clone());
        }
        let source = self.0.get(&module)?;
        match path.next().filter(|name| *name != "self") {
            None => Some((module, "self".into())),
            Some(name) => {
                let elsewhere = source.used.get(name).and_then(|path| self.resolve(&module, path));
                elsewhere.or_else(|| Some((module, name.clone())))
            }
        }
    }
}

fn module_of(file: &Path) -> Module {
    let mut module: Module =
        file.with_extension("").components().map(|part| part.as_os_str().to_str().unwrap().to_owned()).collect();
    module.pop_if(|last| ["mod", "lib", "main"].contains(&last.as_str()));
    module
}

fn below(module: &[String], name: &str) -> Module {
    [module, &[name.to_owned()]].concat()
}

/// The modules that a module imports, directly or through others. The module itself is among them if it is part of a
/// cycle.
fn reached_from<'a>(module: &'a Module, imports: &'a Imports) -> BTreeSet<&'a Module> {
    let (mut reached, mut ahead) = (BTreeSet::new(), vec![module]);
    while let Some(module) = ahead.pop() {
        ahead.extend(imports[module].keys().filter(|other| reached.insert(*other)));
    }
    reached
}

/// The words without items that exist only in tests, and the names of modules that do.
fn without_tests(words: &[String]) -> (Vec<String>, Vec<String>) {
    let (mut kept, mut modules) = (Vec::new(), Vec::new());
    let mut ahead = words;
    while let Some((word, rest)) = ahead.split_first() {
        let attribute = match word.as_str() {
            "#" => rest.split(|word| word == "]").next().unwrap_or_default(),
            _ => &[],
        };
        let is_for_tests = attribute.starts_with(&["[".into(), "cfg".into()])
            && attribute.iter().any(|word| word == "test")
            && !attribute.iter().any(|word| word == "not");
        if !is_for_tests {
            kept.push(word.clone());
            ahead = rest;
            continue;
        }
        let item = &rest[attribute.len() + 1..];
        let item = &item[..length_of_item(item)];
        if let [.., keyword, name, end] = item
            && (keyword, end) == (&"mod".to_owned(), &";".to_owned())
        {
            modules.push(name.clone());
        }
        ahead = &rest[attribute.len() + 1 + item.len()..];
    }
    (kept, modules)
}

/// The number of words to the end of an item, a field or a statement.
fn length_of_item(words: &[String]) -> usize {
    let mut depth = 0;
    for (at, word) in words.iter().enumerate() {
        match word.as_str() {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" if depth == 0 => return at,
            "}" if depth == 1 => return at + 1,
            "}" | ")" | "]" => depth -= 1,
            ";" | "," if depth == 0 => return at + 1,
            _ => {}
        }
    }
    words.len()
}

/// All paths with at least two names, in `use` and elsewhere, except those of visibilities.
fn all_paths(words: &[String]) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    let mut at = 0;
    while at < words.len() {
        if is_name(&words[at]) && words.get(at + 1).is_some_and(|next| next == "::") {
            let (leaves, end) = leaves(words, at);
            if !words[..at].ends_with(&["(".into(), "in".into()]) {
                paths.extend(leaves.into_iter().map(|(_, path)| path));
            }
            at = end;
        } else {
            at += 1;
        }
    }
    paths
}

fn used(words: &[String]) -> BTreeMap<String, Vec<String>> {
    let uses = words.iter().enumerate().filter(|(_, word)| *word == "use");
    let first = uses.map(|(at, _)| at + 1).filter(|at| words.get(*at).is_some_and(|word| is_name(word)));
    first.flat_map(|at| leaves(words, at).0).collect()
}

/// The paths that begin at a word, one for each leaf of nested braces, by their local names in `use`; and the index of
/// the word behind them.
fn leaves(words: &[String], first: usize) -> (Vec<(String, Vec<String>)>, usize) {
    let word = |at: usize| words.get(at).map_or("", String::as_str);
    let mut path = vec![words[first].clone()];
    let mut at = first + 1;
    while word(at) == "::" && (is_name(word(at + 1)) || word(at + 1) == "*") {
        path.push(word(at + 1).to_owned());
        at += 2;
    }
    if word(at) == "::" && word(at + 1) == "{" {
        let mut all = Vec::new();
        at += 2;
        while !["}", ""].contains(&word(at)) {
            if is_name(word(at)) || word(at) == "*" {
                let (below, end) = leaves(words, at);
                all.extend(below.into_iter().map(|(name, below)| (name, [&path[..], &below].concat())));
                at = end;
            } else {
                at += 1;
            }
        }
        return (all, at + 1);
    }
    let mut name = path.iter().rfind(|name| *name != "self").cloned().unwrap_or_default();
    if word(at) == "as" {
        word(at + 1).clone_into(&mut name);
        at += 2;
    }
    (vec![(name, path)], at)
}

fn is_name(word: &str) -> bool {
    word.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

/// The imports of `a/b.rs` with this text from the other files of a crate: `file: name`.
#[cfg(test)]
fn imported(text: &str) -> Vec<String> {
    let files = [
        ("lib.rs", "pub mod a; mod other;"),
        ("a/mod.rs", "mod b; mod c; pub use c::{Item, inner as renamed}; pub struct Own;"),
        ("a/b.rs", text),
        ("a/b/child.rs", ""),
        ("a/c.rs", ""),
        ("a/c/d.rs", ""),
        ("other.rs", ""),
    ];
    let files = files.map(|(file, text)| (PathBuf::from(file), text.to_owned()));
    let files = Crate::of(files);
    let imports = &files.imports()[&["a".to_owned(), "b".to_owned()][..]];
    let named = |(module, names): (&Module, &BTreeSet<String>)| {
        let file = files.0[module].file.display();
        names.iter().map(|name| format!("{file}: {name}")).collect::<Vec<_>>()
    };
    imports.iter().flat_map(named).collect()
}

#[test]
fn imports_are_resolved_in_all_their_forms() {
    for (text, expected) in [
        ("use super::Own;", &["a/mod.rs: Own"][..]),
        ("use super::c;", &["a/c.rs: self"]),
        ("use super::c::d::Deep;", &["a/c/d.rs: Deep"]),
        ("use super::{Own, c::{self, One, d::*}};", &["a/mod.rs: Own", "a/c.rs: One", "a/c.rs: self", "a/c/d.rs: *"]),
        ("use self::child::One;", &["a/b/child.rs: One"]),
        ("mod child; pub use child::{One as Two, Three};", &["a/b/child.rs: One", "a/b/child.rs: Three"]),
        ("use crate::{a::c::One, other::{Two}};", &["a/c.rs: One", "other.rs: Two"]),
        ("use super::super::other::f;", &["other.rs: f"]),
        ("use super::*;", &["a/mod.rs: *"]),
        ("use super::{Item, renamed};", &["a/c.rs: Item", "a/c.rs: inner"]),
        (
            "fn f() -> super::c::One { child::make(crate::other::LIMIT) }",
            &["a/b/child.rs: make", "a/c.rs: One", "other.rs: LIMIT"],
        ),
        ("use std::fmt; use self::Local as Other; // crate::other::f\nlet text = \"super::Own\";", &[]),
        ("#[cfg(test)]\nuse super::Own;\n#[cfg(test)] { super::c::f(); }\nuse crate::other::f;", &["other.rs: f"]),
        ("pub(in crate::a) fn f() {}\npub(super) fn g() {}", &[]),
        ("#[cfg(test)]\nmod tests {\n    use super::super::Own;\n}", &[]),
    ] {
        assert_eq!(imported(text), expected, "{text}");
    }
}

#[test]
fn cycles_are_found_with_the_imports_that_tie_them() {
    let files = [
        ("lib.rs", "pub mod a; mod alone; #[cfg(any(test, unix))] mod simulation;"),
        ("a.rs", "mod one; mod two; mod three; use one::Start; pub struct Shared;"),
        ("a/one.rs", "use super::two::Two; use crate::alone;"),
        ("a/two.rs", "fn f() { super::three::run(); }"),
        ("a/three.rs", "use super::one::{Start, Stop};"),
        ("a/three/tests.rs", "use crate::a::two;"),
        ("alone.rs", ""),
        ("simulation.rs", "use crate::a::Shared;"),
    ];
    let files = Crate::of(files.map(|(file, text)| (PathBuf::from(file), text.to_owned())));
    assert_eq!(
        files.cycles(),
        ["3 files import each other:\n  a/one.rs -> a/two.rs: Two\n  a/three.rs -> a/one.rs: Start, Stop\n  \
          a/two.rs -> a/three.rs: run\n"]
    );
}
