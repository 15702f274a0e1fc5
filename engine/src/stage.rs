//! What a kind of work must say of itself: its parameters, inputs, output and verb.
//! Knows nothing of files, graphs or fingerprints.

use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    context::Context,
    footprint::{Footprint, Prospects},
};

/// A kind of work that a node can do. The struct's fields are its `with:` parameters; their doc
/// comments, defaults and ranges are what `mashbill stages NAME` prints.
///
/// Parameters use `#[serde(default)]` for defaults, `#[serde(deny_unknown_fields)]` on every struct,
/// and `#[schemars(range(..))]` for bounds; the engine checks all of them before anything runs.
pub trait Stage: Serialize + DeserializeOwned + JsonSchema + Send + Sync + 'static {
    /// The name that pipelines use.
    const NAME: &'static str;
    /// Raised by hand, with the reason beside it, when the same facts begin to give another result.
    const VERSION: u32;
    /// What the stage reads.
    const INPUTS: &'static [Input];
    /// The inputs that a node may give beside those.
    const OTHER_INPUTS: OtherInputs = OtherInputs::Refused;
    /// The kind of artifact that the stage writes.
    const OUTPUT: &'static str;
    /// The parameter that names another kind than `OUTPUT`, where the pipeline decides it.
    const KIND_PARAMETER: Option<&'static str> = None;
    /// Parameters that one may look for here, each with the reason why there is none: the hint of the mistake.
    const LEFT_OUT: &'static [(&'static str, &'static str)] = &[];
    /// What other programs call parameters and settings that this stage may have: the hint of the mistake.
    const OTHER_NAMES: &'static [OtherName] = &[];
    /// The `run:` block: how, never what. Recorded, not fingerprinted.
    type Settings: Serialize + DeserializeOwned + JsonSchema + Default + Send + Sync;

    /// Fills in what a preset or another parameter decides, so that the facts hold the values in force.
    fn resolve(&mut self) {}

    /// Mistakes that a schema can't state, all of them.
    fn check(&self) -> Vec<Problem> {
        Vec::new()
    }

    /// Mistakes that are seen only by looking further than at the parameters: at the files that they name, at what is
    /// known of the inputs before they are made, at this machine. What is reported is certain to fail; what only may
    /// fail is left to the work.
    fn inspect(&self, _settings: &Self::Settings, _inputs: &Prospects) -> Vec<Finding> {
        Vec::new()
    }

    /// What is known of the result before it is made, for the footprints and inspections of the stages that read it.
    fn outline(&self, _inputs: &Prospects) -> Option<Value> {
        None
    }

    /// What the work will hold in memory at its peak; none where that is not worth a word. Asked by `plan`, and before
    /// the work begins: a node whose footprint is larger than what is free does not start.
    fn footprint(&self, _settings: &Self::Settings, _inputs: &Prospects) -> Option<Footprint> {
        None
    }

    /// Does the work: reads its inputs, writes below `ctx.output()`.
    ///
    /// # Errors
    /// Whatever the user can mend, with context; [`crate::Cancelled`] after `ctx.cancelled()` became true.
    fn run(&self, settings: &Self::Settings, ctx: &Context) -> anyhow::Result<()>;
}

/// What other programs call a parameter or setting.
#[derive(Debug, Clone, Copy)]
pub struct OtherName {
    /// Names elsewhere; dots where they name blocks.
    pub theirs: &'static [&'static str],
    /// Paths here, dots between: the first that the stage has is the one. A stage without any has nothing of the kind.
    pub ours: &'static [&'static str],
    /// In what the value here differs from the value there; empty where it is the same.
    pub note: &'static str,
}

/// One input of a stage.
#[derive(Debug, Clone, Copy)]
pub struct Input {
    pub name: &'static str,
    /// The kinds of artifact it takes.
    pub kinds: &'static [&'static str],
    pub arity: Arity,
    /// One sentence for `mashbill stages`.
    pub about: &'static str,
}

/// How many nodes an input takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arity {
    /// Exactly one.
    One,
    /// None or one.
    Optional,
    /// One or more: a name or a list.
    Many,
    /// As `Many`, and the stage writes the nodes' names into its result: they become facts.
    Named,
}

/// Inputs that a stage does not declare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtherInputs {
    /// They are mistakes.
    Refused,
    /// They are the node's to name, and of any kind: one node or a list each.
    Taken,
}

/// A mistake in a parameter that only the stage can see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Path of the parameter below `with:`, dots between: `shape.layers`.
    pub parameter: String,
    pub message: String,
    pub hint: Option<String>,
}

impl Problem {
    /// Without a hint.
    pub fn new(parameter: impl Into<String>, message: impl Into<String>) -> Self {
        Self { parameter: parameter.into(), message: message.into(), hint: None }
    }

    /// The same mistake of a block that is a parameter itself.
    #[must_use]
    pub fn below(self, block: &str) -> Self {
        Self { parameter: format!("{block}.{}", self.parameter), ..self }
    }
}

/// What [`Stage::inspect`] found, by where it is mended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// In a parameter.
    Parameter(Problem),
    /// In a setting, named by its path below `run:`: the work cannot be done on this machine. A result that is there
    /// already is used all the same.
    Setting(Problem),
}

/// A file or folder whose bytes decide the result. The path itself does not.
///
/// Relative to the project root until the moment of opening; see [`Context::source`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Source(pub PathBuf);

impl Source {
    /// How a schema marks a source, so that the engine finds every one by walking the parameters.
    pub const FORMAT: &'static str = "source";
}

impl JsonSchema for Source {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Source".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": Self::FORMAT })
    }
}

/// The `run:` block of a stage that has nothing to set.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoSettings {}
