//! A model's weights under their Hugging Face names, read from and written to safetensors files.
//! Knows nothing of what is computed with them.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap, HashSet},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use half::{bf16, f16};
use memmap2::Mmap;
use rayon::prelude::*;
use safetensors::{SafeTensorError, SafeTensors, View, tensor::TensorView};
use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer as _, Serialize,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::{Value, json};

use crate::{
    data::regular,
    nn::{
        config::{Config, Family},
        gpt2,
    },
    random::Stream,
};

/// One tensor, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Weight {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// By Hugging Face name, such as `model.layers.0.self_attn.q_proj.weight`.
pub type Weights = BTreeMap<String, Weight>;

/// The type of the numbers in a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 32 bits: what training keeps.
    #[default]
    F32,
    /// 16 bits with the range of f32 and 8 bits of precision.
    Bf16,
    /// 16 bits with a small range and 11 bits of precision.
    F16,
}

impl Dtype {
    /// `torch_dtype` in `config.json`.
    #[must_use]
    pub fn torch(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
        }
    }
}

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const HEAD: &str = "lm_head.weight";
const EMBEDDING: &str = "model.embed_tokens.weight";

/// The names and shapes that a decoder of this config has; `lm_head.weight` only if it is untied.
///
/// Those of the files too, but for GPT-2: its names here are Llama's, with biases and a position embedding.
#[must_use]
pub fn expected(config: &Config) -> Vec<(String, Vec<usize>)> {
    let hidden = config.hidden_size;
    let queries = config.num_attention_heads * config.head_dim;
    let keys = config.num_key_value_heads * config.head_dim;
    let is_gpt2 = config.family == Family::Gpt2;
    let mut all = vec![(EMBEDDING.to_owned(), vec![config.vocab_size, hidden])];
    if is_gpt2 {
        all.push(("model.embed_positions.weight".to_owned(), vec![config.max_position_embeddings, hidden]));
        all.push(("model.norm.bias".to_owned(), vec![hidden]));
    }
    for layer in 0..config.num_hidden_layers {
        let mut add = |name: &str, shape: &[usize]| all.push((format!("model.layers.{layer}.{name}"), shape.to_vec()));
        add("input_layernorm.weight", &[hidden]);
        add("self_attn.q_proj.weight", &[queries, hidden]);
        add("self_attn.k_proj.weight", &[keys, hidden]);
        add("self_attn.v_proj.weight", &[keys, hidden]);
        add("self_attn.o_proj.weight", &[hidden, queries]);
        if config.attention_bias {
            add("self_attn.q_proj.bias", &[queries]);
            add("self_attn.k_proj.bias", &[keys]);
            add("self_attn.v_proj.bias", &[keys]);
        }
        if config.qk_norm {
            add("self_attn.q_norm.weight", &[config.head_dim]);
            add("self_attn.k_norm.weight", &[config.head_dim]);
        }
        add("post_attention_layernorm.weight", &[hidden]);
        if config.output_bias {
            add("self_attn.o_proj.bias", &[hidden]);
        }
        if config.mlp_bias {
            add("mlp.up_proj.bias", &[config.intermediate_size]);
            add("mlp.down_proj.bias", &[hidden]);
        }
        if is_gpt2 {
            add("input_layernorm.bias", &[hidden]);
            add("post_attention_layernorm.bias", &[hidden]);
        } else {
            add("mlp.gate_proj.weight", &[config.intermediate_size, hidden]);
            if config.mlp_bias {
                add("mlp.gate_proj.bias", &[config.intermediate_size]);
            }
        }
        add("mlp.up_proj.weight", &[config.intermediate_size, hidden]);
        add("mlp.down_proj.weight", &[hidden, config.intermediate_size]);
    }
    all.push(("model.norm.weight".to_owned(), vec![hidden]));
    if !config.tie_word_embeddings {
        all.push((HEAD.to_owned(), vec![config.vocab_size, hidden]));
    }
    all
}

/// Weights to start training from: normal with `deviation`, the two projections that write into the
/// residual stream divided by `sqrt(2 * layers)` (GPT-2, section 2.3), norms one, biases zero.
///
/// Each weight depends on the seed and its own name alone.
#[must_use]
pub fn init(config: &Config, seed: u64, deviation: f32) -> Weights {
    let residual = 1.0 / (2.0 * config.num_hidden_layers as f32).sqrt();
    let draw = |name: String, shape: Vec<usize>| {
        let count = shape.iter().product();
        let values = if name.ends_with("norm.weight") {
            vec![1.0; count]
        } else if name.rsplit('.').next() == Some("bias") {
            vec![0.0; count]
        } else {
            let into_residual = name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight");
            let deviation = deviation * if into_residual { residual } else { 1.0 };
            let mut stream = Stream::new(&[seed, name_key(&name)]);
            (0..count).map(|_| deviation * stream.normal()).collect()
        };
        (name, Weight { shape, values })
    };
    expected(config).into_par_iter().map(|(name, shape)| draw(name, shape)).collect()
}

/// What stands for a name in a key of randomness.
pub(crate) fn name_key(name: &str) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&blake3::hash(name.as_bytes()).as_bytes()[..8]);
    u64::from_le_bytes(first)
}

