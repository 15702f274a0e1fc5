//! What the logits of a vocabulary of 151,936 entries (Qwen2.5's) cost when they are held, and when the head computes them
//! piece by piece: seconds of a forward and backward pass and the most memory of the process, each in a process of its own.
//!
//!     cargo bench --bench head            # or with other numbers of targets: cargo bench --bench head -- 256 1024

use std::{process::Command, sync::Arc, time::Instant};

use stages::{
    device::Place,
    kernels::{self, Sequences},
    nn::{
        config::Family,
        decoder::{Attend, Decoder},
        recompute::Activations,
        shape::Shape,
        weights,
    },
};

const VOCAB: usize = 151_936;

/// Loss, seconds of the second of two passes, and the most memory that the process held before and after, in megabytes.
fn pass(form: &str, rows: usize) -> (f32, f64, [f64; 2]) {
    // One layer of Qwen2.5-0.5B under its head.
    let family = Family::Qwen2;
    let shape =
        Shape { family, layers: 1, hidden: 896, heads: 14, kv_heads: Some(2), ffn: Some(4864), ..Shape::default() };
    let config = shape.config(VOCAB).expect("the sizes above go together");
    let device = Place::cpu().device;
    let decoder =
        Decoder::taking(&config, weights::init(&config, 1, 0.02), &device).expect("the weights are the config's");
    let tracked = decoder.tracked(Activations::Keep);
    let tokens: Vec<u32> = (0..rows).map(|at| (at * 7919 % VOCAB) as u32).collect();
    let targets: Arc<Vec<usize>> = Arc::new((0..rows).map(|at| at * 104_729 % VOCAB).collect());
    let sequences = Sequences::of_lengths(&vec![64; rows / 64]);
    let before = peak();
    let once = || {
        let started = Instant::now();
        let hidden = tracked.hidden(&tokens, Attend::Within(&sequences));
        let logprobs = match form {
            "held" => kernels::logprobs(tracked.logits(hidden), &targets, 1.0),
            _ => tracked.logprobs(hidden, &targets, 1.0),
        };
        let loss = -logprobs.mean();
        drop(loss.backward());
        (loss.without_autodiff().into_scalar::<f32>(), started.elapsed().as_secs_f64())
    };
    once();
    let (loss, seconds) = once();
    (loss, seconds, [before, peak()])
}

/// `VmHWM` in megabytes.
fn peak() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("this is Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("every process has a peak");
    line.split_whitespace().next().and_then(|kilobytes| kilobytes.parse::<f64>().ok()).expect("a number") * 1.024e-3
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    if let [form, rows] = &words[..]
        && let ("held" | "pieces", Ok(rows)) = (form.as_str(), rows.parse())
    {
        let (loss, seconds, [before, after]) = pass(form, rows);
        println!("| {form} | {rows} | {loss:.6} | {seconds:.2} | {:.0} | {:.0} |", after, after - before);
        return;
    }
    let rows = if words.is_empty() { vec!["256".to_owned(), "1024".to_owned()] } else { words };
    println!(
        "| logits | targets | loss | seconds | peak, MB | above weights and inputs, MB |\n|---|--:|--:|--:|--:|--:|"
    );
    for rows in &rows {
        for form in ["held", "pieces"] {
            let this = std::env::current_exe().expect("a process knows its program");
            let status = Command::new(this).args([form, rows]).status().expect("the program is there");
            assert!(status.success(), "{form} with {rows} targets: {status}");
        }
    }
}
