//! How a row becomes tokens: a prompt to go on from, or an example to learn from.
//! Knows nothing of batches or models.

mod talk;

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    data::rows::Row,
    text::{
        check::{self, Finding, Tripped},
        fields,
        template::{Conversation, Turn},
        tokenizer::Tokenizer,
    },
};
use talk::Talk;

/// A sequence to learn from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Example {
    pub ids: Vec<u32>,
    /// As long as `ids`: is this token a target of the loss?
    pub trained: Vec<bool>,
}

impl Example {
    /// `block` tokens to read from `start` on and the one behind, or what is left.
    #[must_use]
    pub fn window(&self, start: usize, block: usize) -> Self {
        let range = start..(start + block + 1).min(self.ids.len());
        Self { ids: self.ids[range.clone()].to_vec(), trained: self.trained[range].to_vec() }
    }

    /// All of it in consecutive windows, each token but the first predicted once.
    #[must_use]
    pub fn windows(&self, block: usize) -> Vec<Self> {
        (0..self.ids.len().saturating_sub(1)).step_by(block).map(|start| self.window(start, block)).collect()
    }
}

/// Which tokens of a prompt and its completion are learned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LossOn {
    /// The completion, or the assistant's turns as they would be generated, with their end-of-sequence tokens.
    #[default]
    Completion,
    /// What stands in the chat template's `{% generation %}` blocks, as transformers' `return_assistant_tokens_mask`
    /// has it; by a template without such blocks, as `completion`.
    Assistant,
    /// The assistant's last turn alone: for templates that write earlier turns anew.
    Last,
    /// Every token.
    All,
}

/// What generation starts from: the row's `prompt`, or its `messages` up to the assistant's last turn. Begins
/// with the bos token where the tokenizer adds one.
///
/// # Errors
/// When the row has neither, the tokenizer has no token for a character, or the template check finds something.
pub fn prompt(tokenizer: &Tokenizer, row: &Row) -> Result<Vec<u32>> {
    if let Some(prompt) = fields::text(row, "prompt")? {
        let ids = beginning(tokenizer, prompt)?;
        check_bos(tokenizer, &ids)?;
        return Ok(ids);
    }
    let Some(talk) = Talk::of(tokenizer, row)? else {
        bail!("no `prompt` and no `messages` to start from; the row has {}", fields::names(row));
    };
    talk.prompt()
}

/// What is learned from a row: `prompt` and `completion` with the eos token behind (unless the row is marked
/// `truncated`), else the assistant's turns of `messages`, else `text` with the eos token behind, else `ids` as
/// they are. A prompt and its completion are encoded apart, as they are when the completion is sampled. `prompt` and
/// `completion` may be lists of messages; then only the turns of the latter are learned.
///
/// # Errors
/// When the row has none of these, the tokenizer has no token for a character, or the template check finds something.
pub fn example(tokenizer: &Tokenizer, row: &Row, loss: LossOn) -> Result<Example> {
    let mut example = if let Some(completion) = fields::text(row, "completion")? {
        completed(tokenizer, row, completion)?
    } else if let Some(talk) = Talk::of(tokenizer, row)? {
        talk.example(loss)?
    } else if let Some(text) = fields::text(row, "text")? {
        let mut ids = beginning(tokenizer, text)?;
        ids.extend(tokenizer.eos());
        all_trained(ids)
    } else if let Some(ids) = fields::ids(row)? {
        all_trained(ids)
    } else {
        let wanted = "no `completion`, `messages`, `text` or `ids` to learn from";
        bail!("{wanted}; the row has {}", fields::names(row));
    };
    if !row.contains_key("ids") {
        check_bos(tokenizer, &example.ids)?;
    }
    if loss == LossOn::All {
        example.trained.fill(true);
    }
    if !example.trained.contains(&true) {
        found(tokenizer, Finding::EmptyMask, || "there is no token to learn from".to_owned())?;
    }
    Ok(example)
}

/// How many tokens a row is: those of its [`example`], or of its [`prompt`] where it has nothing more.
///
/// # Errors
/// As [`example`] and [`prompt`], but for what the template check finds.
pub fn length(tokenizer: &Tokenizer, row: &Row) -> Result<usize> {
    let only_prompt = !["completion", "messages", "text", "ids"].iter().any(|field| row.contains_key(*field));
    if only_prompt {
        return Ok(prompt(tokenizer, row)?.len());
    }
    Ok(example(tokenizer, row, LossOn::All)?.ids.len())
}

