//! Holds what is written against a schema and finds every mistake, each at its place.
//! Knows nothing of stages beyond their schemas.

use serde_json::Value;

use super::{alternatives, choices, is_choice, is_source, properties, required, types, within};
use crate::{
    code,
    diagnostic::{Diagnostic, Span},
    spec::tree::{Key, Shape, Tree},
    suggestion,
};

/// Whose values are checked, for messages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub stage: &'a str,
    /// `parameter` or `setting`.
    pub noun: &'static str,
    /// Where to say that something is missing.
    pub owner: &'a Span,
}

/// Every mistake in `tree`, which should fit `schema`.
pub(crate) fn check(schema: &Value, tree: &Tree, subject: Subject) -> Vec<Diagnostic> {
    let mut check = Check { root: schema, subject, mistakes: Vec::new() };
    check.value(schema, tree, "", subject.owner);
    check.mistakes
}

/// The paths of all sources in `tree`, dots between, with what they hold.
pub(crate) fn sources(schema: &Value, tree: &Tree) -> Vec<(String, String)> {
    let mut found = Vec::new();
    collect(schema, schema, tree, "", &mut found);
    found
}

fn collect(root: &Value, schema: &Value, tree: &Tree, path: &str, found: &mut Vec<(String, String)>) {
    let options: Vec<&Value> = alternatives(follow(root, schema)).into_iter().map(|one| follow(root, one)).collect();
    let subject = Subject { stage: "", noun: "", owner: &tree.span };
    // A value belongs to every alternative that it fits: a source must not be overlooked.
    let fits = |one: &Value| {
        let mut check = Check { root, subject, mistakes: Vec::new() };
        check.value(one, tree, path, subject.owner);
        check.mistakes.is_empty()
    };
    // Any text could be a path; one that begins as another alternative says is none.
    let is_claimed = options.iter().any(|one| claims(one, tree));
    let meant = |one: &Value| (options.len() == 1 || fits(one)) && !(is_claimed && is_source(one));
    for one in options.iter().copied().filter(|one| meant(one)) {
        match &tree.shape {
            Shape::Text(text) if is_source(one) => {
                let source = (path.to_owned(), text.clone());
                if !found.contains(&source) {
                    found.push(source);
                }
            }
            Shape::List(items) => {
                for (at, item) in items.iter().enumerate() {
                    let schema = one["prefixItems"].get(at).unwrap_or(&one["items"]);
                    collect(root, schema, item, &below(path, &at.to_string()), found);
                }
            }
            Shape::Block(entries) => {
                for (key, value) in entries {
                    let schema = one["properties"].get(&key.name).unwrap_or(&one["additionalProperties"]);
                    collect(root, schema, value, &below(path, &key.name), found);
                }
            }
            Shape::Text(_) | Shape::Null | Shape::Bool(_) | Shape::Number(_) | Shape::Mistaken => (),
        }
    }
}

/// Does the alternative name a beginning that the text has? Of patterns, `^` with plain letters is understood.
fn claims(schema: &Value, tree: &Tree) -> bool {
    let beginning = schema["pattern"].as_str().and_then(|pattern| pattern.strip_prefix('^'));
    match (&tree.shape, beginning) {
        (Shape::Text(text), Some(beginning)) => text.starts_with(beginning),
        _ => false,
    }
}

struct Check<'a> {
    root: &'a Value,
    subject: Subject<'a>,
    mistakes: Vec<Diagnostic>,
}

