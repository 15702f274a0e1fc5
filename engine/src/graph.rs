//! A plan as a picture: Mermaid, Graphviz or SVG.
//! Knows nothing of how a plan is run; a word for each node, as `reuse`, only gives it its colour.

mod layout;
mod svg;

use std::{collections::BTreeMap, fmt::Write};

pub use svg::svg;

use crate::plan::Plan;

/// A word for each node that shall be coloured: `reuse`, `run`, `waits`, `fails` or `left`.
pub type Words<'a> = BTreeMap<&'a str, &'a str>;

/// Fill and border of a word.
const COLOURS: [(&str, &str, &str); 5] = [
    ("reuse", "#d8f3dc", "#2d6a4f"),
    ("run", "#fff3bf", "#a07800"),
    ("waits", "#e7ecf3", "#51617a"),
    ("fails", "#ffd6d6", "#b02a2a"),
    ("left", "#f3f3f3", "#8a8a8a"),
];

/// Fill and border of a node without a word.
const PLAIN: (&str, &str) = ("#eef3fb", "#3b5b8c");

/// One line from a node to one that reads it.
struct Edge {
    from: usize,
    to: usize,
    /// The inputs that it is, as `rows, prompts`.
    inputs: String,
}

/// Each pair of nodes once, in the plan's order.
fn edges(plan: &Plan) -> Vec<Edge> {
    let at: BTreeMap<&str, usize> =
        plan.nodes().iter().enumerate().map(|(at, node)| (node.name.as_str(), at)).collect();
    let mut edges: Vec<Edge> = Vec::new();
    for (to, node) in plan.nodes().iter().enumerate() {
        let begin = edges.len();
        for input in &node.inputs {
            for from in input.nodes.iter().filter_map(|name| at.get(name.as_str()).copied()) {
                match edges[begin..].iter_mut().find(|edge| edge.from == from) {
                    Some(edge) if edge.inputs.split(", ").any(|known| known == input.name) => {}
                    Some(edge) => {
                        edge.inputs.push_str(", ");
                        edge.inputs.push_str(&input.name);
                    }
                    None => edges.push(Edge { from, to, inputs: input.name.clone() }),
                }
            }
        }
    }
    edges
}

/// For Markdown: in a block of code that is marked `mermaid`.
#[must_use]
pub fn mermaid(plan: &Plan, words: &Words<'_>) -> String {
    let mut text = "flowchart TD\n".to_owned();
    for (at, node) in plan.nodes().iter().enumerate() {
        let class = words.get(node.name.as_str()).map_or(String::new(), |word| format!(":::{word}"));
        line(&mut text, format_args!("  n{at}[\"{}<br/><small>{}</small>\"]{class}", entities(&node.name), node.stage));
    }
    for Edge { from, to, inputs } in edges(plan) {
        line(&mut text, format_args!("  n{from} -->|{}| n{to}", entities(&inputs)));
    }
    for (word, fill, border) in COLOURS.iter().filter(|(word, ..)| words.values().any(|used| used == word)) {
        line(&mut text, format_args!("  classDef {word} fill:{fill},stroke:{border},color:#1b1f24"));
    }
    text
}

/// For Graphviz.
#[must_use]
pub fn dot(plan: &Plan, words: &Words<'_>) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let mut text = format!("digraph {} {{\n", quoted(&plan.name));
    text.push_str("  node [shape=box, style=\"rounded,filled\", fontname=\"Helvetica\"]\n");
    text.push_str("  edge [fontname=\"Helvetica\", fontsize=9, color=\"#8796ab\"]\n");
    for node in plan.nodes() {
        let (fill, border) = colours(words, &node.name);
        let name = quoted(&node.name);
        // `\n` is Graphviz's own escape for a new line.
        let label = format!("{}\\n{}\"", name.trim_end_matches('"'), node.stage);
        line(&mut text, format_args!("  {name} [label={label}, fillcolor=\"{fill}\", color=\"{border}\"]"));
    }
    for Edge { from, to, inputs } in edges(plan) {
        let [from, to] = [from, to].map(|at| quoted(&plan.nodes()[at].name));
        line(&mut text, format_args!("  {from} -> {to} [label={}]", quoted(&inputs)));
    }
    text.push_str("}\n");
    text
}

fn colours(words: &Words<'_>, node: &str) -> (&'static str, &'static str) {
    let word = words.get(node).copied().unwrap_or_default();
    COLOURS.iter().find(|(known, ..)| *known == word).map_or(PLAIN, |(_, fill, border)| (fill, border))
}

fn line(text: &mut String, words: std::fmt::Arguments<'_>) {
    writeln!(text, "{words}").expect("a text takes all that is written to it");
}

/// For XML and for Mermaid, which reads a label as HTML.
fn entities(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests;
