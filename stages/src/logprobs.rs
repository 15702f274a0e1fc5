//! Scores given text: the log-probability of every token under a policy. Changes nothing.

use anyhow::{Result, ensure};
use engine::{Arity, Cancelled, Context, Input, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    data::{rows, rows::Row},
    device::Compute,
    text::{
        complete::Policy,
        encode::{self, LossOn},
    },
    train::batch::Batch,
};

/// Adds `ids`, `logprobs` (one a token but the first) and `mean_nll` to every row.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Logprobs {
    /// Which tokens are scored; the others get null.
    pub loss: LossOn,
    /// Divides the logits before the softmax.
    #[schemars(range(min = 0.01, max = 100.0))]
    pub temperature: f32,
}

impl Default for Logprobs {
    fn default() -> Self {
        Self { loss: LossOn::All, temperature: 1.0 }
    }
}

impl Stage for Logprobs {
    const NAME: &'static str = "logprobs";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Input] = &[
        Input { name: "policy", kinds: &["checkpoint"], arity: Arity::One, about: "Who scores." },
        Input { name: "rows", kinds: &["rows"], arity: Arity::Many, about: "Text, ids, or prompts with completions." },
    ];
    const OUTPUT: &'static str = "rows";
    type Settings = Compute;

    fn run(&self, compute: &Compute, ctx: &Context) -> Result<()> {
        let Policy { decoder, tokenizer } = Policy::open(&ctx.input("policy")?.path, compute)?;
        let mut rows = rows::read_all(ctx.inputs("rows"))?;
        let examples = encode::examples(&tokenizer, &rows, self.loss)?;
        let (mut sum, mut count) = (0.0, 0);
        let total = rows.len() as u64;
        for (i, (row, example)) in rows.iter_mut().zip(&examples).enumerate() {
            if ctx.cancelled() {
                return Err(Cancelled.into());
            }
            ensure!(
                example.ids.len() > 1,
                "row {} has {} tokens: there is nothing to predict",
                i + 1,
                example.ids.len()
            );
            decoder.config.check_length(example.ids.len() - 1, &format!("row {}", i + 1))?;
            let batch = Batch::new([(example.ids.as_slice(), example.trained.as_slice())]);
            let scored: Vec<f32> = if batch.targets() == 0 {
                Vec::new()
            } else {
                batch.logprobs(&decoder, self.temperature).into_data().try_to_vec().expect("log-probabilities are f32")
            };
            let total_here: f64 = scored.iter().map(|logprob| f64::from(*logprob)).sum();
            sum -= total_here;
            count += scored.len();
            annotate(row, &example.ids, &example.trained, &scored, total_here);
            ctx.progress(i as u64 + 1, total, "scoring");
        }
        ensure!(count > 0, "no token of any row is scored");
        ctx.record(0, &[("mean_nll", sum / count as f64), ("tokens", count as f64)])?;
        rows::write(ctx.output(), rows)?;
        Ok(())
    }
}

fn annotate(row: &mut Row, ids: &[u32], trained: &[bool], scored: &[f32], total: f64) {
    let mut scores = scored.iter();
    let logprobs: Vec<Option<f32>> =
        trained[1..].iter().map(|is_scored| if *is_scored { scores.next().copied() } else { None }).collect();
    row.insert("ids".into(), json!(ids));
    row.insert("logprobs".into(), json!(logprobs));
    let mean = if scored.is_empty() { None } else { Some(-total / scored.len() as f64) };
    row.insert("mean_nll".into(), json!(mean));
}
