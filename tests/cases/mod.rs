//! Objects, and mutations of them, on which `tcplb check` and the API server must agree.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use crate::harness::{self, Folder};

/// The number of mutations of each object.
const MUTATIONS: usize = 24;
const SEED: u64 = 1;

/// Reasons that the API server cannot detect: the administrator's rules, and other objects.
const ELSEWHERE: [&str; 4] = ["NotPermitted", "PortConflict", "NoEndpoints", "NameNotResolved"];

/// Fails if `tcplb check` refuses another object than the API server does. `answers` has the server's answer to each
/// case; `server` is its name in the message.
pub fn assert_check_agrees(cases: &[Case], answers: &[Result<(), String>], server: &str) {
    let folder = Folder::new();
    for (number, case) in cases.iter().enumerate() {
        fs::write(folder.join(&format!("{number:05}.json")), case.object.to_string()).unwrap();
    }
    let checked = checked(&folder);
    let mut disagreements = Vec::new();
    for (number, (case, answer)) in cases.iter().zip(answers).enumerate() {
        let refusals = checked.get(&number).map_or(&[][..], Vec::as_slice);
        let visible: Vec<_> =
            refusals.iter().filter(|(reason, _)| !ELSEWHERE.contains(&reason.as_str())).map(|(_, told)| told).collect();
        match answer {
            Ok(()) if !visible.is_empty() => disagreements.push(format!("{case}: only check refuses it: {visible:?}")),
            Err(told) if refusals.is_empty() => {
                disagreements.push(format!("{case}: only {server} refuses it: {told}"));
            }
            _ => {}
        }
    }
    let (count, all) = (disagreements.len(), cases.len());
    assert!(disagreements.is_empty(), "{count} of {all}:\n{}", disagreements.join("\n"));
}

/// The refusals of `tcplb check` by file number: the reason and the sentence.
fn checked(folder: &Folder) -> BTreeMap<usize, Vec<(String, String)>> {
    let (_, output, errors) = harness::run(&["check", "--mode", "cluster", "--output", "json", folder.path()]);
    assert_eq!(errors, "");
    let report: Value = serde_json::from_str(&output).unwrap();
    let number = |text: &str| text.rsplit('/').next().and_then(|name| name[..5].parse::<usize>().ok()).unwrap();
    let mut refused: BTreeMap<usize, Vec<(String, String)>> = BTreeMap::new();
    for entry in report["loadBalancers"].as_array().unwrap() {
        let errors = entry["problems"].as_array().unwrap().iter().filter(|problem| problem["level"] == "error");
        let text = |problem: &Value, field: &str| problem[field].as_str().unwrap().to_owned();
        let errors =
            errors.map(|one| (text(one, "reason"), format!("{}: {}", text(one, "field"), text(one, "message"))));
        refused.entry(number(entry["file"].as_str().unwrap())).or_default().extend(errors);
    }
    for problem in report["problems"].as_array().unwrap().iter().filter_map(Value::as_str) {
        let file = problem.split(".json").next().unwrap();
        refused.entry(number(file)).or_default().push(("Invalid".into(), problem.into()));
    }
    refused
}

pub struct Case {
    title: String,
    pub object: Value,
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.title)
    }
}

/// The objects of the tests and examples, and mutations of the valid ones, each with a unique name.
pub fn cases() -> Vec<Case> {
    let mut random = fastrand::Rng::with_seed(SEED);
    let mut cases = Vec::new();
    for file in files() {
        let title = file.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap().display().to_string();
        for object in objects(&file) {
            if !title.contains("/bad") {
                cases.extend(mutations(&title, &object, &mut random));
            }
            cases.push(Case { title: title.clone(), object });
        }
    }
    assert!(cases.len() > 1000, "{}", cases.len());
    for (number, case) in cases.iter_mut().enumerate() {
        if case.object["metadata"]["name"].as_str().is_some_and(|name| name.len() <= 52) {
            case.object["metadata"]["name"] = json!(format!("case-{number}"));
        }
    }
    cases
}

