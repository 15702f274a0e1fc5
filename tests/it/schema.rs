//! The schema that editors read: as generated, fitting every pipeline, refusing what it can see is wrong.
//! The validator here knows the words that the schema uses, and fails at any other.

use std::fs;

use regex::Regex;
use serde_json::Value;

use crate::project::workspace;

fn generated() -> Value {
    engine::pipeline_schema(&::stages::registry())
}

/// A pipeline as JSON, its anchors and merges in place.
fn read(text: &str) -> Value {
    let options = serde_saphyr::options! {
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
    };
    serde_saphyr::from_str_with_options(text, options).unwrap()
}

#[test]
fn the_committed_schema_is_the_generated_one() {
    let committed = fs::read_to_string(workspace().join("pipeline.schema.json")).unwrap();
    assert!(committed == format!("{:#}\n", generated()), "run `mashbill schema > pipeline.schema.json`");
}

#[test]
fn every_pipeline_fits_and_names_the_schema_in_its_first_line() {
    let schema = generated();
    let mut count = 0;
    for entry in fs::read_dir(workspace().join("pipelines")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let first = text.lines().next().unwrap_or_default();
        assert_eq!(first, "# yaml-language-server: $schema=../pipeline.schema.json", "{}", path.display());
        fits(&schema, &schema, &read(&text), "").unwrap_or_else(|why| panic!("{}: {why}", path.display()));
        count += 1;
    }
    assert!(count >= 4);
}

#[test]
fn what_every_key_can_be_fits() {
    let schema = generated();
    for text in [
        "x-anything: 3\nnodes: {}",
        "name: a\nseed: 3\nenv: [TOKEN]\nvars: { a: { b: 1 } }\nnodes: {}",
        "include: [lib/a.yaml, { file: lib/b.yaml, as: b }]",
        "profiles: { gpu: { vars: { a: 1 }, nodes: { r: { with: { limit: 3 } } } } }\nnodes: {}",
        "defaults: { load: { with: { limit: 3 }, retries: 2 } }\nnodes: { r: { stage: load } }",
        "nodes: { r: { stage: load, with: { path: [a, b], limit: \"${{ vars.n }}\" }, timeout: 3h, retries: 2 } }",
        "nodes: { r: { stage: \"${{ vars.s }}\", with: \"${{ vars.w }}\", seed: \"${{ 1 + 1 }}\" } }",
        "nodes: { r: { stage: load, matrix: { n: [1, 2] }, when: \"${{ vars.a > 1 }}\", with: { path: a } } }",
        "nodes: { \"lib/r[n=1]\": { stage: load, with: { path: a } } }",
        "nodes: { c: { stage: command, inputs: { any: [a, b], other: c }, with: { sh: ls } } }",
    ] {
        fits(&schema, &schema, &read(text), "").unwrap_or_else(|why| panic!("{text}\n{why}"));
    }
}

/// The codes whose mistakes a schema can see; the others need names, files, kinds or what two places say.
const SEEN: [&str; 14] = [
    "E0101", "E0102", "E0103", "E0104", "E0105", "E0106", "E0107", "E0108", "E0110", "E0111", "E0114", "E0119",
    "E0123", "E0126",
];

#[test]
fn bad_examples_are_refused_where_a_schema_can_see_it() {
    let schema = generated();
    // Not even YAML, or a key twice: the reader says so.
    let examples = engine::EXPLANATIONS.iter().filter(|one| !["E0100", "E0116"].contains(&one.code));
    for example in examples {
        let is_refused = fits(&schema, &schema, &read(example.example), "").is_err();
        assert_eq!(is_refused, SEEN.contains(&example.code), "{}", example.code);
    }
    for text in [
        "nodes: { r: { stage: load, with: { path: a, fields: [a] } } }",
        "nodes: { r: { stage: grpo, inputs: { policy: a, prompts: b }, with: { reward: r.rhai, preset: r2 } } }",
        "nodes: { r: { stage: sft, inputs: { policy: a, rows: b }, with: { optimiser: { beta3: 1 } } } }",
        "nodes: { r: { stage: sft, inputs: { policy: a, rows: b }, run: { devise: cpu } } }",
        "nodes: { r: { stage: load, with: { path: a }, retries: 101 } }",
        "defaults: { sft: { with: { epoch: 3 } } }\nnodes: {}",
        "profiles: { gpu: { name: a } }\nnodes: {}",
        "include: { file: a, under: b }",
        "nodes: { 'a b': { stage: load, with: { path: a } } }",
    ] {
        assert!(fits(&schema, &schema, &read(text), "").is_err(), "{text}");
    }
}

