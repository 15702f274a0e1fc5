//! Chat templates: messages to text, by the Jinja dialect of Hugging Face's transformers.
//! Knows nothing of tokens.
//!
//! What Jinja2 has and the engine here has not is refused: the operator `%` on texts, `varargs` and `kwargs` of macros,
//! the test `callable`, the filters `center`, `forceescape`, `pprint`, `random`, `urlize`, `wordcount`, `wordwrap` and
//! `xmlattr`, and methods of texts that align them.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io::{self, Write},
    ops::Range,
    panic::{self, AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use engine::Cancel;
use minijinja::{
    Environment, Error, ErrorKind, State,
    syntax::SyntaxConfig,
    value::{Kwargs, ValueKind},
};
use serde_json::{Map, Value};

use crate::{
    bounded::{self, Bounds, Stopped},
    data::regular,
    text::{
        date::Date,
        json::Style,
        python::{self, Spacing},
    },
};

type Variable = minijinja::Value;

/// A compiled chat template, with what it is given beside conversations.
#[derive(Debug, Clone)]
pub struct Template {
    usual: Compiled,
    /// Used where a conversation brings tools, if the tokenizer has a template of the name `tool_use`.
    for_tools: Option<Compiled>,
    variables: Map<String, Value>,
    date: Option<Date>,
}

#[derive(Debug, Clone)]
struct Compiled {
    environment: Arc<Environment<'static>>,
    /// Has `{% generation %}` blocks.
    marks: bool,
    /// Can it make a value that no usual stack is deep enough for?
    nests: bool,
}

/// What a template writes out.
#[derive(Debug, Clone, Default)]
pub struct Conversation {
    messages: Vec<Variable>,
    /// By the names that templates know: `tools`, `documents` and whatever else a row gives.
    given: BTreeMap<String, Variable>,
}

const NAME: &str = "chat_template";

/// Used where a tokenizer brings no template. Each turn on a line of its own; the assistant's ends with the
/// tokenizer's end-of-sequence token.
pub const DEFAULT: &str = "\
{%- for message in messages -%}
{%- if message['role'] == 'user' -%}{{ 'User: ' + message['content'] + '\\n' }}
{%- elif message['role'] == 'assistant' -%}{{ 'Assistant: ' + message['content'] + (eos_token or '') + '\\n' }}
{%- else -%}{{ message['content'] + '\\n' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ 'Assistant: ' }}{%- endif -%}";

/// Loops in a template end after so many instructions, of which each may be 64 bytes of text instead.
const FUEL: u64 = 5_000_000;
/// A list that holds another one many times, which does so too, takes no memory and prints without end, and fuel does not
/// see how values are printed in an expression.
const BOUNDS: Bounds = Bounds { memory_bytes: 512 << 20, time: Duration::from_secs(10), stack_bytes: 8 << 20 };
/// Bytes of stack for a template that can put lists into lists by a loop. Letting go of a list lets go of what is in it,
/// and each takes 80 bytes of the stack: fuel is enough for three million of them.
const DEEP_STACK: usize = 320 << 20;
/// Bytes of a template that without a loop cannot reach so deep that it would matter.
const SHALLOW: usize = 16 << 10;
/// Bytes of a rendered conversation at most: some 16 million tokens, more than any context.
const LONGEST: usize = 64 << 20;
/// Blanks of a level of JSON at most.
const WIDEST_INDENT: usize = 100;

/// Where a rendered conversation ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// After the last message.
    Done,
    /// After what comes before the assistant's next message.
    Open,
}

