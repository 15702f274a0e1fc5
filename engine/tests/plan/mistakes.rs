//! The whole message for every kind of mistake.

use crate::toys::{assert_mistakes, assert_mistakes_with, plan_with, spec};

#[test]
fn an_unknown_parameter_is_told_with_the_one_that_was_meant() {
    assert_mistakes(
        "
nodes:
  p: { stage: press, with: { text: main.rs } }
  a:
    stage: paint
    inputs: { paper: p }
    with:
      strokez: 3
      brush: { glue: 1 }
",
        "
error[E0104]: unknown parameter `strokez`
 --> p.yaml:8:7
  |
8 |       strokez: 3
  |       ^^^^^^^
  |
  = help: did you mean `strokes`?

error[E0104]: unknown parameter `brush.glue`
 --> p.yaml:9:16
  |
9 |       brush: { glue: 1 }
  |                ^^^^
  |
  = help: `brush` has the parameters `width` and `hairs`
",
    );
}

#[test]
fn a_key_on_the_wrong_floor_is_told_where_it_belongs() {
    assert_mistakes(
        "
nodes:
  p: { stage: press, with: { text: main.rs } }
  a:
    stage: paint
    strokes: 3
    inputs: { paper: p }
    with: { hands: 2, model: p }
    run: { water: 1 }
",
        "
error[E0102]: unknown key `strokes` of node `a`
 --> p.yaml:6:5
  |
6 |     strokes: 3
  |     ^^^^^^^
  |
  = help: `strokes` is a parameter of `paint`: write it below `with:`

error[E0104]: unknown parameter `hands`
 --> p.yaml:8:13
  |
8 |     with: { hands: 2, model: p }
  |             ^^^^^
  |
  = help: `hands` is a setting: write it below `run:`

error[E0104]: unknown parameter `model`
 --> p.yaml:8:23
  |
8 |     with: { hands: 2, model: p }
  |                       ^^^^^
  |
  = help: `model` is an input: write it below `inputs:`

error[E0104]: unknown setting `water`
 --> p.yaml:9:12
  |
9 |     run: { water: 1 }
  |            ^^^^^
  |
  = help: `water` is a parameter: write it below `with:`
",
    );
}

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
  = help: the stages are `hang`, `paint` and `press`

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
fn values_of_the_wrong_type_are_told_with_what_was_probably_meant() {
    assert_mistakes(
        "
nodes:
  p: { stage: press, with: { text: main.rs, sheets: 1_000 } }
  a:
    stage: paint
    inputs: { paper: p }
    with:
      strokes: 1.5
      title: 5
      varnish: no
      palette: [1, red]
      layers: 2.0
      brush: wide
      style: 7
      water: much
",
        "
error[E0106]: parameter `sheets` must be an integer, found the text \"1_000\"
 --> p.yaml:3:53
  |
3 |   p: { stage: press, with: { text: main.rs, sheets: 1_000 } }
  |                                                     ^^^^^
  |
  = help: write `1000`

error[E0106]: parameter `strokes` must be an integer, found `1.5`
 --> p.yaml:8:16
  |
8 |       strokes: 1.5
  |                ^^^

error[E0106]: parameter `title` must be a text, found `5`
 --> p.yaml:9:14
  |
9 |       title: 5
  |              ^
  |
  = help: write `\"5\"`

error[E0106]: parameter `varnish` must be `true` or `false`, found the text \"no\"
  --> p.yaml:10:16
   |
10 |       varnish: no
   |                ^^
   |
   = help: write `false`

error[E0106]: parameter `palette.1` must be a number, found the text \"red\"
  --> p.yaml:11:20
   |
11 |       palette: [1, red]
   |                    ^^^

error[E0106]: parameter `layers` must be an integer, found `2.0`
  --> p.yaml:12:15
   |
12 |       layers: 2.0
   |               ^^^
   |
   = help: write `2`

error[E0106]: parameter `brush` must be a block, found the text \"wide\"
  --> p.yaml:13:14
   |
13 |       brush: wide
   |              ^^^^

error[E0106]: parameter `style` must be one of `thick`, `thin` and `free`, found `7`
  --> p.yaml:14:14
   |
14 |       style: 7
   |              ^

error[E0106]: parameter `water` must be a number, found the text \"much\"
  --> p.yaml:15:14
   |
15 |       water: much
   |              ^^^^
",
    );
}

