//! What each code means, at length, with a pipeline that has the mistake.
//! Knows nothing of how mistakes are found.

use crate::code;

/// A code in words.
#[derive(Debug, Clone, Copy)]
pub struct Explanation {
    pub code: &'static str,
    pub text: &'static str,
    /// A pipeline with this mistake.
    pub example: &'static str,
    /// What else is said on the command line for it.
    pub words: &'static str,
}

/// What a code means; none where there is no such code.
#[must_use]
pub fn explanation(code: &str) -> Option<&'static Explanation> {
    EXPLANATIONS.iter().find(|explanation| explanation.code.eq_ignore_ascii_case(code))
}

/// Every code, in order.
pub const EXPLANATIONS: [Explanation; 30] = [
    Explanation {
        code: code::SYNTAX,
        text: "The file is not YAML, or holds more than a pipeline may: more than one document, blocks more than 64 \
             deep, aliases that grow beyond all measure. The caret stands where the reader gave up; the mistake is \
             often a little before it: an indentation, a bracket, a `: ` inside a text without quotes. An expression \
             inside brackets needs quotes: `{ steps: \"${{ vars.steps }}\" }`.",
        example: "nodes:
  rows: { stage: load, with: { path: rows.jsonl }
",
        words: "",
    },
    Explanation {
        code: code::UNKNOWN_KEY,
        text: "A key that does not exist where it stands: at the top of a pipeline, in a profile, in `defaults` or in \
             an `include`. Unknown keys are never passed over, for a slip of the pen would change what is computed. \
             Keys at the top that begin with `x-` are free: a place for anchors.",
        example: "sead: 7
nodes:
  rows: { stage: load, with: { path: rows.jsonl } }
",
        words: "",
    },
    Explanation {
        code: code::UNKNOWN_NODE_KEY,
        text: "A node has a key that nodes do not have. Parameters of the stage belong below `with:`, settings that \
             change no result below `run:`, what it reads below `inputs:`.",
        example: "nodes:
  rows: { stage: load, path: rows.jsonl, with: { path: rows.jsonl } }
",
        words: "",
    },
    Explanation {
        code: code::UNKNOWN_STAGE,
        text: "`stage:`, or a key of `defaults`, names a stage that does not exist. `mashbill stages` lists them.",
        example: "nodes:
  rows: { stage: lode, with: { path: rows.jsonl } }
",
        words: "",
    },
    Explanation {
        code: code::UNKNOWN_PARAMETER,
        text: "A parameter below `with:`, or a setting below `run:`, that the stage does not have. `mashbill stages \
             NAME` lists all of them with their defaults. A parameter decides the result and a setting does not, so \
             each has its own block.",
        example: "nodes:
  rows: { stage: load, with: { path: rows.jsonl, limmit: 10 } }
",
        words: "",
    },
    Explanation {
        code: code::MISSING_PARAMETER,
        text: "A parameter without default is not given.",
        example: "nodes:
  rows: { stage: load, with: { limit: 10 } }
",
        words: "",
    },
    Explanation {
        code: code::WRONG_TYPE,
        text: "A value is of another kind than is wanted there: a text for a number, a list for a block. Words mean \
             what people mean: `no`, `on`, `0777` and `1_000` are texts, `1e-5` is a number, `true` and `false` are \
             truths. Quotes make a text of anything.",
        example: "nodes:
  rows: { stage: load, with: { path: rows.jsonl, limit: 1_000 } }
",
        words: "",
    },
    Explanation {
        code: code::OUT_OF_RANGE,
        text: "A number lies outside its bounds, or a text or list is too short or too long.",
        example: "nodes:
  rows: { stage: load, with: { path: rows.jsonl, limit: 0 } }
",
        words: "",
    },
    Explanation {
        code: code::UNKNOWN_CHOICE,
        text: "A word is not among those that the parameter takes.",
        example: "nodes:
  rows: { stage: load, with: { path: rows.jsonl, format: jsonlines } }
",
        words: "",
    },
    Explanation {
        code: code::REFUSED,
        text: "The parameters are of the right types, but the stage cannot work with them, with a script that they name, \
             with what is known of its inputs, or on this machine. The stage says what it needs.",
        example: "nodes:
  rows: { stage: load, with: { path: rows.jsonl } }
  part: { stage: split, inputs: { rows: rows }, with: { part: test, test: 1.5 } }
",
        words: "",
    },
    Explanation {
        code: code::UNKNOWN_INPUT,
        text: "A node gives an input that its stage does not read. `mashbill stages NAME` lists the inputs.",
        example: "nodes:
  rows: { stage: load, with: { path: rows.jsonl } }
  part: { stage: split, inputs: { rows: rows, rest: rows }, with: { part: test } }
",
        words: "",
    },
    Explanation {
        code: code::MISSING_INPUT,
        text: "A stage cannot work without an input that the node does not give.",
        example: "nodes:
  part: { stage: split, with: { part: test } }
",
        words: "",
    },
    Explanation {
        code: code::UNKNOWN_NODE,
        text: "An input names a node, or an instance of a matrix, that does not exist. An instance is named as \
             `grow[seed=1]`, all of them as `grow[*]`.",
        example: "nodes:
  rows: { stage: load, with: { path: rows.jsonl } }
  part: { stage: split, inputs: { rows: row }, with: { part: test } }
",
        words: "",
    },
    Explanation {
        code: code::WRONG_KIND,
        text: "A node makes another kind of artifact than the input takes: a text where rows are wanted, say.",
        example: "nodes:
  words: { stage: command, with: { sh: date > $OUTPUT/words, kind: text } }
  part: { stage: split, inputs: { rows: words }, with: { part: test } }
",
        words: "",
    },
    Explanation {
        code: code::WRONG_ARITY,
        text: "An input takes one node and is given a list, or all instances of a matrix; or it takes at least one and \
             is given none.",
        example: "nodes:
  rows: { stage: load, with: { path: rows.jsonl } }
  part: { stage: split, inputs: { rows: [rows, rows] }, with: { part: test } }
",
        words: "",
    },
    Explanation {
        code: code::CYCLE,
        text: "Nodes read each other in a circle, so that none of them can be the first.",
        example: "nodes:
  a: { stage: split, inputs: { rows: b }, with: { part: test } }
  b: { stage: split, inputs: { rows: a }, with: { part: test } }
",
        words: "",
    },
    Explanation {
        code: code::DUPLICATE,
        text: "A key is written twice in one block, or a value twice on an axis. Only one of them could hold.",
        example: "nodes:
  rows: { stage: load, with: { path: rows.jsonl } }
  rows: { stage: load, with: { path: rows.jsonl } }
",
        words: "",
    },
    Explanation {
        code: code::MISSING_SOURCE,
        text: "A parameter names a file or folder that does not exist. Paths start from the project's root: the nearest \
             folder above the pipeline with `.mashbill` or `.git` in it, or `--root`.",
        example: "nodes:
  rows: { stage: load, with: { path: row.jsonl } }
",
        words: "",
    },
    Explanation {
        code: code::BAD_SOURCE,
        text: "A file is there but cannot be understood as far as is needed before anything runs: a script that imports \
             what does not exist, say.",
        example: "nodes:
  rows: { stage: generate, with: { script: broken.rhai, rows: 10 } }
",
        words: "",
    },
    Explanation {
        code: code::BAD_NAME,
        text: "A node, an axis, a file's own name, an input or a variable of the environment has a name that it cannot \
             have. Names of nodes are made of a-z, A-Z, 0-9, `_` and `-`, and begin with a letter or `_`.",
        example: "nodes:
  1st: { stage: load, with: { path: rows.jsonl } }
",
        words: "",
    },
    Explanation {
        code: code::UNKNOWN_VARIABLE,
        text: "An expression asks for a variable, or a part of one, that does not exist. `default(vars.name, 5)` takes \
             another value where there is none.",
        example: r#"vars: { steps: 100 }
nodes:
  rows: { stage: load, with: { path: rows.jsonl, limit: "${{ vars.stepz + vars.steps }}" } }
"#,
        words: "",
    },
    Explanation {
        code: code::BAD_EXPRESSION,
        text: "An expression cannot be understood or computed: a sign is missing, two values do not go together, \
             variables refer to themselves. Expressions know `vars.a.b`, `matrix.axis`, numbers, texts in quotes, \
             `[lists]`, `+ - * / %`, `== != < <= > >=`, `&& || !`, `condition ? a : b`, `default(a, b)`, `len(a)` and \
             `join(list, between)`. Nothing is converted: `1` is not `\"1\"`, and only `true` is true.",
        example: r#"vars: { steps: 100 }
nodes:
  rows: { stage: load, with: { path: rows.jsonl, limit: "${{ vars.steps + 'x' }}" } }
"#,
        words: "",
    },
    Explanation {
        code: code::BAD_OVERRIDE,
        text: "A `--set` leads nowhere. `--set vars.steps=100`, `--set nodes.rows.with.limit=10` or `rows.limit=10` for \
             short; items of lists go by their number. `+path=value` adds a key, or an item to a list; `~path` \
             removes.",
        example: "nodes:
  rows: { stage: load, with: { path: rows.jsonl, limit: 5 } }
",
        words: "--set rows.limit.most=10",
    },
    Explanation {
        code: code::MISSING_KEY,
        text: "Something that must be written is not: `nodes` of a pipeline, `stage` of a node.",
        example: "nodes:
  rows: { with: { path: rows.jsonl } }
",
        words: "",
    },
    Explanation {
        code: code::UNUSED_VARIABLE,
        text: "Nothing asks for a variable. As often as not its name has a slip in it, and the value that was meant is \
             never set. Variables of included files may wait for whoever wants them.",
        example: "vars: { limit: 10 }
nodes:
  rows: { stage: load, with: { path: rows.jsonl } }
",
        words: "",
    },
    Explanation {
        code: code::BAD_INCLUDE,
        text: "A file that cannot be included: it is not there, it is no text, it includes itself. Paths start from the \
             project's root. `include: [lib/eval.yaml]` lays the file under this one; `[{ file: lib/eval.yaml, as: \
             eval }]` gives all its nodes and variables a name of their own: `eval/report`, `vars.eval.limit`.",
        example: "include: lib/eval.yaml
nodes:
  rows: { stage: load, with: { path: rows.jsonl } }
",
        words: "",
    },
    Explanation {
        code: code::BAD_MATRIX,
        text: "A matrix is a block of axes, each a list of numbers or texts: `matrix: { seed: [1, 2, 3] }`. Its values \
             are part of names such as `grow[seed=1]`, so they cannot be lists or blocks, nor contain brackets, \
             commas or `=`.",
        example: r#"nodes:
  rows: { stage: load, matrix: { limit: 3 }, with: { path: rows.jsonl, limit: "${{ matrix.limit }}" } }
"#,
        words: "",
    },
    Explanation {
        code: code::LEFT_OUT,
        text: "A node is left out by its `when`, and an input that cannot do without it reads it. An input that takes \
             many nodes, or none, does without.",
        example: "nodes:
  rows: { stage: load, when: false, with: { path: rows.jsonl } }
  part: { stage: split, inputs: { rows: rows }, with: { part: test } }
",
        words: "",
    },
    Explanation {
        code: code::UNKNOWN_PROFILE,
        text: "`--profile` names a profile that the pipeline does not have below `profiles:`.",
        example: "nodes:
  rows: { stage: load, with: { path: rows.jsonl } }
",
        words: "--profile gpu",
    },
    Explanation {
        code: code::UNUSED_AXIS,
        text: "An axis of a matrix decides nothing: no value of the node asks for it, and no input is paired by it. All \
             its instances would be the same. Ask for it with `${{ matrix.NAME }}`.",
        example: "nodes:
  rows: { stage: load, matrix: { limit: [1, 2] }, with: { path: rows.jsonl } }
",
        words: "",
    },
];
