//! From the body of a request to what is wanted of the model. A parameter that cannot be heeded is refused by name.
//! Knows nothing of HTTP.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher as _, RandomState},
};

use axum::http::StatusCode;
use serde_json::{Value, json};
use stages::answer::{Question, Sampling, Scribe};

use super::{
    fault::Fault,
    fields::{Fields, wrong},
};

/// What a request wants.
#[derive(Debug)]
pub struct Wanted {
    pub form: Form,
    pub prompts: Vec<Prompt>,
    /// Answers to each prompt.
    pub samples: usize,
    pub stop: Vec<String>,
    pub seed: u64,
    /// Are log-probabilities told, and of how many of the likeliest tokens besides?
    pub logprobs: Option<usize>,
    pub stream: Stream,
}

/// A prompt, and how its answers are drawn: how long they may be depends on it.
#[derive(Debug)]
pub struct Prompt {
    pub tokens: Vec<u32>,
    pub sampling: Sampling,
    /// Put before every answer: the prompt itself, where `echo` asks for it.
    pub echo: String,
}

/// Which of the two endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Text,
    Chat,
}

/// How the answer is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    No,
    Yes,
    /// With the counts of tokens behind.
    WithUsage,
}

/// What a server lays down for every request.
#[derive(Debug)]
pub struct House {
    pub scribe: Scribe,
    pub model: String,
    /// What a request does not say.
    pub sampling: Sampling,
}

/// As OpenAI has it.
const MOST_SAMPLES: usize = 128;
const MOST_TOP_LOGPROBS: usize = 20;
const MOST_STOPS: usize = 16;
/// Tokens of a text completion when none are asked for: as OpenAI has it.
const FEW_TOKENS: usize = 16;

/// Parameters of both endpoints, for suggestions.
const KNOWN: &[&str] = &[
    "model",
    "messages",
    "prompt",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "n",
    "stop",
    "seed",
    "stream",
    "stream_options",
    "logprobs",
    "top_logprobs",
    "echo",
    "user",
];

impl Wanted {
    /// # Errors
    /// Names the parameter that is missing, wrong or not supported.
    pub fn read(form: Form, body: &[u8], house: &House) -> Result<Self, Fault> {
        let mut fields = Fields::read(body)?;
        model(&mut fields, house)?;
        let stream = stream(&mut fields)?;
        let samples = fields.whole("n", 1..=MOST_SAMPLES)?.unwrap_or(1);
        let stop = stop(&mut fields)?;
        let seed = seed(&mut fields)?;
        let sampling = sampling(&mut fields, house)?;
        let most = most_tokens(&mut fields, form)?;
        let logprobs = logprobs(&mut fields, form)?;
        // Before the prompt, which may be long: the rest is told without reading it.
        let asked = match form {
            Form::Text => Asked::Text { prompt: fields.required("prompt")?, is_echoed: fields.flag("echo")? },
            Form::Chat => Asked::Chat(fields.required("messages")?),
        };
        unsupported(&mut fields, form, samples)?;
        fields.done(KNOWN)?;

        if matches!(asked, Asked::Text { is_echoed: true, .. }) && logprobs.is_some() {
            let message = "`echo` with `logprobs` is not supported: no log-probabilities of a prompt are told";
            return Err(Fault::parameter("echo", message).with_code("unsupported_parameter"));
        }
        let prompts = asked.prompts(house)?.into_iter().map(|(tokens, echo)| {
            let max_new_tokens = room(&tokens, most, form, house)?;
            Ok(Prompt { tokens, sampling: Sampling { max_new_tokens, ..sampling.clone() }, echo })
        });
        let prompts = prompts.collect::<Result<_, Fault>>()?;
        Ok(Self { form, prompts, samples, stop, seed, logprobs, stream })
    }

    /// One question a prompt: its answers are the same whether other prompts are asked with it or not.
    pub fn questions(&self) -> impl Iterator<Item = Question> {
        self.prompts.iter().map(|prompt| Question {
            prompt: prompt.tokens.clone(),
            samples: self.samples,
            sampling: prompt.sampling.clone(),
            stop: self.stop.clone(),
            seed: self.seed,
            logprobs: self.logprobs,
        })
    }

    pub fn answers(&self) -> usize {
        self.prompts.len() * self.samples
    }

    /// Tokens of all prompts.
    pub fn prompt_tokens(&self) -> usize {
        self.prompts.iter().map(|prompt| prompt.tokens.len()).sum()
    }
}

