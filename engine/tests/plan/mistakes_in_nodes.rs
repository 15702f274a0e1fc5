//! The whole message for every mistake in nodes: their names, keys, stages and inputs.

use crate::toys::{assert_mistakes, plan, plan_with};

#[test]
fn unknown_keys_of_the_pipeline_and_of_a_node_are_told() {
    assert_mistakes(
        "
sead: 1
x-anything: { goes: here }
nodes:
  p: { stage: press, wiht: { text: main.rs }, with: { text: main.rs } }
  q: { stge: press }
",
        "
error[E0101]: unknown key `sead` of the pipeline
 --> p.yaml:2:1
  |
2 | sead: 1
  | ^^^^
  |
  = help: did you mean `seed`?

error[E0102]: unknown key `wiht` of node `p`
 --> p.yaml:5:22
  |
5 |   p: { stage: press, wiht: { text: main.rs }, with: { text: main.rs } }
  |                      ^^^^
  |
  = help: did you mean `with`?

error[E0102]: unknown key `stge` of node `q`
 --> p.yaml:6:8
  |
6 |   q: { stge: press }
  |        ^^^^
  |
  = help: did you mean `stage`?
",
    );
}

#[test]
fn an_unknown_stage_and_an_unknown_node_are_told() {
    assert_mistakes(
        "
nodes:
  paper: { stage: pres, with: { text: main.rs } }
  sky: { stage: paint, inputs: { paper: papper } }
  sea: { stage: sculpt, inputs: { stone: quarry } }
",
        "
error[E0103]: unknown stage `pres`
 --> p.yaml:3:19
  |
3 |   paper: { stage: pres, with: { text: main.rs } }
  |                   ^^^^
  |
  = help: did you mean `press`?

error[E0112]: no node `papper`
 --> p.yaml:4:41
  |
4 |   sky: { stage: paint, inputs: { paper: papper } }
  |                                         ^^^^^^
  |
  = help: did you mean `paper`?

error[E0103]: unknown stage `sculpt`
 --> p.yaml:5:17
  |
5 |   sea: { stage: sculpt, inputs: { stone: quarry } }
  |                 ^^^^^^
  |
  = help: the stages are `frame`, `hang`, `paint` and `press`

error[E0112]: no node `quarry`
 --> p.yaml:5:42
  |
5 |   sea: { stage: sculpt, inputs: { stone: quarry } }
  |                                          ^^^^^^
  |
  = help: the other nodes are `paper` and `sky`
",
    );
}

#[test]
fn unknown_and_missing_inputs_are_told() {
    assert_mistakes(
        "
nodes:
  p: { stage: press, with: { text: main.rs }, inputs: { ink: q } }
  q: { stage: press, with: { text: main.rs } }
  a: { stage: paint, inputs: { papre: p } }
",
        "
error[E0110]: unknown input `ink` of stage `press`
 --> p.yaml:3:57
  |
3 |   p: { stage: press, with: { text: main.rs }, inputs: { ink: q } }
  |                                                         ^^^
  |
  = help: `press` reads nothing

error[E0111]: node `a` has no input `paper`
 --> p.yaml:5:3
  |
5 |   a: { stage: paint, inputs: { papre: p } }
  |   ^
  |
  = help: `paper` takes `paper`: what to paint on

error[E0110]: unknown input `papre` of stage `paint`
 --> p.yaml:5:32
  |
5 |   a: { stage: paint, inputs: { papre: p } }
  |                                ^^^^^
  |
  = help: did you mean `paper`?
",
    );
}

