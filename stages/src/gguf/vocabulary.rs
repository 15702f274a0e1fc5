//! A Hugging Face tokenizer as llama.cpp has it: byte-level BPE, or `SentencePiece` with byte fallback.
//! Knows nothing of models beyond the size of their vocabulary.

use std::collections::HashMap;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value as Json;

use super::file::Value;

/// Kinds of tokens: `llama_token_type`.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// How text is cut before pairs are merged: Hugging Face's expression, llama.cpp's name for it, and its name where
/// a word that is a token is merged pair by pair all the same.
const CUTS: [(&str, &str, &str); 3] = [
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "",
        "qwen2",
    ),
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "llama-bpe",
        "smaug-bpe",
    ),
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "tekken",
        "",
    ),
];

/// `tokenizer.ggml.*` for the text of a `tokenizer.json`, up to the special tokens' ids. Ids from the tokenizer's end
/// to `vocab_size` are filled with tokens that nothing uses.
///
/// # Errors
/// When llama.cpp would cut text otherwise, and why.
pub fn metadata(json: &Json, vocab_size: usize) -> Result<Vec<(String, Value)>> {
    let model = &json["model"];
    let is_bpe = model["type"] == "BPE" || model.get("merges").is_some();
    ensure!(
        is_bpe,
        "llama.cpp has no tokenizers of type {}; it has BPE, byte-level or with byte fallback",
        model["type"]
    );
    let is_pieces = model["byte_fallback"] == true;
    let vocabulary = Vocabulary::read(json, vocab_size, is_pieces)?;
    let mut all = Vec::new();
    let mut set = |key: &str, value: Value| all.push((format!("tokenizer.ggml.{key}"), value));
    if is_pieces {
        set("model", Value::Text("llama".into()));
        set("pre", Value::Text("default".into()));
        set("add_space_prefix", Value::Bool(adds_space(json)?));
        set("scores", Value::F32s(vocabulary.scores(&merges(model)?)));
    } else {
        set("model", Value::Text("gpt2".into()));
        set("pre", Value::Text(cut(json)?.into()));
        let merges = merges(model)?.into_iter().map(|[left, right]| format!("{left} {right}"));
        set("merges", Value::Texts(merges.collect()));
    }
    if let Some(id) = model["unk_token"].as_str().and_then(|token| vocabulary.ids.get(token)) {
        set("unknown_token_id", Value::U32(*id as u32));
    }
    set("tokens", Value::Texts(vocabulary.tokens));
    set("token_type", Value::I32s(vocabulary.kinds));
    Ok(all)
}

struct Vocabulary {
    tokens: Vec<String>,
    kinds: Vec<i32>,
    ids: HashMap<String, usize>,
}

impl Vocabulary {
    fn read(json: &Json, vocab_size: usize, is_pieces: bool) -> Result<Self> {
        let model = &json["model"];
        let mut tokens: Vec<String> = (0..vocab_size).map(|id| format!("[PAD{id}]")).collect();
        let mut kinds = vec![UNUSED; vocab_size];
        let mut ids = HashMap::new();
        let mut put = |token: &str, id: Option<u64>, kind: i32| -> Result<()> {
            let id = id.with_context(|| format!("token {token:?} has no id"))? as usize;
            ensure!(id < vocab_size, "token {token:?} has id {id}; the model's vocabulary ends at {}", vocab_size - 1);
            ids.insert(token.to_owned(), id);
            token.clone_into(&mut tokens[id]);
            kinds[id] = kind;
            Ok(())
        };
        for (token, id) in model["vocab"].as_object().context("`tokenizer.json` has no `model.vocab`")? {
            let is_byte = token.len() == 6 && token.starts_with("<0x") && token.ends_with('>');
            let kind = match is_pieces {
                true if is_byte => BYTE,
                true if model["unk_token"] == *token => UNKNOWN,
                _ => NORMAL,
            };
            put(token, id.as_u64(), kind)?;
        }
        for token in json["added_tokens"].as_array().into_iter().flatten() {
            let content = token["content"].as_str().context("an added token without `content`")?;
            let kind = match token["special"] == true || looks_special(content) {
                true if is_pieces && model["unk_token"] == content => UNKNOWN,
                true => CONTROL,
                false => USER_DEFINED,
            };
            put(content, token["id"].as_u64(), kind)?;
        }
        Ok(Self { tokens, kinds, ids })
    }

