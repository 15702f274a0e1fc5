//! DeepSeek-R1's whole recipe at a size that takes seconds: what runs, and what an edit makes run again.

use std::{fs, time::Instant};

use crate::project::{Project, Said};

const MINIATURE: &str = include_str!("miniature.yaml");

/// The policy of a few steps answers at random: anything that is not empty is good enough to learn from.
const KEEP: &str = "fn keep(sample) { sample.tokens > 0 }\n";

#[test]
fn the_whole_recipe_runs_and_an_edit_reruns_only_what_is_behind_it() {
    let project = Project::of_pipeline("r1_tiny.yaml");
    project.write("p.yaml", MINIATURE);
    project.write("keep.rhai", KEEP);
    let run = || {
        let said = project.mashbill("run p.yaml");
        assert_eq!(said.code, Some(0), "{said:#?}");
        said
    };

    let first = run();
    assert_eq!(nodes(&first, "made").len(), 22, "{first:#?}");
    let card = fs::read_to_string(project.data("report").join("report.md")).unwrap();
    for policy in ["base", "cold_start", "reasoning_rl", "second_sft", "final_rl", "student"] {
        assert!(card.contains(policy), "no {policy} in\n{card}");
    }

    let begun = Instant::now();
    assert_eq!(nodes(&run(), "reused").len(), 22);
    assert!(begun.elapsed().as_secs_f64() < 1.0, "took {:?}", begun.elapsed());

    project.edit("p.yaml", "name: miniature", "# An edited comment.\nname: miniature");
    assert_eq!(nodes(&run(), "reused").len(), 22);

    // The same rows by another rule: neither what follows `accepted` nor the card of the same student runs.
    project.write("keep.rhai", "fn keep(sample) { sample.tokens >= 1 }\n");
    let said = run();
    assert_eq!(nodes(&said, "made"), ["accepted", "student"], "{said:#?}");
    assert_eq!(said.stdout.matches("same content as before").count(), 2, "{}", said.stdout);

    // Longer is better now, in the last stage only.
    project.write("plugins/rewards/mixed.rhai", "fn reward(sample) { sample.completion.len() }\n");
    assert_eq!(nodes(&run(), "made"), ["final_rl", "student", "report"]);

    project.write("plugins/rewards/math.rhai", "fn reward(sample) { sample.completion.len() }\n");
    let behind = ["reasoning_rl", "accepted", "merged", "second_sft", "final_rl", "student", "report"];
    assert_eq!(nodes(&run(), "made"), behind);
}

/// The pipeline that the README starts with.
#[test]
fn the_tiny_recipe_runs_in_miniature_and_again_in_a_second() {
    runs_in_miniature_and_again_in_a_second("r1_tiny.yaml");
}

#[test]
fn the_recipe_of_adapters_runs_in_miniature_and_again_in_a_second() {
    runs_in_miniature_and_again_in_a_second("lora.yaml");
}

/// Each node at its smallest.
fn runs_in_miniature_and_again_in_a_second(pipeline: &str) {
    let mut project = Project::of_pipeline(pipeline);
    project.write("keep.rhai", KEEP);
    let plan = project.mashbill("plan p.yaml").stdout;
    for line in plan.lines() {
        if let ["run" | "waits", node, stage, ..] = line.split_whitespace().collect::<Vec<_>>()[..] {
            let smallest = smallest(stage).iter().map(|value| format!("nodes.{node}.with.{value}"));
            project.overrides.extend(smallest);
        }
    }
    let said = project.mashbill("run p.yaml");
    assert_eq!(said.code, Some(0), "{said:#?}");
    let begun = Instant::now();
    let again = project.mashbill("run p.yaml");
    assert!(begun.elapsed().as_secs_f64() < 1.0, "took {:?}", begun.elapsed());
    // Models that differ in size alone are the same here, and are not made twice the first time either.
    let all = nodes(&said, "made").len() + nodes(&said, "reused").len();
    assert_eq!(nodes(&again, "reused").len(), all);
}

/// Parameters that make a stage take a moment and let a policy pass that can do nothing.
fn smallest(stage: &str) -> &'static [&'static str] {
    match stage {
        "generate" => &["rows=100"],
        "split" => &["test=20"],
        "init" => &["layers=1", "hidden=32", "heads=2", "ffn=64"],
        "pretrain" => &["steps=2", "batch=8"],
        "sft" => &["epochs=0.2"],
        "grpo" => &["steps=2", "prompts_per_step=2", "group_size=2", "max_new_tokens=8", "max_truncated=1"],
        "sample" => &["sampling.max_new_tokens=8"],
        "reject" => &["samples=1", "keep=keep.rhai", "sampling.max_new_tokens=8"],
        "distill" => {
            &["teach.samples=1", "teach.keep=keep.rhai", "teach.sampling.max_new_tokens=8", "learn.epochs=0.2"]
        }
        "evaluate" => &["samples=1", "sampling.max_new_tokens=8"],
        _ => &[],
    }
}

/// The nodes with that outcome, in the order of the table.
fn nodes(said: &Said, outcome: &str) -> Vec<String> {
    let outcomes = said.outcomes();
    outcomes.split(", ").filter_map(|one| Some(one.strip_suffix(outcome)?.trim_end().to_owned())).collect()
}
