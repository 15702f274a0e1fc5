//! Nodes of no work to speak of, for tests of what is done with nodes.

use std::{collections::BTreeMap, fs, sync::Arc};

use serde_json::json;

use crate::{
    context::Context,
    diagnostic::Place,
    plan::{Node, NodeInput},
    registry::Work,
};

struct Say(&'static str);

impl Work for Say {
    fn run(&self, ctx: &Context) -> anyhow::Result<()> {
        match self.0 {
            "fails" => anyhow::bail!("no ink"),
            "steps" => {
                ctx.progress(1, 2, "half");
                ctx.progress(2, 2, "all");
            }
            _ => {}
        }
        let inputs: Vec<String> = ctx.inputs("texts").iter().map(|input| input.path.display().to_string()).collect();
        Ok(fs::write(ctx.output().join("text"), format!("{}{}", self.0, inputs.len()))?)
    }
}

/// Writes its stage and how many inputs it has; a stage named `fails` fails, one named `steps` tells two steps.
pub(crate) fn node(name: &str, stage: &'static str, inputs: &[&str]) -> Node {
    let nodes = inputs.iter().map(|name| (*name).to_owned()).collect();
    Node {
        name: name.into(),
        stage,
        version: 1,
        output: "text".into(),
        with: json!({ "name": name }),
        settings: json!({}),
        seed: 0,
        env: Vec::new(),
        retries: 0,
        timeout: None,
        inputs: match inputs {
            [] => Vec::new(),
            _ => vec![NodeInput { name: "texts".into(), nodes, named: false }],
        },
        sources: Vec::new(),
        place: Place { file: "p.yaml".into(), line: 1, column: 1 },
        places: BTreeMap::new(),
        work: Arc::new(Say(stage)),
    }
}
