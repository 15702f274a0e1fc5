//! Makes tokenizers from text: one token a character, or byte-level BPE. Both give back every text exactly.
//! Knows nothing of rows.

use std::collections::BTreeSet;

use anyhow::{Result, anyhow, ensure};
use regex::Regex;
use serde_json::{Map, Value, json};
use tokenizers::{
    AddedToken,
    models::{TrainerWrapper, bpe::BpeTrainer},
    pre_tokenizers::byte_level::ByteLevel,
};

use crate::text::tokenizer::Tokenizer;

/// The tokens that text does not decide, in the order of their ids.
#[derive(Debug, Clone, Default)]
pub struct Special {
    pub pad: Option<String>,
    pub eos: Option<String>,
    /// Strings that are one token wherever they stand, and stay when special tokens are left out of a text.
    pub whole: Vec<String>,
}

/// Words, single digits, punctuation and blanks, as Qwen2 cuts them (transformers, `tokenization_qwen2.py`).
const WORDS: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

impl Special {
    /// All of them, each once.
    #[must_use]
    pub fn all(&self) -> Vec<&str> {
        let mut all: Vec<&str> = Vec::new();
        for token in self.pad.iter().chain(&self.eos).chain(&self.whole) {
            if !all.contains(&token.as_str()) {
                all.push(token);
            }
        }
        all
    }

    fn is_special(&self, token: &str) -> bool {
        [&self.pad, &self.eos].into_iter().flatten().any(|special| special == token)
    }

    /// Text cut at these tokens, which are left out.
    fn pieces<'a>(&self, texts: &'a [String]) -> Vec<&'a str> {
        let mut tokens = self.all();
        // The regex takes the first that fits: `<a>b` must come before `<a>`.
        tokens.sort_by_key(|token| std::cmp::Reverse(token.len()));
        if tokens.is_empty() {
            return texts.iter().map(String::as_str).collect();
        }
        let any = tokens.into_iter().map(regex::escape).collect::<Vec<_>>().join("|");
        let any = Regex::new(&any).expect("escaped text is a valid pattern");
        texts.iter().flat_map(|text| any.split(text)).filter(|piece| !piece.is_empty()).collect()
    }

    /// Entries of `added_tokens`, with ids from zero.
    fn added(&self) -> Vec<Value> {
        let entry = |(id, token): (usize, &str)| {
            json!({ "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": self.is_special(token) })
        };
        self.all().into_iter().enumerate().map(entry).collect()
    }

    fn config(&self) -> Map<String, Value> {
        let mut config = Map::new();
        config.insert("add_bos_token".into(), false.into());
        config.insert("clean_up_tokenization_spaces".into(), false.into());
        for (key, token) in [("eos_token", &self.eos), ("pad_token", &self.pad)] {
            if let Some(token) = token {
                config.insert(key.into(), token.clone().into());
            }
        }
        config.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
        config
    }
}

/// One token for each distinct character, in the order of their code points.
///
/// # Errors
/// When there is no character.
pub fn characters(texts: &[String], special: &Special) -> Result<Tokenizer> {
    let found: BTreeSet<char> = special.pieces(texts).into_iter().flat_map(str::chars).collect();
    ensure!(!found.is_empty(), "no text to take characters from");
    let tokens = special.all().into_iter().map(str::to_owned).chain(found.into_iter().map(String::from));
    let mut vocab = Map::new();
    for token in tokens {
        let id = vocab.len();
        // A special token of a single character is that character's token too.
        vocab.entry(token).or_insert(id.into());
    }
    assemble(
        special,
        &json!({ "type": "Split", "pattern": { "Regex": r"[\s\S]" }, "behavior": "Isolated", "invert": false }),
        &json!({ "type": "Fuse" }),
        // No token stands for the unknown: the library then refuses it.
        &json!({ "type": "WordLevel", "vocab": vocab, "unk_token": "" }),
    )
}

/// Byte-level BPE with `vocab_size` tokens, or fewer where the text has no more pairs that occur twice.
///
/// # Errors
/// When `vocab_size` is too small for all bytes and special tokens.
pub fn bpe(texts: &[String], special: &Special, vocab_size: usize) -> Result<Tokenizer> {
    let least = special.all().len() + 256;
    ensure!(vocab_size >= least, "`vocab_size` is {vocab_size}; all bytes and special tokens are {least} already");
    let cut = json!({ "type": "Split", "pattern": { "Regex": WORDS }, "behavior": "Isolated", "invert": false });
    let bytes = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false });
    let pre_tokenizer = json!({ "type": "Sequence", "pretokenizers": [cut, bytes] });
    let blank = json!({ "version": "1.0", "added_tokens": [], "normalizer": null, "post_processor": null, "decoder": bytes,
        "pre_tokenizer": pre_tokenizer, "truncation": null, "padding": null, "model": { "type": "BPE", "vocab": {}, "merges": [] } });
    let failed = |error: tokenizers::Error| anyhow!(error);
    let mut learner: tokenizers::Tokenizer = blank.to_string().parse().map_err(failed)?;
    let trainer = BpeTrainer::builder()
        .vocab_size(vocab_size)
        .min_frequency(2)
        .show_progress(false)
        .special_tokens(special.all().into_iter().map(|token| AddedToken::from(token, true)).collect())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    learner.train(&mut TrainerWrapper::BpeTrainer(trainer), special.pieces(texts).into_iter()).map_err(failed)?;
    assemble(special, &pre_tokenizer, &bytes, &serde_json::to_value(learner.get_model())?)
}