#[test]
fn numbers_out_of_range_are_told_with_the_range() {
    assert_mistakes(
        "
nodes:
  p: { stage: press, with: { text: main.rs, sheets: 1001 } }
  a: { stage: paint, inputs: { paper: p }, with: { strokes: 0, water: -0.5, layers: 5000000000 } }
",
        "
error[E0107]: parameter `sheets` must be from 1 to 1000, found `1001`
 --> p.yaml:3:53
  |
3 |   p: { stage: press, with: { text: main.rs, sheets: 1001 } }
  |                                                     ^^^^

error[E0107]: parameter `strokes` must be at least 1, found `0`
 --> p.yaml:4:61
  |
4 |   a: { stage: paint, inputs: { paper: p }, with: { strokes: 0, water: -0.5, layers: 5000000000 } }
  |                                                             ^

error[E0107]: parameter `water` must be from 0 to 1, found `-0.5`
 --> p.yaml:4:71
  |
4 |   a: { stage: paint, inputs: { paper: p }, with: { strokes: 0, water: -0.5, layers: 5000000000 } }
  |                                                                       ^^^^

error[E0107]: parameter `layers` must be from 0 to 4294967295, found `5000000000`
 --> p.yaml:4:85
  |
4 |   a: { stage: paint, inputs: { paper: p }, with: { strokes: 0, water: -0.5, layers: 5000000000 } }
  |                                                                                     ^^^^^^^^^^
",
    );
}

#[test]
fn unknown_choices_are_told_with_all_there_are() {
    assert_mistakes(
        "
nodes:
  p: { stage: press, with: { text: main.rs } }
  a: { stage: paint, inputs: { paper: p }, with: { style: thik, drying: { kind: moon } } }
  b: { stage: paint, inputs: { paper: p }, with: { drying: { hours: 3 } } }
  c: { stage: paint, inputs: { paper: p }, with: { drying: { kind: sun, logs: 3 } } }
",
        "
error[E0108]: parameter `style` cannot be `thik`
 --> p.yaml:4:59
  |
4 |   a: { stage: paint, inputs: { paper: p }, with: { style: thik, drying: { kind: moon } } }
  |                                                           ^^^^
  |
  = help: did you mean `thick`? The choices are `thick`, `thin` and `free`

error[E0108]: parameter `drying.kind` cannot be `moon`
 --> p.yaml:4:81
  |
4 |   a: { stage: paint, inputs: { paper: p }, with: { style: thik, drying: { kind: moon } } }
  |                                                                                 ^^^^
  |
  = help: the choices are `sun` and `fire`

error[E0105]: missing parameter `drying.kind`
 --> p.yaml:5:52
  |
5 |   b: { stage: paint, inputs: { paper: p }, with: { drying: { hours: 3 } } }
  |                                                    ^^^^^^
  |
  = help: choose from `sun` and `fire`

error[E0105]: missing parameter `drying.hours`
 --> p.yaml:6:52
  |
6 |   c: { stage: paint, inputs: { paper: p }, with: { drying: { kind: sun, logs: 3 } } }
  |                                                    ^^^^^^

error[E0104]: unknown parameter `drying.logs`
 --> p.yaml:6:73
  |
6 |   c: { stage: paint, inputs: { paper: p }, with: { drying: { kind: sun, logs: 3 } } }
  |                                                                         ^^^^
  |
  = help: `drying` has the parameters `kind` and `hours`
",
    );
}

