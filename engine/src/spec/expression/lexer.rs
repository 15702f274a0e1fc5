//! Cuts the text of an expression into numbers, texts, names and signs.
//! Knows nothing of how they go together.

use std::{fmt, ops::Range};

use serde_json::Number;

use super::Fault;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    Number(Number),
    Text(String),
    Name(String),
    Sign(&'static str),
    /// `}}`
    Close,
    /// The text ends where the expression does not.
    End,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Token::Number(number) => write!(f, "`{number}`"),
            Token::Text(text) => write!(f, "the text \"{text}\""),
            Token::Name(name) => write!(f, "`{name}`"),
            Token::Sign(sign) => write!(f, "`{sign}`"),
            Token::Close => f.write_str("`}}`"),
            Token::End => f.write_str("the end of the text"),
        }
    }
}

/// Longer signs first. The single `=`, `&` and `|` are nothing, and get a hint.
const SIGNS: [&str; 25] = [
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "+", "-", "*", "/", "%", "!", "?", ":", "(", ")", "[", "]", ",", ".",
    "=", "&", "|",
];

#[derive(Debug, Clone)]
pub(super) struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// Where the last token ended.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    pub(super) fn next(&mut self) -> Result<(Token, Range<usize>), Fault> {
        self.skip_spaces();
        let (rest, start) = (&self.text[self.at..], self.at);
        let Some(first) = rest.chars().next() else { return Ok((Token::End, start..start)) };
        let token = if rest.starts_with("}}") {
            self.at += 2;
            Token::Close
        } else if first.is_ascii_digit() {
            self.number()?
        } else if first == '"' || first == '\'' {
            self.text(first)?
        } else if is_name(first) {
            self.name()
        } else if let Some(sign) = SIGNS.into_iter().find(|sign| rest.starts_with(sign)) {
            self.at += sign.len();
            Token::Sign(sign)
        } else {
            let at = start..start + first.len_utf8();
            return Err(Fault::new(&at, format!("`{first}` has no meaning in an expression")));
        };
        Ok((token, start..self.at))
    }

    /// What follows a dot: a name, or digits alone, so that `list.0.1` is two steps and no fraction.
    pub(super) fn member(&mut self) -> Result<(Token, Range<usize>), Fault> {
        self.skip_spaces();
        let (rest, start) = (&self.text[self.at..], self.at);
        let digits = rest.len() - rest.trim_start_matches(|letter: char| letter.is_ascii_digit()).len();
        match rest[..digits].parse::<u64>() {
            Ok(number) if !rest[digits..].starts_with(is_name) => {
                self.at += digits;
                Ok((Token::Number(number.into()), start..self.at))
            }
            _ => self.next(),
        }
    }

    fn skip_spaces(&mut self) {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
    }

    fn name(&mut self) -> Token {
        let rest = &self.text[self.at..];
        let name = &rest[..rest.find(|letter: char| !is_name(letter)).unwrap_or(rest.len())];
        self.at += name.len();
        Token::Name(name.to_owned())
    }

    /// As YAML writes numbers: `1`, `0.5`, `1e-5`.
    fn number(&mut self) -> Result<Token, Fault> {
        let (rest, start) = (&self.text[self.at..], self.at);
        let digits = |from: usize| {
            let rest = &rest[from..];
            from + rest.len() - rest.trim_start_matches(|letter: char| letter.is_ascii_digit()).len()
        };
        let mut end = digits(0);
        if rest[end..].starts_with('.') && rest[end + 1..].starts_with(|letter: char| letter.is_ascii_digit()) {
            end = digits(end + 1);
        }
        if rest[end..].starts_with(['e', 'E']) {
            let sign = usize::from(rest[end + 1..].starts_with(['+', '-']));
            let exponent = digits(end + 1 + sign);
            if exponent > end + 1 + sign {
                end = exponent;
            }
        }
        let whole = &rest[..end + rest[end..].find(|letter: char| !is_name(letter)).unwrap_or(rest.len() - end)];
        self.at += whole.len();
        let at = start..self.at;
        let plain = whole.replace('_', "");
        if plain != whole && plain.parse::<f64>().is_ok() {
            return Err(Fault::new(&at, format!("`{whole}` is not a number")).hint(format!("write `{plain}`")));
        }
        let integer = whole.parse::<u64>().map(Number::from).ok();
        let number = integer.or_else(|| whole.parse().ok().and_then(Number::from_f64));
        number.map(Token::Number).ok_or_else(|| Fault::new(&at, format!("`{whole}` is not a number")))
    }

    /// In single or double quotes; a backslash takes what follows as it is, but for `\n` and `\t`.
    fn text(&mut self, quote: char) -> Result<Token, Fault> {
        let start = self.at;
        let mut text = String::new();
        let mut letters = self.text[start + 1..].char_indices();
        while let Some((at, letter)) = letters.next() {
            match letter {
                '\\' => match letters.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, 't')) => text.push('\t'),
                    Some((_, other)) => text.push(other),
                    None => break,
                },
                _ if letter == quote => {
                    self.at = start + 1 + at + 1;
                    return Ok(Token::Text(text));
                }
                _ => text.push(letter),
            }
        }
        Err(Fault::new(&(start..start + 1), "a text in an expression is not closed")
            .hint(format!("it begins with {quote} and needs another")))
    }
}

fn is_name(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}
