//! What is said of a run that ends and did not do what it was for, and how long it is remembered.

use crate::project::{Project, Said};

const PIPELINE: &str = "\
name: tiny
seed: 3
nodes:
  text:      { stage: generate, with: { script: plugins/tasks/reasoning.rhai, rows: 100, params: { form: text } } }
  problems:  { stage: generate, with: { script: plugins/tasks/reasoning.rhai, rows: 40, unique: prompt } }
  tokenizer: { stage: tokenizer, inputs: { rows: text } }
  model:
    { stage: init, inputs: { tokenizer: tokenizer }, with: { layers: 1, hidden: 32, heads: 2, context: 128 } }
  base: { stage: pretrain, inputs: { policy: model, rows: text }, with: { steps: 30, batch: 8, learning_rate: 1e-2 } }
  rl:
    stage: grpo
    inputs: { policy: base, prompts: problems }
    with:
      reward: reward.rhai
      steps: 6
      prompts_per_step: 4
      group_size: 4
      steps_per_rollout: 1
      learning_rate: 1e-3
      max_new_tokens: 12
      max_truncated: 1
";

fn project(reward: &str, overrides: &[&str]) -> Project {
    let mut project = Project::of_pipeline("r1_tiny.yaml");
    project.write("p.yaml", PIPELINE);
    project.write("reward.rhai", reward);
    project.overrides.extend(overrides.iter().map(|value| format!("nodes.rl.with.{value}")));
    project
}

/// Short answers are better, and those of an even length best.
const WHOLE: &str = "\
fn reward(sample) {
    #{ brevity: -sample.tokens / 1000, even: if sample.tokens % 2 == 0 { 1.0 } else { 0.0 } }
}
";

/// Nothing but an answer of one token has a reward.
const ONE: &str = "fn reward(sample) { if sample.tokens == 1 { 1.0 } else { 0.0 } }\n";

fn run(project: &Project) -> Said {
    let said = project.mashbill("run p.yaml");
    assert_eq!(said.code, Some(0), "{said:#?}");
    said
}

/// The warnings behind the table.
fn warnings(said: &Said) -> Vec<&str> {
    said.stdout.lines().filter_map(|line| line.strip_prefix("warning: ")).collect()
}

#[test]
fn a_reward_part_of_a_whole_quotient_is_named_now_and_whenever_the_result_is_reused() {
    let project = project(WHOLE, &[]);
    let part = "rl: the reward's part `brevity` was 0 in all 96 rollouts, so it teaches nothing; reward.rhai:2 divides by a \
                whole number, and the quotient of two whole numbers is one: 7 / 1000 is 0, 7 / 1000.0 is 0.007";
    let made = run(&project);
    assert!(warnings(&made).contains(&part), "{made:#?}");
    assert!(made.stderr.contains(&format!("warning: {part}\n")), "{}", made.stderr);
    let row = made.stdout.lines().find(|line| line.starts_with("rl ")).unwrap();
    assert!(row.contains("  reward ") && row.contains(", reward/brevity 0, reward/even "), "{row}");

    let reused = run(&project);
    assert!(reused.outcomes().ends_with("rl reused"), "{reused:#?}");
    assert_eq!(warnings(&reused), warnings(&made));
    let (_, text) = part.split_once(": ").unwrap();
    let shown = project.mashbill("show p.yaml rl").stdout;
    assert!(shown.contains(&format!("\nwarnings\n  {text}\n")), "{shown}");
    let recorded = project.mashbill("runs last").stdout;
    assert!(recorded.contains(&format!("warning: {part}\n")), "{recorded}");
    let recorded: serde_json::Value = serde_json::from_str(&project.mashbill("runs 1 --json").stdout).unwrap();
    assert!(recorded["nodes"].to_string().contains("`brevity` was 0"), "{recorded}");

    project.write("reward.rhai", &WHOLE.replace("1000", "1000.0"));
    let mended = run(&project);
    assert!(!warnings(&mended).iter().any(|warning| warning.contains("brevity")), "{mended:#?}");
}

