//! What stops a run that would teach nothing or the wrong thing, and what a preset stands for.

use std::path::Path;

use serde_json::json;

use super::*;
use crate::{
    bench::{Bench, devices, prompts, toy_checkpoint},
    nn::{recompute::Activations, shape::Shape},
    text::train::{self, Special},
};

const FAIR: &str = "fn reward(sample) { if sample.completion.len() % 2 == 0 { 1.0 } else { 0.0 } }";

struct Toy {
    bench: Bench,
    policy: PathBuf,
    prompts: PathBuf,
}

impl Toy {
    fn new(reward: &str) -> Self {
        let bench = Bench::new();
        bench.file("reward.rhai", reward);
        let policy = bench.path("policy");
        toy_checkpoint(&policy);
        let prompts = bench.rows("prompts", &prompts((0..6).map(|i| format!("{i}+1="))));
        Self { bench, policy, prompts }
    }

    fn with(changes: Value) -> Value {
        let mut with = json!({
            "reward": "reward.rhai", "steps": 2, "prompts_per_step": 3, "group_size": 4, "steps_per_rollout": 2,
            "learning_rate": 1e-3, "max_new_tokens": 8, "max_truncated": 1.0,
        });
        with.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        with
    }

    fn run(&self, changes: Value) -> Result<PathBuf> {
        self.run_under(&Compute::default(), changes)
    }

    fn run_under(&self, compute: &Compute, changes: Value) -> Result<PathBuf> {
        let inputs: [(&str, &Path); 2] = [("policy", &self.policy), ("prompts", &self.prompts)];
        self.bench.run_by::<Grpo>(compute, Self::with(changes), &inputs)
    }

    fn complaint(&self, changes: Value) -> String {
        self.bench.message(&self.run(changes).expect_err("the stage was meant to fail"))
    }

