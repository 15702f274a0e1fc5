//! Sampling as its callers rely on it, on a toy model with random weights.

use burn::tensor::Device;

use super::*;
use crate::{
    bench::fixture,
    data::checkpoint::Checkpoint,
    kernels::Sequences,
    nn::{config::Family, decoder::Attend, shape::Shape, weights},
    random::Stream,
    train::batch::Batch as Scored,
};

fn toy(family: Family) -> Decoder {
    let shape = Shape {
        family,
        // The fourth of SmolLM3's has no positions.
        layers: if family == Family::SmolLm3 { 4 } else { 2 },
        hidden: 32,
        heads: 4,
        kv_heads: Some(if family == Family::Gpt2 { 4 } else { 2 }),
        ffn: Some(48),
        context: 64,
        tied: family == Family::Llama,
        ..Shape::default()
    };
    let config = shape.config(50).unwrap();
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
        let hidden = decoder.hidden(tokens, Attend::Within(&sequences));
        decoder.logits(hidden).into_data().try_to_vec().unwrap()
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

#[test]
fn a_completion_depends_on_its_own_job_alone() {
    // Whatever the mix: prompts, some of them shared, lengths, parameters, times of arrival, cancellations, slots.
    for family in ["llama", "gpt2", "qwen3"] {
        let Checkpoint { config, weights, .. } = Checkpoint::open(&fixture(family)).unwrap();
        let decoder = Decoder::new(&config, &weights, &Device::flex()).unwrap();
        for round in 0..12 {
            let mut dice = Stream::new(&[round]);
            let jobs = mix(&mut dice, config.vocab_size);
            let alone: Vec<_> = jobs.iter().map(|job| told(&decoder, std::slice::from_ref(job), 1, None)).collect();
            for _ in 0..2 {
                let slots = 1 + dice.below(9);
                let together = told(&decoder, &jobs, slots, Some(&mut dice));
                for (i, said) in together.iter().enumerate() {
                    // A cancelled job was heard in part.
                    for (said, alone) in said.iter().zip(&alone[i][0]) {
                        assert_eq!(said[..], alone[..said.len()], "{family}, round {round}, job {i}, {slots} slots");
                    }
                }
            }
        }
    }
}

/// A few jobs of every kind.
fn mix(dice: &mut Stream, vocabulary: usize) -> Vec<Job> {
    let shared: Vec<u32> = (0..=dice.below(40)).map(|_| dice.below(vocabulary) as u32).collect();
    let mut jobs = Vec::new();
    for key in 0..2 + dice.below(7) as u64 {
        let mut pick = |choices: &[f32]| choices[dice.below(choices.len())];
        let sampling = Sampling {
            temperature: pick(&[0.0, 0.5, 1.0, 1.0]),
            top_p: pick(&[1.0, 1.0, 0.8]),
            top_k: pick(&[0.0, 0.0, 5.0]) as usize,
            min_p: pick(&[0.0, 0.0, 0.1]),
            repetition_penalty: pick(&[1.0, 1.0, 1.3]),
            logit_bias: if pick(&[0.0, 1.0]) > 0.5 { [(5, 1.5), (9, -2.0)].into() } else { BTreeMap::new() },
            stop_ids: vec![3],
            max_new_tokens: 1 + dice.below(35),
        };
        let prompt = match dice.below(3) {
            0 => shared.clone(),
            1 => [&shared[..], &[7, 8]].concat(),
            _ => (0..=dice.below(60)).map(|_| dice.below(vocabulary) as u32).collect(),
        };
        let logprobs = [None, Some(0), Some(3)][dice.below(3)];
        let (sampler, max_new_tokens) = (Sampler::new(sampling.clone(), vocabulary).unwrap(), sampling.max_new_tokens);
        let samples = 1 + dice.below(4);
        jobs.push(Job { prompt, samples, sampler, max_new_tokens, stop_ids: vec![4], key: vec![2, key], logprobs });
    }
    jobs
}

/// A token, what was told with it, and whether it was the last.
type Told = (u32, Option<Logprobs>, Option<Finish>);

/// What every job's samples say. With dice, jobs arrive and are cancelled when they say so.
fn told(decoder: &Decoder, jobs: &[Job], slots: usize, mut dice: Option<&mut Stream>) -> Vec<Vec<Vec<Told>>> {
    let mut batcher = Batcher::new(decoder, slots);
    let mut told: Vec<Vec<Vec<Told>>> = jobs.iter().map(|job| vec![Vec::new(); job.samples]).collect();
    let mut ids = Vec::new();
    while ids.len() < jobs.len() || !batcher.is_idle() {
        while ids.len() < jobs.len() && dice.as_mut().is_none_or(|dice| dice.below(3) == 0) {
            ids.push(batcher.admit(jobs[ids.len()].clone()).unwrap());
        }
        if let Some(dice) = &mut dice
            && dice.below(40) == 0
            && !ids.is_empty()
        {
            batcher.cancel(ids[dice.below(ids.len())]);
        }
        for Said { id, sample, token, logprobs, finish } in batcher.step().unwrap() {
            let job = ids.iter().position(|one| *one == id).unwrap();
            told[job][sample].push((token, logprobs, finish));
        }
    }
    told
}

fn job(prompt: Vec<u32>, samples: usize, key: u64) -> Job {
    let sampling = Sampling { temperature: 0.8, ..Sampling::default() };
    let sampler = Sampler::new(sampling, 50).unwrap();
    Job { prompt, samples, sampler, max_new_tokens: 20, stop_ids: vec![3, 4], key: vec![11, key], logprobs: Some(0) }
}

/// Steps until nothing grows; what each job's samples said.
fn finish(batcher: &mut Batcher, said: &mut BTreeMap<(Id, usize), Vec<u32>>) {
    while !batcher.is_idle() {
        for one in batcher.step().unwrap() {
            said.entry((one.id, one.sample)).or_default().push(one.token);
        }
    }
}

#[test]
fn jobs_come_and_go_while_others_grow() {
    let decoder = toy(Family::Llama);
    let expected = sample(&decoder, &requests(), 64);
    let mut batcher = Batcher::new(&decoder, 4);
    let mut said: BTreeMap<(Id, usize), Vec<u32>> = BTreeMap::new();
    let mut ids = Vec::new();
    for Request { prompt, samples, key } in requests() {
        ids.push(batcher.admit(job(prompt, samples, key)).unwrap());
        for one in batcher.step().unwrap() {
            let tokens = said.entry((one.id, one.sample)).or_default();
            tokens.push(one.token);
            assert_eq!(one.finish.is_some(), [3, 4].contains(&one.token) || tokens.len() == 20);
        }
        assert!(batcher.growing() <= 4);
    }
    finish(&mut batcher, &mut said);
    for (id, completions) in ids.iter().zip(expected) {
        for (i, completion) in completions.into_iter().enumerate() {
            assert_eq!(said[&(*id, i)], completion.tokens);
        }
    }
}

#[test]
fn a_cancelled_job_is_heard_no_more_and_leaves_the_others_as_they_were() {
    let decoder = toy(Family::Llama);
    let expected = sample(&decoder, &requests(), 64);
    for after in [0, 1, 3] {
        let mut batcher = Batcher::new(&decoder, 5);
        let ids: Vec<Id> = requests()
            .into_iter()
            .map(|Request { prompt, samples, key }| batcher.admit(job(prompt, samples, key)).unwrap())
            .collect();
        let mut said = BTreeMap::new();
        for _ in 0..after {
            for one in batcher.step().unwrap() {
                said.entry((one.id, one.sample)).or_insert_with(Vec::new).push(one.token);
            }
        }
        // One that grows, one of which some samples have yet to begin, one that waits.
        let before: Vec<_> = said.clone().into_iter().filter(|((id, _), _)| ids[..2].contains(id)).collect();
        for id in [ids[0], ids[1], ids[5]] {
            batcher.cancel(id);
        }
        finish(&mut batcher, &mut said);
        let heard: Vec<_> = said.clone().into_iter().filter(|((id, _), _)| ids[..2].contains(id)).collect();
        assert_eq!(heard, before);
        for (i, id) in ids.iter().enumerate().filter(|(i, _)| ![0, 1, 5].contains(i)) {
            for (sample, completion) in expected[i].iter().enumerate() {
                assert_eq!(said[&(*id, sample)], completion.tokens, "prompt {i}, sample {sample}");
            }
        }
        assert_eq!((batcher.growing(), batcher.waiting()), (0, 0));
    }
}

#[test]
fn the_likeliest_tokens_are_told_where_they_are_asked_for() {
    let decoder = toy(Family::Llama);
    let mut batcher = Batcher::new(&decoder, 8);
    let told = batcher.admit(Job { logprobs: Some(3), ..job(vec![7, 8], 2, 0) }).unwrap();
    batcher.admit(Job { logprobs: None, ..job(vec![7, 8], 2, 0) }).unwrap();
    let said = batcher.step().unwrap();
    assert_eq!(said.len(), 4);
    for one in &said {
        // Both jobs have one key: what is told does not change what is said.
        assert_eq!(one.token, said[one.sample].token);
        let Some(Logprobs { token, top }) = &one.logprobs else {
            assert_ne!(one.id, told);
            continue;
        };
        assert_eq!((one.id, top.len()), (told, 3));
        assert!(top[0].1 >= top[1].1 && top[1].1 >= top[2].1 && top[0].1 >= *token);
    }
}

#[test]
fn what_cannot_be_sampled_is_refused_at_the_door() {
    let decoder = toy(Family::Llama);
    let mut batcher = Batcher::new(&decoder, 8);
    let mut refuse = |job: Job, complaint: &str| assert_eq!(batcher.admit(job).unwrap_err().to_string(), complaint);
    refuse(job(vec![], 1, 0), "the prompt is empty: there is nothing to continue");
    refuse(job(vec![1; 50], 1, 0), "the prompt with its completion has 70 tokens, more than the model's context of 64");
    refuse(job(vec![1, 50], 1, 0), "the prompt holds token 50, but the vocabulary of the model ends at 50");
    refuse(job(vec![1], 0, 0), "no completion is asked for: `samples` is at least 1");
    refuse(
        Job { sampler: Sampler::new(Sampling::default(), 60).unwrap(), ..job(vec![1], 1, 0) },
        "the sampling parameters are for a vocabulary of 60, and the model's has 50",
    );
    let refuse = |sampling: Sampling, complaint: &str| {
        assert_eq!(Sampler::new(sampling, 50).unwrap_err().to_string(), complaint);
    };
    refuse(Sampling { top_p: 1.5, ..Sampling::default() }, "`top_p` is 1.5, outside of 0 to 1");
    refuse(
        Sampling { logit_bias: [(50, 1.0)].into(), ..Sampling::default() },
        "`logit_bias` names token 50, but the vocabulary of the model ends at 50",
    );
}

#[test]
fn a_model_gone_bad_is_an_error_and_no_text() {
    let mut decoder = toy(Family::Llama);
    decoder.each(&mut |name, weight| {
        if name == "model.norm.weight" {
            *weight = weight.clone() * f32::NAN;
        }
    });
    let mut batcher = Batcher::new(&decoder, 8);
    batcher.admit(job(vec![7, 8], 2, 0)).unwrap();
    let complaint = batcher.step().unwrap_err().to_string();
    assert_eq!(
        complaint,
        "the logits of the model are not all numbers: its weights are damaged, or its training has diverged"
    );
}
