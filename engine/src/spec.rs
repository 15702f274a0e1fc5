//! What a pipeline's file says, every name with its place.
//! Knows nothing of stages: whether what it says can be done is the plan's question.

mod duration;
mod expression;
mod overrides;
pub(crate) mod tree;
mod vars;
mod yaml;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use crate::{
    code,
    diagnostic::{Diagnostic, Span, Text},
    spec::{
        tree::{Key, Shape, Tree},
        vars::Substitution,
    },
    suggestion,
};

const TOP_KEYS: [&str; 4] = ["name", "seed", "vars", "nodes"];
pub(crate) const NODE_KEYS: [&str; 7] = ["stage", "inputs", "with", "run", "seed", "retries", "timeout"];

/// The texts that make a pipeline.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// Folder that relative paths in the pipeline start from.
    pub root: PathBuf,
    /// The pipeline's file, as messages shall name it.
    pub file: PathBuf,
    pub text: String,
    /// `path=value` of every `--set`, in their order.
    pub overrides: Vec<String>,
}

/// A pipeline as written.
#[derive(Debug)]
pub struct Spec {
    pub root: PathBuf,
    pub file: PathBuf,
    pub name: String,
    pub seed: u64,
    pub(crate) nodes: Vec<NodeSpec>,
    /// Mistakes that still leave something to plan: the plan reports them with its own.
    pub(crate) mistakes: Vec<Diagnostic>,
}

/// A node as written.
#[derive(Debug)]
pub(crate) struct NodeSpec {
    pub key: Key,
    /// The name of the stage and where it is; none where that is a mistake already told.
    pub stage: Option<(String, Tree)>,
    /// None where they are a mistake already told.
    pub inputs: Option<Vec<InputSpec>>,
    pub with: Tree,
    pub run: Tree,
    pub seed: Option<u64>,
    pub retries: u32,
    pub timeout: Option<Duration>,
    /// Keys that nodes do not have.
    pub unknown: Vec<Key>,
}

/// An input as written.
#[derive(Debug)]
pub(crate) struct InputSpec {
    pub key: Key,
    pub value: Tree,
    pub nodes: Vec<(String, Tree)>,
}

impl NodeSpec {
    pub(crate) fn inputs(&self) -> &[InputSpec] {
        self.inputs.as_deref().unwrap_or_default()
    }
}

impl Spec {
    /// Reads the texts. Only what is no YAML is an error here; all other mistakes wait for
    /// [`crate::Plan::resolve`], which tells all of them at once.
    ///
    /// # Errors
    /// When the file is not YAML.
    pub fn parse(sources: Sources) -> Result<Self, Vec<Diagnostic>> {
        let Sources { root, file, text, overrides } = sources;
        let body = text.strip_prefix('\u{FEFF}').map(str::to_owned).unwrap_or(text);
        let text = Arc::new(Text::file(file.display().to_string(), body));
        let mut mistakes = Vec::new();
        let mut tree = yaml::read(&text, 0, &mut mistakes).map_err(|mistake| vec![*mistake])?;
        if matches!(tree.shape, Shape::Null) {
            tree.shape = Shape::Block(Vec::new());
        }
        // Also what `--set` takes away was asked for.
        let mut used = BTreeSet::new();
        vars::used(&tree, &mut used);
        let added = overrides::apply(&mut tree, &overrides, &mut mistakes);
        vars::used(&tree, &mut used);
        unused(&tree, &used, &added, &mut mistakes);
        substitute(&mut tree, text.body().len(), &mut mistakes);
        let mut spec = Self { root, file, name: String::new(), seed: 0, nodes: Vec::new(), mistakes };
        spec.read(&tree);
        Ok(spec)
    }

