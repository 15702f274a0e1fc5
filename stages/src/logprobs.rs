//! Scores given text: the log-probability of every token under a policy. Changes nothing.

use std::sync::Arc;

use anyhow::{Result, anyhow, ensure};
use engine::{Arity, Cancelled, Context, Finding, Footprint, Input, OtherName, Problem, Prospects, Stage};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    data::{rows, rows::Row},
    device::Compute,
    footprint::Work,
    kernels,
    nn::decoder::Decoder,
    other_names::OTHER_NAMES,
    text::{
        chat::Chat,
        complete::Policy,
        encode::{self, LossOn},
        room::excerpt,
    },
    train::batch::Batch,
};

/// Adds `ids`, `logprobs` (one a token but the first), `mean_nll` and, where asked for, `top_logprobs` to every row.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Logprobs {
    /// Which tokens are scored; the others get null.
    pub loss: LossOn,
    /// Divides the logits before the softmax.
    #[schemars(range(min = 0.01, max = 100.0))]
    pub temperature: f32,
    /// Also writes `top_logprobs`: so many of the likeliest tokens at every scored place, as pairs of id and
    /// log-probability, the likeliest first. As many as the vocabulary has are the whole distribution.
    pub top: usize,
    /// How conversations are written, and what the template check lets pass.
    #[serde(skip_serializing_if = "Chat::is_plain")]
    #[schemars(!skip_serializing_if)]
    pub template: Chat,
}

impl Default for Logprobs {
    fn default() -> Self {
        Self { loss: LossOn::All, temperature: 1.0, top: 0, template: Chat::default() }
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
    const OTHER_NAMES: &'static [OtherName] = OTHER_NAMES;
    type Settings = Compute;

    fn footprint(&self, compute: &Compute, inputs: &Prospects) -> Option<Footprint> {
        Work { inputs, compute }.scoring("policy", "rows", self.loss)
    }

    fn inspect(&self, compute: &Compute, inputs: &Prospects) -> Vec<Finding> {
        compute.finding(inputs).into_iter().collect()
    }

    fn check(&self) -> Vec<Problem> {
        self.template.check()
    }

    fn run(&self, compute: &Compute, ctx: &Context) -> Result<()> {
        let policy = Policy::open(&ctx.input("policy")?.path, compute)?;
        let Policy { decoder, tokenizer } = policy.writing(&self.template, ctx)?;
        let mut rows = rows::read_all(ctx.inputs("rows"))?;
        let examples = encode::examples(&tokenizer, &rows, self.loss)?;
        let (mut sum, mut count) = (0.0, 0);
        let total = rows.len() as u64;
        for (i, (row, example)) in rows.iter_mut().zip(&examples).enumerate() {
            if ctx.cancelled() {
                return Err(Cancelled.into());
            }
            let (name, tokens) = (format!("row {}", i + 1), example.ids.len());
            let shown = || excerpt(&Value::Object(row.clone()).to_string());
            ensure!(tokens > 1, "{name} has {tokens} tokens: there is nothing to predict\nrow: {}", shown());
            decoder.config.check_length(tokens - 1, &name).map_err(|error| {
                anyhow!("{error}\nrow: {}\nhint: leave such rows out by a `filter` before this node", shown())
            })?;
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
            if self.top > 0 {
                let likeliest = likeliest(&decoder, &batch, self.temperature, self.top);
                row.insert("top_logprobs".into(), at_scored(&example.trained, likeliest));
            }
            ctx.progress(i as u64 + 1, total, "scoring");
        }
        ensure!(count > 0, "no token of any row is scored");
        ctx.record(0, &[("mean_nll", sum / count as f64), ("tokens", count as f64)])?;
        rows::write(ctx.output(), rows)?;
        Ok(())
    }
}

fn annotate(row: &mut Row, ids: &[u32], trained: &[bool], scored: &[f32], total: f64) {
    row.insert("ids".into(), json!(ids));
    row.insert("logprobs".into(), at_scored(trained, scored.to_vec()));
    let mean = if scored.is_empty() { None } else { Some(-total / scored.len() as f64) };
    row.insert("mean_nll".into(), json!(mean));
}

/// One value a token but the first, null where it is not scored.
fn at_scored<T: Serialize>(trained: &[bool], scored: Vec<T>) -> Value {
    let mut scored = scored.into_iter();
    let all: Vec<Option<T>> =
        trained[1..].iter().map(|is_scored| if *is_scored { scored.next() } else { None }).collect();
    json!(all)
}

/// So many places meet the vocabulary at once.
const PLACES: usize = 64;

/// At every target of a batch, the likeliest tokens with their log-probabilities; of equals the lower id first.
fn likeliest(decoder: &Decoder, batch: &Batch, temperature: f32, count: usize) -> Vec<Vec<(usize, f32)>> {
    let of_place = |logits: &[f32]| {
        let scaled = |logit: f32| f64::from(logit) / f64::from(temperature);
        let most = scaled(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let whole = most + logits.iter().map(|logit| (scaled(*logit) - most).exp()).sum::<f64>().ln();
        let mut ids: Vec<usize> = (0..logits.len()).collect();
        let order = |a: &usize, b: &usize| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b));
        let count = count.min(ids.len());
        if count < ids.len() {
            ids.select_nth_unstable_by(count, order);
            ids.truncate(count);
        }
        ids.sort_unstable_by(order);
        ids.into_iter().map(|id| (id, (scaled(logits[id]) - whole) as f32)).collect()
    };
    if batch.targets() == 0 {
        return Vec::new();
    }
    let hidden = batch.hidden(decoder);
    let mut likeliest = Vec::with_capacity(batch.targets());
    for from in (0..batch.targets()).step_by(PLACES) {
        let places: Arc<Vec<usize>> = Arc::new((from..batch.targets().min(from + PLACES)).collect());
        let logits = decoder.logits(kernels::rows(hidden.clone(), &places));
        let logits: Vec<f32> = logits.into_data().try_to_vec().expect("logits are f32");
        likeliest.par_extend(logits.par_chunks(logits.len() / places.len()).map(of_place));
    }
    likeliest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{Bench, fixture, json_of};

