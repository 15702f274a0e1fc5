//! Looks at a plugin before there is anything to give it: is the function there that a stage calls, are those that it
//! calls itself, and does it give what the stage wants?
//! Knows nothing of pipelines. What it reports is certain; what an invented sample may have caused is passed over.

use std::collections::{BTreeMap, BTreeSet};

use rhai::{AST, ASTNode, Dynamic, Engine, Expr, FnCallExpr, Module, Position, Scope, Shared, Stmt};
use serde_json::json;

use super::{Error, Keep, Reward, Row, Sample, Script, error, tests_of};

/// For what a stage calls a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// `reward(sample)`: a number, or a map of numbers.
    Reward,
    /// `score(sample)`: a map of numbers from 0 to 1.
    Score,
    /// `keep(sample)`: true, false, or a text.
    KeepSample,
    /// `keep(row)`: the same.
    KeepRow,
    /// `map(row)`: a row, several, or nothing.
    Map,
    /// `row(rng, index)`: a row, or several.
    Draw,
}

impl Use {
    /// The function that is called.
    #[must_use]
    pub fn function(self) -> &'static str {
        match self {
            Self::Reward => "reward",
            Self::Score => "score",
            Self::KeepSample | Self::KeepRow => "keep",
            Self::Map => "map",
            Self::Draw => "row",
        }
    }

    /// The most arguments that it is given, `params` among them.
    fn arguments(self) -> usize {
        if self == Self::Draw { 3 } else { 2 }
    }
}

/// Functions of the language that no module lists.
const BUILT_IN: [&str; 10] =
    ["call", "curry", "debug", "eval", "Fn", "is_def_fn", "is_def_var", "is_shared", "print", "type_of"];

impl Script {
    /// What is wrong with the plugin whatever it is given: functions that do not exist, the called one among them.
    #[must_use]
    pub fn mistakes(&self, used: Use) -> Vec<Error> {
        let mut found = Vec::new();
        if let Err(error) = self.0.parameters(used.function(), used.arguments()) {
            found.push(self.nearly(used).unwrap_or(error));
        }
        found.extend(self.unknown_calls());
        found
    }

    /// The function that was probably meant to be the called one, shown where it stands.
    fn nearly(&self, used: Use) -> Option<Error> {
        let wanted = used.function();
        if self.defines(wanted) {
            return None;
        }
        let names: BTreeSet<&str> = self.0.ast.iter_functions().map(|defined| defined.name).collect();
        let near = error::nearest(wanted, names.into_iter())?;
        let message = format!("no function `{wanted}` in the plugin");
        Some(self.0.refuse(near, message).hint(format!("did you mean `{wanted}` by `{near}`?")))
    }

    /// Calls of functions that nothing defines, in the plugin and in all that it imports.
    fn unknown_calls(&self) -> Vec<Error> {
        let mut params = Scope::new();
        params.push("params", ());
        let compiled = self.0.texts.iter().map(|(name, text)| {
            let ast = if *name == self.0.name {
                Some(self.0.ast.clone())
            } else {
                self.0.engine.compile_with_scope(&params, text).ok()
            };
            (name.as_str(), ast.unwrap_or_default())
        });
        let files: Vec<(&str, AST)> = compiled.collect();
        let known = Known::of(&self.0.engine, &files);
        let mut found = Vec::new();
        for (name, ast) in &files {
            let calls = Calls::of(ast);
            let modules = calls.modules(&self.0.engine, name);
            for call in &calls.calls {
                if let Some((message, hint)) = known.complaint(call, &calls, &modules) {
                    found.push(Error::new(message, name).at(call.position, &self.0.texts[*name]).hint(hint));
                }
            }
        }
        found.sort_by_key(|error| (error.file.clone(), error.place.as_ref().map(|place| (place.0, place.1))));
        found.dedup();
        found
    }

