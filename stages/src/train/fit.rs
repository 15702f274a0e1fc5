//! Supervised learning, as pretraining, fine-tuning and distillation share it: the mean log-likelihood
//! of marked tokens, one optimiser step a batch, saved now and then.
//! Knows nothing of where examples come from.

use std::{borrow::Cow, time::Instant};

use anyhow::{Result, anyhow, ensure};
use engine::{Cancelled, Context, Problem};

use crate::{
    data::checkpoint::Checkpoint,
    device::Compute,
    nn::{decoder::Decoder, lora::Lora},
    text::encode::Example,
    train::{
        batch::{Batch, micro_batches},
        best::{Keep, Look, Patience, Standing},
        optimiser::{Optimiser, Trainer},
        schedule::Schedule,
        state::Saver,
    },
};

/// What to learn, and for how long.
pub struct Lesson<'a> {
    pub schedule: Schedule,
    pub optimiser: Optimiser,
    /// The examples of a step, counted from zero: a function of the step alone, so that resuming needs no more.
    pub batch: &'a dyn Fn(u64) -> Vec<Cow<'a, Example>>,
    pub validation: Option<Validation<'a>>,
    /// What is known before the first step, recorded as step 0.
    pub about: Vec<(&'static str, f64)>,
}

/// Held-out examples, and what their loss decides.
#[derive(Debug, Clone, Copy)]
pub struct Validation<'a> {
    pub examples: &'a [Example],
    /// Steps between two looks at them; 0 looks only before the first step and after the last.
    pub every: u64,
    pub patience: Option<Patience>,
    pub keep: Keep,
}

impl<'a> Validation<'a> {
    /// `None` where there are no examples.
    ///
    /// # Errors
    /// When there are none and something is to be decided by them.
    pub fn new(examples: &'a [Example], every: u64, patience: Option<Patience>, keep: Keep) -> Result<Option<Self>> {
        if examples.is_empty() {
            let wants = "is decided by the validation loss: give the node rows in `validation`";
            ensure!(patience.is_none(), "`patience` {wants}");
            ensure!(keep == Keep::Last, "`keep: best` {wants}");
            return Ok(None);
        }
        Ok(Some(Self { examples, every, patience, keep }))
    }

    fn is_due(&self, step: u64, total: u64) -> bool {
        step == total || (self.every > 0 && step.is_multiple_of(self.every))
    }

    /// Measures the loss and takes it into account.
    fn look(&self, trainer: &Trainer, standing: &mut Standing, saver: &Saver, compute: &Compute) -> Result<f64> {
        let loss = mean_loss(&trainer.decoder, self.examples, compute.micro_batch_tokens)?;
        ensure!(loss.is_finite(), "the validation loss after step {} is {loss}", trainer.steps);
        if standing.take(Look { step: trainer.steps, loss }, self.patience) && self.keep == Keep::Best {
            saver.keep_best(trainer)?;
        }
        Ok(loss)
    }
}

/// Patience that no look between steps could ever exhaust, and a measure of what there is no patience for.
#[must_use]
pub fn patience_problem(patience: Option<u64>, min_delta: f64, every: u64) -> Option<Problem> {
    let problem = |parameter: &str, message: &str, hint: &str| Problem {
        parameter: parameter.into(),
        message: message.into(),
        hint: Some(hint.into()),
    };
    match patience {
        Some(_) if every == 0 => Some(problem(
            "patience",
            "`patience` counts looks at `validation`, and there are none between steps",
            "say how often to look with `validate_every`",
        )),
        None if min_delta > 0.0 => Some(problem(
            "min_delta",
            "`min_delta` says which looks exhaust `patience`, and there is none",
            "say after how many such looks to stop with `patience`",
        )),
        _ => None,
    }
}

/// By how much a loss must fall where nothing is said: skipped in facts, which are older than the word.
#[must_use]
pub fn is_any(min_delta: &f64) -> bool {
    *min_delta == 0.0
}

/// What is wrong with an adapter that is to be trained.
pub fn adapter_problems(lora: Option<&Lora>) -> impl Iterator<Item = Problem> {
    let found = lora.into_iter().flat_map(Lora::problems);
    found.map(|(parameter, message)| Problem::new(parameter, message).below("lora"))
}

