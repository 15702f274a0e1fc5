//! `mashbill chat`: a conversation with a model in the terminal.
//! Knows nothing of tokens.

use std::{
    hash::{BuildHasher as _, RandomState},
    io::{self, BufRead as _, IsTerminal as _},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::SeqCst},
    },
    thread,
};

use ::stages::{
    answer::{self, Desk, Finish, Question, Sampler, Sampling, Scribe},
    text::complete::Policy,
};
use rustyline::{DefaultEditor, error::ReadlineError};
use serde_json::{Value, json};
use signal_hook::{consts::SIGINT, iterator::Signals};

use crate::{
    args::{Asked, Draw, Global},
    model,
    outcome::{Code, Trouble},
    screen::{self, BOLD, DIM, RESET},
};

/// How it is talked.
#[derive(Debug)]
pub struct Form {
    pub draw: Draw,
    pub system: Option<String>,
    pub max_tokens: usize,
    pub sample_seed: Option<u64>,
    /// No conversation: every line is continued as it stands.
    pub plain: bool,
}

const HELP: &str = "\
/reset          begin a new conversation
/system TEXT    begin a new one, and tell the model this first; without a text, nothing
/help           this
//TEXT          a turn that begins with a slash
Ctrl-C stops an answer; on an empty line twice, or Ctrl-D, leaves";

pub fn chat(asked: &Asked, form: &Form, global: &Global) -> Result<Code, Trouble> {
    let model = model::find(asked, global)?;
    let Policy { decoder, tokenizer } = model.open()?;
    let scribe = Scribe::new(&tokenizer, &decoder.config).map_err(model::trouble)?;
    let sampling = form.draw.over(answer::habits(&tokenizer).map_err(model::trouble)?);
    let interrupt =
        Interrupt::listen().map_err(|error| Trouble::usage(format!("cannot listen for Ctrl-C: {error}")))?;
    let mut lines = Lines::open()?;
    if lines.is_typed() {
        greet(&model.name, &sampling, &scribe, form);
    }
    let mut talk = Talk {
        desk: Desk::new(&decoder, scribe.clone(), 1),
        scribe,
        messages: Vec::new(),
        form,
        sampling,
        seed: form.sample_seed.unwrap_or_else(|| RandomState::new().hash_one("seed")),
        turns: 0,
        interrupt,
    };
    talk.begin(form.system.clone());
    loop {
        match lines.next()? {
            Line::Turn(line) => {
                let outcome = talk.heed(&line);
                if let Err(problem) = outcome {
                    screen::error(&problem.message);
                    if let Some(hint) = problem.hint {
                        screen::note(&format!("  hint: {hint}"));
                    }
                    // Whoever types can mend it; a script must not take what follows for answers to what it asked.
                    if !lines.is_typed() {
                        return Ok(Code::Failed);
                    }
                }
            }
            Line::End => return Ok(Code::Done),
            Line::Interrupted => return Ok(Code::Interrupted),
        }
    }
}

fn greet(name: &str, sampling: &Sampling, scribe: &Scribe, form: &Form) {
    let way = match (form.plain, scribe.tokenizer().has_template()) {
        (true, _) => "each line is continued as it stands",
        (false, true) => "by its own chat template",
        (false, false) => "it brings no chat template: `User:` and `Assistant:`",
    };
    let Sampling { temperature, top_p, top_k, min_p, .. } = sampling;
    let mut drawn = vec![format!("temperature {temperature}")];
    drawn.extend((*top_p < 1.0).then(|| format!("top-p {top_p}")));
    drawn.extend((*top_k > 0).then(|| format!("top-k {top_k}")));
    drawn.extend((*min_p > 0.0).then(|| format!("min-p {min_p}")));
    screen::note(&format!("{BOLD}{name}{RESET}, {way}; {}; context {}", drawn.join(", "), scribe.context));
    screen::note(&format!("{DIM}/help tells the commands{RESET}"));
}

/// A conversation, and the model it is with.
struct Talk<'a> {
    desk: Desk<'a>,
    scribe: Scribe,
    messages: Vec<Value>,
    form: &'a Form,
    sampling: Sampling,
    seed: u64,
    /// Answers so far: each is drawn anew.
    turns: u64,
    interrupt: Interrupt,
}

