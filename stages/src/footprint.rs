//! What work with a model holds in memory at its peak, counted from its sizes as the kernels hold it on the CPU in f32.
//! Knows nothing of how the work is done; where lengths of rows decide, it reads some of them.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
};

use engine::{Footprint, Prospect, Prospects};
use serde_json::Value;

use crate::{
    data::{adapter, rows::Row},
    decode::{self, Sampling},
    device::Compute,
    kernels,
    nn::{
        cache,
        config::Config,
        lora::{Lora, Target},
        recompute::Activations,
        weights,
    },
    text::{
        check::Finding,
        encode::{self, Example, LossOn},
        tokenizer::Tokenizer,
    },
    train::{
        optimiser::Optimiser,
        packing::{self, Packing},
    },
};

/// What does not go with any size: 25 MB of the program with its libraries and threads, and some 50 MB of pages that the
/// allocator has for every size of buffer and every thread. Held by one step of one short row of a model of 4 MB.
const PROGRAM: u64 = 75_000_000;
/// Rows of an input that are read to learn how long its sequences are.
const ROWS_READ: usize = 256;
/// As many rows at most are packed to learn how full blocks become.
const ROWS_PACKED: f64 = 4096.0;
/// Bytes of memory for each byte of `tokenizer.json`: its entries are held by text and by number, its merges by pair.
const TOKENIZER: u64 = 12;
/// Bytes of memory for each byte of `rows.jsonl`: keys, texts and tokens.
const ROWS: u64 = 5;

const F32: usize = size_of::<f32>();

/// The parts of a moment by name; a part that is nothing is left out.
type Parts = BTreeMap<&'static str, usize>;

/// The order in which parts are told.
const ORDER: [&str; 8] =
    ["weights", "reference", "optimiser", "gradients", "activations", "logits", "KV cache", "text and program"];

/// What a checkpoint says of itself before it is made: its `config.json`.
#[must_use]
pub fn outline(inputs: &Prospects, policy: &str) -> Option<Value> {
    match inputs.of(policy) {
        [(_, prospect)] => config(prospect).map(|config| Value::Object(config.to_hf())),
        _ => None,
    }
}

fn config(prospect: &Prospect) -> Option<Config> {
    let text = match prospect {
        Prospect::There(folder) => std::fs::read_to_string(folder.join("config.json")).ok()?,
        Prospect::Outlined(outline) => outline.to_string(),
        Prospect::Unknown => return None,
    };
    Config::from_hf(&text).ok()
}

/// A model's sizes, in numbers of elements.
struct Model<'a> {
    config: &'a Config,
    /// All weights.
    weights: usize,
    /// The embedding, or the head: `vocab x hidden`.
    table: usize,
    /// The adapter that it carries already.
    adapter: Option<Lora>,
}

impl<'a> Model<'a> {
    fn new(config: &'a Config, adapter: Option<Lora>) -> Self {
        let weights = elements(&weights::expected(config));
        Self { config, weights, table: config.vocab_size * config.hidden_size, adapter }
    }

    fn is_large_head(&self) -> bool {
        self.config.vocab_size >= kernels::LARGE_VOCABULARY
    }

    fn has_gate(&self) -> bool {
        weights::expected(self.config).iter().any(|(name, _)| name.ends_with("mlp.gate_proj.weight"))
    }

    /// What a layer keeps of a token for its gradient (kernels/gradient.rs): the residual stream before both norms, and
    /// what they make of it for the matrices that learn; queries, keys and values as attention takes them, and what it
    /// mixes; the inside of the feed-forward layer before and after its activation. Where heads are normed, queries and
    /// keys before that. An adapter keeps the narrow side of its product; what dropout left of its input is found again.
    fn kept_by_a_layer(&self, adapter: Option<&Lora>) -> usize {
        let (hidden, queries, keys, inner) = self.widths();
        let learns =
            |targets: &[Target]| adapter.is_none_or(|lora| targets.iter().any(|target| lora.targets.contains(target)));
        let normed_heads = if self.config.qk_norm { queries + keys } else { 0 };
        let before_activation = if self.has_gate() { 2 * inner } else { inner };
        let for_matrices = [
            (&[Target::QProj, Target::KProj, Target::VProj][..], hidden),
            (&[Target::OProj][..], queries),
            (&[Target::GateProj, Target::UpProj][..], hidden),
            (&[Target::DownProj][..], inner),
        ];
        let for_matrices: usize =
            for_matrices.iter().filter(|(targets, _)| learns(targets)).map(|(_, width)| width).sum();
        let of_adapter = adapter.map_or(0, |lora| lora.targets.len() * lora.rank);
        2 * hidden + queries + 2 * keys + normed_heads + before_activation + for_matrices + of_adapter
    }

    /// What a layer holds of a token while its gradient is computed, beyond what it kept: the gradients of the inside of
    /// the feed-forward layer, less what it let go by then, and of the residual stream.
    fn held_by_a_layers_gradient(&self) -> usize {
        let (hidden, _, _, inner) = self.widths();
        2 * inner + 3 * hidden
    }

    /// What a layer holds of a token when nothing is kept for a gradient.
    fn held_by_a_layer(&self) -> usize {
        let (hidden, queries, keys, inner) = self.widths();
        2 * hidden + (3 * inner).max(2 * queries + 2 * keys)
    }

    fn widths(&self) -> (usize, usize, usize, usize) {
        let Config { hidden_size, num_attention_heads, num_key_value_heads, head_dim, intermediate_size, .. } =
            self.config;
        (*hidden_size, num_attention_heads * head_dim, num_key_value_heads * head_dim, *intermediate_size)
    }

