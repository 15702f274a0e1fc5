//! Where the boxes of a picture stand: layers from top to bottom, few crossings, lines as straight as they will go.
//! Knows nothing of what the boxes mean.
//!
//! Sugiyama's method: layers by the longest way, a stand-in in every layer that a line passes through, the order
//! in a layer by the mean place of neighbours, and then the nearest places to those means that leave room between.

/// Room between two boxes of a layer.
const GAP: f64 = 26.0;
/// Room between a line that passes through and its neighbours.
const LINE_GAP: f64 = 14.0;
const SWEEPS: usize = 24;

/// Places of boxes and lines.
pub(super) struct Layout {
    /// Centre of each box, and its layer.
    pub boxes: Vec<(f64, usize)>,
    /// Of each edge the places where it crosses layers, from the first to the last: `(centre, layer)`.
    pub lines: Vec<Vec<(f64, usize)>>,
    pub width: f64,
    pub layers: usize,
}

/// Every edge goes from an earlier box to a later one.
pub(super) fn layout(widths: &[f64], edges: &[(usize, usize)]) -> Layout {
    let mut drawing = Drawing::new(widths, edges);
    drawing.order();
    drawing.place();
    drawing.finish(widths.len())
}

/// Boxes first, then stand-ins.
struct Drawing {
    layer: Vec<usize>,
    width: Vec<f64>,
    above: Vec<Vec<usize>>,
    below: Vec<Vec<usize>>,
    /// The boxes of each layer from left to right.
    rows: Vec<Vec<usize>>,
    /// What each edge passes through, both ends too.
    chains: Vec<Vec<usize>>,
    x: Vec<f64>,
    boxes: usize,
}

impl Drawing {
    fn new(widths: &[f64], edges: &[(usize, usize)]) -> Self {
        let mut layer = vec![0; widths.len()];
        for (from, to) in sorted(edges) {
            layer[to] = layer[to].max(layer[from] + 1);
        }
        // What reads nothing stands right above its first reader.
        for at in (0..layer.len()).filter(|at| edges.iter().all(|(_, to)| to != at)) {
            let readers = edges.iter().filter(|(from, _)| *from == at).map(|(_, to)| layer[*to]);
            layer[at] = readers.min().map_or(0, |first| first - 1);
        }
        let boxes = widths.len();
        let mut drawing = Self {
            layer,
            width: widths.to_vec(),
            above: vec![Vec::new(); boxes],
            below: vec![Vec::new(); boxes],
            rows: Vec::new(),
            chains: Vec::new(),
            x: Vec::new(),
            boxes,
        };
        for (from, to) in edges {
            drawing.chain(*from, *to);
        }
        drawing.rows = vec![Vec::new(); drawing.layer.iter().max().map_or(0, |last| last + 1)];
        for (at, layer) in drawing.layer.iter().enumerate() {
            drawing.rows[*layer].push(at);
        }
        drawing
    }

    /// One stand-in in every layer between the two.
    fn chain(&mut self, from: usize, to: usize) {
        let mut chain = vec![from];
        for layer in self.layer[from] + 1..self.layer[to] {
            chain.push(self.layer.len());
            self.layer.push(layer);
            self.width.push(0.0);
            self.above.push(Vec::new());
            self.below.push(Vec::new());
        }
        chain.push(to);
        for pair in chain.windows(2) {
            self.below[pair[0]].push(pair[1]);
            self.above[pair[1]].push(pair[0]);
        }
        self.chains.push(chain);
    }

    fn order(&mut self) {
        let mut best = (self.crossings(), self.rows.clone());
        for sweep in 0..SWEEPS {
            let is_down = sweep % 2 == 0;
            let layers: Vec<usize> = if is_down {
                (1..self.rows.len()).collect()
            } else {
                (0..self.rows.len().saturating_sub(1)).rev().collect()
            };
            for layer in layers {
                let places = self.places();
                let neighbours = if is_down { &self.above } else { &self.below };
                let mean = |at: usize| match neighbours[at].as_slice() {
                    [] => places[at],
                    some => some.iter().map(|other| places[*other]).sum::<f64>() / some.len() as f64,
                };
                let mut row = self.rows[layer].clone();
                row.sort_by(|a, b| mean(*a).total_cmp(&mean(*b)));
                self.rows[layer] = row;
            }
            let crossings = self.crossings();
            if crossings < best.0 {
                best = (crossings, self.rows.clone());
            }
        }
        self.rows = best.1;
    }

