//! An adapter through a whole pipeline: made by `sft`, gone on with by `grpo`, examined, merged and exported.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;

use crate::project::{Project, workspace};

/// The policy of the fixture knows nothing: its answers are drawn out of 64 characters.
const PIPELINE: &str = "\
seed: 5
nodes:
  model:    { stage: import, with: { path: FIXTURES/llama } }
  rows:     { stage: generate, with: { script: sums.rhai, rows: 200 } }
  held_out: { stage: generate, with: { script: sums.rhai, rows: 40, params: { held_out: true } } }
  tuned:
    stage: sft
    inputs: { policy: model, rows: rows, validation: held_out }
    with: { epochs: 4, batch: 8, learning_rate: 1e-2, lora: { rank: 4, targets: [q_proj, v_proj, down_proj] } }
  rl:
    stage: grpo
    inputs: { policy: tuned, prompts: rows }
    with:
      reward: reward.rhai
      steps: 3
      prompts_per_step: 4
      group_size: 4
      steps_per_rollout: 1
      learning_rate: 1e-2
      kl_coef: 0.01
      max_new_tokens: 20
      max_truncated: 1
  merged:        { stage: merge_adapter, inputs: { policy: rl } }
  exported:      { stage: export, inputs: { policy: merged }, with: { dtype: bf16 } }
  rl_scores:     { stage: logprobs, inputs: { policy: rl, rows: held_out } }
  merged_scores: { stage: logprobs, inputs: { policy: merged, rows: held_out } }
  tuned_scores:  { stage: logprobs, inputs: { policy: tuned, rows: held_out } }
  report:
    stage: evaluate
    inputs: { policies: [model, tuned, rl, merged], prompts: held_out }
    with: { score: score.rhai, sampling: { temperature: 0, max_new_tokens: 20 } }
";

const SUMS: &str = "\
fn row(rng, index) {
    let a = rng.int(0, 9);
    let b = rng.int(0, 9);
    #{ prompt: `${a}+${b}=`, completion: `<answer>${a + b}</answer>` }
}
";

const REWARD: &str = "fn reward(sample) { if sample.completion.contains(\"1\") { 1 } else { 0 } }\n";
const SCORE: &str = "fn score(sample) { #{ form: if sample.completion.contains(\"answer\") { 1 } else { 0 } } }\n";

fn project(pipeline: &str) -> Project {
    let fixtures = workspace().join("tests/fixtures").display().to_string();
    let pipeline = pipeline.replace("FIXTURES", &fixtures);
    Project::new(&[("p.yaml", &pipeline), ("sums.rhai", SUMS), ("reward.rhai", REWARD), ("score.rhai", SCORE)])
}

fn names(folder: &Path) -> BTreeSet<String> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn logprobs(project: &Project, node: &str) -> Vec<f64> {
    let text = fs::read_to_string(project.data(node).join("rows.jsonl")).unwrap();
    let row = |line: &str| -> Vec<f64> {
        let row: Value = serde_json::from_str(line).unwrap();
        row["logprobs"].as_array().unwrap().iter().map(|one| one.as_f64().unwrap()).collect()
    };
    text.lines().flat_map(row).collect()
}

fn largest_difference(one: &[f64], other: &[f64]) -> f64 {
    assert_eq!(one.len(), other.len());
    one.iter().zip(other).map(|(one, other)| (one - other).abs()).fold(0.0, f64::max)
}

#[test]
fn an_adapter_goes_from_sft_through_grpo_into_a_model_that_anyone_loads() {
    let project = project(PIPELINE);
    let said = project.mashbill("run p.yaml");
    assert_eq!(said.code, Some(0), "{said:#?}");

    // It learned, on what it had not seen.
    let metrics = project.metrics("tuned");
    let held_out: Vec<f64> = metrics.iter().filter_map(|line| line["validation_loss"].as_f64()).collect();
    let [before, after] = held_out[..] else { panic!("looked at before and after: {held_out:?}") };
    assert!(after < before - 2.0, "the validation loss went from {before} to {after}");

    // Beside the model's files, which are the very same.
    let [model, tuned, rl, merged] = ["model", "tuned", "rl", "merged"].map(|node| project.data(node));
    let adapter = ["adapter_config.json", "adapter_model.safetensors"].map(str::to_owned);
    for policy in [&tuned, &rl] {
        assert_eq!(names(policy), names(&model).union(&adapter.clone().into()).cloned().collect());
        for name in names(&model) {
            assert!(fs::read(policy.join(&name)).unwrap() == fs::read(model.join(&name)).unwrap(), "{name}");
        }
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            let file = |folder: &Path| fs::metadata(folder.join("model.safetensors")).unwrap().ino();
            assert_eq!(file(policy), file(&model), "the model is on the disk once");
        }
    }
    let weights = |folder: &Path| fs::read(folder.join(&adapter[1])).unwrap();
    assert!(weights(&tuned) != weights(&rl), "grpo goes on with the adapter");
    let config = |folder: &Path| fs::read_to_string(folder.join(&adapter[0])).unwrap();
    assert_eq!(config(&tuned), config(&rl));

    // The policy is its own reference before the first step: the adapter that it came with is part of that.
    let metrics = project.metrics("rl");
    assert_eq!((metrics.len(), metrics[0]["kl"].as_f64()), (3, Some(0.0)));

    // Merged, it says the same.
    assert_eq!(names(&merged), names(&model));
    assert_eq!(names(&project.data("exported")), names(&model));
    let [rl, merged, tuned] = ["rl_scores", "merged_scores", "tuned_scores"].map(|node| logprobs(&project, node));
    let difference = largest_difference(&rl, &merged);
    assert!(difference < 1e-4, "merging moved a log-probability by {difference:e}");
    assert!(largest_difference(&rl, &tuned) > 1e-3, "grpo moved nothing");
    let report: Value =
        serde_json::from_str(&fs::read_to_string(project.data("report").join("report.json")).unwrap()).unwrap();
    let card = fs::read_to_string(project.data("report").join("report.md")).unwrap();
    for policy in ["model", "tuned", "rl", "merged"] {
        assert!(card.contains(policy), "no {policy} in\n{card}\n{report}");
    }
}

