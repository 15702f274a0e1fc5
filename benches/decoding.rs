//! What sampling costs where completions differ, and where the vocabulary is large.
//! Beside it `training.rs` measures a whole rollout phase against PyTorch.

use std::time::Instant;

use stages::{
    decode::{Batcher, Job, Sampler, Sampling},
    device::Place,
    nn::{decoder::Decoder, shape::Shape, weights},
    random::Stream,
};

fn decoder(shape: Shape, vocab: usize) -> Decoder {
    let config = shape.config(vocab).expect("the sizes go together");
    let device = Place::cpu().device;
    Decoder::new(&config, &weights::init(&config, 1, 0.02), &device).expect("the weights are the config's own")
}

fn job(prompt: usize, sampling: Sampling, vocabulary: usize, key: u64) -> Job {
    let mut stream = Stream::new(&[key]);
    let prompt = (0..prompt).map(|_| stream.below(500) as u32).collect();
    let max_new_tokens = sampling.max_new_tokens;
    let sampler = Sampler::new(sampling, vocabulary).expect("the parameters make sense");
    Job { prompt, samples: 1, sampler, max_new_tokens, stop_ids: Vec::new(), key: vec![key], logprobs: Some(0) }
}

/// Tokens said a second: as long as jobs wait for a slot, so that all slots are taken, and until all jobs are done.
fn rates(decoder: &Decoder, jobs: &[Job], slots: usize) -> [f64; 2] {
    let mut batcher = Batcher::new(decoder, slots);
    for job in jobs {
        batcher.admit(job.clone()).expect("the prompts fit");
    }
    let started = Instant::now();
    let (mut tokens, mut while_full) = (0, None);
    while !batcher.is_idle() {
        tokens += batcher.step().expect("random weights are numbers").len();
        if batcher.waiting() == 0 && while_full.is_none() {
            while_full = Some(tokens as f64 / started.elapsed().as_secs_f64());
        }
    }
    let whole = tokens as f64 / started.elapsed().as_secs_f64();
    [while_full.expect("all jobs began"), whole]
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Jobs of one length against jobs whose prompts and completions are one to ten times as long as the shortest. A token of
/// those finds 84 before it on average, since most tokens are in the long ones; so it does where all are seven times as
/// long, and all that differs is how lengths are spread. Of 5.5 times each, as many jobs are as many tokens, but a token
/// finds 66 before it.
fn lengths() {
    let shape = Shape { layers: 6, hidden: 256, heads: 8, ffn: Some(1024), context: 256, ..Shape::default() };
    let decoder = decoder(shape, 512);
    let (count, slots) = (256, 32);
    let of =
        |i: u64, times: usize| job(4 * times, Sampling { max_new_tokens: 16 * times, ..Sampling::default() }, 512, i);
    let mut order: Vec<u64> = (0..count).collect();
    Stream::new(&[4]).shuffle(&mut order);
    let all: [(&str, Vec<Job>); 3] = [
        ("one to ten times", order.iter().map(|i| of(*i, 1 + *i as usize % 10)).collect()),
        ("seven times", (0..count).map(|i| of(i, 7)).collect()),
        ("five and six times", (0..count).map(|i| of(i, 5 + i as usize % 2)).collect()),
    ];
    let mut found = vec![[Vec::new(), Vec::new()]; all.len()];
    for _ in 0..5 {
        for ((_, jobs), found) in all.iter().zip(&mut found) {
            let [full, whole] = rates(&decoder, jobs, slots);
            found[0].push(full);
            found[1].push(whole);
        }
    }
    println!("| lengths | tokens/s, all slots taken | ratio | tokens/s, to the last | ratio |\n|---|--:|--:|--:|--:|");
    let found: Vec<[f64; 2]> = found.into_iter().map(|[full, whole]| [median(full), median(whole)]).collect();
    for ((name, _), [full, whole]) in all.iter().zip(&found) {
        let [of_full, of_whole] = [found[0][0] / full, found[0][1] / whole];
        println!("| {name} | {full:.0} | {of_full:.3} | {whole:.0} | {of_whole:.3} |");
    }
}

/// Milliseconds a token of a narrow model with the vocabulary of Qwen2.5, whose random logits are nearly flat: there is
/// no likely part that a filter could look at alone.
fn vocabulary() {
    let shape = Shape { layers: 1, hidden: 64, heads: 2, ffn: Some(64), context: 256, ..Shape::default() };
    let decoder = decoder(shape, 151_936);
    let plain = Sampling { max_new_tokens: 24, ..Sampling::default() };
    for (name, sampling, logprobs) in [
        ("greedy, no logprobs", Sampling { temperature: 0.0, ..plain.clone() }, None),
        ("greedy", Sampling { temperature: 0.0, ..plain.clone() }, Some(0)),
        ("temperature", plain.clone(), Some(0)),
        ("top-k 50", Sampling { top_k: 50, ..plain.clone() }, Some(0)),
        ("top-p 0.95", Sampling { top_p: 0.95, ..plain.clone() }, Some(0)),
        ("penalty, top 5 told", Sampling { repetition_penalty: 1.1, ..plain.clone() }, Some(5)),
    ] {
        let jobs: Vec<Job> = (0..8).map(|key| Job { logprobs, ..job(4, sampling.clone(), 151_936, key) }).collect();
        let rates = (0..3).map(|_| rates(&decoder, &jobs, 8)[1]).collect();
        println!("vocabulary 151936, {name} {:.3} ms", 1e3 / median(rates));
    }
}

fn main() {
    lengths();
    vocabulary();
}