#[test]
fn the_wrong_kind_of_input_is_told_with_the_node_that_makes_it() {
    assert_mistakes(
        "
nodes:
  p: { stage: press, with: { text: main.rs } }
  wall: { stage: hang, inputs: { pictures: [a, p] } }
  a: { stage: paint, inputs: { paper: p, model: wall } }
",
        "
error[E0115]: nodes read each other in a circle: `wall` -> `a` -> `wall`
 --> p.yaml:4:45
  |
4 |   wall: { stage: hang, inputs: { pictures: [a, p] } }
  |                                             ^ `wall` reads `a`
5 |   a: { stage: paint, inputs: { paper: p, model: wall } }
  |                                                 ---- `a` reads `wall`

error[E0113]: input `pictures` takes `picture`, but `p` makes `paper`
 --> p.yaml:4:48
  |
3 |   p: { stage: press, with: { text: main.rs } }
  |   - `paper` is made by this node
4 |   wall: { stage: hang, inputs: { pictures: [a, p] } }
  |                                                ^
  |
  = help: `picture` is made by `a`

error[E0113]: input `model` takes `paper` or `picture`, but `wall` makes `wall`
 --> p.yaml:5:49
  |
4 |   wall: { stage: hang, inputs: { pictures: [a, p] } }
  |   ---- `wall` is made by this node
5 |   a: { stage: paint, inputs: { paper: p, model: wall } }
  |                                                 ^^^^
  |
  = help: `paper` or `picture` is made by `p`
",
    );
}

#[test]
fn too_many_and_too_few_nodes_for_an_input_are_told() {
    assert_mistakes(
        "
nodes:
  p: { stage: press, with: { text: main.rs } }
  a: { stage: paint, inputs: { paper: [p] } }
  w: { stage: hang, inputs: { pictures: [] } }
  v: { stage: hang, inputs: { pictures: { a: a } } }
",
        "
error[E0114]: input `paper` of node `a` takes one node, found a list
 --> p.yaml:4:39
  |
4 |   a: { stage: paint, inputs: { paper: [p] } }
  |                                       ^^^

error[E0114]: input `pictures` of node `w` needs at least one node
 --> p.yaml:5:41
  |
5 |   w: { stage: hang, inputs: { pictures: [] } }
  |                                         ^^

error[E0106]: input `pictures` must be a node's name or a list of them, found a block
 --> p.yaml:6:41
  |
6 |   v: { stage: hang, inputs: { pictures: { a: a } } }
  |                                         ^^^^^^^^
",
    );
}

#[test]
fn circles_are_told_with_each_of_their_steps() {
    assert_mistakes(
        "
nodes:
  p: { stage: press, with: { text: main.rs } }
  a: { stage: paint, inputs: { paper: p, model: b } }
  b: { stage: paint, inputs: { paper: p, model: c } }
  c: { stage: paint, inputs: { paper: p, model: a } }
  d: { stage: paint, inputs: { paper: p, model: d } }
",
        "
error[E0115]: nodes read each other in a circle: `a` -> `b` -> `c` -> `a`
 --> p.yaml:4:49
  |
4 |   a: { stage: paint, inputs: { paper: p, model: b } }
  |                                                 ^ `a` reads `b`
5 |   b: { stage: paint, inputs: { paper: p, model: c } }
  |                                                 - `b` reads `c`
6 |   c: { stage: paint, inputs: { paper: p, model: a } }
  |                                                 - `c` reads `a`

error[E0115]: node `d` reads itself
 --> p.yaml:7:49
  |
7 |   d: { stage: paint, inputs: { paper: p, model: d } }
  |                                                 ^ `d` reads `d`
",
    );
}

#[test]
fn a_node_or_key_written_twice_is_told_with_the_first_one() {
    assert_mistakes(
        "
nodes:
  p: { stage: press, with: { text: main.rs, sheets: 1, sheets: 2 } }
  q: { stage: press, with: { text: main.rs } }
  p: { stage: press, with: { text: main.rs } }
",
        "
error[E0116]: `sheets` is defined twice
 --> p.yaml:3:56
  |
3 |   p: { stage: press, with: { text: main.rs, sheets: 1, sheets: 2 } }
  |                                             ------     ^^^^^^ defined again here
  |                                             |
  |                                             first defined here

error[E0116]: `p` is defined twice
 --> p.yaml:5:3
  |
3 |   p: { stage: press, with: { text: main.rs, sheets: 1, sheets: 2 } }
  |   - first defined here
4 |   q: { stage: press, with: { text: main.rs } }
5 |   p: { stage: press, with: { text: main.rs } }
  |   ^ defined again here
",
    );
}

