//! A plan as an SVG that needs no program but a browser.
//! Knows nothing of where the boxes stand; that is the layout's.

use super::{Words, colours, edges, entities, layout::layout, line};
use crate::plan::Plan;

const HEIGHT: f64 = 42.0;
/// From the top of one layer to the top of the next.
const STEP: f64 = 84.0;
const MARGIN: f64 = 16.0;
/// Widths of letters of the two sizes, on the safe side for common fonts without serifs.
const LETTER: f64 = 7.8;
const SMALL_LETTER: f64 = 6.2;

/// For a browser, a README or a slide.
#[must_use]
pub fn svg(plan: &Plan, words: &Words<'_>) -> String {
    let nodes = plan.nodes();
    let edges = edges(plan);
    let letters = |text: &str| text.chars().count() as f64;
    let widths: Vec<f64> = nodes
        .iter()
        .map(|node| (letters(&node.name) * LETTER).max(letters(node.stage) * SMALL_LETTER) + 22.0)
        .collect();
    let ends: Vec<(usize, usize)> = edges.iter().map(|edge| (edge.from, edge.to)).collect();
    let layout = layout(&widths, &ends);
    let width = layout.width + 2.0 * MARGIN;
    let height = (layout.layers.saturating_sub(1)) as f64 * STEP + HEIGHT + 2.0 * MARGIN;
    let top = |layer: usize| MARGIN + layer as f64 * STEP;

    let mut text = String::new();
    line(
        &mut text,
        format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
             viewBox=\"0 0 {width:.0} {height:.0}\" font-family=\"Helvetica, Arial, sans-serif\">"
        ),
    );
    line(&mut text, format_args!("<title>{}</title>", entities(&plan.name)));
    line(&mut text, format_args!("<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>"));
    line(&mut text, format_args!("<g fill=\"none\" stroke=\"#8796ab\" stroke-width=\"1.4\">"));
    for (edge, places) in edges.iter().zip(&layout.lines) {
        let mut path = Vec::new();
        for (at, (x, layer)) in places.iter().enumerate() {
            let x = x + MARGIN;
            // A line leaves at the bottom of a box, passes through the middle of a layer, and ends above its arrow.
            let (enters, leaves) = (top(*layer), top(*layer) + HEIGHT);
            if at == 0 {
                path.push(format!("M{x:.1} {leaves:.1}"));
                continue;
            }
            let (before, above) = (places[at - 1].0 + MARGIN, top(places[at - 1].1) + HEIGHT);
            let end = if at + 1 == places.len() { enters - 6.0 } else { enters };
            let middle = f64::midpoint(above, end);
            path.push(format!("C{before:.1} {middle:.1} {x:.1} {middle:.1} {x:.1} {end:.1}"));
            if at + 1 < places.len() {
                path.push(format!("L{x:.1} {leaves:.1}"));
            }
        }
        let [from, to] = [edge.from, edge.to].map(|at| entities(&nodes[at].name));
        let path = path.join(" ");
        line(
            &mut text,
            format_args!("<path d=\"{path}\"><title>{from} to {to}: {}</title></path>", entities(&edge.inputs)),
        );
    }
    line(&mut text, format_args!("</g>\n<g fill=\"#8796ab\">"));
    for (x, layer) in layout.lines.iter().filter_map(|places| places.last()) {
        let (x, y) = (x + MARGIN, top(*layer));
        let (left, right, back) = (x - 4.0, x + 4.0, y - 8.0);
        line(&mut text, format_args!("<path d=\"M{x:.1} {y:.1} L{left:.1} {back:.1} L{right:.1} {back:.1} Z\"/>"));
    }
    line(&mut text, format_args!("</g>\n<g text-anchor=\"middle\" fill=\"#1b1f24\">"));
    for ((node, (x, layer)), width) in nodes.iter().zip(&layout.boxes).zip(&widths) {
        let (x, y) = (x + MARGIN, top(*layer));
        let left = x - width / 2.0;
        let (fill, border) = colours(words, &node.name);
        let (name, stage) = (entities(&node.name), entities(node.stage));
        let word = words.get(node.name.as_str()).map_or(String::new(), |word| format!(": {word}"));
        line(
            &mut text,
            format_args!(
                "<g><title>{name} ({stage}){word}</title><rect x=\"{left:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" \
                 height=\"{HEIGHT}\" rx=\"7\" fill=\"{fill}\" stroke=\"{border}\" stroke-width=\"1.3\"/>\
                 <text x=\"{x:.1}\" y=\"{:.1}\" font-size=\"13\" font-weight=\"bold\">{name}</text>\
                 <text x=\"{x:.1}\" y=\"{:.1}\" font-size=\"11\" fill=\"#51617a\">{stage}</text></g>",
                y + 18.0,
                y + 33.0
            ),
        );
    }
    text.push_str("</g>\n</svg>\n");
    text
}
