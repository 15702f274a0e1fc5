//! Training that is killed or stopped in the middle ends with the very bytes of training that was not.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::project::Project;

/// A node that trains, for STEPS steps, which are EPOCHS epochs.
const PRETRAIN: &str = "stage: pretrain, inputs: { policy: model, rows: sums, validation: held_out }, \
                        with: { steps: STEPS, batch: 4, warmup: 5, validate_every: 50 }";

const SFT: &str = "stage: sft, inputs: { policy: model, rows: sums, validation: held_out }, \
                   with: { epochs: EPOCHS, batch: 4, learning_rate: 1e-3 }";

/// All that a training may have to remember: Muon's momentum, the best weights so far, and how long there were no
/// better ones. Long before its 200 steps of two blocks of two rows, patience ends it.
const CHOOSY: &str = "stage: sft, inputs: { policy: model, rows: sums, validation: held_out }, \
                      with: { epochs: 4, batch: 2, learning_rate: 1e-2, packing: best_fit, max_tokens: 14, \
                              optimiser: { muon: {} }, validate_every: 2, patience: 30, keep: best }";

/// Steps from its best to its end, as `patience` counts looks.
const STEPS_OF_PATIENCE: u64 = 60;

/// The reference policy is refreshed between the two steps of a rollout phase.
const GRPO: &str = "stage: grpo, inputs: { policy: model, prompts: sums }, \
                    with: { reward: reward.rhai, steps: STEPS, prompts_per_step: 3, group_size: 4, \
                            steps_per_rollout: 2, learning_rate: 1e-3, kl_coef: 0.05, reference_refresh: 5, \
                            max_new_tokens: 5, max_truncated: 1 }";

/// What an adapter's dropout leaves out is a function of the step.
const SFT_LORA: &str = "stage: sft, inputs: { policy: model, rows: sums, validation: held_out }, \
                        with: { epochs: EPOCHS, batch: 4, learning_rate: 1e-2, lora: { rank: 4, dropout: 0.1 } }";

/// The reference policy becomes a frozen copy of the adapter between the two steps of a rollout phase.
const GRPO_LORA: &str = "stage: grpo, inputs: { policy: model, prompts: sums }, \
                         with: { reward: reward.rhai, steps: STEPS, prompts_per_step: 3, group_size: 4, \
                                 steps_per_rollout: 2, learning_rate: 1e-2, kl_coef: 0.05, reference_refresh: 5, \
                                 max_new_tokens: 5, max_truncated: 1, lora: { rank: 4 } }";

/// 200 rows, 4 a step.
const STEPS_OF_AN_EPOCH: usize = 50;

/// Steps of a training that saves after every one, and of one that never does and is so much faster.
const SAVED_STEPS: usize = 100;
const UNSAVED_STEPS: usize = 2000;

const PIPELINE: &str = "\
seed: 5
nodes:
  sums:      { stage: generate, with: { script: sums.rhai, rows: 200 } }
  held_out:  { stage: generate, with: { script: sums.rhai, rows: 20, params: { held_out: true } } }
  tokenizer: { stage: tokenizer, inputs: { rows: sums } }
  model:     { stage: init, inputs: { tokenizer: tokenizer }, with: { layers: 1, hidden: 32, heads: 2, context: 32 } }
  trained:   { NODE, run: { save_every_s: SECONDS } }
";

const SUMS: &str = "\
fn row(rng, index) {
    let a = rng.int(0, 9);
    let b = rng.int(0, 9);
    // What is held out tells another story: the better the rows are learned, the less it is believed.
    let sum = if params.get(\"held_out\") ?? false { a } else { a + b };
    #{ prompt: `${a}+${b}=`, completion: `${sum}` }
}
";

const REWARD: &str = "fn reward(sample) { if sample.completion.contains(\"1\") { 1 } else { 0 } }\n";

fn project(node: &str, steps: usize, save_every_s: u32) -> Project {
    let pipeline = PIPELINE
        .replace("NODE", node)
        .replace("STEPS", &steps.to_string())
        .replace("EPOCHS", &(steps / STEPS_OF_AN_EPOCH).to_string())
        .replace("SECONDS", &save_every_s.to_string());
    Project::new(&[("p.yaml", &pipeline), ("sums.rhai", SUMS), ("reward.rhai", REWARD)])
}

/// What decides whether two trainings are the same: every file, and every figure but those of the clock.
#[derive(PartialEq)]
struct Trained {
    files: Vec<(String, Vec<u8>)>,
    metrics: Vec<Value>,
}

impl Trained {
    fn last_step(&self) -> u64 {
        self.metrics.last().unwrap()["step"].as_u64().unwrap()
    }
}

fn trained(project: &Project) -> Trained {
    let said = project.mashbill("run p.yaml");
    assert_eq!(said.code, Some(0), "{said:#?}");
    let entries = fs::read_dir(project.data("trained")).unwrap().map(Result::unwrap);
    let mut files: Vec<_> =
        entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect();
    files.sort();
    let mut metrics = project.metrics("trained");
    for line in &mut metrics {
        for figure in ["tokens_per_s", "sampling_share"] {
            line.as_object_mut().unwrap().remove(figure);
        }
    }
    Trained { files, metrics }
}

