//! Other numbers than f32, and other devices than the CPU, against what transformers computes in the same numbers.
//! Knows nothing of how a device computes.

use burn::tensor::{DType, Tensor};

use super::{assert_close, fixture, gradients, greedy, ids, json_of, last_logits, logprobs, numbers, supervised};
use crate::{
    bench::{devices, families},
    data::checkpoint::Checkpoint,
    decode::{self, Arrangement, Request, Sampling, Stop},
    device::Place,
    nn::{
        decoder::Decoder,
        lora::Lora,
        precision::Precision::{self, Bf16, F32},
        recompute::Activations::{self, Keep, Recompute},
    },
    train::{
        batch::Batch,
        optimiser::{Optimiser, Trainer},
    },
};

fn open(family: &str, place: &Place) -> (Checkpoint, Decoder) {
    let mut checkpoint = Checkpoint::open(&fixture(family)).unwrap();
    let decoder = checkpoint.to_device(place).unwrap();
    (checkpoint, decoder)
}

fn places(precision: Precision) -> impl Iterator<Item = (String, Place)> {
    devices(precision).into_iter().map(|compute| (compute.device.to_string(), compute.place().unwrap()))
}

fn norm(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().map(|value| value * value).sum::<f64>().sqrt()
}

fn host(tensor: Tensor<2>) -> Vec<f32> {
    tensor.into_data().try_to_vec().unwrap()
}

/// The gradient of a family's supervised batch less PyTorch's in f64, relative to it.
fn gradient_error(family: &str, checkpoint: &Checkpoint, decoder: &Decoder, activations: Activations) -> f64 {
    let (_, all) = gradients(family, checkpoint, decoder, activations);
    let pairs = || all.iter().flat_map(|gradient| gradient.ours.iter().zip(&gradient.theirs));
    norm(pairs().map(|(ours, theirs)| f64::from(ours - theirs))) / norm(pairs().map(|(_, theirs)| f64::from(*theirs)))
}

/// The reference is `tests/reference/bf16.py`.
#[test]
fn bf16_is_as_near_to_f32_as_it_is_in_transformers() {
    let reference = json_of(&fixture("bf16.json"));
    for (where_, place) in places(Bf16) {
        for (family, theirs) in reference["families"].as_object().unwrap() {
            let (checkpoint, decoder) = open(family, &place);
            let settled = decoder.clone().settled();
            let arrived = Checkpoint::open(&fixture(family)).unwrap().settle_on(&place).unwrap();
            let mut errors = Vec::new();
            for case in json_of(&fixture(family).join("reference.json"))["scored"].as_array().unwrap() {
                let ours = last_logits(&settled, &ids(&case["ids"]));
                for other in [&decoder, &arrived] {
                    assert_eq!(ours, last_logits(other, &ids(&case["ids"])), "rounded as they are read, or before");
                }
                let exact = numbers(&case["last_logits"]);
                errors.extend(ours.iter().zip(exact).map(|(ours, exact)| f64::from(*ours) - exact));
            }
            let logits = norm(errors.iter().copied()) / (errors.len() as f64).sqrt();
            let gradients = [Keep, Recompute].map(|kept| gradient_error(family, &checkpoint, &decoder, kept));
            for (what, ours) in [("logits", logits), ("gradient", gradients[0]), ("gradient", gradients[1])] {
                let theirs = theirs[what].as_f64().unwrap();
                println!("{where_}, {family}: {what} {ours:.5}, in transformers {theirs:.5}");
                // Less than a tenth of it would be f32 after all.
                assert!((0.1..1.5).contains(&(ours / theirs)), "{where_}, {family}: {what} {ours} for {theirs}");
            }
        }
    }
}

#[test]
fn master_weights_take_steps_that_bf16_would_lose() {
    const RATE: f32 = 1e-6;
    for (_, place) in places(Bf16) {
        let (checkpoint, decoder) = open("llama", &place);
        let batch = supervised(&checkpoint, &json_of(&fixture("llama").join("reference.json"))["sft"]);
        let settings = Optimiser { weight_decay: 0.0, max_norm: 0.0, ..Optimiser::default() };
        let mut before = decoder.clone();
        let mut trainer = Trainer::new(decoder, settings);
        let mut accumulated = trainer.begin(Keep);
        let loss = -batch.logprobs(&accumulated.tracked, 1.0).mean();
        accumulated.backward(&loss);
        trainer.step(accumulated, RATE).unwrap();
        let (mut moved, mut kept, mut all) = (0, 0, 0);
        let mut old = Vec::new();
        before.each(&mut |_, weight| old.push(weight.clone()));
        let mut old = old.into_iter();
        trainer.decoder.each(&mut |_, weight| {
            let old = old.next().unwrap();
            let same = |a: &Tensor<2>, b: &Tensor<2>| {
                let dtype = Bf16.dtype();
                host((a.clone().cast(dtype) - b.clone().cast(dtype)).cast(F32.dtype()))
            };
            kept += same(weight, &old).iter().filter(|difference| **difference == 0.0).count();
            // Adam's first step is the rate, whatever the gradient.
            let ways = host(weight.clone() - old);
            moved += ways.iter().filter(|way| (way.abs() - RATE).abs() < 0.1 * RATE).count();
            all += ways.len();
        });
        assert!(moved * 10 > all * 8, "{moved} of {all} weights took the step");
        assert!(kept * 10 > all * 9, "{kept} of {all} are the same in bf16");
    }
}