    /// What stays with the result as warnings.
    fn warnings(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.bench.path("records/warnings.jsonl")).unwrap_or_default();
        let line = |line| serde_json::from_str::<Value>(line).unwrap()["text"].as_str().unwrap().to_owned();
        text.lines().map(line).collect()
    }

    fn metrics(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.bench.path("records/metrics.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

#[test]
fn the_default_is_the_paper() {
    let mut stage: Grpo = serde_json::from_value(json!({ "reward": "r.rhai" })).unwrap();
    stage.resolve();
    let facts = serde_json::to_value(&stage).unwrap();
    for (name, value) in [
        ("prompts_per_step", json!(32)),
        ("group_size", json!(16)),
        ("steps_per_rollout", json!(16)),
        ("reference_refresh", json!(400)),
        ("clip_high", json!(10.0)),
        ("temperature", json!(1.0)),
        ("max_new_tokens", json!(32_768)),
    ] {
        assert_eq!(facts[name], value, "{name}");
    }
    let mut last: Grpo =
        serde_json::from_value(json!({ "reward": "r.rhai", "preset": "r1_final", "steps": 5 })).unwrap();
    last.resolve();
    assert_eq!((last.steps, last.temperature), (Some(5), Some(0.7)));
}

#[test]
fn a_run_moves_the_policy_and_tells_every_figure() {
    let toy = Toy::new(FAIR);
    let trained = Checkpoint::open(&toy.run(json!({ "kl_coef": 0.01, "reference_refresh": 1 })).unwrap()).unwrap();
    assert_ne!(trained.weights, Checkpoint::open(&toy.policy).unwrap().weights);
    let metrics = toy.metrics();
    assert_eq!(metrics.len(), 2);
    for figure in [
        "reward",
        "length",
        "truncated",
        "dead_groups",
        "loss",
        "kl",
        "clip_fraction",
        "entropy",
        "gradient_norm",
        "learning_rate",
        "tokens_per_s",
        "logprob_difference",
    ] {
        assert!(metrics[0][figure].is_f64(), "no {figure} in {}", metrics[0]);
    }
    // The policy is its own reference before the first step, and no longer after it.
    assert_eq!(metrics[0]["kl"], json!(0.0));
    // Nearly uniform over 18 tokens, or whatever the vocabulary holds: no more than its logarithm.
    assert!(metrics[0]["entropy"].as_f64().unwrap() > 2.0);
}

#[test]
fn a_run_samples_and_learns_on_every_device_in_f32_and_in_bf16() {
    for (precision, apart) in [(Precision::F32, 1e-4), (Precision::Bf16, 0.05)] {
        for compute in devices(precision) {
            for changes in [json!({ "kl_coef": 0.01, "reference_refresh": 1 }), json!({ "lora": { "rank": 2 } })] {
                let toy = Toy::new(FAIR);
                let trained = Checkpoint::open(&toy.run_under(&compute, changes).unwrap()).unwrap();
                let before = Checkpoint::open(&toy.policy).unwrap().weights;
                match trained.adapter {
                    None => assert_ne!(trained.weights, before),
                    Some(_) => assert_eq!(trained.weights, before),
                }
                let difference = toy.metrics()[0]["logprob_difference"].as_f64().unwrap();
                assert!(difference < apart, "{}, {precision:?}: {difference}", compute.device);
            }
        }
    }
}

#[test]
fn a_policy_that_cannot_end_a_completion_is_warned_of() {
    let toy = Toy::new(FAIR);
    // As `toy_checkpoint`, with a tokenizer that has no end.
    let special = Special { pad: Some("<pad>".into()), eos: None, whole: Vec::new() };
    let tokenizer = train::characters(&["0123456789+=".into()], &special).unwrap();
    let mut shape = Shape { layers: 1, hidden: 16, heads: 2, context: 64, ..Shape::default() };
    shape.resolve();
    let config = shape.config(tokenizer.vocab_size()).unwrap();
    let weights = weights::init(&config, 3, 0.06);
    std::fs::remove_dir_all(&toy.policy).unwrap();
    std::fs::create_dir_all(&toy.policy).unwrap();
    Checkpoint { config, weights, tokenizer, adapter: None }.save(&toy.policy).unwrap();
    toy.run(json!({})).unwrap();
    assert_eq!(
        toy.warnings()[0],
        "the tokenizer has no end-of-sequence token and `stop` is empty: every completion runs to `max_new_tokens`"
    );
    let ended = Toy { bench: Bench::new(), policy: toy.policy.clone(), prompts: toy.prompts.clone() };
    ended.bench.file("reward.rhai", FAIR);
    ended.run(json!({ "stop": ["1"] })).unwrap();
    assert!(!ended.warnings().iter().any(|warning| warning.contains("end-of-sequence")), "{:?}", ended.warnings());
}

#[test]
fn prompts_without_room_stop_the_run_or_are_left_out() {
    let toy = Toy::new(FAIR);
    let long = "1".repeat(60);
    let prompts = toy.bench.rows("prompts", &prompts(["1+1=".into(), long, "2+2=".into(), "3+3=".into()]));
    let toy = Toy { prompts, ..toy };
    let complaint = toy.complaint(json!({}));
    assert!(
        complaint.starts_with(
            "prompt 2 with its completion has 68 tokens, more than the model's context of 64: its own 60 and \
             `max_new_tokens: 8`; 1 of 4 prompts are too long\nprompt: 1111"
        ),
        "{complaint}"
    );
    assert!(complaint.contains("hint: `too_long: drop` leaves such prompts out"), "{complaint}");
    toy.run(json!({ "too_long": "drop" })).unwrap();
    assert_eq!(toy.metrics()[0], json!({ "step": 0, "dropped_too_long": 1.0 }));
}

#[test]
fn the_default_of_too_long_is_no_fact() {
    for text in [r#"{ "reward": "r.rhai" }"#, r#"{ "reward": "r.rhai", "too_long": "error" }"#] {
        let stage: Grpo = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_value(&stage).unwrap().get("too_long"), None);
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let weights = |toy: &Toy| std::fs::read(toy.run(json!({})).unwrap().join("model.safetensors")).unwrap();
    assert_eq!(weights(&Toy::new(FAIR)), weights(&Toy::new(FAIR)));
}

#[test]
fn zero_steps_leave_the_policy_as_it_was() {
    let toy = Toy::new(FAIR);
    let output = toy.run(json!({ "steps": 0 })).unwrap();
    assert_eq!(Checkpoint::open(&output).unwrap().weights, Checkpoint::open(&toy.policy).unwrap().weights);
}

#[test]
fn a_trainer_that_disagrees_with_the_sampler_stops() {
    // At a tolerance of nothing, rounding is a disagreement.
    let complaint = Toy::new(FAIR).complaint(json!({ "logprob_tolerance": 0.0 }));
    assert!(complaint.starts_with("token ") && complaint.contains("of a fresh completion of prompt"), "{complaint}");
    assert!(
        complaint.ends_with(
            "further apart than the 0 that `logprob_tolerance` allows: the rollouts are not the policy's own"
        )
    );
}

#[test]
fn completions_that_are_all_cut_off_stop() {
    let complaint = Toy::new(FAIR).complaint(json!({ "max_truncated": 0.0, "max_new_tokens": 1 }));
    assert!(
        complaint.contains(
            "completions of step 1 were cut off at `max_new_tokens: 1`, a larger share than `max_truncated: 0`"
        ),
        "{complaint}"
    );
    assert!(complaint.contains("\nprompt: ") && complaint.contains("\ncompletion: "), "{complaint}");
}

#[test]
fn a_reward_that_is_no_number_stops_and_shows_the_sample() {
    let complaint = Toy::new("fn reward(sample) { 0.0 / 0.0 }").complaint(json!({}));
    assert!(complaint.contains("reward.rhai:1:"), "{complaint}");
    assert!(complaint.contains("prompt"), "{complaint}");
}

#[test]
fn equal_rewards_leave_the_policy_to_its_kl_term_alone() {
    let toy = Toy::new("fn reward(sample) { 1.0 }");
    let output = toy.run(json!({ "kl_coef": 0.0 })).unwrap();
    assert_eq!(Checkpoint::open(&output).unwrap().weights, Checkpoint::open(&toy.policy).unwrap().weights);
    assert_eq!(toy.metrics()[0]["dead_groups"], json!(1.0));
}

/// With an adapter the reference is the weights that it began beside; refreshed, it is a frozen copy of the adapter.
#[test]
fn an_adapter_learns_against_what_it_began_beside() {
    let toy = Toy::new(FAIR);
    let lora = json!({ "rank": 2, "targets": ["q_proj", "up_proj"] });
    let with = |refresh: u64| {
        json!({ "lora": lora, "steps": 4, "steps_per_rollout": 1, "learning_rate": 1e-2, "kl_coef": 0.01,
                "reference_refresh": refresh })
    };
    let kl = |toy: &Toy| toy.metrics().iter().map(|line| line["kl"].as_f64().unwrap()).collect::<Vec<_>>();
    let trained = Checkpoint::open(&toy.run(with(0)).unwrap()).unwrap();
    let before = Checkpoint::open(&toy.policy).unwrap();
    assert_eq!(trained.weights, before.weights, "the base is frozen");
    let learned = trained.adapter.unwrap();
    assert!(
        learned
            .weights
            .iter()
            .filter(|(name, _)| name.ends_with("lora_B.weight"))
            .all(|(_, weight)| { weight.values.iter().any(|value| *value != 0.0) })
    );
    let [first, second, third, fourth] = kl(&toy)[..] else { panic!("four steps") };
    assert!(first == 0.0 && second > 0.0 && third > second && fourth > second, "{first} {second} {third} {fourth}");

    let refreshed = Toy::new(FAIR);
    refreshed.run(with(2)).unwrap();
    let [first, second, third, fourth] = kl(&refreshed)[..] else { panic!("four steps") };
    assert!(first == 0.0 && second > 0.0 && third == 0.0 && fourth > 0.0, "{first} {second} {third} {fourth}");
}

/// In several passes a step, against a reference, with all weights and with an adapter.
#[test]
fn activations_computed_anew_give_the_same_bytes() {
    let changes = [
        ("model.safetensors", json!({ "kl_coef": 0.01, "steps": 3 })),
        ("adapter_model.safetensors", json!({ "kl_coef": 0.01, "steps": 3, "lora": { "rank": 2 } })),
    ];
    for (file, changes) in changes {
        let bytes = |activations| {
            let toy = Toy::new(FAIR);
            let compute = Compute { activations, micro_batch_tokens: 40, ..Compute::default() };
            let inputs = [("policy", toy.policy.as_path()), ("prompts", &toy.prompts)];
            let output = toy.bench.run_by::<Grpo>(&compute, Toy::with(changes.clone()), &inputs).unwrap();
            std::fs::read(output.join(file)).unwrap()
        };
        let kept = bytes(Activations::Keep);
        assert!(kept == bytes(Activations::Recompute), "{file} differs");
        let before = Toy::new(FAIR);
        assert!(std::fs::read(before.policy.join(file)).ok() != Some(kept), "{file} has not moved");
    }
}