/// What the assistant's next message starts from, as transformers' `apply_chat_template` has it: all of the
/// conversation encoded at once, whoever wrote the earlier turns. `given` are `tools`, `documents` and whatever else
/// the template may ask for.
///
/// # Errors
/// When the template refuses the messages, or the tokenizer has no token for a character.
pub fn conversation(tokenizer: &Tokenizer, messages: &[Value], given: &Map<String, Value>) -> Result<Vec<u32>> {
    opened(tokenizer, &opening(tokenizer, messages, given)?)
}

/// The text of [`conversation`].
///
/// # Errors
/// When the template refuses the messages.
pub(crate) fn opening(tokenizer: &Tokenizer, messages: &[Value], given: &Map<String, Value>) -> Result<String> {
    let conversation = Conversation::new(messages, given);
    tokenizer.template().render(&conversation, messages.len(), Turn::Open, tokenizer.special_tokens())
}

/// The tokens of what [`opening`] wrote.
///
/// # Errors
/// When the tokenizer has no token for a character.
pub(crate) fn opened(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
    if tokenizer.has_template() { tokenizer.encode(text) } else { beginning(tokenizer, text) }
}

/// [`prompt`] of every row, in parallel.
///
/// # Errors
/// Names the first row, from one, that has an error.
pub fn prompts(tokenizer: &Tokenizer, rows: &[Row]) -> Result<Vec<Vec<u32>>> {
    in_order(rows, |row| prompt(tokenizer, row))
}

/// [`example`] of every row, in parallel.
///
/// # Errors
/// Names the first row, from one, that has an error.
pub fn examples(tokenizer: &Tokenizer, rows: &[Row], loss: LossOn) -> Result<Vec<Example>> {
    in_order(rows, |row| example(tokenizer, row, loss))
}

/// [`length`] of every row, in parallel.
///
/// # Errors
/// Names the first row, from one, that has an error.
pub fn lengths(tokenizer: &Tokenizer, rows: &[Row]) -> Result<Vec<usize>> {
    let tolerant = tokenizer.clone().accepting(BTreeSet::from(Finding::ALL));
    in_order(rows, |row| length(&tolerant, row))
}

fn in_order<T: Send>(rows: &[Row], each: impl Fn(&Row) -> Result<T> + Sync + Send) -> Result<Vec<T>> {
    let all: Vec<Result<T>> = rows.par_iter().map(each).collect();
    let finding = |one: &Result<T>| one.as_ref().err().and_then(|error| error.downcast_ref::<Tripped>()).cloned();
    let Some(first) = all.iter().position(Result::is_err) else { return all.into_iter().collect() };
    let tripped = finding(&all[first]).map(|tripped| {
        let others =
            all[first + 1..].iter().filter(|one| finding(one).is_some_and(|too| too.finding == tripped.finding));
        Tripped { others: others.count(), ..tripped }
    });
    let error = all.into_iter().nth(first).and_then(Result::err).expect("found above");
    Err(tripped.map_or(error, Into::into)).with_context(|| format!("row {}", first + 1))
}

/// An error, unless it is accepted.
fn found(tokenizer: &Tokenizer, finding: Finding, what: impl FnOnce() -> String) -> Result<()> {
    if tokenizer.accepts(finding) { Ok(()) } else { Err(Tripped { finding, what: what(), others: 0 }.into()) }
}

fn check_bos(tokenizer: &Tokenizer, ids: &[u32]) -> Result<()> {
    let written = tokenizer.special_tokens().get("bos_token").and_then(|token| tokenizer.token_to_id(token));
    let is_bos = |id: u32| tokenizer.bos() == Some(id) || written == Some(id);
    match ids {
        [first, second, ..] if first == second && is_bos(*first) => found(tokenizer, Finding::BosDoubled, || {
            let token = tokenizer.decode(&[*first]).unwrap_or_default();
            format!("the row begins with the bos token {token:?} twice, once by its own text")
        }),
        _ => Ok(()),
    }
}

