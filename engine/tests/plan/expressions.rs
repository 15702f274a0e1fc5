//! What `${{ ... }}` stands for, and the whole message for every mistake in one.

use serde_json::{Value, json};

use crate::toys::{assert_mistakes, plan, plan_with, shown};

/// The value of one expression, in a pipeline with these variables.
fn value(expression: &str) -> Value {
    let text = format!(
        "
vars:
  steps: 150
  lr: 1e-5
  name: Ada
  deep: {{ list: [10, 20, [30]], \"a-b\": 7 }}
  empty: null
  on: true
  names: [a, b]
x-uses: \"${{{{ [vars.steps, vars.lr, vars.name, vars.deep, vars.empty, vars.on, vars.names] }}}}\"
nodes:
  p: {{ stage: press, with: {{ text: main.rs }} }}
  out: {{ stage: any, with: {{ value: {expression:?} }} }}
"
    );
    let registry = crate::toys::registry().with::<Any>();
    let plan = crate::toys::spec(&text, &[]).and_then(|spec| engine::Plan::resolve(&spec, &registry));
    let plan = plan.unwrap_or_else(|mistakes| panic!("{}", shown(&mistakes)));
    plan.node("out").expect("it is written").with["value"].clone()
}

/// Takes any value.
#[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Any {
    value: Value,
}

impl engine::Stage for Any {
    const NAME: &'static str = "any";
    const VERSION: u32 = 1;
    const INPUTS: &'static [engine::Input] = &[];
    const OUTPUT: &'static str = "any";
    type Settings = engine::NoSettings;

    fn run(&self, _: &engine::NoSettings, _: &engine::Context) -> anyhow::Result<()> {
        Ok(())
    }
}

#[test]
fn expressions_mean_what_arithmetic_means() {
    for (expression, expected) in [
        ("vars.steps / 2", json!(75)),
        ("vars.steps / 4", json!(37.5)),
        ("vars.steps + 1", json!(151)),
        ("vars.steps-1", json!(149)),
        ("vars.steps - vars.steps % 4", json!(148)),
        ("2 + 3 * 4", json!(14)),
        ("(2 + 3) * 4", json!(20)),
        ("10 - 4 - 3", json!(3)),
        ("24 / 4 / 3", json!(2)),
        ("-vars.steps", json!(-150)),
        ("- -2", json!(2)),
        ("1.5 + 1", json!(2.5)),
        ("1.0 + 1", json!(2.0)),
        ("7 % 3", json!(1)),
        ("-7 % 3", json!(2)),
        ("2e3", json!(2000.0)),
        ("1e-5", json!(1e-5)),
        ("vars.lr * 2", json!(2e-5)),
        ("18446744073709551615", json!(u64::MAX)),
        ("18446744073709551614 + 1", json!(u64::MAX)),
        ("-9223372036854775807 - 1", json!(i64::MIN)),
        ("9007199254740993 + 0", json!(9_007_199_254_740_993_i64)),
    ] {
        assert_eq!(value(&format!("${{{{ {expression} }}}}")), expected, "{expression}");
    }
}

#[test]
fn expressions_compare_choose_and_default() {
    for (expression, expected) in [
        ("vars.steps > 100", json!(true)),
        ("vars.steps >= 150 && vars.steps <= 150", json!(true)),
        ("vars.steps < 1 || vars.on", json!(true)),
        ("!vars.on", json!(false)),
        ("1 == 1.0", json!(true)),
        ("9007199254740993 == 9007199254740992", json!(false)),
        ("vars.name == 'Ada'", json!(true)),
        ("vars.name != \"Ada\"", json!(false)),
        ("'a' < 'b'", json!(true)),
        ("vars.empty == null", json!(true)),
        ("vars.name == null", json!(false)),
        ("vars.names == ['a', 'b']", json!(true)),
        ("1 < 2 == true", json!(true)),
        ("true || false && false", json!(true)),
        ("vars.on ? 1 : 2", json!(1)),
        ("vars.steps > 200 ? 'long' : vars.steps > 100 ? 'middle' : 'short'", json!("middle")),
        ("false && vars.nowhere", json!(false)),
        ("true ? 1 : vars.nowhere", json!(1)),
        ("default(vars.nowhere, 8)", json!(8)),
        ("default(vars.deep.nowhere.at.all, 8)", json!(8)),
        ("default(vars.empty, 8)", json!(8)),
        ("default(vars.steps, 8)", json!(150)),
        ("default(default(vars.a, vars.b), 3)", json!(3)),
    ] {
        assert_eq!(value(&format!("${{{{ {expression} }}}}")), expected, "{expression}");
    }
}

#[test]
fn expressions_reach_into_lists_and_blocks_and_put_texts_together() {
    for (expression, expected) in [
        ("${{ vars.deep.list.1 }}", json!(20)),
        ("${{ vars.deep.list[1] }}", json!(20)),
        ("${{ vars.deep.list.2.0 }}", json!(30)),
        ("${{ vars.deep.list[len(vars.deep.list) - 3] }}", json!(10)),
        ("${{ vars.deep['a-b'] }}", json!(7)),
        ("${{ vars['deep']['list'] }}", json!([10, 20, [30]])),
        ("${{ [1, 'x', vars.names] }}", json!([1, "x", ["a", "b"]])),
        ("${{ [1, 2][1] }}", json!(2)),
        ("${{ vars.names + ['c'] }}", json!(["a", "b", "c"])),
        ("${{ vars.name + '!' }}", json!("Ada!")),
        ("${{ len(vars.names) + len('größe') + len([]) + len(vars.deep) }}", json!(9)),
        ("${{ join(vars.names, ', ') }}", json!("a, b")),
        ("${{ join([1, 2.5, true, 'x'], '-') }}", json!("1-2.5-true-x")),
        ("${{ '}}' }}", json!("}}")),
        ("${{ 'it\\'s' }}", json!("it's")),
        ("${{vars.steps}}", json!(150)),
        ("  ${{ vars.steps }}  ", json!(150)),
        ("step ${{ vars.steps }} of ${{ vars.steps * 2 }}", json!("step 150 of 300")),
        ("${{ vars.steps }}${{ vars.name }}", json!("150Ada")),
        ("${{ '${{' }}", json!("${{")),
    ] {
        assert_eq!(value(expression), expected, "{expression}");
    }
}

#[test]
fn mistakes_in_what_is_computed_are_told_with_a_caret_inside_the_expression() {
    assert_mistakes(
        r#"
vars: { n: 3, name: Ada, list: [1, 2] }
nodes:
  a: { stage: press, with: { text: main.rs, sheets: "${{ vars.n + vars.name }}" } }
  b: { stage: press, with: { text: main.rs, sheets: "${{ vars.n / (3 - vars.n) }}" } }
  c: { stage: press, with: { text: main.rs, sheets: "${{ vars.n = 3 ? 1 : 2 }}" } }
  d: { stage: press, with: { text: main.rs, sheets: "${{ len(vars.n) }}" } }
  e: { stage: press, with: { text: main.rs, sheets: "${{ lenn(vars.list) }}" } }
  f: { stage: press, with: { text: main.rs, sheets: "${{ vars.list[2] }}" } }
  g: { stage: press, with: { text: main.rs, sheets: "${{ vars.n ? 1 : 2 }}" } }
"#,
        r#"
error[E0121]: `+` cannot add `3` and the text "Ada"
 --> p.yaml:4:58
  |
4 |   a: { stage: press, with: { text: main.rs, sheets: "${{ vars.n + vars.name }}" } }
  |                                                          ^^^^^^^^^^^^^^^^^^
  |
  = help: `join([a, b], "")` makes one text of both

error[E0121]: division by zero
 --> p.yaml:5:58
  |
5 |   b: { stage: press, with: { text: main.rs, sheets: "${{ vars.n / (3 - vars.n) }}" } }
  |                                                          ^^^^^^^^^^^^^^^^^^^^^

error[E0121]: expected an operator or `}}`, found `=`
 --> p.yaml:6:65
  |
6 |   c: { stage: press, with: { text: main.rs, sheets: "${{ vars.n = 3 ? 1 : 2 }}" } }
  |                                                                 ^
  |
  = help: two values are compared by `==`

error[E0121]: `len` takes a text, a list or a block, found `3`
 --> p.yaml:7:62
  |
7 |   d: { stage: press, with: { text: main.rs, sheets: "${{ len(vars.n) }}" } }
  |                                                              ^^^^^^

error[E0121]: no function `lenn`
 --> p.yaml:8:58
  |
8 |   e: { stage: press, with: { text: main.rs, sheets: "${{ lenn(vars.list) }}" } }
  |                                                          ^^^^
  |
  = help: did you mean `len`?

error[E0120]: no variable `vars.list.2`
 --> p.yaml:9:68
  |
9 |   f: { stage: press, with: { text: main.rs, sheets: "${{ vars.list[2] }}" } }
  |                                                                    ^
  |
  = help: the list has 2 items, counted from 0

error[E0121]: `?` takes `true` or `false`, found `3`
  --> p.yaml:10:58
   |
10 |   g: { stage: press, with: { text: main.rs, sheets: "${{ vars.n ? 1 : 2 }}" } }
   |                                                          ^^^^^^
"#,
    );
}

#[test]
fn mistakes_in_how_it_is_written_are_told_with_a_caret_inside_the_expression() {
    assert_mistakes(
        r#"
vars: { n: 3, name: Ada }
nodes:
  h: { stage: press, with: { text: main.rs, sheets: "${{ 1 < vars.n < 3 }}" } }
  i: { stage: press, with: { text: main.rs, sheets: "${{ vars.name == 1 ? 1 : 2 }}" } }
  j: { stage: press, with: { text: main.rs, sheets: "${{ 18446744073709551615 + vars.n }}" } }
  k: { stage: press, with: { text: main.rs, sheets: "${{ 1_000 }}" } }
  l: { stage: press, with: { text: main.rs, sheets: "${{ }}" } }
  m: { stage: press, with: { text: main.rs, sheets: "${{ env.HOME }}" } }
  n: { stage: press, with: { text: main.rs, sheets: "${{ matrix.seed }}" } }
"#,
        r#"
error[E0121]: comparisons do not chain
 --> p.yaml:4:69
  |
4 |   h: { stage: press, with: { text: main.rs, sheets: "${{ 1 < vars.n < 3 }}" } }
  |                                                                     ^
  |
  = help: write `a < b && b < c`, or parentheses

error[E0121]: the text "Ada" and `1` are never equal
 --> p.yaml:5:58
  |
5 |   i: { stage: press, with: { text: main.rs, sheets: "${{ vars.name == 1 ? 1 : 2 }}" } }
  |                                                          ^^^^^^^^^^^^^^

error[E0121]: `18446744073709551615 + vars.n` is a number too large
 --> p.yaml:6:58
  |
6 |   j: { stage: press, with: { text: main.rs, sheets: "${{ 18446744073709551615 + vars.n }}" } }
  |                                                          ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^

error[E0121]: `1_000` is not a number
 --> p.yaml:7:58
  |
7 |   k: { stage: press, with: { text: main.rs, sheets: "${{ 1_000 }}" } }
  |                                                          ^^^^^
  |
  = help: write `1000`

error[E0121]: an expression is empty
 --> p.yaml:8:58
  |
8 |   l: { stage: press, with: { text: main.rs, sheets: "${{ }}" } }
  |                                                          ^^
  |
  = help: write `${{ vars.NAME }}`

error[E0121]: the environment decides no value of a pipeline
 --> p.yaml:9:58
  |
9 |   m: { stage: press, with: { text: main.rs, sheets: "${{ env.HOME }}" } }
  |                                                          ^^^
  |
  = help: give the value with `--set vars.NAME=VALUE`; `env:` is for programs that a node runs

error[E0121]: there is no matrix here
  --> p.yaml:10:58
   |
10 |   n: { stage: press, with: { text: main.rs, sheets: "${{ matrix.seed }}" } }
   |                                                          ^^^^^^
   |
   = help: `matrix.AXIS` is the value of an axis inside a node that has a `matrix:`
"#,
    );
}

#[test]
fn a_wrong_value_that_was_computed_is_told_with_what_it_was_made_of() {
    assert_mistakes(
        r#"
vars: { steps: 7 }
nodes:
  p: { stage: press, with: { text: main.rs, sheets: "${{ vars.steps / 2 }}" } }
"#,
        r#"
error[E0106]: parameter `sheets` must be an integer, found `3.5`
 --> p.yaml:4:53
  |
2 | vars: { steps: 7 }
  |                - taken from here
3 | nodes:
4 |   p: { stage: press, with: { text: main.rs, sheets: "${{ vars.steps / 2 }}" } }
  |                                                     ^^^^^^^^^^^^^^^^^^^^^^^
"#,
    );
}

#[test]
fn variables_may_be_made_of_variables_but_not_in_a_circle() {
    let text = "
vars: { a: \"${{ vars.b.c * 2 }}\", b: \"${{ vars.d }}\", d: { c: 21 } }
nodes: { p: { stage: press, with: { text: main.rs, sheets: \"${{ vars.a }}\" } } }
";
    assert_eq!(plan(text).nodes()[0].with["sheets"], 42);
    assert_mistakes(
        r#"
vars:
  b: "${{ vars.c }}"
  a: "${{ 1 + vars.b }}"
  c: { x: "${{ vars.a }}" }
nodes: { p: { stage: press, with: { text: main.rs, sheets: "${{ vars.c.x }}" } } }
"#,
        r#"
error[E0121]: variables refer to each other in a circle: `vars.a` -> `vars.b` -> `vars.c` -> `vars.a`
 --> p.yaml:4:15
  |
3 |   b: "${{ vars.c }}"
  |           ------ `vars.b` asks for `vars.c`
4 |   a: "${{ 1 + vars.b }}"
  |               ^^^^^^ `vars.a` asks for `vars.b`
5 |   c: { x: "${{ vars.a }}" }
  |                ------ `vars.c` asks for `vars.a`
"#,
    );
}

#[test]
fn a_variable_that_nothing_asks_for_is_a_mistake() {
    assert_mistakes(
        "
vars: { sheets: 3, shets: 4 }
nodes: { p: { stage: press, with: { text: main.rs, sheets: \"${{ vars.sheets }}\" } } }
",
        "
error[E0124]: nothing asks for the variable `vars.shets`
 --> p.yaml:2:20
  |
2 | vars: { sheets: 3, shets: 4 }
  |                    ^^^^^
  |
  = help: ask for it with `${{ vars.shets }}`, or remove it
",
    );
    // What the command line replaces, or a choice leaves aside, was asked for.
    let text = "
vars: { sheets: 3, other: 4 }
nodes: { p: { stage: press, with: { text: main.rs, sheets: \"${{ true ? vars.sheets : vars.other }}\" } } }
";
    assert_eq!(plan(text).nodes()[0].with["sheets"], 3);
    let plan = plan_with(text, &["nodes.p.with.sheets=5"]).unwrap_or_else(|mistakes| panic!("{}", shown(&mistakes)));
    assert_eq!(plan.nodes()[0].with["sheets"], 5);
}

#[test]
fn a_name_with_a_minus_is_told_how_to_be_written() {
    assert_mistakes(
        r#"
vars: { max-sheets: 3 }
x-uses: "${{ vars['max-sheets'] }}"
nodes: { p: { stage: press, with: { text: main.rs, sheets: "${{ vars.max-sheets }}" } } }
"#,
        r#"
error[E0120]: no variable `vars.max`
 --> p.yaml:4:70
  |
4 | nodes: { p: { stage: press, with: { text: main.rs, sheets: "${{ vars.max-sheets }}" } } }
  |                                                                      ^^^
  |
  = help: did you mean `vars["max-sheets"]`?
"#,
    );
}

#[test]
fn an_expression_of_any_size_ends_in_words_and_not_in_a_crash() {
    for (inner, message) in [
        (format!("{}1{}", "(".repeat(5000), ")".repeat(5000)), "an expression is nested more than 64 deep"),
        (format!("{}1", "len(".repeat(5000)), "an expression is nested more than 64 deep"),
        (format!("{}1", "[".repeat(5000)), "an expression is nested more than 64 deep"),
        (format!("{}1", "-".repeat(5000)), "an expression is nested more than 64 deep"),
        (format!("{}1", "1 + ".repeat(5000)), "an expression has more than 500 operations"),
        (format!("vars{}", ".a".repeat(5000)), "an expression has more than 500 operations"),
        (format!("{}1", "true ? 1 : ".repeat(5000)), "an expression is nested more than 64 deep"),
    ] {
        let text =
            format!("nodes: {{ p: {{ stage: press, with: {{ text: main.rs, sheets: \"${{{{ {inner} }}}}\" }} }} }}\n");
        let mistakes = plan_with(&text, &[]).expect_err("it is too much");
        assert_eq!((mistakes.len(), mistakes[0].message.as_str()), (1, message));
    }
}
