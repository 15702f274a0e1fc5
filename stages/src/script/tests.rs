//! What the author of a plugin meets: what is allowed, what is stopped, and how mistakes are told.

use std::{fs, path::Path, time::Duration};

use serde_json::json;
use tempfile::TempDir;

use super::*;

/// A project with these files; the first is the plugin.
fn project(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

fn open(text: &str) -> anyhow::Result<Script> {
    let folder = project(&[("plugin.rhai", text)]);
    Script::open(&folder.path().join("plugin.rhai"), folder.path())
}

fn row(value: serde_json::Value) -> Row {
    match value {
        serde_json::Value::Object(row) => row,
        other => panic!("{other} is no row"),
    }
}

fn bare(total: f32) -> Reward {
    Reward { total, parts: BTreeMap::new() }
}

fn reward_of(text: &str, completion: &str) -> anyhow::Result<Vec<Reward>> {
    let row = row(json!({ "prompt": "2+3=", "answer": "5" }));
    let sample = Sample { row: &row, prompt: "2+3=", completion, truncated: false, tokens: 7, index: 0 };
    open(text)?.rewards("reward", &[sample])
}

/// The error of a plugin whose reward has this body.
fn stopped(body: &str) -> String {
    stopped_within(Limits::default().wall, body)
}

fn stopped_within(wall: Duration, body: &str) -> String {
    let folder = project(&[("plugin.rhai", &format!("fn reward(sample) {{ {body} }}"))]);
    let limits = Limits { wall, ..Limits::default() };
    let path = folder.path().join("plugin.rhai");
    let script = Script::load(&path, folder.path(), &Row::new(), limits, Cancel::default(), |_| ());
    let call = |script: Script| script.each("reward", &[()], |()| [Dynamic::UNIT], |_, _, _| Ok(()), |error, _| error);
    let error = script.and_then(call).expect_err("the sandbox stops it");
    error.downcast::<Error>().unwrap().message.clone()
}

#[test]
fn a_reward_is_a_number_or_named_parts() {
    let rewards = reward_of("fn reward(sample) { 2 }", "").unwrap();
    assert_eq!(rewards, [bare(2.0)]);
    let rewards = reward_of("fn reward(sample) { #{ format: 0.5, accuracy: 1 } }", "").unwrap();
    let parts = BTreeMap::from([("accuracy".to_string(), 1.0), ("format".to_string(), 0.5)]);
    assert_eq!(rewards, [Reward { total: 1.5, parts }]);
}

#[test]
fn a_sample_has_its_row_prompt_completion_answer_and_length() {
    let text = r#"fn reward(sample) {
        let seen = `${sample.prompt}|${sample.completion}|${sample.answer}|${sample.row.answer}`;
        if seen == "2+3=|<answer>5</answer>|5|5" && !sample.truncated && sample.index == 0 { sample.tokens } else { throw seen }
    }"#;
    assert_eq!(reward_of(text, "<answer>5</answer>").unwrap(), [bare(7.0)]);
}

#[test]
fn params_are_a_constant_in_every_function_and_may_be_its_last_argument() {
    let folder = project(&[
        (
            "plugin.rhai",
            "import \"lib\" as lib; fn reward(sample) { lib::bonus() + params.bonus } fn keep(sample, params) { params.bonus == 2 }",
        ),
        ("lib.rhai", "fn bonus() { params.bonus * 10 }"),
    ]);
    let params = row(json!({ "bonus": 2 }));
    let script = Script::open_with(&folder.path().join("plugin.rhai"), folder.path(), &params).unwrap();
    let row = Row::new();
    let sample = Sample { row: &row, prompt: "", completion: "", truncated: false, tokens: 0, index: 0 };
    assert_eq!(script.rewards("reward", &[sample]).unwrap(), [bare(22.0)]);
    assert_eq!(script.keeps(&[sample]).unwrap(), [Keep::Yes]);
}

