//! What tests of stages share: a stage run on its own, fixtures, and real data where it is at hand.
//! Knows nothing of what is tested.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;
use engine::{Context, Stage};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    data::{
        checkpoint::Checkpoint,
        rows::{self, Row},
    },
    device::Compute,
    nn::{precision::Precision, shape::Shape, weights},
    text::train::{self, Special},
};

/// A folder to work in, gone when the test ends.
pub struct Bench {
    folder: TempDir,
}

impl Bench {
    pub fn new() -> Self {
        Self { folder: TempDir::new().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file below the folder, which is the stages' root.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    /// An artifact of rows.
    pub fn rows(&self, name: &str, rows: &[Value]) -> PathBuf {
        let folder = self.path(name);
        fs::create_dir_all(&folder).unwrap();
        rows::write(&folder, rows.iter().map(|row| row.as_object().unwrap().clone())).unwrap();
        folder
    }

    /// Runs a stage with the given `with:` block and inputs; the folder of its output.
    pub fn run<S: Stage>(&self, with: Value, inputs: &[(&str, &Path)]) -> Result<PathBuf> {
        self.run_by::<S>(&S::Settings::default(), with, inputs)
    }

    /// As [`Bench::run`], with a `run:` block too.
    pub fn run_by<S: Stage>(&self, settings: &S::Settings, with: Value, inputs: &[(&str, &Path)]) -> Result<PathBuf> {
        let mut stage: S = serde_json::from_value(with)?;
        stage.resolve();
        if let Some(problem) = stage.check().into_iter().next() {
            anyhow::bail!("{}: {}", problem.parameter, problem.message);
        }
        let output = self.path("output");
        if output.exists() {
            fs::remove_dir_all(&output)?;
        }
        let mut ctx = Context::standalone(self.folder.path(), 7)?;
        for (name, path) in inputs {
            ctx = ctx.with_input(name, name, "rows", path);
        }
        stage.run(settings, &ctx)?;
        Ok(output)
    }

    /// As [`Bench::run`], for a stage that makes rows.
    pub fn made<S: Stage>(&self, with: Value, inputs: &[(&str, &Path)]) -> Result<Vec<Row>> {
        rows::read(&self.run::<S>(with, inputs)?)
    }

    /// The message of a stage that fails, all of it, with this bench's folder left out.
    pub fn complaint<S: Stage>(&self, with: Value, inputs: &[(&str, &Path)]) -> String {
        let error = self.run::<S>(with, inputs).expect_err("the stage was meant to fail");
        self.message(&error)
    }

    pub fn message(&self, error: &anyhow::Error) -> String {
        format!("{error:#}").replace(&format!("{}/", self.folder.path().display()), "")
    }
}

/// The CPU, and every other device that is built in and there: the `run:` block for it, in these numbers.
pub fn devices(precision: Precision) -> Vec<Compute> {
    let found = ["cpu", "wgpu", "cuda"].into_iter().filter_map(|name| {
        let device = name.to_owned().try_into().unwrap();
        let compute = Compute { device, precision: Some(precision), ..Compute::default() };
        match compute.place() {
            Ok(_) => println!("computed on {name} in {precision:?}"),
            Err(error) => {
                println!("not computed on {name}: {error}");
                return None;
            }
        }
        Some(compute)
    });
    found.collect()
}

/// The values of one field.
pub fn column(rows: &[Row], field: &str) -> Vec<Value> {
    rows.iter().map(|row| row.get(field).cloned().unwrap_or(Value::Null)).collect()
}

/// A committed fixture: see `tests/reference/make_fixtures.py`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name)
}

/// The names of the models of `tests/reference/make_fixtures.py`, sorted: every folder with a reference is one.
pub fn families() -> Vec<String> {
    let entries = fs::read_dir(fixture("")).unwrap().map(|entry| entry.unwrap());
    let mut found: Vec<String> = entries
        .filter(|entry| entry.path().join("reference.json").is_file())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    found.sort();
    assert!(!found.is_empty(), "no model in {}", fixture("").display());
    found
}

pub fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// A fixture that is compressed.
pub fn packed_json(path: &Path) -> Value {
    serde_json::from_reader(flate2::read::GzDecoder::new(fs::File::open(path).unwrap())).unwrap()
}

/// A file of the real data beside the repository. Says so where it is absent; the test then ends.
pub fn shared(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data").join(name);
    if !path.exists() {
        skipped(&format!("no {}", path.display()));
        return None;
    }
    Some(path)
}

/// Past the test harness, which swallows what a passing test prints.
pub fn skipped(why: &str) {
    use std::io::Write as _;
    writeln!(std::io::stderr(), "SKIPPED: {why}").unwrap();
}

/// A checkpoint of one narrow layer with random weights; its tokenizer knows digits, `+`, `=` and R1's tags.
pub fn toy_checkpoint(folder: &Path) {
    let whole = ["<think>", "</think>", "<answer>", "</answer>"].map(str::to_owned).to_vec();
    let special = Special { pad: Some("<pad>".into()), eos: Some("<eos>".into()), whole };
    let tokenizer = train::characters(&["0123456789+=".into()], &special).unwrap();
    let mut shape = Shape { layers: 1, hidden: 16, heads: 2, context: 64, ..Shape::default() };
    shape.resolve();
    let config = shape.config(tokenizer.vocab_size()).unwrap();
    let weights = weights::init(&config, 3, 0.06);
    fs::create_dir_all(folder).unwrap();
    Checkpoint { config, weights, tokenizer, adapter: None }.save(folder).unwrap();
}

/// `{ "prompt": .. }` for each.
pub fn prompts(prompts: impl IntoIterator<Item = String>) -> Vec<Value> {
    prompts.into_iter().map(|prompt| json!({ "prompt": prompt })).collect()
}

/// Numbers for fuzzing, always the same ones.
pub struct Chance(u64);

impl Chance {
    /// One of `0..end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        ((mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB) >> 20) as usize % end.max(1)
    }