/// Reads `model.safetensors`, or the shards that `model.safetensors.index.json` lists, of f32, f16 or bf16.
///
/// # Errors
/// When a file is missing or cut short, or a tensor is missing, unknown, of another shape or type, or not finite.
pub fn read(folder: &Path, config: &Config) -> Result<Weights> {
    let is_gpt2 = config.family == Family::Gpt2;
    let stored = if is_gpt2 { gpt2::stored(config) } else { expected(config) };
    let embedding = if is_gpt2 { "transformer.wte.weight" } else { EMBEDDING };
    let mut wanted: BTreeMap<String, Vec<usize>> = stored.into_iter().collect();
    let mut weights = Weights::new();
    let mut head = None;
    for path in files(folder)? {
        let map = map(&path)?;
        let tensors = tensors(&path, &map)?;
        for (name, tensor) in tensors.iter() {
            if [".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias"].iter().any(|buffer| name.ends_with(buffer)) {
                // Buffers that old versions of transformers saved; they follow from the config.
                continue;
            }
            let prefixed;
            let name = if is_gpt2 && name != HEAD && !name.starts_with(gpt2::PREFIX) {
                prefixed = format!("{}{name}", gpt2::PREFIX);
                &prefixed
            } else {
                name
            };
            if name == HEAD && config.tie_word_embeddings {
                head = Some((path.clone(), values(&tensor, name, &path)?));
                continue;
            }
            let Some(shape) = wanted.remove(name) else {
                let why = if weights.contains_key(name) { "is there twice" } else { "is not part of the model" };
                bail!("{}: tensor `{name}` {why} that `config.json` describes", path.display());
            };
            ensure!(
                tensor.shape() == shape,
                "{}: tensor `{name}` is of shape {:?}; by `config.json` it is {shape:?}",
                path.display(),
                tensor.shape()
            );
            weights.insert(name.to_owned(), Weight { shape, values: values(&tensor, name, &path)? });
            let_go(&map, tensor.data());
        }
    }
    if let Some((name, shape)) = wanted.first_key_value() {
        let others = match wanted.len() - 1 {
            0 => String::new(),
            more => format!(", nor {more} others"),
        };
        bail!("{}: no tensor `{name}` of shape {shape:?}{others}", folder.display());
    }
    if let Some((path, head)) = head {
        ensure!(
            weights[embedding].values == head,
            "{}: tensor `{HEAD}` differs from `{embedding}`, but `tie_word_embeddings` is true",
            path.display()
        );
    }
    Ok(if is_gpt2 { gpt2::split(config, weights) } else { weights })
}

/// How weights become files.
#[derive(Debug, Clone, Copy)]
pub struct Packing {
    pub dtype: Dtype,
    /// The most bytes of tensors in a file; a tensor larger than that has one to itself.
    pub max_shard_bytes: usize,
}

/// All in one file.
impl From<Dtype> for Packing {
    fn from(dtype: Dtype) -> Self {
        Self { dtype, max_shard_bytes: usize::MAX }
    }
}

/// Writes `model.safetensors`, or, where that would be too large, shards of it and `model.safetensors.index.json` as
/// transformers writes them. The same bytes for the same weights.
///
/// # Errors
/// When a file cannot be written, or a value is not finite or does not fit into the type.
pub fn write(folder: &Path, config: &Config, weights: &Weights, packing: impl Into<Packing>) -> Result<()> {
    let Packing { dtype, max_shard_bytes } = packing.into();
    let joined;
    let weights = if config.family == Family::Gpt2 {
        joined = gpt2::join(config, weights)?;
        &joined
    } else {
        weights
    };
    ensure_fits(weights, dtype)?;
    let size = |weight: &Weight| Encoded { weight, dtype }.data_len();
    let sizes: Vec<(&String, usize)> = weights.iter().map(|(name, weight)| (name, size(weight))).collect();
    let shards = shards(&sizes, max_shard_bytes);
    if shards.len() < 2 {
        return write_file(&folder.join(SINGLE), weights, dtype);
    }
    let mut map = serde_json::Map::new();
    for (i, names) in shards.iter().enumerate() {
        let file = format!("model-{:05}-of-{:05}.safetensors", i + 1, shards.len());
        let tensors = names.iter().map(|name| (*name, &weights[*name]));
        write_tensors(&folder.join(&file), tensors, dtype)?;
        map.extend(names.iter().map(|name| ((*name).clone(), file.clone().into())));
    }
    map.sort_keys();
    let total_size: usize = sizes.iter().map(|(_, size)| size).sum();
    let total_parameters: usize = weights.values().map(|weight| weight.values.len()).sum();
    let index = json!({
        "metadata": { "total_parameters": total_parameters, "total_size": total_size },
        "weight_map": map,
    });
    let path = folder.join(INDEX);
    std::fs::write(&path, format!("{index:#}\n")).with_context(|| format!("writing {}", path.display()))
}

/// What is not a number in a file is refused by whoever reads it: a training that diverged or a merge that overflowed is
/// told where it happened, and nothing is published.
fn ensure_fits(weights: &Weights, dtype: Dtype) -> Result<()> {
    for (name, weight) in weights {
        let lost = |value: &f32| match dtype {
            Dtype::F32 => !value.is_finite(),
            Dtype::Bf16 => !bf16::from_f32(*value).is_finite(),
            Dtype::F16 => !f16::from_f32(*value).is_finite(),
        };
        let Some(at) = weight.values.par_iter().position_first(lost) else { continue };
        let value = weight.values[at];
        ensure!(
            value.is_finite(),
            "tensor `{name}` holds {value} at position {at}, and only finite numbers are written"
        );
        match dtype {
            Dtype::F16 => {
                bail!("tensor `{name}` holds {value}, which does not fit into f16; bf16 has the range of f32")
            }
            Dtype::F32 | Dtype::Bf16 => bail!("tensor `{name}` holds {value}, which does not fit into bf16"),
        }
    }
    Ok(())
}

