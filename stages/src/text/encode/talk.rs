//! A conversation as its tokenizer's chat template writes it, cut into what is given and what the assistant says.
//! Knows nothing of rows without messages.

use std::ops::Range;

use anyhow::{Result, bail, ensure};
use serde_json::{Map, Value};

use super::{Example, LossOn, beginning, check_bos, end, found};
use crate::{
    data::rows::{Row, kind},
    text::{
        check::{self, Finding},
        fields::{self, Messages},
        template::{Conversation, Turn},
        tokenizer::Tokenizer,
    },
};

/// A row's conversation before its tokenizer's template.
pub(super) struct Talk<'a> {
    tokenizer: &'a Tokenizer,
    messages: Vec<Value>,
    conversation: Conversation,
    /// Turns of the assistant before this message are not learned.
    learned_from: usize,
}

/// A stretch of a rendered conversation.
struct Stretch {
    text: String,
    /// The message of the assistant that it is, with what ends its turn.
    message: Option<usize>,
}

impl<'a> Talk<'a> {
    pub(super) fn of(tokenizer: &'a Tokenizer, row: &Row) -> Result<Option<Self>> {
        let Some(Messages { all, learned_from }) = fields::messages(row)? else { return Ok(None) };
        let mut given = match row.get("chat_template_kwargs") {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(given)) => given.clone(),
            Some(other) => bail!("`chat_template_kwargs` is {}; it must be an object", kind(other)),
        };
        for name in ["tools", "documents"] {
            match row.get(name) {
                None | Some(Value::Null) => {}
                Some(Value::Array(many)) => {
                    given.insert(name.into(), Value::Array(many.clone()));
                }
                // A field of that name that has nothing to do with chats.
                Some(other) => bail!("`{name}` is {}; beside messages it must be a list", kind(other)),
            }
        }
        let conversation = Conversation::new(&all, &given);
        Ok(Some(Self { tokenizer, messages: all, conversation, learned_from }))
    }

    fn render(&self, count: usize, turn: Turn) -> Result<String> {
        self.tokenizer.template().render(&self.conversation, count, turn, self.tokenizer.special_tokens())
    }

    fn is_answer(&self, index: usize) -> bool {
        self.messages[index]["role"] == "assistant"
    }

    /// The tokens before the assistant's last turn, or before the one that is still to come.
    pub(super) fn prompt(&self) -> Result<Vec<u32>> {
        let count = self.messages.len() - usize::from(self.is_answer(self.messages.len() - 1));
        let stretches = self.opening(count)?;
        self.check_contents(&stretches.iter().map(|stretch| stretch.text.as_str()).collect::<String>(), 0..count)?;
        let ids = self.assemble(&stretches)?.0.ids;
        check_bos(self.tokenizer, &ids)?;
        Ok(ids)
    }

    pub(super) fn example(&self, loss: LossOn) -> Result<Example> {
        let last = self.messages.len() - 1;
        ensure!(self.is_answer(last), "the last of `messages` is not the assistant's");
        if loss == LossOn::Assistant && self.tokenizer.template().marks_generation() {
            return self.marked();
        }
        let mut stretches = self.turns(loss)?;
        for (before, after) in (0..stretches.len()).zip(1..stretches.len()) {
            self.check_answer(&stretches[before].text, &stretches[after])?;
        }
        let first = if loss == LossOn::Last { last } else { self.learned_from };
        for stretch in &mut stretches {
            stretch.message = stretch.message.filter(|message| *message >= first);
        }
        let (mut example, endless) = self.assemble(&stretches)?;
        for message in endless {
            if self.tokenizer.has_template() {
                found(self.tokenizer, Finding::EosUntrained, || self.endless(&stretches, message))?;
            }
            // A template may leave the last turn open: a policy that never saw its end would never stop.
            if message == last {
                example.ids.push(end(self.tokenizer)?);
                example.trained.push(true);
            }
        }
        Ok(example)
    }

    fn endless(&self, stretches: &[Stretch], message: usize) -> String {
        let of = stretches.iter().find(|stretch| stretch.message == Some(message));
        let written = check::ending(of.map_or("", |stretch| &stretch.text));
        let eos = self.tokenizer.special_tokens().get("eos_token").cloned().unwrap_or_default();
        format!(
            "no token that ends a generation is learned of message {}, which the chat template ends with {written:?}; \
             the tokenizer's end-of-sequence token is {eos:?}",
            message + 1
        )
    }

    /// All learned turns, each behind what comes before it.
    fn turns(&self, loss: LossOn) -> Result<Vec<Stretch>> {
        let last = self.messages.len() - 1;
        let whole = self.render(last + 1, Turn::Done)?;
        if loss != LossOn::Last
            && let Some(mut stretches) = self.apart(last, &whole)?
            && let Some(answer) = rest(&whole, &stretches)
        {
            stretches.push(Stretch { text: answer.to_owned(), message: Some(last) });
            self.check_contents(&whole, 0..last)?;
            return Ok(stretches);
        }
        let open = self.render(last, Turn::Open)?;
        if whole.starts_with(&open) {
            if loss != LossOn::Last {
                found(self.tokenizer, Finding::PrefixChanged, || {
                    "the chat template writes earlier turns anew when a turn is added, so their tokens are not the \
                     ones that were generated"
                        .to_owned()
                })?;
            }
            self.check_contents(&whole, 0..last)?;
            let mut stretches = self.opening(last)?;
            let answer = rest(&whole, &stretches).expect("the opening is how the whole begins").to_owned();
            stretches.push(Stretch { text: answer, message: Some(last) });
            return Ok(stretches);
        }
        // The answer is not written behind what generation starts from.
        let shared = open.char_indices().zip(whole.chars()).find(|((_, here), there)| here != there);
        let border = shared.map_or(open.len().min(whole.len()), |((at, _), _)| at);
        let answer = Stretch { text: whole[border..].to_owned(), message: Some(last) };
        self.check_answer(&open, &answer)?;
        if !whole.starts_with(&self.render(last, Turn::Done)?) {
            found(self.tokenizer, Finding::PrefixChanged, || {
                format!("the chat template writes what comes before message {} anew once it is there", last + 1)
            })?;
        }
        found(self.tokenizer, Finding::PromptMismatch, || {
            format!(
                "the chat template ends a generation prompt with {:?}, but writes {:?} where message {} begins",
                check::ending(&open),
                check::shortened(&answer.text),
                last + 1
            )
        })?;
        self.check_contents(&whole, 0..last)?;
        Ok(vec![Stretch { text: whole[..border].to_owned(), message: None }, answer])
    }

    /// What generation of a message starts from, with earlier turns of the assistant apart where the template leaves
    /// them as they were generated.
    fn opening(&self, count: usize) -> Result<Vec<Stretch>> {
        let open = self.render(count, Turn::Open)?;
        match self.apart(count, &open)? {
            Some(stretches) => Ok(stretches),
            None => Ok(vec![Stretch { text: open, message: None }]),
        }
    }

    /// Cuts a conversation where the assistant began and ended to write, up to where message `count` begins. None
    /// where the template has changed what it wrote before.
    fn apart(&self, count: usize, whole: &str) -> Result<Option<Vec<Stretch>>> {
        let mut stretches: Vec<Stretch> = Vec::new();
        let mut done = String::new();
        let mut add = |text: String, message: Option<usize>| {
            let Some(added) = text.strip_prefix(&done) else { return false };
            stretches.push(Stretch { text: added.to_owned(), message });
            done = text;
            whole.starts_with(&done)
        };
        for index in (0..count).filter(|index| self.is_answer(*index)) {
            if !add(self.render(index, Turn::Open)?, None) || !add(self.render(index + 1, Turn::Done)?, Some(index)) {
                return Ok(None);
            }
        }
        Ok(add(self.render(count, Turn::Open)?, None).then_some(stretches))
    }

    /// As transformers: the whole conversation at once, and what stands in the template's `generation` blocks.
    fn marked(&self) -> Result<Example> {
        let tokenizer = self.tokenizer;
        let (whole, blocks) = tokenizer.template().render_marked(&self.conversation, tokenizer.special_tokens())?;
        let is_learned = |index: &usize| self.is_answer(*index) && *index >= self.learned_from;
        for index in (0..self.messages.len()).filter(is_learned) {
            if index > 0 && !whole.starts_with(&self.render(index, Turn::Open)?) {
                found(tokenizer, Finding::PrefixChanged, || {
                    format!("the chat template writes what comes before message {} anew in the end", index + 1)
                })?;
            }
            if let Some(thought) = check::reasoning(&self.messages[index]).filter(|thought| !whole.contains(thought)) {
                found(tokenizer, Finding::ReasoningDropped, || Self::dropped(thought, index))?;
            }
        }
        self.check_contents(&whole, 0..self.messages.len())?;
        let (ids, mut trained) = tokenizer.encode_stretches(&whole, &blocks)?;
        for (at, block) in blocks.iter().enumerate() {
            let (_, inside) = tokenizer.encode_stretches(&whole, std::slice::from_ref(block))?;
            if !ids.iter().zip(inside).any(|(id, is_inside)| is_inside && tokenizer.is_end(*id)) {
                found(tokenizer, Finding::EosUntrained, || {
                    format!("the template's `generation` block {} has no token that ends a generation", at + 1)
                })?;
            }
        }
        if self.learned_from > 0 {
            let before = self.render(self.learned_from, Turn::Open)?;
            let given = self.tokenizer.encode(&before)?.len();
            trained.iter_mut().take(given).for_each(|trained| *trained = false);
        }
        Ok(Example { ids, trained })
    }

    /// Is all of the assistant's message in what is learned of it?
    fn check_answer(&self, before: &str, stretch: &Stretch) -> Result<()> {
        let Some(index) = stretch.message else { return Ok(()) };
        let message = &self.messages[index];
        if let Some(thought) = check::reasoning(message).filter(|thought| !stretch.text.contains(thought)) {
            found(self.tokenizer, Finding::ReasoningDropped, || Self::dropped(thought, index))?;
        }
        if check::thinks_twice(before, &stretch.text) {
            found(self.tokenizer, Finding::ThinkTwice, || {
                format!("the generation prompt ends in `<think>`, and message {} begins with it again", index + 1)
            })?;
        }
        self.check_contents(&stretch.text, index..index + 1)
    }

    fn dropped(thought: &str, index: usize) -> String {
        format!("the chat template leaves out what message {} reasons, {:?}", index + 1, check::shortened(thought))
    }

    /// Is all that the messages say in a text?
    fn check_contents(&self, text: &str, which: Range<usize>) -> Result<()> {
        for index in which {
            if let Some(lost) = check::lost(&self.messages[index], text) {
                found(self.tokenizer, Finding::ContentDropped, || {
                    let role = self.messages[index]["role"].as_str().unwrap_or_default();
                    format!("the chat template does not write {lost} of message {} ({role})", index + 1)
                })?;
            }
        }
        Ok(())
    }

    /// The tokens of stretches, and the learned messages in which none ends a generation.
    fn assemble(&self, stretches: &[Stretch]) -> Result<(Example, Vec<usize>)> {
        let tokenizer = self.tokenizer;
        let mut example = Example::default();
        let mut endless = Vec::new();
        for (index, stretch) in stretches.iter().enumerate() {
            let ids = match index {
                // A template writes its own bos token.
                0 if tokenizer.has_template() => tokenizer.encode(&stretch.text)?,
                0 => beginning(tokenizer, &stretch.text)?,
                _ => tokenizer.encode_onward(&stretch.text)?,
            };
            // What a template writes behind the end of a turn is never generated.
            let end = ids.iter().position(|id| tokenizer.is_end(*id));
            endless.extend(stretch.message.filter(|_| end.is_none()));
            let ends = end.map_or(ids.len(), |at| at + 1);
            example.trained.extend((0..ids.len()).map(|at| stretch.message.is_some() && at < ends));
            example.ids.extend(ids);
        }
        Ok((example, endless))
    }
}

