//! What a plan holds for what is written.

use std::{fmt::Write, path::Path};

use engine::{Node, Plan};
use serde_json::json;

use crate::toys::{plan, plan_with};

const PIPELINE: &str = "
name: demo
seed: 7
vars: { water: 0.5, name: Ada }
nodes:
  wall:
    stage: hang
    inputs: { pictures: [sky, sea] }
  sky:
    stage: paint
    seed: 11
    inputs: { paper: sheet }
    with: { water: \"${{ vars.water }}\", title: \"for ${{ vars.name }}, 1\", style: thin }
    run: { hands: 2 }
  sea:
    stage: paint
    inputs: { paper: sheet, model: sky }
    with:
      brush: { width: 2 }
  sheet:
    stage: press
    with: { text: main.rs }
";

/// All that may decide a result or its name, in words; places and order left out.
fn told(plan: &Plan) -> String {
    let mut nodes: Vec<&Node> = plan.nodes().iter().collect();
    nodes.sort_by_key(|node| &node.name);
    let told = nodes.into_iter().map(|node| {
        let sources: Vec<_> = node.sources.iter().map(|source| (&source.parameter, &source.path)).collect();
        format!("{node:?} {} {} {} {} {sources:?}", node.version, node.output, node.settings, node.seed)
    });
    told.collect::<Vec<_>>().join("\n")
}

#[test]
fn every_default_is_in_place() {
    let plan = plan(PIPELINE);
    let sky = plan.node("sky").expect("it is written");
    let expected = json!({
        "strokes": 100, "water": 0.5, "style": "thin", "brush": { "width": 4, "hairs": 400 }, "drying": null,
        "title": "for Ada, 1", "varnish": false, "layers": 1, "palette": [],
    });
    assert_eq!(sky.with, expected);
    assert_eq!(sky.settings, json!({ "hands": 2 }));
    let sea = plan.node("sea").expect("it is written");
    assert_eq!(sea.with["water"].to_string(), "0.1", "a single-precision number keeps its digits");
    assert_eq!(sea.with["layers"], 3, "the stage fills in what its style decides");
    assert_eq!(sea.with["brush"], json!({ "width": 2, "hairs": 400 }));
    assert_eq!((sea.stage, sea.version, sea.output.as_str()), ("paint", 1, "picture"));
    assert_eq!(plan.name, "demo");
}

#[test]
fn nodes_come_after_what_they_read_and_otherwise_as_written() {
    let order: Vec<String> = plan(PIPELINE).nodes().iter().map(|node| node.name.clone()).collect();
    assert_eq!(order, ["sheet", "sky", "sea", "wall"]);
    let text = "nodes:\n".to_owned()
        + &["z", "b", "a", "y"]
            .map(|name| format!("  {name}: {{ stage: press, with: {{ text: main.rs }} }}\n"))
            .concat();
    let order: Vec<String> = plan(&text).nodes().iter().map(|node| node.name.clone()).collect();
    assert_eq!(order, ["z", "b", "a", "y"]);
}

#[test]
fn inputs_come_in_the_order_of_the_stage() {
    let plan = plan(PIPELINE);
    let inputs = |node: &str| -> Vec<(String, Vec<String>, bool)> {
        let node = plan.node(node).expect("it is written");
        node.inputs.iter().map(|input| (input.name.clone(), input.nodes.clone(), input.named)).collect()
    };
    assert_eq!(inputs("sky"), [("paper".into(), vec!["sheet".into()], false)]);
    let expected = [("paper".into(), vec!["sheet".into()], false), ("model".into(), vec!["sky".into()], false)];
    assert_eq!(inputs("sea"), expected);
    assert_eq!(inputs("wall"), [("pictures".into(), vec!["sky".into(), "sea".into()], true)]);
}

#[test]
fn a_node_without_seed_has_the_pipelines() {
    let plan = plan(PIPELINE);
    let seeds: Vec<u64> = plan.nodes().iter().map(|node| node.seed).collect();
    assert_eq!(seeds, [7, 11, 7, 7]);
    let renamed = crate::toys::plan(&PIPELINE.replace("sky", "heaven"));
    assert_eq!(renamed.node("heaven").expect("it is written").seed, 11);
}

#[test]
fn comments_order_anchors_and_quotes_change_nothing() {
    let other = "
# The same, written by someone else.
vars:
    name: 'Ada'   # who it is for
    water: 5.0e-1
x-brush: &narrow { width: 2 }
nodes:
  sheet: { with: { text: \"main.rs\" }, stage: press }
  sea: { with: { brush: *narrow }, inputs: { model: sky, paper: sheet }, stage: paint }
  sky:
    with:
      style: thin
      title: for ${{ vars.name }}, 1
      water: ${{ vars.water }}
      strokes: 100   # the default
    inputs:
      paper: sheet
    run:
      hands: 2
    seed: 11
    stage: paint
  wall:
    inputs:
      pictures:
        - sky
        - sea
    stage: hang
seed: 7
name: demo
";
    assert_eq!(told(&plan(other)), told(&plan(PIPELINE)));
}

#[test]
fn a_whole_number_for_a_fraction_is_the_same_fact() {
    let water = |value: &str| plan_with(PIPELINE, &[&format!("vars.water={value}")]).expect("it is right");
    assert_eq!(told(&water("1")), told(&water("1.0")));
    assert_eq!(water("1").node("sky").expect("it is written").with["water"].to_string(), "1.0");
    assert_ne!(told(&water("1")), told(&water("0.5")));
}

#[test]
fn an_expression_alone_keeps_the_type_of_its_value() {
    let text = "
vars:
  one: { brush: { width: 2, hairs: 10 }, title: \"7\" }
  again: ${{ vars.one.brush }}
  palette: [0.5, 1]
nodes:
  p: { stage: press, with: { text: main.rs } }
  a: { stage: paint, inputs: { paper: p }, with: \"${{ vars.one }}\" }
  b:
    stage: paint
    inputs: { paper: \"${{ vars.which }}\" }
    with: { brush: \"${{ vars.again }}\", palette: \"${{ vars.palette }}\", title: \"${{ vars.one.title }}-${{vars.one.brush.width}}\" }
";
    let plan =
        plan_with(text, &["vars.which=p"]).unwrap_or_else(|mistakes| panic!("{}", crate::toys::shown(&mistakes)));
    let a = &plan.node("a").expect("it is written").with;
    assert_eq!((&a["brush"], &a["title"]), (&json!({ "width": 2, "hairs": 10 }), &json!("7")));
    let b = &plan.node("b").expect("it is written").with;
    assert_eq!((&b["brush"], &b["palette"], &b["title"]), (&a["brush"], &json!([0.5, 1.0]), &json!("7-2")));
}

#[test]
fn overrides_are_the_same_as_edits() {
    let sets = [
        "seed=8",
        "vars.name=Bob",
        "nodes.sky.with.strokes=9",
        "nodes.sea.with.brush.hairs=12",
        "nodes.wall.inputs.pictures.1=sky",
        "nodes.sheet.run={}",
        "nodes.sea.with.palette=[1, 2.5]",
        "nodes.wall.seed=3",
    ];
    let edited = PIPELINE
        .replace("seed: 7", "seed: 8")
        .replace("Ada", "Bob")
        .replace("style: thin", "style: thin, strokes: 9")
        .replace("brush: { width: 2 }", "{ brush: { width: 2, hairs: 12 }, palette: [1, 2.5] }")
        .replace("[sky, sea]", "[sky, sky]")
        .replace("stage: hang", "stage: hang\n    seed: 3");
    let overridden = plan_with(PIPELINE, &sets).unwrap_or_else(|mistakes| panic!("{}", crate::toys::shown(&mistakes)));
    assert_eq!(told(&overridden), told(&plan(&edited)));
}

#[test]
fn texts_that_look_like_other_things_stay_texts() {
    for title in ["no", "0777", "1_000", "yes", "off"] {
        let plan = plan_with(PIPELINE, &[&format!("nodes.sky.with.title={title}")]).expect("it is right");
        assert_eq!(plan.node("sky").expect("it is written").with["title"], title);
    }
}

#[test]
fn sources_are_found_wherever_they_are_with_what_they_pull_in() {
    let plan = plan(
        "nodes: { p: { stage: press, with: { text: books/good.book, attachments: [main.rs, books/good.book] } } }",
    );
    let node = &plan.nodes()[0];
    let sources: Vec<(&str, &Path)> =
        node.sources.iter().map(|source| (source.parameter.as_str(), source.path.as_path())).collect();
    assert_eq!(
        sources,
        [
            ("text", Path::new("books/good.book")),
            ("attachments.0", Path::new("main.rs")),
            ("attachments.1", Path::new("books/good.book")),
        ]
    );
    let files = node.sources[0].files(&plan.root).expect("it can be read");
    let books = plan.root.join("books");
    assert_eq!(files, [books.join("good.book"), books.join("one.txt"), books.join("two.txt")]);
    assert_eq!(node.sources[1].files(&plan.root).expect("it can be read"), [plan.root.join("main.rs")]);
}

#[test]
fn every_value_knows_where_it_was_written() {
    let plan = plan_with(PIPELINE, &["nodes.sea.with.strokes=5"]).expect("it is right");
    let place = |node: &str, path: &str| plan.node(node).expect("it is written").places[path].to_string();
    assert_eq!(plan.node("sky").expect("it is written").place.to_string(), "p.yaml:9:3");
    assert_eq!(place("sky", "with.style"), "p.yaml:13:82");
    assert_eq!(place("sky", "with.water"), "p.yaml:4:16", "where the variable got its value");
    assert_eq!(place("sky", "run.hands"), "p.yaml:14:19");
    assert_eq!(place("sea", "with.brush.width"), "p.yaml:19:23");
    assert_eq!(place("sea", "inputs.model"), "p.yaml:17:36");
    assert_eq!(place("sea", "with.strokes"), "--set nodes.sea.with.strokes=5");
}

#[test]
fn the_file_gives_the_name_that_is_not_given() {
    assert_eq!(plan("nodes: { p: { stage: press, with: { text: main.rs } } }").name, "p");
}

#[test]
fn a_thousand_nodes_are_planned_in_no_time() {
    let mut text = String::from("nodes:\n  n0: { stage: press, with: { text: main.rs } }\n");
    for at in 1..1000 {
        let model = at / 2;
        writeln!(
            text,
            "  n{at}: {{ stage: paint, inputs: {{ paper: n0, model: n{model} }}, with: {{ strokes: {at} }} }}"
        )
        .expect("text grows");
    }
    let started = std::time::Instant::now();
    let plan = plan(&text);
    eprintln!("planned {} nodes in {:?}", plan.nodes().len(), started.elapsed());
    assert_eq!(plan.nodes().len(), 1000);
    // A few milliseconds where the compiler optimises; what squares the nodes would take minutes.
    assert!(started.elapsed().as_secs() < 20);
}
