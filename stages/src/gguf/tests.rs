//! Files as llama.cpp's own converter writes them from the same models: `tests/reference/make_gguf_fixtures.py`.

use std::{collections::BTreeMap, path::Path};

use serde_json::{Value as Json, json};

use super::*;
use crate::bench::{Bench, fixture, json_of, shared};

const FAMILIES: [&str; 6] = ["llama", "llama3", "mistral", "qwen2", "qwen3", "smollm3"];

/// Takes a file apart by the format's description; knows as many types as are written.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let taken = self.bytes[self.at..self.at + N].try_into().unwrap();
        self.at += N;
        taken
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> usize {
        u64::from_le_bytes(self.take()) as usize
    }

    fn text(&mut self) -> String {
        let length = self.u64();
        self.at += length;
        String::from_utf8(self.bytes[self.at - length..self.at].to_vec()).unwrap()
    }

    fn value(&mut self, kind: u32) -> Json {
        match kind {
            4 => self.u32().into(),
            5 => i32::from_le_bytes(self.take()).into(),
            6 => f32::from_le_bytes(self.take()).into(),
            7 => (self.take() == [1]).into(),
            8 => self.text().into(),
            9 => {
                let (of, count) = (self.u32(), self.u64());
                (0..count).map(|_| self.value(of)).collect()
            }
            other => panic!("type {other}"),
        }
    }
}

/// Metadata, and tensors with shape, type and digest, as the fixtures have them.
fn taken_apart(path: &Path) -> (BTreeMap<String, Json>, BTreeMap<String, Json>) {
    let bytes = std::fs::read(path).unwrap();
    let mut reader = Reader { bytes: &bytes, at: 0 };
    assert_eq!((&reader.take(), reader.u32()), (b"GGUF", 3));
    let (tensors, keys) = (reader.u64(), reader.u64());
    let mut metadata = BTreeMap::new();
    for _ in 0..keys {
        let (key, kind) = (reader.text(), reader.u32());
        let value = reader.value(kind);
        assert!(metadata.insert(key, value).is_none());
    }
    let mut places = Vec::new();
    for _ in 0..tensors {
        let name = reader.text();
        let axes = reader.u32();
        let mut shape: Vec<usize> = (0..axes).map(|_| reader.u64()).collect();
        shape.reverse();
        places.push((name, shape, reader.u32(), reader.u64()));
    }
    let start = reader.at.next_multiple_of(32);
    let tensor = |(name, shape, kind, offset): (String, Vec<usize>, u32, usize)| {
        assert_eq!(offset % 32, 0);
        let count: usize = shape.iter().product();
        let (kind, size) = [("F32", 4 * count), ("F16", 2 * count), ("Q8_0", count / 32 * 34)][match kind {
            0 | 1 => kind as usize,
            _ => 2,
        }];
        let data = &bytes[start + offset..start + offset + size];
        (name, json!({ "shape": shape, "type": kind, "blake3": blake3::hash(data).to_string() }))
    };
    (metadata, places.into_iter().map(tensor).collect())
}

#[test]
fn files_are_those_of_llama_cpps_converter_to_the_byte_of_every_tensor() {
    for family in FAMILIES {
        let folder = fixture("gguf").join(family);
        let expected = json_of(&folder.join("expected.json"));
        for kind in ["f16", "q8_0"] {
            let bench = Bench::new();
            let made = bench.run::<Gguf>(json!({ "dtype": kind }), &[("policy", &folder)]).unwrap();
            let (metadata, tensors) = taken_apart(&made.join("model.gguf"));
            assert_eq!(json!(tensors), expected[kind]["tensors"], "{family} {kind}");
            let mut theirs = expected["f16"]["metadata"].as_object().unwrap().clone();
            theirs.extend(expected[kind]["metadata"].as_object().unwrap().clone());
            for (key, value) in theirs {
                match key.as_str() {
                    // From the folder's name and the number of parameters, for people.
                    "general.name" | "general.size_label" => (),
                    _ => assert_eq!(metadata.get(&key), Some(&value), "{family} {kind} {key}"),
                }
            }
            // The end of a turn, which the model's generation_config.json names beside the end of text.
            assert_eq!(metadata["tokenizer.ggml.eot_token_id"], 3);
            let again = bench.run::<Gguf>(json!({ "dtype": kind }), &[("policy", &folder)]).unwrap();
            assert_eq!(taken_apart(&again.join("model.gguf")), (metadata, tensors), "{family} {kind}");
        }
    }
}

