//! Rejection sampling: a policy answers, a script keeps. What `reject` and `distill` share.
//! Knows nothing of training.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use engine::{Context, Finding, Prospects, Source};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    data::rows::Row,
    decode::Sampling,
    device::Compute,
    inspection::{self, Plugin},
    sample::answered,
    script::{Keep, Sample, Script, Use},
    text::{
        chat::Chat,
        complete::{Completed, Policy, complete_rows, prompt_text},
    },
};

/// How completions are sampled and which are kept.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rejection {
    /// A plugin whose `keep(sample)` says true, false, or why not.
    pub keep: Source,
    /// What the plugin sees as `params`.
    #[serde(default)]
    pub params: Map<String, Value>,
    /// Completions of each prompt.
    #[serde(default = "four")]
    #[schemars(range(min = 1))]
    pub samples: usize,
    /// At most so many kept completions of a prompt, different ones first come first; 0 keeps all.
    #[serde(default)]
    pub most: usize,
    /// How tokens are drawn.
    #[serde(default)]
    pub sampling: Sampling,
    /// Texts that end a completion, beside the end-of-sequence tokens.
    #[serde(default)]
    pub stop: Vec<String>,
    /// How conversations are written, and what the template check lets pass.
    #[serde(default, skip_serializing_if = "Chat::is_plain")]
    #[schemars(!skip_serializing_if)]
    pub template: Chat,
}

fn four() -> usize {
    4
}

impl Rejection {
    /// What is wrong with the plugin, and completions for which the context of `policy` has no room. `block`: what stands
    /// before the parameters' names, with its dot.
    #[must_use]
    pub fn findings(&self, block: &str, policy: &str, inputs: &Prospects) -> Vec<Finding> {
        let (keep, tokens) = (format!("{block}keep"), format!("{block}sampling.max_new_tokens"));
        let plugin = Plugin { parameter: &keep, source: &self.keep, params: &self.params, used: Use::KeepSample };
        let mut found = plugin.findings(inputs, "prompts");
        found.extend(inspection::room(&tokens, self.sampling.max_new_tokens, policy, inputs));
        found
    }

    /// Samples all prompts and returns the kept rows. Records how many were sampled, kept and dropped for each
    /// reason, and how many prompts kept nothing.
    ///
    /// # Errors
    /// As sampling and the plugin; when not one completion is kept.
    pub fn rows(&self, policy: &Policy, prompts: &[Row], compute: &Compute, ctx: &Context) -> Result<Vec<Row>> {
        let script = Script::open_in(ctx, &self.keep, &self.params)?;
        let speaker = policy.speaker(&self.sampling, &self.stop, compute);
        let groups = complete_rows(speaker, prompts, self.samples, ctx.seed("sampling"), "sampling", ctx)?;
        let texts: Vec<String> = prompts.iter().map(prompt_text).collect();
        let samples: Vec<Sample> = prompts
            .iter()
            .zip(&texts)
            .zip(&groups)
            .flat_map(|((row, prompt), group)| {
                group.iter().enumerate().map(move |(index, completed)| as_sample(row, prompt, completed, index))
            })
            .collect();
        let verdicts = script.keeps(&samples)?;
        let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
        let mut kept = Vec::new();
        let mut verdicts = verdicts.into_iter();
        let mut without = 0;
        for (prompt, group) in prompts.iter().zip(&groups) {
            let mut texts: Vec<&str> = Vec::new();
            for (index, completed) in group.iter().enumerate() {
                let reason = match verdicts.next().context("one verdict a completion")? {
                    Keep::No(reason) => reason,
                    Keep::Yes if texts.contains(&completed.text.as_str()) => {
                        "same completion of the same prompt".into()
                    }
                    Keep::Yes if self.most > 0 && texts.len() == self.most => "enough kept of the prompt".into(),
                    Keep::Yes => {
                        texts.push(&completed.text);
                        kept.push(answered(prompt, completed, index));
                        continue;
                    }
                };
                *reasons.entry(reason).or_default() += 1;
            }
            without += usize::from(texts.is_empty());
        }
        let mut metrics: Vec<(String, f64)> = vec![
            ("sampled".into(), samples.len() as f64),
            ("kept".into(), kept.len() as f64),
            ("prompts_without".into(), without as f64),
        ];
        metrics.extend(reasons.into_iter().map(|(reason, count)| (format!("dropped: {reason}"), count as f64)));
        let metrics: Vec<(&str, f64)> = metrics.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        ctx.record(0, &metrics)?;
        if kept.is_empty() {
            let reasons: Vec<String> = metrics[3..]
                .iter()
                .map(|(reason, count)| format!("{count} {}", reason.trim_start_matches("dropped: ")))
                .collect();
            anyhow::bail!("of {} completions not one was kept: {}", samples.len(), reasons.join(", "));
        }
        Ok(kept)
    }
}

/// A completion as plugins see it.
#[must_use]
pub fn as_sample<'a>(row: &'a Row, prompt: &'a str, completed: &'a Completed, index: usize) -> Sample<'a> {
    Sample {
        row,
        prompt,
        completion: &completed.text,
        truncated: completed.truncated(),
        tokens: completed.tokens.len(),
        index,
    }
}
