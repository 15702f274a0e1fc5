//! Puts several policies of one shape together into one, without training.
//! Knows nothing of what they learned.

mod formula;

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, Result, bail, ensure};
use engine::{Arity, Context, Input, NoSettings, Problem, Stage};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    data::{checkpoint::Checkpoint, regular},
    nn::weights::{self, Weight, Weights},
};

/// Merges the weights of policies of one shape and vocabulary; an adapter is folded into its policy first.
///
/// Several trainings of one base often lie in one valley of the loss, where the points between them are as good or
/// better than each.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MergeModels {
    /// How the weights are put together.
    pub method: Method,
    /// What each policy counts, in the order of the inputs. Empty: one each.
    #[serde(default)]
    pub weights: Vec<f64>,
    /// `slerp`: where on the way from the first policy (0) to the second (1); absent: 0.5.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub t: Option<f64>,
    /// `ties` and `dare`: the share of each task vector's numbers that is kept; absent: 0.2 for `ties`, as in its
    /// paper, and 0.5 for `dare`.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub density: Option<f64>,
    /// `task_arithmetic`, `ties` and `dare`: what the merged task vector is multiplied by before it is added to the
    /// base (the papers' λ); absent: 1.
    #[serde(default)]
    pub scale: Option<f64>,
}

/// How weights are put together. A task vector is what a training added to the base.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// The weighted mean: a model soup (Wortsman et al. 2022, arXiv 2203.05482).
    Linear,
    /// On the arc between two policies, each tensor by itself (Shoemake 1985).
    Slerp,
    /// The base and the weighted sum of task vectors (Ilharco et al. 2023, arXiv 2212.04089).
    TaskArithmetic,
    /// The base and the mean of task vectors, of which the small numbers are dropped, and at each place those whose
    /// sign is outweighed (Yadav et al. 2023, arXiv 2306.01708).
    Ties,
    /// As `task_arithmetic`, of task vectors whose numbers are dropped at random and the others grown for it (Yu et
    /// al. 2024, arXiv 2311.03099).
    Dare,
}

impl Method {
    fn needs_base(self) -> bool {
        match self {
            Self::Linear | Self::Slerp => false,
            Self::TaskArithmetic | Self::Ties | Self::Dare => true,
        }
    }

    fn has_density(self) -> bool {
        matches!(self, Self::Ties | Self::Dare)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Linear => "linear",
            Self::Slerp => "slerp",
            Self::TaskArithmetic => "task_arithmetic",
            Self::Ties => "ties",
            Self::Dare => "dare",
        }
    }
}

