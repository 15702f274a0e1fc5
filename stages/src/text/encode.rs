//! How a row becomes tokens: a prompt to go on from, or an example to learn from.
//! Knows nothing of batches or models.

use std::{collections::BTreeMap, sync::LazyLock};

use anyhow::{Context as _, Result, bail, ensure};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    data::rows::{Row, kind},
    text::{
        template::{self, Template, Turn},
        tokenizer::Tokenizer,
    },
};

/// A sequence to learn from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Example {
    pub ids: Vec<u32>,
    /// As long as `ids`: is this token a target of the loss?
    pub trained: Vec<bool>,
}

/// Which tokens of a prompt and its completion are learned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LossOn {
    /// The completion, or the assistant's turns, with their end-of-sequence tokens.
    #[default]
    Completion,
    /// Every token.
    All,
}

/// What generation starts from: the row's `prompt`, or its `messages` up to the assistant's last turn. Begins
/// with the bos token where the tokenizer adds one.
///
/// # Errors
/// When the row has neither, or the tokenizer has no token for a character.
pub fn prompt(tokenizer: &Tokenizer, row: &Row) -> Result<Vec<u32>> {
    if let Some(prompt) = text_field(row, "prompt")? {
        return beginning(tokenizer, prompt);
    }
    let Some(messages) = messages_field(row)? else {
        bail!("no `prompt` and no `messages` to start from; the row has {}", fields(row));
    };
    let mut turns = conversation(tokenizer, messages)?;
    if turns.last().is_some_and(|turn| turn.trained) {
        turns.pop();
    }
    Ok(assemble(tokenizer, &turns)?.ids)
}

/// What is learned from a row: `prompt` and `completion` with the eos token behind (unless the row is marked
/// `truncated`), else the assistant's turns of `messages`, else `text` with the eos token behind, else `ids` as
/// they are. A prompt and its completion are encoded apart, as they are when the completion is sampled.
///
/// # Errors
/// When the row has none of these, or the tokenizer has no token for a character.
pub fn example(tokenizer: &Tokenizer, row: &Row, loss: LossOn) -> Result<Example> {
    let mut example = if let Some(completion) = text_field(row, "completion")? {
        completed(tokenizer, row, completion)?
    } else if let Some(messages) = messages_field(row)? {
        answered(tokenizer, messages)?
    } else if let Some(text) = text_field(row, "text")? {
        let mut ids = beginning(tokenizer, text)?;
        ids.extend(tokenizer.eos());
        all_trained(ids)
    } else if let Some(ids) = ids_field(row)? {
        all_trained(ids)
    } else {
        let wanted = "no `completion`, `messages`, `text` or `ids` to learn from";
        bail!("{wanted}; the row has {}", fields(row));
    };
    if loss == LossOn::All {
        example.trained.fill(true);
    }
    ensure!(example.trained.contains(&true), "no token to learn from");
    Ok(example)
}

/// Are the fields that have a meaning of the kind that they must be?
///
/// # Errors
/// Names the first that is not.
pub fn check(row: &Row) -> Result<()> {
    for name in ["prompt", "completion", "text"] {
        text_field(row, name)?;
    }
    messages_field(row)?;
    ids_field(row)?;
    Ok(())
}

/// How many tokens a row is: those of its [`example`], or of its [`prompt`] where it has nothing more.
///
/// # Errors
/// As [`example`] and [`prompt`].
pub fn length(tokenizer: &Tokenizer, row: &Row) -> Result<usize> {
    let only_prompt = !["completion", "messages", "text", "ids"].iter().any(|field| row.contains_key(*field));
    if only_prompt {
        return Ok(prompt(tokenizer, row)?.len());
    }
    Ok(example(tokenizer, row, LossOn::All)?.ids.len())
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
    in_order(rows, |row| length(tokenizer, row))
}

fn in_order<T: Send>(rows: &[Row], each: impl Fn(&Row) -> Result<T> + Sync + Send) -> Result<Vec<T>> {
    let all: Vec<Result<T>> = rows.par_iter().map(each).collect();
    all.into_iter().enumerate().map(|(index, one)| one.with_context(|| format!("row {}", index + 1))).collect()
}