    /// What the plugin gives for rows such as these, or for invented ones where there are none, if that can never be what
    /// is wanted. Calls that fail say nothing: what they were given may be at fault.
    #[must_use]
    pub fn wrong_result(&self, used: Use, rows: &[Row]) -> Option<Error> {
        let invented = if rows.is_empty() { invented() } else { Vec::new() };
        let rows = if rows.is_empty() { &invented } else { rows };
        let mut wrong = None;
        for result in self.trials(used, rows) {
            match result.map_err(anyhow::Error::downcast::<Error>) {
                Ok(()) => return None,
                Err(Ok(error)) if is_of_the_result(&error) => _ = wrong.get_or_insert(error),
                Err(_) => (),
            }
        }
        let text = self.0.texts.get(&self.0.name).map_or("", String::as_str);
        let told = |error: Error| match error.place {
            Some((line, column, _)) => {
                let at = |number: usize| u16::try_from(number).unwrap_or(u16::MAX);
                Error::new(&*error.message, &error.file).at(Position::new(at(line), at(column)), text)
            }
            None => Error::new(&*error.message, &error.file),
        };
        wrong.map(told)
    }

    fn trials(&self, used: Use, rows: &[Row]) -> Vec<anyhow::Result<()>> {
        let function = used.function();
        match used {
            Use::Draw => (0..4).map(|index| self.draw_rows(0, index..index + 1).map(drop)).collect(),
            Use::Map => rows.iter().map(|row| self.map_rows(std::slice::from_ref(row), 0).map(drop)).collect(),
            Use::KeepRow => rows.iter().map(|row| self.keep_rows(std::slice::from_ref(row), 0).map(drop)).collect(),
            Use::KeepSample | Use::Reward | Use::Score => rows
                .iter()
                .flat_map(|row| completions(row).map(|completion| (row, completion)))
                .map(|(row, completion)| {
                    let samples = [sample(row, &completion)];
                    match used {
                        Use::KeepSample => self.keeps(&samples).map(|_: Vec<Keep>| ()),
                        Use::Score => self.scored(&self.rewards(function, &samples)?),
                        _ => self.rewards(function, &samples).map(drop),
                    }
                })
                .collect(),
        }
    }

    /// Is it what a report card can be made of?
    fn scored(&self, scores: &[Reward]) -> anyhow::Result<()> {
        for Reward { parts, .. } in scores {
            if parts.is_empty() {
                let message = "`score` gave a number; the report card needs a map of named scores";
                return Err(self.0.refuse("score", message.into()).into());
            }
            if let Some((name, score)) = parts.iter().find(|(_, score)| !(0.0..=1.0).contains(*score)) {
                let message = format!("`score` gave {name} = {score}, outside of 0 to 1");
                return Err(self.0.refuse("score", message).into());
            }
        }
        Ok(())
    }
}

/// Is it the stage that refused the result, not the plugin that failed?
fn is_of_the_result(error: &Error) -> bool {
    let message = &error.message;
    let begins = ["`keep` gave ", "`score` gave ", "a row is a map, not "];
    error.notes.iter().all(|(name, _)| *name != "in")
        && (begins.iter().any(|begin| message.starts_with(begin))
            || message.ends_with(", not a number")
            || message == "the reward is a map without parts")
}

/// Rows that a plugin may have been written for, where nothing is known of those that it will see.
fn invented() -> Vec<Row> {
    let rows = [
        json!({ "prompt": "1 + 1 =", "answer": "2", "text": "1 + 1 = 2", "completion": "2" }),
        json!({ "prompt": "1 + 1 =", "answer": 2, "text": "1 + 1 = 2", "completion": "2" }),
    ];
    rows.into_iter().filter_map(|row| row.as_object().cloned()).collect()
}

/// What a policy may say: nothing, the answer, and the answer in R1's form.
fn completions(row: &Row) -> [String; 3] {
    let answer = match row.get("answer") {
        Some(serde_json::Value::String(answer)) => answer.clone(),
        Some(answer) => answer.to_string(),
        None => "2".into(),
    };
    let in_form = format!("<think>so</think><answer>{answer}</answer>");
    [String::new(), answer, in_form]
}

fn sample<'a>(row: &'a Row, completion: &'a str) -> Sample<'a> {
    let prompt = row.get("prompt").and_then(serde_json::Value::as_str).unwrap_or_default();
    Sample { row, prompt, completion, truncated: false, tokens: completion.len(), index: 0 }
}