    /// Elements of the adapter that it carries.
    fn of_adapter(&self) -> usize {
        self.adapter.as_ref().map_or(0, |lora| elements(&lora.expected(self.config).unwrap_or_default()))
    }

    /// Keys and values of a token.
    fn cached(&self) -> usize {
        2 * self.config.num_hidden_layers * self.config.num_key_value_heads * self.config.head_dim
    }
}

/// The most that one forward and backward pass takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Pass {
    tokens: usize,
    targets: usize,
    /// A step takes several passes, whose gradients are added up.
    is_one_of_many: bool,
    activations: Activations,
}

/// What learns, and what is kept beside it.
#[derive(Debug, Clone, Copy)]
struct Learning<'a> {
    adapter: Option<&'a Lora>,
    optimiser: &'a Optimiser,
    reference: Reference,
}

/// The moment of a training step at which most is held, in elements.
fn training(model: &Model, pass: Pass, learning: Learning) -> Parts {
    let Pass { tokens, targets, is_one_of_many, activations } = pass;
    let Learning { adapter, optimiser, reference } = learning;
    let (layers, hidden) = (model.config.num_hidden_layers, model.config.hidden_size);
    let shapes = match adapter {
        // Of an adapter that the model does not take, the work says why.
        Some(lora) => lora.expected(model.config).unwrap_or_default(),
        None => weights::expected(model.config),
    };
    let learned = elements(&shapes);
    let of_adapter = adapter.map_or(0, |_| learned);
    // The gradients of a tied table: of the head it is whole when that of the embedding is added.
    let table = if adapter.is_none() { model.table } else { 0 };
    let embedding = if model.config.tie_word_embeddings { table } else { 0 };
    let earlier = if is_one_of_many { learned } else { 0 };
    let whole = model.kept_by_a_layer(adapter) * tokens;
    let in_layer = model.held_by_a_layers_gradient() * tokens;
    // What each layer keeps, and what the one whose gradient is computed holds besides.
    let (kept, in_layer) = match activations {
        Activations::Keep => (whole, in_layer),
        Activations::Recompute => (tokens * hidden, whole + in_layer),
    };
    let chosen = targets * hidden;
    let all_kept = layers * kept + tokens * hidden + chosen;
    let logits = if model.is_large_head() { head_elements(targets) } else { 2 * targets * model.config.vocab_size };
    // The gradients, the activations and the logits of each moment, as it goes back from the head to the embedding, and
    // then updates.
    let moments = [
        [earlier + table, all_kept + chosen, logits],
        [earlier + table, all_kept + in_layer, 0],
        [earlier + learned - table + embedding, kept + in_layer, 0],
        [earlier + learned + embedding, tokens * hidden, 0],
        [learned + held_by_an_update(optimiser, &shapes), 0, 0],
    ];
    let most = moments.into_iter().max_by_key(|moment| moment.iter().sum::<usize>());
    let [gradients, activations, logits] = most.expect("there are five");
    BTreeMap::from([
        ("weights", model.weights + of_adapter),
        ("reference", reference.elements(model, adapter)),
        ("optimiser", remembered(optimiser, &shapes)),
        ("gradients", gradients),
        ("activations", activations),
        ("logits", logits),
    ])
}

/// Elements that the optimiser keeps of weights: two moments, or the one of Muon where a weight is Muon's.
fn remembered(optimiser: &Optimiser, shapes: &[(String, Vec<usize>)]) -> usize {
    shapes.iter().map(|(name, shape)| if is_muons(optimiser, name, shape) { 1 } else { 2 } * count(shape)).sum()
}

/// Muon makes a matrix orthogonal in some copies of it: momentum, direction, and three that its iteration goes through.
fn held_by_an_update(optimiser: &Optimiser, shapes: &[(String, Vec<usize>)]) -> usize {
    let of_muon = shapes.iter().filter(|(name, shape)| is_muons(optimiser, name, shape));
    5 * of_muon.map(|(_, shape)| count(shape)).max().unwrap_or(0)
}

/// As the optimiser decides (`train/optimiser.rs`).
fn is_muons(optimiser: &Optimiser, name: &str, shape: &[usize]) -> bool {
    optimiser.muon.is_some() && name.contains(".layers.") && matches!(shape, [rows, width] if *rows > 1 && *width > 1)
}

/// Is there a second policy that the first is held against?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reference {
    None,
    Kept,
}

impl Reference {
    /// Beside an adapter the reference is the same weights without it, or with a copy of the one that the policy brought.
    fn elements(self, model: &Model, adapter: Option<&Lora>) -> usize {
        match (self, adapter) {
            (Self::None, _) => 0,
            (Self::Kept, None) => model.weights,
            (Self::Kept, Some(_)) => model.of_adapter(),
        }
    }
}

fn elements(shapes: &[(String, Vec<usize>)]) -> usize {
    shapes.iter().map(|(_, shape)| count(shape)).sum()
}

fn count(shape: &[usize]) -> usize {
    shape.iter().product()
}

fn head_elements(rows: usize) -> usize {
    (kernels::HEAD_BYTES / F32).min(rows * kernels::LARGE_VOCABULARY)
}

/// A pass that keeps nothing for a gradient.
fn scoring(model: &Model, pass: Pass) -> Parts {
    let Pass { tokens, targets, .. } = pass;
    let logits = if model.is_large_head() { head_elements(targets) } else { targets * model.config.vocab_size };
    BTreeMap::from([
        ("weights", model.weights + model.of_adapter()),
        ("activations", (tokens * model.held_by_a_layer()).max(targets * model.config.hidden_size)),
        ("logits", logits),
    ])
}