/// Why there is no answer.
struct Problem {
    message: String,
    hint: Option<String>,
}

impl Problem {
    fn new(message: impl Into<String>, hint: &str) -> Self {
        Self { message: message.into(), hint: Some(hint.to_owned()).filter(|hint| !hint.is_empty()) }
    }
}

impl Talk<'_> {
    fn begin(&mut self, system: Option<String>) {
        self.messages.clear();
        self.messages.extend(system.map(|text| json!({ "role": "system", "content": text })));
    }

    fn heed(&mut self, line: &str) -> Result<(), Problem> {
        let Some(command) = line.strip_prefix('/') else { return self.turn(line) };
        let (word, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        match word {
            _ if command.starts_with('/') => self.turn(command),
            "reset" => {
                let system = self.messages.first().filter(|first| first["role"] == "system");
                let system = system.and_then(|first| first["content"].as_str()).map(str::to_owned);
                self.begin(system);
                Ok(())
            }
            "system" if self.form.plain => Err(Problem::new("with `--plain` there is no conversation to begin", "")),
            "system" => {
                self.begin(Some(rest.trim().to_owned()).filter(|text| !text.is_empty()));
                Ok(())
            }
            "help" | "?" => {
                screen::note(HELP);
                Ok(())
            }
            _ => Err(Problem::new(
                format!("no command `/{word}`"),
                "`/help` tells them; `//` begins a turn with a slash",
            )),
        }
    }

    /// Says something and prints the answer while it comes.
    fn turn(&mut self, text: &str) -> Result<(), Problem> {
        self.messages.push(json!({ "role": "user", "content": text }));
        let prompt = self.prompt(text);
        let answered = prompt.and_then(|(prompt, room)| self.answer(prompt, room));
        match answered {
            // What was not answered was not said.
            Err(problem) => {
                self.messages.pop();
                Err(problem)
            }
            Ok(answer) => {
                self.messages.push(json!({ "role": "assistant", "content": answer }));
                Ok(())
            }
        }
    }

    /// Its tokens, and how many fit behind them.
    fn prompt(&self, text: &str) -> Result<(Vec<u32>, usize), Problem> {
        let tokens = if self.form.plain { self.scribe.text(text) } else { self.scribe.conversation(&self.messages) };
        let tokens = tokens.map_err(|error| {
            let is_foreign = !self.form.plain && !self.scribe.tokenizer().has_template();
            let hint = "the model brings no chat template; `--plain` continues each line as it stands";
            Problem::new(format!("{error:#}"), if is_foreign { hint } else { "" })
        })?;
        let room = self.scribe.room(&tokens).map_err(|error| {
            let hint = if self.form.plain { "" } else { "`/reset` begins a new conversation" };
            Problem::new(error.to_string(), hint)
        })?;
        Ok((tokens, room))
    }

    fn answer(&mut self, prompt: Vec<u32>, room: usize) -> Result<String, Problem> {
        let max_new_tokens = self.form.max_tokens.min(room);
        // Every turn has chance of its own; the same turns with the same seed are answered alike.
        let seed = self.seed.wrapping_add(self.turns);
        self.turns += 1;
        let failed = |error: anyhow::Error| Problem::new(format!("{error:#}"), "");
        let sampler = Sampler::new(self.sampling.clone(), self.scribe.vocab_size).map_err(failed)?;
        let question =
            Question { prompt, samples: 1, sampler, max_new_tokens, stop: Arc::default(), seed, logprobs: None };
        let answering = self.interrupt.arm();
        let id = self.desk.ask(question).map_err(failed)?;
        let mut answer = String::new();
        let finish = loop {
            if self.interrupt.came() {
                self.desk.cancel(id);
                break None;
            }
            let mut end = None;
            for piece in self.desk.step().map_err(failed)? {
                screen::part(&piece.text);
                answer += &piece.text;
                end = piece.end.or(end);
            }
            if let Some(end) = end {
                break Some(end.finish);
            }
        };
        // Before its end is told: who reads of it and presses Ctrl-C means the program.
        drop(answering);
        if !answer.ends_with('\n') {
            screen::part("\n");
        }
        match finish {
            None => screen::note(&format!("{DIM}[stopped]{RESET}")),
            Some(Finish::Length) if room < self.form.max_tokens => screen::note(&format!(
                "{DIM}[cut off: the context of {} tokens is full; `/reset` begins anew]{RESET}",
                self.scribe.context
            )),
            Some(Finish::Length) => {
                screen::note(&format!(
                    "{DIM}[cut off after {max_new_tokens} tokens; `--max-tokens` allows more]{RESET}"
                ));
            }
            Some(Finish::Eos | Finish::Stop) => {}
        }
        Ok(answer)
    }
}