impl Stage for MergeModels {
    const NAME: &'static str = "merge_models";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Input] = &[
        Input { name: "policies", kinds: &["checkpoint"], arity: Arity::Many, about: "What to merge." },
        Input {
            name: "base",
            kinds: &["checkpoint"],
            arity: Arity::Optional,
            about: "What they were trained from, for `task_arithmetic`, `ties` and `dare`.",
        },
    ];
    const OUTPUT: &'static str = "checkpoint";
    type Settings = NoSettings;

    fn resolve(&mut self) {
        if self.method == Method::Slerp {
            self.t.get_or_insert(0.5);
        }
        if self.method.has_density() {
            self.density.get_or_insert(if self.method == Method::Ties { 0.2 } else { 0.5 });
        }
        if self.method.needs_base() {
            self.scale.get_or_insert(1.0);
        }
    }

    fn check(&self) -> Vec<Problem> {
        let method = self.method.name();
        let unused = |name: &str| Problem::new(name, format!("`{method}` has no `{name}`"));
        let mut problems = Vec::new();
        if self.t.is_some() && self.method != Method::Slerp {
            problems.push(unused("t"));
        }
        if self.density.is_some() && !self.method.has_density() {
            problems.push(unused("density"));
        }
        if self.density == Some(0.0) {
            problems.push(Problem::new("density", "a `density` of 0 keeps nothing of the policies"));
        }
        if self.scale.is_some() && !self.method.needs_base() {
            problems.push(unused("scale"));
        }
        if !self.weights.is_empty() && self.method == Method::Slerp {
            let message = "`slerp` has no `weights`: where between the two is said by `t`";
            problems.push(Problem::new("weights", message));
        }
        let averages = matches!(self.method, Method::Linear | Method::Ties);
        if self.weights.iter().any(|weight| !weight.is_finite() || (averages && *weight < 0.0)) {
            problems.push(Problem::new("weights", format!("a weight of `{method}` must be a number of at least zero")));
        } else if averages && !self.weights.is_empty() && self.weights.iter().sum::<f64>() == 0.0 {
            problems.push(Problem::new("weights", "no weight is above zero"));
        }
        problems
    }

    fn run(&self, _: &NoSettings, ctx: &Context) -> Result<()> {
        let inputs = ctx.inputs("policies");
        let weights = if self.weights.is_empty() { vec![1.0; inputs.len()] } else { self.weights.clone() };
        ensure!(weights.len() == inputs.len(), "`weights` has {} values for {} policies", weights.len(), inputs.len());
        let method = self.method.name();
        match (self.method, inputs.len()) {
            (Method::Slerp, 2) => (),
            (Method::Slerp, other) => bail!("`slerp` merges two policies, and {other} are given"),
            (Method::Linear, 1) => bail!("one policy alone is nothing to merge"),
            _ => (),
        }
        let base = match (ctx.optional("base"), self.method.needs_base()) {
            (Some(base), true) => Some((base.node.clone(), whole(&base.path)?)),
            (None, false) => None,
            (None, true) => bail!("`{method}` needs the input `base`: what the policies were trained from"),
            (Some(_), false) => bail!("`{method}` has no use for the input `base`"),
        };
        let mut policies = Vec::new();
        for input in inputs {
            policies.push((input.node.clone(), whole(&input.path)?));
        }
        let (first, path) = match (&base, ctx.optional("base")) {
            (Some(base), Some(input)) => (base, &input.path),
            _ => (&policies[0], &inputs[0].path),
        };
        for (policy, input) in policies.iter().zip(inputs) {
            same_shape(first, policy)?;
            same_vocabulary((&first.0, path), (&policy.0, &input.path))?;
        }
        let models: Vec<&Weights> = policies.iter().map(|(_, policy)| &policy.weights).collect();
        let (merged, figures) = match &base {
            Some((_, base)) => self.over_base(&base.weights, &models, &weights, ctx.seed("drop")),
            None => (self.between(&models, &weights), Vec::new()),
        };
        let parameters: usize = merged.values().map(|weight| weight.values.len()).sum();
        let counts = [("policies", models.len() as f64), ("parameters", parameters as f64)];
        ctx.record(0, &[&counts[..], &figures].concat())?;
        let whole = base.map_or_else(|| policies.swap_remove(0).1, |(_, base)| base);
        Checkpoint { weights: merged, ..whole }.save(ctx.output())
    }
}

impl MergeModels {
    fn between(&self, models: &[&Weights], weights: &[f64]) -> Weights {
        let merge = |(name, first): (&String, &Weight)| {
            let tensors: Vec<&[f32]> = models.iter().map(|model| &model[name].values[..]).collect();
            let values = match self.t {
                Some(t) => formula::slerp(tensors[0], tensors[1], t),
                None => formula::linear(&tensors, weights),
            };
            (name.clone(), Weight { shape: first.shape.clone(), values })
        };
        models[0].par_iter().map(merge).collect()
    }