/// Trains a checkpoint's weights, or its adapter where it carries one. Records `loss`, `learning_rate`, `gradient_norm`
/// and `tokens_per_s` a step, and `validation_loss` where it looked; at the end `stopped_early` where patience ran out, and `kept_step` where the best
/// weights are kept.
///
/// # Errors
/// [`Cancelled`] after saving; a loss or gradient that is not finite; a sequence longer than the context.
pub fn fit(mut checkpoint: Checkpoint, lesson: &Lesson, compute: &Compute, ctx: &Context) -> Result<Checkpoint> {
    let decoder = checkpoint.to_device(&compute.place()?)?;
    let mut trainer = Trainer::new(decoder, lesson.optimiser);
    trainer.dropout = Some(ctx.seed("dropout"));
    let mut saver = Saver::new(ctx.scratch(), compute.save_every());
    let mut standing: Standing = saver.resume(&mut trainer)?.unwrap_or_default();
    if trainer.steps == 0 {
        standing = Standing::default();
        let mut about = lesson.about.clone();
        if let Some(validation) = &lesson.validation {
            about.push(("validation_loss", validation.look(&trainer, &mut standing, &saver, compute)?));
        }
        if !about.is_empty() {
            ctx.record(0, &about)?;
        }
    }
    ctx.rewind(trainer.steps)?;
    let total = lesson.schedule.steps;
    if total == 0 {
        ctx.warn(0, "there is no step to take: the policy comes out as it came in")?;
    } else if lesson.schedule.peak == 0.0 {
        ctx.warn(0, "`learning_rate` is 0: the policy comes out as it came in")?;
    }
    let patience = lesson.validation.and_then(|validation| validation.patience);
    let mut last = None;
    while trainer.steps < total && !standing.is_out_of(patience) {
        if ctx.cancelled() {
            save(&mut saver, &trainer, &standing)?;
            return Err(Cancelled.into());
        }
        let mut stepped = step(&mut trainer, lesson, compute)?;
        last = Some((stepped.loss, stepped.gradient_norm));
        if let Some(validation) = lesson.validation.filter(|validation| validation.is_due(trainer.steps, total)) {
            let loss = validation.look(&trainer, &mut standing, &saver, compute)?;
            stepped.metrics.push(("validation_loss", loss));
            stepped.message = format!("{} · validation {loss:.3}", stepped.message);
            let is_out = standing.is_out_of(patience) && trainer.steps < total;
            if is_out {
                stepped.metrics.push(("stopped_early", 1.0));
            }
            if let (true, Keep::Best, Some(best)) = (is_out || trainer.steps == total, validation.keep, standing.best) {
                stepped.metrics.push(("kept_step", best.step as f64));
            }
        }
        ctx.record(trainer.steps, &stepped.metrics)?;
        ctx.progress(trainer.steps, total, stepped.message);
        if saver.is_due() {
            save(&mut saver, &trainer, &standing)?;
        }
    }
    let vocabulary = trainer.decoder.config.vocab_size;
    if let Some(warning) = last.and_then(|(loss, gradient_norm)| broken(loss, gradient_norm, vocabulary)) {
        ctx.warn(trainer.steps, &warning)?;
    }
    if let (Some(Keep::Best), Some(best)) = (lesson.validation.map(|validation| validation.keep), standing.best)
        && best.step != trainer.steps
    {
        saver.take_best(best.step, &mut trainer.decoder)?;
    }
    let Trainer { decoder, memory, .. } = trainer;
    drop(memory);
    checkpoint.take(decoder)?;
    Ok(checkpoint)
}

/// That a policy has learned to be wrong, or learns no more, if its last step says so.
fn broken(loss: f64, gradient_norm: f64, vocabulary: usize) -> Option<String> {
    /// By how much a loss may be above that of even draws: a few steps of a policy that knows nothing yet end there.
    const MARGIN: f64 = 1.2;
    if gradient_norm == 0.0 {
        return Some("the gradient of the last step is 0: the policy learns no more".to_owned());
    }
    let even = (vocabulary as f64).ln();
    (loss > MARGIN * even).then(|| {
        format!(
            "the loss of the last step is {loss:.2} nats a token, where all {vocabulary} tokens drawn evenly have {even:.2}: a \
             lower `learning_rate` is the usual mend"
        )
    })
}

