//! From the words on the command line to the folder of a model: given as it is, or as a node of a pipeline.

use std::path::{Path, PathBuf};

use ::stages::{answer::Sampling, device::Compute, text::complete::Policy};
use engine::{Plan, Store};

use crate::{
    args::{Asked, Draw, Global},
    outcome::Trouble,
    pipeline::{self, Standing},
    screen,
};

/// The kind of artifact that is a model.
const CHECKPOINT: &str = "checkpoint";

/// Where a model lies, and what it is called.
#[derive(Debug)]
pub struct Model {
    pub folder: PathBuf,
    pub name: String,
}

impl Model {
    /// Reads it, on the CPU.
    pub fn open(&self) -> Result<Policy, Trouble> {
        Policy::open(&self.folder, &Compute::default()).map_err(trouble)
    }
}

/// A folder that is no model, or not one that is understood here.
pub fn trouble(error: anyhow::Error) -> Trouble {
    Trouble::usage(format!("{error:#}"))
}

impl Draw {
    /// What was said on the command line, and the rest as usual.
    pub fn over(&self, usual: Sampling) -> Sampling {
        Sampling {
            temperature: self.temperature.unwrap_or(usual.temperature),
            top_p: self.top_p.unwrap_or(usual.top_p),
            top_k: self.top_k.unwrap_or(usual.top_k),
            min_p: self.min_p.unwrap_or(usual.min_p),
            ..usual
        }
    }
}

pub fn find(asked: &Asked, global: &Global) -> Result<Model, Trouble> {
    match (&asked.node, asked.model.is_dir()) {
        (Some(node), false) => of_node(&asked.model, node, global),
        (None, true) => of_folder(&asked.model, global),
        (Some(node), true) => Err(Trouble::Usage {
            message: format!("`{}` is a folder; it has no node `{node}`", asked.model.display()),
            hint: Some("give a model's folder alone, or a pipeline's file with a node".into()),
        }),
        (None, false) if asked.model.is_file() => Err(nodes_of(&asked.model, global)),
        (None, false) => Err(Trouble::Usage {
            message: format!("no model folder `{}`", asked.model.display()),
            hint: Some("give a Hugging Face model folder, or a pipeline's file and a node of it".into()),
        }),
    }
}

fn of_folder(folder: &Path, global: &Global) -> Result<Model, Trouble> {
    if global.seed.is_some() {
        return Err(Trouble::Usage {
            message: "`--seed` picks the result of a pipeline, and a folder has none".into(),
            hint: Some("the seed of the answers is `--sample-seed`".into()),
        });
    }
    let folder = folder
        .canonicalize()
        .map_err(|error| Trouble::usage(format!("cannot open the folder `{}`: {error}", folder.display())))?;
    let name = folder.file_name().map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned());
    Ok(Model { folder, name })
}

fn of_node(file: &Path, name: &str, global: &Global) -> Result<Model, Trouble> {
    let plan = pipeline::plan(file, global)?;
    let node = pipeline::node(&plan, name)?;
    let store: Store = pipeline::store(&plan.root, global)?;
    let Some((artifact, standing)) = pipeline::result(&plan, node, &store)? else {
        return Err(pipeline::no_result(file, name));
    };
    let kind = &artifact.manifest()?.kind;
    if kind != CHECKPOINT {
        return Err(Trouble::Usage {
            message: format!("`{name}` makes `{kind}`, not a model"),
            hint: checkpoints(&plan),
        });
    }
    if standing == Standing::OutOfDate {
        screen::note(&format!("`{name}` is out of date: this is its last result; `mashbill explain` says why"));
    }
    Ok(Model { folder: artifact.data(), name: name.to_owned() })
}

/// A pipeline without a node: says which there are.
fn nodes_of(file: &Path, global: &Global) -> Trouble {
    match pipeline::plan(file, global) {
        Ok(plan) => Trouble::Usage {
            message: format!("`{}` is a pipeline: say which of its nodes", file.display()),
            hint: checkpoints(&plan),
        },
        Err(trouble) => trouble,
    }
}

/// Where a model is to be had.
fn checkpoints(plan: &Plan) -> Option<String> {
    let nodes = plan.nodes().iter().filter(|node| node.output == CHECKPOINT);
    let names: Vec<String> = nodes.map(|node| format!("`{}`", node.name)).collect();
    (!names.is_empty()).then(|| format!("a model is made by {}", names.join(", ")))
}
