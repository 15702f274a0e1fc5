//! Which prompts leave room for their completion in the model's context, and what becomes of the others.
//! Knows nothing of what is done with a completion.

use anyhow::{Result, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{data::rows::Row, nn::config::Config, text::complete::prompt_text};

/// What happens to a prompt that does not fit the model's context together with `max_new_tokens`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LongPrompts {
    /// The node stops and shows the prompt.
    #[default]
    Error,
    /// The prompt is left out; the count is recorded as `dropped_too_long`.
    Drop,
}

impl LongPrompts {
    /// Not serialised into facts then, so that fingerprints made before it existed stay valid.
    #[must_use]
    pub fn is_error(&self) -> bool {
        *self == Self::Error
    }

    /// For each encoded prompt: does it leave room for `max_new_tokens`?
    ///
    /// # Errors
    /// Names the first that does not, where that is an error; when none does.
    pub fn fitting(
        self,
        encoded: &[Vec<u32>],
        rows: &[Row],
        max_new_tokens: usize,
        config: &Config,
    ) -> Result<Vec<bool>> {
        let of = |ids: &Vec<u32>| ids.len() + max_new_tokens;
        let fits: Vec<bool> = encoded.iter().map(|ids| of(ids) <= config.context()).collect();
        let Some(first) = fits.iter().position(|fits| !fits) else { return Ok(fits) };
        let count = fits.iter().filter(|fits| !**fits).count();
        if self == Self::Drop && count < fits.len() {
            return Ok(fits);
        }
        let shortest = encoded.iter().map(Vec::len).min().unwrap_or(0);
        let room = config.context().saturating_sub(shortest);
        let most = match room {
            0 => "no prompt leaves room for a completion".to_owned(),
            room => format!("the shortest of all prompts leaves room for {room}"),
        };
        let mend = match self {
            // Every one of them.
            _ if count == fits.len() => format!("a smaller `max_new_tokens` makes room: {most}"),
            _ => format!("`too_long: drop` leaves such prompts out; a smaller `max_new_tokens` makes room: {most}"),
        };
        let what = format!("prompt {} with its completion", first + 1);
        let Err(error) = config.check_length(of(&encoded[first]), &what) else { return Ok(fits) };
        bail!(
            "{error}: its own {} and `max_new_tokens: {max_new_tokens}`; {count} of {} prompts are too long\n\
             prompt: {}\nhint: {mend}",
            encoded[first].len(),
            fits.len(),
            rows.get(first).map(|row| excerpt(&prompt_text(row))).unwrap_or_default(),
        )
    }
}

/// Keeps what fits.
pub fn retain<T>(all: &mut Vec<T>, fits: &[bool]) {
    let mut fits = fits.iter();
    all.retain(|_| *fits.next().expect("one answer for each"));
}

/// A text on one line, for messages: its beginning, and its end where it is long.
#[must_use]
pub fn excerpt(text: &str) -> String {
    const HEAD: usize = 160;
    const TAIL: usize = 80;
    let letters: Vec<char> = text.replace('\n', "\\n").replace('\r', "\\r").replace('\t', "\\t").chars().collect();
    if letters.len() <= HEAD + TAIL {
        return letters.into_iter().collect();
    }
    let text = |part: &[char]| part.iter().collect::<String>();
    let left_out = letters.len() - HEAD - TAIL;
    format!("{} … {left_out} more … {}", text(&letters[..HEAD]), text(&letters[letters.len() - TAIL..]))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::nn::shape::Shape;

    fn fitting(too_long: LongPrompts, lengths: &[usize], max_new_tokens: usize) -> Result<Vec<bool>> {
        let shape = Shape { layers: 1, hidden: 16, heads: 2, context: 10, ffn: Some(32), ..Shape::default() };
        let encoded: Vec<Vec<u32>> = lengths.iter().map(|length| vec![1; *length]).collect();
        let row = |length: &usize| json!({ "prompt": "1".repeat(*length) }).as_object().unwrap().clone();
        let rows: Vec<Row> = lengths.iter().map(row).collect();
        too_long.fitting(&encoded, &rows, max_new_tokens, &shape.config(10).unwrap())
    }

    #[test]
    fn a_prompt_without_room_is_shown_with_the_settings_that_make_some() {
        assert_eq!(fitting(LongPrompts::Error, &[3, 6], 4).unwrap(), [true, true]);
        assert_eq!(
            fitting(LongPrompts::Error, &[3, 7, 8], 4).unwrap_err().to_string(),
            "prompt 2 with its completion has 11 tokens, more than the model's context of 10: its own 7 and \
             `max_new_tokens: 4`; 2 of 3 prompts are too long\n\
             prompt: 1111111\n\
             hint: `too_long: drop` leaves such prompts out; a smaller `max_new_tokens` makes room: the shortest of all \
             prompts leaves room for 7"
        );
        assert_eq!(fitting(LongPrompts::Drop, &[3, 7, 8], 4).unwrap(), [true, false, false]);
        let none = fitting(LongPrompts::Drop, &[3, 4], 32_768).unwrap_err().to_string();
        assert!(
            none.ends_with(
                "hint: a smaller `max_new_tokens` makes room: the shortest of all prompts leaves room for 7"
            ),
            "{none}"
        );
    }

    #[test]
    fn excerpts_keep_beginning_and_end() {
        assert_eq!(excerpt("a\nb"), "a\\nb");
        let long = excerpt(&"x".repeat(1000));
        assert!(long.contains(" … 760 more … ") && long.chars().count() < 300, "{long}");
    }
}
