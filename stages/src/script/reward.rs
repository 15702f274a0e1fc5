//! What a reward plugin says of each sample.
//! Knows nothing of groups, advantages or policies.

use std::collections::BTreeMap;

use rhai::Dynamic;

use super::{Compiled, Error, Read, Sample, Script, value};

/// The reward of one sample and the parts it is the sum of; a plugin that gives a bare number has none.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reward {
    pub total: f32,
    pub parts: BTreeMap<String, f32>,
}

impl Script {
    /// Calls `function` on every sample, in parallel; the rewards are in order.
    ///
    /// # Errors
    /// The [`Error`] of the first sample in order whose reward is missing, not finite or no number.
    pub fn rewards(&self, function: &str, samples: &[Sample]) -> anyhow::Result<Vec<Reward>> {
        let read: Read<Reward> =
            |script, function, given| read(given).map_err(|message| script.refuse(function, message));
        let arguments = |sample: &Sample| [sample.to_dynamic()];
        self.each(function, samples, arguments, read, |error, index| error.with_sample(&samples[index]))
    }
}

impl Compiled {
    /// The error of a function that gave something unusable: shown at the function's first line.
    pub(super) fn refuse(&self, function: &str, message: String) -> Error {
        self.at_definition(function, Error::new(message, &self.name))
    }

    pub(super) fn at_definition(&self, function: &str, error: Error) -> Error {
        let text = self.texts.get(&self.name).map_or("", String::as_str);
        match definition(text, function) {
            Some(position) => error.at(position, text),
            None => error,
        }
    }
}

impl Sample<'_> {
    pub(super) fn to_dynamic(self) -> Dynamic {
        let row = value::from_row(self.row);
        let answer = row.as_map_ref().ok().and_then(|row| row.get("answer").cloned());
        let fields: [(&str, Dynamic); 7] = [
            ("prompt", self.prompt.into()),
            ("completion", self.completion.into()),
            ("answer", answer.unwrap_or(Dynamic::UNIT)),
            ("truncated", self.truncated.into()),
            ("tokens", whole(self.tokens)),
            ("index", whole(self.index)),
            ("row", row),
        ];
        Dynamic::from_map(fields.into_iter().map(|(name, value)| (name.into(), value)).collect())
    }
}

fn whole(number: usize) -> Dynamic {
    i64::try_from(number).expect("lengths are far below 2^63").into()
}

fn read(given: &Dynamic) -> Result<Reward, String> {
    let Ok(map) = given.as_map_ref() else {
        return Ok(Reward { total: finite(given, "the reward")?, parts: BTreeMap::new() });
    };
    if map.is_empty() {
        return Err("the reward is a map without parts".into());
    }
    let part = |(name, value): (&rhai::Identifier, &Dynamic)| {
        Ok((name.to_string(), finite(value, &format!("the reward's part `{name}`"))?))
    };
    let parts = map.iter().map(part).collect::<Result<BTreeMap<_, _>, String>>()?;
    Ok(Reward { total: parts.values().sum(), parts })
}

fn finite(value: &Dynamic, what: &str) -> Result<f32, String> {
    let number = match (value.as_float(), value.as_int()) {
        (Ok(float), _) => float,
        (_, Ok(whole)) => whole as f64,
        _ => return Err(format!("{what} is {}, not a number", value::described(value))),
    };
    let number = number as f32;
    if number.is_finite() { Ok(number) } else { Err(format!("{what} is {value}, not a finite number")) }
}

/// Where `fn name` stands in the text.
fn definition(text: &str, name: &str) -> Option<rhai::Position> {
    text.lines().enumerate().find_map(|(line, words)| {
        let after = words.trim_start().trim_start_matches("private ").strip_prefix("fn ")?.trim_start();
        let rest = after.strip_prefix(name)?.trim_start();
        let column = words.chars().count() - after.chars().count() + 1;
        let at = |number: usize| u16::try_from(number).ok();
        rest.starts_with('(').then(|| Some(rhai::Position::new(at(line + 1)?, at(column)?)))?
    })
}
