//! Adapters against what PEFT computes of them (`tests/reference/make_adapters.py`).

use std::path::PathBuf;

use super::{assert_close, fixture, ids, json_of, last_logits, numbers, open};
use crate::{
    bench::Bench,
    data::{adapter, checkpoint::Checkpoint},
    decode::{self, Arrangement, Request, Sampling, Stop},
    device::Place,
    nn::{decoder::Decoder, recompute::Activations, weights},
    text::encode::Example,
    train::{
        batch::Batch,
        optimiser::{Memory, Optimiser, Trainer},
    },
};

const CASES: [&str; 4] = ["all", "rslora", "attention", "mlp"];

fn folder(case: &str) -> PathBuf {
    fixture("lora").join(case)
}

/// The fixture's model with PEFT's adapter, and what PEFT says of it.
fn adapted(case: &str) -> (Checkpoint, Decoder, serde_json::Value) {
    let reference = json_of(&folder(case).join("reference.json"));
    let (mut checkpoint, _) = open(&fixture(reference["family"].as_str().unwrap()));
    checkpoint.adapter = Some(adapter::read(&folder(case), &checkpoint.config).unwrap());
    let decoder = checkpoint.clone().to_device(&Place::cpu()).unwrap();
    (checkpoint, decoder, reference)
}

fn examples(reference: &serde_json::Value) -> Vec<Example> {
    let example = |row: &serde_json::Value| {
        let ids = ids(&row["ids"]);
        let prompt = usize::try_from(row["prompt_tokens"].as_u64().unwrap()).unwrap();
        Example { trained: (0..ids.len()).map(|at| at >= prompt).collect(), ids }
    };
    reference["rows"].as_array().unwrap().iter().map(example).collect()
}

fn batch_of(examples: &[Example]) -> Batch {
    Batch::new(examples.iter().map(|example| (&example.ids[..], &example.trained[..])))
}

fn batch(reference: &serde_json::Value) -> Batch {
    batch_of(&examples(reference))
}

fn norm(values: &[f32]) -> f64 {
    values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt()
}

#[test]
fn logits_with_an_adapter_without_it_and_after_merging_are_those_of_peft() {
    for case in CASES {
        let (mut checkpoint, decoder, reference) = adapted(case);
        let ids = ids(&reference["ids"]);
        let (with, without) = (numbers(&reference["logits"]), numbers(&reference["logits_without"]));
        let effect = with.iter().zip(&without).map(|(with, without)| (with - without).abs()).fold(0.0, f64::max);
        assert!(effect > 0.1, "{case}: the adapter hardly shows, by {effect}");
        assert_close(&last_logits(&decoder, &ids), &with, 2e-5, case);
        assert_close(&last_logits(&decoder.base(), &ids), &without, 2e-5, case);
        checkpoint.merge().unwrap();
        assert_close(
            &last_logits(&checkpoint.clone().to_device(&Place::cpu()).unwrap(), &ids),
            &numbers(&reference["logits_merged"]),
            2e-5,
            case,
        );
        for (name, expected) in reference["merged_norms"].as_object().unwrap() {
            let (ours, theirs) = (norm(&checkpoint.weights[name].values), expected.as_f64().unwrap());
            assert!((ours - theirs).abs() < 1e-5 * theirs, "{case}: {name}: {ours} for {theirs}");
        }
    }
}

#[test]
fn the_loss_and_every_gradient_of_an_adapter_are_those_of_peft() {
    for case in CASES {
        let (_, decoder, reference) = adapted(case);
        let mut tracked = decoder.tracked(Activations::Keep);
        let loss = -batch(&reference).logprobs(&tracked, 1.0).mean();
        let mut gradients = loss.backward();
        let value = f64::from(loss.without_autodiff().into_scalar::<f32>());
        assert!((value - reference["loss"].as_f64().unwrap()).abs() < 1e-5, "{case}: loss {value}");
        let mut seen = 0;
        tracked.each_trained(&mut |name, weight| {
            let gradient = weight.grad_remove(&mut gradients).unwrap();
            let ours = norm(&gradient.into_data().try_to_vec::<f32>().unwrap());
            let theirs = reference["gradient_norms"][name].as_f64().unwrap();
            assert!((ours - theirs).abs() < 1e-4 * theirs.max(0.01), "{case}: {name}: {ours} for {theirs}");
            seen += 1;
        });
        assert_eq!(seen, reference["gradient_norms"].as_object().unwrap().len(), "{case}");
        tracked.each(&mut |name, weight| assert!(weight.grad(&gradients).is_none(), "{name} is frozen"));
    }
}

