//! Picks nodes of a plan by words in dbt's grammar: `grow`, `+grow`, `2+grow+1`, `kind:sift`, `state:changed`, `eval_*`.
//! Knows nothing of how a plan is run; what would run it asks the forecast.
//!
//! | written | picked |
//! |---|---|
//! | `grow` | the node; of a matrix, all its instances |
//! | `grow[seed=1]` | one instance |
//! | `eval_*`, `?_rows` | every name that fits |
//! | `kind:sift` | every node of that stage |
//! | `state:changed` | what would run for a reason of its own; also `state:run`, `state:waits`, `state:reuse` |
//! | `+grow`, `grow+` | with all that it needs, with all that needs it |
//! | `2+grow+1` | as many steps up and down |
//! | `a,kind:sift` | what both pick |
//! | `a b`, or the flag again | what either picks |

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::{
    forecast::{Verdict, forecast},
    plan::{Node, Plan},
    store::{Store, StoreError},
    suggestion,
};

/// The nodes that a run is about, and what becomes of the others that they need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    pub nodes: BTreeSet<String>,
    pub outside: Outside,
}

/// What a node outside the scope gives to those inside that need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outside {
    /// The result that belongs to the pipeline as it is now; if that has to be made, whoever needs it is skipped.
    Current,
    /// The result that it had last, out of date or not.
    Last,
}

/// Why words pick nothing.
#[derive(Debug, thiserror::Error)]
pub enum SelectError {
    #[error("{message}")]
    Unknown { message: String, hint: Option<String> },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Plan {
    /// The names that the words pick: each of `words` adds, each of `exclude` takes away. No words pick all.
    ///
    /// # Errors
    /// When a word picks nothing, with the nearest that would; when the store does not answer a question of state.
    pub fn select(&self, words: &[String], exclude: &[String], store: &Store) -> Result<BTreeSet<String>, SelectError> {
        let mut picker = Picker { plan: self, graph: Graph::of(self), store, states: None };
        let mut picked: BTreeSet<usize> =
            if words.is_empty() { (0..self.nodes().len()).collect() } else { BTreeSet::new() };
        for words in words {
            picked.extend(picker.union(words)?);
        }
        for words in exclude {
            for node in picker.union(words)? {
                picked.remove(&node);
            }
        }
        Ok(picked.into_iter().map(|at| self.nodes()[at].name.clone()).collect())
    }

    /// The plan of these nodes and all that they need.
    #[must_use]
    pub fn with_needs(&self, names: &BTreeSet<String>) -> Self {
        let graph = Graph::of(self);
        let start = self.nodes().iter().enumerate().filter(|(_, node)| names.contains(&node.name)).map(|(at, _)| at);
        let needed = walk(&graph.parents, start, usize::MAX);
        self.of(&needed.into_iter().map(|at| self.nodes()[at].name.clone()).collect())
    }

    /// The plan of these nodes alone, to be looked at: what they need may be missing in it.
    #[must_use]
    pub fn of(&self, names: &BTreeSet<String>) -> Self {
        let nodes = self.nodes().iter().filter(|node| names.contains(&node.name)).cloned().collect();
        Self { name: self.name.clone(), root: self.root.clone(), file: self.file.clone(), nodes }
    }
}

/// Who reads whom, by position in the plan.
struct Graph<'a> {
    nodes: &'a [Node],
    parents: Vec<Vec<usize>>,
    children: Vec<Vec<usize>>,
}

impl<'a> Graph<'a> {
    fn of(plan: &'a Plan) -> Self {
        let nodes = plan.nodes();
        let at: BTreeMap<&str, usize> = nodes.iter().enumerate().map(|(at, node)| (node.name.as_str(), at)).collect();
        let (mut parents, mut children) = (vec![Vec::new(); nodes.len()], vec![Vec::new(); nodes.len()]);
        for (reader, node) in nodes.iter().enumerate() {
            let reads = node.inputs.iter().flat_map(|input| &input.nodes).filter_map(|name| at.get(name.as_str()));
            for read in reads {
                parents[reader].push(*read);
                children[*read].push(reader);
            }
        }
        Self { nodes, parents, children }
    }
}

