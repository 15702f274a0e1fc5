//! The decoder against what other programs compute of the same weights: transformers for tiny random models of each
//! family (`tests/reference/make_fixtures.py`), and the published figures of real ones.
//! Knows nothing of how the decoder computes.

mod adapters;
mod precision;

use std::collections::BTreeMap;

use burn::tensor::Device;
use safetensors::SafeTensors;
use serde_json::Value;

use crate::{
    bench::{families, fixture, json_of, shared},
    data::checkpoint::Checkpoint,
    decode::{self, Arrangement, Finish, Request, Sampling, Stop},
    kernels::Sequences,
    nn::{
        decoder::{Attend, Decoder},
        recompute::Activations,
    },
    text::encode::{Example, LossOn, example},
    train::{batch::Batch, fit::mean_loss},
};

/// How far a loss may be from PyTorch's, and an element of a gradient, relatively.
const WITHIN: f64 = 1e-4;

fn open(folder: &std::path::Path) -> (Checkpoint, Decoder) {
    let checkpoint = Checkpoint::open(folder).unwrap();
    let decoder = Decoder::new(&checkpoint.config, &checkpoint.weights, &Device::flex()).unwrap();
    (checkpoint, decoder)
}

fn numbers(value: &Value) -> Vec<f64> {
    serde_json::from_value(value.clone()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// The logits behind the last token.
fn last_logits(decoder: &Decoder, ids: &[u32]) -> Vec<f32> {
    let sequences = Sequences::of_lengths(&[ids.len()]);
    let hidden = decoder.hidden(ids, Attend::Within(&sequences));
    let logits = decoder.logits(hidden).into_data().try_to_vec::<f32>().unwrap();
    let vocabulary = logits.len() / ids.len();
    logits[logits.len() - vocabulary..].to_vec()
}

fn logprobs(decoder: &Decoder, ids: &[u32]) -> Vec<f32> {
    if ids.len() < 2 {
        return Vec::new();
    }
    Batch::new([(ids, &vec![true; ids.len()][..])]).logprobs(decoder, 1.0).into_data().try_to_vec().unwrap()
}

#[track_caller]
fn assert_close(ours: &[f32], theirs: &[f64], tolerance: f64, what: &str) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    let differences = ours.iter().zip(theirs).map(|(ours, theirs)| (f64::from(*ours) - theirs).abs());
    let worst = differences.fold(0.0, f64::max);
    assert!(worst <= tolerance, "{what}: largest difference {worst:e}");
}

/// As `generate` of transformers with `do_sample=False`.
fn greedy(decoder: &Decoder, prompt: &[u32], total: usize, ends: &[u32]) -> Vec<u32> {
    let sampling = Sampling { temperature: 0.0, max_new_tokens: total - prompt.len(), ..Sampling::default() };
    let request = Request { prompt: prompt.to_vec(), samples: 1, key: 0 };
    let stop = Stop { ids: ends, when: None };
    let arrangement = Arrangement { slots: 1, watch: &mut |_| true };
    let made = decode::generate(decoder, &[request], &sampling, &stop, &[0], arrangement).unwrap().unwrap();
    let completion = &made[0][0];
    assert!(completion.tokens.len() == sampling.max_new_tokens || completion.finish == Finish::Eos);
    [prompt, &completion.tokens].concat()
}

#[test]
fn logits_and_logprobs_are_those_of_transformers() {
    for family in families() {
        let (_, decoder) = open(&fixture(&family));
        for case in json_of(&fixture(&family).join("reference.json"))["scored"].as_array().unwrap() {
            let ids = ids(&case["ids"]);
            let what = format!("{family}, {} tokens", ids.len());
            // f32 on both sides; the logits reach 5.
            assert_close(&last_logits(&decoder, &ids), &numbers(&case["last_logits"]), 2e-5, &what);
            assert_close(&logprobs(&decoder, &ids), &numbers(&case["logprobs"]), 2e-5, &what);
        }
    }
}

/// The batch of `sft` in a family's reference.
fn supervised(checkpoint: &Checkpoint, sft: &Value) -> Batch {
    let rows = sft["rows"].as_array().unwrap().iter();
    let examples: Vec<Example> =
        rows.map(|row| example(&checkpoint.tokenizer, row.as_object().unwrap(), LossOn::Completion).unwrap()).collect();
    let batch = Batch::new(examples.iter().map(|example| (&example.ids[..], &example.trained[..])));
    assert_eq!(batch.targets() as u64, sft["trained_tokens"].as_u64().unwrap());
    batch
}

#[test]
fn the_loss_and_every_gradient_of_a_supervised_batch_are_those_of_transformers() {
    for family in families() {
        let (checkpoint, decoder) = open(&fixture(&family));
        let sft = &json_of(&fixture(&family).join("reference.json"))["sft"];
        let batch = supervised(&checkpoint, sft);

        let mut tracked = decoder.tracked(Activations::Keep);
        let loss = -batch.logprobs(&tracked, 1.0).mean();
        let mut gradients = loss.backward();
        let value = loss.without_autodiff().into_scalar::<f32>();
        assert!((f64::from(value) - sft["loss"].as_f64().unwrap()).abs() < 1e-5, "{family}: loss {value}");
        let mut seen = 0;
        tracked.each(&mut |name, weight| {
            let gradient = weight.grad_remove(&mut gradients).unwrap();
            let norm = f64::from((gradient.clone() * gradient).sum().into_scalar::<f32>()).sqrt();
            let expected = sft["gradient_norms"][name].as_f64().unwrap();
            assert!((norm - expected).abs() < WITHIN * expected.max(0.01), "{family}: {name}: {norm} for {expected}");
            seen += 1;
        });
        assert_eq!(seen, sft["gradient_norms"].as_object().unwrap().len());
    }
}

/// Of a weight's gradient the elements that `tests/reference/gradients.py` keeps, up to 256 and evenly spaced: ours and
/// PyTorch's in f64.
struct Gradient {
    name: String,
    ours: Vec<f32>,
    theirs: Vec<f32>,
}

/// The loss of a family's supervised batch, and every weight's gradient.
fn gradients(
    family: &str,
    checkpoint: &Checkpoint,
    decoder: &Decoder,
    activations: Activations,
) -> (f64, Vec<Gradient>) {
    let batch = supervised(checkpoint, &json_of(&fixture(family).join("reference.json"))["sft"]);
    let bytes = std::fs::read(fixture(family).join("gradients.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    let tracked = decoder.tracked(activations);
    let loss = -batch.logprobs(&tracked, 1.0).mean();
    let mut found: BTreeMap<String, Vec<f32>> = BTreeMap::new();
    let mut weights = tracked.clone();
    tracked.backward(&loss, &mut |gradients| {
        weights.each(&mut |name, weight| {
            let Some(gradient) = weight.grad_remove(gradients) else { return };
            let gradient: Vec<f32> = gradient.into_data().try_to_vec().unwrap();
            let sum = found.entry(name.to_owned()).or_insert_with(|| vec![0.0; gradient.len()]);
            sum.iter_mut().zip(gradient).for_each(|(sum, more)| *sum += more);
        });
    });
    let mut all = Vec::new();
    weights.each(&mut |name, _| {
        let view = expected.tensor(name).unwrap();
        let theirs = view.data().chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
        let (ours, theirs): (_, Vec<f32>) = (&found[name], theirs.collect());
        assert_eq!(theirs.len(), ours.len().min(256), "{family}: {name}");
        let at = |i: usize| ours[i * (ours.len() - 1) / (theirs.len() - 1).max(1)];
        all.push(Gradient { name: name.to_owned(), ours: (0..theirs.len()).map(at).collect(), theirs });
    });
    assert_eq!(all.len(), expected.len(), "{family}");
    (f64::from(loss.without_autodiff().into_scalar::<f32>()), all)
}

/// The error of an element is taken relative to it, or to a hundredth of its tensor's largest where it is smaller: below
/// that a sum in f32 holds the rounding of its terms.
#[test]
fn the_loss_and_every_element_of_every_gradient_are_those_of_pytorch_within_1e_4_kept_or_recomputed() {
    for family in families() {
        let (checkpoint, decoder) = open(&fixture(&family));
        let expected = json_of(&fixture(&family).join("reference.json"))["sft"]["loss"].as_f64().unwrap();
        for activations in [Activations::Keep, Activations::Recompute] {
            let (loss, all) = gradients(&family, &checkpoint, &decoder, activations);
            assert!((loss - expected).abs() <= WITHIN * expected, "{family}: loss {loss} for {expected}");
            let mut worst = 0.0_f64;
            for Gradient { name, ours, theirs } in all {
                if family == "gpt2" && name.ends_with("k_proj.bias") {
                    // The softmax cancels what is the same for all keys: what is there is rounding, and nothing else.
                    assert!(ours.iter().chain(&theirs).all(|value| value.abs() < 1e-7), "{name}");
                    continue;
                }
                let most = theirs.iter().fold(0.0, |most: f32, value| most.max(value.abs()));
                for (ours, theirs) in ours.iter().zip(&theirs) {
                    let error = f64::from((ours - theirs).abs() / theirs.abs().max(0.01 * most));
                    worst = worst.max(error);
                    assert!(error <= WITHIN, "{family}: {name}: {ours} for {theirs}, {error:e}");
                }
            }
            println!("{family}, {activations:?}: {worst:.1e} at most");
        }
    }
}

#[test]
fn greedy_completions_are_those_of_transformers() {
    for family in families() {
        let (checkpoint, decoder) = open(&fixture(&family));
        let reference = json_of(&fixture(&family).join("reference.json"));
        let expected = ids(&reference["greedy"]);
        let prompt = checkpoint.tokenizer.encode(reference["prompt"].as_str().unwrap_or("12+7=")).unwrap();
        assert_eq!(greedy(&decoder, &prompt, expected.len(), checkpoint.tokenizer.eos_ids()), expected, "{family}");
    }
}

#[test]
fn stories260k_scores_and_tells_what_was_published() {
    let Some(folder) = shared("models/stories260K") else { return };
    let (checkpoint, decoder) = open(&folder.join("hf"));
    let reference = json_of(&folder.join("reference.json"));
    let mut all = Vec::new();
    for case in reference["scored"].as_array().unwrap() {
        let ids = ids(&case["ids"]);
        let ours = logprobs(&decoder, &ids);
        assert_close(&ours[..16], &numbers(&case["token_logprobs_first16"])[..16], 1e-4, "the first 16 tokens");
        let mean = -ours.iter().map(|logprob| f64::from(*logprob)).sum::<f64>() / ours.len() as f64;
        assert!((mean - case["mean_nll"].as_f64().unwrap()).abs() < 1e-5, "{mean}");
        all.push(Example { trained: vec![true; ids.len()], ids });
    }
    let mean = mean_loss(&decoder, &all, 500).unwrap();
    let expected = reference["mean_nll_over_sample"]["mean_nll"].as_f64().unwrap();
    assert!((mean - expected).abs() < 1e-5, "{mean} for {expected}");

    let logits = &reference["logits"];
    let theirs = numbers(&logits["last_logits_f64"]);
    assert_close(&last_logits(&decoder, &ids(&logits["ids"])), &theirs, 1e-4, "logits");

    for story in reference["greedy"].as_array().unwrap() {
        let expected = ids(&story["ids"]);
        let told = greedy(&decoder, &ids(&story["prompt_ids"]), expected.len(), &[]);
        assert_eq!(checkpoint.tokenizer.decode_plain(&told).unwrap(), story["text"].as_str().unwrap());
        assert_eq!(told, expected);
    }
}

#[test]
fn a_bf16_model_of_another_trainer_scores_as_its_reference() {
    let Some(folder) = shared("models/verl-digit-llama") else { return };
    let (_, decoder) = open(&folder);
    for case in json_of(&folder.join("reference.json"))["cases"].as_array().unwrap() {
        let ids = ids(&case["ids"]);
        assert_close(&last_logits(&decoder, &ids), &numbers(&case["last_logits"]), 1e-5, "logits");
        let ours = logprobs(&decoder, &ids);
        let mean = -ours.iter().map(|logprob| f64::from(*logprob)).sum::<f64>() / ours.len() as f64;
        assert!((mean - case["mean_nll"].as_f64().unwrap()).abs() < 1e-5, "{mean}");
    }
}
