//! The report card: every policy's scores on held-out prompts, with how sure they are. Trains nothing.

mod card;
mod interval;

use anyhow::{Context as _, Result, ensure};
use engine::{Arity, Context, Finding, Footprint, Input, InputArtifact, OtherName, Problem, Prospects, Source, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use card::{Card, Line};

use crate::{
    data::{checkpoint::Checkpoint, rows, rows::Row},
    decode::Sampling,
    device::Compute,
    footprint::Work,
    inspection::{self, Plugin},
    other_names::OTHER_NAMES,
    rejection::as_sample,
    script::{Script, Use},
    text::{
        chat::Chat,
        complete::{Completed, Policy, complete_rows, prompt_text},
        encode,
        room::{self, LongPrompts, excerpt},
    },
};

/// Samples every policy on the same prompts and scores the completions by a script.
///
/// A score is the mean over prompts of the mean over a prompt's samples (pass@1, DeepSeek-R1, section 3), with a
/// 95 % interval: Wilson's for one sample a prompt, else normal over the prompts' means.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Evaluate {
    /// A plugin whose `score(sample)` gives a map of scores between 0 and 1, such as `strict` and `lenient`.
    pub score: Source,
    /// What the plugin sees as `params`.
    #[serde(default)]
    pub params: Map<String, Value>,
    /// Completions of each prompt.
    #[serde(default = "one")]
    #[schemars(range(min = 1))]
    pub samples: usize,
    /// How tokens are drawn. The paper's own: temperature 0.6, top-p 0.95.
    #[serde(default = "as_published")]
    pub sampling: Sampling,
    /// Texts that end a completion, beside the end-of-sequence tokens.
    #[serde(default)]
    pub stop: Vec<String>,
    /// A field of the prompts' rows by whose value the card is divided.
    #[serde(default)]
    pub by: Option<String>,
    /// What happens to a prompt that leaves no room for `max_new_tokens` in a policy's context: dropped, it is asked of
    /// no policy.
    #[serde(default, skip_serializing_if = "LongPrompts::is_error")]
    #[schemars(!skip_serializing_if)]
    pub too_long: LongPrompts,
    /// How conversations are written, and what the template check lets pass.
    #[serde(default, skip_serializing_if = "Chat::is_plain")]
    #[schemars(!skip_serializing_if)]
    pub template: Chat,
}

fn one() -> usize {
    1
}

fn as_published() -> Sampling {
    Sampling { temperature: 0.6, top_p: 0.95, ..Sampling::default() }
}

impl Stage for Evaluate {
    const NAME: &'static str = "evaluate";
    // 2: all tokens as likely as the last of top-k count in top-p, as they do in transformers
    const VERSION: u32 = 2;
    const INPUTS: &'static [Input] = &[
        Input {
            name: "policies",
            kinds: &["checkpoint"],
            arity: Arity::Named,
            about: "Who is examined, in this order.",
        },
        Input { name: "prompts", kinds: &["rows"], arity: Arity::Many, about: "What is asked." },
    ];
    const OUTPUT: &'static str = "report";
    const OTHER_NAMES: &'static [OtherName] = OTHER_NAMES;
    type Settings = Compute;

    fn footprint(&self, compute: &Compute, inputs: &Prospects) -> Option<Footprint> {
        Work { inputs, compute }.answering("policies", self.samples, &self.sampling)
    }

    fn inspect(&self, compute: &Compute, inputs: &Prospects) -> Vec<Finding> {
        let plugin = Plugin { parameter: "score", source: &self.score, params: &self.params, used: Use::Score };
        let prompts = inspection::rows_of(inputs, "prompts");
        let by = self.by.iter().filter_map(|field| inspection::missing_field("by", field, &prompts));
        let mut found = plugin.findings(inputs, "prompts");
        found.extend(by);
        found.extend(inspection::room("sampling.max_new_tokens", self.sampling.max_new_tokens, "policies", inputs));
        found.extend(compute.finding(inputs));
        found
    }

    fn check(&self) -> Vec<Problem> {
        self.template.check()
    }

    fn run(&self, compute: &Compute, ctx: &Context) -> Result<()> {
        let script = Script::open_in(ctx, &self.score, &self.params)?;
        let mut prompts = rows::read_all(ctx.inputs("prompts"))?;
        ensure!(!prompts.is_empty(), "there are no prompts");
        let policies = ctx.inputs("policies");
        let dropped = self.drop_too_long(&mut prompts, policies, ctx)?;
        let mut card = Card::default();
        let mut completions = Vec::new();
        for (i, InputArtifact { node, path, .. }) in policies.iter().enumerate() {
            let policy = Policy::open(path, compute)?.writing(&self.template, ctx)?;
            let speaker = policy.speaker(&self.sampling, &self.stop, compute);
            let said = format!("{node} ({} of {})", i + 1, policies.len());
            // The same seed for all: policies that agree are asked the same dice.
            let asked = speaker.prompts(prompts.clone(), LongPrompts::Error)?;
            let groups = complete_rows(speaker, &asked, self.samples, ctx.seed("sampling"), &said, ctx)?;
            speaker.warn_of_cut_off(&groups, &format!("`{node}`: "), ctx)?;
            let lines = self.scored(&script, &prompts, &groups)?;
            for (line, (row, group)) in lines.iter().zip(prompts.iter().zip(&groups)) {
                let mut shown = Row::new();
                shown.insert("policy".into(), json!(node));
                shown.insert("prompt".into(), json!(prompt_text(row)));
                shown.insert("answer".into(), row.get("answer").cloned().unwrap_or_default());
                shown.insert("completions".into(), json!(group.iter().map(|one| &one.text).collect::<Vec<_>>()));
                shown.insert("scores".into(), json!(line.scores));
                completions.push(shown);
            }
            let means = card.add(node, &lines);
            let mut means: Vec<(&str, f64)> = means.iter().map(|(name, mean)| (name.as_str(), *mean)).collect();
            if i == 0 && dropped > 0 {
                means.push(("dropped_too_long", dropped as f64));
            }
            ctx.record(i as u64, &means)?;
        }
        let out = |name: &str, text: String| {
            let path = ctx.output().join(name);
            std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
        };
        out("report.md", card.markdown(prompts.len(), self.samples))?;
        out("report.json", serde_json::to_string_pretty(&card)? + "\n")?;
        // Read by people; the name says what the lines are.
        let lines: String = completions.into_iter().map(|row| Value::Object(row).to_string() + "\n").collect();
        out("completions.jsonl", lines)
    }
}