fn files() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in
        ["tests/apiserver/objects/bad", "tests/apiserver/objects/bad-in-a-cluster", "tests/apiserver/objects/good"]
    {
        files.extend(in_folder(&root.join(folder)));
    }
    for folder in in_folder(&root.join("tests/golden")) {
        files.push(folder.join("in.yaml"));
    }
    files.extend(in_folder(&root.join("examples")));
    for folder in ["examples/checks", "examples/tls"] {
        files.extend(in_folder(&root.join(folder)));
    }
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    files
}

/// The files of a folder, sorted.
pub fn in_folder(folder: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    entries
}

/// The load balancers of a file, without the fields that only an API server writes.
fn objects(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap();
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    let ours = documents.into_iter().filter(|document| document["kind"] == "TcpLoadBalancer");
    ours.map(|mut object| {
        object["metadata"] = json!({"name": object["metadata"]["name"]});
        object.as_object_mut().unwrap().remove("status");
        object
    })
    .collect()
}

/// The changed value; `None`: the change does not apply to this value.
type Change = fn(&Value) -> Option<Value>;

const CHANGES: [(&str, Change); 21] = [
    ("null", |_| Some(Value::Null)),
    ("text", |_| Some(json!("x"))),
    ("a number", |_| Some(json!(7))),
    ("true", |_| Some(json!(true))),
    ("zero", |_| Some(json!(0))),
    ("below zero", |_| Some(json!(-1))),
    ("a large number", |_| Some(json!(10_000_000_000_u64))),
    ("a fraction", |_| Some(json!(1.2))),
    ("a whole fraction", |value| Some(json!(value.as_u64()? as f64))),
    ("one more", |value| Some(json!(value.as_u64()? + 1))),
    ("empty text", |_| Some(json!(""))),
    ("a long text", |_| Some(json!("a".repeat(300)))),
    ("no entries", |_| Some(json!([]))),
    ("no fields", |_| Some(json!({}))),
    ("within a list", |value| Some(json!([value]))),
    ("in quotes", |value| (!value.is_string()).then(|| json!(value.to_string()))),
    ("its first entry twice", |value| {
        let mut list = value.as_array()?.clone();
        list.push(list.first()?.clone());
        Some(list.into())
    }),
    ("an unknown field", |value| {
        let mut fields = value.as_object()?.clone();
        fields.insert("unknownField".into(), json!(1));
        Some(fields.into())
    }),
    ("capitals", |value| Some(json!(value.as_str()?.to_uppercase()))),
    ("a zero in front", |value| Some(json!(format!("0{}", value.as_str()?)))),
    ("a line break behind", |value| Some(json!(format!("{}\n", value.as_str()?)))),
];

fn mutations(title: &str, object: &Value, random: &mut fastrand::Rng) -> Vec<Case> {
    let mut places = Vec::new();
    places_of(&object["spec"], "/spec", &mut places);
    let mut mutations = Vec::new();
    while mutations.len() < MUTATIONS {
        let place = &places[random.usize(..places.len())];
        let mut object = object.clone();
        let (parent, last) = place.rsplit_once('/').unwrap();
        let what = match random.usize(..=CHANGES.len()) {
            0 => {
                match object.pointer_mut(parent).unwrap() {
                    Value::Object(fields) => drop(fields.remove(last)),
                    Value::Array(list) => drop(list.remove(last.parse().unwrap())),
                    _ => unreachable!("only these have something below them"),
                }
                "left out"
            }
            number => {
                let (what, change) = CHANGES[number - 1];
                let value = object.pointer_mut(place).unwrap();
                let Some(changed) = change(value) else { continue };
                *value = changed;
                what
            }
        };
        mutations.push(Case { title: format!("{title}: {place}: {what}"), object });
    }
    mutations
}

fn places_of(value: &Value, place: &str, places: &mut Vec<String>) {
    places.push(place.to_owned());
    let below = |key: &str| format!("{place}/{}", key.replace('~', "~0").replace('/', "~1"));
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| places_of(value, &below(key), places)),
        Value::Array(list) => {
            (0..list.len()).for_each(|index| places_of(&list[index], &below(&index.to_string()), places));
        }
        _ => {}
    }
}