#[test]
fn a_missing_parameter_is_told_at_its_node() {
    assert_mistakes(
        "
nodes:
  paper: { stage: press }
",
        "
error[E0105]: missing parameter `text`
 --> p.yaml:3:3
  |
3 |   paper: { stage: press }
  |   ^^^^^
  |
  = help: `text`: What is printed.
",
    );
}

#[test]
fn what_a_stage_refuses_is_told_at_the_parameter() {
    assert_mistakes(
        "
nodes:
  p: { stage: press, with: { text: main.rs } }
  a: { stage: paint, inputs: { paper: p }, with: { brush: { hairs: 3 }, style: free, varnish: true } }
  b: { stage: paint, inputs: { paper: p }, with: { brush: { width: 3 } } }
",
        "
error[E0109]: `brush.hairs` must be a multiple of `brush.width`, 4
 --> p.yaml:4:68
  |
4 |   a: { stage: paint, inputs: { paper: p }, with: { brush: { hairs: 3 }, style: free, varnish: true } }
  |                                                                    ^
  |
  = help: try 400 and 4

error[E0109]: a free painting cannot be varnished
 --> p.yaml:4:95
  |
4 |   a: { stage: paint, inputs: { paper: p }, with: { brush: { hairs: 3 }, style: free, varnish: true } }
  |                                                                                               ^^^^

error[E0109]: `brush.hairs` must be a multiple of `brush.width`, 3
 --> p.yaml:5:3
  |
5 |   b: { stage: paint, inputs: { paper: p }, with: { brush: { width: 3 } } }
  |   ^ here `brush.hairs` is 400 by default
  |
  = help: try 400 and 4
",
    );
}