/// All that lies at most `steps` from `start`, and `start` itself.
fn walk(edges: &[Vec<usize>], start: impl IntoIterator<Item = usize>, steps: usize) -> BTreeSet<usize> {
    let mut found: BTreeSet<usize> = start.into_iter().collect();
    let mut queue: VecDeque<(usize, usize)> = found.iter().map(|node| (*node, 0)).collect();
    while let Some((node, far)) = queue.pop_front() {
        if far == steps {
            continue;
        }
        for next in &edges[node] {
            if found.insert(*next) {
                queue.push_back((*next, far + 1));
            }
        }
    }
    found
}

struct Picker<'a> {
    plan: &'a Plan,
    graph: Graph<'a>,
    store: &'a Store,
    /// What a run would do with each node, once somebody asked.
    states: Option<Vec<Verdict>>,
}

impl Picker<'_> {
    fn union(&mut self, words: &str) -> Result<BTreeSet<usize>, SelectError> {
        let mut picked = BTreeSet::new();
        for word in outside_brackets(words, char::is_whitespace) {
            picked.extend(self.intersection(word)?);
        }
        Ok(picked)
    }

    fn intersection(&mut self, word: &str) -> Result<BTreeSet<usize>, SelectError> {
        let mut picked: Option<BTreeSet<usize>> = None;
        for term in outside_brackets(word, |letter| letter == ',') {
            let some = self.term(term)?;
            picked = Some(match picked {
                Some(before) => before.intersection(&some).copied().collect(),
                None => some,
            });
        }
        Ok(picked.unwrap_or_default())
    }

    fn term(&mut self, term: &str) -> Result<BTreeSet<usize>, SelectError> {
        let Term { up, core, down } = Term::of(term);
        let picked = self.core(core)?;
        let mut all = picked.clone();
        if let Some(steps) = up {
            all.extend(walk(&self.graph.parents, picked.iter().copied(), steps));
        }
        if let Some(steps) = down {
            all.extend(walk(&self.graph.children, picked, steps));
        }
        Ok(all)
    }

    fn core(&mut self, core: &str) -> Result<BTreeSet<usize>, SelectError> {
        match core.split_once(':') {
            None => self.named(core),
            Some(("kind" | "stage", stage)) => self.of_stage(stage),
            Some(("state", state)) => self.in_state(state),
            Some((method, _)) => {
                let hint = suggestion::hint(method, ["kind", "state"], "nodes are picked by name or by");
                Err(self.unknown(&format!("nodes cannot be picked by `{method}:`"), hint))
            }
        }
    }

    fn named(&self, pattern: &str) -> Result<BTreeSet<usize>, SelectError> {
        let is_it = |name: &str| fits(pattern, name) || bare_name(name).is_some_and(|bare| fits(pattern, bare));
        let picked = self.pick(|node| is_it(&node.name));
        if !picked.is_empty() {
            return Ok(picked);
        }
        let names = self.graph.nodes.iter().map(|node| node.name.as_str());
        let bare = names.clone().filter_map(bare_name);
        let hint = suggestion::hint(pattern, names.chain(bare), "the nodes are");
        let what = if is_glob(pattern) { "no node fits" } else { "no node" };
        Err(self.unknown(&format!("{what} `{pattern}`"), hint))
    }

    fn of_stage(&self, stage: &str) -> Result<BTreeSet<usize>, SelectError> {
        let picked = self.pick(|node| fits(stage, node.stage));
        if !picked.is_empty() {
            return Ok(picked);
        }
        let stages: BTreeSet<&str> = self.graph.nodes.iter().map(|node| node.stage).collect();
        let hint = suggestion::hint(stage, stages, "the stages of this pipeline are");
        Err(self.unknown(&format!("no node of stage `{stage}`"), hint))
    }

    /// Empty where no node is in that state: "what changed" may well be nothing.
    fn in_state(&mut self, state: &str) -> Result<BTreeSet<usize>, SelectError> {
        let is_wanted: fn(&Verdict) -> bool = match state {
            "changed" => |verdict| match verdict {
                Verdict::Run { .. } | Verdict::Fails(_) => true,
                Verdict::Waits { reasons, .. } => !reasons.is_empty(),
                Verdict::Reuse(_) | Verdict::Left { .. } => false,
            },
            "run" => |verdict| matches!(verdict, Verdict::Run { .. } | Verdict::Fails(_)),
            "waits" => |verdict| matches!(verdict, Verdict::Waits { .. }),
            "reuse" => |verdict| matches!(verdict, Verdict::Reuse(_)),
            _ => {
                let states = ["changed", "run", "waits", "reuse"];
                let hint = suggestion::hint(state, states, "the states are");
                return Err(self.unknown(&format!("no state `{state}`"), hint));
            }
        };
        let states = match &mut self.states {
            Some(states) => states,
            none => none.insert(forecast(self.plan, self.store)?.into_iter().map(|node| node.verdict).collect()),
        };
        let picked = states.iter().enumerate().filter(|(_, verdict)| is_wanted(verdict)).map(|(at, _)| at).collect();
        Ok(picked)
    }

    fn unknown(&self, message: &str, hint: Option<String>) -> SelectError {
        SelectError::Unknown { message: format!("{}: {message}", self.plan.file.display()), hint }
    }

    fn pick(&self, is_picked: impl Fn(&Node) -> bool) -> BTreeSet<usize> {
        let nodes = self.graph.nodes.iter().enumerate();
        nodes.filter(|(_, node)| is_picked(node)).map(|(at, _)| at).collect()
    }
}

