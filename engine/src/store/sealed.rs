//! Small documents that carry the digest of their own text, so that an altered one is known.
//! Knows nothing of what they say.

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::digest::Digest;

/// A document's bytes, with its seal. The purpose keeps one kind of document from passing for another.
pub(super) fn to_bytes(purpose: &str, document: &impl Serialize) -> Vec<u8> {
    let document = serde_json::to_value(document).expect("plain data with text for keys");
    let seal = Digest::of_document(purpose, &document);
    format!("{:#}\n", json!({ "seal": seal, "document": document })).into_bytes()
}

/// The document in these bytes, unless they were altered.
pub(super) fn from_bytes<T: DeserializeOwned>(purpose: &str, bytes: &[u8]) -> Option<T> {
    let mut sealed: Value = serde_json::from_slice(bytes).ok()?;
    let document = sealed["document"].take();
    let is_unaltered = sealed["seal"] == Digest::of_document(purpose, &document).to_string();
    if is_unaltered { serde_json::from_value(document).ok() } else { None }
}
