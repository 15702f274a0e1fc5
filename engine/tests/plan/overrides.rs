//! What `--set` does, and the whole message for every mistake in one.

use serde_json::{Value, json};

use crate::toys::{assert_mistakes_with, plan_with, shown};

const PIPELINE: &str = "
vars: { water: 0.5 }
nodes:
  sheet: { stage: press, with: { text: main.rs, attachments: [main.rs] } }
  sky:
    stage: paint
    inputs: { paper: sheet }
    with: { water: \"${{ vars.water }}\", title: blue, brush: { width: 2 } }
    run: { hands: 2 }
  wall: { stage: hang, inputs: { pictures: [sky] } }
";

/// The parameters of a node with these overrides.
fn with(node: &str, overrides: &[&str]) -> Value {
    let plan = plan_with(PIPELINE, overrides).unwrap_or_else(|mistakes| panic!("{}", shown(&mistakes)));
    plan.node(node).expect("it is written").with.clone()
}

#[test]
fn a_short_path_is_a_parameter_of_a_node() {
    assert_eq!(with("sky", &["sky.strokes=9"]), with("sky", &["nodes.sky.with.strokes=9"]));
    assert_eq!(with("sky", &["sky.brush.hairs=10"])["brush"], json!({ "width": 2, "hairs": 10 }));
    let plan = plan_with(PIPELINE, &["sky.run.hands=3", "sky.seed=4"]).expect("it is right");
    let sky = plan.node("sky").expect("it is written");
    assert_eq!((sky.settings["hands"].clone(), sky.seed), (json!(3), 4));
}

#[test]
fn a_value_is_read_as_yaml() {
    for (value, expected) in [
        ("sky.palette=[1, 2.5]", json!([1.0, 2.5])),
        ("sky.palette=[]", json!([])),
        ("sky.title=no", json!("no")),
        ("sky.title=\"5\"", json!("5")),
        ("sky.title=a=b.c", json!("a=b.c")),
        ("sky.title=${{ vars.water > 0.1 ? 'wet' : 'dry' }}", json!("wet")),
        ("sky.strokes=1000", json!(1000)),
        ("sky.varnish=true", json!(true)),
        ("sky.drying=null", json!(null)),
        ("sky.brush={ width: 1, hairs: 3 }", json!({ "width": 1, "hairs": 3 })),
    ] {
        let name = value[4..].split('=').next().expect("a path");
        assert_eq!(with("sky", &[value])[name], expected, "{value}");
    }
}

#[test]
fn the_last_of_two_overrides_wins() {
    assert_eq!(with("sky", &["sky.strokes=9", "sky.strokes=10"])["strokes"], 10);
    assert_eq!(with("sky", &["vars.water=1", "vars.water=0.75"])["water"], 0.75);
}

#[test]
fn a_plus_adds_a_key_an_item_or_a_node() {
    assert_eq!(
        with("sheet", &["+sheet.attachments=books/good.book"])["attachments"],
        json!(["main.rs", "books/good.book"])
    );
    assert_eq!(with("sky", &["+sky.strokes=3"])["strokes"], 3);
    let add = ["+nodes.sea={ stage: paint, inputs: { paper: sheet } }", "+wall.inputs.pictures=sea"];
    let plan = plan_with(PIPELINE, &add).unwrap_or_else(|mistakes| panic!("{}", shown(&mistakes)));
    assert_eq!(plan.node("wall").expect("it is written").inputs[0].nodes, ["sky", "sea"]);
    let plan = plan_with(PIPELINE, &["+vars.strokes=4", "sky.strokes=${{ vars.strokes }}"]).expect("it is right");
    assert_eq!(plan.node("sky").expect("it is written").with["strokes"], 4);
}

#[test]
fn a_tilde_removes_and_the_default_comes_back() {
    assert_eq!(with("sky", &["~sky.title"])["title"], "untitled");
    assert_eq!(with("sky", &["~sky.brush.width"])["brush"]["width"], 4);
    assert_eq!(with("sheet", &["~sheet.attachments.0"])["attachments"], json!([]));
    let plan = plan_with(PIPELINE, &["~nodes.wall"]).expect("it is right");
    assert!(plan.node("wall").is_none());
}

#[test]
fn a_wrong_value_is_shown_in_the_words_of_the_command_line() {
    assert_mistakes_with(
        PIPELINE,
        &["sky.strokes=fast"],
        "
error[E0106]: parameter `strokes` must be an integer, found the text \"fast\"
 --> command line:1:19
  |
1 | --set sky.strokes=fast
  |                   ^^^^
",
    );
    assert_mistakes_with(
        PIPELINE,
        &["sky.palette=[1"],
        "
error[E0100]: unclosed bracket '['
 --> command line:1:19
  |
1 | --set sky.palette=[1
  |                   ^
",
    );
}

#[test]
fn a_path_that_leads_nowhere_is_told_with_the_nearest() {
    for (words, expected) in [
        (
            "sgy.strokes=1",
            "
error[E0122]: no `sgy` to set
 --> command line:1:7
  |
1 | --set sgy.strokes=1
  |       ^^^
  |
  = help: did you mean `sky`?
",
        ),
        (
            "sky.strokez=1",
            "
error[E0104]: unknown parameter `strokez`
 --> command line:1:11
  |
1 | --set sky.strokez=1
  |           ^^^^^^^
  |
  = help: did you mean `strokes`?
",
        ),
        (
            "~sky.tilte",
            "
error[E0122]: no `tilte` to remove
 --> command line:1:12
  |
1 | --set ~sky.tilte
  |            ^^^^^
  |
  = help: did you mean `title`?
",
        ),
        (
            "~sky.title=3",
            "
error[E0122]: `~` removes and takes no value
 --> command line:1:17
  |
1 | --set ~sky.title=3
  |                 ^^
",
        ),
        (
            "+sky.title=red",
            "
error[E0122]: `title` is there already
 --> command line:1:12
  |
1 | --set +sky.title=red
  |            ^^^^^
  |
 ::: p.yaml:8:41
  |
8 |     with: { water: \"${{ vars.water }}\", title: blue, brush: { width: 2 } }
  |                                         ----- defined here
  |
  = help: without `+` the value is replaced; `+` adds a key, or an item to a list
",
        ),
        (
            "profiles.gpu.vars.water=1",
            "
error[E0122]: no `profiles` to set
 --> command line:1:7
  |
1 | --set profiles.gpu.vars.water=1
  |       ^^^^^^^^
  |
  = help: that is in place before anything is set
",
        ),
        (
            "sky..title=1",
            "
error[E0122]: a step of the path is empty
 --> command line:1:11
  |
1 | --set sky..title=1
  |           ^
",
        ),
    ] {
        assert_mistakes_with(PIPELINE, &[words], expected);
    }
}

#[test]
fn a_slip_in_a_block_of_free_keys_is_told_too() {
    let text = "nodes: { f: { stage: frame, with: { sides: { left: 1, right: 2 } } } }\n";
    assert_mistakes_with(
        text,
        &["f.sides.rihgt=3"],
        "
error[E0122]: no `sides.rihgt` to set
 --> command line:1:15
  |
1 | --set f.sides.rihgt=3
  |               ^^^^^
  |
  = help: did you mean `right`? `--set +...` adds it
",
    );
    let plan = plan_with(text, &["f.sides.top=3", "+f.sides.rihgt=4"]).expect("it is right");
    assert_eq!(plan.nodes()[0].with["sides"], json!({ "left": 1.0, "right": 2.0, "top": 3.0, "rihgt": 4.0 }));
}