    /// The merged weights, and what share of the task vectors was kept and of the places had both signs.
    fn over_base(
        &self,
        base: &Weights,
        models: &[&Weights],
        weights: &[f64],
        seed: u64,
    ) -> (Weights, Vec<(&'static str, f64)>) {
        let (density, scale) = (self.density.unwrap_or(1.0), self.scale.unwrap_or(1.0));
        let thresholds: Vec<f32> = match self.method {
            Method::Ties => models.iter().map(|model| threshold(model, base, density)).collect(),
            _ => Vec::new(),
        };
        let merge = |(name, base): (&String, &Weight)| {
            let mut tasks: Vec<Vec<f32>> =
                models.iter().map(|model| formula::task(&model[name].values, &base.values)).collect();
            for (index, task) in tasks.iter_mut().enumerate() {
                match self.method {
                    Method::Ties => formula::trim(task, thresholds[index]),
                    Method::Dare => {
                        formula::drop_and_rescale(task, density, [seed, index as u64, weights::name_key(name)]);
                    }
                    Method::Linear | Method::Slerp | Method::TaskArithmetic => (),
                }
            }
            let kept = tasks.iter().flatten().filter(|value| **value != 0.0).count();
            let (values, conflicts) = match self.method {
                Method::Ties => formula::ties(&base.values, &tasks, weights, scale),
                _ => (formula::task_arithmetic(&base.values, &tasks, weights, scale), 0),
            };
            (name.clone(), (Weight { shape: base.shape.clone(), values }, kept, conflicts))
        };
        let made: BTreeMap<String, (Weight, usize, usize)> = base.par_iter().map(merge).collect();
        let total: usize = base.values().map(|weight| weight.values.len()).sum();
        let kept: usize = made.values().map(|(_, kept, _)| kept).sum();
        let conflicts: usize = made.values().map(|(.., conflicts)| conflicts).sum();
        let mut figures = vec![("changed", kept as f64 / (total * models.len()) as f64)];
        if self.method == Method::Ties {
            figures.push(("conflicts", conflicts as f64 / total as f64));
        }
        (made.into_iter().map(|(name, (weight, ..))| (name, weight)).collect(), figures)
    }
}

/// The paper trims a task vector as a whole, so a matrix that hardly changed keeps hardly anything.
fn threshold(model: &Weights, base: &Weights, density: f64) -> f32 {
    let magnitudes = |(name, base): (&String, &Weight)| {
        let task = formula::task(&model[name].values, &base.values);
        task.into_iter().map(f32::abs).collect::<Vec<_>>()
    };
    formula::threshold(base.iter().flat_map(magnitudes).collect(), density)
}

/// A policy without an adapter beside it.
fn whole(folder: &Path) -> Result<Checkpoint> {
    let mut checkpoint = Checkpoint::open(folder)?;
    checkpoint.merge()?;
    Ok(checkpoint)
}

fn same_shape(first: &(String, Checkpoint), other: &(String, Checkpoint)) -> Result<()> {
    let [one, two] = [first, other].map(|(_, checkpoint)| checkpoint.config.to_hf());
    for key in one.keys().chain(two.keys()) {
        let [one, two] = [&one, &two].map(|map| map.get(key).unwrap_or(&Value::Null));
        ensure!(
            one == two,
            "`{}` and `{}` are of two shapes: `{key}` is {one} and {two}; weights can be merged only one to one",
            first.0,
            other.0
        );
    }
    Ok(())
}

/// Rows of the embedding are merged one to one too: an id must be the same token.
fn same_vocabulary(first: (&str, &Path), other: (&str, &Path)) -> Result<()> {
    let tokens = |(node, folder): (&str, &Path)| -> Result<BTreeMap<u64, String>> {
        let path = folder.join("tokenizer.json");
        let text =
            regular::text(&path, regular::TOKENIZER_BYTES).with_context(|| format!("reading {}", path.display()))?;
        let json: Value = serde_json::from_str(&text).with_context(|| format!("the tokenizer of `{node}`"))?;
        let vocab = json["model"]["vocab"].as_object().into_iter().flatten();
        let mut tokens: BTreeMap<u64, String> =
            vocab.filter_map(|(token, id)| Some((id.as_u64()?, token.clone()))).collect();
        for added in json["added_tokens"].as_array().into_iter().flatten() {
            if let (Some(id), Some(token)) = (added["id"].as_u64(), added["content"].as_str()) {
                tokens.insert(id, token.to_owned());
            }
        }
        Ok(tokens)
    };
    let (one, two) = (tokens(first)?, tokens(other)?);
    let differs = one.keys().chain(two.keys()).find(|id| one.get(*id) != two.get(*id));
    if let Some(id) = differs {
        let shown = |tokens: &BTreeMap<u64, String>| tokens.get(id).map_or("none".into(), |token| format!("{token:?}"));
        bail!(
            "`{}` and `{}` have two vocabularies: token {id} is {} and {}; weights can be merged only one to one",
            first.0,
            other.0,
            shown(&one),
            shown(&two)
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde_json::json;

    use super::*;
    use crate::{
        bench::{Bench, fixture},
        data::adapter,
    };

    /// The fixture's model with every weight set by its place in its tensor.
    fn model(bench: &Bench, name: &str, of: impl Fn(usize) -> f32) -> PathBuf {
        let mut checkpoint = Checkpoint::open(&fixture("llama")).unwrap();
        for weight in checkpoint.weights.values_mut() {
            for (at, value) in weight.values.iter_mut().enumerate() {
                *value = of(at);
            }
        }
        let folder = bench.path(name);
        std::fs::create_dir_all(&folder).unwrap();
        checkpoint.save(&folder).unwrap();
        folder
    }

    /// The first numbers of a tensor of the result.
    fn merged(bench: &Bench, with: Value, inputs: &[(&str, &Path)]) -> Vec<f32> {
        let folder = bench.run::<MergeModels>(with, inputs).unwrap();
        let checkpoint = Checkpoint::open(&folder).unwrap();
        checkpoint.weights["model.norm.weight"].values[..4].to_vec()
    }

    #[test]
    fn every_method_merges_as_on_paper() {
        let bench = Bench::new();
        let base = model(&bench, "base", |_| 1.0);
        // Task vectors [3, 1, 0, 0] and [-1, 2, 0, 0] at every four places.
        let a = model(&bench, "a", |at| [4.0, 2.0, 1.0, 1.0][at % 4]);
        let b = model(&bench, "b", |at| [0.0, 3.0, 1.0, 1.0][at % 4]);
        let two: &[(&str, &Path)] = &[("policies", &a), ("policies", &b)];
        let three: &[(&str, &Path)] = &[("policies", &a), ("policies", &b), ("base", &base)];
        assert_eq!(merged(&bench, json!({ "method": "linear" }), two), [2.0, 2.5, 1.0, 1.0]);
        assert_eq!(merged(&bench, json!({ "method": "linear", "weights": [3, 1] }), two), [3.0, 2.25, 1.0, 1.0]);
        assert_eq!(merged(&bench, json!({ "method": "task_arithmetic" }), three), [3.0, 4.0, 1.0, 1.0]);
        let with = json!({ "method": "task_arithmetic", "weights": [1, -1], "scale": 0.5 });
        assert_eq!(merged(&bench, with, three), [3.0, 0.5, 1.0, 1.0]);
        // Half is kept, so both numbers; at the first place 3 outweighs -1 and stands alone.
        assert_eq!(merged(&bench, json!({ "method": "ties", "density": 0.5 }), three), [4.0, 2.5, 1.0, 1.0]);
        // A quarter: 3 of the first, 2 of the second.
        assert_eq!(merged(&bench, json!({ "method": "ties", "density": 0.25 }), three), [4.0, 3.0, 1.0, 1.0]);
        // Nothing is dropped: task arithmetic.
        assert_eq!(merged(&bench, json!({ "method": "dare", "density": 1 }), three), [3.0, 4.0, 1.0, 1.0]);
        // |a|² = 22 and |b|² = 11 for four places, a·b = 8: cos Ω = 8 / sqrt(242).
        let angle = (8.0 / 242.0_f64.sqrt()).acos();
        let half = (angle / 2.0).sin() / angle.sin();
        let expected = [4.0, 5.0, 2.0, 2.0].map(|sum| (half * sum) as f32);
        let found = merged(&bench, json!({ "method": "slerp" }), two);
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?} {expected:?}");
    }

    #[test]
    fn what_dare_drops_depends_on_the_seed_the_policy_and_the_tensor_alone() {
        let bench = Bench::new();
        let base = model(&bench, "base", |_| 0.0);
        let a = model(&bench, "a", |_| 1.0);
        let with = json!({ "method": "dare", "density": 0.5 });
        let alone = bench.run::<MergeModels>(with.clone(), &[("policies", &a), ("base", &base)]).unwrap();
        let alone = Checkpoint::open(&alone).unwrap().weights;
        for (name, weight) in &alone {
            assert!(weight.values.iter().all(|value| *value == 0.0 || *value == 2.0), "{name}");
        }
        let names = ["model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"];
        assert_ne!(alone[names[0]], alone[names[1]]);
        let twice = bench.run::<MergeModels>(with, &[("policies", &a), ("policies", &a), ("base", &base)]).unwrap();
        let twice = Checkpoint::open(&twice).unwrap().weights;
        // The first drops what it dropped alone, the second others.
        let second: Vec<f32> = formula::task(&twice[names[0]].values, &alone[names[0]].values);
        assert!(second.iter().all(|value| *value == 0.0 || *value == 2.0));
        assert_ne!(second, alone[names[0]].values);
    }

    #[test]
    fn the_same_model_twice_is_itself() {
        let bench = Bench::new();
        let path = fixture("qwen3");
        let original = Checkpoint::open(&path).unwrap().weights;
        for method in ["linear", "slerp"] {
            let inputs: &[(&str, &Path)] = &[("policies", &path), ("policies", &path)];
            let folder = bench.run::<MergeModels>(json!({ "method": method }), inputs).unwrap();
            assert_eq!(Checkpoint::open(&folder).unwrap().weights, original, "{method}");
        }
        for method in ["task_arithmetic", "ties", "dare"] {
            let inputs: &[(&str, &Path)] = &[("policies", &path), ("base", &path)];
            let folder = bench.run::<MergeModels>(json!({ "method": method }), inputs).unwrap();
            assert_eq!(Checkpoint::open(&folder).unwrap().weights, original, "{method}");
        }
    }

    #[test]
    fn an_adapter_is_folded_into_its_policy_first() {
        let bench = Bench::new();
        let plain = fixture("llama");
        let mut adapted = Checkpoint::open(&plain).unwrap();
        adapted.adapter = Some(adapter::read(&fixture("lora/all"), &adapted.config).unwrap());
        let folder = bench.path("adapted");
        std::fs::create_dir_all(&folder).unwrap();
        adapted.save(&folder).unwrap();
        adapted.merge().unwrap();
        let base = Checkpoint::open(&plain).unwrap().weights;
        let made = bench
            .run::<MergeModels>(json!({ "method": "linear" }), &[("policies", &folder), ("policies", &plain)])
            .unwrap();
        let made = Checkpoint::open(&made).unwrap();
        assert!(made.adapter.is_none());
        for (name, weight) in &made.weights {
            assert_eq!(
                weight.values,
                formula::linear(&[&adapted.weights[name].values, &base[name].values], &[1.0, 1.0])
            );
        }
        let name = "model.layers.0.self_attn.q_proj.weight";
        assert_ne!(made.weights[name], base[name], "the adapter of this test has no effect");
    }

    #[test]
    fn what_does_not_fit_together_is_named() {
        let bench = Bench::new();
        let (llama, qwen3) = (fixture("llama"), fixture("qwen3"));
        let complaint = |with: Value, inputs: &[(&str, &Path)]| bench.complaint::<MergeModels>(with, inputs);
        assert_eq!(
            complaint(json!({ "method": "linear" }), &[("policies", &llama), ("policies", &qwen3)]),
            "`policies` and `policies` are of two shapes: `architectures` is [\"LlamaForCausalLM\"] and [\"Qwen3ForCausalLM\"]; weights can be merged only one to one"
        );
        let other = model(&bench, "other", |_| 1.0);
        let path = other.join("tokenizer.json");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("\"a\": 34", "\"A\": 34").replace("\"a\":34", "\"A\":34")).unwrap();
        let message = complaint(json!({ "method": "linear" }), &[("policies", &llama), ("policies", &other)]);
        assert!(message.contains("have two vocabularies: token 34 is \"a\" and \"A\""), "{message}");
        let one: &[(&str, &Path)] = &[("policies", &llama)];
        assert_eq!(complaint(json!({ "method": "linear" }), one), "one policy alone is nothing to merge");
        assert_eq!(complaint(json!({ "method": "slerp" }), one), "`slerp` merges two policies, and 1 are given");
        assert_eq!(
            complaint(json!({ "method": "ties" }), one),
            "`ties` needs the input `base`: what the policies were trained from"
        );
        assert_eq!(
            complaint(json!({ "method": "linear", "weights": [1] }), &[("policies", &llama), ("policies", &llama)]),
            "`weights` has 1 values for 2 policies"
        );
        assert_eq!(complaint(json!({ "method": "linear", "t": 0.5 }), one), "t: `linear` has no `t`");
        assert_eq!(
            complaint(json!({ "method": "ties", "weights": [-1] }), one),
            "weights: a weight of `ties` must be a number of at least zero"
        );
    }
}
