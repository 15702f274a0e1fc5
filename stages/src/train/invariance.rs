//! What a supervised training must not depend on: portions, order and packing of a step's rows, up to rounding; what is
//! kept of a forward pass, not even that. There is no padding, hence no padding side.
//! Knows nothing of how any of it is computed.

use std::borrow::Cow;

use burn::tensor::Device;
use engine::Context;
use serde_json::{Value, json};

use crate::{
    bench::{Bench, fixture, json_of},
    data::checkpoint::Checkpoint,
    device::Compute,
    nn::{config::Family, decoder::Decoder, lora::Lora, recompute::Activations, weights::Weights},
    sft::Sft,
    text::encode::{Example, LossOn, examples},
    train::{
        batch::Batch,
        fit::{self, Lesson, epoch_batch},
        muon::Muon,
        optimiser::Optimiser,
        schedule::{Decay, Schedule},
    },
};

/// Two trajectories coincide when their losses differ by less than this, relatively,
const LOSS: f64 = 1e-5;
/// and their weights by less than this share of the way that the weights of a tensor went at most. AdamW divides a
/// gradient by its own size, so the rounding of a tiny one, such as a key bias has, moves weights too.
const WAY: f32 = 5e-3;

const STEPS: u64 = 20;
const ROWS: usize = 16;

struct Trained {
    has_learned_positions: bool,
    losses: Vec<f64>,
    first: Weights,
    last: Weights,
}

fn rows() -> Vec<Value> {
    let rows = json_of(&fixture("training/trl_sft.json"))["rows"].as_array().unwrap().clone();
    assert_eq!(rows.len(), ROWS);
    rows
}

fn encoded(checkpoint: &Checkpoint) -> Vec<Example> {
    let rows: Vec<_> = rows().iter().map(|row| row.as_object().unwrap().clone()).collect();
    examples(&checkpoint.tokenizer, &rows, LossOn::Completion).unwrap()
}