impl Check<'_> {
    /// `owner`: where to say that something inside `tree` is missing.
    fn value(&mut self, schema: &Value, tree: &Tree, path: &str, owner: &Span) {
        let schema = follow(self.root, schema);
        let options: Vec<&Value> = alternatives(schema).into_iter().map(|one| follow(self.root, one)).collect();
        match options[..] {
            [one] => self.one(one, tree, path, owner),
            _ => self.one_of(&options, tree, path, owner),
        }
    }

    fn one(&mut self, schema: &Value, tree: &Tree, path: &str, owner: &Span) {
        if !takes(schema, tree) {
            self.wrong_type(&[schema], tree, path);
            return;
        }
        if is_choice(schema) {
            self.choice(&[schema], tree, path);
            return;
        }
        match &tree.shape {
            Shape::Null | Shape::Bool(_) | Shape::Mistaken => (),
            Shape::Number(number) => {
                let value = number.as_f64().unwrap_or(f64::NAN);
                let found = (value, "", format!("`{number}`"));
                self.bounds(told(schema, value), &found, tree, path);
            }
            Shape::Text(text) => {
                let count = measure(text.chars().count());
                let bounds = (schema["minLength"].as_f64(), schema["maxLength"].as_f64());
                self.bounds(bounds, &(count, " letters", count.to_string()), tree, path);
            }
            Shape::List(items) => {
                let bounds = (schema["minItems"].as_f64(), schema["maxItems"].as_f64());
                self.bounds(bounds, &(measure(items.len()), " items", items.len().to_string()), tree, path);
                for (at, item) in items.iter().enumerate() {
                    let schema = schema["prefixItems"].get(at).unwrap_or(&schema["items"]);
                    self.value(schema, item, &below(path, &at.to_string()), &item.span);
                }
            }
            Shape::Block(_) => self.block(schema, tree, path, owner),
        }
    }

    fn block(&mut self, schema: &Value, tree: &Tree, path: &str, owner: &Span) {
        let noun = self.subject.noun;
        let holder = if path.is_empty() { self.subject.stage } else { path };
        for (key, value) in tree.entries() {
            let path = below(path, &key.name);
            if let Some(property) = schema["properties"].get(&key.name) {
                self.value(property, value, &path, &key.span);
            } else if schema["additionalProperties"].is_object() {
                self.slip(tree, key, &path);
                self.value(&schema["additionalProperties"], value, &path, &key.span);
            } else if schema.get("properties").is_some() || schema["additionalProperties"] == false {
                let known = properties(schema).map(|(name, _)| name.as_str());
                let hint = suggestion::hint(&key.name, known, &format!("`{holder}` has the {noun}s"))
                    .unwrap_or_else(|| format!("`{holder}` has no {noun}s"));
                self.mistakes.push(key.mistake(code::UNKNOWN_PARAMETER, format!("unknown {noun} `{path}`")).hint(hint));
            }
        }
        for name in required(schema) {
            if tree.get(name).is_none() {
                let path = below(path, name);
                let about = schema["properties"][name]["description"].as_str().and_then(|about| about.lines().next());
                let hint = about.map(|about| format!("`{name}`: {about}"));
                self.mistakes.push(
                    Diagnostic::new(code::MISSING_PARAMETER, format!("missing {noun} `{path}`"), owner).hint(hint),
                );
            }
        }
    }

    /// Any key will do here, but one of `--set` that is nearly another was meant to be that.
    fn slip(&mut self, tree: &Tree, key: &Key, path: &str) {
        if !key.span.text.is_plain_override() {
            return;
        }
        let others = tree.entries().iter().map(|(other, _)| other).filter(|other| other.name != key.name);
        let others = others.filter(|other| !other.span.text.is_plain_override()).map(|other| other.name.as_str());
        if let Some(near) = suggestion::nearest(&key.name, others) {
            let hint = format!("did you mean `{near}`? `--set +...` adds it");
            let message = format!("no `{path}` to set");
            self.mistakes.push(key.mistake(code::BAD_OVERRIDE, message).hint(hint));
        }
    }

    fn one_of(&mut self, options: &[&Value], tree: &Tree, path: &str, owner: &Span) {
        let trials: Vec<Vec<Diagnostic>> = options.iter().map(|one| self.trial(one, tree, path, owner)).collect();
        if trials.iter().any(Vec::is_empty) {
            return;
        }
        let possible: Vec<&Value> = options.iter().copied().filter(|one| takes(one, tree)).collect();
        match (&tree.shape, &possible[..]) {
            (_, []) => self.wrong_type(options, tree, path),
            (_, [one]) => self.one(one, tree, path, owner),
            (Shape::Block(_), _) => self.variant(&possible, tree, path, owner),
            (Shape::Text(_), _) if possible.iter().all(|one| is_choice(one)) => self.choice(&possible, tree, path),
            // Of several readings, the one with the fewest mistakes is what was meant.
            _ => self.mistakes.extend(trials.into_iter().min_by_key(Vec::len).into_iter().flatten()),
        }
    }

    fn trial(&self, schema: &Value, tree: &Tree, path: &str, owner: &Span) -> Vec<Diagnostic> {
        let mut trial = Check { root: self.root, subject: self.subject, mistakes: Vec::new() };
        trial.one(schema, tree, path, owner);
        trial.mistakes
    }

    /// A block that is one of several: told apart by a tag inside, or by the name of its only key.
    fn variant(&mut self, options: &[&Value], tree: &Tree, path: &str, owner: &Span) {
        let tag = properties(options[0]).find(|(_, property)| property.get("const").is_some()).map(|(name, _)| name);
        if let Some(tag) = tag {
            let tags: Vec<&Value> = options.iter().map(|one| &one["properties"][tag]).collect();
            let Some(value) = tree.get(tag) else {
                let words: Vec<&str> = tags.iter().filter_map(|tag| tag["const"].as_str()).collect();
                let message = format!("missing {} `{}`", self.subject.noun, below(path, tag));
                let hint = format!("choose from {}", suggestion::list(words));
                self.mistakes.push(Diagnostic::new(code::MISSING_PARAMETER, message, owner).hint(hint));
                return;
            };
            match options.iter().find(|one| one["properties"][tag]["const"] == value.to_value()) {
                Some(one) => self.one(one, tree, path, owner),
                None => self.choice(&tags, value, &below(path, tag)),
            }
            return;
        }
        let names: Vec<&str> = options.iter().flat_map(|one| required(one)).collect();
        for (key, _) in tree.entries() {
            if let Some(one) = options.iter().find(|one| one["properties"].get(&key.name).is_some()) {
                return self.one(one, tree, path, owner);
            }
            let message = format!("unknown {} `{}`", self.subject.noun, below(path, &key.name));
            let hint = suggestion::hint(&key.name, names.iter().copied(), "choose from");
            self.mistakes.push(key.mistake(code::UNKNOWN_PARAMETER, message).hint(hint));
        }
        if tree.entries().is_empty() {
            let message = format!("{} `{path}` is an empty block", self.subject.noun);
            let hint = format!("choose from {}", suggestion::list(names));
            self.mistakes.push(tree.mistake(code::MISSING_PARAMETER, message).hint(hint));
        }
    }

    fn choice(&mut self, options: &[&Value], tree: &Tree, path: &str) {
        let words: Vec<String> = options.iter().flat_map(|one| choices(one)).map(|(word, _)| word).collect();
        if let Shape::Text(text) = &tree.shape
            && !words.contains(text)
        {
            let noun = self.subject.noun;
            let all = suggestion::list(words.iter().map(String::as_str));
            let hint = match suggestion::nearest(text, words.iter().map(String::as_str)) {
                Some(word) if words.len() == 1 => format!("did you mean `{word}`?"),
                Some(word) => format!("did you mean `{word}`? The choices are {all}"),
                None => format!("the choices are {all}"),
            };
            let message = format!("{noun} `{path}` cannot be `{text}`");
            self.mistakes.push(tree.mistake(code::UNKNOWN_CHOICE, message).hint(hint));
        }
    }

    /// `found`: the measure, its unit, and how to tell it.
    fn bounds(
        &mut self,
        (low, high): (Option<f64>, Option<f64>),
        (value, unit, found): &(f64, &str, String),
        tree: &Tree,
        path: &str,
    ) {
        if low.is_none_or(|low| *value >= low) && high.is_none_or(|high| *value <= high) {
            return;
        }
        let wanted = within((low, high));
        let verb = if unit.is_empty() { "be" } else { "have" };
        let message = format!("{} `{path}` must {verb} {wanted}{unit}, found {found}", self.subject.noun);
        self.mistakes.push(tree.mistake(code::OUT_OF_RANGE, message));
    }

    fn wrong_type(&mut self, options: &[&Value], tree: &Tree, path: &str) {
        let mut wanted: Vec<String> = Vec::new();
        let words: Vec<String> = options.iter().flat_map(|one| choices(one)).map(|(word, _)| word).collect();
        match &words[..] {
            [] => (),
            [only] => wanted.push(format!("`{only}`")),
            _ => wanted.push(format!("one of {}", suggestion::list(words.iter().map(String::as_str)))),
        }
        for name in options.iter().filter(|one| !is_choice(one)).flat_map(|one| types(one).map(|name| noun(one, name)))
        {
            if !wanted.contains(&name) {
                wanted.push(name);
            }
        }
        let message =
            format!("{} `{path}` must be {}, found {}", self.subject.noun, wanted.join(" or "), tree.described());
        let hint = options.iter().find_map(|one| rewritten(one, tree)).map(|text| format!("write `{text}`"));
        self.mistakes.push(tree.mistake(code::WRONG_TYPE, message).hint(hint));
    }
}

