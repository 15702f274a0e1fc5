//! What users wait for: optimiser steps and sampled completions, on shapes that `pipelines/` trains.
//! `benches/against_torch` runs the same in PyTorch and prints the ratios.
//!
//! A loop of its own: with a benchmark crate among the dev-dependencies, `cargo build` and `cargo test` resolve shared
//! features differently and Burn is compiled twice.

use std::time::Instant;

use stages::{
    decode::{self, Arrangement, Request, Sampling, Stop},
    device::Place,
    nn::{config::Config, decoder::Decoder, recompute::Activations, shape::Shape, weights},
    random::Stream,
    train::{
        batch::Batch,
        optimiser::{Optimiser, Trainer},
    },
};

/// A model, and what one step of it takes. `against_torch.py` holds the same numbers.
struct Case {
    name: &'static str,
    shape: Shape,
    vocab: usize,
    sequences: usize,
    /// Tokens read of each sequence; as many are predicted.
    tokens: usize,
}

fn cases() -> [Case; 2] {
    let tiny = Shape { layers: 4, hidden: 128, heads: 4, ffn: Some(512), context: 128, ..Shape::default() };
    let small = Shape { layers: 6, hidden: 256, heads: 8, ffn: Some(1024), context: 256, ..Shape::default() };
    [
        Case { name: "tiny", shape: tiny, vocab: 53, sequences: 48, tokens: 24 },
        Case { name: "small", shape: small, vocab: 512, sequences: 16, tokens: 256 },
    ]
}

impl Case {
    fn config(&self) -> Config {
        self.shape.config(self.vocab).expect("the sizes above go together")
    }

    fn decoder(&self) -> Decoder {
        let config = self.config();
        let device = Place::cpu().device;
        Decoder::new(&config, &weights::init(&config, 1, 0.02), &device).expect("the weights are the config's own")
    }

    fn text(&self) -> Vec<Vec<u32>> {
        let mut stream = Stream::new(&[1]);
        let mut sequence = || (0..=self.tokens).map(|_| stream.below(self.vocab) as u32).collect();
        (0..self.sequences).map(|_| sequence()).collect()
    }
}

/// Forward, backward and AdamW.
fn step(case: &Case) -> f64 {
    let mut trainer = Trainer::new(case.decoder(), Optimiser::default());
    let (text, trained) = (case.text(), vec![true; case.tokens + 1]);
    let batch = Batch::new(text.iter().map(|ids| (ids.as_slice(), trained.as_slice())));
    median_ms(20, || {
        let mut accumulated = trainer.begin(Activations::Keep);
        let loss = batch.logprobs(&accumulated.tracked, 1.0).sum() / -(batch.targets() as f32);
        accumulated.backward(&loss);
        trainer.step(accumulated, 1e-4).expect("random text has finite gradients");
    })
}

/// A rollout phase: 32 prompts of half a sequence, eight completions each, as long as the prompt.
fn sample(case: &Case) -> f64 {
    let decoder = case.decoder();
    let text = case.text();
    let prompts = text.iter().cycle().take(32).map(|ids| ids[..case.tokens / 2].to_vec());
    let requests: Vec<Request> = (0..).zip(prompts).map(|(key, prompt)| Request { prompt, samples: 8, key }).collect();
    let sampling = Sampling { max_new_tokens: case.tokens / 2, ..Sampling::default() };
    median_ms(5, || {
        let arrangement = Arrangement { slots: 256, watch: &mut |_| true };
        let stop = Stop { ids: &[], when: None };
        decode::generate(&decoder, &requests, &sampling, &stop, &[1], arrangement).expect("the prompts fit");
    })
}

/// Milliseconds of the round in the middle, after two that warm up.
fn median_ms(rounds: usize, mut work: impl FnMut()) -> f64 {
    let mut times = Vec::new();
    for _ in 0..rounds + 2 {
        let started = Instant::now();
        work();
        times.push(started.elapsed().as_secs_f64() * 1e3);
    }
    let times = &mut times[2..];
    times.sort_by(f64::total_cmp);
    f64::midpoint(times[(rounds - 1) / 2], times[rounds / 2])
}

/// One line a measurement: kind, case, milliseconds.
fn main() {
    for case in cases() {
        println!("step {} {:.3}", case.name, step(&case));
        println!("sample {} {:.3}", case.name, sample(&case));
    }
}
