//! The template check: what a chat template does to conversations that training on them would suffer from.
//! Knows nothing of tensors; says what it found, where, and the mend.

use schemars::{JsonSchema, schema_for};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::text::{json::Style, template::REASONING};

/// What the template check may find in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// The template writes an earlier turn anew when a turn is added, as Qwen3's, which drops old reasoning: its
    /// tokens are not those that were generated. Accepted, only the assistant's last turn is learned; with
    /// `loss: assistant` and a template with `generation` blocks, all turns as they are written at the end.
    PrefixChanged,
    /// What the template puts before an answer is not what it puts before one that is to be generated, as
    /// DeepSeek-R1-Distill's, which opens `<think>` only for the latter. Accepted, the answer is learned behind what
    /// both have in common.
    PromptMismatch,
    /// The prompt ends in `<think>` and the completion begins with it again.
    ThinkTwice,
    /// The assistant's reasoning is not in what is learned of its turn.
    ReasoningDropped,
    /// The text or the tool call of a message is not in what the template writes, or not as text.
    ContentDropped,
    /// A turn of the assistant ends without a token that ends a generation, so the policy would not learn to stop.
    /// Accepted, the tokenizer's end-of-sequence token is put behind the last turn.
    EosUntrained,
    /// The row begins with the bos token twice.
    BosDoubled,
    /// No token of the row is a target of the loss. Accepted, the row is kept and nothing is learned from it.
    EmptyMask,
}

impl Finding {
    pub const ALL: [Self; 8] = [
        Self::PrefixChanged,
        Self::PromptMismatch,
        Self::ThinkTwice,
        Self::ReasoningDropped,
        Self::ContentDropped,
        Self::EosUntrained,
        Self::BosDoubled,
        Self::EmptyMask,
    ];

    /// As written in a pipeline.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::PrefixChanged => "prefix_changed",
            Self::PromptMismatch => "prompt_mismatch",
            Self::ThinkTwice => "think_twice",
            Self::ReasoningDropped => "reasoning_dropped",
            Self::ContentDropped => "content_dropped",
            Self::EosUntrained => "eos_untrained",
            Self::BosDoubled => "bos_doubled",
            Self::EmptyMask => "empty_mask",
        }
    }

    /// What it means: its documentation, as the schema has it.
    #[must_use]
    pub fn about(self) -> String {
        let schema = schema_for!(Self).to_value();
        let choices = schema["oneOf"].as_array().into_iter().flatten();
        let text =
            choices.filter(|choice| choice["const"] == self.code()).find_map(|choice| choice["description"].as_str());
        text.unwrap_or_default().replace('\n', " ")
    }

    /// What to do about it.
    #[must_use]
    pub fn mend(self) -> &'static str {
        match self {
            Self::PrefixChanged => {
                "learn the last turn alone (`loss: last`), or give a template for training that keeps earlier turns \
                 (`template: { file: .. }`)"
            }
            Self::PromptMismatch => {
                "give a template whose generation prompt begins every answer (`template: { file: .. }`), or set the \
                 variable that it depends on (`template: { variables: .. }`)"
            }
            Self::ThinkTwice => "leave `<think>` out of the completions, or use a template that does not open it",
            Self::ReasoningDropped => "give a template for training that keeps it (`template: { file: .. }`)",
            Self::ContentDropped => {
                "leave the message out, or give a template that writes it (`template: { file: .. }`)"
            }
            Self::EosUntrained => "name the token that ends a turn (`template: { eos: .. }`)",
            Self::BosDoubled => "leave it out of the row's text, as it is put there anyway",
            Self::EmptyMask => "leave the row out, or learn more of it (`loss: all`)",
        }
    }
}

/// A finding in one row, as an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tripped {
    pub finding: Finding,
    pub what: String,
    /// Further rows with the same finding.
    pub others: usize,
}

impl std::fmt::Display for Tripped {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { finding, what, others } = self;
        let also = match others {
            0 => String::new(),
            1 => " (and so in 1 more row)".to_owned(),
            many => format!(" (and so in {many} more rows)"),
        };
        let (code, mend) = (finding.code(), finding.mend());
        write!(formatter, "{code}: {what}{also}; {mend}, or accept it: `template: {{ accept: [{code}] }}`")
    }
}

impl std::error::Error for Tripped {}

/// The tag that opens R1's reasoning.
pub(crate) const THINK: &str = "<think>";
const THOUGHT: &str = "</think>";

/// Would a completion open its reasoning a second time?
#[must_use]
pub fn thinks_twice(prompt: &str, completion: &str) -> bool {
    prompt.trim_end().ends_with(THINK) && completion.trim_start().starts_with(THINK)
}

/// The reasoning of an assistant's message: a field of its own, or what stands between R1's tags.
#[must_use]
pub fn reasoning(message: &Value) -> Option<&str> {
    let apart = REASONING.iter().find_map(|name| message[*name].as_str());
    let inside = || {
        let (before, _) = message["content"].as_str()?.rsplit_once(THOUGHT)?;
        Some(before.split_once(THINK).map_or(before, |(_, thought)| thought))
    };
    apart.or_else(inside).map(str::trim).filter(|reasoning| !reasoning.is_empty())
}

/// What of a message is not in the text that a template made of it, in words.
#[must_use]
pub fn lost(message: &Value, text: &str) -> Option<String> {
    let is_assistant = message["role"] == "assistant";
    let content = match &message["content"] {
        Value::String(content) => vec![content.as_str()],
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
        _ => Vec::new(),
    };
    for content in content {
        let said = if is_assistant { content.rsplit(THOUGHT).next().unwrap_or(content) } else { content };
        // A template may trim the ends and edit a line or two, as those that take `/no_think` out of a system prompt.
        let Some(line) = said.lines().map(str::trim).max_by_key(|line| line.len()).filter(|line| !line.is_empty())
        else {
            continue;
        };
        let quoted = |is_ascii| Style { is_ascii, ..Style::default() }.dumps(&Value::String(line.to_owned()));
        let is_there = text.contains(line)
            || [false, true].into_iter().any(|is_ascii| text.contains(quoted(is_ascii).trim_matches('"')));
        if !is_there {
            return Some(format!("the text {:?}", shortened(line)));
        }
    }
    if message["content"].is_array() && ["'type': 'text'", "\"type\": \"text\""].iter().any(|list| text.contains(list))
    {
        return Some("the parts of `content` as text; it writes them as a list".to_owned());
    }
    let calls = message["tool_calls"].as_array().into_iter().flatten();
    let mut names = calls.filter_map(|call| call["function"]["name"].as_str().or_else(|| call["name"].as_str()));
    names.find(|name| !text.contains(name)).map(|name| format!("the call of `{name}`"))
}

/// The beginning of a text, for messages.
#[must_use]
pub fn shortened(text: &str) -> String {
    const MOST: usize = 40;
    let cut = text.char_indices().nth(MOST).map(|(at, _)| at);
    cut.map_or_else(|| text.to_owned(), |at| format!("{}…", &text[..at]))
}

/// The end of a text, for messages.
#[must_use]
pub fn ending(text: &str) -> String {
    const MOST: usize = 30;
    let cut = text.char_indices().rev().nth(MOST - 1).map_or(0, |(at, _)| at);
    if cut == 0 { text.to_owned() } else { format!("…{}", &text[cut..]) }
}