/// A selector without its `+`: how many steps up and down come with it, none or all or a number.
struct Term<'a> {
    up: Option<usize>,
    core: &'a str,
    down: Option<usize>,
}

impl<'a> Term<'a> {
    fn of(term: &'a str) -> Self {
        let steps = |digits: &str| if digits.is_empty() { Some(usize::MAX) } else { digits.parse().ok() };
        let (up, rest) = match term.split_once('+') {
            Some((digits, rest)) if !rest.is_empty() && steps(digits).is_some() => (steps(digits), rest),
            _ => (None, term),
        };
        match rest.rsplit_once('+') {
            Some((core, digits)) if !core.is_empty() && steps(digits).is_some() => {
                Self { up, core, down: steps(digits) }
            }
            _ => Self { up, core: rest, down: None },
        }
    }
}

/// The pieces between separators; what stands in brackets, as `[seed=1,rate=2]`, stays whole.
fn outside_brackets(text: &str, is_separator: fn(char) -> bool) -> Vec<&str> {
    let mut depth = 0_usize;
    let pieces = text.split(move |letter| {
        match letter {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0 && is_separator(letter)
    });
    pieces.filter(|piece| !piece.is_empty()).collect()
}

/// `grow` of the instance `grow[seed=1]`.
fn bare_name(name: &str) -> Option<&str> {
    name.split_once('[').map(|(bare, _)| bare)
}

fn is_glob(pattern: &str) -> bool {
    pattern.contains(['*', '?'])
}

/// `*` for any letters, `?` for one; brackets are letters, because instances have them.
fn fits(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut at, mut in_name) = (0, 0);
    // Where the last star was, and how much of the name it has taken.
    let mut star: Option<(usize, usize)> = None;
    while in_name < name.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, in_name));
                at += 1;
            }
            Some(letter) if *letter == '?' || *letter == name[in_name] => {
                at += 1;
                in_name += 1;
            }
            _ => {
                let Some((behind, taken)) = star else { return false };
                star = Some((behind, taken + 1));
                (at, in_name) = (behind + 1, taken + 1);
            }
        }
    }
    pattern[at..].iter().all(|letter| *letter == '*')
}

#[cfg(test)]
mod tests;