fn assemble(special: &Special, pre_tokenizer: &Value, decoder: &Value, model: &Value) -> Result<Tokenizer> {
    let json = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": special.added(),
        "normalizer": null,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": null,
        "decoder": decoder,
        "model": model,
    });
    Tokenizer::new(format!("{json:#}\n"), special.config())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn special() -> Special {
        let whole = ["<think>", "</think>", "<answer>", "</answer>"].map(str::to_owned).to_vec();
        Special { pad: Some("<pad>".into()), eos: Some("<eos>".into()), whole }
    }

    #[test]
    fn characters_get_ids_in_the_order_of_their_code_points_behind_the_special_tokens() {
        let tokenizer = characters(&["ba<think>é\n".into()], &special()).unwrap();
        // <pad> 0, <eos> 1, <think> 2, </think> 3, <answer> 4, </answer> 5, \n 6, a 7, b 8, é 9
        assert_eq!(tokenizer.vocab_size(), 10);
        assert_eq!(tokenizer.encode("bé<think>\n</answer><eos>a").unwrap(), [8, 9, 2, 6, 5, 1, 7]);
        assert_eq!((tokenizer.eos(), tokenizer.pad(), tokenizer.bos()), (Some(1), Some(0), None));
    }

    #[test]
    fn every_text_comes_back_exactly() {
        let texts = ["a b  c\n\tB 12+34=46 ▁ Ġ 日本 🙂 e\u{301} <think>x</think>".to_owned()];
        for tokenizer in [characters(&texts, &special()).unwrap(), bpe(&texts, &special(), 300).unwrap()] {
            for text in [&texts[0], "", " ", "  a", "a ", "\n\n", "<think></think>", "<eos>a<pad>", "▁Ġ"] {
                let ids = tokenizer.encode(text).unwrap();
                assert_eq!(tokenizer.decode(&ids).unwrap(), text);
            }
            let ids = tokenizer.encode("<think>a</think><eos>").unwrap();
            assert_eq!(tokenizer.decode_plain(&ids).unwrap(), "<think>a</think>", "only eos and pad are special");
        }
    }

    #[test]
    fn a_long_text_has_the_ids_that_nanogpt_gives_it() {
        let Some(path) = crate::bench::shared("tinyshakespeare/input.txt.gz") else { return };
        let mut text = String::new();
        let mut file = flate2::read::GzDecoder::new(std::fs::File::open(path).unwrap());
        std::io::Read::read_to_string(&mut file, &mut text).unwrap();
        let texts = [text];
        let tokenizer = characters(&texts, &Special::default()).unwrap();
        // nanoGPT, data/shakespeare_char/prepare.py: 65 characters, numbered as they sort.
        let mut sorted: Vec<char> = texts[0].chars().collect();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!((tokenizer.vocab_size(), sorted.len()), (65, 65));
        let began = std::time::Instant::now();
        let ids = tokenizer.encode(&texts[0]).unwrap();
        eprintln!("encoded {} characters in {:?}", ids.len(), began.elapsed());
        let expected: Vec<u32> = texts[0].chars().map(|c| sorted.binary_search(&c).unwrap() as u32).collect();
        assert!(ids == expected);
        assert!(tokenizer.decode(&ids).unwrap() == texts[0]);
        eprintln!("and decoded by {:?}", began.elapsed());
    }

    #[test]
    fn a_character_that_was_never_seen_is_an_error() {
        let tokenizer = characters(&["abc ".into()], &special()).unwrap();
        assert_eq!(
            tokenizer.encode("a cab: b").unwrap_err().to_string(),
            "the tokenizer has no token for ':' (U+003A), character 6 of the text, in \"a cab: b\""
        );
    }

    #[test]
    fn pairs_that_occur_often_become_tokens_and_digits_stay_apart() {
        let texts = vec!["the cat the hat 1234 1234 1234 ".repeat(20)];
        let tokenizer = bpe(&texts, &special(), 280).unwrap();
        assert!(tokenizer.vocab_size() <= 280);
        assert_eq!(tokenizer.encode("the").unwrap().len(), 1);
        assert_eq!(tokenizer.encode("1234").unwrap().len(), 4);
        assert_eq!(tokenizer.encode("é").unwrap().len(), 2, "bytes that were never seen have tokens");
    }

    #[test]
    fn training_again_gives_the_same_bytes() {
        let texts: Vec<String> =
            (0..400).map(|i| format!("row {i} says {} and {}", i * 7919, "ab".repeat(i % 5))).collect();
        let saved = || {
            let folder = tempfile::TempDir::new().unwrap();
            bpe(&texts, &special(), 400).unwrap().save(folder.path()).unwrap();
            std::fs::read(folder.path().join("tokenizer.json")).unwrap()
        };
        assert_eq!(saved(), saved());
    }
}