#[test]
fn values_that_are_no_blocks_are_told_once() {
    assert_mistakes(
        "
name: [a]
seed: -1
nodes:
  1st: { stage: press, with: { text: main.rs } }
  p: 3
  q: { with: {} }
  r: { stage: paint, inputs: 3, with: 4, run: [] }
",
        "
error[E0106]: `name` must be a text, found a list
 --> p.yaml:2:7
  |
2 | name: [a]
  |       ^^^

error[E0106]: `seed` must be a whole number from 0 to 18446744073709551615, found `-1`
 --> p.yaml:3:7
  |
3 | seed: -1
  |       ^^

error[E0119]: `1st` cannot be the name of a node
 --> p.yaml:5:3
  |
5 |   1st: { stage: press, with: { text: main.rs } }
  |   ^^^
  |
  = help: a name is made of a-z, A-Z, 0-9, `_` and `-`, and begins with a letter or `_`

error[E0106]: node `p` must be a block with `stage:`, found `3`
 --> p.yaml:6:6
  |
6 |   p: 3
  |      ^

error[E0123]: node `q` has no `stage`
 --> p.yaml:7:3
  |
7 |   q: { with: {} }
  |   ^

error[E0106]: `inputs` must be a block of inputs, found `3`
 --> p.yaml:8:30
  |
8 |   r: { stage: paint, inputs: 3, with: 4, run: [] }
  |                              ^

error[E0106]: `with` must be a block of parameters, found `4`
 --> p.yaml:8:39
  |
8 |   r: { stage: paint, inputs: 3, with: 4, run: [] }
  |                                       ^

error[E0106]: `run` must be a block of settings, found a list
 --> p.yaml:8:47
  |
8 |   r: { stage: paint, inputs: 3, with: 4, run: [] }
  |                                               ^^
",
    );
}

/// They passed, and failed in the middle of a run: no file system has such file names.
#[test]
fn a_name_that_no_file_can_have_is_a_mistake() {
    let long = |count: usize| "n".repeat(count);
    let text = |name: &str, node: &str| {
        format!("name: {name}\nnodes:\n  {node}: {{ stage: press, with: {{ text: main.rs }} }}\n")
    };
    let told = |text: &str| {
        let mistakes = plan_with(text, &[]).expect_err("the name is too long");
        assert!(mistakes.iter().all(|mistake| mistake.code == "E0119"), "{mistakes:?}");
        mistakes.iter().map(|mistake| mistake.message.clone()).collect::<Vec<_>>().join("; ")
    };
    let start = long(20);
    assert_eq!(
        told(&text("p", &long(300))),
        format!("the name of node `{start}...` takes 300 bytes in a file name, and 200 are the limit")
    );
    assert_eq!(
        told(&text(&long(300), "p")),
        format!("the name of the pipeline `{start}...` takes 300 bytes in a file name, and 200 are the limit")
    );
    // Of a letter that is no letter of file names, every byte takes three.
    assert!(told(&text(&"ß".repeat(34), "p")).contains("takes 204 bytes"));
    assert_eq!(told(&text("''", "p")), "the name of a pipeline cannot be empty");
    let matrix = format!(
        "nodes:\n  p: {{ stage: press, matrix: {{ text: [{}] }}, with: {{ text: main.rs, sheets: 1 }} }}\n",
        long(250)
    );
    assert!(plan_with(&matrix, &[]).unwrap_err().iter().any(|mistake| mistake.message.contains("takes 264 bytes")));
    plan(&text(&long(200), &long(200)));
}