#[test]
fn runaway_plugins_are_stopped() {
    let cases = [
        ("loop { }", "stopped after 5000000 operations"),
        ("let s = \"aaaaaaaa\"; loop { s += s; }", "a text is larger than 1048576 bytes"),
        ("let s = \"a\"; s.pad(2000000, 'b'); s", "a text is larger than 1048576 bytes"),
        ("let s = \"aaaaaaaaaa\"; loop { s.replace(\"a\", \"aaaaaaaaaa\"); }", "a text is larger than 1048576 bytes"),
        ("let a = []; loop { a.push(a); }", "an array holds more than 100000 items"),
        ("let a = [1]; loop { a += a; }", "an array holds more than 100000 items"),
        ("let a = []; a.pad(200000, 0); a", "an array holds more than 100000 items"),
        // Of closures too, each of which Rhai counts from zero.
        ("let a = []; a.pad(9, 0); loop { a.for_each(|x| 1 + 1); }", "stopped after 5000000 operations"),
        (
            "let m = #{}; let i = 0; loop { m[i.to_string()] = i; i += 1; m.x = i; }",
            "a map holds more than 10000 fields",
        ),
        ("let m = #{}; let i = 0; loop { m[i.to_string()] = i; i += 1; }", "stopped after 5000000 operations"),
        ("again(1) } fn again(n) { again(n + 1)", "calls are nested more than 32 deep"),
        ("eval(\"1\")", "reserved keyword `eval` is disabled"),
        ("sleep(10)", "`sleep` is switched off: a plugin can't wait"),
        ("sleep(10.0)", "`sleep` is switched off: a plugin can't wait"),
        ("timestamp()", "`timestamp` is switched off: a plugin has no clock"),
        ("rand()", "no `rand`: chance comes from `rng`, which has a seed"),
        ("9223372036854775807 + 1", "addition overflow: 9223372036854775807 + 1"),
        ("1 / 0", "division by zero: 1 / 0"),
    ];
    for (body, expected) in cases {
        assert_eq!(stopped(body), expected, "{body}");
    }
}

#[test]
fn slow_native_work_is_stopped_by_wall_time() {
    // Few operations, each scanning a megabyte.
    let body = "let s = \"a\"; s.pad(1000000, 'a'); loop { s.index_of(\"ab\"); }";
    assert_eq!(stopped_within(Duration::from_millis(500), body), "stopped after 0.5 seconds");
}

/// The most that a call of these took was 100 GB, 10^12 bytes, 11 GB and 9 GB.
#[test]
fn what_a_call_holds_in_all_is_bounded() {
    const LARGE: &str = "a text is larger than 1048576 bytes";
    const HELD: &str = "stopped after taking 256 MiB of memory";
    let cases = [
        ("let s = \"a\"; s.pad(1000000, 'a'); let a = []; a.pad(100000, 1); join(a, s)", LARGE),
        ("let s = \"a\"; s.pad(1000000, 'a'); s.replace(\"a\", s); s", LARGE),
        ("let s = \"a\"; s.pad(1000000, 'a'); s.replace(\"\", s); s", LARGE),
        ("let s = \"a\"; s.pad(1000000, 'a'); s.replace('a', s); s", LARGE),
        (
            "let s = \"a\"; s.pad(1000000, 'a'); let m = #{}; for i in 0..9000 { m[i.to_string()] = s; } m.to_json()",
            LARGE,
        ),
        (
            "let s = \"a\"; s.pad(1000000, 'a'); let m = #{}; for i in 0..9000 { m[i.to_string()] = s; } m.to_string()",
            LARGE,
        ),
        ("let s = \"a\"; s.pad(1000000, 'a'); let m = #{}; for i in 0..9000 { m[i.to_string()] = s; } `${[m]}`", LARGE),
        (
            "let s = \"a\"; s.pad(1000000, 'a'); let m = #{}; for i in 0..9000 { m[i.to_string()] = s; } print(m); 1",
            LARGE,
        ),
        ("let s = \"a\"; s.pad(500000, 'a'); let a = []; a.pad(100000, 1); a.map(|x| s + x)", HELD),
        ("let s = \"a\"; s.pad(1000000, 'a'); let m = #{}; for i in 0..100000 { m[i.to_string()] = s + i; }", HELD),
        ("let f = |x| 1; loop { f = f.curry(f); }", HELD),
    ];
    for (body, expected) in cases {
        assert_eq!(stopped_within(Duration::from_mins(1), body), expected, "{body}");
    }
}