impl Conversation {
    /// A conversation as transformers gives it to a template: a field that is null is as if it were not there, and
    /// reasoning has the name `reasoning_content` whichever of its names it came by. `given` are other things that
    /// the template may ask for, such as `tools`.
    #[must_use]
    pub fn new(messages: &[Value], given: &Map<String, Value>) -> Self {
        let given = given.iter().map(|(name, value)| (name.clone(), as_variable(value))).collect();
        Self { messages: messages.iter().map(|message| as_variable(&as_given(message))).collect(), given }
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}

/// The names that a message's reasoning is passed under; the first is the one that templates read.
pub(crate) const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

fn as_given(message: &Value) -> Value {
    let Some(fields) = message.as_object() else { return message.clone() };
    let mut fields: Map<String, Value> =
        fields.iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| (key.clone(), value.clone())).collect();
    if let Some(reasoning) = REASONING.iter().find_map(|name| fields.get(*name)).cloned() {
        // For gpt-oss, whose template reads it by this name.
        fields.entry("thinking").or_insert_with(|| reasoning.clone());
        fields.insert("reasoning_content".into(), reasoning);
    }
    Value::Object(fields)
}

fn as_variable(value: &Value) -> Variable {
    Variable::from(minijinja::value::Serde(value))
}

impl Template {
    /// The template of a `tokenizer_config.json`, if it has one: a text, or several by name, of which `default`
    /// writes chats and `tool_use` those with tools.
    ///
    /// # Errors
    /// When it does not compile.
    pub fn of(config: &Map<String, Value>) -> Result<Option<Self>> {
        let by_name = |many: &Vec<Value>, name: &str| {
            let named = many.iter().find(|entry| entry["name"] == name)?;
            named["template"].as_str().map(str::to_owned)
        };
        let (usual, for_tools) = match config.get("chat_template") {
            Some(Value::String(source)) => (Some(source.clone()), None),
            Some(Value::Array(many)) => (by_name(many, "default"), by_name(many, "tool_use")),
            _ => (None, None),
        };
        let Some(usual) = usual else { return Ok(None) };
        let mut template = Self::compile(&usual)?;
        template.for_tools = for_tools.map(|source| Compiled::new(&source)).transpose()?;
        Ok(Some(template))
    }

    /// Compiles a template.
    ///
    /// # Errors
    /// When it is not valid Jinja.
    pub fn compile(source: &str) -> Result<Self> {
        Ok(Self { usual: Compiled::new(source)?, for_tools: None, variables: Map::new(), date: None })
    }

    /// The template given these variables in every conversation, and the day that `strftime_now` tells.
    #[must_use]
    pub fn with(self, variables: Map<String, Value>, date: Option<Date>) -> Self {
        Self { variables, date, ..self }
    }

    /// Does it say by `{% generation %}` blocks what the assistant wrote?
    #[must_use]
    pub fn marks_generation(&self) -> bool {
        self.usual.marks
    }

    /// The text of the first `count` messages; with `Turn::Open`, up to where the assistant begins to write.
    /// `special` are the tokenizer's special tokens by their names, such as `eos_token`.
    ///
    /// # Errors
    /// When the template refuses the messages.
    pub fn render(
        &self,
        conversation: &Conversation,
        count: usize,
        turn: Turn,
        special: &BTreeMap<String, String>,
    ) -> Result<String> {
        self.compiled_for(conversation).render(self.scope(conversation, count, turn, special, ["", ""]))
    }

    /// The text of a whole conversation, and the stretches of it, in characters, that stand in `{% generation %}`
    /// blocks.
    ///
    /// # Errors
    /// As [`Template::render`]; when the template edits what it has put into a block, so that it cannot be found.
    pub fn render_marked(
        &self,
        conversation: &Conversation,
        special: &BTreeMap<String, String>,
    ) -> Result<(String, Vec<Range<usize>>)> {
        let (compiled, count) = (self.compiled_for(conversation), conversation.len());
        let plain = compiled.render(self.scope(conversation, count, Turn::Done, special, ["", ""]))?;
        // Two characters that no text may use in interchange (Unicode, section 23.7), and this one does not.
        let unused: Vec<char> = ('\u{fdd0}'..='\u{fdef}').filter(|mark| !plain.contains(*mark)).take(2).collect();
        let [begin, end] = unused[..] else { return Err(anyhow!("the messages hold too many noncharacters")) };
        let (first, last) = (begin.to_string(), end.to_string());
        let marked = compiled.render(self.scope(conversation, count, Turn::Done, special, [&first, &last]))?;
        let mut blocks: Vec<Range<usize>> = Vec::new();
        let (mut position, mut is_inside) = (0, false);
        for c in marked.chars() {
            if c == begin && !is_inside {
                blocks.push(position..position);
                is_inside = true;
            } else if c == end && is_inside {
                blocks.last_mut().expect("one began").end = position;
                is_inside = false;
            } else {
                position += 1;
            }
        }
        let is_whole = position == plain.chars().count() && !is_inside && marked.replace([begin, end], "") == plain;
        ensure!(is_whole, "the chat template edits what it writes in a `generation` block, so it cannot be told apart");
        Ok((plain, blocks))
    }

