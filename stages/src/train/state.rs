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

use crate::{
    nn::{decoder::Decoder, weights},
    train::optimiser::Trainer,
};

const FILE: &str = "state.safetensors";
const NOTES: &str = "notes";
const STEPS: &str = "steps";

/// Weights that did best, before the step that they were reached at.
const BEST: &str = "best-";

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

    /// Writes the weights that learn, the optimiser's memory, the step and the stage's own notes; whole or not at all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&mut self, trainer: &Trainer, notes: &impl Serialize) -> Result<()> {
        let mut tensors = Vec::new();
        let mut memory = trainer.memory.iter();
        trainer.decoder.clone().each_trained(&mut |name, weight| {
            tensors.push((format!("weight/{name}"), weight.clone()));
            let mut of_weight = memory.next().expect("one a weight").clone();
            of_weight.each(&mut |kind, tensor| tensors.push((format!("{kind}/{name}"), tensor.clone())));
        });
        let about = [(NOTES.to_owned(), serde_json::to_string(notes)?), (STEPS.to_owned(), trainer.steps.to_string())];
        write(&self.path, tensors, about.into_iter().collect())?;
        self.last = Instant::now();
        Ok(())
    }

    /// Writes the weights that learn alone, as the best so far. Notes that are saved later may name the step.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn keep_best(&self, trainer: &Trainer) -> Result<()> {
        let mut tensors = Vec::new();
        trainer
            .decoder
            .clone()
            .each_trained(&mut |name, weight| tensors.push((format!("weight/{name}"), weight.clone())));
        write(&self.best(trainer.steps), tensors, HashMap::new())
    }

    /// Drops what [`Saver::keep_best`] wrote at other steps than this one: saved notes no longer name them.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub fn keep_only_best(&self, step: Option<u64>) -> Result<()> {
        let current = step.map(|step| self.best(step));
        let scratch = self.path.parent().expect("the file lies in scratch");
        for entry in std::fs::read_dir(scratch)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(BEST) && Some(entry.path()) != current {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Puts the weights that were best at `step` into a decoder.
    ///
    /// # Errors
    /// When the file is missing or damaged.
    pub fn take_best(&self, step: u64, decoder: &mut Decoder) -> Result<()> {
        let path = self.best(step);
        let mut taken = || -> Result<()> {
            let bytes = mapped(&path)?;
            let saved = Saved { bytes: &bytes, tensors: SafeTensors::deserialize(&bytes)? };
            let mut failure = None;
            decoder.each_trained(&mut |name, weight| {
                failure = failure.take().or(saved.put(&format!("weight/{name}"), weight).err());
            });
            failure.map_or(Ok(()), Err)
        };
        taken().with_context(|| format!("reading the best weights from {}", path.display()))
    }

    fn best(&self, step: u64) -> PathBuf {
        self.path.with_file_name(format!("{BEST}{step}.safetensors"))
    }

    /// Puts a saved state into the trainer and returns the notes; `None` when nothing was saved.
    ///
    /// # Errors
    /// When the file is damaged or belongs to another model.
    pub fn resume<N: DeserializeOwned>(&self, trainer: &mut Trainer) -> Result<Option<N>> {
        if !self.path.exists() {
            return Ok(None);
        }
        let bytes = mapped(&self.path)?;
        let notes = restore(&bytes, trainer).with_context(|| {
            format!("resuming from {}; delete that file to start the node afresh", self.path.display())
        })?;
        Ok(Some(notes))
    }
}

fn restore<N: DeserializeOwned>(bytes: &Mmap, trainer: &mut Trainer) -> Result<N> {
    let (_, header) = SafeTensors::read_metadata(bytes)?;
    let metadata = header.metadata().clone().unwrap_or_default();
    let field = |name: &str| metadata.get(name).with_context(|| format!("it holds no `{name}`"));
    let notes = serde_json::from_str(field(NOTES)?)?;
    let steps = field(STEPS)?.parse()?;
    let saved = Saved { bytes, tensors: SafeTensors::deserialize(bytes)? };
    let mut memory = trainer.memory.iter_mut();
    let mut failure = None;
    trainer.decoder.each_trained(&mut |name, weight| {
        let mut put = |kind: &str, to: &mut Tensor<2>| {
            failure = failure.take().or(saved.put(&format!("{kind}/{name}"), to).err());
        };
        put("weight", weight);
        memory.next().expect("one a weight").each(&mut put);
    });
    trainer.steps = steps;
    failure.map_or(Ok(notes), Err)
}

/// The tensors of a file that was written here.
struct Saved<'a> {
    bytes: &'a Mmap,
    tensors: SafeTensors<'a>,
}

impl Saved<'_> {
    fn put(&self, name: &str, to: &mut Tensor<2>) -> Result<()> {
        let Ok(view) = self.tensors.tensor(name) else { bail!("it holds no `{name}`") };
        let shape = to.dims();
        ensure!(
            view.data().len() == shape[0] * shape[1] * size_of::<f32>(),
            "`{name}` has another size than the model's"
        );
        let values: Vec<f32> = view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        weights::let_go(self.bytes, view.data());
        *to = Tensor::from_data(TensorData::new(values, shape), &to.device());
        Ok(())
    }
}

fn mapped(path: &Path) -> Result<Mmap> {
    let file = File::open(path)?;
    // SAFETY: the scratch folder is this node's own while it runs.
    Ok(unsafe { Mmap::map(&file)? })
}

/// Writes tensors under a name that only a whole file ever has.
fn write(path: &Path, tensors: Vec<(String, Tensor<2>)>, metadata: HashMap<String, String>) -> Result<()> {
    let saving = path.with_extension("saving");
    let write = || -> Result<()> {
        let mut file = BufWriter::new(File::create(&saving)?);
        write_all(&mut file, tensors, metadata)?;
        file.into_inner()?.sync_all()?;
        Ok(std::fs::rename(&saving, path)?)
    };
    write().with_context(|| format!("saving {}", path.display()))
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