const SFT: &str = "\
nodes:
  model: { stage: import, with: { path: FIXTURES/llama, adapter: FIXTURES/lora/all } }
  rows:  { stage: generate, with: { script: sums.rhai, rows: 16 } }
  base:  { stage: import, with: { path: FIXTURES/llama } }
  gpt2:  { stage: import, with: { path: FIXTURES/gpt2 } }
";

#[test]
fn what_cannot_be_meant_of_an_adapter_is_refused_with_the_mend() {
    for (node, expected) in [
        (
            "{ stage: sft, inputs: { policy: model, rows: rows }, with: { lora: { rank: 4, alpha: 16 } } }",
            "the policy carries an adapter of rank 4, alpha 8, targets q_proj k_proj v_proj o_proj gate_proj up_proj \
             down_proj, and `lora` asks for rank 4, alpha 16, targets q_proj k_proj v_proj o_proj gate_proj up_proj \
             down_proj: leave `lora` out or make it the same to go on with that adapter, or put a `merge_adapter` node \
             before this one to begin another",
        ),
        (
            "{ stage: merge_adapter, inputs: { policy: base } }",
            "the policy carries no adapter: there is nothing to merge; `adapter` names the folder of one from elsewhere",
        ),
        (
            "{ stage: merge_adapter, inputs: { policy: model }, with: { adapter: FIXTURES/lora/rslora } }",
            "the policy carries an adapter of rank 4, alpha 8,",
        ),
        ("{ stage: sft, inputs: { policy: gpt2, rows: rows }, with: { lora: {} } }", "a `gpt2` model takes no adapter"),
    ] {
        let said = project(&format!("{SFT}  made: {node}\n")).mashbill("run p.yaml");
        assert_eq!(said.code, Some(1), "{said:#?}");
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let told = words(&format!("{}\n{}", said.stdout, said.stderr));
        assert!(told.contains(expected), "no\n{expected}\nin\n{told}");
    }
    for (node, expected) in [
        (
            "{ stage: sft, inputs: { policy: base, rows: rows }, with: { lora: { targets: [] } } }",
            "an adapter of no matrix learns nothing",
        ),
        (
            "{ stage: grpo, inputs: { policy: base, prompts: rows }, with: { reward: reward.rhai, lora: { dropout: 0.1 } } }",
            "`grpo` takes no dropout",
        ),
        (
            "{ stage: distill, inputs: { teacher: base, student: base, prompts: rows }, \
               with: { teach: { keep: reward.rhai }, learn: { lora: { targets: [] } } } }",
            "an adapter of no matrix learns nothing",
        ),
        (
            "{ stage: sft, inputs: { policy: base, rows: rows }, with: { lora: { targets: [qproj] } } }",
            "did you mean `q_proj`?",
        ),
        (
            "{ stage: sft, inputs: { policy: base, rows: rows }, with: { lora: { r: 8 } } }",
            "`lora.r` is `lora.rank` here",
        ),
    ] {
        let said = project(&format!("{SFT}  made: {node}\n")).mashbill("check p.yaml");
        assert_eq!(said.code, Some(2), "{said:#?}");
        assert!(said.stderr.contains(expected), "no\n{expected}\nin\n{}", said.stderr);
    }
}

/// No step leaves the policy as it was; so does distillation's own `learn`, whose adapter is the same block.
#[test]
fn an_adapter_of_no_steps_changes_nothing_and_a_student_learns_one() {
    let project = project(
        "\
nodes:
  model:      { stage: import, with: { path: FIXTURES/llama } }
  rows:       { stage: generate, with: { script: sums.rhai, rows: 24 } }
  idle:       { stage: sft, inputs: { policy: model, rows: rows }, with: { epochs: 0, lora: {} } }
  student:
    stage: distill
    inputs: { teacher: model, student: idle, prompts: rows }
    with: { teach: { samples: 1, keep: keep.rhai, sampling: { max_new_tokens: 8 } }, learn: { batch: 8, learning_rate: 1e-2 } }
  base_scores:    { stage: logprobs, inputs: { policy: model, rows: rows } }
  idle_scores:    { stage: logprobs, inputs: { policy: idle, rows: rows } }
  student_scores: { stage: logprobs, inputs: { policy: student, rows: rows } }
",
    );
    project.write("keep.rhai", "fn keep(sample) { sample.tokens > 0 }\n");
    let said = project.mashbill("run p.yaml");
    assert_eq!(said.code, Some(0), "{said:#?}");
    let [base, idle, student] = ["base_scores", "idle_scores", "student_scores"].map(|node| logprobs(&project, node));
    assert_eq!(base, idle);
    assert!(largest_difference(&base, &student) > 1e-3);
    assert!(project.data("student").join("adapter_model.safetensors").exists());
}
