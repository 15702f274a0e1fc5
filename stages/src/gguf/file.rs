//! A GGUF file, version 3: metadata, the places of tensors, and their bytes.
//! Knows nothing of models.
//!
//! The format is described in ggml's `docs/gguf.md`. All numbers are little-endian.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use anyhow::{Context as _, Result};

use super::block::{self, Type};

const MAGIC: &[u8; 4] = b"GGUF";
const VERSION: u32 = 3;
/// Where tensors may begin, in bytes from the first of them.
const ALIGNMENT: usize = 32;

/// A value of the metadata.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
}

/// A tensor to write: its rows are the last axis, as everywhere here; GGUF lists the axes in reverse.
pub struct Tensor<'a> {
    pub name: String,
    pub shape: Vec<usize>,
    pub kind: Type,
    pub values: std::borrow::Cow<'a, [f32]>,
}

/// Writes the file, the same bytes for the same content.
///
/// # Errors
/// When it cannot be written.
pub fn write(path: &Path, metadata: &[(String, Value)], tensors: &[Tensor]) -> Result<()> {
    let mut head = Vec::new();
    head.extend(MAGIC);
    head.extend(VERSION.to_le_bytes());
    head.extend((tensors.len() as u64).to_le_bytes());
    head.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        text(&mut head, key);
        value.encode(&mut head);
    }
    let mut offset = 0;
    for tensor in tensors {
        text(&mut head, &tensor.name);
        head.extend((tensor.shape.len() as u32).to_le_bytes());
        for axis in tensor.shape.iter().rev() {
            head.extend((*axis as u64).to_le_bytes());
        }
        head.extend(tensor.kind.id().to_le_bytes());
        head.extend((offset as u64).to_le_bytes());
        offset += tensor.kind.bytes(tensor.values.len()).next_multiple_of(ALIGNMENT);
    }
    pad(&mut head);
    let place = || format!("writing {}", path.display());
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path).with_context(place)?);
    file.write_all(&head).with_context(place)?;
    for tensor in tensors {
        let mut bytes = block::encode(&tensor.values, tensor.kind);
        pad(&mut bytes);
        file.write_all(&bytes).with_context(place)?;
    }
    file.flush().with_context(place)
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

impl Value {
    fn encode(&self, bytes: &mut Vec<u8>) {
        // Ids of `gguf_metadata_value_type`.
        const I32: u32 = 5;
        const F32: u32 = 6;
        const TEXT: u32 = 8;
        const LIST: u32 = 9;
        let mut list = |of: u32, count: usize| {
            bytes.extend(LIST.to_le_bytes());
            bytes.extend(of.to_le_bytes());
            bytes.extend((count as u64).to_le_bytes());
        };
        match self {
            Self::U32(number) => {
                bytes.extend(4_u32.to_le_bytes());
                bytes.extend(number.to_le_bytes());
            }
            Self::F32(number) => {
                bytes.extend(F32.to_le_bytes());
                bytes.extend(number.to_le_bytes());
            }
            Self::Bool(is_true) => {
                bytes.extend(7_u32.to_le_bytes());
                bytes.push((*is_true).into());
            }
            Self::Text(one) => {
                bytes.extend(TEXT.to_le_bytes());
                text(bytes, one);
            }
            Self::Texts(all) => {
                list(TEXT, all.len());
                for one in all {
                    text(bytes, one);
                }
            }
            Self::I32s(all) => {
                list(I32, all.len());
                bytes.extend(all.iter().flat_map(|one| one.to_le_bytes()));
            }
            Self::F32s(all) => {
                list(F32, all.len());
                bytes.extend(all.iter().flat_map(|one| one.to_le_bytes()));
            }
        }
    }
}
