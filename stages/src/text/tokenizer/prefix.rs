//! What a tokenizer puts before a text: a space, a token.
//! Knows nothing of the text.

use anyhow::{Result, anyhow};
use serde_json::Value;

use super::Inner;

/// The tokenizer as JSON without what puts a space before every text; none where nothing does.
pub(super) fn removed(value: &Value) -> Option<Value> {
    fn clean(step: &mut Value) -> bool {
        let mut changed = false;
        for key in ["normalizers", "pretokenizers"] {
            if let Some(steps) = step.get_mut(key).and_then(Value::as_array_mut) {
                let before = steps.len();
                steps.retain(|step| step["type"] != "Prepend");
                changed |= steps.len() != before;
                for step in steps {
                    changed |= clean(step);
                }
            }
        }
        match step["type"].as_str() {
            Some("Prepend") => {
                *step = Value::Null;
                changed = true;
            }
            Some("Metaspace") if step["prepend_scheme"] != "never" => {
                step["prepend_scheme"] = "never".into();
                changed = true;
            }
            Some("ByteLevel") if step["add_prefix_space"] == true => {
                step["add_prefix_space"] = false.into();
                changed = true;
            }
            _ => {}
        }
        changed
    }
    let mut value = value.clone();
    let changed = [clean(&mut value["normalizer"]), clean(&mut value["pre_tokenizer"])];
    changed.contains(&true).then_some(value)
}

/// The id that the tokenizer's post-processor puts before a text.
pub(super) fn token(inner: &Inner) -> Result<Option<u32>> {
    // Any character does: what counts is what comes before it. One without a token is no text to learn from.
    let Ok(encoding) = inner.encode("a", true) else {
        let encoding = inner.encode("", true).map_err(|error| anyhow!(error))?;
        return Ok(encoding.get_ids().first().copied());
    };
    let added = encoding.get_special_tokens_mask().first() == Some(&1);
    Ok(encoding.get_ids().first().copied().filter(|_| added))
}