#[test]
fn what_is_thrown_or_given_is_not_printed_whole() {
    let many = "let s = \"a\"; s.pad(1000000, 'a'); let m = #{}; for i in 0..9000 { m[i.to_string()] = s; }";
    assert!(stopped(&format!("{many} throw m;")).len() < 20_000);
    let script = open(&format!("fn map(row) {{ {many} m }}")).unwrap();
    let error = script.map_rows(&[Row::new()], 0).unwrap_err().to_string();
    assert!(error.starts_with("what it gave is larger than 64 MiB as rows\n"), "{error}");
    let script = open("fn keep(row) { let s = \"a\"; s.pad(1000000, 'a'); s }").unwrap();
    let Keep::No(reason) = &script.keep_rows(&[Row::new()], 0).unwrap()[0] else { panic!("it is dropped") };
    assert!(reason.len() < 300, "{reason}");
}

/// 57.8 s before, against a limit of 10 s: each call in the closure takes milliseconds, and counted as no operation.
#[test]
fn time_spent_in_closures_is_the_calls_own() {
    let body = "let s = \"a\"; s.pad(4000, 'a'); let t = \"b\"; t.pad(4000, 'b'); let a = []; a.pad(3000, 1); \
                a.filter(|x| { levenshtein(s, t); false }); 1";
    let began = std::time::Instant::now();
    assert_eq!(stopped_within(Duration::from_secs(1), body), "stopped after 1 seconds");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

/// A map that holds a closure which looks at the map waits for itself while it is printed.
#[test]
fn a_call_that_waits_for_itself_is_given_up_with_its_sample() {
    let folder = project(&[(
        "plugin.rhai",
        "fn reward(sample) {\n    if sample.index == 3 {\n        let a = #{};\n        let f = || a.len();\n        a.f = f;\n        a.to_json();\n    }\n    1\n}\n",
    )]);
    let limits = Limits { wall: Duration::from_millis(400), ..Limits::default() };
    let path = folder.path().join("plugin.rhai");
    let script = Script::load(&path, folder.path(), &Row::new(), limits, Cancel::default(), |_| ()).unwrap();
    let row = Row::new();
    let samples: Vec<_> = (0..8)
        .map(|index| Sample { row: &row, prompt: "", completion: "so", truncated: false, tokens: 0, index })
        .collect();
    let error = script.rewards("reward", &samples).unwrap_err().to_string();
    let expected = "\
the call was given up after 0.6 seconds: one step of it does not end
 --> plugin.rhai:1:4
  |
1 | fn reward(sample) {
  |    ^^^^^^
  |
  = sample: number 4 of its group, 0 tokens
  = prompt: 
  = completion: so";
    assert_eq!(error, expected);
    // The threads that are left behind are not those of the next call.
    assert_eq!(script.rewards("reward", &samples[..3]).unwrap(), [bare(1.0), bare(1.0), bare(1.0)]);
}

#[test]
fn one_step_that_asks_for_too_much_is_given_up_at_once() {
    let text = "fn reward(sample) { hoard(1 << 32) }";
    let folder = project(&[("plugin.rhai", text)]);
    let path = folder.path().join("plugin.rhai");
    let extend = |engine: &mut Engine| {
        engine.register_fn("hoard", |bytes: i64| {
            i64::try_from(vec![1u8; usize::try_from(bytes).unwrap()].len()).unwrap()
        });
    };
    let script = Script::load(&path, folder.path(), &Row::new(), Limits::default(), Cancel::default(), extend).unwrap();
    let row = Row::new();
    let sample = Sample { row: &row, prompt: "", completion: "", truncated: false, tokens: 0, index: 0 };
    let error = script.rewards("reward", &[sample]).unwrap_err().to_string();
    assert!(
        error.starts_with("the call was given up: one step of it asked for more than 512 MiB of memory\n"),
        "{error}"
    );
}

#[test]
fn a_call_ends_when_its_node_is_cancelled() {
    for body in ["loop { }", "let a = #{}; let f = || a.len(); a.f = f; a.to_json()"] {
        let folder = project(&[("plugin.rhai", &format!("fn reward(sample) {{ {body} }}"))]);
        let path = folder.path().join("plugin.rhai");
        let (cancel, limits) =
            (Cancel::default(), Limits { operations: u64::MAX, wall: Duration::from_mins(10), ..Limits::default() });
        let script = Script::load(&path, folder.path(), &Row::new(), limits, cancel.clone(), |_| ()).unwrap();
        let row = Row::new();
        let sample = Sample { row: &row, prompt: "", completion: "", truncated: false, tokens: 0, index: 0 };
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            cancel.cancel();
        });
        let error = script.rewards("reward", &[sample; 9]).unwrap_err();
        assert!(error.is::<Cancelled>(), "{error}");
    }
}