    fn compiled_for(&self, conversation: &Conversation) -> &Compiled {
        let has_tools = conversation.given.get("tools").is_some_and(|tools| !tools.is_none());
        self.for_tools.as_ref().filter(|_| has_tools).unwrap_or(&self.usual)
    }

    fn scope(
        &self,
        conversation: &Conversation,
        count: usize,
        turn: Turn,
        special: &BTreeMap<String, String>,
        [begin, end]: [&str; 2],
    ) -> BTreeMap<String, Variable> {
        let mut scope: BTreeMap<String, Variable> = BTreeMap::new();
        // As transformers: there, and none.
        for name in ["tools", "documents"] {
            scope.insert(name.into(), Variable::from(()));
        }
        scope.extend(special.iter().map(|(name, token)| (name.clone(), Variable::from(token.as_str()))));
        scope.extend(self.variables.iter().map(|(name, value)| (name.clone(), as_variable(value))));
        scope.extend(conversation.given.iter().map(|(name, value)| (name.clone(), value.clone())));
        scope.insert("messages".into(), Variable::from(conversation.messages[..count].to_vec()));
        scope.insert("add_generation_prompt".into(), Variable::from(turn == Turn::Open));
        // Without a day it is left undefined: a result must not depend on the clock. Templates that ask whether it
        // is defined then fall back to a day of their own.
        if let Some(date) = self.date {
            let tell = move |format: String| date.format(&format).map_err(|error| refusal(format!("{error:#}")));
            scope.insert(CLOCK.into(), Variable::from_function(tell));
        }
        scope.insert(BEGIN.into(), Variable::from(begin));
        scope.insert(END.into(), Variable::from(end));
        scope
    }
}

const CLOCK: &str = "strftime_now";
/// What stands at the borders of a generation block.
const BEGIN: &str = "__generation";
const END: &str = "__endgeneration";