/// What sampling holds at most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Grown {
    /// Completions that grow at once.
    slots: usize,
    /// Pages of keys and values that there are then.
    pages: usize,
    /// Tokens of prompts that are computed in one pass.
    fresh: usize,
}

fn sampling(model: &Model, grown: Grown) -> Parts {
    let Grown { slots, pages, fresh } = grown;
    let vocabulary = model.config.vocab_size;
    let cache = pages * kernels::PAGE * model.cached();
    // One layer's keys are there twice while they move.
    let moved = cache / (2 * model.config.num_hidden_layers);
    BTreeMap::from([
        ("weights", model.weights + model.of_adapter()),
        ("activations", (fresh + slots) * model.held_by_a_layer()),
        // On the device, and on the host where tokens are chosen.
        ("logits", 2 * (slots * vocabulary).min(decode::LOGITS.max(vocabulary))),
        ("KV cache", cache + moved),
    ])
}

fn total(parts: &Parts) -> usize {
    parts.values().sum()
}

/// How long sequences are: some of them, and how many each stands for.
#[derive(Debug, Clone, PartialEq)]
struct Lengths(Vec<Length>);

#[derive(Debug, Clone, Copy, PartialEq)]
struct Length {
    tokens: usize,
    /// Those that the loss counts.
    targets: usize,
    /// Sequences like this one.
    weight: f64,
}

/// A number of each of many sequences.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Spread {
    mean: f64,
    deviation: f64,
}

impl Lengths {
    fn exactly(tokens: usize, count: usize) -> Self {
        Self(vec![Length { tokens, targets: tokens, weight: count as f64 }])
    }

    fn spread(&self, number: impl Fn(&Length) -> usize) -> Spread {
        let (mut sum, mut squares) = (0.0, 0.0);
        for each in &self.0 {
            let number = number(each) as f64;
            sum += each.weight * number;
            squares += each.weight * number * number;
        }
        let mean = sum / self.weight();
        Spread { mean, deviation: (squares / self.weight() - mean * mean).max(0.0).sqrt() }
    }

    fn weight(&self) -> f64 {
        self.0.iter().map(|each| each.weight).sum()
    }

    /// About how many sequences there are.
    fn count(&self) -> usize {
        self.weight().ceil() as usize
    }

    fn longest(&self) -> usize {
        self.0.iter().map(|each| each.tokens).max().unwrap_or(0)
    }

    /// The share of tokens that are targets.
    fn trained(&self) -> f64 {
        let sum =
            |number: fn(&Length) -> usize| self.0.iter().map(|each| each.weight * number(each) as f64).sum::<f64>();
        sum(|each| each.targets) / sum(|each| each.tokens).max(1.0)
    }

    /// With so many tokens more in each, all of them targets.
    fn continued(mut self, tokens: usize) -> Self {
        for each in &mut self.0 {
            (each.tokens, each.targets) = (each.tokens + tokens, tokens);
        }
        self
    }

    /// As rows of at most so many tokens.
    fn fitted(self, most: usize, too_long: TooLong) -> Self {
        let fit = |each: Length| match too_long {
            TooLong::Cut => Length { tokens: each.tokens.min(most), targets: each.targets.min(most), ..each },
            // Each piece begins with the last token of the one before.
            TooLong::Split if each.tokens > most => {
                let pieces = (each.tokens - 1) as f64 / (most - 1).max(1) as f64;
                Length { tokens: most, targets: most, weight: each.weight * pieces }
            }
            TooLong::Split => each,
        };
        Self(self.0.into_iter().map(fit).collect())
    }

    /// How full blocks of so many tokens become.
    fn packed(&self, block: usize) -> Spread {
        let scale = (ROWS_PACKED / self.weight()).min(1.0);
        let copies = |each: &Length| vec![each.tokens.min(block); (each.weight * scale).round().max(1.0) as usize];
        let lengths: Vec<usize> = self.0.iter().flat_map(copies).collect();
        let fill =
            |taken: Vec<usize>| Length { tokens: taken.into_iter().map(|i| lengths[i]).sum(), targets: 0, weight: 1.0 };
        Lengths(packing::best_fit(&lengths, block).into_iter().map(fill).collect()).spread(|block| block.tokens)
    }
}

impl Spread {
    /// The most that so many of them are together, all but never more.
    fn most(self, count: usize) -> usize {
        let count = count as f64;
        (count * self.mean + 3.0 * count.sqrt() * self.deviation).ceil() as usize
    }

    /// The least, all but never less.
    fn least(self, count: usize) -> usize {
        let count = count as f64;
        (count * self.mean - 3.0 * count.sqrt() * self.deviation).max(0.0).floor() as usize
    }
}

/// What is asked of rows.
#[derive(Debug, Clone, Copy)]
enum Asked {
    Examples(LossOn),
    Prompts,
}

