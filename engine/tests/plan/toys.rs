//! A registry of toy stages, and a way to plan a text with them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use engine::{Arity, Context, Diagnostic, Input, NoSettings, Plan, Problem, Registry, Source, Sources, Spec, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Makes paper from a file. There is nothing to it.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Press {
    /// What is printed.
    pub text: Source,
    /// How many sheets.
    #[serde(default = "ten")]
    #[schemars(range(min = 1, max = 1000))]
    pub sheets: u32,
    /// More files.
    #[serde(default)]
    pub attachments: Vec<Source>,
}

fn ten() -> u32 {
    10
}

impl Stage for Press {
    const NAME: &'static str = "press";
    const VERSION: u32 = 3;
    const INPUTS: &'static [Input] = &[];
    const OUTPUT: &'static str = "paper";
    type Settings = NoSettings;

    fn run(&self, _: &NoSettings, ctx: &Context) -> anyhow::Result<()> {
        Ok(std::fs::write(ctx.output().join("done"), Self::NAME)?)
    }
}

/// Paints on paper.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Paint {
    /// Strokes of the brush.
    #[schemars(range(min = 1))]
    pub strokes: u32,
    /// How much water, by weight.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub water: f32,
    /// Which way to paint.
    pub style: Style,
    /// The brush.
    pub brush: Brush,
    /// How it dries; by itself if not said.
    pub drying: Option<Drying>,
    /// Shown below the picture.
    pub title: String,
    pub varnish: bool,
    /// Filled in from the style where not given.
    pub layers: Option<u32>,
    pub palette: Vec<f64>,
}