/// What of draft 2020-12 the schema uses. The error says where and why.
fn fits(root: &Value, schema: &Value, value: &Value, path: &str) -> Result<(), String> {
    let Value::Object(words) = schema else {
        return if schema == &Value::Bool(true) { Ok(()) } else { Err(format!("{path}: nothing may be here")) };
    };
    for (word, wanted) in words {
        let fail = || Err(format!("{path}: `{word}` {wanted}, found {value}"));
        let bound = |is_kept: fn(f64, f64) -> bool, measure: Option<f64>| {
            measure.is_none_or(|measure| is_kept(measure, wanted.as_f64().unwrap()))
        };
        let size = |size: Option<usize>| size.map(|size| size as f64);
        let each = |schemas: &Value| -> Vec<Result<(), String>> {
            schemas.as_array().unwrap().iter().map(|schema| fits(root, schema, value, path)).collect()
        };
        match word.as_str() {
            "const" if value != wanted => return fail(),
            "enum" if !wanted.as_array().unwrap().contains(value) => return fail(),
            "$schema" | "$defs" | "title" | "description" | "default" | "format" | "then" | "else" | "const"
            | "enum" => {}
            "$ref" => {
                let target = root.pointer(wanted.as_str().unwrap().trim_start_matches('#'));
                fits(root, target.unwrap_or_else(|| panic!("no {wanted}")), value, path)?;
            }
            "type" => {
                let kinds = wanted.as_array().cloned().unwrap_or_else(|| vec![wanted.clone()]);
                if !kinds.iter().any(|kind| is_of(kind.as_str().unwrap(), value)) {
                    return fail();
                }
            }
            "pattern" => {
                if value.as_str().is_some_and(|text| !Regex::new(wanted.as_str().unwrap()).unwrap().is_match(text)) {
                    return fail();
                }
            }
            "minimum" if !bound(|a, b| a >= b, value.as_f64()) => return fail(),
            "maximum" if !bound(|a, b| a <= b, value.as_f64()) => return fail(),
            "minItems" if !bound(|a, b| a >= b, size(value.as_array().map(Vec::len))) => return fail(),
            "maxItems" if !bound(|a, b| a <= b, size(value.as_array().map(Vec::len))) => return fail(),
            "minLength" if !bound(|a, b| a >= b, size(value.as_str().map(|s| s.chars().count()))) => return fail(),
            "minProperties" if !bound(|a, b| a >= b, size(value.as_object().map(serde_json::Map::len))) => {
                return fail();
            }
            "minimum" | "maximum" | "minItems" | "maxItems" | "minLength" | "minProperties" => (),
            "required" => {
                for name in wanted.as_array().unwrap() {
                    if value.as_object().is_some_and(|map| !map.contains_key(name.as_str().unwrap())) {
                        return fail();
                    }
                }
            }
            "allOf" => each(wanted).into_iter().collect::<Result<(), _>>()?,
            "anyOf" => {
                let found = each(wanted);
                if found.iter().all(Result::is_err) {
                    let why: Vec<String> = found.into_iter().filter_map(Result::err).collect();
                    return Err(why.join("; or "));
                }
            }
            "oneOf" => {
                if each(wanted).iter().filter(|found| found.is_ok()).count() != 1 {
                    return fail();
                }
            }
            "if" => {
                let branch = if fits(root, wanted, value, path).is_ok() { "then" } else { "else" };
                if let Some(branch) = words.get(branch) {
                    fits(root, branch, value, path)?;
                }
            }
            "properties" | "patternProperties" | "additionalProperties" | "propertyNames" => {
                for (name, item) in value.as_object().into_iter().flatten() {
                    let path = format!("{path}.{name}");
                    let property = words.get("properties").and_then(|known| known.get(name));
                    let pattern = words.get("patternProperties").and_then(|known| {
                        let fits = |pattern: &String| Regex::new(pattern).unwrap().is_match(name);
                        known.as_object().unwrap().iter().find(|(pattern, _)| fits(pattern)).map(|(_, schema)| schema)
                    });
                    match (word.as_str(), property, pattern) {
                        ("properties", Some(schema), _) | ("patternProperties", _, Some(schema)) => {
                            fits(root, schema, item, &path)?;
                        }
                        ("additionalProperties", None, None) => fits(root, wanted, item, &path)?,
                        ("propertyNames", ..) => fits(root, wanted, &Value::from(name.as_str()), &path)?,
                        _ => (),
                    }
                }
            }
            "items" | "prefixItems" => {
                let first = words.get("prefixItems").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
                for (at, item) in value.as_array().into_iter().flatten().enumerate() {
                    let schema = if word == "items" { (at >= first.len()).then_some(wanted) } else { first.get(at) };
                    if let Some(schema) = schema {
                        fits(root, schema, item, &format!("{path}.{at}"))?;
                    }
                }
            }
            other => panic!("the validator does not know `{other}`"),
        }
    }
    Ok(())
}

fn is_of(kind: &str, value: &Value) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("no kind `{other}`"),
    }
}