    fn read(&mut self, tree: &Tree) {
        if !matches!(tree.shape, Shape::Block(_)) {
            self.wrong(tree, "a pipeline", "a block with `nodes:`");
            return;
        }
        for (key, _) in tree.entries() {
            if !TOP_KEYS.contains(&key.name.as_str()) && !key.name.starts_with("x-") {
                let hint = suggestion::hint(&key.name, TOP_KEYS, "a pipeline has");
                self.mistakes.push(
                    key.mistake(code::UNKNOWN_KEY, format!("unknown key `{}` of the pipeline", key.name)).hint(hint),
                );
            }
        }
        self.name = match tree.get("name").map(|name| (name, &name.shape)) {
            Some((_, Shape::Text(name))) => name.clone(),
            Some((other, _)) => {
                self.wrong(other, "`name`", "a text");
                String::new()
            }
            None => self.file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default(),
        };
        self.seed = tree.get("seed").and_then(|seed| self.seed(seed)).unwrap_or(0);
        if let Some(vars) = tree.get("vars")
            && !matches!(vars.shape, Shape::Block(_) | Shape::Null)
        {
            self.wrong(vars, "`vars`", "a block of variables");
        }
        match tree.get("nodes").map(|nodes| (nodes, &nodes.shape)) {
            Some((_, Shape::Block(nodes))) if !nodes.is_empty() => {
                for (key, node) in nodes {
                    let node = self.node(key, node);
                    self.nodes.push(node);
                }
            }
            Some((nodes, Shape::Block(_) | Shape::Null)) => {
                self.mistakes.push(nodes.mistake(code::MISSING_KEY, "the pipeline has no nodes"));
            }
            Some((other, _)) => self.wrong(other, "`nodes`", "a block of nodes"),
            None if !is_missing(tree, "nodes", &TOP_KEYS) => (),
            None => self.mistakes.push(
                Diagnostic::new(code::MISSING_KEY, "the pipeline has no `nodes`", &Span::new(&tree.span.text, 0..0))
                    .hint("write `nodes:` and below it `NAME: { stage: STAGE }`".to_owned()),
            ),
        }
    }

    fn node(&mut self, key: &Key, tree: &Tree) -> NodeSpec {
        let name = &key.name;
        let is_name = name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_' || letter == '-')
            && name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
        if !is_name {
            self.mistakes.push(
                key.mistake(code::BAD_NAME, format!("`{name}` cannot be the name of a node"))
                    .hint("a name is made of a-z, A-Z, 0-9, `_` and `-`, and begins with a letter or `_`".to_owned()),
            );
        }
        let mut node = NodeSpec {
            key: key.clone(),
            stage: None,
            inputs: Some(Vec::new()),
            with: Tree::block(&key.span),
            run: Tree::block(&key.span),
            seed: None,
            retries: 0,
            timeout: None,
            unknown: Vec::new(),
        };
        if !matches!(tree.shape, Shape::Block(_)) {
            self.wrong(tree, &format!("node `{name}`"), "a block with `stage:`");
            return node;
        }
        for (key, value) in tree.entries() {
            match (key.name.as_str(), &value.shape) {
                ("stage", Shape::Text(stage)) => node.stage = Some((stage.clone(), value.clone())),
                ("stage", _) => self.wrong(value, "`stage`", "the name of a stage"),
                ("inputs", Shape::Block(inputs)) => {
                    node.inputs = Some(inputs.iter().map(|(key, value)| self.input(key, value)).collect());
                }
                ("with", Shape::Block(_)) => node.with = value.clone(),
                ("run", Shape::Block(_)) => node.run = value.clone(),
                // A key with nothing behind it is an empty block.
                ("inputs" | "with" | "run", Shape::Null) => (),
                ("inputs", _) => {
                    self.wrong(value, "`inputs`", "a block of inputs");
                    node.inputs = None;
                }
                ("with", _) => {
                    self.wrong(value, "`with`", "a block of parameters");
                    node.with.shape = Shape::Mistaken;
                }
                ("run", _) => {
                    self.wrong(value, "`run`", "a block of settings");
                    node.run.shape = Shape::Mistaken;
                }
                ("seed", _) => node.seed = self.seed(value),
                ("retries", Shape::Number(number)) if number.as_u64().is_some_and(|count| count <= 100) => {
                    node.retries = number.as_u64().and_then(|count| u32::try_from(count).ok()).unwrap_or_default();
                }
                ("retries", _) => self.wrong(value, "`retries`", "a whole number from 0 to 100"),
                ("timeout", _) => match duration::read(&value.shape) {
                    Some(timeout) => node.timeout = Some(timeout),
                    None => self.wrong(value, "`timeout`", "a time such as `90s`, `30m` or `1h30m`"),
                },
                _ => node.unknown.push(key.clone()),
            }
        }
        if is_missing(tree, "stage", &NODE_KEYS) {
            self.mistakes.push(key.mistake(code::MISSING_KEY, format!("node `{name}` has no `stage`")));
        }
        node
    }

