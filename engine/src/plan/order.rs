//! Orders nodes so that each comes after those it reads, or tells the circles that forbid it.
//! Knows nothing of stages.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
};

use petgraph::{
    Direction,
    algo::tarjan_scc,
    graph::{DiGraph, NodeIndex},
    visit::EdgeRef,
};

use crate::{
    code,
    diagnostic::{Diagnostic, Span},
    plan::reference::References,
    spec::Spec,
};

/// Which node of the spec comes when: as written, as far as the inputs allow.
pub(super) fn check(spec: &Spec, references: &References, mistakes: &mut Vec<Diagnostic>) -> Vec<usize> {
    let graph = graph(spec, references);
    let cycles: Vec<Vec<NodeIndex>> = tarjan_scc(&graph)
        .into_iter()
        .filter(|nodes| nodes.len() > 1 || graph.find_edge(nodes[0], nodes[0]).is_some())
        .collect();
    for nodes in &cycles {
        mistakes.push(circle(&graph, nodes, spec));
    }
    if cycles.is_empty() { order(&graph) } else { Vec::new() }
}

/// An edge goes from a node to one that reads it, and knows where that is written.
fn graph(spec: &Spec, references: &References) -> DiGraph<(), Span> {
    let mut graph = DiGraph::new();
    let indices: Vec<NodeIndex> = spec.nodes.iter().map(|_| graph.add_node(())).collect();
    for (reader, inputs) in indices.iter().zip(references) {
        for reference in inputs.iter().flatten() {
            for read in &reference.nodes {
                graph.add_edge(indices[*read], *reader, reference.place.span.clone());
            }
        }
    }
    graph
}

fn order(graph: &DiGraph<(), Span>) -> Vec<usize> {
    let mut waiting: Vec<usize> =
        graph.node_indices().map(|node| graph.edges_directed(node, Direction::Incoming).count()).collect();
    let mut ready: BinaryHeap<Reverse<usize>> =
        (0..waiting.len()).filter(|node| waiting[*node] == 0).map(Reverse).collect();
    let mut order = Vec::with_capacity(waiting.len());
    while let Some(Reverse(node)) = ready.pop() {
        order.push(node);
        for edge in graph.edges(NodeIndex::new(node)) {
            let reader = edge.target().index();
            waiting[reader] -= 1;
            if waiting[reader] == 0 {
                ready.push(Reverse(reader));
            }
        }
    }
    order
}

/// The shortest way from the first node of a component back to itself, told with its places.
fn circle(graph: &DiGraph<(), Span>, component: &[NodeIndex], spec: &Spec) -> Diagnostic {
    let first = *component.iter().min().expect("a component has nodes");
    // Backwards along the edges: from a reader to what it reads.
    let mut came_from: BTreeMap<NodeIndex, (NodeIndex, Span)> = BTreeMap::new();
    let mut queue = VecDeque::from([first]);
    'search: while let Some(reader) = queue.pop_front() {
        for edge in graph.edges_directed(reader, Direction::Incoming) {
            let read = edge.source();
            if component.contains(&read) && !came_from.contains_key(&read) {
                came_from.insert(read, (reader, edge.weight().clone()));
                if read == first {
                    break 'search;
                }
                queue.push_back(read);
            }
        }
    }
    let name = |node: NodeIndex| spec.nodes[node.index()].key.name.as_str();
    let mut steps = Vec::new();
    let mut read = first;
    loop {
        let (reader, span) = &came_from[&read];
        steps.push((*reader, read, span));
        read = *reader;
        if read == first {
            break;
        }
    }
    steps.reverse();
    let path: Vec<String> = steps.iter().map(|(reader, ..)| format!("`{}`", name(*reader))).collect();
    let message = match steps.len() {
        1 => format!("node {} reads itself", path[0]),
        _ => format!("nodes read each other in a circle: {} -> {}", path.join(" -> "), path[0]),
    };
    let label = |reader, read| format!("`{}` reads `{}`", name(reader), name(read));
    let (reader, read, span) = steps[0];
    let mut diagnostic = Diagnostic::new(code::CYCLE, message, span).label(label(reader, read));
    for (reader, read, span) in &steps[1..] {
        diagnostic = diagnostic.also(span, label(*reader, *read));
    }
    diagnostic
}
