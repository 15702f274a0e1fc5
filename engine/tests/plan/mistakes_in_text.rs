//! The whole message for every mistake in the text itself, its variables and the command line's.

use std::fmt::Write;

use crate::toys::{assert_mistakes, assert_mistakes_with, plan_with, spec};

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
 --> p.yaml:2:34
  |
2 | vars: { sheets: many, loop: \"${{ vars.loop }}\", list: [1] }
  |                                  ^^^^^^^^^

error[E0106]: parameter `sheets` must be an integer, found the text \"many\"
 --> p.yaml:4:53
  |
2 | vars: { sheets: many, loop: \"${{ vars.loop }}\", list: [1] }
  |                 ---- set here
3 | nodes:
4 |   p: { stage: press, with: { text: main.rs, sheets: \"${{ vars.sheets }}\" } }
  |                                                     ^^^^^^^^^^^^^^^^^^^^

error[E0120]: no variable `vars.txt`
 --> p.yaml:5:46
  |
5 |   q: { stage: press, with: { text: \"${{ vars.txt }}\", sheets: \"${{ vars.shets }}\" } }
  |                                              ^^^
  |
  = help: there are `sheets`, `loop` and `list`

error[E0120]: no variable `vars.shets`
 --> p.yaml:5:73
  |
5 |   q: { stage: press, with: { text: \"${{ vars.txt }}\", sheets: \"${{ vars.shets }}\" } }
  |                                                                         ^^^^^
  |
  = help: did you mean `vars.sheets`?

error[E0121]: `sheets` is not a variable
 --> p.yaml:6:42
  |
6 |   r: { stage: press, with: { text: \"x${{ sheets }}\", sheets: \"${{ vars.loop }}\" } }
  |                                          ^^^^^^
  |
  = help: did you mean `vars.sheets`?

error[E0121]: `vars.list` is a list and cannot be part of a text
 --> p.yaml:7:43
  |
2 | vars: { sheets: many, loop: \"${{ vars.loop }}\", list: [1] }
  |                                                       --- set here
...
7 |   s: { stage: press, with: { text: \"a ${{ vars.list }}\" } }
  |                                           ^^^^^^^^^

error[E0121]: an expression is not closed
 --> p.yaml:8:50
  |
8 |   t: { stage: press, with: { text: \"${{ vars.list\" } }
  |                                                  ^
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
  = help: write `--set path=value`, or `--set ~path` to remove
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
        writeln!(text, "x-a{level}: &a{level} [{list}]").expect("text grows");
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
        write!(text, "  a{level}: [{list}]\n  t{level}: \"{words}\"\n").expect("text grows");
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

#[test]
fn an_anchor_cannot_be_set_where_it_was_copied_from() {
    assert_mistakes_with(
        "x-base: &base { text: main.rs }\nnodes: { p: { stage: press, with: *base } }\n",
        &["x-base.text=main.rz"],
        "
error[E0122]: no `x-base` to set
 --> command line:1:7
  |
1 | --set x-base.text=main.rz
  |       ^^^^^^
  |
  = help: anchors are already in place where they are used: set the value there
",
    );
}

/// The first one ended the reading, and hid the others.
#[test]
fn a_number_that_is_none_hides_no_other_mistake() {
    let mut text = String::from("vars: { used: .inf }\nnodes:\n");
    let _ = writeln!(text, "  odd: {{ stage: paint, with: {{ water: .nan, strokes: 0 }}, inputs: {{ paper: p0 }} }}");
    let _ = writeln!(
        text,
        "  use: {{ stage: paint, with: {{ water: \"${{{{ vars.used }}}}\" }}, inputs: {{ paper: p0 }} }}"
    );
    for at in 0..12 {
        let _ = writeln!(text, "  p{at}: {{ stage: press, with: {{ text: main.rs, sheets: 0 }} }}");
    }
    let mistakes = plan_with(&text, &[]).unwrap_err();
    let told: Vec<&str> = mistakes.iter().map(|mistake| mistake.message.as_str()).collect();
    let count = |word: &str| told.iter().filter(|message| message.contains(word)).count();
    assert_eq!(count("the number is not finite"), 2, "{told:#?}");
    assert_eq!(count("`sheets`") + count("`strokes`"), 13, "{told:#?}");
}