/// Tensors in their order, as many to a shard as fit into `most` bytes.
fn shards<'a>(sizes: &[(&'a String, usize)], most: usize) -> Vec<Vec<&'a String>> {
    let (mut shards, mut open, mut held) = (Vec::new(), Vec::new(), 0);
    for (name, size) in sizes {
        if *size > most {
            shards.push(vec![*name]);
            continue;
        }
        if held + size > most {
            shards.push(std::mem::take(&mut open));
            held = 0;
        }
        open.push(*name);
        held += size;
    }
    if !open.is_empty() {
        shards.push(open);
    }
    shards
}

/// Writes one file, the same bytes for the same weights.
///
/// # Errors
/// When the file cannot be written, or a value is not finite or does not fit into the type.
pub fn write_file(path: &Path, weights: &Weights, dtype: Dtype) -> Result<()> {
    ensure_fits(weights, dtype)?;
    write_tensors(path, weights.iter(), dtype)
}

fn write_tensors<'a>(path: &Path, tensors: impl Iterator<Item = (&'a String, &'a Weight)>, dtype: Dtype) -> Result<()> {
    let views = tensors.map(|(name, weight)| (name, Encoded { weight, dtype }));
    let about = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(views, Some(about), path).with_context(|| format!("writing {}", path.display()))
}

/// Reads every tensor of one file of f32, f16 or bf16, whatever it is called.
///
/// # Errors
/// When the file is missing or cut short, or a tensor is of another type or not finite.
pub fn read_file(path: &Path) -> Result<Weights> {
    let map = map(path)?;
    let tensors = tensors(path, &map)?;
    let read = |(name, tensor): (&str, TensorView)| {
        let weight = Weight { shape: tensor.shape().to_vec(), values: values(&tensor, name, path)? };
        Ok((name.to_owned(), weight))
    };
    tensors.iter().map(read).collect()
}

/// The files that hold the weights.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let single = folder.join(SINGLE);
    if single.exists() {
        return Ok(vec![single]);
    }
    let index = folder.join(INDEX);
    if !index.exists() {
        let pickled =
            ["pytorch_model.bin", "pytorch_model.bin.index.json"].iter().any(|name| folder.join(name).exists());
        let mend = if pickled {
            ": its `pytorch_model.bin` can run any code when it is opened, and is not read; `save_pretrained` of transformers \
             writes safetensors"
        } else {
            ""
        };
        bail!("{}: neither `{SINGLE}` nor `{INDEX}`{mend}", folder.display());
    }
    let text =
        regular::text(&index, regular::TOKENIZER_BYTES).with_context(|| format!("reading {}", index.display()))?;
    let value: Value = serde_json::from_str(&text).with_context(|| format!("reading {}", index.display()))?;
    let map = value["weight_map"].as_object().with_context(|| format!("{}: no `weight_map`", index.display()))?;
    let mut names: Vec<&str> = map.values().filter_map(Value::as_str).collect();
    names.sort_unstable();
    names.dedup();
    ensure!(!names.is_empty(), "{}: `weight_map` names no file", index.display());
    for name in &names {
        ensure!(!name.contains(['/', '\\']), "{}: `{name}` lies outside the folder", index.display());
    }
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

fn map(path: &Path) -> Result<Mmap> {
    let file = regular::open(path).with_context(|| format!("opening {}", path.display()))?;
    // SAFETY: the map is read once, now. Artifacts are read-only; a file of the user that another program
    // cuts short in these moments ends this one with SIGBUS, as in every loader of safetensors.
    unsafe { Mmap::map(&file) }.with_context(|| format!("mapping {}", path.display()))
}

/// Gives the pages of a part of a map back: those that were read count as memory in use. Read again, they come from
/// the file.
pub(crate) fn let_go(map: &Mmap, part: &[u8]) {
    #[cfg(unix)]
    {
        let start = part.as_ptr().addr() - map.as_ptr().addr();
        // SAFETY: the map is of a file, and only read: no page holds anything that the file does not.
        // Refused, it saves nothing and harms nothing.
        let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, part.len()) };
    }
}

/// Bytes of a file's header at most: it is held several times over while it is read. That of a model of ten thousand
/// tensors has 1 MB.
const LARGEST_HEADER: u64 = 16 << 20;

/// The tensors of a file, each name once.
fn tensors<'a>(path: &Path, bytes: &'a [u8]) -> Result<SafeTensors<'a>> {
    if let Some(length) = bytes.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes))
        && length <= bytes.len() as u64
    {
        ensure!(
            length <= LARGEST_HEADER,
            "{}: its header has {length} bytes, and at most {LARGEST_HEADER} are read",
            path.display()
        );
    }
    let tensors = SafeTensors::deserialize(bytes).map_err(|error| broken(path, bytes, &error))?;
    // The library keeps one of them, and not always the same.
    if let Some(name) = repeated_name(bytes) {
        bail!("{}: two tensors are named `{name}`", path.display());
    }
    Ok(tensors)
}