/// Where lines come from.
enum Lines {
    /// A terminal: edited, and remembered for the arrow keys.
    Typed {
        editor: Box<DefaultEditor>,
        is_leaving: bool,
    },
    Piped,
}

enum Line {
    Turn(String),
    End,
    Interrupted,
}

impl Lines {
    fn open() -> Result<Self, Trouble> {
        if !io::stdin().is_terminal() {
            return Ok(Self::Piped);
        }
        let editor = DefaultEditor::new().map_err(|error| unread(&error))?;
        Ok(Self::Typed { editor: Box::new(editor), is_leaving: false })
    }

    fn is_typed(&self) -> bool {
        matches!(self, Self::Typed { .. })
    }

    /// The next line that is not blank.
    fn next(&mut self) -> Result<Line, Trouble> {
        loop {
            let line = match self {
                Self::Piped => {
                    let mut line = String::new();
                    if io::stdin().lock().read_line(&mut line).map_err(|error| unread(&error))? == 0 {
                        return Ok(Line::End);
                    }
                    line
                }
                Self::Typed { editor, is_leaving } => match editor.readline("> ") {
                    Ok(line) => {
                        *is_leaving = false;
                        // Remembering is a convenience.
                        let _ = editor.add_history_entry(&line);
                        line
                    }
                    Err(ReadlineError::Interrupted) if *is_leaving => return Ok(Line::Interrupted),
                    Err(ReadlineError::Interrupted) => {
                        *is_leaving = true;
                        screen::note(&format!("{DIM}Ctrl-C once more leaves, as Ctrl-D does{RESET}"));
                        continue;
                    }
                    Err(ReadlineError::Eof) => return Ok(Line::End),
                    Err(error) => return Err(unread(&error)),
                },
            };
            if !line.trim().is_empty() {
                return Ok(Line::Turn(line.trim_end_matches(['\n', '\r']).to_owned()));
            }
        }
    }
}

fn unread(error: &impl std::fmt::Display) -> Trouble {
    Trouble::Failed { message: format!("cannot read what is said: {error}"), hint: None }
}

/// Ctrl-C: while an answer comes it ends the answer, else the program.
#[derive(Debug, Clone)]
struct Interrupt(Arc<AtomicU8>);

const IDLE: u8 = 0;
const ANSWERING: u8 = 1;
const INTERRUPTED: u8 = 2;

impl Interrupt {
    fn listen() -> io::Result<Self> {
        let state = Arc::new(AtomicU8::new(IDLE));
        let heard = Arc::clone(&state);
        let mut signals = Signals::new([SIGINT])?;
        thread::spawn(move || {
            for _ in signals.forever() {
                if heard.compare_exchange(ANSWERING, INTERRUPTED, SeqCst, SeqCst) == Err(IDLE) {
                    std::process::exit(Code::Interrupted as i32);
                }
            }
        });
        Ok(Self(state))
    }

    /// From now on, until the guard is dropped, Ctrl-C is for the answer.
    fn arm(&self) -> Armed {
        self.0.store(ANSWERING, SeqCst);
        Armed(self.clone())
    }

    fn came(&self) -> bool {
        self.0.load(SeqCst) == INTERRUPTED
    }
}

struct Armed(Interrupt);

impl Drop for Armed {
    fn drop(&mut self) {
        self.0.0.store(IDLE, SeqCst);
    }
}
