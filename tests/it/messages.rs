//! Whole messages for what people get wrong on the command line.

use crate::project::Project;

fn project() -> Project {
    Project::new(&[
        ("p.yaml", "nodes:\n  numbers: { stage: load, with: { path: numbers.jsonl } }\n"),
        ("numbers.jsonl", "{\"n\": 1}\n"),
    ])
}

#[test]
fn an_unknown_node_is_a_mistake_with_a_suggestion() {
    for verb in ["show p.yaml numbres", "explain p.yaml numbres", "run p.yaml --until numbres"] {
        let said = project().mashbill(verb);
        assert_eq!(said.code, Some(2));
        assert_eq!(said.stderr, "error: p.yaml: no node `numbres`\n  hint: did you mean `numbers`?\n");
    }
}

#[test]
fn a_node_without_a_result_says_how_to_make_it() {
    let said = project().mashbill("show p.yaml numbers");
    assert_eq!(said.code, Some(1));
    assert_eq!(said.stderr, "error: `numbers` has no result yet\n  hint: mashbill run p.yaml --until numbers\n");
}

#[test]
fn a_missing_pipeline_is_a_mistake() {
    let said = project().mashbill("run q.yaml");
    assert_eq!(said.code, Some(2));
    assert_eq!(said.stderr, "error: cannot read the pipeline `q.yaml`: No such file or directory (os error 2)\n");
}

#[test]
fn an_unknown_stage_suggests_the_nearest() {
    let said = project().mashbill("stages laod");
    assert_eq!(said.code, Some(2));
    assert_eq!(said.stderr, "error: no stage `laod`\n  hint: did you mean `load`?\n");
}

#[test]
fn a_filter_of_other_programs_is_refused_in_grpo_with_the_reason() {
    let project = project();
    project.write("g.yaml", "nodes:\n  g: { stage: grpo, with: { reward: r.rhai, top_p: 0.95 } }\n");
    let said = project.mashbill("check g.yaml --message-format json");
    assert_eq!(said.code, Some(2));
    let reason = "unknown parameter `top_p`\",\"file\":\"g.yaml\"";
    assert!(said.stdout.contains(reason), "{}", said.stdout);
    let hint = "rollouts are drawn from the policy's very own distribution, whose probabilities the ratio compares: leave \
                it out, and use `temperature`";
    assert!(said.stdout.contains(hint), "{}", said.stdout);
}

#[test]
fn names_of_other_programs_are_answered_with_those_of_this_one() {
    let project = project();
    project.write("r.rhai", "fn reward(sample) { 1.0 }\n");
    for (with, hint) in [
        ("lr: 1e-4", "`lr` is `learning_rate` here"),
        ("beta: 0", "`beta` is `kl_coef` here"),
        ("kl_beta: 0", "`kl_beta` is `kl_coef` here"),
        ("num_generations: 8", "`num_generations` is `group_size` here"),
        ("epsilon: 0.2", "`epsilon` is `clip_high` here; the other side of the ratio has its own, `clip_low`"),
        ("rollout: { n: 8 }", "`rollout.n` is `group_size` here"),
        (
            "actor: { optim: { lr: 1 }, kl_loss_coef: 0 }",
            "`actor.optim.lr` is `learning_rate` here; `actor.kl_loss_coef` is `kl_coef` here",
        ),
        ("optimizer: { max_norm: 1 }", "`optimizer` is `optimiser` here"),
        ("optimiser: { adam_beta2: 0.9 }", "`optimiser.adam_beta2` is `optimiser.beta2` here"),
        ("lora: { r: 8 }", "`lora.r` is `lora.rank` here"),
        ("learning_rate_schedule: cosine", "`learning_rate_schedule` is `decay` here"),
        ("max_completion_length: 9", "`max_completion_length` is `max_new_tokens` here"),
        ("num_train_epochs: 1", "`num_train_epochs` is `steps` here; it counts optimiser steps"),
        (
            "gradient_checkpointing: true",
            "`gradient_checkpointing` is `activations` here, a setting: write it below `run:`",
        ),
    ] {
        project.write("g.yaml", &format!("nodes:\n  g: {{ stage: grpo, with: {{ reward: r.rhai, {with} }} }}\n"));
        let said = project.mashbill("check g.yaml");
        assert_eq!(said.code, Some(2));
        assert!(said.stderr.contains(hint), "{with}: {}", said.stderr);
    }
}