/// What a text has behind stretches that it begins with.
fn rest<'a>(whole: &'a str, stretches: &[Stretch]) -> Option<&'a str> {
    stretches.iter().try_fold(whole, |rest, stretch| rest.strip_prefix(stretch.text.as_str()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::tests::{learned, marked, row, tokenizer},
        *,
    };
    use crate::{
        bench::{fixture, packed_json, shared},
        text::{
            check::Tripped,
            encode::{example, examples, prompt},
            train::{self, Special},
        },
    };

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
            example(&tokenizer, &many, LossOn::Completion).unwrap_err().to_string().starts_with(
                "prefix_changed: the chat template writes what comes before message 4 anew once it is there"
            )
        );
    }

    /// A byte-level tokenizer that has the special tokens of a template.
    fn speaking(template: &str, [bos, eos]: [&str; 2], whole: &[&str]) -> Tokenizer {
        let special = Special {
            pad: Some(bos.into()),
            eos: Some(eos.into()),
            whole: whole.iter().map(|token| (*token).to_owned()).collect(),
        };
        let learned = train::bpe(&["a chat".into()], &special, 257 + special.all().len()).unwrap();
        let folder = tempfile::TempDir::new().unwrap();
        learned.save(folder.path()).unwrap();
        let json = std::fs::read_to_string(folder.path().join("tokenizer.json")).unwrap();
        let config = json!({ "bos_token": bos, "eos_token": eos, "chat_template": template });
        Tokenizer::new(json, config.as_object().unwrap().clone()).unwrap()
    }

    fn turn(role: &str, content: &str) -> Value {
        json!({ "role": role, "content": content })
    }

    const THOUGHT: &str = "<think>\nsum\n</think>\n\n4";
    const DEEPSEEK: [&str; 2] = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"];
    const LLAMA: [&str; 2] = ["<|begin_of_text|>", "<|eot_id|>"];
    const QWEN: [&str; 2] = ["<|endoftext|>", "<|im_end|>"];
    /// What published templates trip on, one letter a conversation of [`troubled`]: `.` nothing, `x` the template
    /// refuses it, else the first letter of the finding, with `m` for a prompt mismatch.
    const TRIPS: [(&str, [&str; 2], &str); 19] = [
        // Keeps reasoning in the text, knows no `reasoning_content`, tool calls, parts or second system prompt.
        ("HuggingFaceTB-SmolLM3-3B", QWEN, "....rccc"),
        // As edited for llama.cpp: closes `<think>` at once unless `enable_thinking` is set.
        ("Qwen-QwQ-32B", QWEN, "mmmmrmxm"),
        ("Qwen-Qwen2.5-7B-Instruct", QWEN, "....r.x."),
        // Thinks in the last turn only.
        ("Qwen-Qwen3-0.6B", QWEN, "..pp.px."),
        // Opens `<think>` to generate; drops what stands before `</think>` from what was generated.
        ("deepseek-ai-DeepSeek-R1-Distill-Llama-8B", DEEPSEEK, "mrmrrpxm"),
        ("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", DEEPSEEK, "mrmrrpxm"),
        ("deepseek-ai-DeepSeek-V3.1", DEEPSEEK, ".r.rr.x."),
        // Prints the list of a content's parts.
        ("google-gemma-2-2b-it", ["<bos>", "<end_of_turn>"], "....rxcx"),
        ("meta-llama-Llama-3.1-8B-Instruct", LLAMA, "....r.c."),
        ("meta-llama-Llama-3.2-3B-Instruct", LLAMA, "....r.c."),
        // Ends every conversation with another end-of-sequence token.
        ("microsoft-Phi-3.5-mini-instruct", ["<s>", "<|end|>"], "..pprpx."),
        ("mistralai-Mistral-Nemo-Instruct-2407", ["<s>", "</s>"], "....r.xx"),
        ("trl-deepseekv3", DEEPSEEK, "mrmrrxxm"),
        ("trl-llama3", LLAMA, "....rcc."),
        ("trl-llama3_training", LLAMA, "....rcc."),
        ("trl-qwen2_5", QWEN, "....r.x."),
        ("trl-qwen2_5_training", QWEN, "....r.x."),
        ("trl-qwen3", QWEN, "..pp.pc."),
        ("trl-qwen3_training", QWEN, "......c."),
    ];

    fn troubled() -> [Value; 8] {
        let call = json!({ "id": "abcdefgh1", "type": "function",
                           "function": { "name": "get_weather", "arguments": { "place": "Bonn" } } });
        let parts = json!([{ "type": "text", "text": "Two and" }, { "type": "text", "text": "two?" }]);
        [
            json!([turn("user", "2 + 2?"), turn("assistant", "4")]),
            json!([turn("user", "2 + 2?"), turn("assistant", THOUGHT)]),
            json!([turn("user", "2 + 2?"), turn("assistant", "4"), turn("user", "3?"), turn("assistant", "6")]),
            json!([turn("user", "2?"), turn("assistant", THOUGHT), turn("user", "3?"), turn("assistant", THOUGHT)]),
            json!([turn("user", "2 + 2?"), { "role": "assistant", "content": "4", "reasoning_content": "sum" }]),
            json!([turn("user", "Weather?"), { "role": "assistant", "content": "", "tool_calls": [call] },
                   { "role": "tool", "tool_call_id": "abcdefgh1", "content": "\"fair\" & <mild>" },
                   turn("assistant", "Sunny.")]),
            json!([{ "role": "user", "content": parts }, turn("assistant", "4")]),
            json!([
                turn("system", "Be brief."),
                turn("system", "Be kind."),
                turn("user", "2?"),
                turn("assistant", "2")
            ]),
        ]
    }

    /// The letter of [`TRIPS`].
    fn trips(tokenizer: &Tokenizer, messages: &Value, loss: LossOn) -> char {
        let Err(error) = example(tokenizer, &row(json!({ "messages": messages })), loss) else { return '.' };
        match error.downcast_ref::<Tripped>().map(|tripped| tripped.finding) {
            None => 'x',
            Some(Finding::PromptMismatch) => 'm',
            Some(finding) => finding.code().chars().next().unwrap(),
        }
    }

    #[test]
    fn what_published_templates_would_mangle_is_found() {
        let Some(folder) = shared("chat_templates") else { return };
        let mut wrong = Vec::new();
        for (name, special, expected) in TRIPS {
            let source = std::fs::read_to_string(folder.join(format!("{name}.jinja"))).unwrap();
            let tokenizer = speaking(&source, special, &[]);
            let found: String =
                troubled().iter().map(|messages| trips(&tokenizer, messages, LossOn::Completion)).collect();
            if found != expected {
                wrong.push(format!("{name}: {expected} expected, {found} found"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn the_template_check_says_what_where_and_how_to_mend_it() {
        let Some(folder) = shared("chat_templates") else { return };
        let of = |name: &str, special| {
            speaking(&std::fs::read_to_string(folder.join(format!("{name}.jinja"))).unwrap(), special, &[])
        };
        let complaint = |tokenizer: &Tokenizer, row: Value| {
            format!(
                "{:#}",
                examples(tokenizer, &[super::tests::row(row.clone()), super::tests::row(row)], LossOn::Completion)
                    .unwrap_err()
            )
        };
        let [plain, thought, _, turns, ..] = troubled();
        let r1 = of("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", DEEPSEEK);
        assert_eq!(
            complaint(&r1, json!({ "messages": thought })),
            "row 1: reasoning_dropped: the chat template leaves out what message 2 reasons, \"sum\" (and so in 1 more \
             row); give a template for training that keeps it (`template: { file: .. }`), or accept it: \
             `template: { accept: [reasoning_dropped] }`"
        );
        assert_eq!(
            complaint(&r1, json!({ "messages": plain })),
            "row 1: prompt_mismatch: the chat template ends a generation prompt with \"…r｜>2 + 2?<｜Assistant｜><think>\\n\", \
             but writes \"4<｜end▁of▁sentence｜>\" where message 2 begins (and so in 1 more row); give a template whose \
             generation prompt begins every answer (`template: { file: .. }`), or set the variable that it depends on \
             (`template: { variables: .. }`), or accept it: `template: { accept: [prompt_mismatch] }`"
        );
        // A cold start as it is often given: the template opens the reasoning, and so does the completion.
        assert_eq!(
            complaint(&r1, json!({ "messages": [plain[0]], "completion": THOUGHT })),
            "row 1: think_twice: the prompt ends in `<think>`, and `completion` begins with it again (and so in 1 more row); \
             leave `<think>` out of the completions, or use a template that does not open it, or accept it: \
             `template: { accept: [think_twice] }`"
        );
        let qwen3 = of("Qwen-Qwen3-0.6B", QWEN);
        assert_eq!(
            complaint(&qwen3, json!({ "messages": turns })),
            "row 1: prefix_changed: the chat template writes earlier turns anew when a turn is added, so their tokens are \
             not the ones that were generated (and so in 1 more row); learn the last turn alone (`loss: last`), or give \
             a template for training that keeps earlier turns (`template: { file: .. }`), or accept it: `template: \
             { accept: [prefix_changed] }`"
        );
        // A base model's end-of-sequence token beside a chat template's.
        let base = of("Qwen-Qwen2.5-7B-Instruct", ["<|im_start|>", "<|endoftext|>"]);
        assert_eq!(
            complaint(&base, json!({ "messages": plain })),
            "row 1: eos_untrained: no token that ends a generation is learned of message 2, which the chat template ends \
             with \"4<|im_end|>\\n\"; the tokenizer's end-of-sequence token is \"<|endoftext|>\" (and so in 1 more row); \
             name the token that ends a turn (`template: { eos: .. }`), or accept it: `template: { accept: \
             [eos_untrained] }`"
        );
    }

    #[test]
    fn a_finding_that_is_accepted_lets_the_row_be_learned() {
        let Some(folder) = shared("chat_templates") else { return };
        let learned = |name: &str, special, messages: &Value, accepted: Finding| {
            let source = std::fs::read_to_string(folder.join(format!("{name}.jinja"))).unwrap();
            let tokenizer = speaking(&source, special, &["<｜User｜>", "<｜Assistant｜>"]).accepting([accepted].into());
            marked(&tokenizer, &example(&tokenizer, &row(json!({ "messages": messages })), LossOn::Completion).unwrap())
        };
        let [plain, _, _, turns, ..] = troubled();
        assert_eq!(
            learned("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", DEEPSEEK, &plain, Finding::PromptMismatch),
            "<｜begin▁of▁sentence｜><｜User｜>2 + 2?<｜Assistant｜>[4<｜end▁of▁sentence｜>]"
        );
        assert_eq!(
            learned("Qwen-Qwen3-0.6B", QWEN, &turns, Finding::PrefixChanged),
            "<|im_start|>user\n2?<|im_end|>\n<|im_start|>assistant\n4<|im_end|>\n<|im_start|>user\n3?<|im_end|>\n\
             <|im_start|>assistant\n[<think>\nsum\n</think>\n\n4<|im_end|>]\n"
        );
        assert_eq!(
            learned("Qwen-Qwen2.5-7B-Instruct", ["<|im_start|>", "<|endoftext|>"], &plain, Finding::EosUntrained),
            "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n\
             <|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n[4<|im_end|>\n<|endoftext|>]"
        );
    }

    #[test]
    fn the_last_turn_alone_is_learned_behind_the_prompt_that_it_was_generated_from() {
        let Some(folder) = shared("chat_templates") else { return };
        let source = std::fs::read_to_string(folder.join("Qwen-Qwen3-0.6B.jinja")).unwrap();
        let tokenizer = speaking(&source, QWEN, &[]);
        let [_, _, plain, turns, ..] = troubled();
        for messages in [plain, turns] {
            let row = row(json!({ "messages": messages }));
            let learned = example(&tokenizer, &row, LossOn::Last).unwrap();
            let prompt = prompt(&tokenizer, &row).unwrap();
            assert_eq!(learned.ids[..prompt.len()], prompt);
            assert!(learned.trained[..prompt.len()].iter().all(|trained| !trained) && learned.trained[prompt.len()]);
        }
        let messages =
            json!([turn("user", "1+1?"), turn("assistant", "2"), turn("user", "2+2?"), turn("assistant", "4")]);
        assert_eq!(
            learned(json!({ "messages": messages }), LossOn::Last),
            "User: 1+1?\nAssistant: 2<eos>\nUser: 2+2?\nAssistant: [4<eos>]\n"
        );
        let asked =
            json!({ "prompt": messages.as_array().unwrap()[..3], "completion": messages.as_array().unwrap()[3..] });
        assert_eq!(
            learned(asked, LossOn::Completion),
            "User: 1+1?\nAssistant: 2<eos>\nUser: 2+2?\nAssistant: [4<eos>]\n"
        );
    }

    #[test]
    fn masks_of_generation_blocks_are_those_of_transformers() {
        let (Some(templates), Some(folder)) = (shared("chat_templates"), shared("tokenizers/qwen2.5")) else { return };
        let mut json = String::new();
        let file = std::fs::File::open(folder.join("tokenizer.json.gz")).unwrap();
        std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(file), &mut json).unwrap();
        let config = json!({ "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>" });
        let plain = Tokenizer::new(json, config.as_object().unwrap().clone()).unwrap();
        let conversations = &packed_json(&fixture("templates.json.gz"))["conversations"];
        let expected = packed_json(&fixture("masks.json.gz"));
        let cases = expected["cases"].as_array().unwrap();
        let mut all_found = 0;
        for case in cases {
            let (name, about) = (case["template"].as_str().unwrap(), &case["conversation"]);
            let source = std::fs::read_to_string(templates.join(name)).unwrap();
            let tokenizer = plain.clone().with_template(source).unwrap().accepting(Finding::ALL.into());
            let mut given = conversations[about.as_str().unwrap()].as_object().unwrap().clone();
            let messages = given.remove("messages").unwrap();
            let variables = given.clone();
            let mut row = Row::from_iter([
                ("messages".to_owned(), messages),
                ("chat_template_kwargs".to_owned(), Value::Object(variables)),
            ]);
            for name in ["tools", "documents"] {
                row.extend(given.remove(name).map(|value| (name.to_owned(), value)));
            }
            let made = Talk::of(&tokenizer, &row).unwrap().unwrap().marked().unwrap();
            let bytes: Vec<u8> = made.ids.iter().flat_map(|id| id.to_le_bytes()).collect();
            assert_eq!(blake3::hash(&bytes).to_hex().as_str(), case["ids"], "{name} {about}");
            let mut runs = vec![0];
            let mut current = false;
            for trained in made.trained {
                if trained != current {
                    runs.push(0);
                    current = trained;
                }
                *runs.last_mut().unwrap() += 1;
            }
            assert_eq!(json!(runs), case["runs"], "{name} {about}");
            all_found += usize::from(runs.len() > 1);
        }
        assert!(cases.len() > 60 && all_found > 40, "{all_found} of {} cases have something to learn", cases.len());
    }

    #[test]
    fn a_template_sees_the_rows_own_tools_and_variables() {
        let source = "{% for t in tools %}{{ t.function.name }} {% endfor %}{{ mood }}{% for m in messages %}{{ m.content }}\
                      {% if m.role == 'assistant' %}<eos>{% endif %}{% endfor %}";
        let tokenizer = speaking(source, ["<pad>", "<eos>"], &[]);
        let row = row(json!({ "messages": [turn("user", "1")], "tools": [{ "function": { "name": "clock" } }],
                              "chat_template_kwargs": { "mood": "kind:" } }));
        assert_eq!(tokenizer.decode(&prompt(&tokenizer, &row).unwrap()).unwrap(), "clock kind:1");
    }
}