/// 60,000 of them took 40 s to compile.
#[test]
fn a_plugin_that_would_take_long_to_read_is_refused() {
    let error = open(&"let a = 1;\n".repeat(60_000)).err().unwrap().to_string();
    assert!(error.starts_with("a plugin declares more than 5000 variables\n    --> plugin.rhai:5001:1\n"), "{error}");
    let error = open(&"// comment\n".repeat(100_000)).err().unwrap().to_string();
    assert!(error.starts_with("a plugin has at most 1048576 bytes; this one has 1100000\n"), "{error}");
    let error = Script::open(Path::new("/dev/zero"), Path::new("/")).err().unwrap().to_string();
    assert!(error.starts_with("cannot read the file: it is no plain file\n"), "{error}");
}

#[test]
fn data_nested_as_deep_as_the_limits_allow_does_not_overflow_the_stack() {
    let arrays = "let a = []; loop { a = [a]; }";
    let error = stopped_within(Duration::from_secs(1), arrays);
    assert!(error.starts_with("an array holds more") || error.starts_with("stopped after"), "{error}");
    let maps = "let m = #{}; loop { m = #{ m: m }; }";
    let error = stopped_within(Duration::from_secs(1), maps);
    assert!(error.starts_with("a map holds more") || error.starts_with("stopped after"), "{error}");
    let calls = format!("again(1) }} fn again(n) {{ {}again(n){}", "1 + (n * (".repeat(4), "))".repeat(4));
    assert_eq!(stopped(&calls), "calls are nested more than 32 deep");
    let closures = "let f = |x| x; loop { let g = f; f = |x| g.call(x); }";
    assert!(stopped_within(Duration::from_secs(1), closures).starts_with("stopped after"));
}

#[test]
fn a_row_nested_beyond_reason_is_refused() {
    let script = open("fn map(row) { let a = []; for i in 0..100 { a = [a]; } #{ a: a } }").unwrap();
    let error = script.map_rows(&[Row::new()], 0).unwrap_err();
    assert!(error.to_string().starts_with("`a` is nested more than 64 deep"), "{error}");
}

#[test]
fn imports_stay_inside_the_project() {
    let folder = project(&[
        ("project/plugin.rhai", "import \"../outside\" as out; fn reward(sample) { out::one() }"),
        ("outside.rhai", "fn one() { 1 }"),
    ]);
    let root = folder.path().join("project");
    let error = Script::open(&root.join("plugin.rhai"), &root).err().unwrap();
    assert_eq!(
        error.to_string(),
        "`../outside` lies outside of the project\n \
         --> plugin.rhai:1:8\n  |\n\
         1 | import \"../outside\" as out; fn reward(sample) { out::one() }\n  |        ^"
    );
    for (statement, expected) in [
        ("import \"/etc/hosts\" as x;", "an import's path is relative to the importing file"),
        ("let name = \"lib\"; import name as x;", "an import's path is literal text"),
        ("import \"lib\" as x;", "no file `lib` to import"),
        ("import \"plugin\" as x;", "`plugin` imports itself"),
        ("fn f() { import \"lib\" as x; }", "no file `lib` to import"),
    ] {
        let error = open(statement).err().unwrap().to_string();
        assert_eq!(error.lines().next().unwrap(), expected, "{statement}");
    }
}

#[test]
fn a_plugin_from_elsewhere_imports_from_its_own_folder() {
    let folder = project(&[
        ("project/pipeline.yaml", ""),
        ("elsewhere/plugin.rhai", "import \"lib\" as lib; fn reward(sample) { lib::one() }"),
        ("elsewhere/lib.rhai", "fn one() { 1 }"),
        ("elsewhere/greedy.rhai", "import \"../project/lib\" as lib;"),
        ("project/lib.rhai", ""),
    ]);
    let root = folder.path().join("project");
    assert!(Script::open(&folder.path().join("elsewhere/plugin.rhai"), &root).is_ok());
    let error = Script::open(&folder.path().join("elsewhere/greedy.rhai"), &root).err().unwrap().to_string();
    assert!(error.starts_with("`../project/lib` lies outside of the project\n"), "{error}");
}

