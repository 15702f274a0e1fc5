//! Chance for plugins: the `rng` object, all of it decided by its seed.
//! Knows nothing of who asks.

use std::sync::{Arc, Mutex};

use rhai::{Array, Dynamic, EvalAltResult, Module, export_module, exported_module};

use crate::random::Stream;

/// A stream of numbers. Copies share it: a function that is handed `rng` moves it on for its caller.
#[derive(Debug, Clone)]
pub struct Rng(Arc<Mutex<Stream>>);

impl Rng {
    pub(super) fn new(key: &[u64]) -> Self {
        Self(Arc::new(Mutex::new(Stream::new(key))))
    }

    fn below(&self, end: usize) -> usize {
        self.0.lock().expect("no holder of this lock panics").below(end)
    }

    /// In `[0, 1)`, on the grid of 2^-53.
    fn unit(&self) -> f64 {
        let bits = self.0.lock().expect("no holder of this lock panics").bits();
        (bits >> 11) as f64 / (1u64 << 53) as f64
    }
}

pub(super) fn module() -> Module {
    let mut module = exported_module!(draws);
    module.set_custom_type::<Rng>("rng");
    module
}

#[export_module]
mod draws {
    /// A whole number from `low` to `high`, both included.
    #[rhai_fn(return_raw)]
    pub fn int(rng: &mut Rng, low: i64, high: i64) -> Result<i64, Box<EvalAltResult>> {
        if low > high {
            return Err(format!("rng.int({low}, {high}): there is no number from {low} to {high}").into());
        }
        let span = usize::try_from(i128::from(high) - i128::from(low) + 1);
        let Ok(span) = span else { return Err(format!("rng.int({low}, {high}): the range is too wide").into()) };
        let step = i64::try_from(i128::from(low) + rng.below(span) as i128);
        Ok(step.expect("at most `high`"))
    }

    /// A number from zero up to, but not including, one.
    pub fn float(rng: &mut Rng) -> f64 {
        rng.unit()
    }

    /// `true` with this probability.
    #[rhai_fn(return_raw)]
    pub fn chance(rng: &mut Rng, probability: f64) -> Result<bool, Box<EvalAltResult>> {
        if !(0.0..=1.0).contains(&probability) {
            return Err(format!("rng.chance({probability}): a probability lies from 0 to 1").into());
        }
        Ok(rng.unit() < probability)
    }

    /// One of the items, each as likely.
    #[rhai_fn(return_raw)]
    pub fn pick(rng: &mut Rng, items: Array) -> Result<Dynamic, Box<EvalAltResult>> {
        if items.is_empty() {
            return Err("rng.pick([]): there is nothing to pick".into());
        }
        Ok(items[rng.below(items.len())].clone())
    }

    /// The items in random order, as a new array.
    pub fn shuffle(rng: &mut Rng, mut items: Array) -> Array {
        for last in (1..items.len()).rev() {
            items.swap(last, rng.below(last + 1));
        }
        items
    }

    /// One of the items, as likely as its weight says.
    #[rhai_fn(return_raw)]
    pub fn weighted(rng: &mut Rng, items: Array, weights: Array) -> Result<Dynamic, Box<EvalAltResult>> {
        if items.len() != weights.len() {
            let counts = format!("{} items, but {} weights", items.len(), weights.len());
            return Err(format!("rng.weighted: {counts}").into());
        }
        let weight = |weight: &Dynamic| match (weight.as_float(), weight.as_int()) {
            (Ok(weight), _) if weight.is_finite() && weight >= 0.0 => Ok(weight),
            (_, Ok(weight)) if weight >= 0 => Ok(weight as f64),
            _ => Err(format!("rng.weighted: a weight is a number from zero on, not {weight}")),
        };
        let weights = weights.iter().map(weight).collect::<Result<Vec<f64>, _>>()?;
        let total: f64 = weights.iter().sum();
        let mut left = rng.unit() * total;
        for (item, weight) in items.iter().zip(&weights) {
            if left < *weight {
                return Ok(item.clone());
            }
            left -= weight;
        }
        // Rounding may leave a crumb beyond the last weight.
        let last = weights.iter().rposition(|weight| *weight > 0.0);
        last.map(|last| items[last].clone()).ok_or_else(|| "rng.weighted: all weights are zero".into())
    }
}
