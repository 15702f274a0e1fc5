//! What the language makes larger than all it is given: measured before it is made.
//! Knows nothing of what it is made for.

use std::{fmt, io};

use rhai::{
    Array, Dynamic, EvalAltResult, ImmutableString, Map, Module, NativeCallContext, export_module, exported_module,
};

use crate::script::sandbox;

type Fallible<T> = Result<T, Box<EvalAltResult>>;

/// Text that takes no more than so many bytes.
pub(in crate::script) struct Bounded {
    pub text: String,
    most: usize,
}

impl Bounded {
    pub fn new(most: usize) -> Self {
        Self { text: String::new(), most }
    }
}

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.text.len() + text.len() > self.most {
            return Err(fmt::Error);
        }
        self.text.push_str(text);
        Ok(())
    }
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = std::str::from_utf8(bytes).map_err(io::Error::other)?;
        fmt::Write::write_str(self, text).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What Rhai itself says of a text of such a size, but with the place: it forgets that of its own errors.
#[expect(clippy::unnecessary_box_returns, reason = "what a host function gives")]
fn too_large(context: &NativeCallContext) -> Box<EvalAltResult> {
    larger_than(context.engine().max_string_size()).into()
}

fn larger_than(bytes: usize) -> String {
    format!("a text is larger than {bytes} bytes")
}

pub(super) fn module() -> Module {
    exported_module!(functions)
}

#[export_module]
mod functions {
    #[rhai_fn(name = "replace", return_raw)]
    pub fn replace_text(context: NativeCallContext, text: &mut ImmutableString, old: &str, new: &str) -> Fallible<()> {
        replace_all(&context, text, old, new)
    }

    #[rhai_fn(name = "replace", return_raw)]
    pub fn replace_text_by_letter(
        context: NativeCallContext,
        text: &mut ImmutableString,
        old: &str,
        new: char,
    ) -> Fallible<()> {
        replace_all(&context, text, old, new.encode_utf8(&mut [0; 4]))
    }

    #[rhai_fn(name = "replace", return_raw)]
    pub fn replace_letter(
        context: NativeCallContext,
        text: &mut ImmutableString,
        old: char,
        new: &str,
    ) -> Fallible<()> {
        replace_all(&context, text, old.encode_utf8(&mut [0; 4]), new)
    }

    #[rhai_fn(name = "replace", return_raw)]
    pub fn replace_letter_by_letter(
        context: NativeCallContext,
        text: &mut ImmutableString,
        old: char,
        new: char,
    ) -> Fallible<()> {
        replace_all(&context, text, old.encode_utf8(&mut [0; 4]), new.encode_utf8(&mut [0; 4]))
    }

    /// The items as one text, with `between` between them.
    #[rhai_fn(return_raw)]
    pub fn join(context: NativeCallContext, items: Array, between: &str) -> Fallible<String> {
        joined(&items, between, context.engine().max_string_size()).ok_or_else(|| too_large(&context))
    }

    #[rhai_fn(pure, return_raw)]
    pub fn to_json(context: NativeCallContext, map: &mut Map) -> Fallible<String> {
        let mut json = Bounded::new(context.engine().max_string_size());
        let fields: std::collections::BTreeMap<&str, &Dynamic> =
            map.iter().map(|(name, value)| (name.as_str(), value)).collect();
        match serde_json::to_writer(&mut json, &fields) {
            Ok(()) => Ok(json.text),
            Err(error) if error.is_io() => Err(too_large(&context)),
            Err(error) => Err(format!("to_json: {error}").into()),
        }
    }

    #[rhai_fn(name = "print", name = "to_string", name = "debug", name = "to_debug", pure)]
    pub fn print_array(context: NativeCallContext, array: &mut Array) -> ImmutableString {
        printed(&context, "[", "]", array.iter_mut().map(|item| (None, item)))
    }

    #[rhai_fn(name = "print", name = "to_string", name = "debug", name = "to_debug", pure)]
    pub fn print_map(context: NativeCallContext, map: &mut Map) -> ImmutableString {
        printed(&context, "#{", "}", map.iter_mut().map(|(name, value)| (Some(name.as_str()), value)))
    }
}

fn replace_all(context: &NativeCallContext, text: &mut ImmutableString, old: &str, new: &str) -> Fallible<()> {
    if text.is_empty() {
        return Ok(());
    }
    if new.len() > old.len() {
        let growth = text.matches(old).count().saturating_mul(new.len() - old.len());
        if text.len().saturating_add(growth) > context.engine().max_string_size() {
            return Err(too_large(context));
        }
    }
    *text = text.replace(old, new).into();
    Ok(())
}

/// None where it takes more bytes than `most`.
pub(super) fn joined(items: &[Dynamic], between: &str, most: usize) -> Option<String> {
    use fmt::Write as _;
    let mut text = Bounded::new(most);
    for (number, item) in items.iter().enumerate() {
        if number > 0 {
            text.write_str(between).ok()?;
        }
        write!(text, "{item}").ok()?;
    }
    Some(text.text)
}

/// As Rhai prints what holds others: every item as it is written in a script, by its own function.
fn printed<'a>(
    context: &NativeCallContext,
    open: &str,
    close: &str,
    items: impl Iterator<Item = (Option<&'a str>, &'a mut Dynamic)>,
) -> ImmutableString {
    use fmt::Write as _;
    let most = context.engine().max_string_size();
    let mut text = Bounded::new(most);
    let mut write = |name: Option<&str>, separator: &str, item: &str| match name {
        Some(name) => write!(text, "{separator}{name:?}: {item}"),
        None => write!(text, "{separator}{item}"),
    };
    let mut is_whole = write(None, "", open).is_ok();
    for (number, (name, item)) in items.enumerate() {
        let shown = match context.call_native_fn_raw("to_debug", true, &mut [item]) {
            Ok(shown) if shown.is_string() => shown.into_immutable_string().expect("it is one"),
            Ok(shown) => context.engine().map_type_name(shown.type_name()).into(),
            Err(_) => context.engine().map_type_name(item.type_name()).into(),
        };
        is_whole = is_whole && write(name, if number > 0 { ", " } else { "" }, &shown).is_ok();
        if !is_whole {
            break;
        }
    }
    if !is_whole || write(None, "", close).is_err() {
        // Rhai passes over an error here and prints the value in another way, as large as it is.
        sandbox::refuse(larger_than(most));
        return ImmutableString::new();
    }
    text.text.into()
}