#[test]
fn a_missing_plugin_is_told_by_its_path() {
    let folder = project(&[("project/a.rhai", "")]);
    let error = Script::open(&folder.path().join("rewards/none.rhai"), folder.path()).err().unwrap().to_string();
    assert_eq!(error, "cannot read the file: No such file or directory (os error 2)\n --> rewards/none.rhai");
}

#[cfg(unix)]
#[test]
fn a_link_does_not_lead_an_import_out_of_the_project() {
    let folder = project(&[("project/plugin.rhai", "import \"link\" as x;"), ("outside.rhai", "")]);
    let root = folder.path().join("project");
    std::os::unix::fs::symlink(folder.path().join("outside.rhai"), root.join("link.rhai")).unwrap();
    let error = Script::open(&root.join("plugin.rhai"), &root).err().unwrap().to_string();
    assert!(error.starts_with("`link` lies outside of the project\n"), "{error}");
}

#[test]
fn imports_of_imports_are_found_each_once() {
    let folder = project(&[
        (
            "a/plugin.rhai",
            "import \"../b/one\" as one; import \"two.rhai\" as two; fn reward(sample) { one::f() + two::f() }",
        ),
        ("b/one.rhai", "import \"../a/two\" as two; fn f() { two::f() * 10 }"),
        ("a/two.rhai", "const TWO = 2; fn f() { global::TWO }"),
        ("a/unused.rhai", ""),
    ]);
    let plugin = folder.path().join("a/plugin.rhai");
    let found = imports(&plugin).unwrap();
    assert_eq!(found, [folder.path().join("a/two.rhai"), folder.path().join("b/one.rhai")]);
    let script = Script::open(&plugin, folder.path()).unwrap();
    let row = Row::new();
    let sample = Sample { row: &row, prompt: "", completion: "", truncated: false, tokens: 0, index: 0 };
    assert_eq!(script.rewards("reward", &[sample]).unwrap(), [bare(22.0)]);
}

