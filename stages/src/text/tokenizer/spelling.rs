//! How decoders read tokens: which bytes a token stands for, and whether its place matters.
//! Knows nothing of ids.

use serde_json::Value;
use tokenizers::decoders::DecoderWrapper;

/// Does it put runs of tokens such as `<0xE4>` together to characters?
pub(super) fn falls_back_to_bytes(decoder: &Value) -> bool {
    decoders(decoder).any(|step| step["type"] == "ByteFallback")
}

/// Does every token give the same text wherever it stands? Without a decoder, tokens are put together with blanks.
pub(super) fn reads_anywhere(decoder: &Value) -> bool {
    let is_local = |step: &Value| match step["type"].as_str() {
        Some("Sequence" | "ByteLevel" | "ByteFallback" | "Fuse" | "Replace") => true,
        Some("Strip") => step["start"] == 0 && step["stop"] == 0,
        _ => false,
    };
    decoders(decoder).all(is_local)
}

/// The byte of a token such as `<0xE4>`.
pub(super) fn fallback_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}

pub(super) fn decodes_bytes(decoder: &DecoderWrapper) -> bool {
    match decoder {
        DecoderWrapper::ByteLevel(_) => true,
        DecoderWrapper::Sequence(steps) => steps.get_decoders().iter().any(decodes_bytes),
        _ => false,
    }
}

/// The bytes of a token whose letters each stand for one; none where a letter stands for none.
pub(super) fn bytes_of(token: &str) -> Option<Vec<u8>> {
    token.chars().map(byte_of).collect()
}

/// GPT-2 writes every byte as a letter that shows: itself where it does, else one of those from U+0100 on, in turn.
fn byte_of(letter: char) -> Option<u8> {
    let shows = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    match u32::from(letter) {
        code @ 0..=0xFF => u8::try_from(code).ok().filter(shows),
        code => (0..=u8::MAX).filter(|byte| !shows(byte)).nth((code - 0x100) as usize),
    }
}

/// A decoder and the decoders it is made of.
fn decoders(decoder: &Value) -> impl Iterator<Item = &Value> {
    std::iter::once(decoder).chain(decoder["decoders"].as_array().into_iter().flatten())
}

#[cfg(test)]
mod tests {
    use crate::{
        bench::{fixture, shared},
        text::tokenizer::Tokenizer,
    };

    #[test]
    fn the_spellings_of_tokens_are_the_bytes_of_the_text() {
        let text = "Once upon a time, 12 naïve 猫 said \"🙂\"\n\tto   them.";
        let mut tokenizers = vec![byte_level()];
        tokenizers.extend(shared("models/stories260K/hf").map(|folder| Tokenizer::open(&folder).unwrap()));
        for tokenizer in &tokenizers {
            let ids = tokenizer.encode_onward(text).unwrap();
            let bytes: Vec<u8> = ids.iter().flat_map(|id| tokenizer.spelling(*id).unwrap()).collect();
            assert_eq!(String::from_utf8(bytes).unwrap(), text);
            assert_eq!(tokenizer.spelling(u32::try_from(tokenizer.vocab_size()).unwrap()), None);
        }
        let characters = Tokenizer::open(&fixture("llama")).unwrap();
        assert_eq!(characters.spelling(2).unwrap(), b"<think>");
        assert_eq!(characters.spelling(characters.encode("~").unwrap()[0]).unwrap(), b"~");
    }

    fn byte_level() -> Tokenizer {
        let special = crate::text::train::Special { pad: None, eos: Some("<eos>".into()), whole: Vec::new() };
        crate::text::train::bpe(&["Once upon a time, naïve 猫".into()], &special, 280).unwrap()
    }
}
