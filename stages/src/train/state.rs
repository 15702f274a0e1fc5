//! Saving a training run in the middle, so that a killed one goes on as if it had never stopped.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use burn::tensor::{Tensor, TensorData};
use memmap2::Mmap;
use safetensors::{
    Dtype, SafeTensors,
    tensor::{Metadata, TensorInfo},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{nn::weights, train::optimiser::Trainer};

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

    /// Writes the weights that learn, their moments, the step and the stage's own notes; whole or not at all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&mut self, trainer: &Trainer, notes: &impl Serialize) -> Result<()> {
        let mut tensors: Vec<(String, Tensor<2>)> = Vec::new();
        let mut moments = trainer.moments.iter();
        trainer.decoder.clone().each_trained(&mut |name, weight| {
            let (first, second) = moments.next().expect("one pair a weight");
            tensors.push((format!("weight/{name}"), weight.clone()));
            tensors.push((format!("first/{name}"), first.clone()));
            tensors.push((format!("second/{name}"), second.clone()));
        });
        let metadata =
            [(NOTES.to_owned(), serde_json::to_string(notes)?), (STEPS.to_owned(), trainer.steps.to_string())];
        let saving = self.path.with_extension("saving");
        let write = || -> Result<()> {
            let mut file = BufWriter::new(File::create(&saving)?);
            write_all(&mut file, tensors, metadata.into_iter().collect())?;
            file.into_inner()?.sync_all()?;
            Ok(std::fs::rename(&saving, &self.path)?)
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
        let file = File::open(&self.path)?;
        // SAFETY: the scratch folder is this node's own while it runs.
        let bytes = unsafe { Mmap::map(&file)? };
        let notes = restore(&bytes, trainer).with_context(|| {
            format!("resuming from {}; delete that file to start the node afresh", self.path.display())
        })?;
        Ok(Some(notes))
    }
}

/// A safetensors file. No more than one tensor's bytes are held at a time: all of them are three times the model.
fn write_all(
    file: &mut impl Write,
    tensors: Vec<(String, Tensor<2>)>,
    metadata: HashMap<String, String>,
) -> Result<()> {
    let mut end = 0;
    let place = |(name, tensor): &(String, Tensor<2>)| {
        let shape = tensor.dims().to_vec();
        let start = end;
        end += shape[0] * shape[1] * size_of::<f32>();
        (name.clone(), TensorInfo { dtype: Dtype::F32, shape, data_offsets: (start, end) })
    };
    let places = tensors.iter().map(place).collect();
    let mut header = serde_json::to_vec(&Metadata::new(Some(metadata), places)?)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(&header)?;
    for (_, tensor) in tensors {
        file.write_all(tensor.into_data().bytes())?;
    }
    Ok(file.flush()?)
}

fn restore<N: DeserializeOwned>(bytes: &Mmap, trainer: &mut Trainer) -> Result<N> {
    let (_, header) = SafeTensors::read_metadata(bytes)?;
    let metadata = header.metadata().clone().unwrap_or_default();
    let field = |name: &str| metadata.get(name).with_context(|| format!("it holds no `{name}`"));
    let notes = serde_json::from_str(field(NOTES)?)?;
    let steps = field(STEPS)?.parse()?;
    let saved = SafeTensors::deserialize(bytes)?;
    let take = |name: String, like: &Tensor<2>| -> Result<Tensor<2>> {
        let Ok(view) = saved.tensor(&name) else { bail!("it holds no `{name}`") };
        let shape = like.dims();
        ensure!(
            view.data().len() == shape[0] * shape[1] * size_of::<f32>(),
            "`{name}` has another size than the model's"
        );
        let values: Vec<f32> = view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        weights::let_go(bytes, view.data());
        Ok(Tensor::from_data(TensorData::new(values, shape), &like.device()))
    };
    let mut moments = trainer.moments.iter_mut();
    let mut failure = None;
    trainer.decoder.each_trained(&mut |name, weight| {
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
