//! Trains a tokenizer on the text of rows.
//! Knows nothing of models.

use anyhow::{Result, bail};
use engine::{Arity, Context, Input, NoSettings, Problem, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    data::rows::{self, Row},
    text::{
        fields,
        template::{self, Conversation, Template, Turn},
        train::{self, Special},
    },
};

/// Trains a tokenizer on rows and writes a `tokenizer.json` that gives back every text exactly.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Tokenizer {
    /// What a token is.
    pub kind: Kind,
    /// With `kind: bpe`: the most tokens, special ones included; at least 256 and the special ones.
    #[schemars(range(min = 256, max = 10_000_000))]
    pub vocab_size: usize,
    /// Strings that are one token wherever they stand, such as `<think>`. They stay when text is shown.
    pub special: Vec<String>,
    /// Ends a completion; null: none, and nothing can be learned that ends.
    pub eos: Option<String>,
    /// Fills batches for other programs; null: none.
    pub pad: Option<String>,
    /// The fields whose text is learned; empty: `prompt`, `completion`, `messages`, `answer` and `text`.
    pub fields: Vec<String>,
    /// With `kind: characters`: characters that get a token even if no row holds them.
    pub extra: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// One token a character. A character that no row held is an error later, never an unknown token.
    #[default]
    Characters,
    /// Byte-level byte pair encoding, with digits apart as Qwen2 has them. Encodes any text.
    Bpe,
}

impl Default for Tokenizer {
    fn default() -> Self {
        Self {
            kind: Kind::Characters,
            vocab_size: 1024,
            special: Vec::new(),
            eos: Some("<eos>".into()),
            pad: Some("<pad>".into()),
            fields: Vec::new(),
            extra: String::new(),
        }
    }
}

impl Stage for Tokenizer {
    const NAME: &'static str = "tokenizer";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Input] =
        &[Input { name: "rows", kinds: &["rows"], arity: Arity::Many, about: "The text to learn from." }];
    const OUTPUT: &'static str = "tokenizer";
    type Settings = NoSettings;

    fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.tokens().all().iter().any(|token| token.is_empty()) {
            problems.push(Problem::new("special", "a special token cannot be empty"));
        }
        let least = 256 + self.tokens().all().len();
        if self.kind == Kind::Bpe && self.vocab_size < least {
            let message =
                format!("`vocab_size` is {}; all bytes and special tokens are {least} already", self.vocab_size);
            problems.push(Problem::new("vocab_size", message));
        }
        problems
    }

    fn run(&self, _: &NoSettings, ctx: &Context) -> Result<()> {
        let mut texts = vec![self.extra.clone()];
        for input in ctx.inputs("rows") {
            for (index, row) in rows::read(&input.path)?.into_iter().enumerate() {
                use anyhow::Context as _;
                self.collect(&row, &mut texts).with_context(|| format!("row {} of `{}`", index + 1, input.node))?;
            }
        }
        let tokenizer = match self.kind {
            Kind::Characters => train::characters(&texts, &self.tokens())?,
            Kind::Bpe => train::bpe(&texts, &self.tokens(), self.vocab_size)?,
        };
        ctx.record(0, &[("tokens", tokenizer.vocab_size() as f64)])?;
        tokenizer.save(ctx.output())
    }
}

impl Tokenizer {
    fn tokens(&self) -> Special {
        Special { pad: self.pad.clone(), eos: self.eos.clone(), whole: self.special.clone() }
    }

    /// Adds the text of a row's fields. Messages are learned as the default chat template writes them.
    fn collect(&self, row: &Row, texts: &mut Vec<String>) -> Result<()> {
        fields::check(row)?;
        let usual = ["prompt", "completion", "messages", "answer", "text"].map(str::to_owned);
        let fields = if self.fields.is_empty() { &usual[..] } else { &self.fields };
        let before = texts.len();
        for field in fields {
            match row.get(field) {
                Some(Value::String(text)) => texts.push(text.clone()),
                Some(Value::Array(messages)) if field == "messages" => {
                    let template = Template::compile(template::DEFAULT)?;
                    let conversation = Conversation::new(messages, &Row::new());
                    texts.push(template.render(&conversation, messages.len(), Turn::Open, &[].into())?);
                }
                // An answer may be a number or a list; then it is for the reward, not for the policy.
                _ => {}
            }
        }
        if texts.len() == before {
            let wanted = fields.iter().map(|field| format!("`{field}`")).collect::<Vec<_>>().join(", ");
            bail!("no text in {wanted}; the row has {}", fields::names(row));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        bench::{Bench, json_of},
        text::tokenizer::Tokenizer as Trained,
    };

    #[test]
    fn everything_that_the_rows_hold_can_be_encoded() {
        let bench = Bench::new();
        let messages = json!([{ "role": "user", "content": "é?" }, { "role": "assistant", "content": "7" }]);
        let rows = [json!({ "prompt": "1+", "completion": "<think>2", "answer": 3 }), json!({ "messages": messages })];
        let folder = bench.rows("rows", &rows);
        let with = json!({ "special": ["<think>", "<eos>"], "extra": "xyz" });
        let made = bench.run::<Tokenizer>(with, &[("rows", &folder)]).unwrap();
        let tokenizer = Trained::open(&made).unwrap();
        assert_eq!(tokenizer.encode("<eos><think>").unwrap(), [1, 2]);
        assert_eq!(tokenizer.encode("User: é?\nAssistant: 7 1+2 xyz").unwrap().len(), 29);
        assert!(tokenizer.encode("3").is_err(), "an answer that is a number is no text");
        assert_eq!(json_of(&made.join("tokenizer_config.json"))["eos_token"], "<eos>");
    }

    #[test]
    fn a_row_without_text_is_an_error() {
        let bench = Bench::new();
        let folder = bench.rows("rows", &[json!({ "question": "?" })]);
        assert_eq!(
            bench.complaint::<Tokenizer>(json!({ "fields": ["prompt"] }), &[("rows", &folder)]),
            "row 1 of `rows`: no text in `prompt`; the row has `question`"
        );
        assert_eq!(
            bench.complaint::<Tokenizer>(json!({ "kind": "bpe", "vocab_size": 257 }), &[("rows", &folder)]),
            "vocab_size: `vocab_size` is 257; all bytes and special tokens are 258 already"
        );
    }
}
