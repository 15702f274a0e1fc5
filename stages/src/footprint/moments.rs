//! What is held at the moments of training, scoring and sampling, in numbers of elements of a model's sizes.
//! Knows nothing of files or of rows.

use std::collections::BTreeMap;

use crate::{
    decode, kernels,
    nn::{
        config::Config,
        lora::{Lora, Target},
        recompute::Activations,
        weights,
    },
    train::optimiser::Optimiser,
};

pub(super) const F32: usize = size_of::<f32>();

/// The parts of a moment by name; a part that is nothing is left out.
pub(super) type Parts = BTreeMap<&'static str, usize>;

/// A model's sizes, in numbers of elements.
pub(super) struct Model<'a> {
    pub(super) config: &'a Config,
    /// All weights.
    pub(super) weights: usize,
    /// The embedding, or the head: `vocab x hidden`.
    pub(super) table: usize,
    /// The adapter that it carries already.
    pub(super) adapter: Option<Lora>,
}

impl<'a> Model<'a> {
    pub(super) fn new(config: &'a Config, adapter: Option<Lora>) -> Self {
        let weights = elements(&weights::expected(config));
        Self { config, weights, table: config.vocab_size * config.hidden_size, adapter }
    }

    pub(super) fn is_large_head(&self) -> bool {
        self.config.vocab_size >= kernels::LARGE_VOCABULARY
    }

    pub(super) fn has_gate(&self) -> bool {
        weights::expected(self.config).iter().any(|(name, _)| name.ends_with("mlp.gate_proj.weight"))
    }

    /// What a layer keeps of a token for its gradient (kernels/gradient.rs): the residual stream before both norms, and
    /// what they make of it for the matrices that learn; queries, keys and values as attention takes them, and what it
    /// mixes; the inside of the feed-forward layer before and after its activation. Where heads are normed, queries and
    /// keys before that. An adapter keeps the narrow side of its product; what dropout left of its input is found again.
    pub(super) fn kept_by_a_layer(&self, adapter: Option<&Lora>) -> usize {
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
    pub(super) fn held_by_a_layers_gradient(&self) -> usize {
        let (hidden, _, _, inner) = self.widths();
        2 * inner + 3 * hidden
    }

    /// What a layer holds of a token when nothing is kept for a gradient.
    pub(super) fn held_by_a_layer(&self) -> usize {
        let (hidden, queries, keys, inner) = self.widths();
        2 * hidden + (3 * inner).max(2 * queries + 2 * keys)
    }

    pub(super) fn widths(&self) -> (usize, usize, usize, usize) {
        let Config { hidden_size, num_attention_heads, num_key_value_heads, head_dim, intermediate_size, .. } =
            self.config;
        (*hidden_size, num_attention_heads * head_dim, num_key_value_heads * head_dim, *intermediate_size)
    }

    /// Elements of the adapter that it carries.
    pub(super) fn of_adapter(&self) -> usize {
        self.adapter.as_ref().map_or(0, |lora| elements(&lora.expected(self.config).unwrap_or_default()))
    }

    /// Keys and values of a token.
    pub(super) fn cached(&self) -> usize {
        2 * self.config.num_hidden_layers * self.config.num_key_value_heads * self.config.head_dim
    }
}

/// The most that one forward and backward pass takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Pass {
    pub(super) tokens: usize,
    pub(super) targets: usize,
    /// A step takes several passes, whose gradients are added up.
    pub(super) is_one_of_many: bool,
    pub(super) activations: Activations,
}

/// What learns, and what is kept beside it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Learning<'a> {
    pub(super) adapter: Option<&'a Lora>,
    pub(super) optimiser: &'a Optimiser,
    pub(super) reference: Reference,
}

/// The moment of a training step at which most is held, in elements.
pub(super) fn training(model: &Model, pass: Pass, learning: Learning) -> Parts {
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
pub(super) fn remembered(optimiser: &Optimiser, shapes: &[(String, Vec<usize>)]) -> usize {
    shapes.iter().map(|(name, shape)| if is_muons(optimiser, name, shape) { 1 } else { 2 } * count(shape)).sum()
}

/// Muon makes a matrix orthogonal in some copies of it: momentum, direction, and three that its iteration goes through.
pub(super) fn held_by_an_update(optimiser: &Optimiser, shapes: &[(String, Vec<usize>)]) -> usize {
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
    pub(super) fn elements(self, model: &Model, adapter: Option<&Lora>) -> usize {
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
pub(super) fn scoring(model: &Model, pass: Pass) -> Parts {
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
pub(super) struct Grown {
    /// Completions that grow at once.
    pub(super) slots: usize,
    /// Pages of keys and values that there are then.
    pub(super) pages: usize,
    /// Tokens of prompts that are computed in one pass.
    pub(super) fresh: usize,
}

pub(super) fn sampling(model: &Model, grown: Grown) -> Parts {
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

pub(super) fn total(parts: &Parts) -> usize {
    parts.values().sum()
}