#[test]
fn a_policy_that_collapsed_is_told_in_spans_of_steps_with_what_it_says() {
    let said = run(&project(ONE, &["steps=40", "learning_rate=1e-2"]));
    let has = |words: &[&str]| warnings(&said).iter().any(|warning| words.iter().all(|word| warning.contains(word)));
    assert!(
        has(&[
            "-40: every group of equal reward (1 every time), so no gradient but that of the KL term: answers of one token"
        ]),
        "{said:#?}"
    );
    assert!(has(&["-40: ", " % of all tokens sampled were `<eos>`: the policy collapsed"]), "{said:#?}");
    assert!(has(&["-40: a KL divergence from the reference policy of up to "]), "{said:#?}");
    // As it began, long before the end.
    let first = said.stderr.lines().position(|line| line.contains("the policy collapsed")).unwrap();
    let last = said.stderr.lines().position(|line| line.starts_with("rl made")).unwrap();
    assert!(first < last - 3, "{}", said.stderr);
}

#[test]
fn a_learning_rate_that_made_the_policy_uniform_is_told() {
    let said = run(&project(WHOLE, &["learning_rate=1000", "kl_coef=0"]));
    let uniform = "-6: an entropy up to 3.00 nats a token, where all 20 tokens drawn evenly have 3.00";
    assert!(warnings(&said).iter().any(|warning| warning.contains(uniform)), "{said:#?}");
    // A second step on the same rollouts has ratios beyond what f32 holds.
    let said = project(WHOLE, &["learning_rate=1000", "steps_per_rollout=2"]).mashbill("run p.yaml");
    assert_eq!(said.code, Some(1), "{said:#?}");
    assert!(said.stderr.contains("a lower `learning_rate` is the usual mend"), "{}", said.stderr);
}

#[test]
fn a_training_without_steps_says_that_it_did_nothing() {
    let said = run(&project(ONE, &["steps=0"]));
    assert_eq!(warnings(&said), ["rl: `steps` is 0: the policy comes out as it came in"]);
    let mut project = project(ONE, &["steps=0"]);
    project.overrides.push("nodes.base.with.steps=0".into());
    let said = run(&project);
    let base = "base: there is no step to take: the policy comes out as it came in";
    assert!(warnings(&said).contains(&base), "{said:#?}");
}

#[test]
fn an_examination_of_answers_that_were_cut_off_says_so() {
    let project = project(ONE, &[]);
    project.write(
        "p.yaml",
        &format!(
            "{}  report:\n    stage: evaluate\n    inputs: {{ policies: [model, base], prompts: problems }}\n    \
             with: {{ score: score.rhai, sampling: {{ max_new_tokens: 1, logit_bias: {{ \"1\": -100 }} }} }}\n",
            PIPELINE.split("  rl:\n").next().unwrap()
        ),
    );
    project.write("score.rhai", "fn score(sample) { #{ right: 0.0 } }\n");
    let said = run(&project);
    let card = std::fs::read_to_string(project.data("report").join("report.md")).unwrap();
    for policy in ["model", "base"] {
        let told = format!("report: `{policy}`: 100 % of 40 completions were cut off at `max_new_tokens: 1`");
        assert!(warnings(&said).contains(&told.as_str()), "{said:#?}\n{card}");
    }
    assert_eq!(warnings(&run(&project)), warnings(&said));
}

#[test]
fn a_pretraining_that_unlearned_everything_says_so() {
    let mut project = project(ONE, &["steps=0"]);
    project.overrides.extend(["nodes.base.with.learning_rate=10".into(), "nodes.base.with.warmup=0".into()]);
    let said = run(&project);
    let is_told = |warning: &&str| warning.starts_with("base: the loss of the last step is ");
    assert!(warnings(&said).iter().any(is_told), "{said:#?}");
    project.overrides.extend(["nodes.base.with.learning_rate=100".into(), "nodes.base.with.steps=5".into()]);
    let said = run(&project);
    assert!(
        warnings(&said).contains(&"base: the gradient of the last step is 0: the policy learns no more"),
        "{said:#?}"
    );
}