#[test]
fn twenty_steps_of_an_adapter_are_those_of_torch() {
    for case in CASES {
        let (_, decoder, reference) = adapted(case);
        let before = decoder.weights().unwrap();
        let number = |key: &str| reference["adamw"][key].as_f64().unwrap() as f32;
        let settings = Optimiser { weight_decay: number("weight_decay"), ..Optimiser::default() };
        let (mut trainer, batch) = (Trainer::new(decoder, settings), batch(&reference));
        let mut losses = Vec::new();
        for _ in 0..20 {
            let mut accumulated = trainer.begin(Activations::Keep);
            let loss = batch.logprobs(&accumulated.tracked, 1.0).sum() / -(batch.targets() as f32);
            losses.push(loss.clone().without_autodiff().into_scalar::<f32>());
            accumulated.backward(&loss);
            trainer.step(accumulated, number("learning_rate")).unwrap();
        }
        assert_close(&losses, &numbers(&reference["adamw"]["losses"]), 1e-3, case);
        let adapter = trainer.decoder.adapter().unwrap().unwrap();
        for (name, weight) in &adapter.weights {
            let (ours, theirs) = (norm(&weight.values), reference["adamw"]["norms_after"][name].as_f64().unwrap());
            assert!((ours - theirs).abs() < 1e-3 * theirs, "{case}: {name}: {ours} for {theirs}");
        }
        assert_eq!(trainer.decoder.weights().unwrap(), before, "{case}: the model itself stays");
    }
}

#[test]
fn an_adapter_of_peft_survives_writing() {
    for case in CASES {
        let (checkpoint, ..) = adapted(case);
        let bench = Bench::new();
        bench.file("a/.keep", "");
        let adapter = checkpoint.adapter.unwrap();
        adapter::write(&bench.path("a"), &adapter).unwrap();
        assert_eq!(adapter::read(&bench.path("a"), &checkpoint.config).unwrap(), adapter);
        let tensors = |folder: PathBuf| weights::read_file(&folder.join(adapter::WEIGHTS)).unwrap();
        assert_eq!(tensors(bench.path("a")), tensors(folder(case)), "{case}");
        let (ours, theirs) =
            (json_of(&bench.path("a/adapter_config.json")), json_of(&folder(case).join(adapter::CONFIG)));
        for (key, value) in ours.as_object().unwrap() {
            let sorted = |value: &serde_json::Value| {
                let mut words: Vec<String> =
                    value.as_array().map_or(Vec::new(), |items| items.iter().map(ToString::to_string).collect());
                words.sort();
                words
            };
            let is_same =
                if key == "target_modules" { sorted(value) == sorted(&theirs[key]) } else { *value == theirs[key] };
            assert!(is_same, "{case}: `{key}` is {value}, PEFT's is {}", theirs[key]);
        }
    }
}

/// A step cut into micro-batches leaves out the same numbers, and so has the same gradient.
#[test]
fn dropout_does_not_depend_on_micro_batches_and_is_off_outside_of_training() {
    let (mut checkpoint, plain, reference) = adapted("attention");
    checkpoint.adapter.as_mut().unwrap().lora.dropout = 0.3;
    let decoder = checkpoint.clone().to_device(&Place::cpu()).unwrap();
    let examples = examples(&reference);
    let targets = batch_of(&examples).targets() as f32;
    let step = |size: usize, seed: Option<u64>| {
        let mut trainer = Trainer::new(decoder.clone(), Optimiser::default());
        trainer.dropout = seed;
        let mut accumulated = trainer.begin(Activations::Keep);
        let mut loss = 0.0;
        for examples in examples.chunks(size) {
            let part = batch_of(examples).logprobs(&accumulated.tracked, 1.0).sum() / -targets;
            loss += part.clone().without_autodiff().into_scalar::<f32>();
            accumulated.backward(&part);
        }
        (loss, trainer.step(accumulated, 1e-2).unwrap().gradient_norm)
    };
    let (loss, norm) = step(3, Some(5));
    for size in [1, 2] {
        let (parted_loss, parted_norm) = step(size, Some(5));
        assert!((loss - parted_loss).abs() < 1e-5, "{loss} and {parted_loss}");
        assert!((norm - parted_norm).abs() < 1e-5 * norm, "{norm} and {parted_norm}");
    }
    let ((other, _), (without, _)) = (step(3, Some(6)), step(3, None));
    assert!((loss - other).abs() > 1e-3 && (loss - without).abs() > 1e-3, "{loss}, {other}, {without}");
    let ids = ids(&reference["ids"]);
    assert_eq!(last_logits(&decoder, &ids), last_logits(&plain, &ids));
}