/// Of the first rows of each input, each input weighed by its size. None where nothing can be read; the work itself
/// will say why.
fn lengths(inputs: &[(String, Prospect)], tokenizer: &Tokenizer, asked: Asked) -> Option<Lengths> {
    // What the template check finds is for the stage to say.
    let tokenizer = &tokenizer.clone().accepting(Finding::ALL.into());
    let mut all = Vec::new();
    for (_, prospect) in inputs {
        let Prospect::There(folder) = prospect else { return None };
        let (rows, count) = first_rows(folder)?;
        let weight = count / rows.len().max(1) as f64;
        for row in &rows {
            all.push(match asked {
                Asked::Examples(loss) => {
                    let Example { ids, trained } = encode::example(tokenizer, row, loss).ok()?;
                    let targets = trained.iter().skip(1).filter(|trained| **trained).count();
                    Length { tokens: ids.len(), targets, weight }
                }
                Asked::Prompts => Length { tokens: encode::prompt(tokenizer, row).ok()?.len(), targets: 0, weight },
            });
        }
    }
    if all.is_empty() { None } else { Some(Lengths(all)) }
}

/// The first rows of an artifact, and about how many there are.
fn first_rows(folder: &Path) -> Option<(Vec<Row>, f64)> {
    let file = File::open(folder.join("rows.jsonl")).ok()?;
    let size = file.metadata().ok()?.len();
    let (mut rows, mut read) = (Vec::new(), 0);
    for line in BufReader::new(file).lines().take(ROWS_READ) {
        let line = line.ok()?;
        read += line.len() as u64 + 1;
        if !line.trim().is_empty() {
            rows.push(serde_json::from_str(&line).ok()?);
        }
    }
    let count = rows.len() as f64 * size as f64 / read.max(1) as f64;
    Some((rows, count))
}

/// A node's work, to be counted.
pub struct Work<'a> {
    pub inputs: &'a Prospects,
    pub compute: &'a Compute,
}

/// Who learns: the input, and how.
#[derive(Debug, Clone, Copy)]
pub struct Learner<'a> {
    pub policy: &'static str,
    /// A new adapter of it; absent: the one that it carries, or all its weights.
    pub lora: Option<&'a Lora>,
    pub optimiser: &'a Optimiser,
    /// Sequences a step.
    pub batch: usize,
}

/// How the sequences that a step learns from come about.
#[derive(Debug, Clone, Copy)]
pub enum Learned {
    Rows(Examples),
    /// As many tokens each; absent: as many as the model takes.
    Blocks(Option<usize>),
    /// Prompts of an input with completions of up to so many tokens.
    Completions(&'static str, usize),
}

/// Rows as training takes them.
#[derive(Debug, Clone, Copy)]
pub struct Examples {
    /// The input.
    pub rows: &'static str,
    pub loss: LossOn,
    /// The most tokens of a row; absent: as many as the model takes. Of a block of rows too, where they are packed.
    pub most: Option<usize>,
    pub too_long: TooLong,
    pub packing: Packing,
}

/// What becomes of rows with more tokens than that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TooLong {
    /// Nothing longer is learned.
    Cut,
    /// They become as many as they need.
    Split,
}

/// How a policy is asked.
#[derive(Debug, Clone, Copy)]
pub struct Questions {
    pub policy: &'static str,
    pub prompts: &'static str,
    /// Completions of each prompt, and at most so many in all.
    pub samples: usize,
    pub most: usize,
    pub max_new_tokens: usize,
}

