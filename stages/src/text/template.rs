//! Chat templates: messages to text, by the Jinja dialect of Hugging Face's transformers.
//! Knows nothing of tokens.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context as _, Result, anyhow};
use minijinja::{Environment, Error, ErrorKind, context, syntax::SyntaxConfig, value::Kwargs};
use serde::Serialize;
use serde_json::{Map, Value, ser::Formatter};

/// A compiled chat template.
#[derive(Debug, Clone)]
pub struct Template(Arc<Environment<'static>>);

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

/// Loops in a template end after so many instructions.
const FUEL: u64 = 10_000_000;

impl Template {
    /// The template of a `tokenizer_config.json`, if it has one.
    ///
    /// # Errors
    /// When it does not compile.
    pub fn of(config: &Map<String, Value>) -> Result<Option<Self>> {
        let source = match config.get("chat_template") {
            Some(Value::String(source)) => Some(source.as_str()),
            // Several templates by name, of which chat uses `default`.
            Some(Value::Array(many)) => {
                many.iter().find(|entry| entry["name"] == "default").and_then(|entry| entry["template"].as_str())
            }
            _ => None,
        };
        source.map(Self::compile).transpose()
    }

    /// Compiles a template.
    ///
    /// # Errors
    /// When it is not valid Jinja.
    pub fn compile(source: &str) -> Result<Self> {
        let mut environment = Environment::new();
        // As transformers: ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, loopcontrols).
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.context("template syntax")?);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_filter("tojson", to_json);
        // `strftime_now` is left undefined on purpose: a result must not depend on the day. Templates that know it
        // ask whether it is defined, and fall back to a fixed date.
        environment
            .add_template_owned(NAME, without_generation_tags(source))
            .map_err(|error| anyhow!("the chat template is malformed: {error:#}"))?;
        Ok(Self(Arc::new(environment)))
    }

    /// The text of a conversation; with `Turn::Open`, up to where the assistant begins to write.
    ///
    /// # Errors
    /// When the template refuses the messages.
    ///
    /// # Panics
    /// Never: a template is only made by compiling it.
    pub fn render(&self, messages: &[Value], turn: Turn, special: &BTreeMap<String, String>) -> Result<String> {
        let template = self.0.get_template(NAME).expect("compile added it");
        let given = context! {
            messages => minijinja::value::Serde(messages),
            add_generation_prompt => turn == Turn::Open,
            ..minijinja::value::Serde(special)
        };
        template.render(given).map_err(|error| anyhow!("the chat template refuses the messages: {error}"))
    }
}

/// Where a rendered conversation ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// After the last message.
    Done,
    /// After what comes before the assistant's next message.
    Open,
}

/// `{% generation %}` marks the assistant's words in some templates; it prints nothing.
fn without_generation_tags(source: &str) -> String {
    let tag = regex::Regex::new(r"\{%-?\s*(?:end)?generation\s*-?%\}").expect("a valid pattern");
    tag.replace_all(source, |found: &regex::Captures| {
        // An empty block keeps the tag's own trimming of blanks around it.
        let text = &found[0];
        let (open, close) =
            (if text.starts_with("{%-") { "{%-" } else { "{%" }, if text.ends_with("-%}") { "-%}" } else { "%}" });
        format!("{open} if true {close}{{% endif %}}")
    })
    .into_owned()
}

/// `json.dumps(value, ensure_ascii=False, indent=..)`, which is what transformers puts in place of Jinja's own.
#[expect(clippy::needless_pass_by_value, reason = "the signature that minijinja calls")]
fn to_json(value: &minijinja::Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    // Accepted, as templates pass it; text is never escaped.
    let _: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    let failed = |error: serde_json::Error| Error::new(ErrorKind::BadSerialization, error.to_string());
    let mut out = Vec::new();
    match indent {
        Some(width) => {
            let spaces = " ".repeat(width);
            let pretty = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, pretty)).map_err(failed)?;
        }
        None => value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, PythonStyle)).map_err(failed)?,
    }
    Ok(String::from_utf8(out).expect("JSON is UTF-8"))
}

/// Python's default separators: `, ` and `: `.
struct PythonStyle;

impl Formatter for PythonStyle {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::bench::{fixture, json_of, shared};

    fn rendered(source: &str, messages: Value) -> Result<String> {
        Template::compile(source).unwrap().render(messages.as_array().unwrap(), Turn::Open, &BTreeMap::new())
    }

    #[test]
    fn published_templates_render_as_in_transformers() {
        let Some(folder) = shared("chat_templates") else { return };
        let expected = json_of(&fixture("templates.json"));
        let special: BTreeMap<String, String> = serde_json::from_value(expected["special"].clone()).unwrap();
        for case in expected["cases"].as_array().unwrap() {
            let name = case["template"].as_str().unwrap();
            let template = Template::compile(&std::fs::read_to_string(folder.join(name)).unwrap()).unwrap();
            let messages = expected["conversations"][case["conversation"].as_str().unwrap()].as_array().unwrap();
            let turn = if case["open"] == true { Turn::Open } else { Turn::Done };
            let text = template.render(messages, turn, &special);
            match case["text"].as_str() {
                Some(expected) => assert_eq!(text.unwrap(), expected, "{name} {}", case["conversation"]),
                None => assert!(text.is_err(), "{name} {} was to be refused: {}", case["conversation"], case["error"]),
            }
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
    fn json_is_written_as_python_does() {
        let messages = json!([{ "role": "user", "content": "<é>", "n": [1, 2.5, null] }]);
        assert_eq!(
            rendered("{{ messages[0] | tojson }}", messages.clone()).unwrap(),
            r#"{"role": "user", "content": "<é>", "n": [1, 2.5, null]}"#
        );
        assert_eq!(rendered("{{ messages[0].n | tojson(indent=2) }}", messages).unwrap(), "[\n  1,\n  2.5,\n  null\n]");
    }

    #[test]
    fn a_loop_without_end_is_stopped() {
        let nested = "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}";
        assert!(rendered(nested, json!([])).is_err());
    }
}