    #[test]
    fn the_likeliest_tokens_are_those_of_transformers_and_agree_with_what_is_scored() {
        let bench = Bench::new();
        let reference = json_of(&fixture("llama3").join("reference.json"));
        let case = &reference["scored"][3];
        let rows = bench.rows("rows", &[json!({ "ids": case["ids"] }), json!({ "prompt": "1+1=", "completion": "2" })]);
        let made =
            |with: Value| bench.made::<Logprobs>(with, &[("policy", &fixture("llama3")), ("rows", &rows)]).unwrap();
        let [row, _] = &made(json!({ "top": 64 }))[..] else { panic!("two rows") };
        let places = row["top_logprobs"].as_array().unwrap();
        assert_eq!(places.len(), case["logprobs"].as_array().unwrap().len());
        for ((place, taken), theirs) in
            places.iter().zip(&case["ids"].as_array().unwrap()[1..]).zip(case["logprobs"].as_array().unwrap())
        {
            let place: Vec<(u64, f64)> = serde_json::from_value(place.clone()).unwrap();
            assert!(place.is_sorted_by(|a, b| a.1 >= b.1) && place.len() == 64);
            let total: f64 = place.iter().map(|(_, logprob)| logprob.exp()).sum();
            assert!((total - 1.0).abs() < 1e-5, "{total}");
            let (_, ours) = place.iter().find(|(id, _)| Some(*id) == taken.as_u64()).unwrap();
            assert!((ours - theirs.as_f64().unwrap()).abs() < 1e-4, "{ours} is not {theirs}");
        }
        let [whole, asked] = &made(json!({ "top": 2, "loss": "completion", "temperature": 2.0 }))[..] else {
            panic!("two rows")
        };
        assert_eq!(whole["top_logprobs"][0].as_array().unwrap().len(), 2);
        let places = asked["top_logprobs"].as_array().unwrap();
        assert_eq!(places.iter().map(Value::is_null).collect::<Vec<_>>(), [true, true, true, false, false]);
    }

    #[test]
    fn without_being_asked_for_no_likeliest_tokens_are_written() {
        let bench = Bench::new();
        let rows = bench.rows("rows", &[json!({ "text": "1+1=2" })]);
        let made = bench.made::<Logprobs>(json!({}), &[("policy", &fixture("llama")), ("rows", &rows)]).unwrap();
        assert!(!made[0].contains_key("top_logprobs"));
    }
}
