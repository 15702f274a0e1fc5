//! `mashbill graph`: the pipeline as a picture, on stdout.

use std::{collections::BTreeMap, path::Path};

use engine::{forecast_with, graph};

use crate::{
    args::{Global, Pick, Picture},
    outcome::{Code, Trouble},
    pick, pipeline,
    screen::say,
};

/// How a graph is drawn.
#[derive(Debug, Clone, Copy)]
pub struct Form {
    pub picture: Picture,
    pub state: bool,
}

pub fn graph(file: &Path, pick: &Pick, form: Form, global: &Global) -> Result<Code, Trouble> {
    let plan = pipeline::plan(file, global)?;
    let store = pipeline::store(&plan.root, global)?;
    let (plan, options) = pick::picked(plan, pick, &store)?;
    let forecasts = if form.state { forecast_with(&plan, &store, &options)? } else { Vec::new() };
    let words: BTreeMap<&str, &str> =
        forecasts.iter().map(|forecast| (forecast.node.as_str(), forecast.verdict.word())).collect();
    let plan = match &options.scope {
        Some(scope) => plan.of(&scope.nodes),
        None => plan.clone(),
    };
    let text = match form.picture {
        Picture::Mermaid => graph::mermaid(&plan, &words),
        Picture::Dot => graph::dot(&plan, &words),
        Picture::Svg => graph::svg(&plan, &words),
    };
    say!("{}", text.trim_end());
    Ok(Code::Done)
}