fn losses(bench: &Bench) -> Vec<f64> {
    let text = std::fs::read_to_string(bench.path("records/metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter_map(|line| line["loss"].as_f64()).collect()
}

/// Twenty steps on the fixture model of a family, eight rows each, in the order that `arrange` puts them in.
fn trained(
    family: &str,
    optimiser: Optimiser,
    compute: &Compute,
    arrange: &dyn Fn(Vec<usize>) -> Vec<usize>,
) -> Trained {
    let checkpoint = Checkpoint::open(&fixture(family)).unwrap();
    let first = checkpoint.weights.clone();
    let (losses, last) = taught(checkpoint, optimiser, compute, arrange);
    Trained { has_learned_positions: family == "gpt2", losses, first, last: last.weights }
}

fn taught(
    checkpoint: Checkpoint,
    optimiser: Optimiser,
    compute: &Compute,
    arrange: &dyn Fn(Vec<usize>) -> Vec<usize>,
) -> (Vec<f64>, Checkpoint) {
    let all = encoded(&checkpoint);
    let batch =
        |step: u64| arrange(epoch_batch(3, ROWS, 8, step)).into_iter().map(|i| Cow::Borrowed(&all[i])).collect();
    let lesson = Lesson {
        schedule: Schedule { peak: 3e-3, warmup: 2, steps: STEPS, decay: Decay::Cosine, floor: 0.1 },
        optimiser,
        batch: &batch,
        validation: None,
        about: Vec::new(),
    };
    let bench = Bench::new();
    let ctx = Context::standalone(&bench.path("."), 7).unwrap();
    let last = fit::fit(checkpoint, &lesson, compute, &ctx).unwrap();
    drop(ctx);
    (losses(&bench), last)
}

fn as_they_come(rows: Vec<usize>) -> Vec<usize> {
    rows
}

fn portions_of(micro_batch_tokens: usize) -> Compute {
    Compute { micro_batch_tokens, ..Compute::default() }
}

#[track_caller]
fn assert_coincide(left: &Trained, right: &Trained, what: &str) {
    assert_eq!((left.losses.len(), right.losses.len()), (STEPS as usize, STEPS as usize), "{what}");
    for (step, (a, b)) in left.losses.iter().zip(&right.losses).enumerate() {
        let error = (a - b).abs() / b;
        assert!(error <= LOSS, "{what}: the losses of step {} are {a} and {b}, {error:e}", step + 1);
    }
    for (name, weight) in &left.last {
        if left.has_learned_positions && name.ends_with("k_proj.bias") {
            // Without rotary positions the softmax cancels what is the same for all keys: its gradient is rounding
            // alone, which AdamW makes as large as any other.
            continue;
        }
        let difference = |other: &Weights| -> f32 {
            let pairs = weight.values.iter().zip(&other[name].values);
            pairs.fold(0.0, |most, (a, b)| (a - b).abs().max(most))
        };
        let (error, way) = (difference(&right.last), difference(&left.first));
        assert!(error <= WAY * way, "{what}: {name} differs by {error}, and went {way}");
    }
}

#[test]
fn n_passes_of_one_row_and_one_pass_of_n_rows_take_the_same_twenty_steps() {
    for family in Family::ALL.map(Family::model_type) {
        let whole = trained(family, Optimiser::default(), &portions_of(100_000), &as_they_come);
        for tokens in [1, 100] {
            let portioned = trained(family, Optimiser::default(), &portions_of(tokens), &as_they_come);
            assert_coincide(&portioned, &whole, &format!("{family} in portions of {tokens} tokens"));
        }
    }
}

#[test]
fn with_muon_too_the_portions_do_not_matter() {
    let muon = Optimiser { muon: Some(Muon::default()), ..Optimiser::default() };
    let whole = trained("llama", muon, &portions_of(100_000), &as_they_come);
    assert_coincide(&trained("llama", muon, &portions_of(1), &as_they_come), &whole, "muon");
    let adamw = trained("llama", Optimiser::default(), &portions_of(100_000), &as_they_come);
    assert_ne!(adamw.last, whole.last);
}

#[test]
fn the_order_inside_a_batch_does_not_matter() {
    for family in Family::ALL.map(Family::model_type) {
        let forwards = trained(family, Optimiser::default(), &portions_of(150), &as_they_come);
        let backwards = |rows: Vec<usize>| rows.into_iter().rev().collect();
        let backwards = trained(family, Optimiser::default(), &portions_of(150), &backwards);
        assert_coincide(&backwards, &forwards, family);
    }
}

/// Sixteen rows a step, once one beside the other and once in blocks of 200 tokens.
#[test]
fn packing_does_not_matter_where_the_rows_of_a_step_are_the_same() {
    let tuned = |with: Value| {
        let bench = Bench::new();
        let rows = bench.rows("rows", &rows());
        let policy = fixture("llama");
        let mut all = json!({ "learning_rate": 3e-3 });
        all.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
        let output = bench.run::<Sft>(all, &[("policy", &policy), ("rows", &rows)]).unwrap();
        let weights = |folder| Checkpoint::open(folder).unwrap().weights;
        Trained {
            has_learned_positions: false,
            losses: losses(&bench),
            first: weights(&policy),
            last: weights(&output),
        }
    };
    let plain = tuned(json!({ "epochs": 20, "batch": 16 }));
    // The sixteen fill three blocks.
    let packed = tuned(json!({ "epochs": 20, "batch": 3, "packing": "best_fit", "max_tokens": 200 }));
    assert_coincide(&packed, &plain, "packed");
}

/// To the last bit: tokens lie flat, so there is no padding on either side that could be attended to or counted, and
/// positions and attention begin anew with each row.
#[test]
fn a_row_has_the_same_logprobs_alone_and_between_any_others_without_padding_on_any_side() {
    for family in Family::ALL.map(Family::model_type) {
        let checkpoint = Checkpoint::open(&fixture(family)).unwrap();
        let decoder = Decoder::new(&checkpoint.config, &checkpoint.weights, &Device::flex()).unwrap();
        let all = encoded(&checkpoint);
        let logprobs = |examples: &mut dyn Iterator<Item = &Example>| -> Vec<f32> {
            let batch = Batch::new(examples.map(|example| (&example.ids[..], &example.trained[..])));
            batch.logprobs(&decoder, 1.0).into_data().try_to_vec().unwrap()
        };
        let alone: Vec<f32> = all.iter().flat_map(|example| logprobs(&mut std::iter::once(example))).collect();
        assert_eq!(logprobs(&mut all.iter()), alone, "{family}");
    }
}

#[test]
fn recomputing_activations_changes_no_bit_of_the_training() {
    for family in Family::ALL.map(Family::model_type) {
        for tokens in [100, 100_000] {
            let keeping = portions_of(tokens);
            let recomputing = Compute { activations: Activations::Recompute, ..keeping.clone() };
            let [kept, recomputed] =
                [keeping, recomputing].map(|compute| trained(family, Optimiser::default(), &compute, &as_they_come));
            assert_eq!(kept.losses, recomputed.losses, "{family}");
            assert!(kept.last == recomputed.last, "{family}: the weights differ");
        }
    }
}

/// What an adapter's dropout leaves out is the same when a layer is computed again.
#[test]
fn recomputing_activations_changes_no_bit_of_an_adapter_that_learns_with_dropout() {
    let [kept, recomputed] = [Activations::Keep, Activations::Recompute].map(|activations| {
        let mut checkpoint = Checkpoint::open(&fixture("llama")).unwrap();
        let mut lora: Lora = serde_json::from_value(json!({ "rank": 4, "dropout": 0.3 })).unwrap();
        lora.resolve();
        checkpoint.adopt(Some(&lora), 5).unwrap();
        let compute = Compute { activations, ..portions_of(100) };
        let (losses, last) = taught(checkpoint, Optimiser::default(), &compute, &as_they_come);
        (losses, last.adapter.unwrap().weights)
    });
    assert_eq!(kept.0, recomputed.0);
    assert!(kept.1 == recomputed.1, "the adapters differ");
}
