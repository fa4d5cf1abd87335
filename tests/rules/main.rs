//! The published schema and its rules in CEL, evaluated without an API server.
//!
//! The same rules exist in the types and in the translation. These tests find differences between them; `tests/apiserver`
//! repeats them with a real API server.

#![expect(clippy::unwrap_used, reason = "tests panic on unexpected values")]

#[path = "../cases/mod.rs"]
mod cases;
#[path = "../harness/mod.rs"]
mod harness;
mod structure;

use std::{fs, path::Path};

use cases::{assert_check_agrees, cases, in_folder};
use kube_cel::{CompiledSchema, ErrorKind, ValidationError, Validator, apply_defaults, compile_schema};
use serde_json::Value;

/// The published schema. Its rules are compiled once.
struct Schema {
    schema: Value,
    rules: CompiledSchema,
    validator: Validator,
}

impl Schema {
    fn published() -> Self {
        let crd = serde_json::to_value(tcplb::api::crd()).unwrap();
        let mut schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone();
        without_type_function(&mut schema);
        Self { rules: compile_schema(&schema), validator: Validator::new(), schema }
    }

    /// The answer of an API server to a new object.
    fn create(&self, object: &Value) -> Result<(), String> {
        let object = structure::without_nulls(&self.schema, object);
        let problems = structure::problems(&self.schema, &object);
        if !problems.is_empty() {
            return Err(problems.join("; "));
        }
        let broken = self.broken_rules(&object);
        let messages = broken.iter().map(|rule| format!("{}: {}", rule.field_path, rule.message));
        if broken.is_empty() { Ok(()) } else { Err(messages.collect::<Vec<_>>().join("; ")) }
    }

    fn broken_rules(&self, object: &Value) -> Vec<ValidationError> {
        let object = apply_defaults(&self.schema, object);
        let errors = self.validator.validate_compiled(&self.rules, &object, None).err();
        errors.map(|errors| errors.into_vec()).unwrap_or_default()
    }
}

/// Replaces `type(x) == int`, which the library does not support, by an equivalent.
fn without_type_function(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(rule)) = fields.get_mut("rule") {
                for name in ["self", "s"] {
                    *rule = rule.replace(&format!("type({name}) == int"), &format!("string({name}) != {name}"));
                }
                assert!(!rule.contains("type("), "{rule}");
            }
            fields.values_mut().for_each(without_type_function);
        }
        Value::Array(list) => list.iter_mut().for_each(without_type_function),
        _ => {}
    }
}

/// True if the library judges the object differently from an API server: it accepts networks with leading zeros, and
/// numbers with a fraction of zero where a rule needs an integer.
fn is_misjudged(value: &Value) -> bool {
    match value {
        Value::String(text) => {
            text.contains('/') && text.split(['.', '/']).any(|part| part.len() > 1 && part.starts_with('0'))
        }
        Value::Array(list) => list.iter().any(is_misjudged),
        Value::Object(fields) => {
            let of_service = fields.get("service").and_then(|service| service.get("port"));
            let mut read_by_rules = [fields.get("nodePort"), of_service].into_iter().flatten();
            read_by_rules.any(Value::is_f64) || fields.values().any(is_misjudged)
        }
        _ => false,
    }
}

#[test]
fn check_and_the_published_rules_agree_on_every_object_and_on_mutations_of_it() {
    let schema = Schema::published();
    let mut cases = cases();
    cases.retain(|case| !is_misjudged(&case.object));
    let answers: Vec<_> = cases.iter().map(|case| schema.create(&case.object)).collect();
    assert_check_agrees(&cases, &answers, "the schema");
}

/// The first line of a file names the field and a part of the message.
#[test]
fn bad_objects_break_only_the_rule_that_they_name() {
    let schema = Schema::published();
    let (mut wrong, mut broken) = (Vec::new(), 0);
    for folder in ["bad", "bad-in-a-cluster"] {
        for file in in_folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/apiserver/objects").join(folder)) {
            let text = fs::read_to_string(&file).unwrap();
            let (field, part) = text.lines().next().unwrap().trim_start_matches("# ").split_once(": ").unwrap();
            let object: Value = serde_saphyr::from_multiple(&text).unwrap().pop().unwrap();
            if is_misjudged(&object) || !structure::problems(&schema.schema, &object).is_empty() {
                continue;
            }
            broken += 1;
            let rules = schema.broken_rules(&object);
            // A rule without a field names it in its message.
            let named = |rule: &ValidationError| match &*rule.field_path {
                "" => rule.message.starts_with(field),
                path => path == field,
            };
            // An API server tells the message of a rule that it cannot evaluate too.
            let told = |rule: &ValidationError| rule.kind == ErrorKind::EvaluationError || rule.message.contains(part);
            if !matches!(&rules[..], [rule] if named(rule) && told(rule)) {
                wrong.push(format!("{}: {rules:?}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(broken > 100, "{broken} of the files break a rule");
}