/// A prompt as it was given.
enum Asked {
    Text { prompt: Value, is_echoed: bool },
    Chat(Value),
}

impl Asked {
    /// Tokens and echo of every prompt.
    fn prompts(self, house: &House) -> Result<Vec<(Vec<u32>, String)>, Fault> {
        let scribe = &house.scribe;
        match self {
            Self::Chat(messages) => {
                let messages = turns(messages)?;
                let tokens = scribe.conversation(&messages).map_err(|error| blame("messages", &error))?;
                Ok(vec![(tokens, String::new())])
            }
            Self::Text { prompt, is_echoed } => {
                let prompts = texts(prompt)?.into_iter().map(|prompt| {
                    let tokens = match &prompt {
                        Given::Text(text) => scribe.text(text),
                        Given::Tokens(ids) => scribe.tokens(ids.clone()),
                    };
                    let tokens = tokens.map_err(|error| blame("prompt", &error))?;
                    let echo = match prompt {
                        _ if !is_echoed => String::new(),
                        Given::Text(text) => text,
                        Given::Tokens(ids) => scribe.read(&ids).map_err(|error| blame("prompt", &error))?,
                    };
                    Ok((tokens, echo))
                });
                prompts.collect()
            }
        }
    }
}

enum Given {
    Text(String),
    Tokens(Vec<u32>),
}

/// A prompt is a text or its tokens; or a list of either.
fn texts(prompt: Value) -> Result<Vec<Given>, Fault> {
    const WANTED: &str = "a text, a list of tokens, or a list of either";
    let tokens = |items: &[Value]| -> Option<Vec<u32>> {
        items.iter().map(|item| item.as_u64().and_then(|id| u32::try_from(id).ok())).collect()
    };
    match &prompt {
        Value::String(text) => Ok(vec![Given::Text(text.clone())]),
        Value::Array(items) if items.is_empty() => Err(Fault::parameter("prompt", "`prompt` is an empty list")),
        Value::Array(items) if items[0].is_number() => {
            tokens(items).map(|ids| vec![Given::Tokens(ids)]).ok_or_else(|| wrong("prompt", &prompt, WANTED))
        }
        Value::Array(items) => {
            let each = items.iter().map(|item| match item {
                Value::String(text) => Some(Given::Text(text.clone())),
                Value::Array(ids) => tokens(ids).map(Given::Tokens),
                _ => None,
            });
            each.collect::<Option<_>>().ok_or_else(|| wrong("prompt", &prompt, WANTED))
        }
        other => Err(wrong("prompt", other, WANTED)),
    }
}

/// Messages as a chat template takes them: their content as one text.
fn turns(messages: Value) -> Result<Vec<Value>, Fault> {
    let Value::Array(mut messages) = messages else { return Err(wrong("messages", &messages, "a list of messages")) };
    if messages.is_empty() {
        return Err(Fault::parameter("messages", "`messages` is an empty list"));
    }
    for (index, message) in messages.iter_mut().enumerate() {
        let name = |key: &str| format!("messages[{index}].{key}");
        if !message.is_object() {
            return Err(wrong(&format!("messages[{index}]"), message, "an object with `role` and `content`"));
        }
        let role = match message["role"].as_str() {
            // What newer clients call it; no template knows the word.
            Some("developer" | "system") => "system",
            Some("user") => "user",
            Some("assistant") => "assistant",
            _ => return Err(wrong(&name("role"), &message["role"], "`system`, `developer`, `user` or `assistant`")),
        };
        for key in ["tool_calls", "function_call", "audio"] {
            if message.get(key).is_some_and(|value| !value.is_null() && value != &json!([])) {
                let message = format!("`{}` is not supported here", name(key));
                return Err(Fault::parameter(name(key), message).with_code("unsupported_parameter"));
            }
        }
        let content = content(&message["content"], &name("content"))?;
        message["role"] = role.into();
        message["content"] = content.into();
    }
    Ok(messages)
}

fn content(content: &Value, name: &str) -> Result<String, Fault> {
    match content {
        Value::String(text) => Ok(text.clone()),
        Value::Array(parts) => {
            let texts = parts.iter().map(|part| match (part["type"].as_str(), part["text"].as_str()) {
                (Some("text"), Some(text)) => Ok(text),
                _ => Err(wrong(name, &part["type"], "a text, or a list of parts of type `text`")),
            });
            Ok(texts.collect::<Result<Vec<_>, _>>()?.concat())
        }
        other => Err(wrong(name, other, "a text, or a list of parts of type `text`")),
    }
}