#[test]
fn a_filter_that_keeps_nothing_shows_a_row_and_what_it_gave() {
    let project = project();
    project.write("keep.rhai", "fn keep(row) { row.n > 5 }\n");
    project.write(
        "p.yaml",
        "nodes:\n  numbers: { stage: load, with: { path: numbers.jsonl } }\n  \
         few: { stage: filter, inputs: { rows: numbers }, with: { script: keep.rhai } }\n",
    );
    let said = project.mashbill("run p.yaml");
    assert_eq!(said.code, Some(1));
    let told = "  `keep.rhai` keeps none of 1 rows\n    1 × no reason given\n  such as row 1, for which `keep` gave `false`: \
                {\"n\":1}\n  hint: give the reason as a text in the place of `false`, and it is told here\n";
    assert!(said.stderr.ends_with(told), "{}", said.stderr);
    project.write("keep.rhai", "fn keep(row) { row.nn > 5 }\n");
    let said = project.mashbill("run p.yaml");
    assert!(
        said.stderr.contains("no field `nn`") && said.stderr.contains("help: did you mean `n`?"),
        "{}",
        said.stderr
    );
}

#[test]
fn a_right_pipeline_is_told_in_one_line() {
    let said = project().mashbill("check p.yaml");
    assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""));
    assert_eq!(said.stdout, "p.yaml: `p` is right, 1 node\n");
}

#[test]
fn a_store_of_another_format_is_infrastructure() {
    let project = project();
    project.write(".mashbill/format", "99");
    let said = project.mashbill("run p.yaml");
    assert_eq!(said.code, Some(3));
    assert!(said.stderr.ends_with("has format \"99\", and this program reads format \"1\"\n"), "{}", said.stderr);
}

#[test]
fn a_failed_node_says_where_and_why_and_ends_with_one() {
    let project = project();
    project.write("numbers.jsonl", "{\"n\": 1}\n{\"n\": }\n");
    let said = project.mashbill("run p.yaml");
    assert_eq!(said.code, Some(1), "{said:#?}");
    assert!(said.stderr.contains("error: node `numbers` failed (p.yaml:2:3)\n"), "{}", said.stderr);
    assert!(said.stderr.contains("numbers.jsonl:2"), "{}", said.stderr);
}

#[test]
fn the_tests_of_plugins_are_run_and_counted() {
    let project = Project::new(&[
        ("plugins/good.rhai", "fn test_sum() { assert_eq(1 + 1, 2); }\n"),
        ("plugins/deep/bad.rhai", "fn test_sum() { assert_eq(1 + 1, 3); }\n"),
    ]);
    let said = project.mashbill("test plugins/good.rhai");
    assert_eq!((said.code, said.stdout.as_str()), (Some(0), "passed plugins/good.rhai test_sum\n1 passed, 0 failed\n"));
    let said = project.mashbill("test plugins");
    assert_eq!(said.code, Some(1));
    assert!(said.stdout.contains("failed plugins/deep/bad.rhai test_sum\n"), "{}", said.stdout);
    assert!(said.stdout.ends_with("1 passed, 1 failed\n"), "{}", said.stdout);
    let said = project.mashbill("test p.yaml");
    assert_eq!(said.code, Some(2));
}

#[test]
fn color_can_be_asked_for_and_forbidden() {
    let project = project();
    assert!(project.mashbill("plan p.yaml --color always").stdout.contains("\x1b["));
    assert!(!project.mashbill("plan p.yaml").stdout.contains("\x1b["));
    let output = project.command("plan p.yaml").env("NO_COLOR", "1").output().unwrap();
    assert!(!output.stdout.contains(&0x1b));
}