/// A name that stands twice in the header of a file.
fn repeated_name(bytes: &[u8]) -> Option<String> {
    struct Names;

    impl<'de> Visitor<'de> for Names {
        type Value = Option<String>;

        fn expecting(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
            formatter.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let (mut seen, mut twice) = (HashSet::new(), None);
            while let Some((name, _)) = map.next_entry::<String, IgnoredAny>()? {
                if seen.contains(&name) {
                    twice.get_or_insert(name);
                } else {
                    seen.insert(name);
                }
            }
            Ok(twice)
        }
    }

    let length = usize::try_from(u64::from_le_bytes(*bytes.first_chunk::<8>()?)).ok()?;
    serde_json::Deserializer::from_slice(bytes.get(8..length.checked_add(8)?)?).deserialize_map(Names).ok()?
}

/// Says of a file that cannot be read whether it was cut short, and where.
fn broken(path: &Path, bytes: &[u8], error: &SafeTensorError) -> anyhow::Error {
    let place = path.display();
    match error {
        SafeTensorError::HeaderTooSmall | SafeTensorError::InvalidHeaderLength => {
            anyhow::anyhow!("{place}: cut short inside its header, or not a safetensors file")
        }
        SafeTensorError::MetadataIncompleteBuffer => match missing_bytes(bytes) {
            Some((name, end)) => anyhow::anyhow!(
                "{place}: cut short: it has {} bytes, and tensor `{name}` ends at byte {end}",
                bytes.len()
            ),
            None => anyhow::anyhow!("{place}: longer than its header says"),
        },
        other => anyhow::anyhow!("{place}: {other}"),
    }
}

/// The first tensor, by place in the file, that ends behind the file's end, and where it ends.
fn missing_bytes(bytes: &[u8]) -> Option<(String, usize)> {
    let header_len = usize::try_from(u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?)).ok()?;
    let header: BTreeMap<String, Value> = serde_json::from_slice(bytes.get(8..8 + header_len)?).ok()?;
    let ends = header.into_iter().filter_map(|(name, info)| {
        let end = usize::try_from(info["data_offsets"][1].as_u64()?).ok()?;
        Some((8 + header_len + end, name))
    });
    ends.filter(|(end, _)| *end > bytes.len()).min().map(|(end, name)| (name, end))
}

fn values(tensor: &TensorView, name: &str, path: &Path) -> Result<Vec<f32>> {
    let data = tensor.data();
    let pairs = || data.as_chunks::<2>().0.par_iter();
    let values: Vec<f32> = match tensor.dtype() {
        safetensors::Dtype::F32 => data.as_chunks::<4>().0.par_iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        safetensors::Dtype::F16 => pairs().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect(),
        safetensors::Dtype::BF16 => pairs().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect(),
        other => bail!("{}: tensor `{name}` is of type {other:?}; supported: F32, F16, BF16", path.display()),
    };
    if let Some(at) = values.par_iter().position_first(|value| !value.is_finite()) {
        bail!("{}: tensor `{name}` holds {} at position {at}", path.display(), values[at]);
    }
    Ok(values)
}

/// A weight as the bytes of a file.
struct Encoded<'a> {
    weight: &'a Weight,
    dtype: Dtype,
}

impl View for Encoded<'_> {
    fn dtype(&self) -> safetensors::Dtype {
        match self.dtype {
            Dtype::F32 => safetensors::Dtype::F32,
            Dtype::Bf16 => safetensors::Dtype::BF16,
            Dtype::F16 => safetensors::Dtype::F16,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.weight.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let values = &self.weight.values;
        match self.dtype {
            #[cfg(target_endian = "little")]
            // SAFETY: every bit pattern is a byte, and the bytes of an f32 in memory are those of the file.
            Dtype::F32 => Cow::Borrowed(unsafe { values.align_to::<u8>().1 }),
            #[cfg(target_endian = "big")]
            Dtype::F32 => Cow::Owned(encode(values, f32::to_le_bytes)),
            Dtype::Bf16 => Cow::Owned(encode(values, |value| bf16::from_f32(value).to_le_bytes())),
            Dtype::F16 => Cow::Owned(encode(values, |value| f16::from_f32(value).to_le_bytes())),
        }
    }

    fn data_len(&self) -> usize {
        self.weight.values.len() * if self.dtype == Dtype::F32 { 4 } else { 2 }
    }
}

