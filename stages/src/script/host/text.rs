//! Tags, words, format and repetition.

use std::collections::HashSet;

use rhai::{Array, Dynamic, EvalAltResult, Module, export_module, exported_module};

use super::or_nothing;

pub(super) fn module() -> Module {
    exported_module!(functions)
}

#[export_module]
mod functions {
    /// The text between the last `<name>` that is closed and its `</name>`, without the space around it;
    /// `()` where there is none.
    pub fn tag(text: &str, name: &str) -> Dynamic {
        or_nothing(tagged(text, name).map(str::to_string))
    }

    /// Is the text `<think>…</think><answer>…</answer>` and nothing else, each tag there once? Only
    /// white space may stand before, between and after.
    pub fn format_r1(text: &str) -> bool {
        is_format_r1(text)
    }

    /// The text's words: what white space parts.
    pub fn words(text: &str) -> Array {
        text.split_whitespace().map(Into::into).collect()
    }

    /// The share of runs of `length` words that occurred before in the text: 0 where all differ, towards
    /// 1 where one is said over and over.
    #[rhai_fn(return_raw)]
    pub fn repetition(text: &str, length: i64) -> Result<f64, Box<EvalAltResult>> {
        let words: Vec<&str> = text.split_whitespace().collect();
        repeated(&words, length)
    }

    /// As `repetition`, over runs of `length` characters.
    #[rhai_fn(return_raw)]
    pub fn repetition_of_characters(text: &str, length: i64) -> Result<f64, Box<EvalAltResult>> {
        let letters: Vec<char> = text.chars().collect();
        repeated(&letters, length)
    }

    /// How far `value` is on the way from `from` to `to`, from 0 to 1: `ramp(tokens, 400, 300)` falls from
    /// 1 at 300 tokens to 0 at 400.
    #[rhai_fn(return_raw)]
    pub fn ramp(value: Dynamic, from: Dynamic, to: Dynamic) -> Result<f64, Box<EvalAltResult>> {
        let number = |value: &Dynamic| match (value.as_float(), value.as_int()) {
            (Ok(float), _) => Ok(float),
            (_, Ok(whole)) => Ok(whole as f64),
            _ => Err(format!("ramp: `{value}` is not a number")),
        };
        let (value, from, to) = (number(&value)?, number(&from)?, number(&to)?);
        let whole = to - from;
        if whole == 0.0 {
            return Err("ramp: `from` and `to` are the same".into());
        }
        Ok(((value - from) / whole).clamp(0.0, 1.0))
    }
}

fn tagged<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let before = &text[..text.rfind(&format!("</{name}>"))?];
    let opening = format!("<{name}>");
    Some(before[before.rfind(&opening)? + opening.len()..].trim())
}

fn is_format_r1(text: &str) -> bool {
    const TAGS: [&str; 4] = ["<think>", "</think>", "<answer>", "</answer>"];
    if TAGS.iter().any(|tag| text.matches(tag).count() != 1) {
        return false;
    }
    let inside = |text: &'_ str| -> Option<bool> {
        let (_, rest) = text.trim().strip_prefix("<think>")?.split_once("</think>")?;
        let (_, rest) = rest.trim_start().strip_prefix("<answer>")?.split_once("</answer>")?;
        Some(rest.is_empty())
    };
    inside(text).unwrap_or(false)
}

fn repeated<T: Eq + std::hash::Hash>(items: &[T], length: i64) -> Result<f64, Box<EvalAltResult>> {
    // Each run is hashed whole: the bound keeps the work linear in the text.
    let Some(length) = usize::try_from(length).ok().filter(|length| (1..=64).contains(length)) else {
        return Err(format!("repetition: a run is 1 to 64 long, not {length}").into());
    };
    if items.len() < length {
        return Ok(0.0);
    }
    let runs = items.len() - length + 1;
    let distinct = items.windows(length).collect::<HashSet<_>>().len();
    Ok((runs - distinct) as f64 / runs as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_the_last_one_that_is_closed() {
        let cases = [
            ("<answer>7</answer>", Some("7")),
            ("<answer> 7\n</answer> and", Some("7")),
            ("<answer>7</answer><answer>8</answer>", Some("8")),
            ("<answer>7</answer><answer>8", Some("7")),
            ("<answer></answer>", Some("")),
            ("<answer>7", None),
            ("7</answer>", None),
            ("</answer><answer>", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(tagged(text, "answer"), expected, "{text:?}");
        }
    }

    #[test]
    fn the_format_of_r1_has_each_tag_once_in_order_with_nothing_outside() {
        let cases = [
            ("<think>a</think><answer>b</answer>", true),
            (" <think>a</think>\n<answer>b</answer>\n", true),
            ("<think></think><answer></answer>", true),
            ("<think>a</think><answer>b</answer>.", false),
            ("so <think>a</think><answer>b</answer>", false),
            ("<think>a</think> so <answer>b</answer>", false),
            ("<answer>b</answer><think>a</think>", false),
            ("<think>a<answer>b</answer></think>", false),
            ("<think>a</think><answer>b</answer><answer>c</answer>", false),
            ("<think><think>a</think><answer>b</answer>", false),
            ("<think>a</think><answer>b", false),
            ("<answer>b</answer>", false),
            ("", false),
        ];
        for (text, expected) in cases {
            assert_eq!(is_format_r1(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_ramp_falls_or_rises_and_stays_level_beyond_its_ends() {
        let at = |value: f64| functions::ramp(value.into(), 400_i64.into(), 300_i64.into()).unwrap();
        let reached = [200.0, 300.0, 325.0, 350.0, 400.0, 500.0].map(at);
        for (reached, expected) in reached.into_iter().zip([1.0, 1.0, 0.75, 0.5, 0.0, 0.0]) {
            assert!((reached - expected).abs() < 1e-12, "{reached} where {expected} is expected");
        }
        assert!(functions::ramp(1_i64.into(), 2_i64.into(), 2_i64.into()).is_err());
        assert!(functions::ramp("1".into(), 2_i64.into(), 3_i64.into()).is_err());
    }

    #[test]
    fn repetition_is_the_share_of_runs_seen_before() {
        let of = |text: &str, length| repeated(&text.split(' ').collect::<Vec<_>>(), length).unwrap();
        // a b, b a, a b, b a: two of four were there before.
        assert!((of("a b a b a", 2) - 0.5).abs() < 1e-12);
        assert!((of("a a a a", 1) - 0.75).abs() < 1e-12);
        assert!(of("a b c d", 1).abs() < 1e-12);
        assert!(of("a b", 3).abs() < 1e-12);
    }
}