/// Follows a reference: a type that contains itself cannot be written without.
fn follow<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str().and_then(|target| root.pointer(target.strip_prefix('#')?)) {
        Some(target) => target,
        None => schema,
    }
}

/// Is the value of a type that the schema takes?
fn takes(schema: &Value, tree: &Tree) -> bool {
    let one = schema["type"].as_str();
    let many = schema["type"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut wanted = one.into_iter().chain(many).peekable();
    if wanted.peek().is_none() {
        return true;
    }
    wanted.any(|name| match (&tree.shape, name) {
        (Shape::Mistaken, _)
        | (Shape::Null, "null")
        | (Shape::Bool(_), "boolean")
        | (Shape::Number(_), "number")
        | (Shape::Text(_), "string")
        | (Shape::List(_), "array")
        | (Shape::Block(_), "object") => true,
        (Shape::Number(number), "integer") => !number.is_f64(),
        _ => false,
    })
}

fn bounds_of_number(schema: &Value) -> (Option<f64>, Option<f64>) {
    // schemars states the bounds of 8 and 16 bits itself; what is wider has no bound but its format.
    let (low, high) = match schema["format"].as_str() {
        Some("uint32") => (Some(0.0), Some(f64::from(u32::MAX))),
        Some("int32") => (Some(f64::from(i32::MIN)), Some(f64::from(i32::MAX))),
        Some("uint" | "uint64") => (Some(0.0), None),
        _ => (None, None),
    };
    (schema["minimum"].as_f64().or(low), schema["maximum"].as_f64().or(high))
}

/// The bounds that a person set: those of the format are told only where they are broken.
fn told(schema: &Value, value: f64) -> (Option<f64>, Option<f64>) {
    let (low, high) = bounds_of_number(schema);
    let stated = |name: &str| schema[name].as_f64();
    match (stated("minimum"), stated("maximum")) {
        (low, None) if high.is_none_or(|high| value <= high) => (low, None),
        _ => (low, high),
    }
}

fn noun(schema: &Value, name: &str) -> String {
    match name {
        "string" if is_source(schema) => "a path".into(),
        "string" => "a text".into(),
        "boolean" => "`true` or `false`".into(),
        "integer" => "an integer".into(),
        "array" => "a list".into(),
        "object" => "a block".into(),
        other => format!("a {other}"),
    }
}

/// A count as a bound is measured; no text that is read here has more than 2^32 letters.
fn measure(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

/// The value as it was probably meant, in the form that the schema takes.
fn rewritten(schema: &Value, tree: &Tree) -> Option<String> {
    if is_choice(schema) {
        return None;
    }
    types(schema).find_map(|name| match (&tree.shape, name) {
        (Shape::Number(_) | Shape::Bool(_), "string") => Some(format!("\"{}\"", tree.span.written())),
        (Shape::Text(text), "boolean") => match text.to_lowercase().as_str() {
            "yes" | "on" | "y" => Some("true".into()),
            "no" | "off" | "n" => Some("false".into()),
            _ => None,
        },
        (Shape::Text(text), "integer" | "number") => {
            let plain = text.replace('_', "");
            plain.parse::<i64>().map(|number| number.to_string()).ok().or_else(|| {
                (name == "number").then(|| plain.parse::<f64>().ok()).flatten().filter(|n| n.is_finite()).map(|_| plain)
            })
        }
        (Shape::Number(number), "integer") => {
            let value = number.as_f64()?;
            (value.fract() == 0.0 && value.abs() < 1e15).then(|| format!("{value:.0}"))
        }
        _ => None,
    })
}

fn below(path: &str, name: &str) -> String {
    match path {
        "" => name.to_owned(),
        path => format!("{path}.{name}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_text_that_begins_as_an_alternative_says_is_no_source() {
        let schema = json!({ "type": "object", "properties": { "path": { "anyOf": [
            { "type": "string", "format": "source" },
            { "type": "string", "pattern": "^far:" },
            { "type": "array", "items": { "anyOf": [
                { "type": "string", "format": "source" }, { "type": "string", "pattern": "^far:" }] } },
        ] } } });
        let span = Span::new(&std::sync::Arc::new(crate::diagnostic::Text::command_line(String::new())), 0..0);
        let found = |value: Value| sources(&schema, &Tree::from_value(&json!({ "path": value }), &span));
        let near = |path: &str| vec![(path.to_owned(), "near".to_owned())];
        assert_eq!(found(json!("near")), near("path"));
        assert_eq!(found(json!("far:away")), []);
        assert_eq!(found(json!(["far:away", "near"])), near("path.1"));
    }
}
