//! What `check` sees before anything runs: scripts that cannot work, completions that no context holds, devices that
//! are not there. And what it must not take for a mistake.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::project::{Project, Said, workspace};

/// Rows, a model of a short context, and the node that is asked about.
fn pipeline(node: &str) -> String {
    format!(
        "nodes:\n  drawn: {{ stage: generate, with: {{ script: draw.rhai, rows: 5 }} }}\n  \
         tokenizer: {{ stage: tokenizer, inputs: {{ rows: drawn }} }}\n  \
         model: {{ stage: init, inputs: {{ tokenizer: tokenizer }}, with: {{ context: 512 }} }}\n  \
         it: {node}\n"
    )
}

const DRAW: &str = "fn row(rng, index) { #{ prompt: `${index}+1=`, answer: index + 1, domain: \"sums\" } }\n";

fn project(node: &str, script: &str) -> Project {
    Project::new(&[("p.yaml", &pipeline(node)), ("draw.rhai", DRAW), ("it.rhai", script)])
}

const GRPO: &str =
    "{ stage: grpo, inputs: { policy: model, prompts: drawn }, with: { reward: it.rhai, max_new_tokens: 8 } }";
const EVALUATE: &str = "{ stage: evaluate, inputs: { policies: model, prompts: drawn }, with: { score: it.rhai } }";
const REJECT: &str = "{ stage: reject, inputs: { policy: model, prompts: drawn }, with: { keep: it.rhai } }";
const DISTILL: &str = "{ stage: distill, inputs: { teacher: model, student: model, prompts: drawn }, with: { teach: { keep: it.rhai } } }";
const FILTER: &str = "{ stage: filter, inputs: { rows: drawn }, with: { script: it.rhai } }";
const MAP: &str = "{ stage: map, inputs: { rows: drawn }, with: { script: it.rhai } }";
const GENERATE: &str = "{ stage: generate, with: { script: it.rhai, rows: 5 } }";

/// The mistakes that `check` tells: message, line, and hint.
fn mistakes(said: &Said) -> Vec<(String, u64, String)> {
    let read = |line: &str| -> Value { serde_json::from_str(line).unwrap_or_else(|_| panic!("{said:#?}")) };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let told = |value: Value| (text(&value["message"]), value["line"].as_u64().unwrap(), text(&value["hint"]));
    said.stdout.lines().map(read).map(told).collect()
}

/// The only mistake of a pipeline with this node and script, which stands where the node does.
fn only(node: &str, script: &str) -> String {
    let said = project(node, script).mashbill("check p.yaml --message-format json");
    assert_eq!(said.code, Some(2), "{node}\n{script}\n{said:#?}");
    let mut found = mistakes(&said);
    assert_eq!(found.len(), 1, "{found:#?}");
    let (message, line, _) = found.remove(0);
    assert_eq!(line, 5, "{message}");
    message
}

fn is_right(node: &str, script: &str) {
    let said = project(node, script).mashbill("check p.yaml");
    assert_eq!(said.code, Some(0), "{node}\n{script}\n{}", said.stderr);
}

