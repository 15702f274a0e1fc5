//! From values to what a pipeline is made of: its name and seed, its nodes and what each is told.
//! Knows nothing of how the values came to be there.

use std::collections::BTreeMap;

use crate::{
    code,
    diagnostic::{Diagnostic, Place, Span},
    spec::{
        InputSpec, NAME_HINT, NODE_KEYS, NodeSpec, Spec, TOP_KEYS, duration,
        expand::Expanded,
        is_name, matrix, too_long,
        tree::{Key, Shape, Tree},
    },
    suggestion,
};

/// What `defaults` may set.
const DEFAULT_KEYS: [&str; 5] = ["with", "run", "env", "retries", "timeout"];

impl Spec {
    /// `nodes`: none where they are a mistake or not there.
    pub(super) fn read(&mut self, tree: &Tree, nodes: Option<Vec<Expanded>>) {
        if !matches!(tree.shape, Shape::Block(_)) {
            self.wrong(tree, "a pipeline", "a block with `nodes:`");
            return;
        }
        self.name = match tree.get("name").map(|name| (name, &name.shape)) {
            Some((_, Shape::Text(name))) => name.clone(),
            Some((other, _)) => {
                self.wrong(other, "`name`", "a text");
                String::new()
            }
            None => self.file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default(),
        };
        self.check_name(tree);
        self.seed = tree.get("seed").and_then(|seed| self.seed(seed)).unwrap_or(0);
        let env = tree.get("env").map(|env| self.env(env)).unwrap_or_default();
        let place = |name| Some((name, tree.get(name)?.place()));
        let places = ["seed", "env"].into_iter().filter_map(place).collect();
        if let Some(vars) = tree.get("vars")
            && !matches!(vars.shape, Shape::Block(_) | Shape::Null)
        {
            self.wrong(vars, "`vars`", "a block of variables");
        }
        if let Some(defaults) = tree.get("defaults") {
            self.defaults(defaults);
        }
        if let Some(nodes) = nodes {
            for expanded in nodes {
                let (node, is_wanted) = self.node(expanded, &env, &places);
                if is_wanted { self.nodes.push(node) } else { self.left_out.push(node) }
            }
            return;
        }
        match tree.get("nodes").map(|nodes| (nodes, &nodes.shape)) {
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

    /// The store has a folder of that name.
    fn check_name(&mut self, tree: &Tree) {
        let written = tree.get("name");
        let message = match written.map(|name| &name.shape) {
            Some(Shape::Text(name)) if name.is_empty() => Some("the name of a pipeline cannot be empty".to_owned()),
            Some(Shape::Text(_)) | None => too_long("the pipeline", &self.name),
            Some(_) => None,
        };
        let start = Span::new(&tree.span.text, 0..0);
        let Some(message) = message else { return };
        let mistake = match written {
            Some(name) => name.mistake(code::BAD_NAME, message),
            None => Diagnostic::new(code::BAD_NAME, message, &start)
                .hint("without `name:` it is that of the file".to_owned()),
        };
        self.mistakes.push(mistake);
    }

    /// What `defaults` says for stages that nobody uses is looked at no further.
    fn defaults(&mut self, defaults: &Tree) {
        if !matches!(defaults.shape, Shape::Block(_) | Shape::Null) {
            self.wrong(defaults, "`defaults`", "a block of stages");
        }
        for (stage, values) in defaults.entries() {
            self.defaults.push(stage.clone());
            if !matches!(values.shape, Shape::Block(_) | Shape::Null) {
                self.wrong(values, &format!("`defaults.{}`", stage.name), "a block with `with:` or `run:`");
            }
            for (key, _) in values.entries().iter().filter(|(key, _)| !DEFAULT_KEYS.contains(&key.name.as_str())) {
                let hint = suggestion::hint(&key.name, DEFAULT_KEYS, "defaults are");
                let message = format!("`{}` cannot have a default", key.name);
                self.mistakes.push(key.mistake(code::UNKNOWN_KEY, message).hint(hint));
            }
        }
    }

    /// The node, and whether its `when` wants it.
    fn node(&mut self, expanded: Expanded, env: &[String], places: &BTreeMap<&'static str, Place>) -> (NodeSpec, bool) {
        let Expanded { key, name, axes, unused_axes, tree } = expanded;
        let (family, _) = matrix::parts(&key.name);
        if !family.split('/').all(is_name) {
            self.mistakes.push(
                key.mistake(code::BAD_NAME, format!("`{}` cannot be the name of a node", key.name))
                    .hint(NAME_HINT.to_owned()),
            );
        }
        if let Some(message) = too_long("node", &name) {
            let hint = "letters, digits, `_` and `-` take one byte, every other letter three; a matrix adds its axes";
            self.mistakes.push(key.mistake(code::BAD_NAME, message).hint(hint.to_owned()));
        }
        let family = family.to_owned();
        let key = Key { name, ..key };
        let mut node = NodeSpec {
            family,
            axes,
            unused_axes,
            when: None,
            stage: None,
            inputs: Some(Vec::new()),
            with: Tree::block(&key.span),
            run: Tree::block(&key.span),
            seed: None,
            env: env.to_vec(),
            retries: 0,
            timeout: None,
            places: places.clone(),
            unknown: Vec::new(),
            key,
        };
        if !matches!(tree.shape, Shape::Block(_)) {
            self.wrong(&tree, &format!("node `{}`", node.family), "a block with `stage:`");
            return (node, true);
        }
        let mut is_wanted = true;
        for (key, value) in tree.entries() {
            match (key.name.as_str(), &value.shape) {
                ("when", Shape::Bool(wanted)) => {
                    is_wanted = *wanted;
                    node.when = Some(value.span.clone());
                }
                ("when", _) => self.wrong(value, "`when`", "`true` or `false`"),
                _ => self.entry(&mut node, key, value),
            }
            if let Some(name) = ["seed", "env", "retries", "timeout"].into_iter().find(|name| *name == key.name) {
                node.places.insert(name, value.place());
            }
        }
        if is_missing(&tree, "stage", &NODE_KEYS) {
            self.mistakes.push(node.key.mistake(code::MISSING_KEY, format!("node `{}` has no `stage`", node.family)));
        }
        (node, is_wanted)
    }

    fn entry(&mut self, node: &mut NodeSpec, key: &Key, value: &Tree) {
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
            ("env", _) => {
                let own = self.env(value);
                node.env.extend(own.into_iter().filter(|name| !node.env.contains(name)).collect::<Vec<_>>());
            }
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

    /// Names of environment variables. What they hold is nobody's business here.
    fn env(&mut self, tree: &Tree) -> Vec<String> {
        let items = match &tree.shape {
            Shape::List(items) => items.as_slice(),
            Shape::Null => &[],
            _ => {
                self.wrong(tree, "`env`", "a list of names");
                &[]
            }
        };
        let mut names: Vec<String> = Vec::new();
        for item in items {
            match &item.shape {
                Shape::Text(name) if is_name(name) && !name.contains('-') => {
                    if !names.contains(name) {
                        names.push(name.clone());
                    }
                }
                Shape::Text(name) => {
                    let hint = name
                        .split_once('=')
                        .map(|(name, _)| format!("write `{name}` alone: its value comes from the environment"));
                    let message = "this cannot be the name of an environment variable";
                    self.mistakes.push(item.mistake(code::BAD_NAME, message).hint(hint));
                }
                _ => self.wrong(item, "a name in `env`", "a text"),
            }
        }
        names
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