#[test]
fn prompts_without_room_are_shown_or_asked_of_no_policy() {
    let project = project(ONE, &[]);
    let prompts = [3, 30, 100].map(|i| format!("{{\"prompt\": \"{}\"}}\n", "1".repeat(i)));
    project.write("prompts.jsonl", &prompts.concat());
    project.write(
        "p.yaml",
        &format!(
            "{}  small: {{ stage: init, inputs: {{ tokenizer: tokenizer }}, with: {{ layers: 1, hidden: 32, heads: 2, context: \
             32 }} }}\n  prompts: {{ stage: load, with: {{ path: prompts.jsonl }} }}\n  report:\n    stage: evaluate\n    \
             inputs: {{ policies: [model, small], prompts: prompts }}\n    \
             with: {{ score: score.rhai, too_long: error, sampling: {{ max_new_tokens: 8 }} }}\n",
            PIPELINE.split("  base:").next().unwrap()
        ),
    );
    project.write("score.rhai", "fn score(sample) { #{ right: 0.0 } }\n");
    let said = project.mashbill("run p.yaml");
    assert_eq!(said.code, Some(1), "{said:#?}");
    for part in [
        "prompt 2 with its completion has 38 tokens, more than the model's context of 32: its own 30 and `max_new_tokens: 8`; 2 of 3",
        "\n  hint: `too_long: drop` leaves such prompts out; a smaller `max_new_tokens` makes room: the shortest of all prompts \
         leaves room for 29\n",
    ] {
        assert!(said.stderr.contains(part), "{}", said.stderr);
    }
    project.edit("p.yaml", "too_long: error", "too_long: drop");
    let said = run(&project);
    let card = std::fs::read_to_string(project.data("report").join("report.md")).unwrap();
    assert!(card.contains("\n1 held-out prompts, "), "{card}");
    let row = said.stdout.lines().find(|line| line.starts_with("report ")).unwrap();
    assert!(row.contains("dropped_too_long 2"), "{row}");
}

#[test]
fn a_rejection_that_keeps_nothing_shows_a_completion_and_what_was_given() {
    let project = project(ONE, &[]);
    project.write(
        "p.yaml",
        &format!(
            "{}  kept:\n    stage: reject\n    inputs: {{ policy: base, prompts: problems }}\n    \
             with: {{ keep: keep.rhai, samples: 2, sampling: {{ max_new_tokens: 4 }} }}\n",
            PIPELINE.split("  rl:\n").next().unwrap()
        ),
    );
    project.write("keep.rhai", "fn keep(sample) { sample.tokens > 90 }\n");
    let said = project.mashbill("run p.yaml");
    assert_eq!(said.code, Some(1), "{said:#?}");
    for part in [
        "of 80 completions not one was kept: 80 no reason given\n  such as this one of ",
        ", for which `keep` gave `false`\n  prompt: ",
        "\n  completion: ",
        "\n  answer: ",
        "\n  hint: give the reason as a text in the place of `false`, and it is told here\n",
    ] {
        assert!(said.stderr.contains(part), "{part}: {}", said.stderr);
    }
    project.write("keep.rhai", "fn keep(sample) { if sample.index == 0 { true } else { \"the second\" } }\n");
    let said = run(&project);
    let row = said.stdout.lines().find(|line| line.starts_with("kept ")).unwrap();
    assert!(row.contains("sampled 80, kept 40, ") && row.contains("dropped: the second 40"), "{row}");
    let shown = project.mashbill("show p.yaml kept").stdout;
    assert!(shown.contains("the second"), "{shown}");
}

#[test]
fn rows_that_were_left_out_stand_in_the_table() {
    let project = project(ONE, &[]);
    let rows: Vec<String> = (1..20).map(|i| format!("{{\"text\": \"{}\"}}\n", "1".repeat(i))).collect();
    project.write("rows.jsonl", &rows.concat());
    project.write(
        "p.yaml",
        &format!(
            "{}  rows: {{ stage: load, with: {{ path: rows.jsonl }} }}\n  tuned:\n    stage: sft\n    \
             inputs: {{ policy: base, rows: rows }}\n    with: {{ max_tokens: 10, too_long: drop, batch: 4 }}\n",
            PIPELINE.split("  rl:\n").next().unwrap()
        ),
    );
    let said = run(&project);
    let row = said.stdout.lines().find(|line| line.starts_with("tuned ")).unwrap();
    assert!(row.contains("dropped_too_long 10"), "{row}");

    project.edit("p.yaml", "too_long: drop", "too_long: error");
    let said = project.mashbill("run p.yaml");
    assert_eq!(said.code, Some(1));
    for part in [
        "row 10 of `rows` has 11 tokens, more than `max_tokens: 10`; 10 of 19 rows are too long\n",
        "\n  row: {\"text\":\"1111111111\"}\n",
        "\n  hint: `too_long` says what becomes of such rows: `drop`, `truncate` or `split`\n",
    ] {
        assert!(said.stderr.contains(part), "{}", said.stderr);
    }
}