/// What a step is recorded as, and what whoever watches is told.
struct Step {
    loss: f64,
    gradient_norm: f64,
    metrics: Vec<(&'static str, f64)>,
    message: String,
}

fn step(trainer: &mut Trainer, lesson: &Lesson, compute: &Compute) -> Result<Step> {
    let started = Instant::now();
    let step = trainer.steps;
    let learning_rate = lesson.schedule.at(step);
    let examples = (lesson.batch)(step);
    let mut accumulated = trainer.begin(compute.activations);
    let batches = batches(&trainer.decoder, &examples, compute.micro_batch_tokens)?;
    let (targets, tokens) = batches
        .iter()
        .fold((0, 0), |(targets, tokens), batch: &Batch| (targets + batch.targets(), tokens + batch.tokens()));
    ensure!(targets > 0, "no token of step {}'s batch is a target of the loss", step + 1);
    let mut loss = 0.0;
    for batch in batches.iter().filter(|batch| batch.targets() > 0) {
        // Divided by the whole step's count, known beforehand: micro-batches of any size add up to the same.
        let part = batch.logprobs(&accumulated.tracked, 1.0).sum() / -(targets as f32);
        loss += f64::from(part.clone().without_autodiff().into_scalar::<f32>());
        accumulated.backward(&part);
    }
    ensure!(loss.is_finite(), "the loss of step {} is {loss}: a lower learning rate is the usual mend", step + 1);
    let stepped = trainer.step(accumulated, learning_rate)?;
    let tokens_per_s = tokens as f64 / started.elapsed().as_secs_f64();
    Ok(Step {
        loss,
        gradient_norm: stepped.gradient_norm,
        metrics: vec![
            ("loss", loss),
            ("learning_rate", f64::from(learning_rate)),
            ("gradient_norm", stepped.gradient_norm),
            ("tokens_per_s", tokens_per_s),
        ],
        message: format!("loss {loss:.3} · {:.1}k tok/s", tokens_per_s / 1000.0),
    })
}

/// Saves, and drops the best weights that nothing saved names any longer.
fn save(saver: &mut Saver, trainer: &Trainer, standing: &Standing) -> Result<()> {
    saver.save(trainer, standing)?;
    saver.keep_only_best(standing.best.map(|best| best.step))
}

/// Mean negative log-likelihood of the marked tokens, in nats.
///
/// # Errors
/// When a sequence is longer than the model's context, or nothing is marked.
pub fn mean_loss(decoder: &Decoder, examples: &[Example], micro_batch_tokens: usize) -> Result<f64> {
    let (mut sum, mut count) = (0.0, 0);
    let examples: Vec<_> = examples.iter().map(Cow::Borrowed).collect();
    for batch in batches(decoder, &examples, micro_batch_tokens)? {
        count += batch.targets();
        if batch.targets() > 0 {
            sum -= f64::from(batch.logprobs(decoder, 1.0).sum().into_scalar::<f32>());
        }
    }
    ensure!(count > 0, "no token is a target of the loss");
    Ok(sum / count as f64)
}

fn batches(decoder: &Decoder, examples: &[Cow<Example>], micro_batch_tokens: usize) -> Result<Vec<Batch>> {
    let lengths: Vec<usize> = examples.iter().map(|example| example.ids.len()).collect();
    for (i, length) in lengths.iter().enumerate() {
        // Fine-tuning has refused longer rows by their numbers.
        let checked = decoder.config.check_length(length.saturating_sub(1), &format!("example {} of the batch", i + 1));
        checked.map_err(|error| {
            anyhow!(
                "{error}\nhint: `packing: best_fit` splits longer documents, `windows: random` cuts sequences of `block` \
                 tokens out of all text"
            )
        })?;
    }
    let batch = |run: std::ops::Range<usize>| {
        Batch::new(examples[run].iter().map(|example| (example.ids.as_slice(), example.trained.as_slice())))
    };
    Ok(micro_batches(&lengths, micro_batch_tokens).into_iter().map(batch).collect())
}

/// Which examples an epoch's step takes: a permutation of all, anew every epoch, without gaps or repeats.
#[must_use]
pub fn epoch_batch(seed: u64, examples: usize, batch: usize, step: u64) -> Vec<usize> {
    let first = usize::try_from(step).expect("steps fit memory") * batch;
    let mut picked = Vec::with_capacity(batch);
    let mut order: Option<(usize, Vec<usize>)> = None;
    for at in first..first + batch {
        let epoch = at / examples;
        if order.as_ref().is_none_or(|(of, _)| *of != epoch) {
            let mut shuffled: Vec<usize> = (0..examples).collect();
            crate::random::Stream::new(&[seed, epoch as u64]).shuffle(&mut shuffled);
            order = Some((epoch, shuffled));
        }
        let (_, order) = order.as_ref().expect("set above");
        picked.push(order[at % examples]);
    }
    picked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_last_step_that_is_broken_is_warned_of() {
        // ln 20 is 2.996.
        assert_eq!(broken(3.1, 0.5, 20), None);
        assert!(
            broken(48.0, 0.5, 20).unwrap().starts_with("the loss of the last step is 48.00 nats a token, where all 20")
        );
        assert_eq!(broken(3.0, 0.0, 20).unwrap(), "the gradient of the last step is 0: the policy learns no more");
    }

    #[test]
    fn an_epoch_takes_every_example_once() {
        let mut seen: Vec<usize> = (0..5).flat_map(|step| epoch_batch(3, 10, 4, step)).collect();
        let second = seen.split_off(10);
        for mut epoch in [seen, second] {
            epoch.sort_unstable();
            assert_eq!(epoch, (0..10).collect::<Vec<_>>());
        }
    }
}