fn model(fields: &mut Fields, house: &House) -> Result<(), Fault> {
    match fields.text("model")? {
        None => Err(Fault::parameter("model", "`model` is missing")),
        Some(name) if name == house.model => Ok(()),
        Some(name) => Err(no_model(&name, house)),
    }
}

pub fn no_model(name: &str, house: &House) -> Fault {
    let message = format!("no model `{name}` here; this server has `{}`", house.model);
    let fault = Fault::new(StatusCode::NOT_FOUND, message).with_code("model_not_found");
    Fault { param: Some("model".into()), ..fault }
}

fn stream(fields: &mut Fields) -> Result<Stream, Fault> {
    let is_streamed = fields.flag("stream")?;
    let Some(options) = fields.take("stream_options") else {
        return Ok(if is_streamed { Stream::Yes } else { Stream::No });
    };
    if !is_streamed {
        return Err(Fault::parameter("stream_options", "`stream_options` goes with `stream: true` only"));
    }
    let Value::Object(options) = options else { return Err(wrong("stream_options", &options, "an object")) };
    let mut usage = false;
    for (key, value) in &options {
        match (key.as_str(), value) {
            ("include_usage", Value::Bool(is_wanted)) => usage = *is_wanted,
            // It pads events against eavesdroppers who count bytes; without it they are as long as they are.
            ("include_obfuscation", Value::Bool(false)) | (_, Value::Null) => {}
            _ => {
                let name = format!("stream_options.{key}");
                let message = format!("`{name}` is not supported here, and {value} would not be heeded");
                return Err(Fault::parameter(name, message).with_code("unsupported_parameter"));
            }
        }
    }
    Ok(if usage { Stream::WithUsage } else { Stream::Yes })
}

fn stop(fields: &mut Fields) -> Result<Vec<String>, Fault> {
    let Some(value) = fields.take("stop") else { return Ok(Vec::new()) };
    let stops = match &value {
        Value::String(stop) => Some(vec![stop.clone()]),
        Value::Array(stops) => stops.iter().map(|stop| stop.as_str().map(str::to_owned)).collect(),
        _ => None,
    };
    stops
        .filter(|stops| stops.len() <= MOST_STOPS && stops.iter().all(|stop| !stop.is_empty()))
        .ok_or_else(|| wrong("stop", &value, &format!("a text or at most {MOST_STOPS} of them, none empty")))
}

/// Without one, another each time.
fn seed(fields: &mut Fields) -> Result<u64, Fault> {
    let Some(value) = fields.take("seed") else { return Ok(RandomState::new().hash_one("seed")) };
    let seed = value.as_u64().or_else(|| value.as_i64().map(i64::cast_unsigned));
    seed.ok_or_else(|| wrong("seed", &value, "a whole number of 64 bits"))
}

fn sampling(fields: &mut Fields, house: &House) -> Result<Sampling, Fault> {
    let usual = house.sampling.clone();
    Ok(Sampling {
        temperature: fields.number("temperature", 0.0..=2.0)?.unwrap_or(usual.temperature),
        top_p: fields.number("top_p", 0.0..=1.0)?.unwrap_or(usual.top_p),
        top_k: fields.whole("top_k", 0..=usize::MAX)?.unwrap_or(usual.top_k),
        min_p: fields.number("min_p", 0.0..=1.0)?.unwrap_or(usual.min_p),
        repetition_penalty: fields.number("repetition_penalty", 0.01..=100.0)?.unwrap_or(usual.repetition_penalty),
        logit_bias: logit_bias(fields, house)?,
        ..usual
    })
}

/// `{"token id": bias}`; from -100, which is as good as never, to 100, which is as good as always.
fn logit_bias(fields: &mut Fields, house: &House) -> Result<BTreeMap<u32, f32>, Fault> {
    let Some(value) = fields.take("logit_bias") else { return Ok(BTreeMap::new()) };
    let Value::Object(biases) = &value else {
        return Err(wrong("logit_bias", &value, "an object of biases by token id"));
    };
    let each = biases.iter().map(|(id, bias)| {
        let name = format!("logit_bias.{id}");
        let token = id.parse::<u32>().ok().filter(|id| (*id as usize) < house.scribe.vocab_size);
        let message = || format!("`{name}` is of no token: the model's vocabulary has {}", house.scribe.vocab_size);
        let token = token.ok_or_else(|| Fault::parameter(&name, message()))?;
        let number = bias.as_f64().filter(|bias| (-100.0..=100.0).contains(bias));
        Ok((token, number.ok_or_else(|| wrong(&name, bias, "a number from -100 to 100"))? as f32))
    });
    each.collect()
}

