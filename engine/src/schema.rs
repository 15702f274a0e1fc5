//! What a stage's parameters may be, described for people.
//! Knows nothing of YAML; a schema is what schemars derives from the stage's struct.

mod check;
mod defaults;
mod pipeline;

use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Value, json};

pub(crate) use check::{Subject, check, sources};
pub(crate) use defaults::inherit;
pub use pipeline::pipeline_schema;

use crate::stage::Source;

/// A parameter as `mashbill stages NAME` shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct ParameterInfo {
    pub name: String,
    /// In words: `integer`, `text`, `list of number`, `path`.
    pub kind: String,
    /// None where the parameter must be given.
    pub default: Option<Value>,
    /// In words: `from 1 to 100`, `at least 0`. Empty where anything of its kind will do.
    pub range: String,
    pub about: String,
    /// The words it may be, each with its meaning.
    pub choices: Vec<(String, String)>,
    /// The parameters inside it, where it is a block. Where it is one of several blocks, each of
    /// them by its name or tag (`kind: cosine`), with its own parameters.
    pub parameters: Vec<ParameterInfo>,
}

/// The schema of a type, without references unless the type contains itself. The default of every key of a nested block
/// is the one that the type has for it there.
pub(crate) fn of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    defaults::push_down(&mut schema);
    schema
}

/// The doc comment.
pub(crate) fn about(schema: &Value) -> String {
    schema["description"].as_str().unwrap_or_default().to_owned()
}

/// The parameters of a block, in the order of the struct's fields.
pub(crate) fn describe(schema: &Value) -> Vec<ParameterInfo> {
    let required = required(schema);
    properties(schema)
        .filter(|(_, property)| property.get("const").is_none())
        .map(|(name, property)| ParameterInfo {
            name: name.clone(),
            kind: kind(property),
            default: (!required.contains(&name.as_str())).then(|| default(property)),
            range: range(property),
            about: about(property),
            choices: choices(property),
            parameters: inside(property),
        })
        .collect()
}

fn inside(schema: &Value) -> Vec<ParameterInfo> {
    if let Some(items) = schema.get("items") {
        return inside(items);
    }
    let blocks: Vec<&Value> = alternatives(schema).into_iter().filter(|one| properties(one).next().is_some()).collect();
    match blocks[..] {
        [] => Vec::new(),
        [block] => describe(block),
        _ => blocks.into_iter().map(variant).collect(),
    }
}

/// One of the blocks of an enum: tagged by a constant inside it, or named by its only key.
fn variant(block: &Value) -> ParameterInfo {
    let tag = properties(block).find_map(|(name, property)| Some((name, property.get("const")?.as_str()?)));
    let (name, parameters) = match (tag, properties(block).next()) {
        (Some((name, value)), _) => (format!("{name}: {value}"), describe(block)),
        (None, Some((name, content))) => (name.clone(), inside(content)),
        (None, None) => (String::new(), Vec::new()),
    };
    ParameterInfo {
        name,
        kind: "block".into(),
        default: None,
        range: String::new(),
        about: about(block),
        choices: Vec::new(),
        parameters,
    }
}

fn default(schema: &Value) -> Value {
    let mut value = schema.get("default").cloned().unwrap_or(Value::Null);
    shorten(&mut value, schema);
    value
}

/// A single-precision number is told with the digits it was written with: 0.1, not 0.10000000149.
fn shorten(value: &mut Value, schema: &Value) {
    match value {
        Value::Number(number) if schema["format"] == "float" => {
            #[expect(clippy::cast_possible_truncation, reason = "the parameter is of single precision")]
            let single = number.as_f64().unwrap_or_default() as f32;
            *value = json!(single.to_string().parse::<f64>().expect("a number prints as one"));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| shorten(item, &schema["items"])),
        Value::Object(map) => map.iter_mut().for_each(|(name, item)| shorten(item, &schema["properties"][name])),
        _ => (),
    }
}

fn kind(schema: &Value) -> String {
    let mut kinds: Vec<String> = Vec::new();
    for one in alternatives(schema) {
        let words =
            if is_choice(one) { vec!["choice".into()] } else { types(one).map(|name| word(one, name)).collect() };
        for word in words {
            if !kinds.contains(&word) {
                kinds.push(word);
            }
        }
    }
    if kinds.is_empty() { "anything".into() } else { kinds.join(" or ") }
}

fn word(schema: &Value, name: &str) -> String {
    match name {
        "string" if is_source(schema) => "path".into(),
        "string" => "text".into(),
        "boolean" => "true or false".into(),
        "array" if schema.get("items").is_some() => format!("list of {}", kind(&schema["items"])),
        "array" => "list".into(),
        "object" if schema["additionalProperties"].is_object() => {
            format!("block of {}", kind(&schema["additionalProperties"]))
        }
        "object" => "block".into(),
        other => other.into(),
    }
}

/// The bounds of a number, in words.
fn range(schema: &Value) -> String {
    let bounds = |one: &Value| (one["minimum"].as_f64(), one["maximum"].as_f64());
    alternatives(schema).into_iter().map(bounds).map(within).find(|words| !words.is_empty()).unwrap_or_default()
}

fn within(bounds: (Option<f64>, Option<f64>)) -> String {
    match bounds {
        (Some(low), Some(high)) if low >= high => low.to_string(),
        (Some(low), Some(high)) => format!("from {low} to {high}"),
        (Some(low), None) => format!("at least {low}"),
        (None, Some(high)) => format!("at most {high}"),
        (None, None) => String::new(),
    }
}

/// The words that a parameter may be, each with its doc comment.
fn choices(schema: &Value) -> Vec<(String, String)> {
    alternatives(schema)
        .into_iter()
        .flat_map(|one| {
            let listed = one["enum"].as_array().into_iter().flatten();
            let words = listed.chain(one.get("const")).filter_map(Value::as_str);
            words.map(|word| (word.to_owned(), about_choice(one))).collect::<Vec<_>>()
        })
        .collect()
}

/// A list of choices shares the doc comment of its parameter, which says nothing of one of them.
fn about_choice(schema: &Value) -> String {
    match schema.get("const") {
        Some(_) => about(schema),
        None => String::new(),
    }
}

fn is_choice(schema: &Value) -> bool {
    schema.get("enum").is_some() || schema.get("const").is_some()
}

fn is_source(schema: &Value) -> bool {
    schema["format"] == Source::FORMAT
}

/// The schemas of which a value must fit one.
fn alternatives(schema: &Value) -> Vec<&Value> {
    match schema["oneOf"].as_array().or(schema["anyOf"].as_array()) {
        Some(all) => all.iter().flat_map(alternatives).collect(),
        None => vec![schema],
    }
}

/// The JSON types that a schema takes, but `null`: that a value may be left out is what defaults say.
fn types(schema: &Value) -> impl Iterator<Item = &str> {
    let one = schema["type"].as_str();
    let many = schema["type"].as_array().into_iter().flatten().filter_map(Value::as_str);
    one.into_iter().chain(many).filter(|name| *name != "null")
}

fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema["properties"].as_object().into_iter().flatten()
}

fn required(schema: &Value) -> Vec<&str> {
    schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}