impl Compiled {
    fn new(source: &str) -> Result<Self> {
        let (length, most) = (source.len() as u64, regular::TEMPLATE_BYTES);
        ensure!(length <= most, "the chat template has {length} bytes, and at most {most} are read");
        let mut environment = Environment::new();
        // As transformers: ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, loopcontrols).
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.context("template syntax")?);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(python::method);
        environment
            .add_function("raise_exception", |message: String| -> Result<String, Error> { Err(refusal(message)) });
        environment.add_filter("tojson", to_json);
        // Where Jinja2 shows that it is Python: how values print, and what counts as a sequence.
        environment.set_formatter(|out, _, value| match value.as_str() {
            Some(text) => out.write_str(text).map_err(Error::from),
            None => out.write_str(&python::str(value)?).map_err(Error::from),
        });
        environment.add_filter("string", |value: &Variable| python::str(value));
        // As the engine has them, paid for before they are made.
        environment.add_filter("split", split);
        environment.add_filter("lines", |state: &State, value: &Variable| {
            python::pay_for_parts(state, value.as_str().unwrap_or_default(), Some("\n"))?;
            minijinja::filters::lines(value)
        });
        let is_iterable = |value: &Variable| {
            matches!(value.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable)
        };
        // Prints in a way of its own.
        environment.remove_filter("pprint");
        environment.add_test("iterable", is_iterable);
        environment.add_test("sequence", |value: &Variable| {
            matches!(value.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map)
        });
        // Only what belongs to a namespace outlives a turn of a loop.
        let nests = source.contains("namespace") || source.len() > SHALLOW;
        // Jinja2 reads every end of a line as one character.
        let (source, marks) = with_marks(&source.replace("\r\n", "\n").replace('\r', "\n"));
        environment
            .add_template_owned(NAME, source)
            .map_err(|error| anyhow!("the chat template is malformed: {error:#}"))?;
        Ok(Self { environment: Arc::new(environment), marks, nests })
    }

    fn render(&self, scope: BTreeMap<String, Variable>) -> Result<String> {
        let compiled = self.clone();
        let work = move |scope| Ok::<_, Infallible>(catch_unwind(AssertUnwindSafe(|| compiled.render_here(scope))));
        let stack_bytes = if self.nests { DEEP_STACK } else { BOUNDS.stack_bytes };
        match bounded::run(1, Bounds { stack_bytes, ..BOUNDS }, &Cancel::default(), &|_| scope.clone(), work) {
            Ok(mut one) => {
                let rendered = one.pop().expect("one piece of work has one result");
                rendered.unwrap_or_else(|panic| panic::resume_unwind(panic))
            }
            Err(Stopped::GivenUp { why, .. }) => bail!("rendering the chat template was {why}"),
            Err(Stopped::Failed { .. } | Stopped::Cancelled) => unreachable!("it cannot fail, and nobody cancels it"),
        }
    }

    fn render_here(&self, scope: BTreeMap<String, Variable>) -> Result<String> {
        let template = self.environment.get_template(NAME).expect("compiling added it");
        let is_timeless = !scope.contains_key(CLOCK);
        let mut text = Bounded(Vec::new());
        template.render_captured_to(scope, &mut text).map(drop).map_err(|error| {
            if text.0.len() > LONGEST {
                return anyhow!("the chat template makes a text of more than {LONGEST} bytes");
            }
            if is_timeless && error.to_string().contains(CLOCK) {
                return anyhow!(
                    "the chat template asks for today's date, and a result must not depend on the day; \
                     give it one: `template: {{ date: 2024-07-26 }}`"
                );
            }
            if error.kind() == ErrorKind::OutOfFuel {
                let why =
                    error.detail().unwrap_or("it takes more steps or makes more text than a conversation can need");
                return anyhow!("the chat template does not come to an end: {why}");
            }
            anyhow!("the chat template refuses the messages: {error}")
        })?;
        String::from_utf8(text.0).context("the chat template makes no text")
    }
}

