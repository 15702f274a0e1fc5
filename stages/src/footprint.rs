//! What work with a model holds in memory at its peak, counted from its sizes as the kernels hold it on the CPU.
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
        config::Config,
        lora::{Lora, Target},
        recompute::Activations,
        weights,
    },
    text::{
        check::Finding,
        encode::{self, LossOn},
        tokenizer::Tokenizer,
    },
};

/// What does not go with any size: 25 MB of the program with its libraries and threads, and some 50 MB of pages that the
/// allocator has for every size of buffer and every thread. Held by one step of one short row of a model of 4 MB.
const PROGRAM: u64 = 75_000_000;
/// Rows of an input that are read to learn how long its sequences are.
const ROWS_READ: usize = 256;
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

/// The moment of a training step at which most is held, in elements.
fn training(model: &Model, pass: Pass, adapter: Option<&Lora>, reference: Reference) -> Parts {
    let Pass { tokens, targets, is_one_of_many, activations } = pass;
    let (layers, hidden) = (model.config.num_hidden_layers, model.config.hidden_size);
    // Of an adapter that the model does not take, the work says why.
    let of_adapter = adapter.map(|lora| elements(&lora.expected(model.config).unwrap_or_default()));
    let learned = of_adapter.unwrap_or(model.weights);
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
    // The gradients, the activations and the logits of each moment, as it goes back from the head to the embedding.
    let moments = [
        [earlier + table, all_kept + chosen, logits],
        [earlier + table, all_kept + in_layer, 0],
        [earlier + learned - table + embedding, kept + in_layer, 0],
        [earlier + learned + embedding, tokens * hidden, 0],
    ];
    let most = moments.into_iter().max_by_key(|moment| moment.iter().sum::<usize>());
    let [gradients, activations, logits] = most.expect("there are four");
    BTreeMap::from([
        ("weights", model.weights + of_adapter.unwrap_or(0)),
        ("reference", reference.elements(model, adapter)),
        ("optimiser", 2 * learned),
        ("gradients", gradients),
        ("activations", activations),
        ("logits", logits),
    ])
}

/// Is there a second policy that the first is held against?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reference {
    None,
    Kept,
}

impl Reference {
    /// Beside an adapter the reference is the same weights without it.
    fn elements(self, model: &Model, adapter: Option<&Lora>) -> usize {
        if self == Self::Kept && adapter.is_none() { model.weights } else { 0 }
    }
}

fn elements(shapes: &[(String, Vec<usize>)]) -> usize {
    shapes.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
}

fn head_elements(rows: usize) -> usize {
    (kernels::HEAD_BYTES / F32).min(rows * kernels::LARGE_VOCABULARY)
}

/// A pass that keeps nothing for a gradient.
fn scoring(model: &Model, pass: Pass) -> Parts {
    let Pass { tokens, targets, .. } = pass;
    let logits = if model.is_large_head() { head_elements(targets) } else { targets * model.config.vocab_size };
    BTreeMap::from([
        ("weights", model.weights),
        ("activations", (tokens * model.held_by_a_layer()).max(targets * model.config.hidden_size)),
        ("logits", logits),
    ])
}

/// Sampling: `slots` completions at once, each of up to `tokens` tokens with its prompt, of which there are `prompts`
/// tokens in all.
fn sampling(model: &Model, slots: usize, tokens: usize, prompts: usize) -> Parts {
    let vocabulary = model.config.vocab_size;
    // The pages there are when these are taken: half as many more each time, one layer's keys twice while they move.
    let needed = slots * tokens.min(model.config.context()).div_ceil(kernels::PAGE);
    let mut pages = 0;
    while pages < needed {
        pages += (pages / 2).max(16);
    }
    let cache = pages * kernels::PAGE * model.cached();
    let moved = cache / (2 * model.config.num_hidden_layers);
    BTreeMap::from([
        ("weights", model.weights),
        ("activations", prompts.min(decode::PROMPT_TOKENS).max(slots) * model.held_by_a_layer()),
        // On the device, and on the host where tokens are chosen.
        ("logits", 2 * (slots * vocabulary).min(decode::LOGITS.max(vocabulary))),
        ("KV cache", cache + moved),
    ])
}

fn total(parts: &Parts) -> usize {
    parts.values().sum()
}

