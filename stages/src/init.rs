//! Makes a new model with random weights for a tokenizer.
//! Knows nothing of training.

use anyhow::Result;
use engine::{Arity, Context, Input, NoSettings, Problem, Prospect, Prospects, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    data::checkpoint::Checkpoint,
    footprint,
    nn::{shape::Shape, weights},
    text::tokenizer::Tokenizer,
};

/// Makes a policy of the given size with random weights.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Init(pub Shape);

impl Stage for Init {
    const NAME: &'static str = "init";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Input] = &[Input {
        name: "tokenizer",
        kinds: &["tokenizer", "checkpoint"],
        arity: Arity::One,
        about: "Decides the vocabulary, and goes into the checkpoint.",
    }];
    const OUTPUT: &'static str = "checkpoint";
    type Settings = NoSettings;

    fn resolve(&mut self) {
        self.0.resolve();
    }

    fn check(&self) -> Vec<Problem> {
        self.0.problems().into_iter().map(|(parameter, message)| Problem::new(parameter, message)).collect()
    }

    fn outline(&self, inputs: &Prospects) -> Option<Value> {
        let [(_, Prospect::There(folder))] = inputs.of("tokenizer") else {
            return Some(footprint::outline_of_context(self.0.context));
        };
        let config = self.0.config(Tokenizer::open(folder).ok()?.vocab_size()).ok()?;
        Some(Value::Object(config.to_hf()))
    }

    fn run(&self, _: &NoSettings, ctx: &Context) -> Result<()> {
        let tokenizer = Tokenizer::open(&ctx.input("tokenizer")?.path)?;
        let config = self.0.config(tokenizer.vocab_size())?;
        let weights = weights::init(&config, ctx.seed("weights"), self.0.initializer_range);
        let parameters: usize = weights.values().map(|weight| weight.values.len()).sum();
        ctx.record(0, &[("parameters", parameters as f64)])?;
        Checkpoint { config, weights, tokenizer, adapter: None }.save(ctx.output())
    }
}
