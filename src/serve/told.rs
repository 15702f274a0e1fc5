//! From pieces of answers to the JSON of OpenAI's API: whole, or chunk by chunk.
//! Knows nothing of HTTP.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Map, Value, json};
use stages::answer::{Finish, Piece, Scribe, Word};

use super::{
    fault::Fault,
    queue::Said,
    wanted::{Form, Stream, Wanted},
};

/// Log-probabilities of a response that is sent at once: as JSON each takes up to 800 bytes of memory.
const MOST_LOGPROBS: usize = 1 << 18;

/// A response in the making.
#[derive(Debug)]
pub struct Telling {
    form: Form,
    scribe: Scribe,
    id: String,
    created: u64,
    model: String,
    /// Answers to each prompt.
    samples: usize,
    echoes: Vec<String>,
    /// Log-probabilities that wait for [`Telling::whole`].
    logprobs: usize,
    has_logprobs: bool,
    stream: Stream,
    prompt_tokens: usize,
    completion_tokens: usize,
    answers: Vec<Answer>,
}

/// What has been said of an answer.
#[derive(Debug, Clone, Default)]
struct Answer {
    text: String,
    words: Vec<Word>,
    finish: Option<Finish>,
    has_begun: bool,
}

impl Telling {
    /// Takes over what is repeated of the prompts.
    pub fn new(wanted: &mut Wanted, scribe: &Scribe, model: &str) -> Self {
        Self {
            form: wanted.form,
            scribe: scribe.clone(),
            id: fresh_id(wanted.form),
            created: now(),
            model: model.to_owned(),
            samples: wanted.samples,
            echoes: wanted.prompts.iter_mut().map(|prompt| std::mem::take(&mut prompt.echo)).collect(),
            logprobs: 0,
            has_logprobs: wanted.logprobs.is_some(),
            stream: wanted.stream,
            prompt_tokens: wanted.prompt_tokens(),
            completion_tokens: 0,
            answers: vec![Answer::default(); wanted.answers()],
        }
    }

    pub fn stream(&self) -> Stream {
        self.stream
    }

    /// Have all answers ended?
    pub fn is_over(&self) -> bool {
        self.answers.iter().all(|answer| answer.finish.is_some())
    }

    /// Of all prompts, and of the answers that have ended.
    pub fn tokens(&self) -> (usize, usize) {
        (self.prompt_tokens, self.completion_tokens)
    }

    /// Hears a piece, for [`Telling::whole`].
    ///
    /// # Errors
    /// When the response would be too large to be sent at once.
    pub fn hear(&mut self, said: Said) -> Result<(), Fault> {
        let index = self.index(&said);
        let Piece { text, words, end, .. } = said.piece;
        let answer = &mut self.answers[index];
        answer.text += &text;
        if self.has_logprobs {
            self.logprobs += words.iter().map(|word| 1 + word.top.len()).sum::<usize>();
            if self.logprobs > MOST_LOGPROBS {
                let message = format!(
                    "the answers have more than {MOST_LOGPROBS} log-probabilities, too many for one response; \
                     `stream: true` sends them as they come"
                );
                return Err(Fault::parameter("logprobs", message));
            }
            answer.words.extend(words);
        }
        if let Some(end) = end {
            answer.finish = Some(end.finish);
            self.completion_tokens += end.tokens;
        }
        Ok(())
    }

    /// The response, after the last piece.
    pub fn whole(&self) -> Value {
        let choices = self.answers.iter().enumerate().map(|(index, answer)| {
            let Answer { text, words, finish, .. } = answer;
            match self.form {
                Form::Chat => json!({
                    "index": index,
                    "message": { "role": "assistant", "content": text, "refusal": null },
                    "logprobs": self.logprobs(words, 0),
                    "finish_reason": finish.map(reason),
                }),
                Form::Text => json!({
                    "index": index,
                    "text": format!("{}{text}", self.echo(index)),
                    "logprobs": self.logprobs(words, self.offset(index)),
                    "finish_reason": finish.map(reason),
                }),
            }
        });
        let choices = choices.collect();
        let mut whole = self.frame(choices);
        whole["usage"] = self.usage();
        whole
    }