/// A base that came in bf16 is held in it, one in f32 is not; either comes back as it was.
#[test]
fn an_adapter_learns_in_bf16_beside_a_base_that_loses_nothing() {
    for (_, place) in places(Bf16) {
        for (family, is_bf16) in [("llama3", true), ("llama", false)] {
            let mut checkpoint = Checkpoint::open(&fixture(family)).unwrap();
            let weights = checkpoint.weights.clone();
            let mut lora: Lora = serde_json::from_value(serde_json::json!({ "rank": 4 })).unwrap();
            lora.resolve();
            checkpoint.adopt(Some(&lora), 5).unwrap();
            let batch = supervised(&checkpoint, &json_of(&fixture(family).join("reference.json"))["sft"]);
            let mut trainer = Trainer::new(checkpoint.to_device(&place).unwrap(), Optimiser::default());
            let mut losses = Vec::new();
            for _ in 0..10 {
                let mut accumulated = trainer.begin(Keep);
                let loss = -batch.logprobs(&accumulated.tracked, 1.0).mean();
                accumulated.backward(&loss);
                trainer.step(accumulated, 1e-2).unwrap();
                losses.push(loss.without_autodiff().into_scalar::<f32>());
            }
            assert!(losses[9] < 0.9 * losses[0], "{family}: {losses:?}");
            let mut held = Vec::new();
            trainer.decoder.each(&mut |_, weight| held.push(weight.dtype() == DType::BF16));
            assert!(held.iter().all(|held| *held == is_bf16), "{family}");
            checkpoint.take(trainer.decoder).unwrap();
            assert!(checkpoint.weights == weights, "{family}");
            assert!(checkpoint.adapter.unwrap().weights.values().any(|weight| weight.values[0] != 0.0));
        }
    }
}

#[test]
fn what_is_sampled_in_bf16_is_scored_alike_by_the_trainer() {
    for (where_, place) in places(Bf16) {
        for family in ["llama", "qwen3", "gpt2"] {
            let (checkpoint, decoder) = open(family, &place);
            let sampling = Sampling { max_new_tokens: 24, ..Sampling::default() };
            let prompt = checkpoint.tokenizer.encode("12+7=").unwrap();
            let request = Request { prompt: prompt.clone(), samples: 8, key: 0 };
            let arrangement = Arrangement { slots: 8, watch: &mut |_| true };
            let stop = Stop { ids: checkpoint.tokenizer.eos_ids(), when: None };
            let settled = decoder.clone().settled();
            let made = decode::generate(&settled, &[request], &sampling, &stop, &[0], arrangement).unwrap().unwrap();
            let mut most = 0.0_f32;
            for completion in &made[0] {
                let ids = [&prompt[..], &completion.tokens].concat();
                let trained: Vec<bool> = (0..ids.len()).map(|at| at >= prompt.len()).collect();
                let scored = Batch::new([(&ids[..], &trained[..])]).logprobs(&decoder.tracked(Keep), 1.0);
                let scored: Vec<f32> = scored.without_autodiff().into_data().try_to_vec().unwrap();
                assert_eq!(scored.len(), completion.logprobs.len());
                most = scored.iter().zip(&completion.logprobs).fold(most, |most, (a, b)| most.max((a - b).abs()));
            }
            println!("{where_}, {family}: {most}");
            assert!(most < 0.1, "{where_}, {family}: {most}");
        }
    }
}

/// In f32: the tolerances of the CPU, and a little for sums in another order.
#[test]
fn what_transformers_computes_is_computed_on_every_device() {
    for (where_, place) in places(F32) {
        for family in &families() {
            let (checkpoint, decoder) = open(family, &place);
            let reference = json_of(&fixture(family).join("reference.json"));
            for case in reference["scored"].as_array().unwrap() {
                let ids = ids(&case["ids"]);
                let what = format!("{where_}, {family}, {} tokens", ids.len());
                assert_close(&last_logits(&decoder, &ids), &numbers(&case["last_logits"]), 1e-4, &what);
                assert_close(&logprobs(&decoder, &ids), &numbers(&case["logprobs"]), 1e-4, &what);
            }
            let error = gradient_error(family, &checkpoint, &decoder, Keep);
            assert!(error < 1e-4, "{where_}, {family}: gradient {error}");
            let prompt = checkpoint.tokenizer.encode(reference["prompt"].as_str().unwrap_or("12+7=")).unwrap();
            let expected = ids(&reference["greedy"]);
            let ours = greedy(&decoder, &prompt, expected.len(), checkpoint.tokenizer.eos_ids());
            assert_eq!(ours, expected, "{where_}, {family}");
        }
    }
}
