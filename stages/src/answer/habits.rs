//! How a model is used to be sampled: what its `generation_config.json` says.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Map, Value};

use crate::decode::Sampling;

/// What a model's folder says of sampling, neutral where it says nothing. Of the file only what is known here is
/// heeded; transformers writes many more keys into it, most of them about searches.
///
/// # Errors
/// When the file is malformed, or a value out of range.
pub fn habits(folder: &Path) -> Result<Sampling> {
    let path = folder.join("generation_config.json");
    if !path.exists() {
        return Ok(Sampling::default());
    }
    let read = || -> Result<Sampling> {
        let map: Map<String, Value> = serde_json::from_str(&fs::read_to_string(&path)?)?;
        let number = |key: &str, range: std::ops::RangeInclusive<f32>| -> Result<Option<f32>> {
            let Some(value) = map.get(key).filter(|value| !value.is_null()) else { return Ok(None) };
            let number = value.as_f64().map(|number| number as f32);
            ensure!(number.is_some_and(|number| range.contains(&number)), "`{key}` is {value}");
            Ok(number)
        };
        let usual = Sampling::default();
        Ok(Sampling {
            temperature: number("temperature", 0.0..=10.0)?.unwrap_or(usual.temperature),
            top_p: number("top_p", 0.0..=1.0)?.unwrap_or(usual.top_p),
            top_k: number("top_k", 0.0..=1e9)?.map_or(usual.top_k, |k| k as usize),
            min_p: number("min_p", 0.0..=1.0)?.unwrap_or(usual.min_p),
            repetition_penalty: number("repetition_penalty", 0.01..=100.0)?.unwrap_or(usual.repetition_penalty),
            ..usual
        })
    };
    read().with_context(|| format!("reading {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Bench;

    #[test]
    fn a_model_says_how_it_is_sampled() {
        let bench = Bench::new();
        assert_eq!(habits(&bench.path("")).unwrap(), Sampling::default());
        // Of Qwen2.5-0.5B-Instruct.
        let text = r#"{ "bos_token_id": 151643, "do_sample": true, "eos_token_id": [151645, 151643],
            "repetition_penalty": 1.1, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "transformers_version": "4.37.0" }"#;
        bench.file("generation_config.json", text);
        let said = Sampling { temperature: 0.7, top_p: 0.8, top_k: 20, repetition_penalty: 1.1, ..Sampling::default() };
        assert_eq!(habits(&bench.path("")).unwrap(), said);
        bench.file("generation_config.json", r#"{ "temperature": "hot" }"#);
        let error = bench.message(&habits(&bench.path("")).unwrap_err());
        assert_eq!(error, "reading generation_config.json: `temperature` is \"hot\"");
    }
}
