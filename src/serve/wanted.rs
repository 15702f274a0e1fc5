//! From the body of a request to what is wanted of the model. A parameter that cannot be heeded is refused by name.
//! Knows nothing of HTTP.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
};

use axum::http::StatusCode;
use serde_json::{Value, json};
use stages::answer::{Question, Sampler, Sampling, Scribe, StopMatcher};

use super::{
    fault::{Fault, cut},
    fields::{Fields, shown, wrong},
    parse::{self, Given, Prompts},
};

/// What a request wants.
#[derive(Debug)]
pub struct Wanted {
    pub form: Form,
    pub prompts: Vec<Prompt>,
    /// Answers to each prompt.
    pub samples: usize,
    /// Shared by all prompts, as the stop strings are.
    pub sampler: Sampler,
    pub stop: Arc<StopMatcher>,
    pub seed: u64,
    /// Are log-probabilities told, and of how many of the likeliest tokens besides?
    pub logprobs: Option<usize>,
    pub stream: Stream,
}

/// A prompt, and how long its answers may be.
#[derive(Debug)]
pub struct Prompt {
    pub tokens: Vec<u32>,
    pub max_new_tokens: usize,
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
    /// Answers that grow or wait at the most.
    pub places: usize,
}

/// As OpenAI has it.
const MOST_SAMPLES: usize = 128;
const MOST_TOP_LOGPROBS: usize = 20;
const MOST_STOPS: usize = 16;
/// Bytes of a stop string: so much of an answer may be held back, and each of its answers remembers it.
const MOST_STOP_BYTES: usize = 1024;
/// Bytes of prompts that `echo` repeats, over all answers: as large as the largest request.
const MOST_ECHO: usize = 8 << 20;
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
    pub fn read(form: Form, body: Vec<u8>, house: &House) -> Result<Self, Fault> {
        let listed = Prompts { name: "prompt", most_tokens: house.scribe.context };
        let (fields, given) = parse::parse(&body, (form == Form::Text).then_some(listed))?;
        drop(body);
        let mut fields = Fields(fields);
        model(&mut fields, house)?;
        let stream = stream(&mut fields)?;
        let samples = fields.whole("n", 1..=MOST_SAMPLES)?.unwrap_or(1);
        let stop = stop(&mut fields)?;
        let seed = seed(&mut fields)?;
        let sampler = sampler(&mut fields, house)?;
        let most = most_tokens(&mut fields, form)?;
        let logprobs = logprobs(&mut fields, form)?;
        let asked = match form {
            Form::Text => Asked::Text { given: prompts(given)?, is_echoed: fields.flag("echo")? },
            Form::Chat => Asked::Chat(fields.required("messages")?),
        };
        unsupported(&mut fields, form, samples)?;
        fields.done(KNOWN)?;

        if matches!(asked, Asked::Text { is_echoed: true, .. }) && logprobs.is_some() {
            let message = "`echo` with `logprobs` is not supported: no log-probabilities of a prompt are told";
            return Err(Fault::parameter("echo", message).with_code("unsupported_parameter"));
        }
        // Before anything is encoded: what will not be answered costs no more than reading it.
        asked.check(samples, house)?;
        let prompts = asked.prompts(samples, house)?.into_iter().map(|(tokens, echo)| {
            let max_new_tokens = room(&tokens, most, form, house)?;
            Ok(Prompt { tokens, max_new_tokens, echo })
        });
        let prompts = prompts.collect::<Result<_, Fault>>()?;
        Ok(Self { form, prompts, samples, sampler, stop, seed, logprobs, stream })
    }

    /// One question a prompt: its answers are the same whether other prompts are asked with it or not.
    pub fn questions(self) -> Vec<Question> {
        let question = |prompt: Prompt| Question {
            prompt: prompt.tokens,
            samples: self.samples,
            sampler: self.sampler.clone(),
            max_new_tokens: prompt.max_new_tokens,
            stop: Arc::clone(&self.stop),
            seed: self.seed,
            logprobs: self.logprobs,
        };
        self.prompts.into_iter().map(question).collect()
    }

    pub fn answers(&self) -> usize {
        self.prompts.len() * self.samples
    }

    /// Tokens of all prompts.
    pub fn prompt_tokens(&self) -> usize {
        self.prompts.iter().map(|prompt| prompt.tokens.len()).sum()
    }
}

/// Answers that would never fit.
pub fn too_many(answers: usize, places: usize) -> Fault {
    Fault::parameter("n", format!("{answers} answers are asked for, and there are places for {places}"))
}

/// A prompt as it was given.
enum Asked {
    Text { given: Vec<Given>, is_echoed: bool },
    Chat(Value),
}

impl Asked {
    /// Are there places for the answers?
    fn check(&self, samples: usize, house: &House) -> Result<(), Fault> {
        let prompts = match self {
            Self::Text { given, .. } => given.len(),
            Self::Chat(_) => 1,
        };
        let answers = prompts * samples;
        if answers > house.places { Err(too_many(answers, house.places)) } else { Ok(()) }
    }

