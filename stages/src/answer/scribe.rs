//! From what is asked to a prompt's tokens, and from a token to how it is spelled.
//! Knows nothing of weights: it is cheap to clone, for whoever waits while the model computes.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use serde_json::{Map, Value};

use crate::{
    nn::config::Config,
    text::{check::Finding, date::Date, encode, tokenizer::Tokenizer},
};

/// Reads and writes for a model.
#[derive(Debug, Clone)]
pub struct Scribe {
    tokenizer: Tokenizer,
    /// Tokens that a prompt and its completion have together at the most.
    pub context: usize,
    pub vocab_size: usize,
}

/// Bytes of text for each token of the context that are encoded at the most: real text has about four a token. What is
/// longer does not fit, and while it is encoded a byte takes up to 400 bytes of memory.
const BYTES_PER_TOKEN: usize = 16;

/// A token by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spelling {
    /// As text; `bytes:\xe2\x82` where its bytes are no characters, as OpenAI has it.
    pub text: String,
    /// What it adds to an answer: none of a special token, which is left out.
    pub bytes: Option<Vec<u8>>,
}

impl Scribe {
    /// # Errors
    /// Never: whoever comes to need one finds it here.
    pub fn new(tokenizer: &Tokenizer, config: &Config) -> Result<Self> {
        // Whoever asks is told the day, where a template tells it.
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let today = Date::of_unix(seconds);
        let tokenizer = tokenizer.clone().writing(|template| template.with(Map::new(), Some(today)));
        // The check is for training: what somebody asks is answered as it was asked.
        let tokenizer = tokenizer.accepting(Finding::ALL.into());
        Ok(Self { tokenizer, context: config.context(), vocab_size: config.vocab_size })
    }

    /// Bytes of a prompt that is worth encoding.
    #[must_use]
    pub fn most_bytes(&self) -> usize {
        self.context.saturating_mul(BYTES_PER_TOKEN)
    }

    /// What a text is continued from: with the bos token where the tokenizer puts one.
    ///
    /// # Errors
    /// When the tokenizer has no token for a character.
    pub fn text(&self, text: &str) -> Result<Vec<u32>> {
        let row = Map::from_iter([("prompt".to_owned(), Value::from(text))]);
        encode::prompt(&self.tokenizer, &row)
    }

    /// What the assistant's next turn is continued from: the whole conversation by the chat template, encoded at
    /// once, as transformers' `apply_chat_template` does.
    ///
    /// # Errors
    /// When the template refuses the messages, or the tokenizer has no token for a character.
    pub fn conversation(&self, messages: &[Value]) -> Result<Vec<u32>> {
        self.encode(&self.write(messages)?)
    }

    /// A whole conversation by the chat template, up to where the assistant's next turn begins.
    ///
    /// # Errors
    /// When the template refuses the messages.
    pub fn write(&self, messages: &[Value]) -> Result<String> {
        encode::opening(&self.tokenizer, messages, &Map::new())
    }

    /// The tokens of what [`Scribe::write`] wrote.
    ///
    /// # Errors
    /// When the tokenizer has no token for a character.
    pub fn encode(&self, written: &str) -> Result<Vec<u32>> {
        encode::opened(&self.tokenizer, written)
    }

    /// Tokens as they were given.
    ///
    /// # Errors
    /// Names the first that the model does not have.
    pub fn tokens(&self, ids: Vec<u32>) -> Result<Vec<u32>> {
        if let Some(id) = ids.iter().find(|id| **id as usize >= self.vocab_size) {
            anyhow::bail!("token {id} is not in the model's vocabulary of {}", self.vocab_size);
        }
        Ok(ids)
    }

    /// Tokens that fit behind a prompt.
    ///
    /// # Errors
    /// When none does, or the prompt is empty.
    pub fn room(&self, prompt: &[u32]) -> Result<usize> {
        ensure!(!prompt.is_empty(), "the prompt is empty: there is nothing to continue");
        let length = prompt.len();
        ensure!(
            length < self.context,
            "the prompt has {length} tokens, and prompt and completion together have room for {}",
            self.context
        );
        Ok(self.context - length)
    }

    /// The text of tokens, special ones left out.
    ///
    /// # Errors
    /// When one is outside the vocabulary.
    pub fn read(&self, ids: &[u32]) -> Result<String> {
        self.tokenizer.decode_plain(ids)
    }

    /// A token by itself.
    #[must_use]
    pub fn spell(&self, id: u32) -> Spelling {
        let bytes = self.tokenizer.spelling(id).unwrap_or_default();
        let text = String::from_utf8(bytes.clone()).unwrap_or_else(|_| {
            let codes: Vec<String> = bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect();
            format!("bytes:{}", codes.concat())
        });
        Spelling { text, bytes: (!self.tokenizer.is_special(id)).then_some(bytes) }
    }

    /// Does it add to the text? Vocabularies of models are rounded up: ids behind the tokenizer's last have no text. Of
    /// special tokens none is told.
    pub(super) fn is_told(&self, id: u32) -> bool {
        self.tokenizer.has_token(id) && !self.tokenizer.is_special(id)
    }

    /// As it writes for whoever asks: with the day told, and nothing checked.
    #[must_use]
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{bench::fixture, data::checkpoint::Checkpoint};

    fn scribe() -> Scribe {
        let Checkpoint { config, tokenizer, .. } = Checkpoint::open(&fixture("llama")).unwrap();
        Scribe::new(&tokenizer, &config).unwrap()
    }

    #[test]
    fn what_fits_behind_a_prompt_is_what_the_context_leaves() {
        let scribe = scribe();
        assert_eq!(scribe.room(&[5; 127]).unwrap(), 1);
        assert_eq!(
            scribe.room(&[5; 128]).unwrap_err().to_string(),
            "the prompt has 128 tokens, and prompt and completion together have room for 128"
        );
        assert!(scribe.room(&[]).is_err());
    }

    #[test]
    fn a_token_is_spelled_by_its_text_and_its_bytes() {
        let scribe = scribe();
        assert_eq!(scribe.spell(2), Spelling { text: "<think>".into(), bytes: Some(b"<think>".to_vec()) });
        // Special: left out of answers.
        assert_eq!(scribe.spell(0), Spelling { text: "<pad>".into(), bytes: None });
    }

    #[test]
    fn without_a_template_turns_are_lines() {
        // The fixture has no upper-case letters, which the default template begins its lines with.
        let error = scribe().conversation(&[json!({ "role": "user", "content": "1" })]).unwrap_err().to_string();
        assert!(error.starts_with("the tokenizer has no token for 'U'"), "{error}");
    }
}
