//! How a model is used to be sampled: what its `generation_config.json` says.

use std::ops::RangeInclusive;

use anyhow::{Result, ensure};

use crate::{decode::Sampling, text::tokenizer::Tokenizer};

/// What a model's makers say of sampling, neutral where they say nothing. Of their file only what is known here is
/// heeded; transformers writes many more keys into it, most of them about searches.
///
/// # Errors
/// When a value is out of range.
pub fn habits(tokenizer: &Tokenizer) -> Result<Sampling> {
    let number = |key: &str, range: RangeInclusive<f32>| -> Result<Option<f32>> {
        let Some(value) = tokenizer.generation().get(key) else { return Ok(None) };
        let number = value.as_f64().map(|number| number as f32);
        ensure!(number.is_some_and(|number| range.contains(&number)), "`{key}` of generation_config.json is {value}");
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{Bench, fixture};

    #[test]
    fn a_model_says_how_it_is_sampled() {
        let bench = Bench::new();
        let said = |generation: &str| {
            bench.file("tokenizer.json", std::fs::read(fixture("llama/tokenizer.json")).unwrap());
            bench.file("generation_config.json", generation);
            habits(&Tokenizer::open(&bench.path("")).unwrap())
        };
        assert_eq!(said("{}").unwrap(), Sampling::default());
        // Of Qwen2.5-0.5B-Instruct.
        let text = r#"{ "bos_token_id": 151643, "do_sample": true, "eos_token_id": [151645, 151643],
            "repetition_penalty": 1.1, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "transformers_version": "4.37.0" }"#;
        let expected =
            Sampling { temperature: 0.7, top_p: 0.8, top_k: 20, repetition_penalty: 1.1, ..Sampling::default() };
        assert_eq!(said(text).unwrap(), expected);
        assert_eq!(said(r#"{ "temperature": null }"#).unwrap(), Sampling::default());
        let error = said(r#"{ "temperature": "hot" }"#).unwrap_err().to_string();
        assert_eq!(error, "`temperature` of generation_config.json is \"hot\"");
    }
}
