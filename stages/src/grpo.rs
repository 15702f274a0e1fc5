//! Group-relative policy optimisation (DeepSeekMath, arXiv 2402.03300; DeepSeek-R1, arXiv 2501.12948v2),
//! top to bottom: sample groups, score them, compare within the group, take clipped steps.
//!
//! One rollout phase samples `prompts_per_step * steps_per_rollout` prompts `group_size` times from the policy
//! as it is (the old policy), and is then split at random into `steps_per_rollout` minibatches, one optimiser
//! step each, one inner epoch. Sampler and trainer share the weights' buffers; the log-probabilities of fresh
//! samples are compared all the same, and a difference stops the run.

mod findings;
mod preset;
mod rollout;

use std::{collections::BTreeMap, path::PathBuf, time::Instant};

use anyhow::{Result, bail, ensure};
use engine::{Arity, Cancelled, Context, Finding, Footprint, Input, OtherName, Problem, Prospects, Source, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use findings::{Findings, Run};
pub use preset::Preset;
use rollout::Rollout;

use crate::{
    data::{adapter, checkpoint::Checkpoint, rows, rows::Row},
    decode::Sampling,
    device::Compute,
    footprint::{self, Learner, Questions, Reference, Work},
    inspection::{self, Plugin},
    nn::{
        decoder::Decoder,
        lora::{Adapter, Lora},
        precision::Precision,
        weights::{self, Weights},
    },
    other_names::OTHER_NAMES,
    random::Stream,
    rejection::as_sample,
    rl::{
        advantage::{self, Advantage},
        objective::{self, Coefficients, Objective, Tokens},
    },
    script::{Script, Use},
    text::{
        chat::Chat,
        complete::{Speaker, endless, prompt_text},
        encode,
        room::{self, LongPrompts, excerpt},
    },
    train::{
        batch::{Batch, micro_batches},
        fit::{self, epoch_batch},
        optimiser::{Optimiser, Trainer},
        schedule::{Decay, Schedule, Warmup},
        state::Saver,
    },
};

/// Reinforcement learning with verifiable rewards: group-relative policy optimisation as published.
///
/// `preset` names the paper's values; every parameter given beside it goes before it. The paper trained 671B
/// parameters for thousands of steps of 512 rollouts: a model of a few million wants a `learning_rate` of 1e-4
/// to 1e-3, `group_size` 8, and `steps_per_rollout` 1 to 4.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Grpo {
    /// A plugin whose `reward(sample)` gives a number, or a map of named parts that are added up.
    pub reward: Source,
    /// What the plugin sees as `params`.
    #[serde(default)]
    pub params: Map<String, Value>,
    /// Whose values hold where nothing else is given.
    #[serde(default)]
    pub preset: Preset,
    /// Optimiser steps.
    #[schemars(range(min = 0))]
    pub steps: Option<u64>,
    /// Prompts in a minibatch; the paper's 32.
    #[schemars(range(min = 1))]
    pub prompts_per_step: Option<usize>,
    /// Rollouts of each prompt; the paper's 16.
    #[schemars(range(min = 2))]
    pub group_size: Option<usize>,
    /// Minibatches that one rollout phase is split into; the paper's 16.
    #[schemars(range(min = 1))]
    pub steps_per_rollout: Option<u64>,
    /// The learning rate after warming up; the paper's 3e-6.
    #[schemars(range(min = 0.0))]
    pub learning_rate: Option<f32>,
    /// Weight of the KL term (paper: beta); the paper's 0.001. At zero no reference policy is kept.
    #[schemars(range(min = 0.0))]
    pub kl_coef: Option<f32>,
    /// Steps after which the policy becomes the new reference policy; the paper's 400. 0 keeps the first.
    pub reference_refresh: Option<u64>,
    /// The ratio counts from `1 - clip_low` (paper: epsilon); the paper's 10, which bounds nothing below.
    #[schemars(range(min = 0.0))]
    pub clip_low: Option<f32>,
    /// The ratio counts up to `1 + clip_high` (paper: epsilon); the paper's 10.
    #[schemars(range(min = 0.0))]
    pub clip_high: Option<f32>,
    /// Of sampling, and of every log-probability; 1 in the paper's first stage, 0.7 in its last.
    #[schemars(range(min = 0.01, max = 10.0))]
    pub temperature: Option<f32>,
    /// Tokens after which a completion is cut off; the paper's 32,768.
    #[schemars(range(min = 1))]
    pub max_new_tokens: Option<usize>,
    /// What a reward is measured against.
    #[serde(default)]
    pub advantage: Advantage,
    /// How tokens are weighed against each other.
    #[serde(default)]
    pub objective: Objective,
    /// Steps of linear warm-up; below one, a share of all steps.
    #[serde(default)]
    pub warmup: Warmup,
    /// How the learning rate falls after that.
    #[serde(default = "constant")]
    pub decay: Decay,
    /// What is left of the learning rate at the end, as a share.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub floor: f32,
    /// The optimiser: AdamW, or Muon with AdamW.
    #[serde(default = "without_decay")]
    pub optimiser: Optimiser,
    /// Learns a low-rank adapter and leaves the policy's weights as they are; without it all weights learn. The
    /// reference policy is then the same weights without the adapter where it begins here, and with a frozen copy of
    /// it where the policy came with one, or after a `reference_refresh`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(!skip_serializing_if)]
    pub lora: Option<Lora>,
    /// Texts that end a completion, beside the end-of-sequence tokens.
    #[serde(default)]
    pub stop: Vec<String>,
    /// The control that must not learn: every rollout gets the reward of another one, drawn at random.
    #[serde(default)]
    pub shuffle_rewards: bool,
    /// Stops when a larger share of a rollout phase was cut off: such a run learns nothing but brevity.
    #[serde(default = "nine_tenths")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub max_truncated: f64,
    /// Stops when the trainer's log-probability of a fresh token differs more from the sampler's; in bf16, when it differs
    /// a hundred times as much.
    #[serde(default = "tolerance")]
    #[schemars(range(min = 0.0))]
    pub logprob_tolerance: f32,
    /// What happens to a prompt that leaves no room for `max_new_tokens` in the policy's context.
    #[serde(default, skip_serializing_if = "LongPrompts::is_error")]
    #[schemars(!skip_serializing_if)]
    pub too_long: LongPrompts,
    /// How conversations are written, and what the template check lets pass.
    #[serde(default, skip_serializing_if = "Chat::is_plain")]
    #[schemars(!skip_serializing_if)]
    pub template: Chat,
}