impl Default for Paint {
    fn default() -> Self {
        Self {
            strokes: 100,
            water: 0.1,
            style: Style::Thick,
            brush: Brush::default(),
            drying: None,
            title: "untitled".into(),
            varnish: false,
            layers: None,
            palette: Vec::new(),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Style {
    /// Much paint.
    Thick,
    /// Little paint.
    Thin,
    /// As it comes.
    Free,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Brush {
    #[schemars(range(min = 1))]
    pub width: u32,
    pub hairs: u32,
}

impl Default for Brush {
    fn default() -> Self {
        Self { width: 4, hairs: 400 }
    }
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Drying {
    /// In the sun.
    Sun { hours: f32 },
    /// By a fire.
    Fire {
        #[serde(default)]
        logs: u32,
    },
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Room {
    /// Who paints.
    pub hands: u32,
}

impl Default for Room {
    fn default() -> Self {
        Self { hands: 1 }
    }
}

impl Stage for Paint {
    const NAME: &'static str = "paint";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Input] = &[
        Input { name: "paper", kinds: &["paper"], arity: Arity::One, about: "what to paint on" },
        Input { name: "model", kinds: &["paper", "picture"], arity: Arity::Optional, about: "what to copy" },
    ];
    const OUTPUT: &'static str = "picture";
    type Settings = Room;

    fn resolve(&mut self) {
        self.layers.get_or_insert(match self.style {
            Style::Thick => 3,
            Style::Thin | Style::Free => 1,
        });
    }

    fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if !self.brush.hairs.is_multiple_of(self.brush.width) {
            problems.push(Problem {
                parameter: "brush.hairs".into(),
                message: format!("`brush.hairs` must be a multiple of `brush.width`, {}", self.brush.width),
                hint: Some("try 400 and 4".into()),
            });
        }
        if self.style == Style::Free && self.varnish {
            problems.push(Problem {
                parameter: "varnish".into(),
                message: "a free painting cannot be varnished".into(),
                hint: None,
            });
        }
        problems
    }

    fn run(&self, _: &Room, ctx: &Context) -> anyhow::Result<()> {
        Ok(std::fs::write(ctx.output().join("done"), Self::NAME)?)
    }
}

/// Frames a picture.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Frame {
    pub material: Material,
    /// Metres by side.
    pub sides: BTreeMap<String, f32>,
    /// One for each corner.
    pub screws: [u32; 4],
    pub finish: Option<Style>,
    #[schemars(length(min = 1, max = 3))]
    pub labels: Vec<Label>,
}

impl Default for Frame {
    fn default() -> Self {
        Self {
            material: Material::Air,
            sides: BTreeMap::new(),
            screws: [1, 2, 3, 4],
            finish: None,
            labels: vec![Label { text: "here".into(), file: None, size: 0.3 }],
        }
    }
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Material {
    Air,
    /// From a tree.
    Wood {
        #[schemars(range(min = 1))]
        rings: u32,
    },
    Gold(f32),
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Label {
    pub text: String,
    #[serde(default)]
    pub file: Option<Source>,
    #[serde(default)]
    pub size: f32,
}

impl Stage for Frame {
    const NAME: &'static str = "frame";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Input] = &[];
    const OUTPUT: &'static str = "frame";
    type Settings = NoSettings;

    fn run(&self, _: &NoSettings, ctx: &Context) -> anyhow::Result<()> {
        Ok(std::fs::write(ctx.output().join("done"), Self::NAME)?)
    }
}

/// Hangs pictures on a wall.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hang {}

impl Stage for Hang {
    const NAME: &'static str = "hang";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Input] =
        &[Input { name: "pictures", kinds: &["picture"], arity: Arity::Named, about: "what to hang" }];
    const OUTPUT: &'static str = "wall";
    type Settings = NoSettings;

    fn run(&self, _: &NoSettings, ctx: &Context) -> anyhow::Result<()> {
        Ok(std::fs::write(ctx.output().join("done"), Self::NAME)?)
    }
}

/// The folder of these tests: its files are the sources.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/plan");

pub fn registry() -> Registry {
    Registry::new().with::<Press>().with::<Paint>().with::<Hang>().with::<Frame>().expand("book", chapters)
}

/// A book pulls in the files whose names are its lines.
fn chapters(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let text = std::fs::read_to_string(path)?;
    anyhow::ensure!(!text.contains("???"), "line 1: a chapter without name");
    Ok(text.lines().map(|line| path.with_file_name(line)).collect())
}

pub fn spec(text: &str, overrides: &[&str]) -> Result<Spec, Vec<Diagnostic>> {
    spec_with(text, &[], overrides)
}

fn spec_with(text: &str, profiles: &[&str], overrides: &[&str]) -> Result<Spec, Vec<Diagnostic>> {
    Spec::parse(Sources {
        root: PathBuf::from(ROOT),
        file: "p.yaml".into(),
        text: text.into(),
        profiles: profiles.iter().map(|&name| name.into()).collect(),
        overrides: overrides.iter().map(|&words| words.into()).collect(),
    })
}

pub fn plan_in(text: &str, profiles: &[&str], overrides: &[&str]) -> Plan {
    let plan = spec_with(text, profiles, overrides).and_then(|spec| Plan::resolve(&spec, &registry()));
    plan.unwrap_or_else(|mistakes| panic!("{}", shown(&mistakes)))
}

/// The messages for a text with these profiles must be these, whole.
#[track_caller]
pub fn assert_mistakes_in(text: &str, profiles: &[&str], expected: &str) {
    let plan = spec_with(text, profiles, &[]).and_then(|spec| Plan::resolve(&spec, &registry()));
    compare(plan, expected);
}

pub fn plan_with(text: &str, overrides: &[&str]) -> Result<Plan, Vec<Diagnostic>> {
    Plan::resolve(&spec(text, overrides)?, &registry())
}

pub fn plan(text: &str) -> Plan {
    plan_with(text, &[]).unwrap_or_else(|mistakes| panic!("{}", shown(&mistakes)))
}

pub fn shown(mistakes: &[Diagnostic]) -> String {
    mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n\n")
}

/// The messages for a text must be these, whole.
#[track_caller]
pub fn assert_mistakes(text: &str, expected: &str) {
    assert_mistakes_with(text, &[], expected);
}

#[track_caller]
pub fn assert_mistakes_with(text: &str, overrides: &[&str], expected: &str) {
    compare(plan_with(text, overrides), expected);
}

#[track_caller]
fn compare(plan: Result<Plan, Vec<Diagnostic>>, expected: &str) {
    let found = match plan {
        Ok(plan) => panic!("no mistake was found: {plan:#?}"),
        Err(mistakes) => shown(&mistakes).replace(ROOT, "ROOT"),
    };
    let (found, expected) = (found.trim_end(), expected.trim());
    assert!(found == expected, "found:\n{found}\n\nexpected:\n{expected}");
}
