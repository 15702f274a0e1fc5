//! The stages that a pipeline may name, and what they say of themselves.
//! Knows nothing of pipelines; what a stage computes is behind one function pointer.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Serialize;
use serde_json::Value;

use crate::{
    context::Context,
    footprint::{Footprint, Prospects},
    schema::{self, ParameterInfo},
    stage::{Finding, Input, OtherInputs, OtherName, Problem, Stage},
};

/// What else a source file pulls in: `import`s of a script, say. Their bytes decide the result too.
pub type Expand = fn(&Path) -> anyhow::Result<Vec<PathBuf>>;

/// All stages by name.
#[derive(Default)]
pub struct Registry {
    stages: BTreeMap<&'static str, Registered>,
    expansions: BTreeMap<&'static str, Expand>,
}

impl Registry {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a stage.
    ///
    /// # Panics
    /// When two stages have the same name.
    #[must_use]
    pub fn with<S: Stage>(mut self) -> Self {
        let earlier = self.stages.insert(S::NAME, Registered::of::<S>());
        assert!(earlier.is_none(), "two stages are named `{}`", S::NAME);
        self
    }

    /// Says what source files with this extension pull in. The function is given a path that can be
    /// opened and returns such paths, each file once, without the given one.
    #[must_use]
    pub fn expand(mut self, extension: &'static str, expand: Expand) -> Self {
        self.expansions.insert(extension, expand);
        self
    }

    /// What every stage says of itself, by name.
    pub fn stages(&self) -> impl Iterator<Item = &StageInfo> {
        self.stages.values().map(|registered| &registered.info)
    }

    /// What one stage says of itself.
    #[must_use]
    pub fn stage(&self, name: &str) -> Option<&StageInfo> {
        self.stages.get(name).map(|registered| &registered.info)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Registered> {
        self.stages.get(name)
    }

    pub(crate) fn expansion(&self, path: &Path) -> Option<Expand> {
        self.expansions.get(path.extension()?.to_str()?).copied()
    }
}

/// A stage as `mashbill stages NAME` shows it.
#[derive(Debug, Clone)]
pub struct StageInfo {
    pub name: &'static str,
    /// The doc comment of the stage; its first sentence stands in lists.
    pub about: String,
    pub version: u32,
    pub inputs: &'static [Input],
    pub other_inputs: OtherInputs,
    /// The kind of artifact it makes.
    pub output: &'static str,
    /// The parameter that names another kind.
    pub kind_parameter: Option<&'static str>,
    /// What is no parameter, and why.
    pub left_out: &'static [(&'static str, &'static str)],
    /// What other programs call its parameters and settings.
    pub other_names: &'static [OtherName],
    /// The `with:` block.
    pub parameters: Vec<ParameterInfo>,
    /// The `run:` block.
    pub settings: Vec<ParameterInfo>,
}

impl StageInfo {
    /// What this stage calls a parameter by its name in another program, as a hint. Of a name with dots, such as
    /// `actor.rollout.n`, the longest end that is known counts.
    #[must_use]
    pub fn called(&self, theirs: &str) -> Option<String> {
        let mut ends = std::iter::successors(Some(theirs), |path| path.split_once('.').map(|(_, rest)| rest));
        let hint = |end: &str| {
            let mut known = self.other_names.iter().filter(|other| other.theirs.contains(&end));
            let (name, note) = known.find_map(|other| {
                let name = other.ours.iter().find(|name| self.has_parameter(name) || self.has_setting(name))?;
                Some((*name, other.note))
            })?;
            let place = if self.has_parameter(name) { "" } else { ", a setting: write it below `run:`" };
            let note = if note.is_empty() { String::new() } else { format!("; {note}") };
            Some(format!("`{theirs}` is `{name}` here{place}{note}"))
        };
        ends.find_map(hint)
    }

    /// Is there such a parameter? Dots lead into blocks.
    #[must_use]
    pub fn has_parameter(&self, path: &str) -> bool {
        is_there(&self.parameters, path)
    }