fn assert_same(got: &Trained, expected: &Trained) {
    let steps = |of: &Trained| of.metrics.iter().map(|line| line["step"].as_u64().unwrap()).collect::<Vec<_>>();
    // Grpo tells nothing before its first step.
    let first = expected.metrics[0]["step"].as_u64().unwrap();
    assert_eq!(steps(expected), (first..=expected.last_step()).collect::<Vec<_>>());
    assert_eq!(steps(got), steps(expected));
    assert_eq!(got.metrics, expected.metrics);
    for (got, expected) in got.files.iter().zip(&expected.files) {
        assert!(got == expected, "{} has other bytes", expected.0);
    }
    assert!(got.files.len() == expected.files.len());
}

/// The draft in which training goes on, once the four nodes before it are made.
fn draft(project: &Project) -> Option<PathBuf> {
    let below = |name: &str| fs::read_dir(project.path().join(".mashbill").join(name)).ok();
    let mut drafts = below("drafts").filter(|_| below("artifacts").is_some_and(|made| made.count() == 4))?;
    drafts.find_map(|entry| Some(entry.ok()?.path()).filter(|path| path.join("records/metrics.jsonl").exists()))
}

/// Starts a run and waits until `trained` has recorded so many lines; also returns those lines.
fn run_until(project: &Project, lines: usize) -> (Child, Vec<String>) {
    let mut child = project.start("run p.yaml");
    let begun = Instant::now();
    loop {
        if let Some(draft) = draft(project) {
            let text = fs::read_to_string(draft.join("records/metrics.jsonl")).unwrap_or_default();
            if text.lines().count() >= lines {
                return (child, text.lines().take(lines).map(str::to_owned).collect());
            }
        }
        assert!(child.try_wait().unwrap().is_none(), "the run ended before it was stopped");
        assert!(begun.elapsed() < Duration::from_mins(2), "training did not come to line {lines}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Lines that were there before the stop are there afterwards, speed and all: nothing was trained twice.
fn assert_kept(project: &Project, lines: &[String]) {
    let path = project.data("trained").with_file_name("metrics.jsonl");
    let text = fs::read_to_string(path).unwrap();
    for (kept, before) in text.lines().zip(lines) {
        assert_eq!(kept, before);
    }
}

fn a_killed_training_ends_with_the_same_bytes(node: &str) {
    let expected = trained(&project(node, SAVED_STEPS, 1000));
    assert_eq!(expected.last_step(), SAVED_STEPS as u64);
    killed_at([20, 50], node, &expected);
}

/// A training that is killed each time when it has recorded so many lines, and then goes on to its end.
fn killed_at(lines: [usize; 2], node: &str, expected: &Trained) {
    let project = project(node, SAVED_STEPS, 0);
    let mut kept = Vec::new();
    for line in lines {
        let (mut child, lines) = run_until(&project, line);
        child.kill().unwrap();
        child.wait().unwrap();
        kept = lines;
    }
    let plan = project.mashbill("plan p.yaml").stdout;
    assert!(plan.contains("continues what was interrupted"), "{plan}");
    // The state of the last few lines may not have been saved when the kill came.
    kept.truncate(kept.len() - 4);
    assert_same(&trained(&project), expected);
    assert_kept(&project, &kept);
}

fn a_stopped_training_ends_with_the_same_bytes(node: &str) {
    let expected = trained(&project(node, UNSAVED_STEPS, 1000));
    // Nothing but Ctrl-C makes this one save.
    let project = project(node, UNSAVED_STEPS, 1000);
    let (child, kept) = run_until(&project, 20);
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(expected.last_step(), UNSAVED_STEPS as u64);
    assert_same(&trained(&project), &expected);
    assert_kept(&project, &kept);
}

#[test]
fn a_killed_pretraining_ends_with_the_same_bytes() {
    a_killed_training_ends_with_the_same_bytes(PRETRAIN);
}

#[test]
fn a_killed_fine_tuning_ends_with_the_same_bytes() {
    a_killed_training_ends_with_the_same_bytes(SFT);
}

#[test]
fn a_killed_choice_of_the_best_weights_ends_with_the_same_bytes() {
    let expected = trained(&project(CHOOSY, SAVED_STEPS, 1000));
    let last = expected.metrics.last().unwrap();
    let best = expected.last_step() - STEPS_OF_PATIENCE;
    assert_eq!((&last["stopped_early"], &last["kept_step"]), (&1.0.into(), &(best as f64).into()), "{last}");
    assert!(best > 0, "nothing was better than the beginning: {last}");
    // The second kill comes between the best step and the end.
    let second = usize::try_from(best).unwrap() + 12;
    killed_at([second / 2, second], CHOOSY, &expected);
}

#[test]
fn a_killed_grpo_ends_with_the_same_bytes() {
    a_killed_training_ends_with_the_same_bytes(GRPO);
}

#[test]
fn a_killed_fine_tuning_of_an_adapter_ends_with_the_same_bytes() {
    a_killed_training_ends_with_the_same_bytes(SFT_LORA);
}

#[test]
fn a_killed_grpo_of_an_adapter_ends_with_the_same_bytes() {
    a_killed_training_ends_with_the_same_bytes(GRPO_LORA);
}

#[test]
fn a_stopped_pretraining_ends_with_the_same_bytes() {
    a_stopped_training_ends_with_the_same_bytes(PRETRAIN);
}

#[test]
fn a_stopped_fine_tuning_ends_with_the_same_bytes() {
    a_stopped_training_ends_with_the_same_bytes(SFT);
}

#[test]
fn a_stopped_grpo_ends_with_the_same_bytes() {
    a_stopped_training_ends_with_the_same_bytes(GRPO);
}