fn constant() -> Decay {
    Decay::Constant
}

fn without_decay() -> Optimiser {
    Optimiser { beta2: 0.99, weight_decay: 0.0, ..Optimiser::default() }
}

fn nine_tenths() -> f64 {
    0.9
}

fn tolerance() -> f32 {
    1e-3
}

/// Why rollouts are neither cut nor penalised. The ratio of a token that was drawn from another distribution than it is
/// divided by says nothing, and a run would learn from it all the same.
const OWN: &str = "rollouts are drawn from the policy's very own distribution, whose probabilities the ratio compares: \
                   leave it out, and use `temperature`";

/// The parameters in force.
struct Settings {
    steps: u64,
    prompts_per_step: usize,
    group_size: usize,
    steps_per_rollout: u64,
    learning_rate: f32,
    reference_refresh: u64,
    coefficients: Coefficients,
    sampling: Sampling,
}

/// Folders of reference policies in scratch begin so; the step at which it was taken follows.
const REFERENCE: &str = "reference_";

/// What a resumed run must know beside weights and moments.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Notes {
    /// The step at which the reference policy was taken; at 0 it is the node's input.
    reference_of: u64,
    #[serde(default)]
    findings: Findings,
}

impl Stage for Grpo {
    const NAME: &'static str = "grpo";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Input] = &[
        Input { name: "policy", kinds: &["checkpoint"], arity: Arity::One, about: "Where training starts from." },
        Input { name: "prompts", kinds: &["rows"], arity: Arity::Many, about: "What is asked." },
    ];
    const OUTPUT: &'static str = "checkpoint";
    const LEFT_OUT: &'static [(&'static str, &'static str)] = &[
        ("top_k", OWN),
        ("top_p", OWN),
        ("min_p", OWN),
        ("repetition_penalty", OWN),
        ("logit_bias", OWN),
        ("sampling", "`temperature`, `max_new_tokens` and `stop` stand in the `with:` block itself"),
    ];
    const OTHER_NAMES: &'static [OtherName] = OTHER_NAMES;
    type Settings = Compute;

    fn resolve(&mut self) {
        self.fill();
        self.lora.iter_mut().for_each(Lora::resolve);
    }

    fn check(&self) -> Vec<Problem> {
        let dropout = self.lora.iter().filter(|lora| lora.dropout > 0.0).map(|_| {
            let message = "`grpo` takes no dropout: the policy that learns would not be the one that sampled";
            Problem::new("lora.dropout", message)
        });
        fit::adapter_problems(self.lora.as_ref()).chain(dropout).chain(self.template.check()).collect()
    }

    fn inspect(&self, compute: &Compute, inputs: &Prospects) -> Vec<Finding> {
        let plugin = Plugin { parameter: "reward", source: &self.reward, params: &self.params, used: Use::Reward };
        let Settings { steps, sampling, .. } = self.in_force();
        let mut found = plugin.findings(inputs, "prompts");
        if steps > 0 {
            found.extend(inspection::room("max_new_tokens", sampling.max_new_tokens, "policy", inputs));
        }
        found.extend(compute.finding(inputs));
        found
    }

    fn outline(&self, inputs: &Prospects) -> Option<Value> {
        footprint::outline(inputs, "policy")
    }

    fn footprint(&self, compute: &Compute, inputs: &Prospects) -> Option<Footprint> {
        let Settings { prompts_per_step, group_size, steps_per_rollout, coefficients, sampling, .. } = self.in_force();
        let batch = prompts_per_step * group_size;
        let most = batch * usize::try_from(steps_per_rollout).ok()?;
        let max_new_tokens = sampling.max_new_tokens;
        let questions = Questions { policy: "policy", prompts: "prompts", samples: group_size, most, max_new_tokens };
        let learner = Learner { policy: "policy", lora: self.lora.as_ref(), optimiser: &self.optimiser, batch };
        let reference = if coefficients.kl_coef > 0.0 { Reference::Kept } else { Reference::None };
        Work { inputs, compute }.reinforcing(learner, questions, reference)
    }

    fn run(&self, compute: &Compute, ctx: &Context) -> Result<()> {
        let policy = &ctx.input("policy")?.path;
        let mut checkpoint = Checkpoint::open(policy)?;
        let is_adapted = checkpoint.adapter.is_some();
        checkpoint.tokenizer = self.template.apply(checkpoint.tokenizer, ctx)?;
        checkpoint.adopt(self.lora.as_ref(), ctx.seed("adapter"))?;
        let mut prompts = rows::read_all(ctx.inputs("prompts"))?;
        ensure!(!prompts.is_empty(), "there are no prompts");
        let settings = self.in_force();
        let mut encoded = encode::prompts(&checkpoint.tokenizer, &prompts)?;
        let most = settings.sampling.max_new_tokens;
        let fits = self.too_long.fitting(&encoded, &prompts, most, &checkpoint.config)?;
        room::retain(&mut prompts, &fits);
        room::retain(&mut encoded, &fits);
        if prompts.len() < fits.len() {
            ctx.record(0, &[("dropped_too_long", (fits.len() - prompts.len()) as f64)])?;
        }
        self.warn_at_the_start(&settings, &checkpoint, ctx)?;
        let decoder = checkpoint.to_device(&compute.place()?)?;
        let mut training = Training {
            stage: self,
            script: Script::open_in(ctx, &self.reward, &self.params)?,
            encoded,
            texts: prompts.iter().map(prompt_text).collect(),
            prompts,
            // The policy as it comes in: a new adapter adds nothing yet, one that it brought is part of it.
            reference: (settings.coefficients.kl_coef > 0.0)
                .then(|| if is_adapted { decoder.clone() } else { decoder.base() }.settled()),
            settings,
            trainer: Trainer::new(decoder, self.optimiser),
            saver: Saver::new(ctx.scratch(), compute.save_every()),
            notes: Notes::default(),
            checkpoint: &checkpoint,
            compute,
            ctx,
        };
        training.resume()?;
        while training.trainer.steps < training.settings.steps {
            training.phase()?;
        }
        for text in training.told(Findings::sentences) {
            ctx.warn(training.trainer.steps, &text)?;
        }
        let Training { trainer: Trainer { decoder, memory, .. }, reference, .. } = training;
        drop((memory, reference));
        checkpoint.take(decoder)?;
        checkpoint.save_trained(policy, ctx.output())
    }
}