impl Work<'_> {
    /// Training a model, or an adapter of it. Where there are rows in `validation`, their loss is looked at in between.
    #[must_use]
    pub fn training(&self, learner: Learner, learned: Learned) -> Option<Footprint> {
        self.of(learner.policy, |model, tokenizer, after| {
            let steps = self.steps(model, tokenizer, learner, learned, Reference::None, after);
            match self.looks(model, tokenizer, learned, after) {
                Some(looks) => steps.or(looks),
                None => steps.0,
            }
        })
    }

    /// As [`Work::training`], on completions that the policy gives and held against what it was.
    #[must_use]
    pub fn reinforcing(&self, learner: Learner, questions: Questions, reference: Reference) -> Option<Footprint> {
        self.of(learner.policy, |model, tokenizer, after| {
            let learned = Learned::Completions(questions.prompts, questions.max_new_tokens);
            let steps = self.steps(model, tokenizer, learner, learned, reference, after);
            steps.or(self.asking(model, tokenizer, questions, after))
        })
    }

    /// Asking a policy, or each of several in turn.
    #[must_use]
    pub fn sampling(&self, questions: Questions) -> Option<Footprint> {
        self.of(questions.policy, |model, tokenizer, after| self.asking(model, tokenizer, questions, after))
    }

    /// Asking for so many completions of every one of `prompts`.
    #[must_use]
    pub fn answering(&self, policy: &'static str, samples: usize, sampling: &Sampling) -> Option<Footprint> {
        let (most, max_new_tokens) = (usize::MAX, sampling.max_new_tokens);
        self.sampling(Questions { policy, prompts: "prompts", samples, most, max_new_tokens })
    }

    /// Scoring rows one by one.
    #[must_use]
    pub fn scoring(&self, policy: &str, rows: &'static str, loss: LossOn) -> Option<Footprint> {
        self.of(policy, |model, tokenizer, after| {
            let lengths = self.lengths(rows, tokenizer, Asked::Examples(loss), after);
            let tokens = lengths.map_or(model.config.context(), |lengths| lengths.longest());
            scoring(model, Pass { tokens, targets: tokens, is_one_of_many: false, ..Pass::default() })
        })
    }

    /// Of the largest of the models that an input names, as `count` says; the nodes that have to be there before more
    /// is known are added to what it is given.
    fn of(
        &self,
        policy: &str,
        count: impl Fn(&Model, Option<&Tokenizer>, &mut Vec<String>) -> Parts,
    ) -> Option<Footprint> {
        if !self.compute.is_fused() {
            return None;
        }
        let (mut most, mut after) = (Parts::new(), Vec::new());
        for (node, prospect) in self.inputs.of(policy) {
            let Some(config) = config(prospect) else {
                match prospect {
                    // Whatever is wrong with it, the work says it better.
                    Prospect::There(_) => return None,
                    Prospect::Outlined(_) | Prospect::Unknown => after.push(node.clone()),
                }
                continue;
            };
            let (tokenizer, size, adapter) = match prospect {
                Prospect::There(folder) => {
                    let adapter = adapter::read(folder, &config).ok().map(|adapter| adapter.lora);
                    (Tokenizer::open(folder).ok(), size(&folder.join("tokenizer.json")), adapter)
                }
                Prospect::Outlined(_) | Prospect::Unknown => (None, 0, None),
            };
            if tokenizer.is_none() {
                after.push(node.clone());
            }
            let parts = count(&Model::new(&config, adapter), tokenizer.as_ref(), &mut after);
            let mut parts: Parts = parts.into_iter().map(|(name, elements)| (name, elements * F32)).collect();
            parts.insert("text and program", usize::try_from(PROGRAM + TOKENIZER * size + self.rows_bytes()).ok()?);
            if total(&parts) > total(&most) {
                most = parts;
            }
        }
        after.sort_unstable();
        after.dedup();
        let advice = self.advice(&most);
        let parts =
            ORDER.iter().filter_map(|name| Some((*name, *most.get(name)? as u64))).filter(|(_, bytes)| *bytes > 0);
        Some(Footprint { parts: parts.collect(), after, advice })
    }

    fn rows_bytes(&self) -> u64 {
        let folders = ["rows", "prompts", "validation"].iter().flat_map(|input| self.inputs.of(input));
        let sizes = folders.map(|(_, prospect)| match prospect {
            Prospect::There(folder) => size(&folder.join("rows.jsonl")),
            Prospect::Outlined(_) | Prospect::Unknown => 0,
        });
        ROWS * sizes.sum::<u64>()
    }

    fn lengths(
        &self,
        input: &str,
        tokenizer: Option<&Tokenizer>,
        asked: Asked,
        after: &mut Vec<String>,
    ) -> Option<Lengths> {
        let nodes = self.inputs.of(input);
        let missing = nodes.iter().filter(|(_, prospect)| !matches!(prospect, Prospect::There(_)));
        after.extend(missing.map(|(node, _)| node.clone()));
        lengths(nodes, tokenizer?, asked)
    }

    fn steps(
        &self,
        model: &Model,
        tokenizer: Option<&Tokenizer>,
        learner: Learner,
        learned: Learned,
        reference: Reference,
        after: &mut Vec<String>,
    ) -> Steps {
        let Learner { lora, optimiser, batch, .. } = learner;
        let pass = self.pass(model, tokenizer, learned, batch, after);
        Steps(training(model, pass, Learning { adapter: lora.or(model.adapter.as_ref()), optimiser, reference }))
    }

    /// Where lengths are not known, the longest that the model takes.
    fn pass(
        &self,
        model: &Model,
        tokenizer: Option<&Tokenizer>,
        learned: Learned,
        batch: usize,
        after: &mut Vec<String>,
    ) -> Pass {
        let context = model.config.context();
        let (lengths, sequences) = match learned {
            Learned::Rows(examples) => {
                let Examples { rows, loss, most, too_long, packing } = examples;
                // The last token of a row is not read.
                let fits = most.unwrap_or(context + 1).min(context + 1);
                let lengths = self.lengths(rows, tokenizer, Asked::Examples(loss), after);
                let lengths = lengths.map_or(Lengths::exactly(fits, batch), |lengths| lengths.fitted(fits, too_long));
                let sequences = match packing {
                    Packing::None => lengths.spread(|each| each.tokens),
                    Packing::BestFit => lengths.packed(most.unwrap_or(context + 1)),
                };
                (lengths, sequences)
            }
            Learned::Blocks(block) => {
                let lengths = Lengths::exactly(block.unwrap_or(context) + 1, batch);
                let sequences = lengths.spread(|each| each.tokens);
                (lengths, sequences)
            }
            Learned::Completions(prompts, new) => {
                let prompts = self.lengths(prompts, tokenizer, Asked::Prompts, after);
                let prompts = prompts.unwrap_or_else(|| Lengths::exactly(context.saturating_sub(new), batch));
                let lengths = prompts.continued(new);
                let sequences = lengths.spread(|each| each.tokens);
                (lengths, sequences)
            }
        };
        let whole = sequences.most(batch);
        let longest = lengths.longest().min(context + 1);
        let tokens = whole.min(self.compute.micro_batch_tokens.max(longest));
        let targets = (tokens as f64 * lengths.trained()).ceil() as usize;
        Pass { tokens, targets, is_one_of_many: tokens < whole, activations: self.compute.activations }
    }

    /// The loss of rows in `validation`, a micro-batch at a time. None where there are none.
    fn looks(
        &self,
        model: &Model,
        tokenizer: Option<&Tokenizer>,
        learned: Learned,
        after: &mut Vec<String>,
    ) -> Option<Parts> {
        const INPUT: &str = "validation";
        if self.inputs.of(INPUT).is_empty() {
            return None;
        }
        let (learned, batch) = match learned {
            Learned::Rows(examples) => {
                let rows = self.lengths(INPUT, tokenizer, Asked::Examples(examples.loss), after);
                let examples = Examples { rows: INPUT, packing: Packing::None, ..examples };
                (Learned::Rows(examples), rows.map_or(usize::MAX, |rows| rows.count()))
            }
            Learned::Blocks(_) | Learned::Completions(..) => (learned, usize::MAX),
        };
        Some(scoring(model, self.pass(model, tokenizer, learned, batch, after)))
    }

    /// As if every completion took all the tokens that it may: where they end is not known before.
    fn asking(
        &self,
        model: &Model,
        tokenizer: Option<&Tokenizer>,
        questions: Questions,
        after: &mut Vec<String>,
    ) -> Parts {
        let Questions { prompts, samples, most, max_new_tokens, .. } = questions;
        let slots = self.compute.slots.min(most);
        let prompts = self.lengths(prompts, tokenizer, Asked::Prompts, after);
        let prompts =
            prompts.unwrap_or_else(|| Lengths::exactly(model.config.context().saturating_sub(max_new_tokens), slots));
        let slots = slots.min(prompts.count() * samples);
        let groups = slots.div_ceil(samples);
        // Completions of a prompt share its full pages.
        let shared = prompts.spread(|prompt| prompt.tokens / kernels::PAGE);
        let own = prompts.spread(|prompt| (prompt.tokens % kernels::PAGE + max_new_tokens).div_ceil(kernels::PAGE));
        // A page more may make half as many again: where that is in doubt, the middle.
        let least = cache::grown(shared.least(groups) + own.least(slots));
        let most = cache::grown(shared.most(groups) + own.most(slots));
        let pages = usize::midpoint(least, most);
        let at_once = decode::PROMPT_TOKENS.max(prompts.longest());
        let fresh = prompts.spread(|prompt| prompt.tokens).most(groups).min(at_once);
        sampling(model, Grown { slots, pages, fresh })
    }

    fn advice(&self, parts: &Parts) -> String {
        let part = |name: &str| parts.get(name).copied().unwrap_or(0);
        let Compute { micro_batch_tokens, activations, slots, .. } = self.compute;
        let of_passes = part("activations") + part("logits");
        if part("KV cache") > 0 {
            format!("lower `slots` (it is {slots}) or the tokens that a completion may have")
        } else if part("optimiser") > 0 && of_passes < part("weights") {
            "train a smaller model".to_owned()
        } else {
            let or_recompute = match activations {
                Activations::Keep if part("optimiser") > 0 => ", or keep less by `activations: recompute`",
                Activations::Keep | Activations::Recompute => "",
            };
            format!("lower `micro_batch_tokens` (it is {micro_batch_tokens}){or_recompute}")
        }
    }
}

