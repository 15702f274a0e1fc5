//! Text to token ids and back, by a Hugging Face `tokenizer.json`.
//! Knows nothing of rows or chat turns.

mod prefix;
mod spelling;
mod unknown;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Debug, Formatter},
    fs,
    ops::Range,
    path::Path,
    sync::Arc,
};

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::{Map, Value};

use self::unknown::Unknown;
use crate::{
    data::regular,
    text::{
        check::Finding,
        template::{self, Template},
    },
};

type Inner = tokenizers::Tokenizer;

/// A tokenizer with the special tokens and the chat template that belong to it.
#[derive(Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each says something of the files that was found out once")]
pub struct Tokenizer {
    /// For text that begins a sequence.
    start: Arc<Inner>,
    /// For text that goes on from tokens already there: puts no space before it.
    onward: Arc<Inner>,
    /// The bytes of `tokenizer.json`, saved again as they were.
    json: Arc<str>,
    /// `tokenizer_config.json`.
    config: Arc<Map<String, Value>>,
    template: Template,
    has_template: bool,
    is_edited: bool,
    /// By their names in `tokenizer_config.json`, such as `eos_token`.
    special_tokens: Arc<BTreeMap<String, String>>,
    accepted: BTreeSet<Finding>,
    vocab_size: usize,
    bos: Option<u32>,
    eos: Option<u32>,
    pad: Option<u32>,
    eos_ids: Vec<u32>,
    /// `generation_config.json`, as far as it bears on the text.
    generation: Map<String, Value>,
    unknown: Unknown,
    /// The decoder puts runs of tokens such as `<0xE4>` together to characters.
    falls_back_to_bytes: bool,
    /// What text tokens give does not depend on what stands before them.
    reads_anywhere: bool,
}

impl Debug for Tokenizer {
    fn fmt(&self, formatter: &mut Formatter) -> fmt::Result {
        formatter.debug_struct("Tokenizer").field("vocab_size", &self.vocab_size).finish_non_exhaustive()
    }
}

/// What becomes of special tokens when ids are decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialTokens {
    Kept,
    Hidden,
}

