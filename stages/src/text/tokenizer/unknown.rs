//! Characters that a tokenizer has no token for: whatever the library makes of them, they are an error that names them.
//! Knows nothing of what a text is for.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow};
use serde_json::Value;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use super::Inner;

/// What the tokenizer itself does with a character it has no token for. Here that is always an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unknown {
    /// Cannot happen, or fails by itself.
    Loud,
    /// Puts this id.
    Id(u32),
    /// Leaves it out.
    Dropped,
}

impl Unknown {
    /// By what `tokenizer.json` says.
    pub fn of(value: &Value, inner: &Inner) -> Self {
        let model = &value["model"];
        let by_name = model["unk_token"].as_str().and_then(|token| inner.token_to_id(token));
        let by_id = model["unk_id"].as_u64().and_then(|id| u32::try_from(id).ok());
        if let Some(id) = by_name.or(by_id) {
            return Self::Id(id);
        }
        let is_bpe = model["type"] == "BPE" || model.get("merges").is_some();
        let covers_bytes = || ByteLevel::alphabet().into_iter().all(|c| inner.token_to_id(&c.to_string()).is_some());
        if is_bpe && model["byte_fallback"] != true && !covers_bytes() { Self::Dropped } else { Self::Loud }
    }

    /// The ids of a text by `inner`, which is `known` or differs from it in what it puts before a text.
    ///
    /// # Errors
    /// Names the first character without a token.
    pub fn encode(self, text: &str, inner: &Inner, known: &Inner) -> Result<Vec<u32>> {
        let doubtful = |ids: &[u32]| match self {
            Self::Loud => false,
            Self::Id(id) => ids.contains(&id),
            Self::Dropped => true,
        };
        match inner.encode_fast(text, false) {
            Ok(encoding) if !doubtful(encoding.get_ids()) => Ok(encoding.get_ids().to_vec()),
            Ok(_) => {
                let encoding = inner.encode(text, false).map_err(|error| anyhow!(error))?;
                match self.lost(text, &encoding, known) {
                    Some(at) => Err(no_token(text, at)),
                    None => Ok(encoding.get_ids().to_vec()),
                }
            }
            Err(error) => {
                let refused = |c: char| inner.encode_fast(c.encode_utf8(&mut [0; 4]) as &str, false).is_err();
                match text.char_indices().find(|(_, c)| refused(*c)) {
                    Some((at, _)) => Err(no_token(text, at)),
                    None => Err(anyhow!(error)),
                }
            }
        }
    }

    /// Where in the text the tokenizer silently lost a character.
    fn lost(self, text: &str, encoding: &tokenizers::Encoding, known: &Inner) -> Option<usize> {
        let spans = encoding.get_offsets();
        match self {
            Self::Loud => None,
            Self::Id(id) => {
                // The text may hold the unknown token itself, spelled out.
                let spelled = known.id_to_token(id).unwrap_or_default();
                let mut tokens = encoding.get_ids().iter().zip(spans);
                tokens.find(|(token, (from, to))| **token == id && text[*from..*to] != spelled).map(|(_, (at, _))| *at)
            }
            Self::Dropped => {
                // The library's offsets are wrong behind a dropped character, so each one is asked for alone.
                let mut spelled = vec![false; text.len()];
                for token in known.get_added_tokens_decoder().values() {
                    for (at, found) in text.match_indices(&token.content) {
                        spelled[at..at + found.len()].fill(true);
                    }
                }
                let cuts_blanks = known.get_pre_tokenizer().is_some();
                let nothing = |c: char| {
                    known.encode_fast(c.encode_utf8(&mut [0; 4]) as &str, false).is_ok_and(|made| made.is_empty())
                };
                let mut asked = BTreeMap::new();
                let mut dropped =
                    |c: char| *asked.entry(c).or_insert_with(|| !(cuts_blanks && c.is_whitespace()) && nothing(c));
                text.char_indices().find(|(at, c)| !spelled[*at] && dropped(*c)).map(|(at, _)| at)
            }
        }
    }
}

fn no_token(text: &str, at: usize) -> anyhow::Error {
    let c = text[at..].chars().next().unwrap_or_default();
    let position = text[..at].chars().count() + 1;
    let start = text[..at].char_indices().rev().nth(19).map_or(0, |(index, _)| index);
    let around: String = text[start..].chars().take(40).collect();
    anyhow!(
        "the tokenizer has no token for {c:?} (U+{:04X}), character {position} of the text, in {around:?}",
        u32::from(c)
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::text::tokenizer::tests::{bare, of};

    #[test]
    fn a_character_without_a_token_is_an_error_whatever_the_library_makes_of_it() {
        let silent = [
            // An unknown token.
            bare(json!({ "type": "BPE", "vocab": { "a": 0, "b": 1, "?": 2 }, "merges": [], "unk_token": "?" })),
            // Nothing at all.
            bare(json!({ "type": "BPE", "vocab": { "a": 0, "b": 1, "?": 2 }, "merges": [] })),
        ];
        for json in silent {
            let tokenizer = of(&json);
            assert_eq!(tokenizer.encode("ab?a").unwrap(), [0, 1, 2, 0]);
            assert_eq!(
                tokenizer.encode("abéa").unwrap_err().to_string(),
                "the tokenizer has no token for 'é' (U+00E9), character 3 of the text, in \"abéa\""
            );
        }
    }
}