    /// `SentencePiece` merges the neighbours whose joint piece has the highest score: the earlier a merge stands in
    /// the list, the higher is that of what it makes.
    fn scores(&self, merges: &[[&str; 2]]) -> Vec<f32> {
        let mut scores = vec![-1e9; self.tokens.len()];
        for (rank, [left, right]) in merges.iter().enumerate().rev() {
            if let Some(id) = self.ids.get(&format!("{left}{right}")) {
                scores[*id] = -(rank as f32);
            }
        }
        scores
    }
}

/// As llama.cpp's converter has it: such a token is no text, whatever the tokenizer says of it.
fn looks_special(token: &str) -> bool {
    token == "<pad>"
        || (token.starts_with("<|") && token.ends_with("|>"))
        || (token.starts_with("<｜") && token.ends_with("｜>"))
}

/// Pairs, written as lists or, earlier, as one text with a space between.
fn merges(model: &Json) -> Result<Vec<[&str; 2]>> {
    fn one(merge: &Json) -> Option<[&str; 2]> {
        match merge {
            Json::Array(pair) => Some([pair.first()?.as_str()?, pair.get(1)?.as_str()?]),
            Json::String(text) => text.split_once(' ').map(|(left, right)| [left, right]),
            _ => None,
        }
    }
    let all = model["merges"].as_array().context("`tokenizer.json` has no `model.merges`")?;
    all.iter().map(|merge| one(merge).with_context(|| format!("{merge} is no merge"))).collect()
}

/// llama.cpp's name for how the tokenizer cuts a text.
fn cut(json: &Json) -> Result<&'static str> {
    let normalizer = &json["normalizer"];
    // Text is expected to be composed already, as by far the most is.
    let is_plain = normalizer.is_null() || normalizer["type"] == "NFC";
    ensure!(is_plain, "llama.cpp does not have the normalizer {} with byte-level BPE", normalizer["type"]);
    let cutter = &json["pre_tokenizer"];
    let single = std::slice::from_ref(cutter);
    let steps = cutter["pretokenizers"].as_array().map_or(single, Vec::as_slice);
    let merges_all = json["model"]["ignore_merges"] != true;
    let is_bytes = |step: &Json, regex: bool| {
        step["type"] == "ByteLevel" && step["add_prefix_space"] != true && (step["use_regex"] != false) == regex
    };
    let name = match steps {
        [bytes] if is_bytes(bytes, true) && merges_all => "gpt-2",
        [digits, bytes]
            if digits["type"] == "Digits"
                && digits["individual_digits"] == true
                && is_bytes(bytes, true)
                && merges_all =>
        {
            "smollm"
        }
        [split, bytes]
            if split["type"] == "Split"
                && split["behavior"] == "Isolated"
                && split["invert"] != true
                && is_bytes(bytes, false) =>
        {
            let known = CUTS.iter().find(|(regex, ..)| split["pattern"]["Regex"] == *regex);
            known.map_or("", |(_, whole, merged)| if merges_all { merged } else { whole })
        }
        _ => "",
    };
    if name.is_empty() {
        bail!("llama.cpp would cut text otherwise than this tokenizer, whose `pre_tokenizer` is {cutter}");
    }
    Ok(name)
}