impl Tokenizer {
    /// Opens the `tokenizer.json` of a folder, with `tokenizer_config.json`, `chat_template.jinja` and
    /// `generation_config.json` where they are.
    ///
    /// # Errors
    /// Names the file that is missing or malformed.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("tokenizer.json");
        let json =
            regular::text(&path, regular::TOKENIZER_BYTES).with_context(|| format!("reading {}", path.display()))?;
        let mut config = object(&folder.join("tokenizer_config.json"))?.unwrap_or_default();
        let path_of_template = folder.join("chat_template.jinja");
        if path_of_template.exists() {
            let template = regular::text(&path_of_template, regular::TEMPLATE_BYTES)
                .with_context(|| format!("reading {}", path_of_template.display()))?;
            config.insert("chat_template".into(), template.into());
        }
        // Where older tokenizers have their special tokens.
        for (key, token) in object(&folder.join("special_tokens_map.json"))?.unwrap_or_default() {
            if SPECIAL.contains(&key.as_str()) {
                config.entry(key).or_insert(token);
            }
        }
        let mut tokenizer = Self::new(json, config).with_context(|| format!("reading {}", path.display()))?;
        // What ends a generation is the model's affair before it is the tokenizer's, as in transformers.
        for name in ["generation_config.json", "config.json"] {
            let map = object(&folder.join(name))?.unwrap_or_default();
            let ids = map.get("eos_token_id").map(ids).unwrap_or_default();
            if !ids.is_empty() {
                tokenizer.eos = tokenizer.eos.or(Some(ids[0]));
                tokenizer.eos_ids = ids;
                break;
            }
        }
        tokenizer.generation = object(&folder.join("generation_config.json"))?.unwrap_or_default();
        tokenizer.generation.retain(|key, value| bears_on_text(key) && !value.is_null());
        Ok(tokenizer)
    }

    /// A tokenizer from the texts of its two files.
    ///
    /// # Errors
    /// When they are malformed.
    pub fn new(json: String, config: Map<String, Value>) -> Result<Self> {
        let value: Value = serde_json::from_str(&json).context("not valid JSON")?;
        let start = Arc::new(load(&json)?);
        let onward = prefix::removed(&value).map(|changed| load(&changed.to_string())).transpose()?.map(Arc::new);
        let special = |key: &str| special_of(&config, key).and_then(|content| start.token_to_id(&content));
        let eos = special("eos_token");
        let own = Template::of(&config)?;
        Ok(Self {
            has_template: own.is_some(),
            is_edited: false,
            template: own.unwrap_or_else(|| Template::compile(template::DEFAULT).expect("a test compiles it")),
            special_tokens: Arc::new(
                SPECIAL.into_iter().filter_map(|key| Some((key.to_owned(), special_of(&config, key)?))).collect(),
            ),
            accepted: BTreeSet::new(),
            vocab_size: start.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1),
            bos: prefix::token(&start)?,
            eos,
            pad: special("pad_token"),
            eos_ids: eos.into_iter().collect(),
            generation: Map::new(),
            unknown: Unknown::of(&value, &start),
            falls_back_to_bytes: spelling::falls_back_to_bytes(&value["decoder"]),
            reads_anywhere: onward.is_none() && spelling::reads_anywhere(&value["decoder"]),
            onward: onward.unwrap_or_else(|| Arc::clone(&start)),
            start,
            json: json.into(),
            config: Arc::new(config),
        })
    }

    /// Writes `tokenizer.json` and `tokenizer_config.json`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let config = format!("{:#}\n", Value::Object((*self.config).clone()));
        for (name, text) in [("tokenizer.json", &*self.json), ("tokenizer_config.json", &config)] {
            let path = folder.join(name);
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(())
    }

    /// The ids of a text that begins a sequence. No special token is added; those in the text are recognised.
    ///
    /// # Errors
    /// Names a character that the tokenizer has no token for.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.unknown.encode(text, &self.start, &self.start)
    }

    /// The ids of a text that follows other tokens: as [`Tokenizer::encode`], without the space that some
    /// tokenizers put before a text.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_onward(&self, text: &str) -> Result<Vec<u32>> {
        self.unknown.encode(text, &self.onward, &self.start)
    }

    /// The text of ids, special tokens kept.
    ///
    /// # Errors
    /// When an id is outside the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.decode_by(ids, SpecialTokens::Kept)
    }

    /// The text of ids, special tokens left out.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn decode_plain(&self, ids: &[u32]) -> Result<String> {
        self.decode_by(ids, SpecialTokens::Hidden)
    }

    /// The text that `ids` add to `before`, special tokens kept. Not the same as decoding them alone where a
    /// decoder treats the start of a text in its own way. A bos token that begins `before` is no text.
    /// [`Stream`](crate::text::stream::Stream) gives the same text while it grows.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn decode_after(&self, before: &[u32], ids: &[u32]) -> Result<String> {
        self.added(self.without_bos(before), ids, SpecialTokens::Kept)
    }

    /// One above the highest id.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The token that the tokenizer puts before a text, if it does.
    #[must_use]
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that training puts behind a completion.
    #[must_use]
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The tokens that end a generation.
    #[must_use]
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos_ids
    }

    /// What the model's makers say of how to sample, under the names of `generation_config.json`.
    #[must_use]
    pub fn generation(&self) -> &Map<String, Value> {
        &self.generation
    }

    #[must_use]
    pub fn pad(&self) -> Option<u32> {
        self.pad
    }

    /// The tokenizer's own chat template, or a plain one.
    #[must_use]
    pub fn template(&self) -> &Template {
        &self.template
    }

    /// Does the tokenizer bring a chat template? Such a template writes the bos token itself.
    #[must_use]
    pub fn has_template(&self) -> bool {
        self.has_template
    }

    /// The contents of the special tokens by their names in `tokenizer_config.json`, such as `eos_token`.
    #[must_use]
    pub fn special_tokens(&self) -> &BTreeMap<String, String> {
        &self.special_tokens
    }

    /// Would it be saved otherwise than it was opened?
    #[must_use]
    pub fn is_edited(&self) -> bool {
        self.is_edited
    }

    /// Does the template check let this pass?
    #[must_use]
    pub fn accepts(&self, finding: Finding) -> bool {
        self.accepted.contains(&finding)
    }

    /// Does the id end a generation, or a completion that is learned?
    #[must_use]
    pub fn is_end(&self, id: u32) -> bool {
        self.eos == Some(id) || self.eos_ids.contains(&id)
    }

    /// With another chat template in place of its own; [`Tokenizer::save`] writes it.
    ///
    /// # Errors
    /// When it is not valid Jinja.
    pub fn with_template(self, source: String) -> Result<Self> {
        let template = Template::compile(&source)?;
        let mut config = (*self.config).clone();
        config.insert("chat_template".into(), source.into());
        Ok(Self { template, has_template: true, is_edited: true, config: Arc::new(config), ..self })
    }

    /// With another token that ends a completion, before those that end a generation already.
    ///
    /// # Errors
    /// When the vocabulary has no such token.
    pub fn with_eos(self, token: &str) -> Result<Self> {
        let id = self.start.token_to_id(token).with_context(|| format!("the tokenizer has no token {token:?}"))?;
        let mut eos_ids = vec![id];
        eos_ids.extend(self.eos_ids.iter().filter(|other| **other != id));
        let mut config = (*self.config).clone();
        config.insert("eos_token".into(), token.into());
        let mut special_tokens = (*self.special_tokens).clone();
        special_tokens.insert("eos_token".into(), token.into());
        let (config, special_tokens) = (Arc::new(config), Arc::new(special_tokens));
        Ok(Self { eos: Some(id), eos_ids, config, special_tokens, is_edited: true, ..self })
    }

    #[must_use]
    pub fn writing(self, change: impl FnOnce(Template) -> Template) -> Self {
        Self { template: change(self.template), ..self }
    }

    #[must_use]
    pub fn accepting(self, accepted: BTreeSet<Finding>) -> Self {
        Self { accepted, ..self }
    }

    #[must_use]
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.start.token_to_id(token)
    }

    #[must_use]
    pub fn has_token(&self, id: u32) -> bool {
        self.start.id_to_token(id).is_some()
    }

    /// The bytes that a token stands for in the middle of a text: of half a character, those of the half. None for an
    /// id without a token.
    #[must_use]
    pub fn spelling(&self, id: u32) -> Option<Vec<u8>> {
        let token = self.start.id_to_token(id)?;
        if self.start.get_added_vocabulary().simple_id_to_token(id).is_some() {
            return Some(token.into_bytes());
        }
        if self.falls_back_to_bytes
            && let Some(byte) = spelling::fallback_byte(&token)
        {
            return Some(vec![byte]);
        }
        let is_byte_level = self.start.get_decoder().is_some_and(spelling::decodes_bytes);
        let bytes = is_byte_level.then(|| spelling::bytes_of(&token)).flatten();
        // Behind itself, as what begins a text may be read in its own way.
        bytes.or_else(|| Some(self.decode_after(&[id], &[id]).ok()?.into_bytes()))
    }

    /// The ids of a text that begins a sequence, and which of them hold a character of the stretches, which are
    /// counted in characters: as transformers makes a mask of a template's `generation` blocks.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_stretches(&self, text: &str, stretches: &[Range<usize>]) -> Result<(Vec<u32>, Vec<bool>)> {
        let ids = self.encode(text)?;
        let encoding = self.start.encode_char_offsets(text, false).map_err(|error| anyhow!(error))?;
        let mut is_inside = vec![false; ids.len()];
        for Range { start, end } in stretches {
            let Some(first) = encoding.char_to_token(*start, 0) else { break };
            // An empty stretch ends before it begins.
            let last = end.checked_sub(1).and_then(|last| encoding.char_to_token(last, 0)).filter(|last| *last > 0);
            let after = last.map_or(ids.len(), |last| last + 1);
            is_inside.get_mut(first..after).unwrap_or_default().fill(true);
        }
        Ok((ids, is_inside))
    }

    pub(crate) fn without_bos<'a>(&self, before: &'a [u32]) -> &'a [u32] {
        if before.first().copied() == self.bos { before.get(1..).unwrap_or_default() } else { before }
    }

    /// The text that `ids` add to the text of `before`.
    pub(crate) fn added(&self, before: &[u32], ids: &[u32], special: SpecialTokens) -> Result<String> {
        if self.reads_anywhere {
            return self.decode_by(ids, special);
        }
        let whole = self.decode_by(&[before, ids].concat(), special)?;
        match whole.strip_prefix(&self.decode_by(before, special)?) {
            Some(added) => Ok(added.to_owned()),
            // A character whose bytes lie on both sides of the border.
            None => self.decode_by(ids, special),
        }
    }

    pub(crate) fn decode_by(&self, ids: &[u32], special: SpecialTokens) -> Result<String> {
        if let Some(id) = ids.iter().find(|id| self.start.id_to_token(**id).is_none()) {
            bail!("id {id} is not in the tokenizer's vocabulary of {}", self.vocab_size);
        }
        self.start.decode(ids, special == SpecialTokens::Hidden).map_err(|error| anyhow!(error))
    }

    /// Is the id left out where special tokens are hidden?
    pub(crate) fn is_special(&self, id: u32) -> bool {
        let added = self.start.get_added_vocabulary();
        added.simple_id_to_token(id).is_some_and(|token| added.is_special_token(&token))
    }

    /// Does the id stand for one byte of a character?
    pub(crate) fn is_byte(&self, id: u32) -> bool {
        self.falls_back_to_bytes
            && self.start.id_to_token(id).is_some_and(|token| spelling::fallback_byte(&token).is_some())
    }
}

