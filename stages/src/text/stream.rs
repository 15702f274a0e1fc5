//! Text that comes token by token: as much of it as no later token can change.
//! Knows nothing of where the tokens come from.

use anyhow::Result;

use crate::text::tokenizer::{SpecialTokens, Tokenizer};

/// Tokens that wait for a later one at the most. A character has four bytes, but some tokenizers read a run of byte
/// tokens as one; each token that comes reads all that wait, so that a run without an end would take ever longer.
const MOST_HELD: usize = 256;

/// Decodes a completion while it grows. All that [`Stream::push`] and [`Stream::finish`] give, one after another, is
/// what [`Tokenizer::decode_after`] makes of the tokens at once. Half a character is never given, but for what is none
/// after 256 tokens.
#[derive(Debug, Clone)]
pub struct Stream {
    tokenizer: Tokenizer,
    special: SpecialTokens,
    /// What was decoded before, so far as the text of the next tokens depends on it.
    before: Vec<u32>,
    /// Not given yet: a later token may still decide what they read as.
    held: Vec<u32>,
}

impl Stream {
    /// A completion that goes on from `before`, its prompt.
    #[must_use]
    pub fn new(tokenizer: &Tokenizer, before: &[u32], special: SpecialTokens) -> Self {
        let before = tokenizer.without_bos(before).to_vec();
        Self { tokenizer: tokenizer.clone(), special, before, held: Vec::new() }
    }