fn completed(tokenizer: &Tokenizer, row: &Row, completion: &str) -> Result<Example> {
    let mut ids = prompt(tokenizer, row)?;
    // The tag is at most so many tokens.
    let before = tokenizer.decode(&ids[ids.len().saturating_sub(16)..])?;
    if check::thinks_twice(&before, completion) {
        let what = || "the prompt ends in `<think>`, and `completion` begins with it again".to_owned();
        found(tokenizer, Finding::ThinkTwice, what)?;
    }
    let mut trained = vec![false; ids.len()];
    if let Some(sampled) = sampled_ids(tokenizer, row, completion) {
        ids.extend(sampled);
    } else {
        ids.extend(tokenizer.encode_onward(completion)?);
        if row.get("truncated") != Some(&Value::Bool(true)) {
            ids.push(end(tokenizer)?);
        }
    }
    trained.resize(ids.len(), true);
    Ok(Example { ids, trained })
}

/// The very tokens that were sampled, where the row keeps them as `completion_ids`: encoding their text anew may
/// give others. They hold only for the tokenizer that they came from and a completion that nobody has edited since.
fn sampled_ids(tokenizer: &Tokenizer, row: &Row, completion: &str) -> Option<Vec<u32>> {
    let ids: Vec<u32> = serde_json::from_value(row.get("completion_ids")?.clone()).ok()?;
    let said = ids.strip_suffix(&[tokenizer.eos()?]).unwrap_or(&ids);
    let is_whole = said.len() < ids.len() || row.get("truncated") == Some(&Value::Bool(true));
    (is_whole && tokenizer.decode(said).ok()? == completion).then_some(ids)
}

fn beginning(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
    let mut ids: Vec<u32> = tokenizer.bos().into_iter().collect();
    ids.extend(tokenizer.encode(text)?);
    Ok(ids)
}

fn end(tokenizer: &Tokenizer) -> Result<u32> {
    tokenizer.eos().context("the tokenizer has no `eos_token`, so nothing would tell the policy to stop")
}