fn load(json: &str) -> Result<Inner> {
    let mut inner: Inner = json.parse().map_err(|error: tokenizers::Error| anyhow!(error))?;
    // How much text goes into a sequence is for the stages to say.
    inner.with_truncation(None).map_err(|error| anyhow!(error))?;
    inner.with_padding(None);
    Ok(inner)
}

/// The special tokens that chat templates may name.
const SPECIAL: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// A special token is written as a string, or as an object with `content`.
fn special_of(config: &Map<String, Value>, key: &str) -> Option<String> {
    let value = config.get(key)?;
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
}

fn ids(value: &Value) -> Vec<u32> {
    let one = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Value::Array(many) => many.iter().filter_map(one).collect(),
        other => one(other).into_iter().collect(),
    }
}

/// The rest of a `generation_config.json` says who wrote it, how results are returned and how the work is arranged.
fn bears_on_text(key: &str) -> bool {
    !key.starts_with(['_'])
        && !["output_", "return_", "cache_"].iter().any(|prefix| key.starts_with(prefix))
        && !["transformers_version", "use_cache"].contains(&key)
}

fn object(path: &Path) -> Result<Option<Map<String, Value>>> {
    if !path.exists() {
        return Ok(None);
    }
    // Those of the tokenizer list every added token, with all that is known of it.
    let text = regular::text(path, regular::TOKENIZER_BYTES).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_str(&text).map(Some).with_context(|| format!("reading {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use serde_json::json;

    use super::*;
    use crate::{
        bench::{fixture, json_of, packed_json, shared},
        text::stream::Stream,
    };

    pub(super) fn of(json: &Value) -> Tokenizer {
        Tokenizer::new(json.to_string(), Map::new()).unwrap()
    }

    pub(super) fn bare(model: Value) -> Value {
        json!({ "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null, "post_processor": null,
                "decoder": null, "truncation": null, "padding": null, "model": model })
    }

    fn real(name: &str) -> Option<Tokenizer> {
        let path = shared(name)?;
        let mut text = String::new();
        if path.extension().is_some_and(|extension| extension == "gz") {
            flate2::read::GzDecoder::new(fs::File::open(path).unwrap()).read_to_string(&mut text).unwrap();
        } else {
            text = fs::read_to_string(path).unwrap();
        }
        Some(Tokenizer::new(text, Map::new()).unwrap())
    }

    fn ids_in(value: &Value) -> Vec<u32> {
        serde_json::from_value(value.clone()).unwrap()
    }

    fn blake3_of(bytes: impl IntoIterator<Item = u8>) -> String {
        blake3::hash(&bytes.into_iter().collect::<Vec<u8>>()).to_hex().to_string()
    }

    /// Encoding, decoding and streaming of what a fixture has, all in one go as tokenizers are large.
    fn is_as_in_python(name: &str, tokenizer: &Tokenizer, expected: &Value) {
        let texts = expected["texts"].as_array().unwrap();
        for case in texts {
            let (text, ids) = (case["text"].as_str().unwrap(), ids_in(&case["ids"]));
            let made = tokenizer.encode(text);
            if case["lost"].is_null() {
                assert_eq!(made.unwrap(), ids, "{name}: {text:?}");
            } else {
                let error = made.expect_err(text).to_string();
                assert!(error.starts_with("the tokenizer has no token for "), "{name}: {error}");
            }
        }
        for case in texts.iter().chain(expected["drawn"].as_array().unwrap()) {
            let ids = ids_in(&case["ids"]);
            let decoded = |key: &str| case[key].as_str().unwrap();
            assert_eq!(tokenizer.decode(&ids).unwrap(), decoded("decoded"), "{name}: {ids:?}");
            assert_eq!(tokenizer.decode_plain(&ids).unwrap(), decoded("decoded_plain"), "{name}: {ids:?}");
            for (special, key) in [(SpecialTokens::Kept, "decoded"), (SpecialTokens::Hidden, "decoded_plain")] {
                let mut stream = Stream::new(tokenizer, &[], special);
                let pieces: Vec<String> = ids.iter().map(|id| stream.push(*id).unwrap()).collect();
                let text = pieces.concat() + &*stream.finish().unwrap();
                assert_eq!(text, decoded(key), "{name}, token by token: {ids:?}");
            }
        }
        let megabyte = &expected["megabyte"];
        if !megabyte.is_null() {
            let whole: String = texts.iter().map(|case| case["text"].as_str().unwrap()).collect();
            let ids = tokenizer.encode(&whole.repeat(1_000_000 / whole.len())).unwrap();
            assert_eq!(ids.len(), megabyte["tokens"], "{name}");
            assert_eq!(blake3_of(ids.iter().flat_map(|id| id.to_le_bytes())), megabyte["ids"], "{name}");
            assert_eq!(blake3_of(tokenizer.decode(&ids).unwrap().bytes()), megabyte["decoded"], "{name}");
        }
    }

    #[test]
    fn ids_and_texts_are_those_of_the_python_tokenizers() {
        for name in ["gpt2", "qwen2.5", "qwen2-mini", "stories260K", "verl-digit-llama"] {
            let expected = packed_json(&fixture(&format!("tokenizers/{name}.json.gz")));
            let Some(tokenizer) = real(expected["tokenizer"].as_str().unwrap()) else { continue };
            is_as_in_python(name, &tokenizer, &expected);
        }
    }

    #[test]
    fn tokenizers_of_every_kind_are_those_of_python() {
        let kinds = packed_json(&fixture("tokenizers/kinds.json.gz"));
        for (name, expected) in kinds.as_object().unwrap() {
            let tokenizer = Tokenizer::new(expected["json"].as_str().unwrap().to_owned(), Map::new()).unwrap();
            is_as_in_python(name, &tokenizer, expected);
        }
        let bert = Tokenizer::new(kinds["wordpiece"]["json"].as_str().unwrap().to_owned(), Map::new()).unwrap();
        assert_eq!(bert.bos(), bert.token_to_id("[CLS]"));
    }

    #[test]
    fn the_published_stories_decode_byte_for_byte() {
        let Some(folder) = shared("models/stories260K") else { return };
        let tokenizer = Tokenizer::open(&folder.join("hf")).unwrap();
        assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.eos_ids()), (Some(1), Some(2), &[1, 2][..]));
        let reference = json_of(&folder.join("reference.json"));
        for story in reference["greedy"].as_array().unwrap() {
            let (ids, text) = (ids_in(&story["ids"]), story["text"].as_str().unwrap());
            assert_eq!(tokenizer.decode_plain(&ids).unwrap(), text);
            // The prompt and what follows it, taken apart at every token, are the whole.
            for border in 1..ids.len() {
                let (before, after) = ids.split_at(border);
                let start = tokenizer.decode_after(&[], &before[1..]).unwrap();
                if start.contains('\u{fffd}') {
                    continue;
                }
                let rest = tokenizer.decode_after(before, after).unwrap();
                assert_eq!(format!("{start}{rest}").replace("<s>", ""), text);
            }
        }
        for scored in reference["scored"].as_array().unwrap() {
            let ids = ids_in(&scored["ids"]);
            let encoded = tokenizer.encode(scored["text"].as_str().unwrap()).unwrap();
            assert_eq!((ids[0], &ids[1..]), (1, &encoded[..]));
        }
    }

    #[test]
    fn text_that_goes_on_gets_no_space_before_it() {
        let Some(folder) = shared("models/stories260K/hf") else { return };
        let tokenizer = Tokenizer::open(&folder).unwrap();
        let whole = tokenizer.encode("Once upon a time").unwrap();
        let apart = [tokenizer.encode("Once upon").unwrap(), tokenizer.encode_onward(" a time").unwrap()].concat();
        assert_eq!(whole, apart);
        assert_eq!(tokenizer.decode_plain(&apart).unwrap(), "Once upon a time");
    }

    #[test]
    fn an_id_outside_the_vocabulary_cannot_be_decoded() {
        let tokenizer = of(&bare(json!({ "type": "BPE", "vocab": { "a": 0 }, "merges": [] })));
        assert_eq!(
            tokenizer.decode(&[0, 7]).unwrap_err().to_string(),
            "id 7 is not in the tokenizer's vocabulary of 1"
        );
    }
}