fn most_tokens(fields: &mut Fields, form: Form) -> Result<Option<(&'static str, usize)>, Fault> {
    let old = fields.whole("max_tokens", 1..=usize::MAX)?.map(|most| ("max_tokens", most));
    if form == Form::Text {
        return Ok(old);
    }
    let new = fields.whole("max_completion_tokens", 1..=usize::MAX)?.map(|most| ("max_completion_tokens", most));
    match (old, new) {
        (Some((_, old)), Some((_, new))) if old != new => Err(Fault::parameter(
            "max_tokens",
            format!("`max_tokens` is {old} and `max_completion_tokens` {new}; they mean the same: give one"),
        )),
        (old, new) => Ok(new.or(old)),
    }
}

fn logprobs(fields: &mut Fields, form: Form) -> Result<Option<usize>, Fault> {
    if form == Form::Text {
        return fields.whole("logprobs", 0..=MOST_TOP_LOGPROBS);
    }
    let are_told = fields.flag("logprobs")?;
    let top = fields.whole("top_logprobs", 0..=MOST_TOP_LOGPROBS)?;
    match (are_told, top) {
        (false, Some(1..)) => Err(Fault::parameter("top_logprobs", "`top_logprobs` goes with `logprobs: true` only")),
        (is_told, top) => Ok(is_told.then(|| top.unwrap_or(0))),
    }
}

/// What clients send that changes no answer, and what would and cannot be heeded.
fn unsupported(fields: &mut Fields, form: Form, samples: usize) -> Result<(), Fault> {
    let zero = |value: &Value| value.as_f64() == Some(0.0);
    let empty = |value: &Value| value == &json!([]) || value == &json!({});
    for name in ["user", "metadata", "safety_identifier", "prompt_cache_key"] {
        fields.take(name);
    }
    for name in ["presence_penalty", "frequency_penalty"] {
        fields.only(name, zero)?;
    }
    fields.only("service_tier", |tier| tier == "auto" || tier == "default")?;
    if form == Form::Text {
        fields.only("suffix", |suffix| suffix == "")?;
        return fields.only("best_of", |best| best.as_u64() == Some(samples as u64));
    }
    fields.only("store", |store| store == false)?;
    for name in ["tools", "functions"] {
        fields.only(name, empty)?;
    }
    // Without tools there is nothing to choose.
    for name in ["tool_choice", "function_call"] {
        fields.only(name, |choice| choice == "none" || choice == "auto")?;
    }
    fields.only("parallel_tool_calls", Value::is_boolean)?;
    fields.only("response_format", |format| format == &json!({ "type": "text" }))?;
    fields.only("modalities", |modalities| modalities == &json!(["text"]))?;
    for name in ["audio", "prediction", "reasoning_effort", "verbosity", "web_search_options"] {
        fields.only(name, |_| false)?;
    }
    Ok(())
}

/// Tokens that an answer to this prompt may have.
fn room(prompt: &[u32], most: Option<(&'static str, usize)>, form: Form, house: &House) -> Result<usize, Fault> {
    let param = if form == Form::Chat { "messages" } else { "prompt" };
    let too_long = |param: &str, message: String| Fault::parameter(param, message).with_code("context_length_exceeded");
    let room = match house.scribe.room(prompt) {
        Ok(room) => room,
        Err(error) if prompt.is_empty() => return Err(Fault::parameter(param, error.to_string())),
        Err(error) => return Err(too_long(param, error.to_string())),
    };
    let context = house.scribe.context;
    match most {
        Some((name, most)) if most > room => Err(too_long(
            name,
            format!(
                "the prompt has {} tokens and `{name}` is {most}, {} together, more than the model's context of {context}",
                prompt.len(),
                prompt.len().saturating_add(most)
            ),
        )),
        Some((_, most)) => Ok(most),
        None if form == Form::Chat => Ok(room),
        None => Ok(room.min(FEW_TOKENS)),
    }
}

fn blame(param: &str, error: &anyhow::Error) -> Fault {
    Fault::parameter(param, format!("{error:#}"))
}