/// A call as it stands in a file.
struct Call {
    name: String,
    /// The module in front of it; empty where there is none.
    module: String,
    /// Without what stands before the dot.
    arguments: usize,
    is_method: bool,
    position: Position,
}

/// What a file calls, and what may stand for a function there.
#[derive(Default)]
#[expect(clippy::struct_field_names, reason = "the calls are what is looked for")]
struct Calls {
    calls: Vec<Call>,
    /// Names of fields: a field may hold a closure, which is called as a method is.
    fields: BTreeSet<String>,
    /// What each import is called in the file, and the path written there.
    imports: Vec<(String, String)>,
}

impl Calls {
    fn of(ast: &AST) -> Self {
        let mut found = Self::default();
        ast.walk(&mut |path| {
            match path.last() {
                Some(ASTNode::Expr(Expr::FnCall(call, position)) | ASTNode::Stmt(Stmt::FnCall(call, position))) => {
                    found.call(call, *position, false);
                }
                Some(ASTNode::Expr(Expr::MethodCall(call, position))) => found.call(call, *position, true),
                Some(ASTNode::Expr(Expr::Property(property, _))) => _ = found.fields.insert(property.2.to_string()),
                Some(ASTNode::Expr(Expr::Map(map, _))) => {
                    found.fields.extend(map.0.iter().map(|(name, _)| name.name.to_string()));
                    found.fields.extend(map.1.keys().map(ToString::to_string));
                }
                // A map of nothing but constants, closures among them.
                Some(ASTNode::Expr(Expr::DynamicConstant(value, _))) => keys(value, &mut found.fields),
                Some(ASTNode::Expr(Expr::StringConstant(text, _))) => _ = found.fields.insert(text.to_string()),
                Some(ASTNode::Stmt(Stmt::Import(import, _))) => {
                    if let Expr::StringConstant(literal, _) = &import.0 {
                        found.imports.push((import.1.name.to_string(), literal.to_string()));
                    }
                }
                _ => (),
            }
            true
        });
        found
    }

    fn call(&mut self, call: &FnCallExpr, position: Position, is_method: bool) {
        let is_name = call.name.starts_with(|first: char| first.is_alphabetic() || first == '_');
        if call.op_token.is_some() || !is_name || call.name.contains('$') {
            return;
        }
        self.calls.push(Call {
            name: call.name.to_string(),
            module: if call.namespace.is_empty() { String::new() } else { call.namespace.to_string() },
            arguments: call.args.len(),
            is_method,
            position,
        });
    }

    /// The modules that the file imports, by what they are called in it; those of two imports with one name are left out.
    fn modules(&self, engine: &Engine, file: &str) -> BTreeMap<&str, Shared<Module>> {
        let once = |alias: &str| self.imports.iter().filter(|(other, _)| other == alias).count() == 1;
        let resolved = self.imports.iter().filter(|(alias, _)| once(alias)).filter_map(|(alias, literal)| {
            let module = engine.module_resolver().resolve(engine, Some(file), literal, Position::NONE).ok()?;
            Some((alias.as_str(), module))
        });
        resolved.collect()
    }
}

/// The keys of a map, and of the maps in it.
fn keys(value: &Dynamic, found: &mut BTreeSet<String>) {
    if let Ok(map) = value.as_map_ref() {
        found.extend(map.keys().map(ToString::to_string));
        map.values().for_each(|value| keys(value, found));
    } else if let Ok(items) = value.as_array_ref() {
        items.iter().for_each(|value| keys(value, found));
    }
}

/// How many arguments each function takes.
type Arities = BTreeMap<String, BTreeSet<usize>>;

/// Every function that a plugin could call without naming a module.
struct Known {
    native: Arities,
    scripted: Arities,
}