fn all_trained(ids: Vec<u32>) -> Example {
    Example { trained: vec![true; ids.len()], ids }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        bench::{fixture, json_of, shared},
        text::train::{self, Special},
    };

    pub(super) fn tokenizer() -> Tokenizer {
        let special = Special { pad: Some("<pad>".into()), eos: Some("<eos>".into()), whole: vec!["<t>".into()] };
        train::characters(&["\n +0123456789:=?abcUserAint".into()], &special).unwrap()
    }

    pub(super) fn row(value: Value) -> Row {
        value.as_object().unwrap().clone()
    }

    /// The tokens, one text each; those that are learned in upper brackets.
    pub(super) fn marked(tokenizer: &Tokenizer, example: &Example) -> String {
        let show = |(id, trained): (&u32, &bool)| {
            let text = tokenizer.decode(&[*id]).unwrap();
            if *trained { format!("[{text}]") } else { text }
        };
        example.ids.iter().zip(&example.trained).map(show).collect::<String>().replace("][", "")
    }

    pub(super) fn learned(value: Value, loss: LossOn) -> String {
        marked(&tokenizer(), &example(&tokenizer(), &row(value), loss).unwrap())
    }

    fn complaint(value: Value) -> String {
        example(&tokenizer(), &row(value), LossOn::Completion).unwrap_err().to_string()
    }

    #[test]
    fn only_the_completion_and_its_end_are_learned() {
        let row = json!({ "prompt": "1+1=", "completion": "<t>2", "answer": "2" });
        assert_eq!(learned(row.clone(), LossOn::Completion), "1+1=[<t>2<eos>]");
        assert_eq!(learned(row, LossOn::All), "[1+1=<t>2<eos>]");
    }

    #[test]
    fn sampled_tokens_are_learned_as_they_were_sampled() {
        let special = Special { pad: None, eos: Some("<eos>".into()), whole: Vec::new() };
        let tokenizer = train::bpe(&["ababababab abab ab".into()], &special, 300).unwrap();
        let [a, b] = ["a", "b"].map(|letter| tokenizer.encode(letter).unwrap()[0]);
        let end = tokenizer.eos().unwrap();
        assert_ne!(tokenizer.encode("ab").unwrap(), [a, b], "the test needs a pair that is merged");
        let ids_of = |row: Value| example(&tokenizer, &super::tests::row(row), LossOn::Completion).unwrap().ids;
        let sampled = ids_of(json!({ "prompt": "a", "completion": "ab", "completion_ids": [a, b, end] }));
        assert_eq!(sampled, [a, a, b, end]);
        let edited = ids_of(json!({ "prompt": "a", "completion": "ba", "completion_ids": [a, b, end] }));
        assert_eq!(edited, [vec![a], tokenizer.encode("ba").unwrap(), vec![end]].concat());
    }

    #[test]
    fn a_truncated_completion_does_not_learn_to_end() {
        let row = json!({ "prompt": "1+1=", "completion": "2", "truncated": true });
        assert_eq!(learned(row, LossOn::Completion), "1+1=[2]");
    }

    #[test]
    fn every_turn_of_the_assistant_is_learned_up_to_its_end() {
        let turn = |role: &str, content: &str| json!({ "role": role, "content": content });
        let messages = [turn("user", "1+1?"), turn("assistant", "2"), turn("user", "2+2?"), turn("assistant", "4")];
        assert_eq!(
            learned(json!({ "messages": messages }), LossOn::Completion),
            "User: 1+1?\nAssistant: [2<eos>]\nUser: 2+2?\nAssistant: [4<eos>]\n"
        );
        let ids = prompt(&tokenizer(), &row(json!({ "messages": messages }))).unwrap();
        assert_eq!(tokenizer().decode(&ids).unwrap(), "User: 1+1?\nAssistant: 2<eos>\nUser: 2+2?\nAssistant: ");
        let asked = prompt(&tokenizer(), &row(json!({ "messages": messages[..1] }))).unwrap();
        assert_eq!(tokenizer().decode(&asked).unwrap(), "User: 1+1?\nAssistant: ");
    }

    #[test]
    fn an_example_begins_with_exactly_the_tokens_of_its_prompt() {
        let Some(folder) = shared("models/stories260K/hf") else { return };
        let tokenizer = Tokenizer::open(&folder).unwrap();
        let row = row(json!({ "prompt": "Once upon", "completion": " a time" }));
        let whole = example(&tokenizer, &row, LossOn::Completion).unwrap();
        let start = prompt(&tokenizer, &row).unwrap();
        assert_eq!(start[0], 1, "the bos token");
        assert_eq!(whole.ids[..start.len()], start);
        assert_eq!(marked(&tokenizer, &whole).matches('[').count(), 1);
        assert_eq!(tokenizer.decode_plain(&whole.ids).unwrap(), "Once upon a time");
    }

    #[test]
    fn fixtures_encode_as_in_python() {
        let tokenizer = Tokenizer::open(&fixture("llama")).unwrap();
        for expected in json_of(&fixture("llama/reference.json"))["sft"]["rows"].as_array().unwrap() {
            let made = example(&tokenizer, &row(expected.clone()), LossOn::Completion).unwrap();
            assert_eq!(json!(made.ids), expected["ids"]);
            let prompt = made.trained.iter().take_while(|trained| !**trained).count();
            assert_eq!(json!(prompt), expected["prompt_tokens"]);
        }
    }

    #[test]
    fn a_row_that_cannot_be_learned_says_what_it_has() {
        assert_eq!(
            complaint(json!({ "question": "?", "answer": "7" })),
            "no `completion`, `messages`, `text` or `ids` to learn from; the row has `question`, `answer`"
        );
        assert_eq!(complaint(json!({ "prompt": 3, "completion": "1" })), "`prompt` is a number; it must be a text");
        assert_eq!(
            complaint(json!({ "messages": [{ "role": "user" }] })),
            "message 1 of `messages` has no text `content`"
        );
        assert_eq!(
            complaint(json!({ "messages": [{ "role": "user", "content": "1" }] })),
            "the last of `messages` is not the assistant's"
        );
    }

    #[test]
    fn the_row_is_named_by_its_number() {
        let rows = [json!({ "prompt": "1" }), json!({ "prompt": "x" })].map(row);
        assert_eq!(
            format!("{:#}", prompts(&tokenizer(), &rows).unwrap_err()),
            "row 2: the tokenizer has no token for 'x' (U+0078), character 1 of the text, in \"x\""
        );
    }

    #[test]
    fn a_bos_token_that_the_text_brings_along_is_found() {
        let Some(folder) = shared("models/stories260K/hf") else { return };
        let tokenizer = Tokenizer::open(&folder).unwrap();
        let row = row(json!({ "prompt": "<s>Once upon", "completion": " a time" }));
        assert!(prompt(&tokenizer, &row).unwrap_err().to_string().starts_with(
            "bos_doubled: the row begins with the bos token \"<s>\" twice, once by its own text; leave it out"
        ));
        assert!(prompt(&tokenizer.accepting([Finding::BosDoubled].into()), &row).is_ok());
    }
}