impl Evaluate {
    /// Leaves out the prompts that are too long for any of the policies, where that is asked for; says how many. Policies
    /// that answer other prompts could not be compared.
    fn drop_too_long(&self, prompts: &mut Vec<Row>, policies: &[InputArtifact], ctx: &Context) -> Result<usize> {
        let before = prompts.len();
        if self.too_long == LongPrompts::Error {
            return Ok(0);
        }
        for InputArtifact { path, .. } in policies {
            let (config, tokenizer) = Checkpoint::open_without_weights(path)?;
            let encoded = encode::prompts(&self.template.apply(tokenizer, ctx)?, prompts)?;
            let fits = self.too_long.fitting(&encoded, prompts, self.sampling.max_new_tokens, &config)?;
            room::retain(prompts, &fits);
        }
        Ok(before - prompts.len())
    }

    /// One line a prompt: its scores, averaged over its samples.
    fn scored(&self, script: &Script, prompts: &[Row], groups: &[Vec<Completed>]) -> Result<Vec<Line>> {
        let texts: Vec<String> = prompts.iter().map(prompt_text).collect();
        let samples: Vec<_> = (0..prompts.len())
            .flat_map(|i| {
                let group = groups[i].iter().enumerate();
                let (row, text) = (&prompts[i], &texts[i]);
                group.map(move |(index, completed)| as_sample(row, text, completed, index))
            })
            .collect();
        let scores = script.rewards("score", &samples)?;
        let mut lines = Vec::new();
        for ((row, group), scores) in prompts.iter().zip(groups).zip(scores.chunks(self.samples)) {
            let share = 1.0 / group.len() as f64;
            let mut line = Line { group: self.group_of(row)?, is_binary: group.len() == 1, ..Line::default() };
            for (completed, reward) in group.iter().zip(scores) {
                line.length += completed.tokens.len() as f64 * share;
                line.truncated += f64::from(u8::from(completed.truncated())) * share;
                ensure!(
                    !reward.parts.is_empty(),
                    "`score` gave a number; the report card needs a map of named scores, such as `#{{ right: 1.0 }}`"
                );
                for (name, score) in &reward.parts {
                    let score = f64::from(*score);
                    ensure!(
                        (0.0..=1.0).contains(&score),
                        "`score` gave {name} = {score}, outside of 0 to 1\nprompt: {}\ncompletion: {}",
                        excerpt(&prompt_text(row)),
                        excerpt(&completed.text)
                    );
                    line.is_binary &= score == 0.0 || score == 1.0;
                    *line.scores.entry(name.clone()).or_default() += score * share;
                }
            }
            lines.push(line);
        }
        Ok(lines)
    }

    fn group_of(&self, row: &Row) -> Result<String> {
        let Some(field) = &self.by else { return Ok("all".into()) };
        match row.get(field) {
            Some(Value::String(value)) => Ok(value.clone()),
            Some(value) => Ok(value.to_string()),
            None => {
                let hint = engine::hint(field, row.keys().map(String::as_str), "it has").unwrap_or_default();
                anyhow::bail!("a prompt's row has no field `{field}` to divide the card by; {hint}")
            }
        }
    }
}