#[test]
fn a_name_is_written_where_one_is_given() {
    let bench = Bench::new();
    let policy = fixture("gguf/llama");
    let made = bench.run::<Gguf>(json!({ "name": "Tiny", "dtype": "f32" }), &[("policy", &policy)]).unwrap();
    let (metadata, tensors) = taken_apart(&made.join("model.gguf"));
    assert_eq!((&metadata["general.name"], &metadata["general.file_type"]), (&json!("Tiny"), &json!(0)));
    assert!(tensors.values().all(|tensor| tensor["type"] == "F32"));
}

#[test]
fn an_adapter_is_folded_in() {
    let bench = Bench::new();
    let mut adapted = Checkpoint::open(&fixture("gguf/llama")).unwrap();
    let lora = serde_json::from_value(json!({ "rank": 2 })).unwrap();
    adapted.adopt(Some(&lora), 3).unwrap();
    let adapter = adapted.adapter.as_mut().unwrap();
    for weight in adapter.weights.values_mut() {
        weight.values.fill(0.125);
    }
    let [beside, whole] = ["beside", "whole"].map(|name| bench.path(name));
    for folder in [&beside, &whole] {
        std::fs::create_dir_all(folder).unwrap();
    }
    adapted.save(&beside).unwrap();
    adapted.merge().unwrap();
    adapted.save(&whole).unwrap();
    let tensors = |folder: &Path| {
        let made = bench.run::<Gguf>(json!({}), &[("policy", folder)]).unwrap();
        taken_apart(&made.join("model.gguf")).1
    };
    assert_eq!(tensors(&beside), tensors(&whole));
    assert_ne!(tensors(&whole), tensors(&fixture("gguf/llama")));
}

#[test]
fn what_llama_cpp_cannot_read_is_refused() {
    let bench = Bench::new();
    assert_eq!(
        bench.complaint::<Gguf>(json!({}), &[("policy", &fixture("llama"))]),
        "llama.cpp has no tokenizers of type \"WordLevel\"; it has BPE, byte-level or with byte fallback"
    );
    assert_eq!(
        bench.complaint::<Gguf>(json!({}), &[("policy", &fixture("gpt2"))]),
        "GGUF files of `gpt2` are not supported; supported: `llama`, `mistral`, `qwen2`, `qwen3`, `smollm3`"
    );
}

#[test]
fn the_stories_model_keeps_its_pieces() {
    let Some(folder) = shared("models/stories260K/hf") else { return };
    let bench = Bench::new();
    let made = bench.run::<Gguf>(json!({ "dtype": "q8_0" }), &[("policy", &folder)]).unwrap();
    let (metadata, _) = taken_apart(&made.join("model.gguf"));
    let of = |key: &str| metadata[&format!("tokenizer.ggml.{key}")].clone();
    assert_eq!((of("model"), of("add_space_prefix"), of("add_bos_token")), (json!("llama"), json!(true), json!(true)));
    assert_eq!((of("bos_token_id"), of("eos_token_id"), of("unknown_token_id")), (json!(1), json!(2), json!(0)));
    // tok512.bin is in the order of SentencePiece: a higher id is a later merge, and has a lower score.
    let (tokens, scores) = (of("tokens"), of("scores"));
    let longer = |id: &usize| tokens[*id].as_str().unwrap().chars().count() > 1 && *id > 258;
    let scores: Vec<f64> = (0..512).filter(longer).map(|id| scores[id].as_f64().unwrap()).collect();
    assert!(scores.len() > 100 && scores.is_sorted_by(|a, b| a > b), "{scores:?}");
}