    fn input(&mut self, key: &Key, value: &Tree) -> InputSpec {
        let items = match &value.shape {
            Shape::List(items) => items.iter().collect(),
            _ => vec![value],
        };
        let mut nodes = Vec::new();
        for item in items {
            match &item.shape {
                Shape::Text(name) => nodes.push((name.clone(), item.clone())),
                _ => self.wrong(item, &format!("input `{}`", key.name), "a node's name or a list of them"),
            }
        }
        InputSpec { key: key.clone(), value: value.clone(), nodes }
    }

    fn seed(&mut self, tree: &Tree) -> Option<u64> {
        let seed = match &tree.shape {
            Shape::Number(number) => number.as_u64(),
            _ => None,
        };
        if seed.is_none() {
            self.wrong(tree, "`seed`", "a whole number from 0 to 18446744073709551615");
        }
        seed
    }

    fn wrong(&mut self, tree: &Tree, what: &str, wanted: &str) {
        if matches!(tree.shape, Shape::Mistaken) {
            return;
        }
        let message = format!("{what} must be {wanted}, found {}", tree.described());
        self.mistakes.push(tree.mistake(code::WRONG_TYPE, message));
    }
}

/// Is the key neither there nor meant by another, which is a mistake of its own?
fn is_missing(tree: &Tree, key: &str, keys: &[&str]) -> bool {
    tree.get(key).is_none()
        && !tree.entries().iter().any(|(other, _)| {
            !keys.contains(&other.name.as_str()) && suggestion::nearest(&other.name, keys.iter().copied()) == Some(key)
        })
}

/// Replaces the expressions of everything but the free keys.
fn substitute(tree: &mut Tree, bytes: usize, mistakes: &mut Vec<Diagnostic>) {
    let vars = tree.get("vars").cloned().unwrap_or_else(|| Tree::block(&tree.span));
    let Shape::Block(entries) = &mut tree.shape else { return };
    let mut substitution = Substitution::new(&vars, bytes, mistakes);
    for (_, value) in entries.iter_mut().filter(|(key, _)| !key.name.starts_with("x-")) {
        substitution.walk(value, None);
    }
}

/// Variables that nobody asks for: as often as not a slip of the pen. Those of included files serve whoever wants them.
fn unused(tree: &Tree, used: &BTreeSet<Vec<String>>, added: &BTreeMap<String, Span>, mistakes: &mut Vec<Diagnostic>) {
    let is_used = |path: &[&str]| used.iter().any(|asked| asked.len() >= path.len() && asked[..path.len()] == *path);
    let vars = tree.get("vars").map(Tree::entries).unwrap_or_default();
    for (key, _) in vars.iter().filter(|(key, _)| !key.span.text.is_included() && !is_used(&[key.name.as_str()])) {
        let name = &key.name;
        if let Some(span) = added.get(name) {
            let known = vars.iter().map(|(key, _)| key.name.as_str()).filter(|known| !added.contains_key(*known));
            let hint = suggestion::nearest(name, known).map(|name| format!("did you mean `vars.{name}`?"));
            let message = format!("no variable `vars.{name}` to set");
            mistakes.push(Diagnostic::new(code::BAD_OVERRIDE, message, span).hint(hint));
        } else {
            let hint = format!("ask for it with `${{{{ vars.{name} }}}}`, or remove it");
            let message = format!("nothing asks for the variable `vars.{name}`");
            mistakes.push(key.mistake(code::UNUSED_VARIABLE, message).hint(hint));
        }
    }
}