/// Does the tokenizer put a space before a text?
fn adds_space(json: &Json) -> Result<bool> {
    let normalizer = &json["normalizer"];
    let single = std::slice::from_ref(normalizer);
    let steps = normalizer["normalizers"].as_array().map_or(single, Vec::as_slice);
    let is_escape =
        |step: &Json| step["type"] == "Replace" && step["pattern"]["String"] == " " && step["content"] == "▁";
    let is_prepend = |step: &Json| step["type"] == "Prepend" && step["prepend"] == "▁";
    let cutter = &json["pre_tokenizer"];
    Ok(match steps {
        [prepend, escape] if is_prepend(prepend) && is_escape(escape) && cutter.is_null() => true,
        [escape] if is_escape(escape) && cutter.is_null() => false,
        [none] if none.is_null() && cutter["type"] == "Metaspace" && cutter["replacement"] == "▁" => {
            cutter["prepend_scheme"] != "never" && cutter["add_prefix_space"] != false
        }
        _ => bail!(
            "llama.cpp would treat spaces otherwise than this tokenizer, whose `normalizer` is {normalizer} and whose `pre_tokenizer` is {cutter}"
        ),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn bytes(regex: bool) -> Json {
        json!({ "type": "ByteLevel", "add_prefix_space": false, "use_regex": regex })
    }

    fn cut_of(pre_tokenizer: Json, ignore_merges: bool) -> String {
        let json = json!({ "pre_tokenizer": pre_tokenizer, "model": { "ignore_merges": ignore_merges } });
        cut(&json).map_or_else(|error| error.to_string(), str::to_owned)
    }

    #[test]
    fn ways_to_cut_have_llama_cpps_names() {
        let split = |regex: &str| {
            let split =
                json!({ "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false });
            json!({ "type": "Sequence", "pretokenizers": [split, bytes(false)] })
        };
        assert_eq!(cut_of(bytes(true), false), "gpt-2");
        assert_eq!(cut_of(split(CUTS[0].0), false), "qwen2");
        assert_eq!(cut_of(split(CUTS[1].0), true), "llama-bpe");
        assert_eq!(cut_of(split(CUTS[1].0), false), "smaug-bpe");
        let digits = json!({ "type": "Digits", "individual_digits": true });
        assert_eq!(cut_of(json!({ "type": "Sequence", "pretokenizers": [digits, bytes(true)] }), false), "smollm");
    }

    #[test]
    fn a_way_that_llama_cpp_does_not_have_is_refused() {
        let whole = json!({ "type": "Split", "pattern": { "Regex": "x" }, "behavior": "Isolated", "invert": false });
        let message = cut_of(json!({ "type": "Sequence", "pretokenizers": [whole, bytes(false)] }), false);
        assert!(message.starts_with("llama.cpp would cut text otherwise than this tokenizer"), "{message}");
        let words = json!({ "model": { "type": "WordLevel", "vocab": {} } });
        assert_eq!(
            metadata(&words, 4).unwrap_err().to_string(),
            "llama.cpp has no tokenizers of type \"WordLevel\"; it has BPE, byte-level or with byte fallback"
        );
    }

    #[test]
    fn a_piece_scores_by_the_first_merge_that_makes_it() {
        let json = json!({ "model": {
            "type": "BPE", "byte_fallback": true, "unk_token": "<unk>",
            "vocab": { "<unk>": 0, "<0x00>": 1, "a": 2, "b": 3, "ab": 4, "aba": 5 },
            "merges": ["a b", ["ab", "a"], ["a", "ba"]] }, "added_tokens": [{ "id": 6, "content": "<s>", "special": true }],
            "normalizer": { "type": "Sequence", "normalizers": [
                { "type": "Prepend", "prepend": "▁" }, { "type": "Replace", "pattern": { "String": " " }, "content": "▁" }] } });
        let all: HashMap<String, Value> = metadata(&json, 8).unwrap().into_iter().collect();
        assert_eq!(all["tokenizer.ggml.scores"], Value::F32s(vec![-1e9, -1e9, -1e9, -1e9, 0.0, -1.0, -1e9, -1e9]));
        assert_eq!(
            all["tokenizer.ggml.token_type"],
            Value::I32s(vec![UNKNOWN, BYTE, NORMAL, NORMAL, NORMAL, NORMAL, CONTROL, UNUSED])
        );
        assert_eq!(all["tokenizer.ggml.unknown_token_id"], Value::U32(0));
        assert_eq!(all["tokenizer.ggml.add_space_prefix"], Value::Bool(true));
    }
}