    pub fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }

    /// Changes, takes away or repeats some of the bytes, or puts a number there that is larger than any should be.
    pub fn change(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len() + 1);
        match self.below(7) {
            0 => bytes.truncate(at),
            1 | 2 if at < bytes.len() => bytes[at] = self.below(256) as u8,
            3 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
            4 => drop(bytes.drain(at..(at + self.below(40)).min(bytes.len()))),
            5 => {
                let end = (at + self.below(80)).min(bytes.len());
                let (copy, to) = (bytes[at..end].to_vec(), self.below(bytes.len() + 1));
                bytes.splice(to..to, copy);
            }
            _ => {
                let large = [0xff, 0xff, 0xff, 0xff, 0x0f];
                let end = (at + large.len()).min(bytes.len());
                bytes[at..end].copy_from_slice(&large[..end - at]);
            }
        }
    }
}

/// Tries changed inputs, `count` of them, or as many as `MASHBILL_FUZZ_SECONDS` has room for. `attempt` makes one, uses
/// it and says what it was: the slowest must not take long, and the last lies in the folder of temporary files.
pub fn fuzz(name: &str, count: usize, mut attempt: impl FnMut(&mut Chance) -> Vec<u8>) {
    use std::time::{Duration, Instant};
    // What a call may take, doubled; a machine that does other things beside it is given time for those.
    const LONGEST: Duration = Duration::from_secs(20);
    let seconds = std::env::var("MASHBILL_FUZZ_SECONDS").ok().map(|text| text.parse().expect("a number of seconds"));
    let place = std::env::temp_dir().join(format!("mashbill-fuzz-{name}-{}", std::process::id()));
    let (started, mut tried, mut chance) = (Instant::now(), 0, Chance(0x5EED));
    while seconds.map_or(tried < count, |seconds| started.elapsed() < Duration::from_secs(seconds)) {
        let begun = Instant::now();
        let input = attempt(&mut chance);
        if begun.elapsed() > LONGEST {
            fs::write(&place, &input).unwrap();
            panic!("{:?} for the input in {}", begun.elapsed(), place.display());
        }
        tried += 1;
    }
    println!("{tried} inputs of {name} in {:.0} s", started.elapsed().as_secs_f64());
}