    /// Tokens and echo of every prompt.
    fn prompts(self, samples: usize, house: &House) -> Result<Vec<(Vec<u32>, String)>, Fault> {
        let scribe = &house.scribe;
        let mut repeated = 0;
        match self {
            Self::Chat(messages) => {
                let messages = turns(messages)?;
                let written = scribe.write(&messages).map_err(|error| blame("messages", &error))?;
                drop(messages);
                fits(&written, "messages", house)?;
                let tokens = scribe.encode(&written).map_err(|error| blame("messages", &error))?;
                Ok(vec![(tokens, String::new())])
            }
            Self::Text { given, is_echoed } => {
                let prompts = given.into_iter().map(|given| {
                    let (tokens, echo) = match given {
                        Given::Text(text) => {
                            fits(&text, "prompt", house)?;
                            let tokens = scribe.text(&text).map_err(|error| blame("prompt", &error))?;
                            (tokens, if is_echoed { text } else { String::new() })
                        }
                        Given::Tokens(ids) => {
                            let tokens = scribe.tokens(ids).map_err(|error| blame("prompt", &error))?;
                            let echo = if is_echoed { scribe.read(&tokens) } else { Ok(String::new()) };
                            (tokens, echo.map_err(|error| blame("prompt", &error))?)
                        }
                    };
                    repeated += echo.len() * samples;
                    if repeated > MOST_ECHO {
                        let message = format!("`echo` would repeat more than {MOST_ECHO} bytes of prompts");
                        return Err(Fault::parameter("echo", message));
                    }
                    Ok((tokens, echo))
                });
                prompts.collect()
            }
        }
    }
}

/// Refuses what is too long for the model without encoding it.
fn fits(text: &str, param: &str, house: &House) -> Result<(), Fault> {
    let most = house.scribe.most_bytes();
    if text.len() <= most {
        return Ok(());
    }
    let message = format!(
        "the prompt has {} bytes, and with a context of {} tokens at most {most} are read",
        text.len(),
        house.scribe.context
    );
    Err(Fault::parameter(param, message).with_code("context_length_exceeded"))
}

fn prompts(given: Option<Vec<Given>>) -> Result<Vec<Given>, Fault> {
    match given {
        None => Err(Fault::parameter("prompt", "`prompt` is missing")),
        Some(given) if given.is_empty() => Err(Fault::parameter("prompt", "`prompt` is an empty list")),
        Some(given) => Ok(given),
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
    let message = format!("no model `{}` here; this server has `{}`", cut(name), house.model);
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
                let name = format!("stream_options.{}", cut(key));
                let message = format!("`{name}` is not supported here, and {} would not be heeded", shown(value));
                return Err(Fault::parameter(name, message).with_code("unsupported_parameter"));
            }
        }
    }
    Ok(if usage { Stream::WithUsage } else { Stream::Yes })
}

fn stop(fields: &mut Fields) -> Result<Arc<StopMatcher>, Fault> {
    let Some(value) = fields.take("stop") else { return Ok(Arc::default()) };
    let wanted = || format!("a text or at most {MOST_STOPS} of them, none empty");
    let stops = match value {
        Value::String(stop) => vec![stop],
        Value::Array(stops) if stops.len() <= MOST_STOPS && stops.iter().all(Value::is_string) => stops
            .into_iter()
            .filter_map(|stop| if let Value::String(stop) = stop { Some(stop) } else { None })
            .collect(),
        other => return Err(wrong("stop", &other, &wanted())),
    };
    if let Some(long) = stops.iter().find(|stop| stop.len() > MOST_STOP_BYTES) {
        let message = format!("a text of `stop` has {} bytes; at most {MOST_STOP_BYTES} are searched for", long.len());
        return Err(Fault::parameter("stop", message));
    }
    if stops.iter().any(String::is_empty) {
        return Err(wrong("stop", &stops.into(), &wanted()));
    }
    Ok(Arc::new(StopMatcher::new(stops)))
}

/// Without one, another each time.
fn seed(fields: &mut Fields) -> Result<u64, Fault> {
    let Some(value) = fields.take("seed") else { return Ok(RandomState::new().hash_one("seed")) };
    let seed = value.as_u64().or_else(|| value.as_i64().map(i64::cast_unsigned));
    seed.ok_or_else(|| wrong("seed", &value, "a whole number of 64 bits"))
}

fn sampler(fields: &mut Fields, house: &House) -> Result<Sampler, Fault> {
    let usual = house.sampling.clone();
    let sampling = Sampling {
        temperature: fields.number("temperature", 0.0..=2.0)?.unwrap_or(usual.temperature),
        top_p: fields.number("top_p", 0.0..=1.0)?.unwrap_or(usual.top_p),
        top_k: fields.whole("top_k", 0..=usize::MAX)?.unwrap_or(usual.top_k),
        min_p: fields.number("min_p", 0.0..=1.0)?.unwrap_or(usual.min_p),
        repetition_penalty: fields.number("repetition_penalty", 0.01..=100.0)?.unwrap_or(usual.repetition_penalty),
        logit_bias: logit_bias(fields, house)?,
        ..usual
    };
    Sampler::new(sampling, house.scribe.vocab_size)
        .map_err(|error| Fault::new(StatusCode::BAD_REQUEST, format!("{error:#}")))
}

/// `{"token id": bias}`; from -100, which is as good as never, to 100, which is as good as always.
fn logit_bias(fields: &mut Fields, house: &House) -> Result<BTreeMap<u32, f32>, Fault> {
    let Some(value) = fields.take("logit_bias") else { return Ok(BTreeMap::new()) };
    let Value::Object(biases) = &value else {
        return Err(wrong("logit_bias", &value, "an object of biases by token id"));
    };
    let each = biases.iter().map(|(id, bias)| {
        let name = format!("logit_bias.{}", cut(id));
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
