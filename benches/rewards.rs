//! How many rewards a second a script gives: `plugins/rewards/math.rhai` on completions in R1's form.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use serde_json::{Map, Value, json};
use stages::{
    bounded::memory::Counted,
    script::{Sample, Script},
};

/// As the program has it: counting is a part of what a reward costs.
#[global_allocator]
static ALLOCATOR: Counted<mimalloc::MiMalloc> = Counted(mimalloc::MiMalloc);

const SAMPLES: usize = 20_000;
const ROUNDS: usize = 15;

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let script = Script::open(&root.join("plugins/rewards/math.rhai"), root).expect("the plugin is the project's own");
    let row = |n: usize| -> Map<String, Value> {
        let row = json!({ "prompt": format!("What is {n} + 17?"), "answer": (n + 17).to_string(), "difficulty": 3 });
        row.as_object().expect("it was written as one").clone()
    };
    let rows: Vec<_> = (0..SAMPLES).map(row).collect();
    let completion = |n: usize| {
        let thought = format!("First {n}, then 17 more, which makes {}. ", n + 17).repeat(6);
        format!("<think>{thought}</think>\n<answer>{}</answer>", n + 17 + n % 2)
    };
    let completions: Vec<String> = (0..SAMPLES).map(completion).collect();
    let sample = |n: usize| Sample {
        row: &rows[n],
        prompt: "What is it?",
        completion: &completions[n],
        truncated: false,
        tokens: 100,
        index: n % 16,
    };
    let samples: Vec<_> = (0..SAMPLES).map(sample).collect();
    by_threads(&script, &samples);
    through_a_process(&samples);
}

fn by_threads(script: &Script, samples: &[Sample]) {
    let mut rates: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let began = Instant::now();
            let rewards = script.rewards("reward", samples).expect("every sample has a reward");
            assert_eq!(rewards.len(), SAMPLES);
            SAMPLES as f64 / began.elapsed().as_secs_f64()
        })
        .collect();
    rates.sort_by(f64::total_cmp);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    println!("{:.0} rewards a second on {threads} threads (median of {ROUNDS})", rates[ROUNDS / 2]);
}

/// What a child process would add to a reward: its sample as JSON through a pipe and back, written and read by both, one
/// at a time and 64 at once. `cat` stands for the child.
fn through_a_process(samples: &[Sample]) {
    for at_once in [1, 64] {
        let mut child =
            Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("there is a `cat`");
        let mut to = child.stdin.take().expect("it is piped");
        let mut from = BufReader::new(child.stdout.take().expect("it is piped"));
        let began = Instant::now();
        for chunk in samples.chunks(at_once) {
            let line =
                |sample: &Sample| json!({ "row": sample.row, "completion": sample.completion }).to_string() + "\n";
            let lines: String = chunk.iter().map(line).collect();
            // The child reads and writes as much; a pipe holds 64 KiB.
            for value in lines.lines().map(serde_json::from_str::<Value>) {
                value.expect("it was written as JSON");
            }
            to.write_all(lines.as_bytes()).expect("the child reads");
            for _ in chunk {
                let mut back = String::new();
                from.read_line(&mut back).expect("the child writes");
                serde_json::from_str::<Value>(&back).expect("it was written as JSON");
            }
        }
        let microseconds = began.elapsed().as_secs_f64() * 1e6 / samples.len() as f64;
        println!("{microseconds:.1} µs a reward more through a child process, {at_once} at once");
        drop(to);
        child.wait().expect("the child ends");
    }
}
