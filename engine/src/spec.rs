//! What a pipeline's files say, every name with its place.
//! Knows nothing of stages: whether what they say can be done is the plan's question.
//!
//! What holds where several places say something, from the weakest to the strongest: the stage's own default,
//! `defaults`, included files in their order, the file itself, profiles from left to right, every `--set` in its order.

mod duration;
mod expand;
mod expression;
mod include;
mod lower;
pub(crate) mod matrix;
mod merge;
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

pub use duration::read_duration;
pub use include::read_text;

use crate::{
    code,
    diagnostic::{Diagnostic, Place, Span, Text},
    spec::{
        include::Files,
        tree::{Key, Tree},
    },
    suggestion,
};

pub(crate) const TOP_KEYS: [&str; 8] = ["name", "seed", "include", "vars", "env", "defaults", "profiles", "nodes"];
pub(crate) const NODE_KEYS: [&str; 10] =
    ["stage", "matrix", "when", "inputs", "with", "run", "seed", "env", "retries", "timeout"];

/// The texts that make a pipeline.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// Folder that relative paths in the pipeline start from.
    pub root: PathBuf,
    /// The pipeline's file, as messages shall name it.
    pub file: PathBuf,
    pub text: String,
    /// The name of every `--profile`, in their order.
    pub profiles: Vec<String>,
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
    /// Every instance of a matrix is one.
    pub(crate) nodes: Vec<NodeSpec>,
    /// Those whose `when` is false.
    pub(crate) left_out: Vec<NodeSpec>,
    /// The stages that `defaults` names.
    pub(crate) defaults: Vec<Key>,
    /// Mistakes that still leave something to plan: the plan reports them with its own.
    pub(crate) mistakes: Vec<Diagnostic>,
}

/// A node as written.
#[derive(Debug)]
pub(crate) struct NodeSpec {
    pub key: Key,
    /// The name as written: that of all instances of a matrix.
    pub family: String,
    /// The axes of its matrix with the words for its values.
    pub axes: Vec<(String, String)>,
    /// Axes that none of its values ask for.
    pub unused_axes: Vec<Key>,
    /// Where its `when` is.
    pub when: Option<Span>,
    /// The name of the stage and where it is; none where that is a mistake already told.
    pub stage: Option<(String, Tree)>,
    /// None where they are a mistake already told.
    pub inputs: Option<Vec<InputSpec>>,
    pub with: Tree,
    pub run: Tree,
    pub seed: Option<u64>,
    /// Names of the environment, the pipeline's and its own.
    pub env: Vec<String>,
    pub retries: u32,
    pub timeout: Option<Duration>,
    /// Where `seed`, `env`, `retries` and `timeout` are written.
    pub places: BTreeMap<&'static str, Place>,
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

impl Sources {
    /// The files that the pipeline includes, there or not, as far as its texts can be read.
    #[must_use]
    pub fn included(&self) -> BTreeSet<PathBuf> {
        let mut files = Files::new(&self.root, &self.file);
        // Of a text with a mistake, what comes before it.
        let _ = files.read(&self.main_text());
        files.seen
    }

    fn main_text(&self) -> Arc<Text> {
        let body = self.text.strip_prefix('\u{FEFF}').unwrap_or(&self.text);
        Arc::new(Text::file(self.file.display().to_string(), body.to_owned()))
    }
}

impl Spec {
    /// Reads the texts, and the files that they include. Only what is no YAML, or cannot be included, is an error
    /// here; all other mistakes wait for [`crate::Plan::resolve`], which tells all of them at once.
    ///
    /// # Errors
    /// When a file is not YAML or cannot be read.
    pub fn parse(sources: Sources) -> Result<Self, Vec<Diagnostic>> {
        let text = sources.main_text();
        let Sources { root, file, profiles, overrides, .. } = sources;
        let mut files = Files::new(&root, &file);
        let mut tree = match files.read(&text) {
            Ok(tree) => tree,
            Err(mistake) => {
                files.mistakes.push(*mistake);
                return Err(crate::diagnostic::sorted(files.mistakes));
            }
        };
        let Files { bytes, mut used, own, mut mistakes, .. } = files;
        tree = merge::profiles(tree, &profiles, &mut mistakes);
        let applied = overrides::apply(&mut tree, &overrides, &mut mistakes);
        vars::used(&tree, &mut used);
        unused(&tree, &used, &applied.added, &mut mistakes);

        let mut spec = Self {
            root,
            file,
            name: String::new(),
            seed: 0,
            nodes: Vec::new(),
            left_out: Vec::new(),
            defaults: Vec::new(),
            mistakes: Vec::new(),
        };
        let expanded = expand::expand(&mut tree, &own, &applied.instances, bytes, &mut mistakes);
        spec.mistakes = mistakes;
        spec.read(&tree, expanded);
        Ok(spec)
    }
}

/// How a node, an axis or the name of an include is told to be named.
pub(crate) const NAME_HINT: &str = "a name is made of a-z, A-Z, 0-9, `_` and `-`, and begins with a letter or `_`";

/// Longest name of a node or a pipeline, in bytes as the store spells it: a file name has 255 at most, and what the store
/// adds to it needs room.
pub(crate) const LONGEST_NAME: usize = 200;

/// What is wrong with the length of a name, if anything.
pub(crate) fn too_long(what: &str, name: &str) -> Option<String> {
    let length = crate::store::file_name(name).len();
    let start: String = name.chars().take(20).collect();
    (length > LONGEST_NAME).then(|| {
        format!("the name of {what} `{start}...` takes {length} bytes in a file name, and {LONGEST_NAME} are the limit")
    })
}

pub(crate) fn is_name(name: &str) -> bool {
    name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_' || letter == '-')
        && name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
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