#[test]
fn sources_that_cannot_be_read_are_told() {
    assert_mistakes(
        "
nodes:
  p: { stage: press, with: { text: main.rz, attachments: [books/bad.book, books/worse.book] } }
",
        "
error[E0117]: no file `main.rz`
 --> p.yaml:3:36
  |
3 |   p: { stage: press, with: { text: main.rz, attachments: [books/bad.book, books/worse.book] } }
  |                                    ^^^^^^^
  |
  = help: did you mean `main.rs`?

error[E0118]: `books/bad.book` cannot be read: line 1: a chapter without name
 --> p.yaml:3:59
  |
3 |   p: { stage: press, with: { text: main.rz, attachments: [books/bad.book, books/worse.book] } }
  |                                                           ^^^^^^^^^^^^^^

error[E0117]: no file `books/worse.book`
 --> p.yaml:3:75
  |
3 |   p: { stage: press, with: { text: main.rz, attachments: [books/bad.book, books/worse.book] } }
  |                                                                           ^^^^^^^^^^^^^^^^
  |
  = help: paths are relative to the project's root, ROOT
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

#[test]
fn an_empty_file_is_told_what_to_write() {
    assert_mistakes(
        "# nothing yet",
        "
error[E0123]: the pipeline has no `nodes`
 --> p.yaml:1:1
  |
1 | # nothing yet
  | ^
  |
  = help: write `nodes:` and below it `NAME: { stage: STAGE }`
",
    );
    assert_mistakes(
        "nodes: {}",
        "
error[E0123]: the pipeline has no nodes
 --> p.yaml:1:8
  |
1 | nodes: {}
  |        ^^
",
    );
}

#[test]
fn what_is_no_yaml_is_told_at_its_place() {
    assert_mistakes(
        "nodes:\n  p: { stage: press\n",
        "
error[E0100]: unclosed bracket '{'
 --> p.yaml:2:6
  |
2 |   p: { stage: press
  |      ^
",
    );
    assert_mistakes(
        "nodes:\n  p:\n    stage: press: hard\n",
        "
error[E0100]: mapping values are not allowed in this context
 --> p.yaml:3:17
  |
3 |     stage: press: hard
  |                 ^
  |
  = help: a text that contains `: ` needs quotes; is this line indented as the one above?
",
    );
    assert_mistakes(
        "nodes:\n  p: *q\n",
        "
error[E0100]: reference to unknown value
 --> p.yaml:2:6
  |
2 |   p: *q
  |      ^
",
    );
}

#[test]
fn mistakes_in_variables_are_told() {
    assert_mistakes(
        "
vars: { sheets: many, loop: \"${{ vars.loop }}\", list: [1] }
nodes:
  p: { stage: press, with: { text: main.rs, sheets: \"${{ vars.sheets }}\" } }
  q: { stage: press, with: { text: \"${{ vars.txt }}\", sheets: \"${{ vars.shets }}\" } }
  r: { stage: press, with: { text: \"x${{ sheets }}\", sheets: \"${{ vars.loop }}\" } }
  s: { stage: press, with: { text: \"a ${{ vars.list }}\" } }
  t: { stage: press, with: { text: \"${{ vars.list\" } }
",
        "
error[E0121]: variable `vars.loop` refers to itself
 --> p.yaml:2:29
  |
2 | vars: { sheets: many, loop: \"${{ vars.loop }}\", list: [1] }
  |                             ^^^^^^^^^^^^^^^^^^

error[E0106]: parameter `sheets` must be an integer, found the text \"many\"
 --> p.yaml:4:53
  |
2 | vars: { sheets: many, loop: \"${{ vars.loop }}\", list: [1] }
  |                 ---- set here
3 | nodes:
4 |   p: { stage: press, with: { text: main.rs, sheets: \"${{ vars.sheets }}\" } }
  |                                                     ^^^^^^^^^^^^^^^^^^^^

error[E0120]: no variable `vars.txt`
 --> p.yaml:5:36
  |
5 |   q: { stage: press, with: { text: \"${{ vars.txt }}\", sheets: \"${{ vars.shets }}\" } }
  |                                    ^^^^^^^^^^^^^^^^^
  |
  = help: the variables are `sheets`, `loop` and `list`

error[E0120]: no variable `vars.shets`
 --> p.yaml:5:63
  |
5 |   q: { stage: press, with: { text: \"${{ vars.txt }}\", sheets: \"${{ vars.shets }}\" } }
  |                                                               ^^^^^^^^^^^^^^^^^^^
  |
  = help: did you mean `vars.sheets`?

error[E0121]: `sheets` is not a variable
 --> p.yaml:6:36
  |
6 |   r: { stage: press, with: { text: \"x${{ sheets }}\", sheets: \"${{ vars.loop }}\" } }
  |                                    ^^^^^^^^^^^^^^^^
  |
  = help: did you mean `vars.sheets`?

error[E0121]: `vars.list` is a list and cannot be part of a text
 --> p.yaml:7:36
  |
2 | vars: { sheets: many, loop: \"${{ vars.loop }}\", list: [1] }
  |                                                       --- set here
...
7 |   s: { stage: press, with: { text: \"a ${{ vars.list }}\" } }
  |                                    ^^^^^^^^^^^^^^^^^^^^

error[E0121]: an expression is not closed
 --> p.yaml:8:36
  |
8 |   t: { stage: press, with: { text: \"${{ vars.list\" } }
  |                                    ^^^^^^^^^^^^^^^
  |
  = help: write `${{ vars.NAME }}`
",
    );
}

#[test]
fn mistakes_in_overrides_show_the_words_of_the_command_line() {
    let text = "
vars: { sheets: 3 }
nodes:
  p: { stage: press, with: { text: main.rs, sheets: \"${{ vars.sheets }}\" } }
";
    assert_mistakes_with(
        text,
        &["vars.sheets=many"],
        "
error[E0106]: parameter `sheets` must be an integer, found the text \"many\"
 --> p.yaml:4:53
  |
4 |   p: { stage: press, with: { text: main.rs, sheets: \"${{ vars.sheets }}\" } }
  |                                                     ^^^^^^^^^^^^^^^^^^^^
  |
 ::: command line:1:19
  |
1 | --set vars.sheets=many
  |                   ---- set here
",
    );
    assert_mistakes_with(
        text,
        &["nodes.p.with.shets=3", "nodes.p.with.text=main.rz"],
        "
error[E0104]: unknown parameter `shets`
 --> command line:1:20
  |
1 | --set nodes.p.with.shets=3
  |                    ^^^^^
  |
  = help: did you mean `sheets`?

error[E0117]: no file `main.rz`
 --> command line:1:25
  |
1 | --set nodes.p.with.text=main.rz
  |                         ^^^^^^^
  |
  = help: did you mean `main.rs`?
",
    );
}

#[test]
fn an_override_that_leads_nowhere_is_told_with_where_it_could_lead() {
    let text = "
vars: { sheets: 3 }
nodes:
  paper: { stage: press, with: { text: main.rs, sheets: \"${{ vars.sheets }}\", attachments: [] } }
";
    assert_mistakes_with(
        text,
        &["node.paper.with.sheets=1"],
        "
error[E0122]: no `node` to set
 --> command line:1:7
  |
1 | --set node.paper.with.sheets=1
  |       ^^^^
  |
  = help: did you mean `nodes`?
",
    );
    assert_mistakes_with(
        text,
        &["nodes.papr.with.sheets=1"],
        "
error[E0122]: no node `papr` to set
 --> command line:1:13
  |
1 | --set nodes.papr.with.sheets=1
  |             ^^^^
  |
  = help: did you mean `paper`?
",
    );
    assert_mistakes_with(
        text,
        &["nodes.paper.sheets=1"],
        "
error[E0122]: no `sheets` of a node to set
 --> command line:1:19
  |
1 | --set nodes.paper.sheets=1
  |                   ^^^^^^
  |
  = help: did you mean `nodes.paper.with.sheets`?
",
    );
    assert_mistakes_with(
        text,
        &["vars.shets=1"],
        "
error[E0122]: no variable `vars.shets` to set
 --> command line:1:12
  |
1 | --set vars.shets=1
  |            ^^^^^
  |
  = help: did you mean `vars.sheets`?
",
    );
    assert_mistakes_with(
        text,
        &["nodes.paper.with.text.deeper=1"],
        "
error[E0122]: no `deeper` to set: it would lie inside the text \"main.rs\"
 --> command line:1:29
  |
1 | --set nodes.paper.with.text.deeper=1
  |                             ^^^^^^
  |
 ::: p.yaml:4:40
  |
4 |   paper: { stage: press, with: { text: main.rs, sheets: \"${{ vars.sheets }}\", attachments: [] } }
  |                                        ------- this value
",
    );
    assert_mistakes_with(
        text,
        &["nodes.paper.with.attachments.0=main.rs", "seed"],
        "
error[E0122]: no item `0` to set
 --> command line:1:36
  |
1 | --set nodes.paper.with.attachments.0=main.rs
  |                                    ^
  |
 ::: p.yaml:4:92
  |
4 |   paper: { stage: press, with: { text: main.rs, sheets: \"${{ vars.sheets }}\", attachments: [] } }
  |                                                                                            -- this list
  |
  = help: the list has 0 items, counted from 0

error[E0122]: an override has no value
 --> command line:1:7
  |
1 | --set seed
  |       ^^^^
  |
  = help: write `--set path=value`
",
    );
}

#[test]
fn a_mistake_in_shared_values_is_told_where_it_is_written_and_where_it_is_used() {
    assert_mistakes(
        "
x-base: &base
  strokez: 3
nodes:
  p: { stage: press, with: { text: main.rs } }
  a: { stage: paint, inputs: { paper: p }, with: { <<: *base, varnish: true } }
",
        "
error[E0104]: unknown parameter `strokez`
 --> p.yaml:3:3
  |
3 |   strokez: 3
  |   ^^^^^^^
...
6 |   a: { stage: paint, inputs: { paper: p }, with: { <<: *base, varnish: true } }
  |                                                        ----- used here
  |
  = help: did you mean `strokes`?
",
    );
}

#[test]
fn carets_stand_under_the_right_letters_after_letters_of_many_bytes() {
    assert_mistakes(
        "
name: Übung für größere Köpfe
nodes:
  p: { stage: press, with: { \"text\": main.rs, šheets: 1 } }
  a: { stage: paint, inputs: { paper: p }, with: { title: \"žluťoučký kůň\", strokes: 0 } }
",
        "
error[E0104]: unknown parameter `šheets`
 --> p.yaml:4:47
  |
4 |   p: { stage: press, with: { \"text\": main.rs, šheets: 1 } }
  |                                               ^^^^^^
  |
  = help: did you mean `sheets`?

error[E0107]: parameter `strokes` must be at least 1, found `0`
 --> p.yaml:5:85
  |
5 |   a: { stage: paint, inputs: { paper: p }, with: { title: \"žluťoučký kůň\", strokes: 0 } }
  |                                                                                     ^
",
    );
}

#[test]
fn the_place_in_one_line_is_the_place_in_the_message() {
    let text = "nodes:\n  ä: { stage: press }\n  p: { stage: press, with: { text: 'ö', sheets: 0 } }\n";
    let mistakes = plan_with(text, &[]).expect_err("there are mistakes");
    assert!(mistakes.len() >= 3);
    for mistake in mistakes {
        assert!(mistake.to_string().contains(&format!("--> {}\n", mistake.place())), "{mistake}");
    }
}

#[test]
fn colour_comes_only_when_asked_for() {
    let mistakes = plan_with("nodes: 3\n", &[]).expect_err("there is a mistake");
    assert!(!mistakes[0].render(engine::Colour::Never).contains('\u{1b}'));
    assert!(mistakes[0].render(engine::Colour::Always).contains('\u{1b}'));
}

#[test]
fn a_bomb_of_aliases_is_refused_in_no_time() {
    let mut text = String::from("x-a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let list = vec![format!("*a{}", level - 1); 10].join(", ");
        text += &format!("x-a{level}: &a{level} [{list}]\n");
    }
    let started = std::time::Instant::now();
    let mistakes = spec(&text, &[]).expect_err("the budget is spent");
    assert_eq!(mistakes[0].code, "E0100");
    assert!(started.elapsed().as_secs() < 2);
}

#[test]
fn a_bomb_of_variables_is_refused_in_no_time() {
    let mut text = String::from("vars:\n  a0: [x, x, x, x, x, x, x, x, x, x]\n  t0: xxxxxxxxxx\n");
    for level in 1..12 {
        let list = vec![format!("\"${{{{ vars.a{} }}}}\"", level - 1); 10].join(", ");
        let words = format!("${{{{ vars.t{} }}}}", level - 1).repeat(10);
        text += &format!("  a{level}: [{list}]\n  t{level}: \"{words}\"\n");
    }
    text += "nodes:\n  p: { stage: press, with: { text: main.rs } }\n";
    let started = std::time::Instant::now();
    let mistakes = plan_with(&text, &[]).expect_err("the budget is spent");
    assert!(mistakes.iter().any(|mistake| mistake.message == "the variables grow beyond all measure"));
    assert!(started.elapsed().as_secs() < 2);
}

#[test]
fn depth_is_bounded() {
    for text in ["[".repeat(100_000), "a: ".repeat(100_000), format!("nodes: {}1{}", "[".repeat(80), "]".repeat(80))] {
        assert_eq!(spec(&text, &[]).expect_err("too deep")[0].code, "E0100");
    }
}