/// What the steps of a training hold.
struct Steps(Parts);

impl Steps {
    /// The larger of this and of other work that goes on between two steps, beside what stays.
    fn or(self, mut between: Parts) -> Parts {
        between.extend(["weights", "reference", "optimiser"].map(|name| (name, self.0[name])));
        if total(&self.0) >= total(&between) { self.0 } else { between }
    }
}

fn size(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |about| about.len())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        bench::{Bench, fixture, toy_checkpoint},
        data::checkpoint::Checkpoint,
        nn::{config::Family, shape::Shape},
        train::{muon::Muon, optimiser::Trainer},
    };

    const ADAMW: Optimiser =
        Optimiser { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0, max_norm: 1.0, muon: None };

    fn learning(adapter: Option<&Lora>, reference: Reference) -> Learning<'_> {
        Learning { adapter, optimiser: &ADAMW, reference }
    }

    fn learner(batch: usize) -> Learner<'static> {
        Learner { policy: "policy", lora: None, optimiser: &ADAMW, batch }
    }

    fn rows() -> Examples {
        Examples { rows: "rows", loss: LossOn::All, most: None, too_long: TooLong::Cut, packing: Packing::None }
    }

    /// One layer of 4 channels, two heads of two, one of keys, 8 inside; 50 entries, tied.
    fn tiny() -> Config {
        let shape = Shape { layers: 1, hidden: 4, heads: 2, kv_heads: Some(1), ffn: Some(8), ..Shape::default() };
        shape.config(50).unwrap()
    }

    #[test]
    fn a_layer_keeps_what_its_gradients_read() {
        let kept = |family| {
            let config = Config { family, qk_norm: family == Family::Qwen3, ..tiny() };
            Model::new(&config, None).kept_by_a_layer(None)
        };
        // x, normed, x, normed: 16. Queries and what they mix: 8; keys and values: 4. Gate, up and their product: 24.
        assert_eq!(kept(Family::Llama), 52);
        // Queries and keys before their norms.
        assert_eq!(kept(Family::Qwen3), 58);
        // No gate: 16 inside.
        assert_eq!(kept(Family::Gpt2), 44);
    }

    #[test]
    fn the_peak_of_a_step_lies_where_most_is_held() {
        let config = tiny();
        let model = Model::new(&config, None);
        // Embedding 200; q and o 16 each, k and v 8 each; 3 * 32 inside; three norms of 4.
        assert_eq!(model.weights, 356);
        let of = |tokens, targets, is_one_of_many| {
            let pass = Pass { tokens, targets, is_one_of_many, ..Pass::default() };
            let parts = training(&model, pass, learning(None, Reference::None));
            ["weights", "optimiser", "gradients", "activations", "logits"].map(|name| parts[name])
        };
        // Few tokens: all gradients, with that of the embedding beside that of the head; of the activations one token's x.
        assert_eq!(of(1, 1, false), [356, 712, 556, 4, 0]);
        // Many targets: what is kept (52 + 4 a token, 4 a target), the gradient of the chosen rows, logits and their gradient.
        assert_eq!(of(100, 100, false), [356, 712, 200, 6400, 10_000]);
        // Many tokens, few targets: inside the last layer, 2 * 8 + 3 * 4 a token more.
        assert_eq!(of(100, 1, false), [356, 712, 200, 56 * 100 + 4 + 28 * 100, 0]);
        // Computed anew: x of the layer, of the last and of the target; one layer whole.
        let activations = Activations::Recompute;
        let anew = Pass { tokens: 100, targets: 1, activations, ..Pass::default() };
        assert_eq!(
            training(&model, anew, learning(None, Reference::None))["activations"],
            4 * 100 + 4 * 100 + 4 + (52 + 28) * 100
        );
        // The gradients of the passes before.
        assert_eq!(of(100, 1, true)[2], 356 + 200);
    }

    #[test]
    fn an_adapter_has_gradients_and_moments_of_its_own_and_keeps_what_its_matrices_read() {
        let config = tiny();
        let model = Model::new(&config, None);
        let lora = Lora { rank: 3, targets: [Target::QProj, Target::DownProj].into(), ..Lora::default() };
        // Both x 8, what the first norm makes of it 4; attention 4 + 4; gate and up 16, their product 8; 3 for each product.
        assert_eq!(model.kept_by_a_layer(Some(&lora)), 50);
        assert_eq!(model.kept_by_a_layer(Some(&Lora { dropout: 0.1, ..lora.clone() })), 50);
        let pass = Pass { tokens: 1, targets: 1, is_one_of_many: false, ..Pass::default() };
        let parts = training(&model, pass, learning(Some(&lora), Reference::Kept));
        // 3 x (4 + 4) of q, 3 x (8 + 4) of down.
        assert_eq!((parts["weights"], parts["optimiser"], parts["reference"]), (356 + 60, 120, 0));
        assert_eq!(training(&model, pass, learning(None, Reference::Kept))["reference"], 356);
        // The policy brought it: the reference has a copy that does not learn.
        let model = Model::new(&config, Some(lora.clone()));
        assert_eq!(training(&model, pass, learning(Some(&lora), Reference::Kept))["reference"], 60);
    }

    #[test]
    fn muon_keeps_one_moment_of_the_matrices_inside_the_layers() {
        let config = tiny();
        let muon = Optimiser { muon: Some(Muon::default()), ..ADAMW };
        // q, o, k, v and the three inside: 144 once. The embedding and three norms: 212 twice.
        assert_eq!(remembered(&muon, &weights::expected(&config)), 144 + 424);
        assert_eq!(held_by_an_update(&muon, &weights::expected(&config)), 5 * 32);
        assert_eq!(held_by_an_update(&ADAMW, &weights::expected(&config)), 0);
    }

    #[test]
    fn what_an_optimiser_remembers_is_what_a_trainer_holds() {
        let adapters = [None, Some(Lora { rank: 1, ..Lora::default() }), Some(Lora { rank: 3, ..Lora::default() })];
        for family in ["llama", "qwen2", "qwen3", "gpt2"] {
            // A model of GPT-2's takes no adapter.
            for lora in adapters.iter().filter(|adapter| family != "gpt2" || adapter.is_none()) {
                let mut checkpoint = Checkpoint::open(&fixture(family)).unwrap();
                checkpoint.adopt(lora.as_ref(), 1).unwrap();
                let shapes = match lora {
                    Some(lora) => lora.expected(&checkpoint.config).unwrap(),
                    None => weights::expected(&checkpoint.config),
                };
                let decoder = checkpoint.to_device(&crate::device::Place::cpu()).unwrap();
                for optimiser in [ADAMW, Optimiser { muon: Some(Muon::default()), ..ADAMW }] {
                    let mut held = 0;
                    for memory in &mut Trainer::new(decoder.clone(), optimiser).memory {
                        memory.each(&mut |_, tensor| held += tensor.dims().iter().product::<usize>());
                    }
                    assert_eq!(remembered(&optimiser, &shapes), held, "{family} {lora:?} {optimiser:?}");
                }
            }
        }
    }

    #[test]
    fn blocks_hold_as_many_tokens_as_rows_fill() {
        // Two rows of 50 in a block of 129; three would be 150.
        let fifty = Lengths::exactly(50, 1000);
        assert_eq!(fifty.packed(129), Spread { mean: 100.0, deviation: 0.0 });
        // Seven rows of 50 make three blocks of two and one of one.
        assert_eq!(Lengths::exactly(50, 7).packed(129).mean, 350.0 / 4.0);
        // A quarter of 100: 29 more have no room for 50, and two of 50 fill blocks of their own.
        let mixed = [Length { tokens: 100, targets: 0, weight: 25.0 }, Length { tokens: 50, targets: 0, weight: 75.0 }];
        let mixed = Lengths(mixed.into()).packed(129);
        assert!((mixed.mean - (25.0 * 100.0 + 75.0 * 50.0) / 63.0).abs() < 1e-9, "{mixed:?}");
    }

    #[test]
    fn rows_are_counted_as_long_as_they_are_learned() {
        let long = Lengths::exactly(101, 4);
        assert_eq!(long.clone().fitted(11, TooLong::Cut), Lengths::exactly(11, 4));
        // The first piece has 11 tokens, each other ten new ones.
        assert_eq!(long.clone().fitted(11, TooLong::Split), Lengths::exactly(11, 40));
        assert_eq!(long.clone().fitted(101, TooLong::Split), long);
    }

    #[test]
    fn completions_of_a_prompt_share_its_full_pages_while_they_grow() {
        let config = tiny();
        let foreseen = |length: usize, samples, slots, max_new_tokens| {
            let bench = Bench::new();
            let prompts = bench.rows("prompts", &vec![json!({ "prompt": "1".repeat(length) }); 64]);
            toy_checkpoint(&bench.path("policy"));
            let inputs = Prospects::standalone(".".into()).with_input("prompts", "p", Prospect::There(prompts));
            let compute = Compute { slots, ..Compute::default() };
            let questions =
                Questions { policy: "policy", prompts: "prompts", samples, most: usize::MAX, max_new_tokens };
            let tokenizer = Tokenizer::open(&bench.path("policy")).unwrap();
            let work = Work { inputs: &inputs, compute: &compute };
            work.asking(&Model::new(&config, None), Some(&tokenizer), questions, &mut Vec::new())
        };
        // Two groups of eight: two full pages each; eight tokens of the third, with nine more, are two pages for each.
        // There are then 16, 32 and 48 pages, and a token has 2 * 2 numbers; 48 * 16 * 2 move.
        let parts = foreseen(40, 8, 16, 9);
        assert_eq!(parts["KV cache"], 48 * 16 * 4 + 48 * 16 * 2);
        // Both prompts in one pass, with a token of each completion: 2 * 4 and three times 8 of each.
        assert_eq!(parts["activations"], (80 + 16) * (8 + 24));
        // Alone, each has four, 64 in all; half of 48 are added then.
        assert_eq!(foreseen(40, 1, 16, 9)["KV cache"], 72 * 16 * 4 + 72 * 16 * 2);
    }

    #[test]
    fn a_look_at_many_held_out_rows_may_take_more_than_a_step() {
        let bench = Bench::new();
        let rows_of = |name, count| bench.rows(name, &vec![json!({ "ids": vec![3; 101] }); count]);
        let (few, many) = (rows_of("few", 2), rows_of("many", 40));
        let foreseen = |validation: Option<&Path>| {
            let mut inputs = Prospects::standalone(".".into())
                .with_input("policy", "base", Prospect::There(fixture("llama")))
                .with_input("rows", "cold", Prospect::There(few.clone()));
            if let Some(validation) = validation {
                inputs = inputs.with_input("validation", "held", Prospect::There(validation.into()));
            }
            let work = Work { inputs: &inputs, compute: &Compute::default() };
            work.training(learner(1), Learned::Rows(rows())).unwrap().parts.into_iter().collect::<BTreeMap<_, _>>()
        };
        let without = foreseen(None);
        assert_eq!(foreseen(Some(&few))["activations"], without["activations"], "a step keeps more than two rows take");
        let looked = foreseen(Some(&many));
        assert!(looked["activations"] > 2 * without["activations"], "{looked:?} {without:?}");
        assert_eq!((looked["optimiser"], looked.get("gradients")), (without["optimiser"], None));
    }

    #[test]
    fn rows_that_are_not_there_count_as_long_as_the_context_and_are_named() {
        let policy = Prospect::There(fixture("llama"));
        let compute = Compute::default();
        let inputs = Prospects::standalone(".".into()).with_input("policy", "base", policy);
        let inputs = inputs.with_input("rows", "cold", Prospect::Unknown);
        let work = Work { inputs: &inputs, compute: &compute };
        let foreseen = work.training(learner(2), Learned::Rows(rows())).unwrap();
        assert_eq!(foreseen.after, ["cold"]);
        let exactly = work.training(learner(2), Learned::Blocks(None)).unwrap();
        assert_eq!((foreseen.parts, exactly.after.len()), (exactly.parts, 0));
    }

    #[test]
    fn a_model_that_nobody_has_outlined_leaves_everything_open() {
        let inputs = Prospects::standalone(".".into()).with_input("policy", "base", Prospect::Unknown);
        let compute = Compute::default();
        let foreseen =
            Work { inputs: &inputs, compute: &compute }.training(learner(2), Learned::Blocks(Some(8))).unwrap();
        assert_eq!((foreseen.parts, foreseen.after), (Vec::new(), vec!["base".to_owned()]));
    }

    #[test]
    fn short_rows_make_a_small_step_and_long_ones_are_cut_by_the_micro_batch() {
        let (bench, examples) = (Bench::new(), rows());
        let rows = |name, length: usize| bench.rows(name, &vec![json!({ "ids": vec![3; length] }); 40]);
        let foreseen = |folder: &Path, micro_batch_tokens| {
            let inputs = Prospects::standalone(".".into())
                .with_input("policy", "base", Prospect::There(fixture("llama")))
                .with_input("rows", "cold", Prospect::There(folder.into()));
            let compute = Compute { micro_batch_tokens, ..Compute::default() };
            let work = Work { inputs: &inputs, compute: &compute };
            let footprint = work.training(learner(32), Learned::Rows(examples)).unwrap();
            assert_eq!(footprint.after, Vec::<String>::new());
            footprint.parts.into_iter().collect::<BTreeMap<_, _>>()
        };
        let (short, long) = (rows("short", 5), rows("long", 50));
        let activations = |folder, most| foreseen(folder, most)["activations"] as f64;
        // Of five tokens four are targets, of fifty all but one.
        let ratio = activations(&long, 4096) / activations(&short, 4096);
        assert!((10.0..10.1).contains(&ratio), "{ratio}");
        let ratio = activations(&long, 160) / activations(&short, 4096);
        assert!((1.0..1.01).contains(&ratio), "{ratio}");
        assert!(foreseen(&long, 160)["gradients"] > foreseen(&long, 4096)["gradients"]);
    }
}
