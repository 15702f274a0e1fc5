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
    filter::Dropped,
    inspection::{self, Plugin},
    sample::answered,
    script::{Keep, Sample, Script, Use},
    text::{
        chat::Chat,
        complete::{Completed, Policy, complete_rows, prompt_text},
        room::{LongPrompts, excerpt},
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
    /// What happens to a prompt that leaves no room for `max_new_tokens` in the model's context.
    #[serde(default, skip_serializing_if = "LongPrompts::is_error")]
    #[schemars(!skip_serializing_if)]
    pub too_long: LongPrompts,
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
    /// reason, how many prompts kept nothing or were too long, and a few completions of each reason.
    ///
    /// # Errors
    /// As sampling and the plugin; when not one completion is kept.
    pub fn rows(&self, policy: &Policy, prompts: Vec<Row>, compute: &Compute, ctx: &Context) -> Result<Vec<Row>> {
        let script = Script::open_in(ctx, &self.keep, &self.params)?;
        let speaker = policy.speaker(&self.sampling, &self.stop, compute);
        let asked = speaker.prompts(prompts, self.too_long)?;
        let groups = complete_rows(speaker, &asked, self.samples, ctx.seed("sampling"), "sampling", ctx)?;
        speaker.warn_of_cut_off(&groups, "", ctx)?;
        let prompts = &asked.rows;
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
        let mut example = None;
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
                let kinds = reasons.len();
                let count = reasons.entry(reason.clone()).or_default();
                *count += 1;
                if *count <= Dropped::SHOWN && kinds <= Dropped::TOLD {
                    let mut row = answered(prompt, completed, index);
                    row.shift_remove("completion_ids");
                    row.insert("dropped".into(), reason.clone().into());
                    ctx.sample(0, row)?;
                }
                example.get_or_insert((reason, prompt, completed));
            }
            without += usize::from(texts.is_empty());
        }
        let mut metrics: Vec<(String, f64)> = vec![
            ("sampled".into(), samples.len() as f64),
            ("kept".into(), kept.len() as f64),
            ("prompts_without".into(), without as f64),
        ];
        if asked.dropped > 0 {
            metrics.push(("dropped_too_long".into(), asked.dropped as f64));
        }
        metrics.extend(reasons.iter().map(|(reason, count)| (format!("dropped: {reason}"), *count as f64)));
        let metrics: Vec<(&str, f64)> = metrics.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        ctx.record(0, &metrics)?;
        if kept.is_empty() {
            let reasons: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
            let example = example.map(|(reason, prompt, completed)| shown(&reason, prompt, completed));
            anyhow::bail!(
                "of {} completions not one was kept: {}{}",
                samples.len(),
                reasons.join(", "),
                example.unwrap_or_default()
            );
        }
        Ok(kept)
    }
}

/// A completion that was dropped, with what `keep` gave for it.
fn shown(reason: &str, prompt: &Row, completed: &Completed) -> String {
    let cut = if completed.truncated() { ", cut off" } else { "" };
    let text = format!(
        "\nsuch as this one of {} tokens{cut}, for which `keep` gave {}\nprompt: {}\ncompletion: {}",
        completed.tokens.len(),
        Dropped::given(reason),
        excerpt(&prompt_text(prompt)),
        excerpt(&completed.text)
    );
    let answer = match prompt.get("answer") {
        Some(Value::String(answer)) => format!("\nanswer: {}", excerpt(answer)),
        Some(answer) => format!("\nanswer: {}", excerpt(&answer.to_string())),
        None => String::new(),
    };
    [&text, &answer, Dropped::hint(reason)].concat()
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
