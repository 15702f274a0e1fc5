//! Where a value comes from when several places give it: defaults, includes, profiles; and what is left out.

use serde_json::json;

use crate::toys::{assert_mistakes, assert_mistakes_in, plan, plan_in};

const LAYERS: &str = "
vars: { water: 0.5 }
env: [TOKEN]
defaults:
  paint: { with: { strokes: 3, water: \"${{ vars.water }}\", brush: { width: 1, hairs: 9 } }, run: { hands: 7 } }
profiles:
  wet: { vars: { water: 0.75 } }
  big: { vars: { water: 1.0 }, env: [KEY], nodes: { sky: { with: { strokes: 900 } } } }
nodes:
  sheet: { stage: press, with: { text: main.rs } }
  sky: { stage: paint, inputs: { paper: sheet }, env: [HOME_OF_SKY] }
  sea: { stage: paint, inputs: { paper: sheet }, with: { strokes: 5, brush: { width: 3 } }, run: { hands: 2 } }
";

#[test]
fn defaults_of_a_stage_fill_what_a_node_does_not_set() {
    let plan = plan(LAYERS);
    let sky = plan.node("sky").expect("it is written");
    assert_eq!((&sky.with["strokes"], &sky.with["water"], &sky.settings["hands"]), (&json!(3), &json!(0.5), &json!(7)));
    let sea = plan.node("sea").expect("it is written");
    assert_eq!((&sea.with["strokes"], &sea.with["water"], &sea.settings["hands"]), (&json!(5), &json!(0.5), &json!(2)));
    assert_eq!(sea.with["brush"], json!({ "width": 3, "hairs": 9 }));
    assert_eq!(sky.places["with.strokes"].to_string(), "p.yaml:5:29", "where the default is written");
}

#[test]
fn profiles_lie_over_the_file_from_left_to_right_and_overrides_over_them() {
    let water = |profiles: &[&str], overrides: &[&str]| {
        plan_in(LAYERS, profiles, overrides).node("sea").expect("it is written").with["water"].clone()
    };
    assert_eq!(water(&["wet"], &[]), 0.75);
    assert_eq!(water(&["wet", "big"], &[]), 1.0);
    assert_eq!(water(&["big", "wet"], &[]), 0.75);
    assert_eq!(water(&["big", "wet"], &["vars.water=0.1"]), 0.1);
    let plan = plan_in(LAYERS, &["big"], &[]);
    assert_eq!(plan.node("sky").expect("it is written").with["strokes"], 900, "a profile beats the defaults");
}

#[test]
fn a_node_may_see_the_environment_that_is_declared() {
    let env = |profiles: &[&str], node: &str| plan_in(LAYERS, profiles, &[]).node(node).expect("written").env.clone();
    assert_eq!(env(&[], "sea"), ["TOKEN"]);
    assert_eq!(env(&[], "sky"), ["TOKEN", "HOME_OF_SKY"]);
    assert_eq!(env(&["big"], "sea"), ["TOKEN", "KEY"]);
    assert_mistakes(
        "
env: [TOKEN=secret, 3]
nodes: { sheet: { stage: press, with: { text: main.rs } } }
",
        "
error[E0119]: this cannot be the name of an environment variable
 --> p.yaml:2:7
  |
2 | env: [TOKEN=secret, 3]
  |       ^^^^^^^^^^^^
  |
  = help: write `TOKEN` alone: its value comes from the environment

error[E0106]: a name in `env` must be a text, found `3`
 --> p.yaml:2:21
  |
2 | env: [TOKEN=secret, 3]
  |                     ^
",
    );
}

#[test]
fn a_profile_or_default_that_does_not_exist_is_told() {
    assert_mistakes_in(
        LAYERS,
        &["wte"],
        "
error[E0128]: no profile `wte`
 --> command line:1:11
  |
1 | --profile wte
  |           ^^^
  |
  = help: did you mean `wet`?
",
    );
    assert_mistakes(
        "
defaults:
  paint: { with: { strokez: 3 }, inputs: { paper: sheet } }
  pain: { with: { strokes: 3 } }
profiles: { a: { vras: {} } }
nodes:
  sheet: { stage: press, with: { text: main.rs } }
  sky: { stage: paint, inputs: { paper: sheet } }
  sea: { stage: paint, inputs: { paper: sheet } }
",
        "
error[E0104]: unknown parameter `strokez`
 --> p.yaml:3:20
  |
3 |   paint: { with: { strokez: 3 }, inputs: { paper: sheet } }
  |                    ^^^^^^^
  |
  = help: did you mean `strokes`?

error[E0101]: `inputs` cannot have a default
 --> p.yaml:3:34
  |
3 |   paint: { with: { strokez: 3 }, inputs: { paper: sheet } }
  |                                  ^^^^^^
  |
  = help: defaults are `with`, `run`, `env`, `retries` and `timeout`

error[E0103]: unknown stage `pain`
 --> p.yaml:4:3
  |
4 |   pain: { with: { strokes: 3 } }
  |   ^^^^
  |
  = help: did you mean `paint`?

error[E0101]: unknown key `vras` of the profile `a`
 --> p.yaml:5:18
  |
5 | profiles: { a: { vras: {} } }
  |                  ^^^^
  |
  = help: did you mean `vars`?
",
    );
}

const WHEN: &str = "
vars: { colour: false }
nodes:
  sheet: { stage: press, with: { text: main.rs } }
  sky: { stage: paint, when: \"${{ vars.colour }}\", inputs: { paper: sheet } }
  sea: { stage: paint, inputs: { paper: sheet, model: sky } }
  wall: { stage: hang, inputs: { pictures: [sky, sea] } }
";

#[test]
fn a_node_whose_when_is_false_is_left_out_where_it_is_not_needed() {
    let plan = plan(WHEN);
    assert!(plan.node("sky").is_none());
    let inputs = |node: &str| -> Vec<String> {
        let inputs = &plan.node(node).expect("it is written").inputs;
        inputs.iter().flat_map(|input| input.nodes.clone()).collect()
    };
    assert_eq!(inputs("sea"), ["sheet"], "an optional input is not given");
    assert_eq!(inputs("wall"), ["sea"], "of many the others stay");
    let all = plan_in(WHEN, &[], &["vars.colour=true"]);
    assert_eq!(all.node("sea").expect("it is written").inputs.len(), 2);
}

#[test]
fn a_node_that_is_needed_cannot_be_left_out() {
    assert_mistakes(
        "
vars: { steps: 3 }
nodes:
  sheet: { stage: press, when: \"${{ vars.steps > 5 }}\", with: { text: main.rs } }
  sky: { stage: paint, inputs: { paper: sheet } }
  sea: { stage: paint, when: 3, inputs: { paper: sheet } }
",
        "
error[E0127]: input `paper` of node `sky` needs `sheet`, which is left out
 --> p.yaml:5:41
  |
4 |   sheet: { stage: press, when: \"${{ vars.steps > 5 }}\", with: { text: main.rs } }
  |   ----- defined here           ----------------------- left out by this
5 |   sky: { stage: paint, inputs: { paper: sheet } }
  |                                         ^^^^^
  |
  = help: give `sky` the same `when`, or another node to read

error[E0106]: `when` must be `true` or `false`, found `3`
 --> p.yaml:6:30
  |
6 |   sea: { stage: paint, when: 3, inputs: { paper: sheet } }
  |                              ^

error[E0127]: input `paper` of node `sea` needs `sheet`, which is left out
 --> p.yaml:6:50
  |
4 |   sheet: { stage: press, when: \"${{ vars.steps > 5 }}\", with: { text: main.rs } }
  |   ----- defined here           ----------------------- left out by this
5 |   sky: { stage: paint, inputs: { paper: sheet } }
6 |   sea: { stage: paint, when: 3, inputs: { paper: sheet } }
  |                                                  ^^^^^
  |
  = help: give `sea` the same `when`, or another node to read
",
    );
}

#[test]
fn an_included_file_lies_under_the_one_that_includes_it() {
    let plan = plan(
        "
include: lib/gallery.yaml
vars: { strokes: 8 }
nodes:
  sheet: { stage: press, with: { text: main.rs } }
  show: { inputs: { pictures: [sketch, sketch] } }
",
    );
    let sketch = plan.node("sketch").expect("it is included");
    assert_eq!((&sketch.with["strokes"], &sketch.with["water"], sketch.seed), (&json!(8), &json!(0.25), 5));
    assert_eq!(plan.name, "p", "a pipeline has its own name");
    assert_eq!(sketch.place.to_string(), "lib/gallery.yaml:6:3");
    assert_eq!(plan.node("show").expect("it is included").inputs[0].nodes, ["sketch", "sketch"]);
}

#[test]
fn a_file_included_under_a_name_keeps_its_names_to_itself() {
    let plan = plan(
        "
seed: 1
include:
  - { file: lib/gallery.yaml, as: left }
  - { file: lib/gallery.yaml, as: right }
vars: { left: { strokes: 20 } }
nodes:
  sheet: { stage: press, with: { text: main.rs } }
  sketch: { stage: paint, inputs: { paper: sheet } }
  right/sketch: { with: { title: mine } }
  both: { stage: hang, inputs: { pictures: [left/sketch, right/sketch, sketch] } }
",
    );
    let node = |name: &str| plan.node(name).unwrap_or_else(|| panic!("no node {name}"));
    let told = |name: &str| (node(name).with["strokes"].clone(), node(name).with["water"].clone(), node(name).seed);
    assert_eq!(told("left/sketch"), (json!(20), json!(0.25), 5));
    assert_eq!(told("right/sketch"), (json!(7), json!(0.25), 5));
    assert_eq!(told("sketch"), (json!(100), json!(0.1), 1), "its defaults and seed are those of its own nodes");
    assert_eq!(node("right/sketch").with["title"], "mine");
    assert_eq!(node("left/show").inputs[0].nodes, ["left/sketch"]);
    assert_eq!(node("left/sketch").inputs[0].nodes, ["sheet"], "what it does not have comes from around it");
}

#[test]
fn files_include_files() {
    let plan = plan("include: { file: lib/outer.yaml, as: out }\nnodes: {}\n");
    let names: Vec<&str> = plan.nodes().iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["out/inner/sheet", "out/picture"]);
    assert_eq!(plan.node("out/picture").expect("it is included").inputs[0].nodes, ["out/inner/sheet"]);
}

#[test]
fn a_mistake_in_an_included_file_is_told_with_who_includes_it() {
    assert_mistakes(
        "
include: { file: lib/wrong.yaml, as: lib }
nodes: {}
",
        "
error[E0104]: unknown parameter `shets`
 --> lib/wrong.yaml:2:49
  |
2 |   sheet: { stage: press, with: { text: main.rs, shets: 3 } }
  |                                                 ^^^^^
  |
 ::: p.yaml:2:18
  |
2 | include: { file: lib/wrong.yaml, as: lib }
  |                  -------------- included from here
  |
  = help: did you mean `sheets`?
",
    );
    assert_mistakes(
        "include: [lib/broken.yaml]\n",
        "
error[E0100]: unclosed bracket '{'
 --> lib/broken.yaml:1:8
  |
1 | nodes: {
  |        ^
  |
 ::: p.yaml:1:11
  |
1 | include: [lib/broken.yaml]
  |           --------------- included from here
",
    );
}

#[test]
fn what_cannot_be_included_is_told() {
    for (text, expected) in [
        (
            "include: lib/galery.yaml\n",
            "
error[E0125]: no file `lib/galery.yaml` to include
 --> p.yaml:1:10
  |
1 | include: lib/galery.yaml
  |          ^^^^^^^^^^^^^^^
  |
  = help: did you mean `lib/gallery.yaml`?
",
        ),
        (
            "include: { flie: lib/gallery.yaml }\n",
            "
error[E0101]: unknown key `flie` of an include
 --> p.yaml:1:12
  |
1 | include: { flie: lib/gallery.yaml }
  |            ^^^^
  |
  = help: did you mean `file`?
",
        ),
        (
            "include: { file: lib/gallery.yaml, as: a/b }\n",
            "
error[E0119]: the text \"a/b\" cannot be a name for a file's nodes
 --> p.yaml:1:40
  |
1 | include: { file: lib/gallery.yaml, as: a/b }
  |                                        ^^^
  |
  = help: a name is made of a-z, A-Z, 0-9, `_` and `-`, and begins with a letter or `_`
",
        ),
        (
            "include: \"${{ vars.file }}\"\n",
            "
error[E0125]: what is included cannot be computed
 --> p.yaml:1:10
  |
1 | include: \"${{ vars.file }}\"
  |          ^^^^^^^^^^^^^^^^^^
  |
  = help: files are put together before anything is computed
",
        ),
        (
            "include: lib/ping.yaml\n",
            "
error[E0125]: files include each other in a circle: lib/ping.yaml -> lib/pong.yaml -> lib/ping.yaml
 --> lib/pong.yaml:1:11
  |
1 | include: [lib/ping.yaml]
  |           ^^^^^^^^^^^^^
  |
 ::: lib/ping.yaml:1:10
  |
1 | include: lib/pong.yaml
  |          ------------- included from here
  |
 ::: p.yaml:1:10
  |
1 | include: lib/ping.yaml
  |          ------------- included from here
",
        ),
    ] {
        assert_mistakes(text, expected);
    }
}

#[test]
fn a_node_that_is_left_out_is_checked_but_for_the_files_that_it_names() {
    assert_mistakes(
        "
nodes:
  sheet: { stage: press, when: false, with: { text: nowhere.rs, sheats: 3 } }
  sea: { stage: pant, when: false }
  sky: { stage: press, when: false, with: { text: nowhere.rs } }
",
        "
error[E0104]: unknown parameter `sheats`
 --> p.yaml:3:65
  |
3 |   sheet: { stage: press, when: false, with: { text: nowhere.rs, sheats: 3 } }
  |                                                                 ^^^^^^
  |
  = help: did you mean `sheets`?

error[E0103]: unknown stage `pant`
 --> p.yaml:4:17
  |
4 |   sea: { stage: pant, when: false }
  |                 ^^^^
  |
  = help: did you mean `paint`?
",
    );
}
