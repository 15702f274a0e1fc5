//! One completion with everything that a step needs of it.

use std::collections::BTreeMap;

use crate::text::complete::Completed;

/// A completion, its reward and its advantage.
#[derive(Debug)]
pub struct Rollout {
    /// Row of the prompt.
    pub row: usize,
    /// Place in its group.
    pub index: usize,
    pub completed: Completed,
    /// Prompt and completion, the very tokens that were sampled.
    pub ids: Vec<u32>,
    /// As long as `ids`.
    pub is_completion: Vec<bool>,
    pub reward: f32,
    pub parts: BTreeMap<String, f32>,
    pub advantage: f32,
}

impl Rollout {
    pub fn new(row: usize, index: usize, prompt: &[u32], completed: Completed) -> Self {
        let ids = [prompt, &completed.tokens].concat();
        let is_completion = (0..ids.len()).map(|at| at >= prompt.len()).collect();
        Self { row, index, completed, ids, is_completion, reward: 0.0, parts: BTreeMap::new(), advantage: 0.0 }
    }
}

/// The figures of a rollout phase: mean reward and parts, length, share cut off and of dead groups.
pub fn summary(rollouts: &[Rollout], dead_groups: f64) -> BTreeMap<String, f64> {
    let count = rollouts.len() as f64;
    let mean = |value: &dyn Fn(&Rollout) -> f64| rollouts.iter().map(value).sum::<f64>() / count;
    let mut figures = BTreeMap::from([
        ("reward".to_owned(), mean(&|rollout| f64::from(rollout.reward))),
        ("length".to_owned(), mean(&|rollout| rollout.completed.tokens.len() as f64)),
        ("truncated".to_owned(), mean(&|rollout| f64::from(u8::from(rollout.completed.truncated())))),
        ("dead_groups".to_owned(), dead_groups),
    ]);
    for rollout in rollouts {
        for (part, value) in &rollout.parts {
            *figures.entry(format!("reward/{part}")).or_default() += f64::from(*value) / count;
        }
    }
    figures
}
