//! Supervised learning, as pretraining, fine-tuning and distillation share it: the mean log-likelihood
//! of marked tokens, one optimiser step a batch, saved now and then.
//! Knows nothing of where examples come from.

use std::{borrow::Cow, time::Instant};

use anyhow::{Result, ensure};
use engine::{Cancelled, Context};
use serde::{Deserialize, Serialize};

use crate::{
    data::checkpoint::Checkpoint,
    device::Compute,
    nn::decoder::Decoder,
    text::encode::Example,
    train::{
        batch::{Batch, micro_batches},
        optimiser::{AdamW, Trainer},
        schedule::Schedule,
        state::Saver,
    },
};

/// What to learn, and for how long.
pub struct Lesson<'a> {
    pub schedule: Schedule,
    pub optimiser: AdamW,
    /// The examples of a step, counted from zero: a function of the step alone, so that resuming needs no more.
    pub batch: &'a dyn Fn(u64) -> Vec<Cow<'a, Example>>,
    /// Held-out examples, and after how many steps to look at them (0: only before the first and after the last).
    pub validation: Option<(&'a [Example], u64)>,
    /// What is known before the first step, recorded as step 0.
    pub about: Vec<(&'static str, f64)>,
}

/// What a resumed run must still know beside weights and moments.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Notes {}

/// Trains a checkpoint's weights, or its adapter where it carries one. Records `loss`, `learning_rate`, `gradient_norm` and `tokens_per_s` a step, and
/// `validation_loss` where it looked.
///
/// # Errors
/// [`Cancelled`] after saving; a loss or gradient that is not finite; a sequence longer than the context.
pub fn fit(mut checkpoint: Checkpoint, lesson: &Lesson, compute: &Compute, ctx: &Context) -> Result<Checkpoint> {
    let decoder = checkpoint.to_device(&compute.device()?)?;
    let mut trainer = Trainer::new(decoder, lesson.optimiser);
    trainer.dropout = Some(ctx.seed("dropout"));
    let mut saver = Saver::new(ctx.scratch(), compute.save_every());
    saver.resume::<Notes>(&mut trainer)?;
    if trainer.steps == 0 {
        let mut about = lesson.about.clone();
        if let Some((held_out, _)) = lesson.validation {
            about.push(("validation_loss", mean_loss(&trainer.decoder, held_out, compute.micro_batch_tokens)?));
        }
        if !about.is_empty() {
            ctx.record(0, &about)?;
        }
    }
    ctx.rewind(trainer.steps)?;
    let total = lesson.schedule.steps;
    while trainer.steps < total {
        if ctx.cancelled() {
            saver.save(&trainer, &Notes {})?;
            return Err(Cancelled.into());
        }
        let started = Instant::now();
        let step = trainer.steps;
        let learning_rate = lesson.schedule.at(step);
        let examples = (lesson.batch)(step);
        let mut accumulated = trainer.begin();
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
        let mut metrics = vec![
            ("loss", loss),
            ("learning_rate", f64::from(learning_rate)),
            ("gradient_norm", stepped.gradient_norm),
            ("tokens_per_s", tokens_per_s),
        ];
        let mut message = format!("loss {loss:.3} · {:.1}k tok/s", tokens_per_s / 1000.0);
        if let Some((held_out, every)) = lesson.validation
            && (trainer.steps == total || (every > 0 && trainer.steps.is_multiple_of(every)))
        {
            let validation = mean_loss(&trainer.decoder, held_out, compute.micro_batch_tokens)?;
            metrics.push(("validation_loss", validation));
            message = format!("{message} · validation {validation:.3}");
        }
        ctx.record(trainer.steps, &metrics)?;
        ctx.progress(trainer.steps, total, message);
        if saver.is_due() {
            saver.save(&trainer, &Notes {})?;
        }
    }
    let Trainer { decoder, moments, .. } = trainer;
    drop(moments);
    checkpoint.take(decoder)?;
    Ok(checkpoint)
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
        decoder.config.check_length(length.saturating_sub(1), &format!("example {} of the batch", i + 1))?;
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
    fn an_epoch_takes_every_example_once() {
        let mut seen: Vec<usize> = (0..5).flat_map(|step| epoch_batch(3, 10, 4, step)).collect();
        let second = seen.split_off(10);
        for mut epoch in [seen, second] {
            epoch.sort_unstable();
            assert_eq!(epoch, (0..10).collect::<Vec<_>>());
        }
    }
}