/// What an adapter is for: the model's weights are in memory once, however many policies are made of them.
#[test]
fn the_policy_its_base_and_the_tracked_copy_share_the_models_buffers() {
    let (_, decoder, _) = adapted("all");
    let addresses = |mut decoder: Decoder| {
        let mut addresses = Vec::new();
        decoder.each(&mut |_, weight| addresses.push(crate::kernels::address(weight)));
        addresses
    };
    let own = addresses(decoder.clone());
    assert_eq!(addresses(decoder.base()), own);
    assert_eq!(addresses(decoder.tracked(Activations::Keep)), own);
    let mut trainer = Trainer::new(decoder.clone(), Optimiser::default());
    let batch = batch(&json_of(&folder("all").join("reference.json")));
    let mut accumulated = trainer.begin(Activations::Keep);
    let loss = -batch.logprobs(&accumulated.tracked, 1.0).mean();
    accumulated.backward(&loss);
    trainer.step(accumulated, 1e-2).unwrap();
    assert_eq!(addresses(trainer.decoder.clone()), own, "after a step");
    // And the optimiser knows of nothing but the adapter: 7 targets, 2 layers, `A` and `B`.
    assert_eq!(trainer.memory.len(), 28);
    let first = |memory: &Memory| match memory {
        Memory::Adam { first, .. } => first.dims().iter().product::<usize>(),
        Memory::Muon { .. } => unreachable!("no Muon was asked for"),
    };
    let held: usize = trainer.memory.iter().map(first).sum();
    // 2 layers, rank 4: in and out of q 32+32, k and v 32+16, o 32+32, gate, up and down 32+64.
    assert_eq!(held, 2 * 4 * (64 + 48 + 48 + 64 + 3 * 96));
}

#[test]
fn samples_of_an_adapted_policy_depend_on_nothing_else_and_are_the_trainers_own() {
    for case in CASES {
        let (_, decoder, _) = adapted(case);
        let requests: Vec<Request> = (0..7)
            .map(|i| Request {
                prompt: (0..=i).map(|at| 6 + (at * 7 + i) % 50).collect(),
                samples: 3,
                key: u64::from(i),
            })
            .collect();
        let sample = |requests: &[Request], slots| {
            let sampling = Sampling { temperature: 0.8, max_new_tokens: 12, ..Sampling::default() };
            let arrangement = Arrangement { slots, watch: &mut |_| true };
            let stop = Stop { ids: &[1], when: None };
            decode::generate(&decoder, requests, &sampling, &stop, &[3], arrangement).unwrap().unwrap()
        };
        let together = sample(&requests, 64);
        assert_eq!(together, sample(&requests, 2), "{case}");
        for (request, completions) in requests.iter().zip(&together) {
            assert_eq!(&sample(std::slice::from_ref(request), 64)[0], completions, "{case}: alone");
            for completion in completions {
                let ids = [request.prompt.as_slice(), &completion.tokens].concat();
                let trained: Vec<bool> = (0..ids.len()).map(|at| at >= request.prompt.len()).collect();
                let tracked = decoder.tracked(Activations::Keep);
                let scored = Batch::new([(&ids[..], &trained[..])]).logprobs(&tracked, 0.8).without_autodiff();
                let scored: Vec<f64> =
                    scored.into_data().try_to_vec::<f32>().unwrap().into_iter().map(f64::from).collect();
                assert_close(&completion.logprobs, &scored, 1e-4, case);
            }
        }
    }
}
