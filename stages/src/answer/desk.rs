//! Where questions are taken and answers told, step by step.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use anyhow::Result;

use super::{
    scribe::Scribe,
    stops::{StopMatcher, Stops, Sure},
};
use crate::{
    decode::{Batcher, Finish, Id, Job, Said, Sampler},
    nn::decoder::Decoder,
    text::{stream::Stream, tokenizer::SpecialTokens},
};

/// A prompt to be continued.
#[derive(Debug, Clone)]
pub struct Question {
    pub prompt: Vec<u32>,
    /// Answers wanted.
    pub samples: usize,
    pub sampler: Sampler,
    /// Tokens after which an answer is cut off.
    pub max_new_tokens: usize,
    /// An answer ends before the first of these.
    pub stop: Arc<StopMatcher>,
    /// Chance is looked up by it, so that the same question with the same seed has the same answers.
    pub seed: u64,
    /// Are log-probabilities told, and of how many of the likeliest tokens besides?
    pub logprobs: Option<usize>,
}

/// A token of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Word {
    pub token: u32,
    /// Under the policy at the temperature, which greedy sampling takes as 1, before anything else reshapes the draw.
    /// None where none was asked for.
    pub logprob: Option<f32>,
    /// The likeliest tokens with theirs, the likeliest first.
    pub top: Vec<(u32, f32)>,
    /// Where its text begins: characters of the answer before it.
    pub offset: usize,
}

/// What is new of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    pub id: Id,
    /// Which of the question's answers, counted from zero.
    pub sample: usize,
    pub text: String,
    /// The tokens of which some text is told; the one that ended the answer is not among them.
    pub words: Vec<Word>,
    /// Set with the last piece.
    pub end: Option<End>,
}

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    pub finish: Finish,
    /// Tokens that were computed: with the one that ended the answer, and those of a stop string.
    pub tokens: usize,
}

/// Takes questions and answers as many at once as it has slots.
pub struct Desk<'a> {
    batcher: Batcher<'a>,
    scribe: Scribe,
    open: BTreeMap<Id, Vec<Answer>>,
}

struct Answer {
    text: Option<Stream>,
    stops: Stops,
    /// Words of which no text is told yet, each with the bytes of the answer before it.
    words: VecDeque<(usize, Word)>,
    /// Bytes and characters read from tokens.
    read: (usize, usize),
    /// Bytes told.
    told: usize,
    tokens: usize,
    is_over: bool,
}

/// Tokens of a prompt that decide how the text behind them reads. One is enough but for half characters; what the
/// first token of each answer costs is thereby bounded, however long the prompt is.
const PROMPT_TAIL: usize = 64;

impl<'a> Desk<'a> {
    /// `slots`: answers that grow at once.
    #[must_use]
    pub fn new(decoder: &'a Decoder, scribe: Scribe, slots: usize) -> Self {
        Self { batcher: Batcher::new(decoder, slots), scribe, open: BTreeMap::new() }
    }

    /// Takes a question; it waits until slots are free.
    ///
    /// # Errors
    /// When the prompt is empty or does not fit the model, or the sampling parameters are another model's.
    pub fn ask(&mut self, question: Question) -> Result<Id> {
        let Question { prompt, samples, sampler, max_new_tokens, stop, seed, logprobs } = question;
        let told = prompt.iter().rev().copied().filter(|id| self.scribe.is_told(*id));
        let mut before: Vec<u32> = told.take(PROMPT_TAIL).collect();
        before.reverse();
        let answer = || Answer {
            text: Some(Stream::new(self.scribe.tokenizer(), &before, SpecialTokens::Hidden)),
            stops: Stops::new(Arc::clone(&stop)),
            words: VecDeque::new(),
            read: (0, 0),
            told: 0,
            tokens: 0,
            is_over: false,
        };
        let answers = (0..samples).map(|_| answer()).collect();
        let stop_ids = self.scribe.tokenizer().eos_ids().to_vec();
        let job = Job { prompt, samples, sampler, max_new_tokens, stop_ids, key: vec![seed], logprobs };
        let id = self.batcher.admit(job)?;
        self.open.insert(id, answers);
        Ok(id)
    }

