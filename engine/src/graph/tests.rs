use super::*;
use crate::toy::node;

/// rows -> base -> cold -> report, with rows read by cold and report too.
fn plan() -> Plan {
    let nodes = vec![
        node("rows", "load", &[]),
        node("base", "pretrain", &["rows"]),
        node("cold<1>", "sift", &["base", "rows"]),
        node("report", "evaluate", &["cold<1>", "rows"]),
    ];
    Plan { name: "p".into(), root: ".".into(), file: "p.yaml".into(), nodes }
}

#[test]
fn mermaid_names_nodes_inputs_and_states() {
    let expected = "\
flowchart TD
  n0[\"rows<br/><small>load</small>\"]:::reuse
  n1[\"base<br/><small>pretrain</small>\"]
  n2[\"cold&lt;1&gt;<br/><small>sift</small>\"]
  n3[\"report<br/><small>evaluate</small>\"]
  n0 -->|texts| n1
  n1 -->|texts| n2
  n0 -->|texts| n2
  n2 -->|texts| n3
  n0 -->|texts| n3
  classDef reuse fill:#d8f3dc,stroke:#2d6a4f,color:#1b1f24
";
    assert_eq!(mermaid(&plan(), &[("rows", "reuse")].into()), expected);
}

#[test]
fn dot_quotes_names() {
    let text = dot(&plan(), &Words::new());
    assert!(text.starts_with("digraph \"p\" {\n"), "{text}");
    assert!(text.contains("  \"cold<1>\" [label=\"cold<1>\\nsift\", "), "{text}");
    assert!(text.contains("  \"rows\" -> \"report\" [label=\"texts\"]\n"), "{text}");
}

#[test]
fn an_svg_has_a_box_a_node_and_a_line_an_edge() {
    let text = svg(&plan(), &[("report", "run")].into());
    assert_eq!((text.matches("<rect x=").count(), text.matches("<path d=").count()), (4, 2 * 5), "{text}");
    assert!(text.contains("<title>report (evaluate): run</title>"), "{text}");
    assert!(text.contains("<title>rows to cold&lt;1&gt;: texts</title>"), "{text}");
}

/// Left edge, right edge and layer of every box; nothing may stand on anything else, nor a reader above what it reads.
#[test]
fn boxes_of_a_layer_stand_apart_and_readers_stand_below() {
    for seed in 0..40_u64 {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut draw = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        let count = 2 + draw(40);
        let widths: Vec<f64> = (0..count).map(|_| 40.0 + draw(120) as f64).collect();
        let mut edges: Vec<(usize, usize)> =
            (0..2 * count).map(|_| (draw(count), draw(count))).filter(|(from, to)| from < to).collect();
        edges.sort_unstable();
        edges.dedup();
        let layout = layout::layout(&widths, &edges);
        for (from, to) in &edges {
            assert!(layout.boxes[*from].1 < layout.boxes[*to].1, "seed {seed}");
        }
        for (a, (x, layer)) in layout.boxes.iter().enumerate() {
            assert!(x - widths[a] / 2.0 >= -1e-6 && x + widths[a] / 2.0 <= layout.width + 1e-6, "seed {seed}");
            for (b, (other, _)) in layout.boxes.iter().enumerate().filter(|(b, (_, other))| *b != a && other == layer) {
                let apart = (x - other).abs() - f64::midpoint(widths[a], widths[b]);
                assert!(apart > 1.0, "seed {seed}: {a} and {b} are {apart} apart");
            }
        }
    }
}

#[test]
fn a_chain_is_a_straight_line() {
    let layout = layout::layout(&[60.0, 100.0, 80.0], &[(0, 1), (1, 2)]);
    let places: Vec<f64> = layout.boxes.iter().map(|(x, _)| *x).collect();
    assert!(places.iter().all(|x| (x - places[0]).abs() < 0.5), "{places:?}");
}