#[cfg(unix)]
#[test]
fn a_reader_that_goes_away_breaks_nothing() {
    let project = project();
    let mut child = project.start("run p.yaml");
    drop(child.stdout.take());
    drop(child.stderr.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(project.mashbill("run p.yaml").stdout.contains("reused"));
}

#[test]
fn run_takes_the_nodes_that_are_wanted() {
    let project = project();
    let pipeline = "\
nodes:
  numbers: { stage: load, with: { path: numbers.jsonl } }
  few: { stage: command, inputs: { rows: numbers }, with: { sh: cp $INPUT_rows/rows.jsonl $OUTPUT } }
  rest: { stage: command, with: { sh: echo > $OUTPUT/x } }
";
    project.write("p.yaml", pipeline);
    let said = project.mashbill("run p.yaml few");
    assert_eq!((said.code, said.outcomes().as_str()), (Some(0), "numbers made, few made"), "{said:#?}");
    assert_eq!(project.mashbill("run p.yaml few").outcomes(), project.mashbill("run p.yaml --until few").outcomes());
    assert_eq!(project.mashbill("run p.yaml numbers rest").outcomes(), "numbers reused, rest made");
    let said = project.mashbill("run p.yaml feww");
    assert_eq!(said.code, Some(2));
    assert!(said.stderr.contains("did you mean `few`?"), "{}", said.stderr);
    let said = project.mashbill("run p.yaml few --only few");
    assert_eq!(said.code, Some(2));
    assert!(said.stderr.contains("'[NODE]...' cannot be used with '--only <SELECTOR>'"), "{}", said.stderr);
    assert!(project.mashbill("run --help").stdout.contains("short for `--until NODE`"));
}

#[test]
fn the_log_of_a_node_that_failed_says_why() {
    let pipeline = "\
nodes:
  c: { stage: command, with: { sh: \"echo one; echo two; exit 7\" } }
  d: { stage: command, inputs: { c: c }, with: { sh: cat } }
  g: { stage: generate, with: { script: bad.rhai, rows: 3 } }
";
    let project =
        Project::new(&[("p.yaml", pipeline), ("bad.rhai", "fn row(rng, index) { throw \"no luck at all\"; }\n")]);
    assert_eq!(project.mashbill("run p.yaml --keep-going").code, Some(1));
    let said = project.mashbill("log p.yaml c");
    assert_eq!(said.code, Some(0));
    assert_eq!(said.stdout, "one\ntwo\n");
    assert!(said.stderr.ends_with("failed in run 1: the program ended with exit status: 7\n"), "{said:#?}");
    let said = project.mashbill("log p.yaml g");
    assert_eq!(said.code, Some(0));
    assert!(said.stdout.starts_with("failed in run 1: no luck at all\n --> bad.rhai:1:"), "{said:#?}");
    let said = project.mashbill("log p.yaml d");
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.starts_with("error: `d` has no result yet: skipped in run 1, `c` failed\n"), "{said:#?}");
    project.write("bad.rhai", "fn row(rng, index) { #{ a: index } }\n");
    assert_eq!(project.mashbill("run p.yaml g").code, Some(0));
    let said = project.mashbill("log p.yaml g");
    assert!(!said.stdout.contains("failed"), "{said:#?}");
}

#[test]
fn show_prints_reports_and_what_models_wrote_whole() {
    let long = "word ".repeat(200);
    let row = serde_json::json!({
        "prompt": "Why?", "completions": [format!("{long}\nthe end"), "brief \u{1b}[2J"], "scores": { "right": [1.0, 0.0] },
    });
    let sh = "cp completions.jsonl report.md $OUTPUT";
    let node =
        format!("{{ stage: command, with: {{ sh: {sh}, files: [completions.jsonl, report.md], kind: report }} }}");
    let project = Project::new(&[
        ("p.yaml", &format!("nodes:\n  card: {node}\n")),
        ("report.md", "# Report card\n\n| policy | right |\n"),
        ("completions.jsonl", &format!("{row}\n")),
    ]);
    assert_eq!(project.mashbill("run p.yaml").code, Some(0));
    let said = project.mashbill("show p.yaml card").stdout;
    let report = said.find("# Report card\n\n| policy | right |\n").expect("the report is there");
    let rows = said.find("completions.jsonl\n  prompt: Why?\n").expect("the completions are there");
    assert!(report < rows, "{said}");
    let expected = format!("  completions.0:\n    {long}\n    the end\n  completions.1: brief \\u{{1b}}[2J\n");
    assert!(said.contains(&expected), "{said}");
    assert!(said.contains("  scores: {\"right\":[1.0,0.0]}\n"), "{said}");
}