    /// Nobody wants these answers any more.
    pub fn cancel(&mut self, id: Id) {
        if self.open.remove(&id).is_some() {
            self.batcher.cancel(id);
        }
    }

    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.batcher.is_idle()
    }

    /// Answers that grow, and answers that wait for a slot.
    #[must_use]
    pub fn load(&self) -> (usize, usize) {
        (self.batcher.growing(), self.batcher.waiting())
    }

    /// One more token for every answer that grows, after questions have taken the free slots; what is sure now.
    ///
    /// # Errors
    /// When the model's logits are not numbers, or a token does not decode.
    pub fn step(&mut self) -> Result<Vec<Piece>> {
        let mut pieces = Vec::new();
        for said in self.batcher.step()? {
            let Some(answers) = self.open.get_mut(&said.id) else { continue };
            let (id, sample, is_over) = (said.id, said.sample, said.finish.is_some());
            let piece = answers[sample].hear(said, &self.scribe)?;
            if piece.end.is_some() {
                if !is_over {
                    self.batcher.end(id, sample);
                }
                answers[sample].is_over = true;
                if answers.iter().all(|answer| answer.is_over) {
                    self.open.remove(&id);
                }
            }
            if piece.end.is_some() || !piece.text.is_empty() || !piece.words.is_empty() {
                pieces.push(piece);
            }
        }
        Ok(pieces)
    }
}

impl Answer {
    fn hear(&mut self, said: Said, scribe: &Scribe) -> Result<Piece> {
        let Said { id, sample, token, logprobs, finish } = said;
        self.tokens += 1;
        let mut text = String::new();
        if finish != Some(Finish::Eos)
            && let Some(stream) = &mut self.text
        {
            let (logprob, top) = logprobs.map_or((None, Vec::new()), |told| (Some(told.token), told.top));
            self.words.push_back((self.read.0, Word { token, logprob, top, offset: self.read.1 }));
            if scribe.is_told(token) {
                text = stream.push(token)?;
            }
        }
        if finish.is_some()
            && let Some(stream) = self.text.take()
        {
            text += &stream.finish()?;
        }
        self.read.0 += text.len();
        self.read.1 += text.chars().count();
        let (mut text, end) = match self.stops.push(&text) {
            Sure::Text(sure) => (sure, finish),
            Sure::End(sure) => (sure, Some(Finish::Stop)),
        };
        let is_whole = matches!(end, Some(Finish::Eos | Finish::Length));
        if is_whole {
            text += &self.stops.rest();
        }
        self.told += text.len();
        // A token without text at the very end (half a character) belongs to the answer, unless a stop string cut the
        // answer off before it.
        let told = self.words.iter().take_while(|(begins, _)| is_whole || *begins < self.told).count();
        let words = self.words.drain(..told).map(|(_, word)| word).collect();
        let end = end.map(|finish| End { finish, tokens: self.tokens });
        Ok(Piece { id, sample, text, words, end })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        bench::fixture,
        data::checkpoint::Checkpoint,
        decode::{self, Arrangement, Request, Sampling, Stop},
        device::{Compute, Place},
        nn::weights,
        text::complete::Policy,
    };

    fn policy() -> (Decoder, Scribe) {
        let Policy { decoder, tokenizer } = Policy::open(&fixture("llama"), &Compute::default()).unwrap();
        let scribe = Scribe::new(&tokenizer, &decoder.config).unwrap();
        (decoder, scribe)
    }

    fn question(scribe: &Scribe, seed: u64, samples: usize) -> Question {
        let sampler = Sampler::new(Sampling::default(), scribe.vocab_size).unwrap();
        let prompt = scribe.text("12+7=").unwrap();
        Question { prompt, samples, sampler, max_new_tokens: 20, stop: Arc::default(), seed, logprobs: Some(2) }
    }

    /// Text, tokens and end of every answer, by question and sample.
    type Told = BTreeMap<(Id, usize), (String, Vec<Word>, Option<End>)>;

    fn run(desk: &mut Desk, told: &mut Told) {
        while !desk.is_idle() {
            step(desk, told);
        }
    }

    fn step(desk: &mut Desk, told: &mut Told) {
        for piece in desk.step().unwrap() {
            let (text, words, end) = told.entry((piece.id, piece.sample)).or_default();
            assert_eq!(*end, None, "nothing comes after the end");
            text.push_str(&piece.text);
            words.extend(piece.words);
            *end = piece.end;
        }
    }