impl Known {
    fn of(engine: &Engine, files: &[(&str, AST)]) -> Self {
        let mut native = Arities::new();
        // What tests have besides: their helpers lie in the same file.
        let mut of_tests = Engine::new_raw();
        tests_of::register(&mut of_tests);
        for engine in [engine, &of_tests] {
            let listed = engine.collect_fn_metadata(
                None,
                |info| Some((info.metadata.name.to_string(), info.metadata.num_params)),
                true,
            );
            for (name, parameters) in listed {
                native.entry(name).or_default().insert(parameters);
            }
        }
        let mut scripted = Arities::new();
        for (_, ast) in files {
            for defined in ast.iter_functions() {
                scripted.entry(defined.name.to_owned()).or_default().insert(defined.params.len());
            }
        }
        Self { native, scripted }
    }

    /// What is wrong with a call, and what may mend it.
    fn complaint(
        &self,
        call: &Call,
        calls: &Calls,
        modules: &BTreeMap<&str, Shared<Module>>,
    ) -> Option<(String, Option<String>)> {
        let Call { name, module, arguments, is_method, .. } = call;
        if !module.is_empty() {
            return of_module(modules.get(module.as_str())?, call);
        }
        if BUILT_IN.contains(&name.as_str()) || (*is_method && calls.fields.contains(name)) {
            return None;
        }
        let empty = BTreeSet::new();
        let native = self.native.get(name).unwrap_or(&empty);
        let scripted = self.scripted.get(name).unwrap_or(&empty);
        let with_receiver = arguments + usize::from(*is_method);
        let fits = |arities: &BTreeSet<usize>| arities.contains(&with_receiver) || arities.contains(arguments);
        if fits(scripted) || native.contains(&with_receiver) {
            return None;
        }
        let noun = if *is_method { "method" } else { "function" };
        if native.is_empty() && scripted.is_empty() {
            let names = self.native.keys().chain(self.scripted.keys()).map(String::as_str);
            let names =
                names.filter(|name| name.starts_with(|first: char| first.is_alphabetic()) && !name.contains('$'));
            let near = near(name, names);
            return Some((format!("no {noun} `{name}`"), near.map(|near| format!("did you mean `{near}`?"))));
        }
        let taken = native.iter().filter_map(|count| count.checked_sub(usize::from(*is_method)));
        let taken: BTreeSet<usize> = taken.chain(scripted.iter().copied()).collect();
        Some((format!("no {noun} `{name}` with {}", counted(*arguments)), Some(taking(&taken))))
    }
}

fn of_module(module: &Module, call: &Call) -> Option<(String, Option<String>)> {
    let Call { name, module: alias, arguments, .. } = call;
    if module.get_script_fn(name, *arguments).is_some() {
        return None;
    }
    let listed: Vec<String> = module.gen_fn_signatures_with_mapper(Into::into).collect();
    let names = || listed.iter().filter_map(|known| known.split('(').next());
    if names().any(|known| known == name) {
        let taken = (0..=16).filter(|count| module.get_script_fn(name, *count).is_some()).collect();
        return Some((format!("no function `{alias}::{name}` with {}", counted(*arguments)), Some(taking(&taken))));
    }
    let near = near(name, names());
    let hint = near.map(|near| format!("did you mean `{alias}::{near}`?"));
    Some((format!("no function `{name}` in `{alias}`"), hint))
}

/// The name that was probably meant: the nearest, or what the name begins with, as `lenght` with `len`.
fn near<'a>(wanted: &str, names: impl Iterator<Item = &'a str> + Clone) -> Option<&'a str> {
    const SHORTEST: usize = 3;
    let beginning = names.clone().filter(|name| name.len() >= SHORTEST && wanted.starts_with(name));
    error::nearest(wanted, names).or_else(|| beginning.max_by_key(|name| name.len()))
}

fn counted(arguments: usize) -> String {
    match arguments {
        0 => "no argument".into(),
        1 => "1 argument".into(),
        many => format!("{many} arguments"),
    }
}

fn taking(counts: &BTreeSet<usize>) -> String {
    let mut words: Vec<String> = counts.iter().map(ToString::to_string).collect();
    let last = words.pop().unwrap_or_default();
    if words.is_empty() { format!("it takes {last}") } else { format!("it takes {} or {last}", words.join(", ")) }
}