    /// Is there such a setting?
    #[must_use]
    pub fn has_setting(&self, path: &str) -> bool {
        is_there(&self.settings, path)
    }
}

fn is_there(parameters: &[ParameterInfo], path: &str) -> bool {
    let (name, rest) = path.split_once('.').map_or((path, None), |(name, rest)| (name, Some(rest)));
    let found = parameters.iter().find(|parameter| parameter.name == name);
    found.is_some_and(|parameter| rest.is_none_or(|rest| is_there(&parameter.parameters, rest)))
}

/// A stage whose type is forgotten.
pub(crate) struct Registered {
    pub info: StageInfo,
    /// JSON Schema of `with:`.
    pub parameters: Value,
    /// JSON Schema of `run:`.
    pub settings: Value,
    prepare: fn(with: Value, run: Value) -> Result<Prepared, Unfit>,
}

impl Registered {
    fn of<S: Stage>() -> Self {
        let parameters = schema::of::<S>();
        let settings = schema::of::<S::Settings>();
        let info = StageInfo {
            name: S::NAME,
            about: schema::about(&parameters),
            version: S::VERSION,
            inputs: S::INPUTS,
            other_inputs: S::OTHER_INPUTS,
            output: S::OUTPUT,
            kind_parameter: S::KIND_PARAMETER,
            left_out: S::LEFT_OUT,
            other_names: S::OTHER_NAMES,
            parameters: schema::describe(&parameters),
            settings: schema::describe(&settings),
        };
        Self { info, parameters, settings, prepare: prepare::<S> }
    }

    /// Makes a node's work of what was written for it. Nested blocks inherit the stage's defaults here, so that no
    /// stage has to see to it.
    pub fn prepare(&self, mut with: Value, mut run: Value) -> Result<Prepared, Unfit> {
        schema::inherit(&self.parameters, &mut with);
        schema::inherit(&self.settings, &mut run);
        (self.prepare)(with, run)
    }
}

/// A node's work, ready to run.
pub(crate) struct Prepared {
    pub with: Value,
    pub settings: Value,
    pub problems: Vec<Problem>,
    pub work: Arc<dyn Work>,
}

/// Values that pass the schema and still don't make the stage.
pub(crate) enum Unfit {
    Parameters(serde_json::Error),
    Settings(serde_json::Error),
}

fn prepare<S: Stage>(with: Value, run: Value) -> Result<Prepared, Unfit> {
    let mut stage: S = serde_json::from_value(with).map_err(Unfit::Parameters)?;
    let settings: S::Settings = serde_json::from_value(run).map_err(Unfit::Settings)?;
    stage.resolve();
    Ok(Prepared {
        with: plain(&stage).map_err(Unfit::Parameters)?,
        settings: plain(&settings).map_err(Unfit::Settings)?,
        problems: stage.check(),
        work: Arc::new(Job { stage, settings }),
    })
}

/// Through text, so that a single-precision 0.1 stays 0.1 and does not become 0.10000000149.
fn plain(value: &impl Serialize) -> serde_json::Result<Value> {
    serde_json::from_str(&serde_json::to_string(value)?)
}

/// What a node does when its turn comes.
pub(crate) trait Work: Send + Sync {
    fn run(&self, ctx: &Context) -> anyhow::Result<()>;

    /// [`Stage::inspect`]
    fn inspect(&self, _: &Prospects) -> Vec<Finding> {
        Vec::new()
    }

    /// [`Stage::outline`]
    fn outline(&self, _: &Prospects) -> Option<Value> {
        None
    }

    /// [`Stage::footprint`]
    fn footprint(&self, _: &Prospects) -> Option<Footprint> {
        None
    }
}

struct Job<S: Stage> {
    stage: S,
    settings: S::Settings,
}

impl<S: Stage> Work for Job<S> {
    fn run(&self, ctx: &Context) -> anyhow::Result<()> {
        self.stage.run(&self.settings, ctx)
    }

    fn inspect(&self, inputs: &Prospects) -> Vec<Finding> {
        self.stage.inspect(&self.settings, inputs)
    }

    fn outline(&self, inputs: &Prospects) -> Option<Value> {
        self.stage.outline(inputs)
    }

    fn footprint(&self, inputs: &Prospects) -> Option<Footprint> {
        self.stage.footprint(&self.settings, inputs)
    }
}
