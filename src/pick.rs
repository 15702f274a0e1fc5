//! From `--select` and its kin to the part of a plan that they mean.

use std::collections::BTreeSet;

use engine::{Options, Outside, Plan, Scope, Store, Verdict, forecast_with};

use crate::{args::Pick, outcome::Trouble};

/// The plan of the picked nodes and what they need, and the options that say which of them are picked.
pub fn picked(plan: Plan, pick: &Pick, store: &Store) -> Result<(Plan, Options), Trouble> {
    let mut options = Options::default();
    if !pick.force.is_empty() {
        options.force = plan.select(&pick.force, &[], store)?;
    }
    if !pick.is_some() {
        return Ok((plan, options));
    }
    let mut nodes = plan.select(&pick.select, &[], store)?;
    let around = |words: &[String], widen: fn(&String) -> String| -> Result<BTreeSet<String>, Trouble> {
        let names: Vec<String> = plan.select(words, &[], store)?.iter().map(widen).collect();
        Ok(plan.select(&names, &[], store)?)
    };
    if !pick.from.is_empty() {
        let behind = around(&pick.from, |name| format!("{name}+"))?;
        nodes.retain(|name| behind.contains(name));
    }
    let until: Vec<String> = pick.nodes.iter().chain(&pick.until).cloned().collect();
    if !until.is_empty() {
        let needed = around(&until, |name| format!("+{name}"))?;
        nodes.retain(|name| needed.contains(name));
    }
    let outside = if pick.only.is_empty() {
        Outside::Current
    } else {
        nodes = plan.select(&pick.only, &[], store)?;
        Outside::Last
    };
    if !pick.exclude.is_empty() {
        let excluded = plan.select(&pick.exclude, &[], store)?;
        nodes.retain(|name| !excluded.contains(name));
    }
    let plan = plan.with_needs(&nodes);
    options.scope = Some(Scope { nodes, outside });
    Ok((plan, options))
}

/// Refuses what could not be done whatever happens: a picked node needs one that was not picked and is not there.
pub fn check(plan: &Plan, options: &Options, store: &Store) -> Result<(), Trouble> {
    let Some(scope) = &options.scope else { return Ok(()) };
    for forecast in forecast_with(plan, store, options)? {
        if let Verdict::Left { why } = &forecast.verdict
            && scope.nodes.contains(&forecast.node)
        {
            let node = &forecast.node;
            return Err(Trouble::Usage {
                message: format!("`{node}` cannot be made: {why}"),
                hint: Some(match scope.outside {
                    Outside::Current => {
                        format!("`--select +{node}` makes what it needs too, `--only {node}` takes what is there")
                    }
                    Outside::Last => format!("`--until {node}` makes what it needs too"),
                }),
            });
        }
    }
    Ok(())
}

/// Was the verb asked about this node, or does it only come along because others need it?
pub fn is_asked(options: &Options, node: &str) -> bool {
    options.scope.as_ref().is_none_or(|scope| scope.nodes.contains(node))
}

impl Pick {
    fn is_some(&self) -> bool {
        [&self.nodes, &self.select, &self.exclude, &self.from, &self.until, &self.only]
            .iter()
            .any(|words| !words.is_empty())
    }
}