/// A text that grows up to [`LONGEST`].
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        if self.0.len() > LONGEST { Err(io::Error::other("too long a text")) } else { Ok(bytes.len()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn split(state: &State, value: &Variable, separator: Option<Arc<str>>, most: Option<i64>) -> Result<Variable, Error> {
    python::pay_for_parts(state, value.as_str().unwrap_or_default(), separator.as_deref())?;
    minijinja::filters::split(value, separator, most)
}

fn refusal(message: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

/// `{% generation %}` encloses the assistant's words in some templates. It prints nothing; what is set in it is not
/// seen behind it. The tags of the block keep the source's own trimming of blanks around them.
fn with_marks(source: &str) -> (String, bool) {
    let tag = regex::Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}").expect("a valid pattern");
    let replaced = tag.replace_all(source, |found: &regex::Captures| {
        let (open, close) = (&found[1], &found[3]);
        if found.get(2).is_none() {
            format!("{{%{open} if true %}}{{{{ {BEGIN} }}}}{{% with {close}%}}")
        } else {
            format!("{{%{open} endwith %}}{{{{ {END} }}}}{{% endif {close}%}}")
        }
    });
    let marks = replaced != source;
    (replaced.into_owned(), marks)
}

/// `json.dumps(value, ensure_ascii=False, ..)`, which is what transformers puts in place of Jinja's own.
#[expect(clippy::needless_pass_by_value, reason = "the signature that minijinja calls")]
fn to_json(value: &Variable, options: Kwargs) -> Result<String, Error> {
    let separators: Option<Vec<String>> = options.get("separators")?;
    let separators = match separators.as_deref() {
        None => None,
        Some([of_items, of_key]) => Some((of_items.clone(), of_key.clone())),
        Some(_) => return Err(refusal("tojson takes two separators".into())),
    };
    let style = Style {
        indent: options.get("indent")?,
        separators,
        sorts_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or_default(),
        is_ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or_default(),
    };
    options.assert_all_used()?;
    if value.is_undefined() {
        return Err(refusal("what is undefined cannot be written as JSON".into()));
    }
    let indent = style.indent.unwrap_or_default();
    if indent > WIDEST_INDENT {
        return Err(refusal(format!("tojson takes an indent of at most {WIDEST_INDENT}, and this is {indent}")));
    }
    let of_item = style.separators.as_ref().map_or(2, |(of_items, of_key)| of_items.len() + of_key.len());
    python::measure_by(value, Spacing { of_item: of_item as u64, of_level: indent as u64 })?;
    let value =
        serde_json::to_value(value).map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))?;
    Ok(style.dumps(&value))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::bench::{Chance, fixture, packed_json, shared};

    fn rendered(source: &str, messages: Value) -> Result<String> {
        let messages = messages.as_array().unwrap();
        let conversation = Conversation::new(messages, &Map::new());
        Template::compile(source)?.render(&conversation, messages.len(), Turn::Open, &BTreeMap::new())
    }

    /// A conversation of the fixtures: `messages` and whatever else the template is given.
    fn conversation(given: &Value) -> Conversation {
        let mut given = given.as_object().unwrap().clone();
        let messages = given.remove("messages").unwrap();
        Conversation::new(messages.as_array().unwrap(), &given)
    }

    #[test]
    fn published_templates_render_as_in_transformers() {
        let Some(folder) = shared("chat_templates") else { return };
        let expected = packed_json(&fixture("templates.json.gz"));
        let special: BTreeMap<String, String> = serde_json::from_value(expected["special"].clone()).unwrap();
        let day: Date = expected["date"].as_str().unwrap().parse().unwrap();
        let (mut templates, mut wrong) = (BTreeMap::new(), Vec::new());
        for case in expected["cases"].as_array().unwrap() {
            let name = case["template"].as_str().unwrap();
            let template = templates.entry(name).or_insert_with(|| {
                let source = std::fs::read_to_string(folder.join(name)).unwrap();
                Template::compile(&source).unwrap().with(Map::new(), Some(day))
            });
            let conversation = conversation(&expected["conversations"][case["conversation"].as_str().unwrap()]);
            let turn = if case["open"] == true { Turn::Open } else { Turn::Done };
            let text = template.render(&conversation, conversation.len(), turn, &special);
            let is_right = match (case["text"].as_str(), &text) {
                (Some(expected), Ok(text)) => expected == text,
                (expected, _) => expected.is_none() && text.is_err(),
            };
            if !is_right {
                wrong.push(format!("{name}, {}, {turn:?}:\n  Python {case}\n  here   {text:?}", case["conversation"]));
            }
        }
        assert_eq!(templates.len(), 19);
        assert!(wrong.is_empty(), "{} renders differ:\n{}", wrong.len(), wrong.join("\n"));
    }

    #[test]
    fn constructs_of_templates_render_as_in_transformers() {
        let expected = packed_json(&fixture("templates.json.gz"));
        let special: BTreeMap<String, String> = serde_json::from_value(expected["special"].clone()).unwrap();
        let day: Date = expected["date"].as_str().unwrap().parse().unwrap();
        let messages = [json!({ "role": "user", "content": "u" }), json!({ "role": "assistant", "content": "a" })];
        let given = Map::from_iter([("v".to_owned(), expected["value"].clone())]);
        let conversation = Conversation::new(&messages, &given);
        let mut wrong = Vec::new();
        for snippet in expected["snippets"].as_array().unwrap() {
            let text = Template::compile(snippet["source"].as_str().unwrap()).and_then(|template| {
                template.with(Map::new(), Some(day)).render(&conversation, 2, Turn::Done, &special)
            });
            let is_right = match (snippet["text"].as_str(), &text) {
                (Some(expected), Ok(text)) => expected == text,
                (expected, _) => expected.is_none() && text.is_err(),
            };
            if !is_right {
                wrong.push(format!("{snippet}\n    here {text:?}"));
            }
        }
        assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
        for beyond in expected["beyond"].as_array().unwrap() {
            let text = Template::compile(beyond["source"].as_str().unwrap())
                .and_then(|template| template.render(&conversation, 2, Turn::Done, &special));
            assert!(text.is_err(), "{beyond} was to be refused: {text:?}");
        }
    }

    #[test]
    fn the_default_template_puts_each_turn_on_a_line() {
        let messages = json!([
            { "role": "system", "content": "Be brief." },
            { "role": "user", "content": "2+2?" },
            { "role": "assistant", "content": "4" },
            { "role": "user", "content": "3+3?" },
        ]);
        assert_eq!(
            rendered(DEFAULT, messages).unwrap(),
            "Be brief.\nUser: 2+2?\nAssistant: 4\nUser: 3+3?\nAssistant: "
        );
    }

    #[test]
    fn a_template_may_refuse_the_messages() {
        let error = rendered("{{ raise_exception('roles must alternate') }}", json!([])).unwrap_err().to_string();
        assert!(
            error.starts_with("the chat template refuses the messages: invalid operation: roles must alternate"),
            "{error}"
        );
    }

    #[test]
    fn the_day_is_given_or_unknown_and_never_the_clocks() {
        let asks = "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% else %}26 Jul 2024{% endif %}";
        assert_eq!(rendered(asks, json!([])).unwrap(), "26 Jul 2024");
        let template = Template::compile(asks).unwrap().with(Map::new(), Some("2025-03-09".parse().unwrap()));
        let empty = Conversation::default();
        assert_eq!(template.render(&empty, 0, Turn::Done, &BTreeMap::new()).unwrap(), "09 Mar 2025");
        assert_eq!(
            rendered("{{ strftime_now('%Y') }}", json!([])).unwrap_err().to_string(),
            "the chat template asks for today's date, and a result must not depend on the day; give it one: \
             `template: { date: 2024-07-26 }`"
        );
    }

    #[test]
    fn a_tokenizer_may_have_a_template_for_tools() {
        let many = json!({ "chat_template": [
            { "name": "tool_use", "template": "tools: {{ tools | length }}" }, { "name": "default", "template": "chat" } ] });
        let template = Template::of(many.as_object().unwrap()).unwrap().unwrap();
        let text = |given: Value| {
            let conversation = Conversation::new(&[], given.as_object().unwrap());
            template.render(&conversation, 0, Turn::Done, &BTreeMap::new()).unwrap()
        };
        assert_eq!((text(json!({ "tools": [{}] })), text(json!({}))), ("tools: 1".into(), "chat".into()));
    }

    #[test]
    fn what_stands_in_generation_blocks_is_told_apart_in_characters() {
        let source =
            "<é>{% generation %}{{ messages[0].content }}{% endgeneration %}\n{% generation %}\nx{%- endgeneration %}";
        let template = Template::compile(source).unwrap();
        let conversation = Conversation::new(&[json!({ "content": "日本" })], &Map::new());
        assert_eq!(
            template.render_marked(&conversation, &BTreeMap::new()).unwrap(),
            ("<é>日本x".into(), vec![3..5, 5..6])
        );
        let edited = "{% set x %}{% generation %} a{% endgeneration %}{% endset %}{{ x | trim }}";
        assert!(Template::compile(edited).unwrap().render_marked(&conversation, &BTreeMap::new()).is_err());
    }

    #[test]
    fn texts_without_end_are_refused_before_they_are_made() {
        let doubled =
            "{% set ns = namespace(s='ab') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}";
        let nested =
            "{% set ns = namespace(a=[1, 2]) %}{% for i in range(60) %}{% set ns.a = [ns.a, ns.a] %}{% endfor %}";
        let deep = "{% set ns = namespace(a=[]) %}{% for i in range(300) %}{% for j in range(1000) %}{% set ns.a = [ns.a] %}\
                    {% endfor %}{% endfor %}";
        let sources = [
            "{{ '{:>10000000000}'.format('a') }}",
            "{{ '{:.10000000000f}'.format(1.5) }}",
            "{{ ('{0}' * 100000).format('a' * 1000000) }}",
            "{{ {'a': [1]} | tojson(indent=10000000000) }}",
            "{{ range(99999) | list | tojson(separators=('x' * 1000000, 'y')) }}",
            "{{ 'a' * 10 ** 10 }}",
            "{{ [1] * 10 ** 10 }}",
            "{{ ([1] * 10 ** 10) | string }}",
            "{{ ([1] * 10 ** 10) | tojson }}",
            "{{ ', '.join([1] * 10 ** 10) }}",
            "{{ '%10000000000s' | format('a') }}",
            "{{ ('a' * 1000000) | replace('a', 'b' * 1000000) }}",
            "{{ ('a' * 1000000).replace('a', 'b' * 1000000) }}",
            "{{ ('a' * 1000000).join('b' * 1000000) }}",
            "{{ ('a' * 1000000) | list | join('b' * 1000000) }}",
            "{{ ('a\\n' * 1000000) | indent(10000000) }}",
            "{{ ('a' * 300000000).split('a') | length }}",
            "{{ ('a' * 300000000) | split('a') | length }}",
            "{{ ('a\\n' * 150000000).splitlines() | length }}",
            "{{ 'a' * 100000000 }}",
            doubled,
            &format!("{nested}{{{{ ns.a }}}}"),
            &format!("{nested}{{{{ ns.a | string }}}}"),
            &format!("{nested}{{{{ ns.a | tojson }}}}"),
            &format!("{nested}{{{{ ''.join(ns.a) }}}}"),
            &format!("{deep}{{{{ ns.a }}}}"),
            &format!("{nested}{{{{ '{{}}'.format(ns.a) }}}}"),
        ];
        for source in sources {
            let started = std::time::Instant::now();
            let error = rendered(source, json!([])).map(|text| text.len()).expect_err(source).to_string();
            assert!(error.starts_with("the chat template "), "{source}: {error}");
            assert!(started.elapsed().as_secs() < 15, "{source}: {:?}", started.elapsed());
        }
        // Two to the power of forty items, in forty lists.
        let shared = format!("{{% set a = [1] %}}{}", "{% set a = [a, a] %}".repeat(40));
        let error = rendered(&format!("{shared}{{{{ a ~ '' }}}}"), json!([])).unwrap_err().to_string();
        assert!(
            error.starts_with("rendering the chat template was given up: one step of it asked for more"),
            "{error}"
        );
        // Let go of on a stack that is deep enough.
        assert_eq!(rendered(&format!("{deep}{{% set ns.a = 0 %}}x"), json!([])).unwrap(), "x");
        // What conversations need stays.
        let usual = "{{ {'a': [1, 2]} | tojson(indent=4) }}{{ '{:>5}'.format('a') }}{{ 'a,b'.split(',') }}{{ '-'.join(['a', 1]) }}";
        let expected = "{\n    \"a\": [\n        1,\n        2\n    ]\n}    a['a', 'b']a-1";
        assert_eq!(rendered(usual, json!([])).unwrap(), expected);
        let long = json!([{ "content": "word ".repeat(400_000) }]);
        let split = "{{ messages[0].content.split(' ') | length }}{{ messages[0].content.upper() | length }}";
        assert_eq!(rendered(split, long).unwrap(), "4000012000000");
    }

    // What templates are made of by the test below: `E` stands for an expression, `T` for a text, `V` for another value
    // and `N` for a number.
    const TEXTS: [&str; 8] =
        ["'ab'", "s", "ns.s", "messages[0].content", "('x' * N)", "'{:>N}{0}{:.N}'", "('a,b\\n' * N)", "(s ~ s)"];
    const VALUES: [&str; 9] =
        ["[s, s]", "ns.a", "messages", "range(N)", "([1] * N)", "{'a': ns.a}", "N", "s.split('a')", "{}"];
    const CALLS: [&str; 34] = [
        " | replace('a', T)",
        " | join(T)",
        " | indent(N)",
        " | tojson(indent=N)",
        " | tojson(separators=(T, T))",
        " | string",
        " | upper",
        " | title",
        " | trim",
        " | list",
        " | split(T)",
        " | lines",
        " | batch(N)",
        " | slice(N)",
        " | reverse",
        " | sort",
        " | unique",
        " | first",
        " | length",
        " | format(T, N)",
        " | urlencode",
        " | escape",
        " | abs",
        " | round(N)",
        ".format(T, N)",
        ".join(V)",
        ".replace('a', T)",
        ".replace('', T, N)",
        ".split(T)",
        ".rsplit(T, N)",
        ".partition(T)",
        ".upper()",
        ".count(T)",
        ".splitlines()",
    ];
    const STATEMENTS: [&str; 9] = [
        "{{ E }}",
        "{% set s = E | string %}",
        "{% set ns.s = T ~ T %}",
        "{% set ns.a = [ns.a, ns.a] %}",
        "{% set ns.s = ns.s * N %}",
        "{% for i in V %}{{ E }}{% endfor %}",
        "{% for i in range(N) %}{% for j in range(N) %}{% set ns.s = ns.s ~ T %}{% endfor %}{% endfor %}",
        "{% if E == E %}{{ loop }}{% endif %}",
        "{% macro m(x) %}{{ x }}{{ E }}{% endmacro %}{{ m(m(T)) }}",
    ];
    const NUMBERS: [&str; 8] = ["0", "3", "-1", "70", "9999", "300000", "10000000000", "9223372036854775807"];

    /// Templates out of a small grammar of what makes texts: `MASHBILL_FUZZ_SECONDS=600` makes them for ten minutes.
    #[test]
    fn templates_of_any_kind_come_to_an_end() {
        let messages = [json!({ "role": "user", "content": "to be, or not to be\n".repeat(50) })];
        let conversation = Conversation::new(&messages, &Map::new());
        crate::bench::fuzz("templates", 300, |chance| {
            let mut source = "{% set ns = namespace(s='ab', a=[1]) %}{% set s = 'abc' %}".to_owned();
            for _ in 0..=chance.below(6) {
                source += *chance.of(&STATEMENTS[..]);
            }
            // Each place by something that may have places itself, and in the end by something without.
            for round in 0..4 {
                let mut written = String::new();
                for c in source.chars() {
                    let value = |chance: &mut Chance| if chance.below(2) == 0 { "T" } else { "V" };
                    match c {
                        'E' if round < 2 => {
                            written += value(chance);
                            (0..chance.below(4)).for_each(|_| written += *chance.of(&CALLS[..]));
                        }
                        'T' if round == 2 => written += *chance.of(&TEXTS[..]),
                        'V' if round == 2 => written += *chance.of(&VALUES[..]),
                        'N' if round == 3 => written += *chance.of(&NUMBERS[..]),
                        other => written.push(other),
                    }
                }
                source = written;
            }
            if let Ok(template) = Template::compile(&source) {
                let _ = template.render(&conversation, 1, Turn::Open, &BTreeMap::new());
            }
            source.into_bytes()
        });
    }

    #[test]
    fn a_loop_without_end_is_stopped() {
        let nested = "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}";
        assert!(rendered(nested, json!([])).is_err());
    }
}