impl Grpo {
    /// Warns of what can be known before the first step.
    fn warn_at_the_start(&self, settings: &Settings, checkpoint: &Checkpoint, ctx: &Context) -> Result<()> {
        if settings.steps == 0 {
            ctx.warn(0, "`steps` is 0: the policy comes out as it came in")?;
        } else if settings.learning_rate == 0.0 {
            ctx.warn(0, "`learning_rate` is 0: the policy comes out as it came in")?;
        }
        match endless(&checkpoint.tokenizer, &self.stop, &settings.sampling.stop_ids) {
            Some(warning) => ctx.warn(0, &warning),
            None => Ok(()),
        }
    }
}

struct Training<'a> {
    stage: &'a Grpo,
    settings: Settings,
    script: Script,
    prompts: Vec<Row>,
    encoded: Vec<Vec<u32>>,
    texts: Vec<String>,
    /// None where the KL term has no weight.
    reference: Option<Decoder>,
    trainer: Trainer,
    saver: Saver,
    notes: Notes,
    checkpoint: &'a Checkpoint,
    compute: &'a Compute,
    ctx: &'a Context,
}

impl Training<'_> {
    /// One rollout phase: sample, score, compare, then one step for every minibatch.
    fn phase(&mut self) -> Result<()> {
        let Settings { steps, prompts_per_step, group_size, steps_per_rollout, .. } = self.settings;
        let started = Instant::now();
        let phase = self.trainer.steps / steps_per_rollout;
        let minibatches = steps_per_rollout.min(steps - self.trainer.steps);
        let asked = prompts_per_step * usize::try_from(minibatches)?;
        let picked = epoch_batch(self.ctx.seed("prompts"), self.prompts.len(), asked, phase);
        let mut rollouts = match self.sample(&picked, phase) {
            Err(error) if error.is::<Cancelled>() => {
                self.save()?;
                return Err(error);
            }
            sampled => sampled?,
        };
        let sampled_s = started.elapsed().as_secs_f64();
        self.score(&mut rollouts)?;
        if self.stage.shuffle_rewards {
            let mut rewards: Vec<f32> = rollouts.iter().map(|rollout| rollout.reward).collect();
            Stream::new(&[self.ctx.seed("shuffle"), phase]).shuffle(&mut rewards);
            rollouts.iter_mut().zip(rewards).for_each(|(rollout, reward)| rollout.reward = reward);
        }
        let mut dead = 0;
        for group in rollouts.chunks_mut(group_size) {
            let rewards: Vec<f32> = group.iter().map(|rollout| rollout.reward).collect();
            dead += usize::from(advantage::is_dead(&rewards));
            let advantages = self.stage.advantage.of_group(&rewards);
            group.iter_mut().zip(advantages).for_each(|(rollout, advantage)| rollout.advantage = advantage);
        }
        self.refuse_truncation(&rollouts)?;
        let first = self.trainer.steps + 1;
        self.notes.findings.phase((first, first + minibatches - 1), &rollouts, dead == asked);
        let about = rollout::summary(&rollouts, dead as f64 / asked as f64);
        self.show(&rollouts[..group_size])?;

        let mut order: Vec<usize> = (0..rollouts.len()).collect();
        Stream::new(&[self.ctx.seed("minibatches"), phase]).shuffle(&mut order);
        for (i, minibatch) in order.chunks(prompts_per_step * group_size).enumerate() {
            let minibatch: Vec<&Rollout> = minibatch.iter().map(|at| &rollouts[*at]).collect();
            let clock = Instant::now();
            let mut metrics = about.clone();
            let figures = self.step(&minibatch, i == 0)?;
            let trained: usize = minibatch.iter().map(|rollout| rollout.ids.len()).sum();
            let seconds = clock.elapsed().as_secs_f64() + sampled_s / minibatches as f64;
            let vocabulary = self.checkpoint.config.vocab_size;
            self.notes.findings.step(self.trainer.steps, figures["entropy"], figures["kl"], vocabulary);
            metrics.extend(figures);
            metrics.insert("tokens_per_s".into(), trained as f64 / seconds);
            metrics.insert("sampling_share".into(), sampled_s / minibatches as f64 / seconds);
            let message = format!(
                "reward {:.3} · length {:.0} · dead {:.0} % · kl {:.4}",
                metrics["reward"],
                metrics["length"],
                metrics["dead_groups"] * 100.0,
                metrics["kl"]
            );
            let metrics: Vec<(&str, f64)> = metrics.iter().map(|(name, value)| (name.as_str(), *value)).collect();
            self.ctx.record(self.trainer.steps, &metrics)?;
            self.ctx.progress(self.trainer.steps, steps, message);
            self.refresh_reference()?;
        }
        let mut findings = std::mem::take(&mut self.notes.findings);
        let news = self.told_of(|run| findings.news(run));
        self.notes.findings = findings;
        for text in &news {
            self.ctx.notice(text);
        }
        // Only between phases: the rollouts of a phase belong to a policy that a later step has left behind.
        if self.ctx.cancelled() {
            self.save()?;
            return Err(Cancelled.into());
        }
        if self.saver.is_due() {
            self.save()?;
        }
        Ok(())
    }

    /// What there is to say of the findings so far.
    fn told(&self, tell: impl FnOnce(&Findings, &Run) -> Vec<String>) -> Vec<String> {
        self.told_of(|run| tell(&self.notes.findings, run))
    }

    fn told_of(&self, tell: impl FnOnce(&Run) -> Vec<String>) -> Vec<String> {
        let path = &self.stage.reward.0;
        let text = std::fs::read_to_string(self.ctx.root().join(path)).unwrap_or_default();
        tell(&Run {
            max_new_tokens: self.settings.sampling.max_new_tokens,
            vocabulary: self.checkpoint.config.vocab_size,
            has_kl_term: self.reference.is_some(),
            token: &|id| self.checkpoint.tokenizer.decode(&[id]).unwrap_or_default(),
            script: (&path.display().to_string(), &text),
        })
    }

    /// Continues the picked prompts from the policy as it is; groups lie one after another.
    fn sample(&self, picked: &[usize], phase: u64) -> Result<Vec<Rollout>> {
        let decoder = self.trainer.decoder.clone().settled();
        let speaker = Speaker {
            decoder: &decoder,
            tokenizer: &self.checkpoint.tokenizer,
            sampling: &self.settings.sampling,
            stop: &self.stage.stop,
            slots: self.compute.slots,
        };
        let asked: Vec<(u64, &[u32])> = (0..).zip(picked).map(|(i, row)| (i, self.encoded[*row].as_slice())).collect();
        let seed = [self.ctx.seed("sampling"), phase];
        let groups = speaker.complete(&asked, self.settings.group_size, &seed, |_| !self.ctx.cancelled())?;
        let rollouts = picked.iter().zip(groups).flat_map(|(row, group)| {
            group
                .into_iter()
                .enumerate()
                .map(|(index, completed)| Rollout::new(*row, index, &self.encoded[*row], completed))
        });
        Ok(rollouts.collect())
    }

    fn score(&self, rollouts: &mut [Rollout]) -> Result<()> {
        let samples: Vec<_> = rollouts
            .iter()
            .map(|rollout| {
                as_sample(&self.prompts[rollout.row], &self.texts[rollout.row], &rollout.completed, rollout.index)
            })
            .collect();
        let rewards = self.script.rewards("reward", &samples)?;
        for (rollout, reward) in rollouts.iter_mut().zip(rewards) {
            rollout.reward = reward.total;
            rollout.parts = reward.parts;
        }
        Ok(())
    }

    /// One optimiser step. `is_fresh`: the policy is still the one that sampled.
    fn step(&mut self, minibatch: &[&Rollout], is_fresh: bool) -> Result<BTreeMap<String, f64>> {
        let Settings { coefficients, sampling, .. } = &self.settings;
        let (coefficients, temperature) = (*coefficients, sampling.temperature);
        let lengths: Vec<usize> = minibatch.iter().map(|rollout| rollout.completed.tokens.len()).collect();
        let total: usize = lengths.iter().sum();
        let weights = self.stage.objective.token_weights(&lengths, sampling.max_new_tokens);
        let sizes: Vec<usize> = minibatch.iter().map(|rollout| rollout.ids.len()).collect();
        let mut accumulated = self.trainer.begin(self.compute.activations);
        let (mut loss, mut kl, mut clipped, mut entropy, mut difference) = (0.0, 0.0, 0, 0.0, 0.0_f32);
        for run in micro_batches(&sizes, self.compute.micro_batch_tokens) {
            let rollouts = &minibatch[run.clone()];
            let batch = Batch::new(rollouts.iter().map(|rollout| (&rollout.ids[..], &rollout.is_completion[..])));
            let mut tokens = Tokens::default();
            for (rollout, weight) in rollouts.iter().zip(&weights[run]) {
                let length = rollout.completed.tokens.len();
                tokens.old.extend(&rollout.completed.logprobs);
                tokens.advantages.extend(std::iter::repeat_n(rollout.advantage, length));
                tokens.weights.extend(std::iter::repeat_n(*weight, length));
            }
            if let Some(reference) = &self.reference {
                let logprobs = batch.logprobs(reference, temperature);
                tokens.reference = logprobs.into_data().try_to_vec().expect("log-probabilities are f32");
            }
            let (logprobs, entropies) = batch.logprobs_and_entropy(&accumulated.tracked, temperature);
            let evaluated = objective::evaluate(logprobs, &tokens, coefficients);
            if is_fresh {
                difference = difference.max(self.compare(&evaluated.logprobs, rollouts)?);
            }
            loss += f64::from(evaluated.loss.clone().without_autodiff().into_scalar::<f32>());
            kl += evaluated.kl;
            clipped += evaluated.clipped;
            entropy += f64::from(entropies.sum().into_scalar::<f32>());
            accumulated.backward(&evaluated.loss);
        }
        ensure!(
            loss.is_finite(),
            "the loss of step {} is {loss}: a lower `learning_rate` is the usual mend",
            self.trainer.steps + 1
        );
        let learning_rate = Schedule {
            peak: self.settings.learning_rate,
            warmup: self.stage.warmup.of(self.settings.steps),
            steps: self.settings.steps,
            decay: self.stage.decay,
            floor: self.stage.floor,
        }
        .at(self.trainer.steps);
        let stepped = self.trainer.step(accumulated, learning_rate)?;
        let total = total as f64;
        let mut figures = BTreeMap::from([
            ("loss".to_owned(), loss),
            ("kl".to_owned(), kl / total),
            ("clip_fraction".to_owned(), clipped as f64 / total),
            ("entropy".to_owned(), entropy / total),
            ("gradient_norm".to_owned(), stepped.gradient_norm),
            ("learning_rate".to_owned(), f64::from(learning_rate)),
        ]);
        if is_fresh {
            figures.insert("logprob_difference".into(), f64::from(difference));
        }
        Ok(figures)
    }

    /// Are the trainer's log-probabilities of fresh samples the sampler's? The largest difference.
    fn compare(&self, trainer: &[f32], rollouts: &[&Rollout]) -> Result<f32> {
        let tolerance = match self.trainer.decoder.precision() {
            Precision::F32 => self.stage.logprob_tolerance,
            Precision::Bf16 => 100.0 * self.stage.logprob_tolerance,
        };
        let mut most = 0.0_f32;
        let mut tokens = trainer.iter();
        for rollout in rollouts {
            for (at, sampler) in rollout.completed.logprobs.iter().enumerate() {
                let trainer = tokens.next().expect("one log-probability a completion token");
                let difference = (trainer - sampler).abs();
                if difference.is_nan() || difference > tolerance {
                    bail!(
                        "token {} of a fresh completion of prompt {} has log-probability {trainer} in the trainer and {sampler} \
                         in the sampler, further apart than the {tolerance} that `logprob_tolerance` allows: the rollouts are not the \
                         policy's own",
                        at + 1,
                        rollout.row + 1,
                    );
                }
                most = most.max(difference);
            }
        }
        Ok(most)
    }

    fn refuse_truncation(&self, rollouts: &[Rollout]) -> Result<()> {
        let cut = rollouts.iter().filter(|rollout| rollout.completed.truncated()).count();
        let share = cut as f64 / rollouts.len() as f64;
        let example = rollouts.iter().find(|rollout| rollout.completed.truncated());
        let example = example.map(|rollout| {
            let (prompt, text) = (&self.texts[rollout.row], &rollout.completed.text);
            format!("\nprompt: {}\ncompletion: {}", excerpt(prompt), excerpt(text))
        });
        ensure!(
            share <= self.stage.max_truncated,
            "{cut} of {} completions of step {} were cut off at `max_new_tokens: {}`, a larger share than `max_truncated: {}`; \
             give them more tokens, or raise `max_truncated` where that is meant{}",
            rollouts.len(),
            self.trainer.steps + 1,
            self.settings.sampling.max_new_tokens,
            self.stage.max_truncated,
            example.unwrap_or_default()
        );
        Ok(())
    }

    /// Writes one group down, to be read by people.
    fn show(&self, group: &[Rollout]) -> Result<()> {
        for rollout in group {
            let mut sample = Map::new();
            sample.insert("prompt".into(), json!(self.texts[rollout.row]));
            sample.insert("completion".into(), json!(rollout.completed.text));
            sample.insert("reward".into(), json!(rollout.reward));
            sample.insert("parts".into(), json!(rollout.parts));
            sample.insert("advantage".into(), json!(rollout.advantage));
            sample.insert("truncated".into(), json!(rollout.completed.truncated()));
            self.ctx.sample(self.trainer.steps + 1, sample)?;
        }
        Ok(())
    }

    /// Makes the policy its own reference now and then (DeepSeek-R1: every 400 steps).
    fn refresh_reference(&mut self) -> Result<()> {
        let every = self.settings.reference_refresh;
        if every == 0 || self.settings.coefficients.kl_coef == 0.0 || !self.trainer.steps.is_multiple_of(every) {
            return Ok(());
        }
        let step = self.trainer.steps;
        let folder = self.reference_folder(step);
        std::fs::create_dir_all(&folder)?;
        let decoder = &self.trainer.decoder;
        // What learns is built anew: sharing the trainer's buffers would make every update copy them.
        if let Some(adapter) = decoder.adapter()? {
            adapter::write(&folder, &adapter)?;
            self.reference = Some(with_adapter(decoder, &adapter)?);
        } else {
            let weights = decoder.weights()?;
            weights::write(&folder, &self.checkpoint.config, &weights, weights::Dtype::F32)?;
            self.reference = Some(beside(decoder, weights)?);
        }
        self.notes.reference_of = step;
        Ok(())
    }

    fn reference_folder(&self, step: u64) -> PathBuf {
        self.ctx.scratch().join(format!("{REFERENCE}{step}"))
    }

    /// Saves, and drops the references that nothing saved names any longer.
    fn save(&mut self) -> Result<()> {
        self.saver.save(&self.trainer, &self.notes)?;
        let current = self.reference_folder(self.notes.reference_of);
        for entry in std::fs::read_dir(self.ctx.scratch())? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(REFERENCE) && entry.path() != current {
                std::fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }

    fn resume(&mut self) -> Result<()> {
        if let Some(notes) = self.saver.resume::<Notes>(&mut self.trainer)? {
            self.notes = notes;
            if self.notes.reference_of > 0 {
                let folder = self.reference_folder(self.notes.reference_of);
                let (decoder, config) = (&self.trainer.decoder, &self.checkpoint.config);
                self.reference = Some(if decoder.lora().is_some() {
                    with_adapter(decoder, &adapter::read(&folder, config)?)?
                } else {
                    beside(decoder, weights::read(&folder, config)?)?
                });
            }
        }
        self.ctx.rewind(self.trainer.steps)
    }
}

/// The base of this policy with another adapter, to score with.
fn with_adapter(policy: &Decoder, adapter: &Adapter) -> Result<Decoder> {
    let mut other = policy.clone();
    other.adapt(adapter)?;
    Ok(other.settled())
}

/// Other weights where this policy is, to score with.
fn beside(policy: &Decoder, weights: Weights) -> Result<Decoder> {
    Decoder::settling(&policy.config, weights, &policy.device(), policy.precision())
}

#[cfg(test)]
mod tests;