#[test]
fn invalid_rhai_is_shown_with_its_line() {
    let error = open("fn reward(sample) {\n    let x = 1\n    x\n}\n").err().unwrap();
    let expected = "\
expecting `;` to terminate this statement
 --> plugin.rhai:3:5
  |
3 |     x
  |     ^";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn an_unknown_variable_is_found_before_anything_runs() {
    let error = open("const HALF = 0.5;\nfn reward(sample) {\n    HALF\n}\n").err().unwrap();
    let expected = "\
no variable `HALF`
 --> plugin.rhai:3:5
  |
3 |     HALF
  |     ^^^^
  |
  = help: a function sees its own variables and `params`; a constant of the file is `global::HALF`";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn an_unknown_function_is_shown_with_its_line_the_sample_and_the_nearest_name() {
    let text = "fn right(text) {\n    nubmer(text)\n}\nfn reward(sample) {\n    right(sample.completion)\n}\n";
    let error = reward_of(text, "<answer>6</answer>\n").unwrap_err();
    let expected = "\
no function `nubmer(string)`
 --> plugin.rhai:2:5
  |
2 |     nubmer(text)
  |     ^^^^^^
  |
  = in: `right`
  = in: `reward`
  = sample: number 1 of its group, 7 tokens
  = prompt: 2+3=
  = completion: <answer>6</answer>\\n
  = answer: 5
  = help: did you mean `number`?";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn a_reward_that_is_not_a_number_is_an_error_and_never_zero() {
    let cases = [
        ("0.0 / 0.0", "the reward is NaN, not a finite number"),
        ("1.0 / 0.0", "the reward is inf, not a finite number"),
        ("1e300", "the reward is 1e300, not a finite number"),
        ("\"1\"", "the reward is the text `1`, not a number"),
        ("true", "the reward is true, not a number"),
        ("let x = 1;", "the reward is nothing, not a number"),
        ("[1]", "the reward is an array, not a number"),
        ("#{}", "the reward is a map without parts"),
        ("#{ accuracy: () }", "the reward's part `accuracy` is nothing, not a number"),
    ];
    for (body, expected) in cases {
        let error = reward_of(&format!("fn reward(sample) {{ {body} }}"), "").unwrap_err().to_string();
        assert_eq!(error.lines().next().unwrap(), expected, "{body}");
    }
    let error = reward_of("// Halves.\nfn reward(sample) {\n    0.0 / 0.0\n}\n", &"long ".repeat(100)).unwrap_err();
    let shown = format!("{}… 260 more … {}", "long ".repeat(32), "long ".repeat(16));
    let expected = format!(
        "\
the reward is NaN, not a finite number
 --> plugin.rhai:2:4
  |
2 | fn reward(sample) {{
  |    ^^^^^^
  |
  = sample: number 1 of its group, 7 tokens
  = prompt: 2+3=
  = completion: {shown}
  = answer: 5"
    );
    assert_eq!(error.to_string(), expected.replace("long … 260", "long  … 260"));
}

#[test]
fn a_missing_function_is_told_with_those_there_are() {
    let error = reward_of("fn rewards(sample) { 1 }", "").unwrap_err();
    let expected = "\
no function `reward` in the plugin
 --> plugin.rhai
  |
  = help: did you mean `rewards`?";
    assert_eq!(error.to_string(), expected);
    let error = reward_of("fn keep(sample) { 1 }", "").unwrap_err().to_string();
    assert!(error.ends_with("= help: it defines `keep`"), "{error}");
    let error = reward_of("fn reward(a, b, c) { 1 }", "").unwrap_err().to_string();
    assert!(error.starts_with("`reward` takes 3 parameters, but is given 2\n"), "{error}");
}

#[test]
fn of_several_failing_samples_the_first_is_shown() {
    let script = open("fn reward(sample) { if sample.index % 100 == 70 { throw `at ${sample.index}` } 1 }").unwrap();
    let row = Row::new();
    let samples: Vec<_> = (0..1000)
        .map(|index| Sample { row: &row, prompt: "", completion: "", truncated: false, tokens: 0, index })
        .collect();
    for _ in 0..10 {
        let error = script.rewards("reward", &samples).unwrap_err().to_string();
        assert!(error.starts_with("at 70\n"), "{error}");
    }
}

#[test]
fn rewards_are_in_the_order_of_the_samples() {
    let script =
        open("fn reward(sample) { let x = 0; for i in 0..(1000 - sample.index) { x += 1; } sample.index }").unwrap();
    let row = Row::new();
    let samples: Vec<_> = (0..1000)
        .map(|index| Sample { row: &row, prompt: "", completion: "", truncated: false, tokens: 0, index })
        .collect();
    let totals: Vec<f32> = script.rewards("reward", &samples).unwrap().iter().map(|reward| reward.total).collect();
    assert_eq!(totals, (0..1000).map(|i| i as f32).collect::<Vec<_>>());
}

#[test]
fn a_filter_keeps_drops_or_says_why() {
    let script = open("fn keep(row) { switch row.n { 0 => true, 1 => false, 2 => \"too large\", _ => 7 } }").unwrap();
    let rows: Vec<Row> = (0..3).map(|n| row(json!({ "n": n }))).collect();
    let verdicts = script.keep_rows(&rows, 0).unwrap();
    assert_eq!(verdicts, [Keep::Yes, Keep::No("no reason given".into()), Keep::No("too large".into())]);
    let error = script.keep_rows(&[row(json!({ "n": 3 }))], 41).unwrap_err().to_string();
    assert!(error.starts_with("`keep` gave 7, not true, false or a reason\n"), "{error}");
    assert!(error.ends_with("= row: 42 {\"n\":3}"), "{error}");
}

#[test]
fn drawn_rows_depend_on_the_seed_and_the_index_alone() {
    let text = "fn digit(rng) { rng.int(0, 9) }\n\
                fn row(rng, index) { #{ i: index, a: digit(rng), b: digit(rng), c: rng.pick([1, 2, 3]), d: rng.shuffle([1, 2, 3]), \
                e: rng.float(), f: rng.chance(0.5), g: rng.weighted([1, 2], [1, 3.0]) } }";
    let script = open(text).unwrap();
    let all = script.draw_rows(17, 0..500).unwrap();
    let one_thread = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    assert_eq!(one_thread.install(|| script.draw_rows(17, 0..500).unwrap()), all);
    assert_eq!(script.draw_rows(17, 300..500).unwrap(), all[300..]);
    assert_ne!(script.draw_rows(18, 0..500).unwrap(), all);
    let value = |i: usize, name: &str| all[i][0][name].clone();
    assert!((0..500).all(|i| (0..=9).contains(&value(i, "a").as_i64().unwrap())));
    // A function that is handed `rng` moves it on: two draws through it are not the same digit each time.
    let same = (0..500).filter(|i| value(*i, "a") == value(*i, "b")).count();
    assert!((20..90).contains(&same), "{same} of 500, where 50 are expected");
    let heavy = (0..500).filter(|i| value(*i, "g") == json!(2)).count();
    assert!((340..410).contains(&heavy), "{heavy} of 500, where 375 are expected");
}

#[test]
fn chance_without_sense_is_an_error() {
    for (draw, expected) in [
        ("rng.int(2, 1)", "rng.int(2, 1): there is no number from 2 to 1"),
        ("rng.pick([])", "rng.pick([]): there is nothing to pick"),
        ("rng.chance(1.5)", "rng.chance(1.5): a probability lies from 0 to 1"),
        ("rng.weighted([1], [1, 2])", "rng.weighted: 1 items, but 2 weights"),
        ("rng.weighted([1], [-1])", "rng.weighted: a weight is a number from zero on, not -1"),
        ("rng.weighted([1], [0])", "rng.weighted: all weights are zero"),
    ] {
        let script = open(&format!("fn row(rng, index) {{ #{{ x: {draw} }} }}")).unwrap();
        let error = script.draw_rows(1, 0..1).unwrap_err().to_string();
        assert_eq!(error.lines().next().unwrap(), expected);
    }
}

#[test]
fn a_mapped_row_keeps_its_order_and_what_no_one_touched() {
    let old = row(json!({ "z": 1, "a": "x", "nothing": null, "list": [1, 2.5, true] }));
    let script = open("fn map(row) { row.b = row.z + 1; row.remove(\"a\"); row }").unwrap();
    let new = script.map_rows(&[old], 0).unwrap();
    assert_eq!(serde_json::to_string(&new).unwrap(), r#"[[{"z":1,"nothing":null,"list":[1,2.5,true],"b":2}]]"#);
    let script = open("fn map(row) { switch row.n { 0 => (), 1 => [row, row], _ => #{ x: 0.0 / 0.0 } } }").unwrap();
    let rows: Vec<Row> = (0..2).map(|n| row(json!({ "n": n }))).collect();
    assert_eq!(script.map_rows(&rows, 0).unwrap().iter().map(Vec::len).collect::<Vec<_>>(), [0, 2]);
    let error = script.map_rows(&[row(json!({ "n": 2 }))], 0).unwrap_err().to_string();
    assert!(error.starts_with("`x` is NaN, which a row can't hold\n"), "{error}");
}

#[test]
fn tests_of_plugins_run_by_name_and_show_what_failed() {
    let folder = project(&[
        (
            "plugins/b.rhai",
            "fn test_two() { assert_eq(1 + 1, 3); }\nfn test_one() { assert(true); assert_eq([1, \"a\"], [1, \"a\"]); }\nfn helper() { 1 }",
        ),
        (
            "plugins/deep/c.rhai",
            "fn reward(sample) { sample.tokens }\nfn test_reward() { assert_eq(reward(sample(\"abc\", #{ answer: 5 })), 3); }",
        ),
        ("plugins/broken.rhai", "fn {"),
        ("plugins/notes.txt", "fn test_nothing() {}"),
    ]);
    let outcomes = run_tests(&folder.path().join("plugins"), folder.path()).unwrap();
    let shown: Vec<_> = outcomes.iter().map(|o| (o.file.as_str(), o.name.as_str(), o.error.is_none())).collect();
    assert_eq!(
        shown,
        [
            ("plugins/b.rhai", "test_one", true),
            ("plugins/b.rhai", "test_two", false),
            ("plugins/broken.rhai", "", false),
            ("plugins/deep/c.rhai", "test_reward", true),
        ]
    );
    let expected = "\
2 is not 3
 --> plugins/b.rhai:1:17
  |
1 | fn test_two() { assert_eq(1 + 1, 3); }
  |                 ^^^^^^^^^
  |
  = in: `test_two`";
    assert_eq!(outcomes[1].error.as_deref(), Some(expected));
}

#[test]
fn every_plugin_of_the_project_passes_its_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let outcomes = run_tests(&root.join("plugins"), root).unwrap();
    let failed: Vec<_> = outcomes.iter().filter_map(|o| o.error.as_ref().map(|e| format!("{} {e}", o.name))).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
    assert!(outcomes.len() >= 15, "only {} tests found", outcomes.len());
}
