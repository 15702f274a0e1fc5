//! Sampling as its callers rely on it, on a toy model with random weights.

use burn::tensor::Device;

use super::*;
use crate::{
    kernels::Sequences,
    nn::{
        config::{Config, Family},
        weights,
    },
    train::batch::Batch as Scored,
};

fn toy(family: Family) -> Decoder {
    let config = Config {
        family,
        vocab_size: 50,
        hidden_size: 32,
        intermediate_size: 48,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: if family == Family::Gpt2 { 4 } else { 2 },
        head_dim: 8,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        max_position_embeddings: 64,
        tie_word_embeddings: family == Family::Llama,
        attention_bias: matches!(family, Family::Qwen2 | Family::Gpt2),
        qk_norm: family == Family::Qwen3,
    };
    // Larger than an initialisation, so that attention and positions matter to the result.
    let weights = weights::init(&config, 5, 0.12);
    Decoder::new(&config, &weights, &Device::flex()).unwrap()
}

fn requests() -> Vec<Request> {
    (0..9)
        .map(|i| Request { prompt: (0..=i).map(|at| (at * 7 + i) % 50).collect(), samples: 3, key: u64::from(i) })
        .collect()
}

fn sample(decoder: &Decoder, requests: &[Request], slots: usize) -> Vec<Vec<Completion>> {
    let sampling = Sampling { temperature: 0.8, max_new_tokens: 20, ..Sampling::default() };
    let stop = Stop { ids: &[3, 4], when: None };
    let arrangement = Arrangement { slots, watch: &mut |_| true };
    generate(decoder, requests, &sampling, &stop, &[11], arrangement).unwrap().unwrap()
}

#[test]
fn a_completion_does_not_depend_on_its_batch() {
    let decoder = toy(Family::Llama);
    let together = sample(&decoder, &requests(), 64);
    assert_eq!(together, sample(&decoder, &requests(), 1), "one at a time");
    assert_eq!(together, sample(&decoder, &requests(), 5), "with slots that are filled again");
    for (request, completions) in requests().into_iter().zip(&together) {
        assert_eq!(&sample(&decoder, &[request], 64)[0], completions, "alone");
    }
    let distinct: std::collections::BTreeSet<_> = together.iter().flatten().map(|one| one.tokens.clone()).collect();
    assert!(distinct.len() > 20, "only {} of 27 completions differ", distinct.len());
}

#[test]
fn cached_steps_give_the_logprobs_of_one_uncached_pass() {
    for family in Family::ALL {
        let decoder = toy(family);
        for (request, completions) in requests().iter().zip(sample(&decoder, &requests(), 64)) {
            for completion in completions {
                let ids = [request.prompt.as_slice(), &completion.tokens].concat();
                let trained: Vec<bool> = (0..ids.len()).map(|at| at >= request.prompt.len()).collect();
                let scored: Vec<f32> =
                    Scored::new([(&ids[..], &trained[..])]).logprobs(&decoder, 0.8).into_data().try_to_vec().unwrap();
                assert_eq!(scored.len(), completion.logprobs.len());
                for (sampled, scored) in completion.logprobs.iter().zip(scored) {
                    assert!((sampled - scored).abs() < 1e-4, "{family:?}: sampler {sampled}, trainer {scored}");
                }
            }
        }
    }
}

#[test]
fn a_token_sees_its_own_sequence_and_nothing_behind_itself() {
    let decoder = toy(Family::Llama);
    let logits = |tokens: &[u32], lengths: &[usize]| -> Vec<f32> {
        let sequences = Sequences::of_lengths(lengths);
        let hidden = decoder.hidden(tokens, Attend::Within { sequences: &sequences, keep: None });
        host(decoder.logits(hidden))
    };
    let packed = logits(&[7, 8, 9, 20, 21], &[3, 2]);
    assert_eq!(packed[..150], logits(&[7, 8, 9], &[3])[..]);
    assert_eq!(packed[150..], logits(&[20, 21], &[2])[..]);
    assert_eq!(packed[..100], logits(&[7, 8, 40, 41, 42], &[5])[..100]);
}

#[test]
fn completions_end_for_the_reason_they_tell() {
    let decoder = toy(Family::Llama);
    let sampling = Sampling { temperature: 1.0, max_new_tokens: 6, ..Sampling::default() };
    let after_four = |tokens: &[u32]| tokens.len() == 4;
    let run = |stop: &Stop| {
        let arrangement = Arrangement { slots: 8, watch: &mut |_| true };
        let groups = generate(&decoder, &requests(), &sampling, stop, &[1], arrangement).unwrap().unwrap();
        groups.into_iter().flatten().collect::<Vec<_>>()
    };
    for completion in run(&Stop { ids: &[], when: None }) {
        assert_eq!((completion.tokens.len(), completion.finish), (6, Finish::Length));
    }
    for completion in run(&Stop { ids: &[], when: Some(&after_four) }) {
        assert_eq!((completion.tokens.len(), completion.finish), (4, Finish::Stop));
    }
    let all: Vec<u32> = (0..50).collect();
    for completion in run(&Stop { ids: &all, when: None }) {
        assert_eq!((completion.tokens.len(), completion.finish), (1, Finish::Eos));
    }
}

#[test]
fn a_prompt_too_long_for_the_model_is_refused() {
    let requests = [Request { prompt: vec![1; 50], samples: 1, key: 0 }];
    let sampling = Sampling { max_new_tokens: 20, ..Sampling::default() };
    let arrangement = Arrangement { slots: 8, watch: &mut |_| true };
    let error = generate(&toy(Family::Llama), &requests, &sampling, &Stop { ids: &[], when: None }, &[1], arrangement)
        .unwrap_err();
    assert_eq!(error.to_string(), "prompt 1 with its completion has 70 tokens, more than the model's context of 64");
}