    /// The chunks that a piece makes.
    pub fn chunks(&mut self, said: Said) -> Vec<Value> {
        let index = self.index(&said);
        let Piece { text, words, end, .. } = said.piece;
        let mut choices = Vec::new();
        let is_first = !std::mem::replace(&mut self.answers[index].has_begun, true);
        let finish = end.map(|end| reason(end.finish));
        if let Some(end) = end {
            self.answers[index].finish = Some(end.finish);
            self.completion_tokens += end.tokens;
        }
        let choice = |content: (&str, Value), logprobs: Value, finish: Option<&str>| {
            let mut choice = json!({ "index": index, "logprobs": logprobs, "finish_reason": finish });
            choice[content.0] = content.1;
            choice
        };
        match self.form {
            Form::Chat => {
                if is_first {
                    let delta = json!({ "role": "assistant", "content": "", "refusal": null });
                    choices.push(choice(("delta", delta), Value::Null, None));
                }
                if !text.is_empty() || !words.is_empty() {
                    let delta = json!({ "content": text });
                    choices.push(choice(("delta", delta), self.logprobs(&words, 0), None));
                }
                if finish.is_some() {
                    choices.push(choice(("delta", json!({})), Value::Null, finish));
                }
            }
            Form::Text => {
                let echo = if is_first { self.echo(index) } else { "" };
                let told = format!("{echo}{text}");
                choices.push(choice(("text", told.into()), self.logprobs(&words, self.offset(index)), finish));
            }
        }
        let mut chunks: Vec<Value> = choices.into_iter().map(|choice| self.frame(vec![choice])).collect();
        if self.stream == Stream::WithUsage {
            for chunk in &mut chunks {
                chunk["usage"] = Value::Null;
            }
            if self.is_over() {
                let mut usage = self.frame(Vec::new());
                usage["usage"] = self.usage();
                chunks.push(usage);
            }
        }
        chunks
    }

    fn index(&self, said: &Said) -> usize {
        said.prompt * self.samples + said.piece.sample
    }

    fn echo(&self, index: usize) -> &str {
        &self.echoes[index / self.samples]
    }

    /// Characters of the echo.
    fn offset(&self, index: usize) -> usize {
        self.echo(index).chars().count()
    }

    fn frame(&self, choices: Vec<Value>) -> Value {
        let object = match (self.form, self.stream) {
            (Form::Text, _) => "text_completion",
            (Form::Chat, Stream::No) => "chat.completion",
            (Form::Chat, Stream::Yes | Stream::WithUsage) => "chat.completion.chunk",
        };
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": concat!("mashbill-", env!("CARGO_PKG_VERSION")),
            "choices": choices,
        })
    }

    fn usage(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        })
    }

    /// `offset`: characters before the answer.
    fn logprobs(&self, words: &[Word], offset: usize) -> Value {
        if !self.has_logprobs {
            return Value::Null;
        }
        match self.form {
            Form::Chat => {
                let content: Vec<Value> = words.iter().map(|word| self.chat_word(word)).collect();
                json!({ "content": content, "refusal": null })
            }
            Form::Text => {
                let text = |word: &Word| self.scribe.spell(word.token).text;
                json!({
                    "tokens": words.iter().map(text).collect::<Vec<_>>(),
                    "token_logprobs": words.iter().map(own).collect::<Vec<_>>(),
                    "top_logprobs": words.iter().map(|word| self.tops_by_text(word)).collect::<Vec<_>>(),
                    "text_offset": words.iter().map(|word| offset + word.offset).collect::<Vec<_>>(),
                })
            }
        }
    }

    fn chat_word(&self, word: &Word) -> Value {
        let told = |token: u32, logprob: f32| {
            let spelling = self.scribe.spell(token);
            json!({ "token": spelling.text, "logprob": finite(logprob), "bytes": spelling.bytes })
        };
        let mut all = told(word.token, own(word));
        all["top_logprobs"] = word.top.iter().map(|(token, logprob)| told(*token, *logprob)).collect();
        all
    }

    /// By text, as the older endpoint has it, the token that was taken always among them. Of tokens with the same text
    /// the likeliest counts.
    fn tops_by_text(&self, word: &Word) -> Value {
        let mut tops = Map::new();
        for (token, logprob) in word.top.iter().copied().chain([(word.token, own(word))]) {
            tops.entry(self.scribe.spell(token).text).or_insert_with(|| finite(logprob).into());
        }
        tops.into()
    }
}

/// Of the token that was taken.
fn own(word: &Word) -> f32 {
    finite(word.logprob.expect("log-probabilities are told where they were asked for"))
}

/// JSON has no infinity; this is what OpenAI says of the impossible.
fn finite(logprob: f32) -> f32 {
    logprob.max(-9999.0)
}

fn reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Eos | Finish::Stop => "stop",
        Finish::Length => "length",
    }
}

fn fresh_id(form: Form) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let prefix = if form == Form::Chat { "chatcmpl" } else { "cmpl" };
    format!("{prefix}-{:016x}", RandomState::new().hash_one(COUNT.fetch_add(1, Relaxed)))
}

/// Seconds of Unix time.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