#[test]
fn a_function_that_is_not_there_under_its_name_is_told_with_the_one_that_was_meant() {
    let told = only(GRPO, "\nfn rewrad(sample) {\n    1.0\n}\n");
    let expected = "\
no function `reward` in the plugin
 --> it.rhai:2:4
  |
2 | fn rewrad(sample) {
  |    ^^^^^^
  |
  = help: did you mean `reward` by `rewrad`?";
    assert_eq!(told, expected);
    for (node, wanted) in
        [(EVALUATE, "score"), (REJECT, "keep"), (DISTILL, "keep"), (FILTER, "keep"), (MAP, "map"), (GENERATE, "row")]
    {
        let told = only(node, "fn unlike(a) { 1 }\n");
        let expected =
            format!("no function `{wanted}` in the plugin\n --> it.rhai\n  |\n  = help: it defines `unlike`");
        assert_eq!(told, expected, "{node}");
    }
    let told = only(GRPO, "fn reward(a, b, c) { 1.0 }\n");
    assert!(told.starts_with("`reward` takes 3 parameters, but is given 2\n"), "{told}");
}

#[test]
fn every_call_of_a_function_that_does_not_exist_is_told_where_it_stands() {
    let told =
        only(GRPO, "fn reward(sample) {\n    if sample.truncated { return 0; }\n    lenght(sample.completion)\n}\n");
    let expected = "\
no function `lenght`
 --> it.rhai:3:5
  |
3 |     lenght(sample.completion)
  |     ^^^^^^
  |
  = help: did you mean `len`?";
    assert_eq!(told, expected);
    let reward = |body: &str| only(GRPO, &format!("fn reward(sample) {{ {body} }}\n"));
    for (body, message, help) in [
        ("sample.completion.trimm(); 1", "no method `trimm`", "did you mean `trim`?"),
        ("levenshtein(sample.completion)", "no function `levenshtein` with 1 argument", "it takes 2"),
        ("helper(1, 2)", "no function `helper` with 2 arguments", "it takes 1"),
        ("let f = |x| lenght(x); f.call(\"a\")", "no function `lenght`", "did you mean `len`?"),
        ("while sample.truncated { lenght(1); } 1", "no function `lenght`", "did you mean `len`?"),
    ] {
        let told = only(GRPO, &format!("fn reward(sample) {{ {body} }}\nfn helper(x) {{ x }}\n"));
        assert!(told.starts_with(&format!("{message}\n --> it.rhai:1:")), "{told}");
        assert!(told.ends_with(&format!("= help: {help}")), "{told}");
    }
    assert!(reward("frobnicate(1)").starts_with("no function `frobnicate`\n --> it.rhai:1:21\n"));
}

#[test]
fn calls_into_and_inside_of_imported_files_are_looked_at() {
    let project =
        project(GRPO, "import \"lib\" as lib;\nfn reward(sample) { lib::judge(sample) + lib::jugde(sample) }\n");
    project.write("lib.rhai", "fn judge(sample) {\n    lenght(sample.completion)\n}\n");
    let said = project.mashbill("check p.yaml --message-format json");
    let found: Vec<String> = mistakes(&said).into_iter().map(|(message, ..)| message).collect();
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(found[0].starts_with("no function `jugde` in `lib`\n --> it.rhai:2:"), "{}", found[0]);
    assert!(found[0].ends_with("= help: did you mean `lib::judge`?"), "{}", found[0]);
    assert!(found[1].starts_with("no function `lenght`\n --> lib.rhai:2:5\n"), "{}", found[1]);
}

#[test]
fn a_result_that_no_stage_can_use_is_told_before_the_run() {
    for (node, script, message, place) in [
        (GRPO, "fn reward(sample) { sample.answer == sample.completion }", "the reward is false, not a number", ":4"),
        (GRPO, "fn reward(sample) { #{ right: true } }", "the reward's part `right` is true, not a number", ":4"),
        (GRPO, "fn reward(sample) { #{} }", "the reward is a map without parts", ":4"),
        (GRPO, "fn reward(sample) { let x = 1; }", "the reward is nothing, not a number", ":4"),
        (
            EVALUATE,
            "fn score(sample) { #{ right: sample.completion == \"\" } }",
            "the reward's part `right` is true, not a number",
            ":4",
        ),
        (
            EVALUATE,
            "fn score(sample) { 1.0 }",
            "`score` gave a number; the report card needs a map of named scores",
            ":4",
        ),
        (EVALUATE, "fn score(sample) { #{ right: 100 } }", "`score` gave right = 100, outside of 0 to 1", ":4"),
        (REJECT, "fn keep(sample) { 1 }", "`keep` gave 1, not true, false or a reason", ":4"),
        (DISTILL, "fn keep(sample) { () }", "`keep` gave nothing, not true, false or a reason", ":4"),
        (FILTER, "fn keep(row) { row.answer }", "`keep` gave 1, not true, false or a reason", ":4"),
        (MAP, "fn map(row) { row.prompt }", "a row is a map, not the text `0+1=`", ":4"),
        (GENERATE, "fn row(rng, index) { index }", "a row is a map, not 0", ":4"),
    ] {
        let told = only(node, script);
        assert!(told.starts_with(&format!("{message}\n --> it.rhai:1{place}\n")), "{told}");
        assert!(!told.contains("completion:"), "what was invented is not shown: {told}");
    }
}

#[test]
fn what_only_an_invented_sample_may_have_caused_is_no_mistake() {
    for (node, script) in [
        // Fields that nobody knows of, errors that are thrown, answers that are of one type here and another there.
        (GRPO, "fn reward(sample) { sample.row.field_of_another_file.len() }"),
        (GRPO, "fn reward(sample) { throw \"not for me\" }"),
        (GRPO, "fn reward(sample) { if sample.completion == \"\" { () } else { 1 } }"),
        (FILTER, "fn keep(row) { if row.answer > 2 { true } else { () } }"),
        // Closures in maps are called as methods are, functions by their names in texts.
        (GRPO, "fn reward(sample) { let m = #{ score: |x| x + 1 }; m.score(1) }"),
        (GRPO, "fn reward(sample) { let m = #{ deep: [#{ score: |x| x + sample.tokens }] }; m.deep[0].score(1) }"),
        (GRPO, "fn reward(sample) { let f = Fn(\"own\"); f.call(1) }\nfn own(x) { x }"),
        (GRPO, "fn reward(sample) { [1, 2].map(|x| x + params.len()).len() }"),
        // Helpers of tests lie beside the function.
        (
            GRPO,
            "fn reward(sample) { 1 }\nfn of(text) { reward(sample(text, #{})) }\nfn test_it() { assert_eq(of(\"\"), 1); assert(true); }",
        ),
        // What never ends is the run's to end.
        (GRPO, "fn reward(sample) { loop {} }"),
    ] {
        is_right(node, script);
    }
    // Rows that nothing is known of: made by a program.
    let project = project(GRPO, "fn reward(sample) { sample.row.points / 2.0 }\n");
    project.edit(
        "p.yaml",
        "stage: generate, with: { script: draw.rhai, rows: 5 }",
        "stage: command, with: { sh: 'true', kind: rows }",
    );
    let said = project.mashbill("check p.yaml");
    assert_eq!(said.code, Some(0), "{}", said.stderr);
}

#[test]
fn fields_are_followed_from_where_rows_come_from() {
    let project = Project::new(&[
        (
            "p.yaml",
            "nodes:
  loaded: { stage: load, with: { path: rows.jsonl, fields: { prompt: question } } }
  drawn: { stage: generate, with: { script: draw.rhai, rows: 5, unique: promt } }
  kept: { stage: filter, inputs: { rows: loaded }, with: { script: keep.rhai } }
  half: { stage: split, inputs: { rows: kept }, with: { part: test } }
  mapped: { stage: map, inputs: { rows: half }, with: { script: map.rhai } }
  both: { stage: merge, inputs: { rows: [mapped, drawn] } }
  model: { stage: init, inputs: { tokenizer: tokenizer } }
  tokenizer: { stage: tokenizer, inputs: { rows: both } }
  card: { stage: evaluate, inputs: { policies: model, prompts: both }, with: { score: score.rhai, by: domian } }
",
        ),
        ("rows.jsonl", "{\"question\": \"a\", \"points\": 3}\n"),
        ("draw.rhai", DRAW),
        ("keep.rhai", "fn keep(row) { row.points == 3 }\n"),
        ("map.rhai", "fn map(row) { row.domain = `p${row.points}`; row }\n"),
        ("score.rhai", "fn score(sample) { #{ right: sample.row.domain == \"p3\" } }\n"),
    ]);
    let said = project.mashbill("check p.yaml --message-format json");
    let found = mistakes(&said);
    let lines: Vec<(u64, &str)> =
        found.iter().map(|(message, line, _)| (*line, message.lines().next().unwrap())).collect();
    let expected = [
        (3, "no field `promt` in the rows"),
        (10, "the reward's part `right` is true, not a number"),
        (10, "no field `domian` in the rows"),
    ];
    assert_eq!(lines, expected);
    assert_eq!(found[0].2, "did you mean `prompt`?");
    assert_eq!(found[2].2, "did you mean `domain`?");
}

#[test]
fn completions_for_which_the_context_has_no_room_are_told() {
    let by_default = "{ stage: grpo, inputs: { policy: model, prompts: drawn }, with: { reward: it.rhai } }";
    let reward = "fn reward(sample) { 1.0 }\n";
    let told = only(by_default, reward);
    assert_eq!(
        told,
        "`max_new_tokens` is 32768, and the context of `model` holds 512 tokens, prompt and completion together"
    );
    let said = project(by_default, reward).mashbill("check p.yaml");
    assert!(said.stderr.contains("here `max_new_tokens` is 32768 by default"), "{}", said.stderr);
    let sampling = |tokens: usize| {
        let inputs = "inputs: { policy: model, prompts: drawn }";
        format!("{{ stage: sample, {inputs}, with: {{ sampling: {{ max_new_tokens: {tokens} }} }} }}")
    };
    is_right(&sampling(511), reward);
    assert!(only(&sampling(512), reward).starts_with("`max_new_tokens` is 512, "));
    // A model that was trained has the context of the one that it was.
    let project = project(&sampling(600), reward);
    project.edit("p.yaml", "policy: model", "policy: tuned");
    project.edit("p.yaml", "  it:", "  tuned: { stage: sft, inputs: { policy: model, rows: drawn } }\n  it:");
    let said = project.mashbill("check p.yaml");
    assert!(said.stderr.contains("the context of `tuned` holds 512 tokens"), "{}", said.stderr);
    let block = "{ stage: pretrain, inputs: { policy: model, rows: drawn }, with: { windows: random, block: 513 } }";
    assert_eq!(only(block, reward), "`block` is 513, and the context of `model` holds 512 tokens");
}

#[test]
fn a_device_that_is_not_there_is_told_by_check_and_where_there_is_work() {
    let node = "{ stage: sft, inputs: { policy: model, rows: drawn }, run: { device: \"cuda:99\" } }";
    let project = project(node, "");
    for verb in ["check p.yaml", "plan p.yaml", "run p.yaml"] {
        let said = project.mashbill(verb);
        assert_eq!(said.code, Some(2), "{said:#?}");
        assert!(said.stderr.contains("no device `cuda:99`: "), "{}", said.stderr);
        assert!(said.stderr.contains("--> p.yaml:5:"), "{}", said.stderr);
    }
    if !cfg!(feature = "cuda") {
        let said = project.mashbill("check p.yaml --set nodes.it.run.device=cuda");
        let wanted =
            "no device `cuda`: this binary was built without it; `cargo build --release --features cuda` builds";
        assert!(said.stderr.contains(wanted), "{}", said.stderr);
    }
    // Nodes that nobody asks for, and what only looks, need no device.
    assert_eq!(project.mashbill("plan p.yaml --until model").code, Some(0));
    assert_eq!(project.mashbill("render p.yaml").code, Some(0));
}

#[test]
fn all_mistakes_are_told_at_once_by_check_plan_and_run() {
    let files = [
        (
            "p.yaml",
            "nodes:
  drawn: { stage: generate, with: { script: draw.rhai, rows: 5 } }
  tokenizer: { stage: tokenizer, inputs: { rows: drawn } }
  model: { stage: init, inputs: { tokenizer: tokenizer }, with: { context: 512 } }
  rl:
    stage: grpo
    inputs: { policy: model, prompts: drawn }
    with:
      reward: reward.rhai
      max_new_tokens: 600
    run: { device: cuda:99 }
  card: { stage: evaluate, inputs: { policies: rl, prompts: drawn }, with: { score: score.rhai, samples: 0 } }
  other: { stage: evaluate, inputs: { policies: rl, prompts: drwan }, with: { score: score.rhai } }
",
        ),
        ("draw.rhai", DRAW),
        ("reward.rhai", "fn reward(sample) { lenght(1) + hepl(2) }\nfn help(x) { x }\n"),
        ("score.rhai", "fn score(sample) { 0.5 }\n"),
    ];
    let project = Project::new(&files);
    let expected = [
        (9, "no function `lenght`"),
        (9, "no function `hepl`"),
        (10, "`max_new_tokens` is 600, and the context of `model` holds 512 tokens, prompt and completion together"),
        (11, "no device `cuda:99`"),
        (12, "parameter `samples` must be at least 1, found `0`"),
        (13, "no node `drwan`"),
        (13, "`score` gave a number; the report card needs a map of named scores"),
    ];
    for verb in ["check", "plan", "run"] {
        let said = project.mashbill(&format!("{verb} p.yaml --message-format json"));
        assert_eq!(said.code, Some(2), "{said:#?}");
        let found = mistakes(&said);
        let mut lines: Vec<(u64, &str)> = found
            .iter()
            .map(|(message, line, _)| (*line, message.lines().next().unwrap().split(": this ").next().unwrap()))
            .collect();
        for (_, message) in &mut lines {
            *message = message.split(": there ").next().unwrap();
        }
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        lines.sort_unstable();
        assert_eq!(lines, expected, "{verb}");
    }
    // Verbs that look at results which are there do not judge scripts.
    let project =
        Project::new(&[("p.yaml", &pipeline(GRPO)), ("draw.rhai", DRAW), ("it.rhai", "fn rewrad(a) { 1 }\n")]);
    assert_eq!(project.mashbill("render p.yaml").code, Some(0));
}

#[test]
fn a_check_stays_quick() {
    let timed = |project: &Project, words: &str| {
        let began = Instant::now();
        let output = project.command(words).arg("--root").arg(workspace()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        began.elapsed()
    };
    let path = workspace().join("pipelines/r1_tiny.yaml");
    let project = Project::new(&[]);
    // The quickest of some: other tests run at the same time.
    let times = (0..5).map(|_| timed(&project, &format!("check {}", path.display())));
    let time = times.min().unwrap();
    println!("r1_tiny: {time:?}");
    assert!(time < Duration::from_millis(500), "{time:?}");

    let node = |at: usize| {
        format!(
            "  text{at}: {{ stage: generate, with: {{ script: plugins/tasks/reasoning.rhai, rows: {at}, unique: prompt }} }}\n  \
             rl{at}: {{ stage: grpo, inputs: {{ policy: model, prompts: text{at} }}, with: {{ reward: \
             plugins/rewards/math.rhai, max_new_tokens: 8, steps: {at} }} }}\n"
        )
    };
    let nodes: String = (1..=500).map(node).collect();
    let text = format!(
        "nodes:\n  tokenizer: {{ stage: tokenizer, inputs: {{ rows: text1 }} }}\n  \
         model: {{ stage: init, inputs: {{ tokenizer: tokenizer }} }}\n{nodes}"
    );
    project.write("many.yaml", &text);
    let time = timed(&project, &format!("check {}", project.path().join("many.yaml").display()));
    println!("1,000 nodes: {time:?}");
    assert!(time < Duration::from_secs(10), "{time:?}");

    // What never ends is waited for once, however many nodes call it.
    project.write(
        "endless.rhai",
        "fn row(rng, index) { let n = 0; loop { n = (n + 1) % 7; let s = \"a\"; s.pad(1000, \"b\"); } }\n",
    );
    let node = |at: usize| {
        format!("  n{at}: {{ stage: generate, with: {{ script: endless.rhai, rows: {at}, unique: a }} }}\n")
    };
    project.write("endless.yaml", &format!("nodes:\n{}", (1..=20).map(node).collect::<String>()));
    let began = Instant::now();
    let said = project.mashbill("check endless.yaml");
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}
