//! What a stage's parameters may be: described for people.
//! Knows nothing of YAML; a schema is what schemars derives from the stage's struct.

use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::Value;

/// A parameter as `mashbill stages NAME` shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct ParameterInfo {
    pub name: String,
    /// In words: `integer`, `text`, `list of number`, `path`.
    pub kind: String,
    /// None where the parameter must be given.
    pub default: Option<Value>,
    /// In words: `1 to 100`, `at least 0`. Empty where anything of its kind will do.
    pub range: String,
    pub about: String,
    /// The words it may be, each with its meaning.
    pub choices: Vec<(String, String)>,
    /// The parameters inside it, where it is a block.
    pub parameters: Vec<ParameterInfo>,
}

/// The schema of a type, without references unless it contains itself.
pub(crate) fn of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<T>().to_value()
}

/// The doc comment.
pub(crate) fn about(schema: &Value) -> String {
    schema["description"].as_str().unwrap_or_default().to_owned()
}

pub(crate) fn describe(schema: &Value) -> Vec<ParameterInfo> {
    let _ = schema;
    Vec::new()
}
