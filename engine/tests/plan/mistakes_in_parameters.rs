//! The whole message for every mistake in parameters and settings.

use crate::toys::assert_mistakes;

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
fn mistakes_deep_inside_are_told_at_their_place() {
    assert_mistakes(
        "
nodes:
  f:
    stage: frame
    with:
      material: { wood: { rings: 0 } }
      sides: { left: 1, right: long }
      screws: [1, 2, 3]
      finish: glossy
      labels: [{ text: a, file: gone.txt }, { size: 1 }, { text: c, colour: red }]
  g: { stage: frame, with: { material: { gould: 3 }, labels: [] } }
  h: { stage: frame, with: { material: aire } }
  i: { stage: frame, with: { material: {} } }
  j: { stage: frame, with: { material: 3 } }
",
        "
error[E0107]: parameter `material.wood.rings` must be at least 1, found `0`
 --> p.yaml:6:34
  |
6 |       material: { wood: { rings: 0 } }
  |                                  ^

error[E0106]: parameter `sides.right` must be a number, found the text \"long\"
 --> p.yaml:7:32
  |
7 |       sides: { left: 1, right: long }
  |                                ^^^^

error[E0107]: parameter `screws` must have 4 items, found 3
 --> p.yaml:8:15
  |
8 |       screws: [1, 2, 3]
  |               ^^^^^^^^^

error[E0108]: parameter `finish` cannot be `glossy`
 --> p.yaml:9:15
  |
9 |       finish: glossy
  |               ^^^^^^
  |
  = help: the choices are `thick`, `thin` and `free`

error[E0117]: no file `gone.txt`
  --> p.yaml:10:33
   |
10 |       labels: [{ text: a, file: gone.txt }, { size: 1 }, { text: c, colour: red }]
   |                                 ^^^^^^^^
   |
   = help: paths are relative to the project's root, ROOT

error[E0105]: missing parameter `labels.1.text`
  --> p.yaml:10:45
   |
10 |       labels: [{ text: a, file: gone.txt }, { size: 1 }, { text: c, colour: red }]
   |                                             ^^^^^^^^^^^

error[E0104]: unknown parameter `labels.2.colour`
  --> p.yaml:10:69
   |
10 |       labels: [{ text: a, file: gone.txt }, { size: 1 }, { text: c, colour: red }]
   |                                                                     ^^^^^^
   |
   = help: `labels.2` has the parameters `text`, `file` and `size`

error[E0104]: unknown parameter `material.gould`
  --> p.yaml:11:42
   |
11 |   g: { stage: frame, with: { material: { gould: 3 }, labels: [] } }
   |                                          ^^^^^
   |
   = help: did you mean `gold`?

error[E0107]: parameter `labels` must have from 1 to 3 items, found 0
  --> p.yaml:11:62
   |
11 |   g: { stage: frame, with: { material: { gould: 3 }, labels: [] } }
   |                                                              ^^

error[E0108]: parameter `material` cannot be `aire`
  --> p.yaml:12:40
   |
12 |   h: { stage: frame, with: { material: aire } }
   |                                        ^^^^
   |
   = help: did you mean `air`?

error[E0105]: parameter `material` is an empty block
  --> p.yaml:13:40
   |
13 |   i: { stage: frame, with: { material: {} } }
   |                                        ^^
   |
   = help: choose from `wood` and `gold`

error[E0106]: parameter `material` must be `air` or a block, found `3`
  --> p.yaml:14:40
   |
14 |   j: { stage: frame, with: { material: 3 } }
   |                                        ^
",
    );
}