fn completed(tokenizer: &Tokenizer, row: &Row, completion: &str) -> Result<Example> {
    let mut ids = prompt(tokenizer, row)?;
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

fn answered(tokenizer: &Tokenizer, messages: &[Value]) -> Result<Example> {
    let turns = conversation(tokenizer, messages)?;
    ensure!(turns.last().is_some_and(|turn| turn.trained), "the last of `messages` is not the assistant's");
    let mut example = assemble(tokenizer, &turns)?;
    let is_end = |id: &u32| Some(*id) == tokenizer.eos() || tokenizer.eos_ids().contains(id);
    let last_turn = example.trained.iter().rposition(|trained| !trained).map_or(0, |at| at + 1);
    // A template may leave the last turn open: a policy that never saw its end would never stop.
    if !example.ids[last_turn.min(example.ids.len())..].iter().any(is_end) && !example.ids.last().is_some_and(is_end) {
        let trails = example.trained.last() == Some(&false);
        ensure!(
            !trails || example.ids.iter().any(is_end),
            "the chat template ends no turn with an end-of-sequence token"
        );
        if !trails {
            example.ids.push(end(tokenizer)?);
            example.trained.push(true);
        }
    }
    Ok(example)
}

/// A stretch of a rendered conversation.
struct Stretch {
    text: String,
    /// The assistant's own words, with what ends its turn.
    trained: bool,
}

/// Cuts a conversation where the assistant begins and ends to write.
fn conversation(tokenizer: &Tokenizer, messages: &[Value]) -> Result<Vec<Stretch>> {
    static DEFAULT: LazyLock<Template> =
        LazyLock::new(|| Template::compile(template::DEFAULT).expect("a test compiles it"));
    let template = tokenizer.template().unwrap_or(&DEFAULT);
    let mut special = BTreeMap::new();
    for key in ["bos_token", "eos_token", "pad_token", "unk_token"] {
        if let Some(token) = tokenizer.special(key) {
            special.insert(key.to_owned(), token);
        }
    }
    let render = |count: usize, turn: Turn| template.render(&messages[..count], turn, &special);

    let mut stretches = Vec::new();
    let mut done = String::new();
    let mut add = |whole: String, trained: bool| -> Result<()> {
        let Some(text) = whole.strip_prefix(&done) else {
            bail!(
                "the chat template writes earlier turns anew when a turn is added, so their tokens are not \
                 the ones that were generated; give one assistant turn a row, the last"
            );
        };
        stretches.push(Stretch { text: text.to_owned(), trained });
        done = whole;
        Ok(())
    };
    for (index, message) in messages.iter().enumerate() {
        if message["role"] == "assistant" {
            add(render(index, Turn::Open)?, false)?;
            add(render(index + 1, Turn::Done)?, true)?;
        }
    }
    if messages.last().is_some_and(|message| message["role"] != "assistant") {
        add(render(messages.len(), Turn::Open)?, false)?;
    }
    Ok(stretches)
}

fn assemble(tokenizer: &Tokenizer, stretches: &[Stretch]) -> Result<Example> {
    let mut example = Example::default();
    for (index, stretch) in stretches.iter().enumerate() {
        let ids = match index {
            // A template writes its own bos token.
            0 if tokenizer.template().is_some() => tokenizer.encode(&stretch.text)?,
            0 => beginning(tokenizer, &stretch.text)?,
            _ => tokenizer.encode_onward(&stretch.text)?,
        };
        // What a template writes behind the end of a turn is never generated.
        let is_end = |id: &u32| Some(*id) == tokenizer.eos() || tokenizer.eos_ids().contains(id);
        let ends = ids.iter().rposition(is_end).map_or(ids.len(), |at| at + 1);
        example.trained.extend((0..ids.len()).map(|at| stretch.trained && at < ends));
        example.ids.extend(ids);
    }
    Ok(example)
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

fn text_field<'a>(row: &'a Row, name: &str) -> Result<Option<&'a str>> {
    match row.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => bail!("`{name}` is {}; it must be a text", kind(other)),
    }
}

fn ids_field(row: &Row) -> Result<Option<Vec<u32>>> {
    let Some(value) = row.get("ids") else { return Ok(None) };
    let ids = serde_json::from_value(value.clone());
    ids.map(Some).with_context(|| format!("`ids` is {}; it must be a list of token ids", kind(value)))
}

fn messages_field(row: &Row) -> Result<Option<&[Value]>> {
    let Some(value) = row.get("messages").filter(|value| !value.is_null()) else { return Ok(None) };
    let Some(messages) = value.as_array() else {
        bail!("`messages` is {}; it must be a list of messages", kind(value));
    };
    ensure!(!messages.is_empty(), "`messages` is empty");
    for (index, message) in messages.iter().enumerate() {
        for key in ["role", "content"] {
            ensure!(message[key].is_string(), "message {} of `messages` has no text `{key}`", index + 1);
        }
    }
    Ok(Some(messages))
}

/// The names of a row's fields, for messages.
pub(crate) fn fields(row: &Row) -> String {
    if row.is_empty() {
        return "no fields".to_owned();
    }
    row.keys().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;
    use crate::{
        bench::{fixture, json_of, shared},
        text::train::{self, Special},
    };

    fn tokenizer() -> Tokenizer {
        let special = Special { pad: Some("<pad>".into()), eos: Some("<eos>".into()), whole: vec!["<t>".into()] };
        train::characters(&["\n +0123456789:=?abcUserAint".into()], &special).unwrap()
    }

    fn row(value: Value) -> Row {
        value.as_object().unwrap().clone()
    }

    /// The tokens, one text each; those that are learned in upper brackets.
    fn marked(tokenizer: &Tokenizer, example: &Example) -> String {
        let show = |(id, trained): (&u32, &bool)| {
            let text = tokenizer.decode(&[*id]).unwrap();
            if *trained { format!("[{text}]") } else { text }
        };
        example.ids.iter().zip(&example.trained).map(show).collect::<String>().replace("][", "")
    }

    fn learned(value: Value, loss: LossOn) -> String {
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
    fn a_template_that_rewrites_earlier_turns_is_refused_for_many_turns_only() {
        let source = "{% for m in messages %}{% if loop.last %}{{ m.content }}{% else %}a{% endif %}<eos>{% endfor %}";
        let mut config = Map::new();
        config.insert("chat_template".into(), source.into());
        config.insert("eos_token".into(), "<eos>".into());
        let folder = tempfile::TempDir::new().unwrap();
        tokenizer().save(folder.path()).unwrap();
        let json = std::fs::read_to_string(folder.path().join("tokenizer.json")).unwrap();
        let tokenizer = Tokenizer::new(json, config).unwrap();
        let turn = |role: &str, content: &str| json!({ "role": role, "content": content });
        let many = row(
            json!({ "messages": [turn("user", "b"), turn("assistant", "c"), turn("user", "b"), turn("assistant", "c")] }),
        );
        assert!(
            example(&tokenizer, &many, LossOn::Completion)
                .unwrap_err()
                .to_string()
                .starts_with("the chat template writes earlier turns anew when a turn is added")
        );
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
}