fn encode<const N: usize>(values: &[f32], bytes: impl Fn(f32) -> [u8; N] + Sync) -> Vec<u8> {
    let mut encoded = vec![0; values.len() * N];
    encoded.as_chunks_mut::<N>().0.par_iter_mut().zip(values).for_each(|(to, value)| *to = bytes(*value));
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        bench::{Bench, fixture, json_of},
        nn::{config::Family, shape::Shape},
    };

    fn tiny() -> Config {
        let shape = Shape { layers: 1, hidden: 4, heads: 2, ffn: Some(3), tied: false, ..Shape::default() };
        shape.config(5).unwrap()
    }

    /// A folder whose weights are those of `tiny()` but for what `spoil` does to them.
    fn spoiled(spoil: impl FnOnce(&mut Weights)) -> (Bench, String) {
        let bench = Bench::new();
        let mut weights = init(&tiny(), 1, 0.02);
        spoil(&mut weights);
        bench.file("m/.keep", "");
        write(&bench.path("m"), &tiny(), &weights, Dtype::F32).unwrap();
        let message = read(&bench.path("m"), &tiny()).err().map(|error| bench.message(&error)).unwrap_or_default();
        (bench, message)
    }

    #[test]
    fn names_and_shapes_are_those_that_transformers_writes() {
        for family in Family::ALL {
            let folder = fixture(family.model_type());
            let config = Config::from_hf(&std::fs::read_to_string(folder.join("config.json")).unwrap()).unwrap();
            let bytes = std::fs::read(folder.join(SINGLE)).unwrap();
            let tensors = SafeTensors::deserialize(&bytes).unwrap();
            let written: BTreeMap<String, Vec<usize>> =
                tensors.iter().map(|(name, tensor)| (name.to_owned(), tensor.shape().to_vec())).collect();
            let stored = if family == Family::Gpt2 { gpt2::stored(&config) } else { expected(&config) };
            assert_eq!(stored.into_iter().collect::<BTreeMap<_, _>>(), written, "{family:?}");
            assert_eq!(read(&folder, &config).unwrap().len(), expected(&config).len());
        }
    }

    #[test]
    fn weights_survive_writing_to_the_bit_and_the_bytes_are_always_the_same() {
        let (bench, message) = spoiled(|_| ());
        assert_eq!(message, "");
        assert_eq!(read(&bench.path("m"), &tiny()).unwrap(), init(&tiny(), 1, 0.02));
        let first = std::fs::read(bench.path("m").join(SINGLE)).unwrap();
        write(&bench.path("m"), &tiny(), &init(&tiny(), 1, 0.02), Dtype::F32).unwrap();
        assert_eq!(std::fs::read(bench.path("m").join(SINGLE)).unwrap(), first);
    }

    #[test]
    fn half_precision_rounds_to_the_nearest_that_the_type_has() {
        // 1 + 2^-9 lies between the bf16 neighbours 1 and 1 + 2^-7; f16 has it exactly. 1/3 by hand: bf16 0x3eab, f16 0x3555.
        for (dtype, one, third) in [(Dtype::Bf16, 1.0, 0.333_984_38), (Dtype::F16, 1.001_953_1, 0.333_251_95)] {
            let bench = Bench::new();
            bench.file("m/.keep", "");
            let mut weights = init(&tiny(), 1, 0.02);
            weights.get_mut("model.norm.weight").unwrap().values = vec![1.0 + 1.0 / 512.0, 1.0 / 3.0, 0.0, -2.0];
            write(&bench.path("m"), &tiny(), &weights, dtype).unwrap();
            let back = read(&bench.path("m"), &tiny()).unwrap();
            assert_eq!(back["model.norm.weight"].values, [one, third, 0.0, -2.0], "{dtype:?}");
        }
    }

    #[test]
    fn a_value_beyond_f16_is_refused_instead_of_becoming_infinite() {
        let mut weights = init(&tiny(), 1, 0.02);
        weights.get_mut("lm_head.weight").unwrap().values[3] = 70_000.0;
        let error = write(&Bench::new().path("unused"), &tiny(), &weights, Dtype::F16).unwrap_err();
        assert_eq!(
            error.to_string(),
            "tensor `lm_head.weight` holds 70000, which does not fit into f16; bf16 has the range of f32"
        );
    }

    #[test]
    fn shards_read_as_one_file() {
        let bench = Bench::new();
        let weights = init(&tiny(), 1, 0.02);
        let mut index = serde_json::Map::new();
        for (place, (name, weight)) in weights.iter().enumerate() {
            let file = format!("model-0000{}-of-00002.safetensors", 1 + place % 2);
            index.insert(name.clone(), file.into());
            let folder = format!("s{}/{name}", place % 2);
            bench.file(&format!("{folder}/.keep"), "");
            write(&bench.path(&folder), &tiny(), &BTreeMap::from([(name.clone(), weight.clone())]), Dtype::F32)
                .unwrap();
        }
        for shard in 0..2 {
            let part: Weights = weights
                .clone()
                .into_iter()
                .enumerate()
                .filter(|(place, _)| place % 2 == shard)
                .map(|(_, one)| one)
                .collect();
            bench.file("part/.keep", "");
            write(&bench.path("part"), &tiny(), &part, Dtype::F32).unwrap();
            let bytes = std::fs::read(bench.path("part").join(SINGLE)).unwrap();
            bench.file(&format!("sharded/model-0000{}-of-00002.safetensors", shard + 1), bytes);
        }
        bench.file(&format!("sharded/{INDEX}"), json!({ "weight_map": index }).to_string());
        assert_eq!(read(&bench.path("sharded"), &tiny()).unwrap(), weights);

        std::fs::remove_file(bench.path("sharded/model-00002-of-00002.safetensors")).unwrap();
        let error = read(&bench.path("sharded"), &tiny()).unwrap_err();
        assert_eq!(
            bench.message(&error),
            "opening sharded/model-00002-of-00002.safetensors: No such file or directory (os error 2)"
        );
    }

    #[test]
    fn shards_that_transformers_wrote_read_and_are_written_alike() {
        let folder = fixture("qwen2.5");
        let config = Config::from_hf(&std::fs::read_to_string(folder.join("config.json")).unwrap()).unwrap();
        let weights = read(&folder, &config).unwrap();
        let bench = Bench::new();
        bench.file("ours/.keep", "");
        // The 20 kB of the fixture, in its type.
        let packing = Packing { dtype: Dtype::Bf16, max_shard_bytes: 20_000 };
        write(&bench.path("ours"), &config, &weights, packing).unwrap();
        assert_eq!(read(&bench.path("ours"), &config).unwrap(), weights);
        let index = |folder: &Path| json_of(&folder.join(INDEX));
        let (ours, theirs) = (index(&bench.path("ours")), index(&folder));
        assert_eq!(ours["metadata"], theirs["metadata"]);
        let names = |index: &Value| index["weight_map"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&ours), names(&theirs));
        for (name, file) in ours["weight_map"].as_object().unwrap() {
            let path = bench.path("ours").join(file.as_str().unwrap());
            let bytes = std::fs::read(&path).unwrap();
            let tensors = SafeTensors::deserialize(&bytes).unwrap();
            assert!(tensors.tensor(name).is_ok(), "{name} is not in {}", path.display());
            let held: usize = tensors.iter().map(|(_, tensor)| tensor.data().len()).sum();
            assert!(held <= 20_000, "{} holds {held} bytes", path.display());
        }
        assert!(!bench.path("ours").join(SINGLE).exists());
    }

    #[test]
    fn a_tensor_too_large_for_any_shard_has_one_to_itself() {
        let names = ["a", "b", "c", "d", "e"].map(str::to_owned);
        let sizes: Vec<_> = names.iter().zip([3, 4, 11, 3, 1]).collect();
        let of = |most: usize| -> Vec<String> {
            shards(&sizes, most).into_iter().map(|names| names.into_iter().map(String::as_str).collect()).collect()
        };
        assert_eq!(of(10), ["c", "abd", "e"]);
        assert_eq!(of(1), ["a", "b", "c", "d", "e"]);
        assert_eq!(of(22), ["abcde"]);
    }

    #[test]
    fn a_wrong_tensor_of_a_shard_is_named_with_its_file() {
        let bench = Bench::new();
        let sharded = |weights: &Weights| {
            bench.file("m/.keep", "");
            // Of 80 bytes is the head, of 64 a matrix: four tensors come alone or in pairs.
            write(&bench.path("m"), &tiny(), weights, Packing { dtype: Dtype::F32, max_shard_bytes: 100 }).unwrap();
            bench.message(&read(&bench.path("m"), &tiny()).unwrap_err())
        };
        let mut weights = init(&tiny(), 1, 0.02);
        weights.insert("visual.proj.weight".into(), Weight { shape: vec![1], values: vec![0.0] });
        let message = sharded(&weights);
        assert!(
            message.starts_with("m/model-000")
                && message.ends_with(
                    ".safetensors: tensor `visual.proj.weight` is not part of the model that `config.json` describes"
                ),
            "{message}"
        );
        weights.remove("visual.proj.weight");
        weights.remove("model.norm.weight");
        assert_eq!(sharded(&weights), "m: no tensor `model.norm.weight` of shape [4]");
    }

    #[test]
    fn a_folder_without_safetensors_says_why_pickles_are_not_read() {
        let bench = Bench::new();
        bench.file("m/config.json", "");
        let message = || bench.message(&read(&bench.path("m"), &tiny()).unwrap_err());
        let neither = "m: neither `model.safetensors` nor `model.safetensors.index.json`";
        assert_eq!(message(), neither);
        bench.file("m/pytorch_model.bin", "");
        let why = "its `pytorch_model.bin` can run any code when it is opened, and is not read";
        assert_eq!(message(), format!("{neither}: {why}; `save_pretrained` of transformers writes safetensors"));
    }

    #[test]
    fn a_missing_tensor_is_named() {
        let (_bench, message) = spoiled(|weights| {
            weights.remove("model.layers.0.mlp.up_proj.weight");
        });
        assert_eq!(message, "m: no tensor `model.layers.0.mlp.up_proj.weight` of shape [3, 4]");
        let (_bench, message) = spoiled(|weights| weights.retain(|name, _| name.ends_with("norm.weight")));
        assert_eq!(message, "m: no tensor `lm_head.weight` of shape [5, 4], nor 8 others");
    }

    #[test]
    fn a_tensor_that_does_not_belong_is_named() {
        let (_bench, message) = spoiled(|weights| {
            weights.insert("model.layers.1.mlp.up_proj.weight".into(), Weight { shape: vec![1], values: vec![0.0] });
        });
        assert_eq!(
            message,
            "m/model.safetensors: tensor `model.layers.1.mlp.up_proj.weight` is not part of the model that `config.json` describes"
        );
    }

    #[test]
    fn a_tensor_of_another_shape_is_named_with_both_shapes() {
        let (_bench, message) = spoiled(|weights| {
            weights.get_mut("model.layers.0.self_attn.k_proj.weight").unwrap().shape = vec![2, 8];
        });
        assert_eq!(
            message,
            "m/model.safetensors: tensor `model.layers.0.self_attn.k_proj.weight` is of shape [2, 8]; by `config.json` it is [4, 4]"
        );
    }

    #[test]
    fn a_weight_that_is_not_a_number_is_named() {
        let (bench, _) = spoiled(|_| ());
        // By name the norm, of four numbers, is the last tensor of the file.
        let path = bench.path("m").join(SINGLE);
        let mut bytes = std::fs::read(&path).unwrap();
        let end = bytes.len();
        bytes[end - 8..end - 4].copy_from_slice(&f32::NAN.to_le_bytes());
        std::fs::write(&path, bytes).unwrap();
        let message = bench.message(&read(&bench.path("m"), &tiny()).unwrap_err());
        assert_eq!(message, "m/model.safetensors: tensor `model.norm.weight` holds NaN at position 2");
    }

    #[test]
    fn what_is_not_finite_is_not_written() {
        let complaint = |value: f32, dtype: Dtype| {
            let mut weights = init(&tiny(), 1, 0.02);
            weights.get_mut("lm_head.weight").unwrap().values[3] = value;
            write(&Bench::new().path("unused"), &tiny(), &weights, dtype).unwrap_err().to_string()
        };
        let expected = "tensor `lm_head.weight` holds inf at position 3, and only finite numbers are written";
        assert_eq!(complaint(f32::INFINITY, Dtype::F32), expected);
        assert_eq!(complaint(f32::NAN, Dtype::Bf16), expected.replace("inf", "NaN"));
        // Rounded to eight bits it is 2^128.
        let message = complaint(f32::MAX, Dtype::Bf16);
        assert!(
            message.starts_with("tensor `lm_head.weight` holds 3402823") && message.ends_with("into bf16"),
            "{message}"
        );
    }

    /// A file with this header, and so many bytes behind it.
    fn with_header(bench: &Bench, header: &str, size: usize) -> PathBuf {
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; size]].concat();
        bench.file("m/model.safetensors", bytes)
    }

    #[test]
    fn a_header_says_each_thing_once_and_what_can_be() {
        let bench = Bench::new();
        let complaint = |header: &str, size: usize| {
            let path = with_header(&bench, header, size);
            bench.message(&read_file(&path).unwrap_err())
        };
        let a = r#""a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
        assert_eq!(complaint(&format!("{{{a},{a}}}"), 4), "m/model.safetensors: two tensors are named `a`");
        let other = a.replace("[0,4]", "[4,8]");
        assert_eq!(complaint(&format!("{{{a},{other}}}"), 8).split(": ").next().unwrap(), "m/model.safetensors");
        let twice = r#"{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
        assert!(complaint(twice, 4).contains("duplicate field"), "{}", complaint(twice, 4));
        for (shape, from, to, size) in [
            ("[1]", 0, 8, 8),
            ("[1]", 4, 8, 8),
            ("[4611686018427387904,4]", 0, 0, 0),
            ("[18446744073709551615,18446744073709551615]", 0, 4, 4),
            ("[-1]", 0, 4, 4),
            ("[1.5]", 0, 4, 4),
            ("[1]", 4, 0, 4),
        ] {
            let header = format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":[{from},{to}]}}}}"#);
            complaint(&header, size);
        }
        // Two tensors in the same bytes, and a hole between two.
        let b = |from: usize| format!(r#""b":{{"dtype":"F32","shape":[1],"data_offsets":[{from},{}]}}"#, from + 4);
        complaint(&format!("{{{a},{}}}", b(0)), 4);
        complaint(&format!("{{{a},{}}}", b(8)), 12);
        let padded = format!("{{{a}{}}}", " ".repeat(17 << 20));
        let expected = "m/model.safetensors: its header has 17825846 bytes, and at most 16777216 are read";
        assert_eq!(complaint(&padded, 4), expected);
        bench.file("m/model.safetensors", u64::MAX.to_le_bytes());
        assert!(read_file(&bench.path("m/model.safetensors")).is_err());
        read_file(&with_header(&bench, &format!("{{{a}}}"), 4)).unwrap();
    }

    /// Random changes of a model that is right: `MASHBILL_FUZZ_SECONDS=600` makes them for ten minutes.
    #[test]
    fn damaged_models_are_read_or_refused() {
        use crate::data::{adapter, checkpoint::Checkpoint};
        let bench = Bench::new();
        bench.file("m/.keep", "");
        let names =
            ["config.json", "model.safetensors", "tokenizer.json", "adapter_config.json", "adapter_model.safetensors"];
        let policies = ["llama", "qwen3", "gpt2"].map(|family| {
            let mut checkpoint = Checkpoint::open(&fixture(family)).unwrap();
            if family != "gpt2" {
                checkpoint.adopt(Some(&crate::nn::lora::Lora { rank: 2, ..Default::default() }), 1).unwrap();
            }
            std::fs::create_dir_all(bench.path(family)).unwrap();
            checkpoint.save(&bench.path(family)).unwrap();
            names.map(|name| std::fs::read(bench.path(family).join(name)).unwrap_or_default())
        });
        crate::bench::fuzz("safetensors", 200, |chance| {
            let mut files = chance.of(&policies).clone();
            let which = chance.below(files.len());
            for _ in 0..=chance.below(3) {
                match which {
                    // The header, most often: the rest is numbers.
                    1 | 4 if chance.below(4) > 0 => {
                        let mut header: Vec<u8> = files[which].drain(..files[which].len().min(3000)).collect();
                        chance.change(&mut header);
                        files[which].splice(0..0, header);
                    }
                    0 | 3 if chance.below(2) > 0 => {
                        let Ok(Value::Object(mut keys)) = serde_json::from_slice(&files[which]) else { break };
                        let name = keys.keys().nth(chance.below(keys.len())).cloned().unwrap_or_default();
                        let odd = [
                            json!(0),
                            json!(-1),
                            json!(1.5),
                            json!(1e308),
                            json!(u64::MAX),
                            json!(1_u64 << 40),
                            json!(1_000_000_000),
                            json!([]),
                            json!(null),
                            json!({}),
                            json!("x"),
                            json!(7),
                            json!(4096),
                        ];
                        keys.insert(name, chance.of(&odd).clone());
                        files[which] = Value::Object(keys).to_string().into_bytes();
                    }
                    _ => chance.change(&mut files[which]),
                }
            }
            for (name, bytes) in names.iter().zip(&files) {
                let path = bench.path("m").join(name);
                if bytes.is_empty() { drop(std::fs::remove_file(path)) } else { std::fs::write(path, bytes).unwrap() }
            }
            if let Ok(mut checkpoint) = Checkpoint::open(&bench.path("m")) {
                let _ = checkpoint.merge();
            }
            let _ = adapter::read(&bench.path("m"), &tiny());
            files[which].clone()
        });
    }

    #[test]
    fn a_file_cut_short_says_where_it_ends_and_where_it_should() {
        let (bench, _) = spoiled(|_| ());
        let path = bench.path("m").join(SINGLE);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 10]).unwrap();
        let message = bench.message(&read(&bench.path("m"), &tiny()).unwrap_err());
        let (is, should) = (bytes.len() - 10, bytes.len());
        // By name the norm is the last tensor of the file.
        let expected = format!(
            "m/model.safetensors: cut short: it has {is} bytes, and tensor `model.norm.weight` ends at byte {should}"
        );
        assert_eq!(message, expected);

        std::fs::write(&path, &bytes[..20]).unwrap();
        let message = bench.message(&read(&bench.path("m"), &tiny()).unwrap_err());
        assert_eq!(message, "m/model.safetensors: cut short inside its header, or not a safetensors file");
        std::fs::write(&path, [&bytes[..], b"more"].concat()).unwrap();
        let message = bench.message(&read(&bench.path("m"), &tiny()).unwrap_err());
        assert_eq!(message, "m/model.safetensors: longer than its header says");
    }

    #[test]
    fn the_head_of_a_tied_model_is_accepted_only_as_a_copy_of_the_embedding() {
        let tied = Config { tie_word_embeddings: true, ..tiny() };
        let (bench, _) = spoiled(|_| ());
        let message = bench.message(&read(&bench.path("m"), &tied).unwrap_err());
        assert_eq!(
            message,
            "m/model.safetensors: tensor `lm_head.weight` differs from `model.embed_tokens.weight`, but `tie_word_embeddings` is true"
        );
        let (bench, _) = spoiled(|weights| {
            let copy = weights[EMBEDDING].clone();
            weights.insert(HEAD.into(), copy);
        });
        let read = read(&bench.path("m"), &tied).unwrap();
        assert!(!read.contains_key(HEAD));
    }

    #[test]
    fn gpt2_files_read_without_the_prefix_and_with_the_buffers_that_old_ones_have() {
        let bench = Bench::new();
        let shape = Shape { family: Family::Gpt2, layers: 1, hidden: 4, heads: 2, context: 3, ..Shape::default() };
        let config = shape.config(5).unwrap();
        let weights = init(&config, 1, 0.02);
        let mut old: Weights = gpt2::join(&config, &weights)
            .unwrap()
            .into_iter()
            .map(|(name, weight)| (name.strip_prefix(gpt2::PREFIX).unwrap().to_owned(), weight))
            .collect();
        old.insert("h.0.attn.bias".into(), Weight { shape: vec![1, 1, 3, 3], values: vec![1.0; 9] });
        old.insert("h.0.attn.masked_bias".into(), Weight { shape: vec![1], values: vec![-10_000.0] });
        bench.file("m/.keep", "");
        // Written as a Llama, whose tensors keep their names.
        write(&bench.path("m"), &tiny(), &old, Dtype::F32).unwrap();
        assert_eq!(read(&bench.path("m"), &config).unwrap(), weights);
        old.remove("h.0.mlp.c_fc.weight");
        write(&bench.path("m"), &tiny(), &old, Dtype::F32).unwrap();
        let message = bench.message(&read(&bench.path("m"), &config).unwrap_err());
        assert_eq!(message, "m: no tensor `transformer.h.0.mlp.c_fc.weight` of shape [4, 16]");
    }

    #[test]
    fn new_weights_have_their_deviations_and_depend_on_nothing_else() {
        let shape = Shape { layers: 8, hidden: 128, ..Shape::default() };
        let weights = init(&shape.config(100).unwrap(), 3, 0.02);
        let deviation = |name: &str| {
            let values = &weights[name].values;
            (values.iter().map(|value| value * value).sum::<f32>() / values.len() as f32).sqrt()
        };
        assert!((deviation("model.layers.0.self_attn.q_proj.weight") - 0.02).abs() < 0.0005);
        // 0.02 / sqrt(2 * 8) = 0.005
        assert!((deviation("model.layers.7.mlp.down_proj.weight") - 0.005).abs() < 0.0001);
        assert!(weights["model.norm.weight"].values.iter().all(|value| *value == 1.0));
        let deeper = init(&Shape { layers: 8, context: 999, ..shape }.config(100).unwrap(), 3, 0.02);
        assert_eq!(weights, deeper);
    }
}
