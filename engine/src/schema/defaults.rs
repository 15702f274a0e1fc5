//! Lets nested blocks inherit the defaults of the stage that they stand in: what is not written inside a block is what
//! it would be if the block were not written. Knows nothing of stages beyond their schemas.

use serde_json::{Map, Value};

use super::alternatives;

/// Gives every key of a nested block the default that the block around it has for it, in the place of the one that
/// its own type has: a stage may set a block's defaults otherwise than the next stage with the same block.
pub(super) fn push_down(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    for (key, inner) in map {
        match (key.as_str(), inner) {
            ("properties", Value::Object(properties)) => {
                for property in properties.values_mut() {
                    if let Some(Value::Object(default)) = property.get("default").cloned() {
                        give(property, &default);
                    }
                    push_down(property);
                }
            }
            ("items" | "additionalProperties", inner) => push_down(inner),
            ("anyOf" | "oneOf" | "prefixItems", Value::Array(options)) => options.iter_mut().for_each(push_down),
            _ => (),
        }
    }
}

fn give(schema: &mut Value, default: &Map<String, Value>) {
    for key in ["anyOf", "oneOf"] {
        if let Some(options) = schema.get_mut(key).and_then(Value::as_array_mut) {
            options
                .iter_mut()
                .filter(|one| !one["properties"].is_object() || is_of(one, default))
                .for_each(|one| give(one, default));
            return;
        }
    }
    let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else { return };
    for (name, property) in properties.iter_mut().filter(|(_, property)| property.get("const").is_none()) {
        if let Some(value) = default.get(name) {
            property["default"] = value.clone();
        }
    }
    let has_default = |name: &Value| name.as_str().is_some_and(|name| default.contains_key(name));
    let is_tag =
        |schema: &Value, name: &Value| schema["properties"][name.as_str().unwrap_or_default()].get("const").is_some();
    // What the stage has a default for need not be written; which of several blocks is meant, has to be.
    if let Some(required) = schema.get("required").and_then(Value::as_array) {
        let left: Vec<Value> =
            required.iter().filter(|name| !has_default(name) || is_tag(schema, name)).cloned().collect();
        schema["required"] = left.into();
    }
}

/// Puts the defaults of a stage's schema where a nested block leaves something out. Values at the top are left to the
/// stage.
pub(crate) fn inherit(schema: &Value, with: &mut Value) {
    for (name, value) in with.as_object_mut().into_iter().flatten() {
        if let Some(property) = schema["properties"].get(name) {
            fill(property, value);
        }
    }
}

fn fill(schema: &Value, value: &mut Value) {
    if let Value::Array(items) = value {
        for one in alternatives(schema).into_iter().filter(|one| one["items"].is_object()) {
            for item in items.iter_mut() {
                fill(&one["items"], item);
            }
        }
        return;
    }
    let Value::Object(written) = value else { return };
    // Of several blocks, the one that is written; a block without properties is free in its keys.
    let Some(block) = alternatives(schema).into_iter().find(|one| one["properties"].is_object() && is_of(one, written))
    else {
        return;
    };
    for (name, property) in super::properties(block) {
        match (written.get_mut(name), property.get("default")) {
            (Some(value), _) => fill(property, value),
            (None, Some(default)) => _ = written.insert(name.clone(), default.clone()),
            (None, None) => (),
        }
    }
}

/// Is it this of several blocks: with its tags, and no key that it does not have?
fn is_of(schema: &Value, block: &Map<String, Value>) -> bool {
    let knows = |(name, value): (&String, &Value)| {
        let property = schema["properties"].get(name);
        property.is_some_and(|property| property.get("const").is_none_or(|tag| tag == value))
    };
    let has_tags =
        super::properties(schema).all(|(name, property)| property.get("const").is_none() || block.contains_key(name));
    has_tags && block.iter().all(knows)
}

#[cfg(test)]
mod tests {
    use schemars::JsonSchema;
    use serde::{Deserialize, Serialize};
    use serde_json::json;

    use super::*;

    #[derive(Serialize, Deserialize, JsonSchema)]
    #[serde(default)]
    struct Oven {
        heat: f32,
        fan: bool,
        tray: Tray,
        timer: Timer,
        spare: Option<Tray>,
    }

    #[derive(Serialize, Deserialize, JsonSchema)]
    #[serde(default)]
    struct Tray {
        width: u64,
        depth: u64,
    }

    #[derive(Serialize, Deserialize, JsonSchema)]
    #[serde(tag = "kind", rename_all = "snake_case")]
    enum Timer {
        Bell { minutes: u64, loud: bool },
        Light { minutes: u64 },
    }

    impl Default for Oven {
        fn default() -> Self {
            Self { heat: 180.0, fan: false, tray: Tray::default(), timer: Timer::Light { minutes: 1 }, spare: None }
        }
    }

    impl Default for Tray {
        fn default() -> Self {
            Self { width: 40, depth: 30 }
        }
    }

    /// A stage that wants its oven otherwise than ovens are.
    #[derive(Serialize, Deserialize, JsonSchema)]
    struct Bake {
        #[serde(default = "hot")]
        oven: Oven,
    }

    fn hot() -> Oven {
        Oven {
            heat: 0.1,
            fan: true,
            tray: Tray { width: 60, depth: 50 },
            timer: Timer::Bell { minutes: 9, loud: true },
            ..Oven::default()
        }
    }

    #[test]
    fn blocks_inherit_what_the_stage_has_in_them_at_every_depth() {
        let schema = super::super::of::<Bake>();
        let filled = |written: Value| {
            let mut with = json!({ "oven": written });
            inherit(&schema, &mut with);
            let bake: Bake = serde_json::from_value(with).unwrap();
            serde_json::to_value(bake).unwrap()["oven"].clone()
        };
        let whole = serde_json::to_value(hot()).unwrap();
        assert_eq!(filled(json!({})), whole);
        for (written, pointer, value) in [
            (json!({ "fan": false }), "/fan", json!(false)),
            (json!({ "tray": { "depth": 7 } }), "/tray/depth", json!(7)),
            // Where the stage has no block, the block's own defaults hold.
            (json!({ "spare": { "width": 2 } }), "/spare", json!({ "width": 2, "depth": 30 })),
            // Another block of several takes its place whole, the same one inherits.
            (json!({ "timer": { "kind": "light", "minutes": 2 } }), "/timer", json!({ "kind": "light", "minutes": 2 })),
            (json!({ "timer": { "kind": "bell", "loud": false } }), "/timer/loud", json!(false)),
        ] {
            let mut expected = whole.clone();
            *expected.pointer_mut(pointer).unwrap() = value;
            assert_eq!(filled(written), expected, "{pointer}");
        }
    }

    #[test]
    fn the_defaults_that_are_told_are_the_stages_own() {
        let told = crate::schema::describe(&super::super::of::<Bake>());
        let inside = |name: &str, of: &[crate::ParameterInfo]| of.iter().find(|one| one.name == name).unwrap().clone();
        let oven = inside("oven", &told);
        assert_eq!(inside("heat", &oven.parameters).default, Some(json!(0.1)));
        assert_eq!(inside("width", &inside("tray", &oven.parameters).parameters).default, Some(json!(60)));
        let bell = inside("kind: bell", &inside("timer", &oven.parameters).parameters);
        assert_eq!(inside("minutes", &bell.parameters).default, Some(json!(9)));
        let light = inside("kind: light", &inside("timer", &oven.parameters).parameters);
        assert_eq!(inside("minutes", &light.parameters).default, None, "it has none of its own");
    }
}