/// How long the sequences of rows are.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Lengths {
    mean: f64,
    deviation: f64,
    longest: usize,
    /// The share of tokens that are targets.
    trained: f64,
    /// About how many there are.
    count: usize,
}

impl Lengths {
    /// The most tokens that so many of them are, all but never more.
    fn most(&self, sequences: usize) -> usize {
        let count = sequences as f64;
        (count * self.mean + 3.0 * count.sqrt() * self.deviation).ceil() as usize
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
    let (mut weight, mut sum, mut squares, mut trained, mut longest) = (0.0, 0.0, 0.0, 0.0, 0);
    for (_, prospect) in inputs {
        let Prospect::There(folder) = prospect else { return None };
        let (rows, count) = first_rows(folder)?;
        let each = count / rows.len().max(1) as f64;
        for row in &rows {
            let (length, targets) = match asked {
                Asked::Examples(loss) => {
                    let example = encode::example(tokenizer, row, loss).ok()?;
                    (example.ids.len(), example.trained.iter().skip(1).filter(|trained| **trained).count())
                }
                Asked::Prompts => (encode::prompt(tokenizer, row).ok()?.len(), 0),
            };
            longest = longest.max(length);
            weight += each;
            sum += each * length as f64;
            squares += each * (length * length) as f64;
            trained += each * targets as f64;
        }
    }
    if weight == 0.0 {
        return None;
    }
    let mean = sum / weight;
    let deviation = (squares / weight - mean * mean).max(0.0).sqrt();
    Some(Lengths { mean, deviation, longest, trained: trained / sum.max(1.0), count: weight.ceil() as usize })
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

/// How the sequences that a step learns from come about.
#[derive(Debug, Clone, Copy)]
pub enum Learned {
    /// Rows of these inputs, as they are.
    Rows(&'static str, LossOn),
    /// Rows of these inputs, packed into blocks of at most so many tokens; absent: as many as the model takes.
    Packed(&'static str, LossOn, Option<usize>),
    /// As many tokens each.
    Blocks(usize),
    /// Prompts of an input with completions of up to so many tokens.
    Completions(&'static str, usize),
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
    /// Training the model `policy`, or an adapter of it, `batch` sequences a step.
    #[must_use]
    pub fn training(&self, policy: &str, lora: Option<&Lora>, learned: Learned, batch: usize) -> Option<Footprint> {
        self.of(policy, |model, tokenizer, after| {
            let pass = self.pass(model, tokenizer, learned, batch, after);
            training(model, pass, lora.or(model.adapter.as_ref()), Reference::None)
        })
    }

    /// As [`Work::training`], on completions that the policy gives and held against what it was.
    #[must_use]
    pub fn reinforcing(&self, questions: Questions, lora: Option<&Lora>, batch: usize) -> Option<Footprint> {
        self.of(questions.policy, |model, tokenizer, after| {
            let adapter = lora.or(model.adapter.as_ref());
            let learned = Learned::Completions(questions.prompts, questions.max_new_tokens);
            let pass = self.pass(model, tokenizer, learned, batch, after);
            let steps = training(model, pass, adapter, Reference::Kept);
            let mut phase = self.asking(model, tokenizer, questions, after);
            phase.extend(["weights", "reference", "optimiser"].map(|name| (name, steps[name])));
            if total(&steps) >= total(&phase) { steps } else { phase }
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
            let tokens = match self.lengths(rows, tokenizer, Asked::Examples(loss), after) {
                Some(lengths) => lengths.longest,
                None => model.config.context(),
            };
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
        let exactly = |length: usize| Lengths {
            mean: length as f64,
            deviation: 0.0,
            longest: length,
            trained: 1.0,
            count: batch,
        };
        let lengths = match learned {
            Learned::Rows(rows, loss) => {
                self.lengths(rows, tokenizer, Asked::Examples(loss), after).unwrap_or_else(|| exactly(context + 1))
            }
            Learned::Packed(rows, loss, block) => {
                let block = block.unwrap_or(context + 1);
                let rows = self.lengths(rows, tokenizer, Asked::Examples(loss), after);
                Lengths { mean: block as f64, deviation: 0.0, ..rows.unwrap_or_else(|| exactly(block)) }
            }
            Learned::Blocks(block) => exactly(block + 1),
            Learned::Completions(prompts, new) => {
                let prompts = self.lengths(prompts, tokenizer, Asked::Prompts, after);
                let prompts = prompts.unwrap_or_else(|| exactly(context.saturating_sub(new)));
                let mean = prompts.mean + new as f64;
                Lengths { mean, longest: prompts.longest + new, trained: new as f64 / mean, ..prompts }
            }
        };
        let whole = lengths.most(batch);
        let longest = lengths.longest.min(context + 1);
        let tokens = whole.min(self.compute.micro_batch_tokens.max(longest));
        let targets = (tokens as f64 * lengths.trained).ceil() as usize;
        Pass { tokens, targets, is_one_of_many: tokens < whole, activations: self.compute.activations }
    }

    fn asking(
        &self,
        model: &Model,
        tokenizer: Option<&Tokenizer>,
        questions: Questions,
        after: &mut Vec<String>,
    ) -> Parts {
        let Questions { prompts, samples, most, max_new_tokens, .. } = questions;
        let slots = self.compute.slots.min(most);
        let (slots, prompt) = match self.lengths(prompts, tokenizer, Asked::Prompts, after) {
            Some(lengths) => {
                let slots = slots.min(lengths.count * samples);
                (slots, lengths.most(slots).div_ceil(slots.max(1)))
            }
            None => (slots, model.config.context().saturating_sub(max_new_tokens)),
        };
        sampling(model, slots, prompt + max_new_tokens, slots * prompt)
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

fn size(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |about| about.len())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        bench::{Bench, fixture},
        nn::{config::Family, shape::Shape},
    };

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
            let parts =
                training(&model, Pass { tokens, targets, is_one_of_many, ..Pass::default() }, None, Reference::None);
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
            training(&model, anew, None, Reference::None)["activations"],
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
        let parts = training(&model, pass, Some(&lora), Reference::Kept);
        // 3 x (4 + 4) of q, 3 x (8 + 4) of down.
        assert_eq!((parts["weights"], parts["optimiser"], parts["reference"]), (356 + 60, 120, 0));
        assert_eq!(training(&model, pass, None, Reference::Kept)["reference"], 356);
    }

    #[test]
    fn rows_that_are_not_there_count_as_long_as_the_context_and_are_named() {
        let policy = Prospect::There(fixture("llama"));
        let compute = Compute::default();
        let context = 128;
        let inputs = Prospects::standalone(".".into()).with_input("policy", "base", policy);
        let inputs = inputs.with_input("rows", "cold", Prospect::Unknown);
        let work = Work { inputs: &inputs, compute: &compute };
        let foreseen = work.training("policy", None, Learned::Rows("rows", LossOn::All), 2).unwrap();
        assert_eq!(foreseen.after, ["cold"]);
        let exactly = work.training("policy", None, Learned::Blocks(context), 2).unwrap();
        assert_eq!((foreseen.parts, exactly.after.len()), (exactly.parts, 0));
    }

    #[test]
    fn a_model_that_nobody_has_outlined_leaves_everything_open() {
        let inputs = Prospects::standalone(".".into()).with_input("policy", "base", Prospect::Unknown);
        let compute = Compute::default();
        let foreseen =
            Work { inputs: &inputs, compute: &compute }.training("policy", None, Learned::Blocks(8), 2).unwrap();
        assert_eq!((foreseen.parts, foreseen.after), (Vec::new(), vec!["base".to_owned()]));
    }

    #[test]
    fn short_rows_make_a_small_step_and_long_ones_are_cut_by_the_micro_batch() {
        let bench = Bench::new();
        let rows = |name, length: usize| bench.rows(name, &vec![json!({ "ids": vec![3; length] }); 40]);
        let foreseen = |folder: &Path, micro_batch_tokens| {
            let inputs = Prospects::standalone(".".into())
                .with_input("policy", "base", Prospect::There(fixture("llama")))
                .with_input("rows", "cold", Prospect::There(folder.into()));
            let compute = Compute { micro_batch_tokens, ..Compute::default() };
            let work = Work { inputs: &inputs, compute: &compute };
            let footprint = work.training("policy", None, Learned::Rows("rows", LossOn::All), 32).unwrap();
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
