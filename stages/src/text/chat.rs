//! The `template:` block that stages share: how conversations are written, and what the template check lets pass.
//! Knows nothing of rows.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use engine::{Context, Problem, Source};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    data::regular,
    text::{check::Finding, date::Date, template::Template, tokenizer::Tokenizer},
};

/// How the model's chat template writes conversations.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Chat {
    /// A Jinja file in place of the model's own chat template. A policy that is trained with it keeps it.
    pub file: Option<Source>,
    /// What the template may ask for beside the messages, such as `enable_thinking: false`. A row's own
    /// `chat_template_kwargs`, `tools` and `documents` go before it.
    pub variables: Map<String, Value>,
    /// The day that the template's `strftime_now` tells, as in `2024-07-26`; null: the template's own fallback, and
    /// an error where it has none. Never the clock's: a result must not depend on it.
    pub date: Option<String>,
    /// The token that ends a turn, such as `<|im_end|>`, where the model's own end-of-sequence token is another. A
    /// policy that is trained with it keeps it.
    pub eos: Option<String>,
    /// Findings of the template check that do not stop the node.
    pub accept: BTreeSet<Finding>,
}

impl Chat {
    /// Is it as if it were not there? Such a block decides nothing, and is no fact of a result.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }

    /// What is wrong with the block, by parameter below it.
    #[must_use]
    pub fn check(&self) -> Vec<Problem> {
        let error = self.date.as_deref().and_then(|date| date.parse::<Date>().err());
        error.map(|error| Problem::new("template.date", error.to_string())).into_iter().collect()
    }

    /// The tokenizer that writes conversations so.
    ///
    /// # Errors
    /// When the file is missing or no template, or the tokenizer has no such token.
    pub fn apply(&self, mut tokenizer: Tokenizer, ctx: &Context) -> Result<Tokenizer> {
        if let Some(file) = &self.file {
            let path = ctx.source(file);
            let place = || format!("reading {}", file.0.display());
            let source = regular::text(&path, regular::TEMPLATE_BYTES).with_context(place)?;
            tokenizer = tokenizer.with_template(source).with_context(place)?;
        }
        if let Some(eos) = &self.eos {
            tokenizer = tokenizer.with_eos(eos)?;
        }
        let date = self.date.as_deref().map(str::parse).transpose()?;
        let write = |template: Template| template.with(self.variables.clone(), date);
        Ok(tokenizer.writing(write).accepting(self.accept.clone()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        bench::{Bench, json_of, toy_checkpoint},
        logprobs::Logprobs,
        sample::Sample,
        sft::Sft,
    };

    const SUMS: &str = "{% if strftime_now is defined %}{{ strftime_now('%d') }}{% endif %}{{ sign }}\
                        {% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}\
                        {% endfor %}";

    fn bench() -> (Bench, std::path::PathBuf) {
        let bench = Bench::new();
        toy_checkpoint(&bench.path("base"));
        bench.file("sums.jinja", SUMS);
        let turns = json!([{ "role": "user", "content": "1+1=" }, { "role": "assistant", "content": "2" }]);
        let rows = bench.rows("rows", &[json!({ "messages": turns })]);
        (bench, rows)
    }

    #[test]
    fn a_policy_keeps_the_template_and_the_end_that_it_was_trained_with() {
        let (bench, rows) = bench();
        let inputs = [("policy", &*bench.path("base")), ("rows", &*rows)];
        let made = |template: Value| {
            let made = bench.run::<Sft>(json!({ "batch": 1, "epochs": 1, "template": template }), &inputs).unwrap();
            let config = json_of(&made.join("tokenizer_config.json"));
            let ends = json_of(&made.join("generation_config.json"))["eos_token_id"].clone();
            (config["chat_template"].clone(), config["eos_token"].clone(), ends)
        };
        assert_eq!(made(json!({ "file": "sums.jinja" })), (json!(SUMS), json!("<eos>"), json!(1)));
        let with_end = made(json!({ "file": "sums.jinja", "eos": "</answer>" }));
        assert_eq!(with_end, (json!(SUMS), json!("</answer>"), json!([5, 1])));
        // An adapter lies beside the base's own files, which stay as they are.
        let before = std::fs::read(bench.path("base/tokenizer_config.json")).unwrap();
        let with =
            json!({ "batch": 1, "epochs": 1, "lora": {}, "template": { "file": "sums.jinja", "eos": "</answer>" } });
        let adapted = Tokenizer::open(&bench.run::<Sft>(with, &inputs).unwrap()).unwrap();
        assert_eq!((adapted.eos(), adapted.special_tokens()["eos_token"].as_str()), (Some(5), "</answer>"));
        assert!(std::fs::read(bench.path("base/tokenizer_config.json")).unwrap() == before);
        assert_eq!(
            bench.complaint::<Sft>(json!({ "template": { "eos": "<end>" } }), &inputs),
            "the tokenizer has no token \"<end>\""
        );
        assert_eq!(
            bench.complaint::<Sft>(json!({ "template": { "file": "no.jinja" } }), &inputs),
            "reading no.jinja: No such file or directory (os error 2)"
        );
    }

    #[test]
    fn a_template_is_given_variables_and_a_day() {
        let (bench, rows) = bench();
        let inputs = [("policy", &*bench.path("base")), ("rows", &*rows)];
        let ids = |template: Value| {
            bench.made::<Logprobs>(json!({ "template": template }), &inputs).unwrap()[0]["ids"].clone()
        };
        // 1+1=2<eos>; `+` is 6, `0` to `9` are 7 to 16, `=` is 17.
        assert_eq!(ids(json!({ "file": "sums.jinja" })), json!([8, 6, 8, 17, 9, 1]));
        let given = json!({ "file": "sums.jinja", "variables": { "sign": 7 }, "date": "2024-07-26" });
        assert_eq!(ids(given), json!([9, 13, 14, 8, 6, 8, 17, 9, 1]));
    }

    #[test]
    fn a_day_that_is_none_is_refused_before_anything_runs() {
        let (bench, rows) = bench();
        let inputs = [("policy", &*bench.path("base")), ("prompts", &*rows)];
        assert_eq!(
            bench.complaint::<Sample>(json!({ "template": { "date": "today" } }), &inputs),
            "template.date: `today` is not a day; a day is written as in `2024-07-26`"
        );
    }
}