    #[test]
    fn pieces_put_together_are_the_completion() {
        let (decoder, scribe) = policy();
        let asked = question(&scribe, 7, 6);
        let request = Request { prompt: asked.prompt.clone(), samples: 6, key: 7 };
        let stop = Stop { ids: scribe.tokenizer().eos_ids(), when: None };
        let arrangement = Arrangement { slots: 6, watch: &mut |_| true };
        let sampling = Sampling { max_new_tokens: 20, ..Sampling::default() };
        let groups = decode::generate(&decoder, &[request], &sampling, &stop, &[], arrangement).unwrap().unwrap();
        let mut desk = Desk::new(&decoder, scribe.clone(), 2);
        let id = desk.ask(asked).unwrap();
        let mut told = Told::new();
        run(&mut desk, &mut told);
        for (sample, completion) in groups[0].iter().enumerate() {
            let (text, words, end) = &told[&(id, sample)];
            let said = match completion.finish {
                Finish::Eos => &completion.tokens[..completion.tokens.len() - 1],
                Finish::Length | Finish::Stop => &completion.tokens[..],
            };
            assert_eq!(*text, scribe.read(said).unwrap());
            assert_eq!(words.iter().map(|word| word.token).collect::<Vec<_>>(), said);
            assert!(words.iter().zip(&completion.logprobs).all(|(word, logprob)| word.logprob == Some(*logprob)));
            assert_eq!(*end, Some(End { finish: completion.finish, tokens: completion.tokens.len() }));
        }
    }

    #[test]
    fn a_stop_string_ends_one_answer_and_no_other() {
        let (decoder, scribe) = policy();
        let mut desk = Desk::new(&decoder, scribe.clone(), 8);
        let mut told = Told::new();
        let whole = desk.ask(question(&scribe, 7, 4)).unwrap();
        run(&mut desk, &mut told);
        let full = told[&(whole, 2)].0.clone();
        let stop: String = full.chars().skip(3).take(2).collect();
        let cut =
            desk.ask(Question { stop: Arc::new(StopMatcher::new([stop.clone()])), ..question(&scribe, 7, 4) }).unwrap();
        run(&mut desk, &mut told);
        for sample in 0..4 {
            let (before, (text, words, end)) = (&told[&(whole, sample)], &told[&(cut, sample)]);
            match before.0.find(&stop) {
                None => assert_eq!((text, words, end), (&before.0, &before.1, &before.2)),
                Some(at) => {
                    assert_eq!((text.as_str(), end.unwrap().finish), (&before.0[..at], Finish::Stop));
                    assert!(end.unwrap().tokens < before.2.unwrap().tokens, "it goes on behind its end");
                    assert_eq!(words[..], before.1[..words.len()]);
                }
            }
        }
    }

    #[test]
    fn who_leaves_changes_nothing_for_the_others() {
        let (decoder, scribe) = policy();
        let alone = |seed| {
            let mut desk = Desk::new(&decoder, scribe.clone(), 4);
            let id = desk.ask(question(&scribe, seed, 2)).unwrap();
            let mut told = Told::new();
            run(&mut desk, &mut told);
            [0, 1].map(|sample| told[&(id, sample)].clone())
        };
        let mut desk = Desk::new(&decoder, scribe.clone(), 3);
        let mut told = Told::new();
        let ids: Vec<Id> = (0..4).map(|seed| desk.ask(question(&scribe, seed, 2)).unwrap()).collect();
        step(&mut desk, &mut told);
        desk.cancel(ids[0]);
        desk.cancel(ids[2]);
        run(&mut desk, &mut told);
        for seed in [1, 3] {
            assert_eq!([0, 1].map(|sample| told[&(ids[seed], sample)].clone()), alone(seed as u64));
        }
        assert!(!told.contains_key(&(ids[2], 0)), "it had not begun");
        assert_eq!(desk.load(), (0, 0));
    }

    #[test]
    fn an_id_behind_the_tokenizers_last_has_no_text() {
        let Checkpoint { mut config, tokenizer, .. } = Checkpoint::open(&fixture("llama")).unwrap();
        config.vocab_size += 8;
        let weights = weights::init(&config, 1, 0.1);
        let decoder = Decoder::new(&config, &weights, &Place::cpu().device).unwrap();
        let scribe = Scribe::new(&tokenizer, &config).unwrap();
        let mut asked = question(&scribe, 1, 1);
        asked.prompt.push(70);
        asked.max_new_tokens = 3;
        let sampling = Sampling { logit_bias: [(71, 1000.0)].into(), ..Sampling::default() };
        asked.sampler = Sampler::new(sampling, config.vocab_size).unwrap();
        let mut desk = Desk::new(&decoder, scribe, 1);
        let id = desk.ask(asked).unwrap();
        let mut told = Told::new();
        run(&mut desk, &mut told);
        let (text, words, end) = &told[&(id, 0)];
        assert_eq!((text.as_str(), words.len(), end.unwrap().tokens), ("", 3, 3));
    }
}