    /// Adds a token; the text that is certain now and was not before, often none.
    ///
    /// # Errors
    /// When the id is outside the vocabulary; the stream is then as it was.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.held.push(id);
        let read = self.read();
        match read {
            Ok(text) if self.is_certain(&text) || self.held.len() == MOST_HELD => {
                // What begins a text may read in its own way, so some text always stays before what comes.
                if self.tokenizer.decode_by(&self.held, self.special)?.is_empty() {
                    self.before.append(&mut self.held);
                } else {
                    self.before = std::mem::take(&mut self.held);
                }
                Ok(text)
            }
            Ok(_) => Ok(String::new()),
            Err(error) => {
                self.held.pop();
                Err(error)
            }
        }
    }

    /// The rest, as it reads when nothing more comes.
    ///
    /// # Errors
    /// Never, as every token was decoded when it was pushed; but decoding may fail by its type.
    pub fn finish(self) -> Result<String> {
        self.read()
    }

    fn read(&self) -> Result<String> {
        self.tokenizer.added(&self.before, &self.held, self.special)
    }

    /// Bytes that are no character yet read as U+FFFD. A run of byte tokens is one text or all U+FFFD, by its end.
    fn is_certain(&self, text: &str) -> bool {
        let seen = |id: &&u32| self.special == SpecialTokens::Kept || !self.tokenizer.is_special(**id);
        !text.ends_with('\u{fffd}') && !self.held.iter().rfind(seen).is_some_and(|id| self.tokenizer.is_byte(*id))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;
    use crate::bench::shared;

    /// Asserts that tokens pushed one by one read as at once, and that no piece but the last ends in half a character.
    fn streams_as_at_once(tokenizer: &Tokenizer, before: &[u32], ids: &[u32]) {
        let mut stream = Stream::new(tokenizer, before, SpecialTokens::Kept);
        let mut text = String::new();
        for id in ids {
            let piece = stream.push(*id).unwrap();
            assert!(!piece.ends_with('\u{fffd}'), "{piece:?}");
            text += &piece;
        }
        text += &stream.finish().unwrap();
        assert_eq!(text, tokenizer.decode_after(before, ids).unwrap(), "{before:?} and then {ids:?}");
    }

    const TEXT: &str = "Once upon a time,  there was\n\na 猫 named 👩‍👩‍👧!\t\u{fffd}x <s>हिन्दी</s> ";

    /// As Llama-2's: rare characters are one token a byte.
    fn byte_fallback() -> Tokenizer {
        let mut vocab = Map::new();
        let bytes = (0..=255).map(|byte| format!("<0x{byte:02X}>"));
        for token in ["<unk>".to_owned()].into_iter().chain(bytes).chain(["▁", "a", "▁a"].map(str::to_owned)) {
            vocab.insert(token, json!(vocab.len()));
        }
        let special = json!({ "id": 0, "content": "<unk>", "single_word": false, "lstrip": false, "rstrip": false,
                              "normalized": false, "special": true });
        let json = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [special],
            "normalizer": { "type": "Sequence", "normalizers": [
                { "type": "Prepend", "prepend": "▁" },
                { "type": "Replace", "pattern": { "String": " " }, "content": "▁" } ] },
            "pre_tokenizer": null, "post_processor": null,
            "decoder": { "type": "Sequence", "decoders": [
                { "type": "Replace", "pattern": { "String": "▁" }, "content": " " }, { "type": "ByteFallback" },
                { "type": "Fuse" }, { "type": "Strip", "content": " ", "start": 1, "stop": 0 } ] },
            "model": { "type": "BPE", "vocab": vocab, "merges": [["▁", "a"]], "unk_token": "<unk>",
                       "byte_fallback": true, "fuse_unk": true },
        });
        Tokenizer::new(json.to_string(), Map::new()).unwrap()
    }

    #[test]
    fn a_completion_read_token_by_token_is_the_completion_read_at_once() {
        let mut tokenizers = vec![byte_fallback()];
        if let Some(folder) = shared("models/stories260K/hf") {
            tokenizers.push(Tokenizer::open(&folder).unwrap());
        }
        if let Some(path) = shared("tokenizers/qwen2.5/tokenizer.json.gz") {
            let mut json = String::new();
            let mut file = flate2::read::GzDecoder::new(std::fs::File::open(path).unwrap());
            std::io::Read::read_to_string(&mut file, &mut json).unwrap();
            tokenizers.push(Tokenizer::new(json, Map::new()).unwrap());
        }
        for tokenizer in &tokenizers {
            let ids = tokenizer.encode(TEXT).unwrap();
            for border in 0..ids.len() {
                streams_as_at_once(tokenizer, &ids[..border], &ids[border..]);
            }
        }
    }

    #[test]
    fn tokens_that_no_text_encodes_to_stream_as_at_once_too() {
        let tokenizer = byte_fallback();
        let mut stream = crate::random::Stream::new(&[5]);
        for _ in 0..500 {
            // Mostly bytes, most of them of several-byte characters.
            let ids: Vec<u32> = (0..12)
                .map(|_| {
                    if stream.below(3) == 0 {
                        257 + stream.below(3) as u32
                    } else {
                        [0xe7, 0x8c, 0xab, 0xf0, 0x41, 0x0a][stream.below(6)] + 1
                    }
                })
                .collect();
            streams_as_at_once(&tokenizer, &ids[..4], &ids[4..]);
        }
    }

    #[test]
    fn a_character_of_four_tokens_comes_when_it_is_whole() {
        let tokenizer = byte_fallback();
        let ids = tokenizer.encode_onward("a🙂a").unwrap();
        let mut stream = Stream::new(&tokenizer, &[258], SpecialTokens::Kept);
        let pieces: Vec<String> = ids.iter().map(|id| stream.push(*id).unwrap()).collect();
        assert_eq!(pieces, ["a", "", "", "", "", "🙂a"]);
    }

    #[test]
    fn special_tokens_are_hidden_on_demand() {
        let tokenizer = byte_fallback();
        let mut stream = Stream::new(&tokenizer, &[], SpecialTokens::Hidden);
        let pieces: Vec<String> = [0, 258, 0, 259].into_iter().map(|id| stream.push(id).unwrap()).collect();
        assert_eq!(format!("{}{}", pieces.concat(), stream.finish().unwrap()), "a a");
    }

    #[test]
    fn an_id_outside_the_vocabulary_leaves_the_stream_as_it_was() {
        let tokenizer = byte_fallback();
        let mut stream = Stream::new(&tokenizer, &[], SpecialTokens::Kept);
        assert!(stream.push(9999).is_err());
        assert_eq!(stream.push(258).unwrap(), "a");
    }
}
