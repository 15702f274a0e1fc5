//! One node written, several meant.

use engine::{Fingerprint, Options, Outcome, Plan, Store, run};
use serde_json::json;

use crate::toys::{assert_mistakes, assert_mistakes_with, plan, plan_with, shown};

const SWEEP: &str = "
vars: { seeds: [1, 2] }
nodes:
  sheet: { stage: press, with: { text: main.rs } }
  sky:
    stage: paint
    matrix: { seed: \"${{ vars.seeds }}\", water: [0.5, 1e-3] }
    seed: \"${{ matrix.seed }}\"
    inputs: { paper: sheet }
    with: { water: \"${{ matrix.water }}\", title: \"seed ${{ matrix.seed }}\" }
  all: { stage: hang, inputs: { pictures: sky } }
  also: { stage: hang, inputs: { pictures: [\"sky[*]\"] } }
  some: { stage: hang, inputs: { pictures: [\"sky[seed=2]\"] } }
  copy: { stage: paint, inputs: { paper: sheet, model: \"sky[seed=2,water=0.5]\" } }
  pairs:
    stage: paint
    matrix: { seed: [2, 1] }
    inputs: { paper: sheet, model: \"sky[water=0.001]\" }
";

fn read(plan: &Plan, node: &str, input: &str) -> Vec<String> {
    let node = plan.node(node).unwrap_or_else(|| panic!("no node {node}"));
    node.inputs.iter().find(|read| read.name == input).expect("it has the input").nodes.clone()
}

#[test]
fn a_node_stands_for_the_product_of_its_axes() {
    let plan = plan(SWEEP);
    let names: Vec<&str> = plan.nodes().iter().map(|node| node.name.as_str()).collect();
    let instances: Vec<&str> = names.into_iter().filter(|name| name.starts_with("sky")).collect();
    assert_eq!(
        instances,
        ["sky[seed=1,water=0.5]", "sky[seed=1,water=0.001]", "sky[seed=2,water=0.5]", "sky[seed=2,water=0.001]"]
    );
    let node = plan.node("sky[seed=2,water=0.001]").expect("it is meant");
    assert_eq!((node.seed, &node.with["water"], &node.with["title"]), (2, &json!(0.001), &json!("seed 2")));
}

#[test]
fn a_reader_takes_one_some_all_or_those_of_its_own_axis() {
    let plan = plan(SWEEP);
    let all = ["sky[seed=1,water=0.5]", "sky[seed=1,water=0.001]", "sky[seed=2,water=0.5]", "sky[seed=2,water=0.001]"];
    assert_eq!(read(&plan, "all", "pictures"), all);
    assert_eq!(read(&plan, "also", "pictures"), all);
    assert_eq!(read(&plan, "some", "pictures"), all[2..]);
    assert_eq!(read(&plan, "copy", "model"), ["sky[seed=2,water=0.5]"]);
    assert_eq!(read(&plan, "pairs[seed=1]", "model"), ["sky[seed=1,water=0.001]"]);
    assert_eq!(read(&plan, "pairs[seed=2]", "model"), ["sky[seed=2,water=0.001]"]);
    assert_eq!(read(&plan, "pairs[seed=2]", "paper"), ["sheet"]);
}

#[test]
fn adding_a_value_to_an_axis_disturbs_no_other_instance() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::at(folder.path().join("store")).expect("a store");
    let results = |overrides: &[&str]| -> Vec<(String, bool, Fingerprint)> {
        let plan = plan_with(SWEEP, overrides).unwrap_or_else(|mistakes| panic!("{}", shown(&mistakes)));
        let report = run(&plan, &store, &Options::default());
        let result = |node: engine::NodeReport| {
            let artifact = node.artifact.unwrap_or_else(|| panic!("{:?}", node.outcome));
            (node.node, matches!(node.outcome, Outcome::Reused), artifact.fingerprint)
        };
        let instances = report.nodes.into_iter().filter(|node| node.node.starts_with("sky["));
        instances.map(result).collect()
    };
    let before = results(&[]);
    let after = results(&["vars.seeds=[0, 2, 1]"]);
    assert_eq!((before.len(), after.len()), (4, 6));
    for (name, is_reused, fingerprint) in &after {
        let known = before.iter().find(|(known, ..)| known == name);
        assert_eq!(*is_reused, known.is_some(), "{name}");
        assert!(known.is_none_or(|(.., before)| before == fingerprint), "{name}");
    }
}

#[test]
fn one_instance_can_be_set() {
    let plan = plan_with(SWEEP, &["sky[seed=1,water=0.5].strokes=3", "nodes.pairs[seed=2].with.strokes=4"])
        .unwrap_or_else(|mistakes| panic!("{}", shown(&mistakes)));
    let strokes = |name: &str| plan.node(name).expect("it is meant").with["strokes"].clone();
    assert_eq!((strokes("sky[seed=1,water=0.5]"), strokes("sky[seed=2,water=0.5]")), (json!(3), json!(100)));
    assert_eq!(strokes("pairs[seed=2]"), 4);
    assert_mistakes_with(
        SWEEP,
        &["pairs[seed=3].strokes=4"],
        "
error[E0122]: no node `pairs[seed=3]` to set
 --> command line:1:7
  |
1 | --set pairs[seed=3].strokes=4
  |       ^^^^^^^^^^^^^
  |
  = help: did you mean `pairs[seed=2]`?
",
    );
}

#[test]
fn a_bare_name_where_one_node_is_wanted_lists_the_instances() {
    assert_mistakes(
        "
nodes:
  sheet: { stage: press, with: { text: main.rs } }
  sky: { stage: paint, matrix: { n: [1, 2] }, inputs: { paper: sheet }, with: { strokes: \"${{ matrix.n }}\" } }
  copy: { stage: paint, inputs: { paper: sheet, model: sky } }
  none: { stage: paint, inputs: { paper: sheet, model: \"sky[n=3]\" } }
  axis: { stage: paint, inputs: { paper: sheet, model: \"sky[m=1]\" } }
  flat: { stage: paint, inputs: { paper: \"sheet[n=1]\" } }
  more: { stage: paint, matrix: { n: [1, 3] }, inputs: { paper: sheet, model: sky } }
",
        "
error[E0114]: input `model` of node `copy` takes one node, but `sky` is 2: `sky[n=1]` and `sky[n=2]`
 --> p.yaml:5:56
  |
5 |   copy: { stage: paint, inputs: { paper: sheet, model: sky } }
  |                                                        ^^^
  |
  = help: choose one of them, or give `copy` a matrix with the same axis

error[E0112]: no instance of `sky` has n=3
 --> p.yaml:6:56
  |
6 |   none: { stage: paint, inputs: { paper: sheet, model: \"sky[n=3]\" } }
  |                                                        ^^^^^^^^^^
  |
  = help: its instances are `sky[n=1]` and `sky[n=2]`

error[E0112]: node `sky` has no axis `m`
 --> p.yaml:7:56
  |
7 |   axis: { stage: paint, inputs: { paper: sheet, model: \"sky[m=1]\" } }
  |                                                        ^^^^^^^^^^
  |
  = help: did you mean `n`?

error[E0112]: node `sheet` has no axis `n`
 --> p.yaml:8:42
  |
8 |   flat: { stage: paint, inputs: { paper: \"sheet[n=1]\" } }
  |                                          ^^^^^^^^^^^^
  |
  = help: `sheet` has no matrix: write `sheet`

error[E0112]: no instance of `sky` has n=3
 --> p.yaml:9:79
  |
9 |   more: { stage: paint, matrix: { n: [1, 3] }, inputs: { paper: sheet, model: sky } }
  |                                                                               ^^^
  |
  = help: its instances are `sky[n=1]` and `sky[n=2]`
",
    );
}

#[test]
fn mistakes_in_a_matrix_are_told_once_for_all_its_instances() {
    assert_mistakes(
        "
nodes:
  a: { stage: press, matrix: 3, with: { text: main.rs } }
  b: { stage: press, matrix: { n: [] }, with: { text: main.rs, sheets: \"${{ matrix.n }}\" } }
  c: { stage: press, matrix: { n: [1, 1] }, with: { text: main.rs, sheets: \"${{ matrix.n }}\" } }
  d: { stage: press, matrix: { n: [[1], \"a,b\"] }, with: { text: main.rs, sheets: \"${{ matrix.n }}\" } }
  e: { stage: press, matrix: { n: [1, 2] }, with: { text: main.rs, shets: 3, sheets: \"${{ matrix.m }}\" } }
",
        "
error[E0126]: `matrix` must be a block of axes, found `3`
 --> p.yaml:3:30
  |
3 |   a: { stage: press, matrix: 3, with: { text: main.rs } }
  |                              ^
  |
  = help: write `{ seed: [1, 2, 3] }`

error[E0126]: axis `n` has no values
 --> p.yaml:4:35
  |
4 |   b: { stage: press, matrix: { n: [] }, with: { text: main.rs, sheets: \"${{ matrix.n }}\" } }
  |                                   ^^

error[E0116]: axis `n` has the value `1` twice
 --> p.yaml:5:39
  |
5 |   c: { stage: press, matrix: { n: [1, 1] }, with: { text: main.rs, sheets: \"${{ matrix.n }}\" } }
  |                                    -  ^
  |                                    |
  |                                    first here

error[E0126]: axis `n`: a list cannot be in the name of an instance: a number or a text can
 --> p.yaml:6:36
  |
6 |   d: { stage: press, matrix: { n: [[1], \"a,b\"] }, with: { text: main.rs, sheets: \"${{ matrix.n }}\" } }
  |                                    ^^^

error[E0126]: axis `n`: the text \"a,b\" cannot be in the name of an instance: it is empty, or has one of `[],=*` or quotes in it
 --> p.yaml:6:41
  |
6 |   d: { stage: press, matrix: { n: [[1], \"a,b\"] }, with: { text: main.rs, sheets: \"${{ matrix.n }}\" } }
  |                                         ^^^^^

error[E0129]: axis `n` of node `e` decides nothing
 --> p.yaml:7:32
  |
7 |   e: { stage: press, matrix: { n: [1, 2] }, with: { text: main.rs, shets: 3, sheets: \"${{ matrix.m }}\" } }
  |                                ^
  |
  = help: ask for it, as in `with: { n: \"${{ matrix.n }}\" }`

error[E0104]: unknown parameter `shets`
 --> p.yaml:7:68
  |
7 |   e: { stage: press, matrix: { n: [1, 2] }, with: { text: main.rs, shets: 3, sheets: \"${{ matrix.m }}\" } }
  |                                                                    ^^^^^
  |
  = help: did you mean `sheets`?

error[E0120]: no variable `matrix.m`
 --> p.yaml:7:98
  |
7 |   e: { stage: press, matrix: { n: [1, 2] }, with: { text: main.rs, shets: 3, sheets: \"${{ matrix.m }}\" } }
  |                                                                                                  ^
  |
  = help: did you mean `matrix.n`?
",
    );
}

#[test]
fn a_sweep_without_end_is_refused() {
    let axes: Vec<String> = (0..8).map(|axis| format!("a{axis}: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]")).collect();
    let text =
        format!("nodes: {{ p: {{ stage: press, matrix: {{ {} }}, with: {{ text: main.rs }} }} }}\n", axes.join(", "));
    let mistakes = plan_with(&text, &[]).expect_err("a hundred million");
    assert_eq!(mistakes[0].message, "a matrix has at most 10000 instances");
}