    /// How far from the left each stands, from 0 to 1.
    fn places(&self) -> Vec<f64> {
        let mut places = vec![0.0; self.layer.len()];
        for row in &self.rows {
            for (at, node) in row.iter().enumerate() {
                places[*node] = (at as f64 + 0.5) / row.len() as f64;
            }
        }
        places
    }

    fn crossings(&self) -> usize {
        let mut position = vec![0; self.layer.len()];
        for row in &self.rows {
            row.iter().enumerate().for_each(|(at, node)| position[*node] = at);
        }
        let mut crossings = 0;
        for row in &self.rows {
            let ends: Vec<(usize, usize)> = row
                .iter()
                .flat_map(|node| self.below[*node].iter().map(|to| (position[*node], position[*to])))
                .collect();
            for (at, (from, to)) in ends.iter().enumerate() {
                crossings +=
                    ends[at + 1..].iter().filter(|(f, t)| (from < f && to > t) || (from > f && to < t)).count();
            }
        }
        crossings
    }

    fn place(&mut self) {
        self.x = vec![0.0; self.layer.len()];
        for layer in 0..self.rows.len() {
            let offsets = self.offsets(layer);
            let half = offsets.last().copied().unwrap_or(0.0) / 2.0;
            for (node, offset) in self.rows[layer].clone().iter().zip(offsets) {
                self.x[*node] = offset - half;
            }
        }
        for sweep in 0..SWEEPS {
            let layers: Vec<usize> =
                if sweep % 2 == 0 { (0..self.rows.len()).collect() } else { (0..self.rows.len()).rev().collect() };
            for layer in layers {
                self.settle(layer);
            }
        }
    }

    /// How far each of a layer stands from the first at least.
    fn offsets(&self, layer: usize) -> Vec<f64> {
        let mut offsets = Vec::new();
        let mut at = 0.0;
        for (position, node) in self.rows[layer].iter().enumerate() {
            if let Some(before) = position.checked_sub(1).map(|before| self.rows[layer][before]) {
                let gap = if *node >= self.boxes || before >= self.boxes { LINE_GAP } else { GAP };
                at += f64::midpoint(self.width[before], self.width[*node]) + gap;
            }
            offsets.push(at);
        }
        offsets
    }

    /// Moves a layer as near to the means of its neighbours as the room between allows: the places that make the sum
    /// of squares least are those of an isotonic regression, after the room is taken off.
    fn settle(&mut self, layer: usize) {
        let row = self.rows[layer].clone();
        let offsets = self.offsets(layer);
        // Pools of neighbours that touch: sum of what they want, weight, how many.
        let mut pools: Vec<(f64, f64, usize)> = Vec::new();
        for (node, offset) in row.iter().zip(&offsets) {
            let around: Vec<usize> = self.above[*node].iter().chain(&self.below[*node]).copied().collect();
            let wanted = match around.len() {
                0 => self.x[*node],
                count => around.iter().map(|other| self.x[*other]).sum::<f64>() / count as f64,
            };
            // A long line bends less willingly than a box moves.
            let weight = if *node >= self.boxes { 4.0 } else { 1.0 };
            pools.push(((wanted - offset) * weight, weight, 1));
            while let [.., (sum_a, weight_a, _), (sum_b, weight_b, _)] = pools[..]
                && sum_a / weight_a > sum_b / weight_b
            {
                let (sum, weight, count) = pools.pop().expect("two pools match above");
                let last = pools.last_mut().expect("two pools match above");
                *last = (last.0 + sum, last.1 + weight, last.2 + count);
            }
        }
        let places = pools.iter().flat_map(|(sum, weight, count)| std::iter::repeat_n(sum / weight, *count));
        for ((node, offset), place) in row.iter().zip(offsets).zip(places) {
            self.x[*node] = place + offset;
        }
    }

    fn finish(self, boxes: usize) -> Layout {
        let left = (0..self.x.len()).map(|at| self.x[at] - self.width[at] / 2.0).fold(f64::INFINITY, f64::min);
        let right = (0..self.x.len()).map(|at| self.x[at] + self.width[at] / 2.0).fold(f64::NEG_INFINITY, f64::max);
        let place = |at: &usize| (self.x[*at] - left, self.layer[*at]);
        Layout {
            boxes: (0..boxes).map(|at| place(&at)).collect(),
            lines: self.chains.iter().map(|chain| chain.iter().map(place).collect()).collect(),
            width: (right - left).max(0.0),
            layers: self.rows.len(),
        }
    }
}

/// By where they begin, so that a layer is known before it is passed on.
fn sorted(edges: &[(usize, usize)]) -> Vec<(usize, usize)> {
    let mut edges = edges.to_vec();
    edges.sort_unstable();
    edges
}
