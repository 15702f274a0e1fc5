//! What YAML's words mean here, and what of it is refused.

use serde_json::{Value, json};

use crate::toys::{assert_mistakes, plan_with, shown, spec};

/// The title of a picture, as written.
fn parameter(name: &str, written: &str) -> Value {
    let text = format!(
        "nodes:\n  p: {{ stage: press, with: {{ text: main.rs }} }}\n  a:\n    stage: paint\n    inputs: {{ paper: p }}\n    \
         with:\n      {name}: {written}\n"
    );
    let plan = plan_with(&text, &[]).unwrap_or_else(|mistakes| panic!("{}", shown(&mistakes)));
    plan.node("a").expect("it is written").with[name].clone()
}

#[test]
fn words_and_numbers_are_what_people_mean() {
    // YAML 1.1 reads the first nine as truths, octal, sixty-based or grouped numbers, and dates.
    for text in
        ["no", "on", "off", "yes", "y", "0777", "1_000", "12:30:45", "2026-11-23", "1.2.3", "0x", "+", "e5", "1e"]
    {
        assert_eq!(parameter("title", text), text);
    }
    for (written, number) in [
        ("1e-5", json!(1e-5)),
        ("1E-5", json!(1e-5)),
        ("1.0e+0", json!(1.0)),
        (".5", json!(0.5)),
        ("0.25", json!(0.25)),
    ] {
        assert_eq!(parameter("water", written).as_f64(), number.as_f64(), "{written}");
    }
    for (written, number) in [("7", 7), ("0x1F", 31), ("0o17", 15), ("+5", 5)] {
        assert_eq!(parameter("strokes", written), number, "{written}");
    }
    assert_eq!((parameter("varnish", "true"), parameter("varnish", "False")), (json!(true), json!(false)));
    assert_eq!((parameter("drying", "null"), parameter("drying", "~"), parameter("drying", "")), Default::default());
    assert_eq!(parameter("title", "|\n        two\n        lines"), "two\nlines\n");
    assert_eq!(parameter("title", ">-\n        one\n        line"), "one line");
}

#[test]
fn an_expression_without_quotes_is_told_to_take_some() {
    assert_mistakes(
        "
vars: { n: 3 }
nodes:
  p: { stage: press, with: { text: main.rs, sheets: ${{ vars.n }} } }
",
        "
error[E0100]: an expression inside brackets needs quotes
 --> p.yaml:4:53
  |
4 |   p: { stage: press, with: { text: main.rs, sheets: ${{ vars.n }} } }
  |                                                     ^^^^^^^^^^^^^
  |
  = help: write `\"${{ vars.n }}\"`
",
    );
    // Outside of brackets none are needed.
    let text = "
vars: { n: 3 }
nodes:
  p:
    stage: press
    with:
      text: main.rs
      sheets: ${{ vars.n }}
";
    assert_eq!(plan_with(text, &[]).expect("it is right").nodes()[0].with["sheets"], 3);
}

#[test]
fn two_documents_are_not_one_pipeline() {
    let mistakes = spec("nodes: {}\n---\nnodes: {}\n", &[]).expect_err("two documents");
    assert_eq!((mistakes.len(), mistakes[0].code), (1, "E0100"));
}
