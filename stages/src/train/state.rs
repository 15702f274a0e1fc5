//! Saving a training run in the middle, so that a killed one goes on as if it had never stopped.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use burn::tensor::{Tensor, TensorData};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Serialize, de::DeserializeOwned};

use crate::train::optimiser::Trainer;

const FILE: &str = "state.safetensors";
const NOTES: &str = "notes";
const STEPS: &str = "steps";

/// Saves a trainer now and then into a scratch folder.
pub struct Saver {
    path: PathBuf,
    every: Duration,
    last: Instant,
}

impl Saver {
    #[must_use]
    pub fn new(scratch: &Path, every: Duration) -> Self {
        Self { path: scratch.join(FILE), every, last: Instant::now() }
    }

    /// Is it time to save?
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.last.elapsed() >= self.every
    }

    /// Writes weights, moments, the step and the stage's own notes; whole or not at all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&mut self, trainer: &Trainer, notes: &impl Serialize) -> Result<()> {
        let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
        let mut add = |name: String, tensor: &Tensor<2>| {
            let shape = tensor.dims().to_vec();
            tensors.push((name, shape, tensor.clone().into_data().bytes().to_vec()));
        };
        let mut moments = trainer.moments.iter();
        trainer.decoder.clone().each(&mut |name, weight| {
            let (first, second) = moments.next().expect("one pair a weight");
            add(format!("weight/{name}"), weight);
            add(format!("first/{name}"), first);
            add(format!("second/{name}"), second);
        });
        let views = tensors
            .iter()
            .map(|(name, shape, bytes)| Ok((name, TensorView::new(Dtype::F32, shape.clone(), bytes)?)))
            .collect::<Result<Vec<_>>>()?;
        let metadata =
            [(NOTES.to_owned(), serde_json::to_string(notes)?), (STEPS.to_owned(), trainer.steps.to_string())];
        let bytes = safetensors::serialize(views, Some(metadata.into_iter().collect()))?;
        let saving = self.path.with_extension("saving");
        let write = || -> std::io::Result<()> {
            std::fs::write(&saving, bytes)?;
            File::open(&saving)?.sync_all()?;
            std::fs::rename(&saving, &self.path)
        };
        write().with_context(|| format!("saving {}", self.path.display()))?;
        self.last = Instant::now();
        Ok(())
    }

    /// Puts a saved state into the trainer and returns the notes; `None` when nothing was saved.
    ///
    /// # Errors
    /// When the file is damaged or belongs to another model.
    pub fn resume<N: DeserializeOwned>(&self, trainer: &mut Trainer) -> Result<Option<N>> {
        if !self.path.exists() {
            return Ok(None);
        }
        let bytes = std::fs::read(&self.path)?;
        let notes = restore(&bytes, trainer).with_context(|| {
            format!("resuming from {}; delete that file to start the node afresh", self.path.display())
        })?;
        Ok(Some(notes))
    }
}

fn restore<N: DeserializeOwned>(bytes: &[u8], trainer: &mut Trainer) -> Result<N> {
    let (_, header) = SafeTensors::read_metadata(bytes)?;
    let metadata = header.metadata().clone().unwrap_or_default();
    let field = |name: &str| metadata.get(name).with_context(|| format!("it holds no `{name}`"));
    let notes = serde_json::from_str(field(NOTES)?)?;
    let steps = field(STEPS)?.parse()?;
    let saved = SafeTensors::deserialize(bytes)?;
    let mut tensors: BTreeMap<String, Vec<f32>> = BTreeMap::new();
    for (name, view) in saved.tensors() {
        let values =
            view.data().chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().expect("chunks of four")));
        tensors.insert(name, values.collect());
    }
    let mut take = |name: String, like: &Tensor<2>| -> Result<Tensor<2>> {
        let Some(values) = tensors.remove(&name) else { bail!("it holds no `{name}`") };
        let shape = like.dims();
        ensure!(values.len() == shape[0] * shape[1], "`{name}` has another size than the model's");
        Ok(Tensor::from_data(TensorData::new(values, shape), &like.device()))
    };
    let mut moments = trainer.moments.iter_mut();
    let mut failure = None;
    trainer.decoder.each(&mut |name, weight| {
        let (first, second) = moments.next().expect("one pair a weight");
        let mut put = |prefix: &str, to: &mut Tensor<2>| match take(format!("{prefix}/{name}"), to) {
            Ok(tensor) => *to = tensor,
            Err(error) => failure = Some(error),
        };
        put("weight", weight);
        put("first", first);
        put("second", second);
    });
    trainer.steps = steps;
    failure.map_or(Ok(notes), Err)
}
