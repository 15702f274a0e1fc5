//! Numbers in text: found, read, and compared exactly.

use std::sync::LazyLock;

use regex::Regex;
use rhai::{Array, Dynamic, EvalAltResult, Module, plugin::*};

use super::or_nothing;

pub(super) fn module() -> Module {
    exported_module!(functions)
}

#[export_module]
mod functions {
    /// What the text's last `\boxed{…}` holds, with its braces balanced; `()` where there is none.
    pub fn boxed(text: &str) -> Dynamic {
        or_nothing(last_boxed(text).map(str::to_string))
    }

    /// The text as a number: whole where it is, else rounded to a float; `()` where it is none. Read are
    /// `1234`, `1,234`, `-3.5`, `.5`, `1/2`, `\frac{1}{2}`, `$18`, `50%` (as 50), with a full stop or
    /// such behind. To compare numbers, use `same_number`: it does not round.
    pub fn number(text: &str) -> Dynamic {
        or_nothing(Exact::read(text).map(|exact| exact.to_dynamic()))
    }

    /// The last number written in the text, as text; `()` where there is none.
    pub fn last_number(text: &str) -> Dynamic {
        or_nothing(NUMBER.find_iter(text).last().map(|found| found.as_str().to_string()))
    }

    /// Are both numbers, and the same one? Exact: `0.5` is `1/2`, and `0.33` is not `1/3`. Texts are read
    /// as `number` does; anything that is no number is the same as nothing.
    pub fn same_number(left: Dynamic, right: Dynamic) -> bool {
        match (exact(&left), exact(&right)) {
            (Some(left), Some(right)) => left == right,
            _ => false,
        }
    }

    /// The greatest common divisor, never negative.
    #[rhai_fn(return_raw)]
    pub fn gcd(left: i64, right: i64) -> Result<i64, Box<EvalAltResult>> {
        let (mut left, mut right) = (left.unsigned_abs(), right.unsigned_abs());
        while right != 0 {
            (left, right) = (right, left % right);
        }
        i64::try_from(left).map_err(|_| "gcd: the divisor is 2^63, too large for a whole number".into())
    }

    /// The decimal digits of a whole number, the highest first, without its sign.
    pub fn digits(number: i64) -> Array {
        let digit = |digit: char| Dynamic::from(i64::from(digit.to_digit(10).expect("printed as decimal digits")));
        number.unsigned_abs().to_string().chars().map(digit).collect()
    }
}

/// A number in running text. Commas count where they part groups of three.
static NUMBER: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"-?(?:\d{1,3}(?:,\d{3})+\b|\d+)(?:\.\d+)?(?:/\d+)?").expect("a constant that tests compile")
});

/// The whole of a number, without sign, unit and what follows: groups or digits, decimals, denominator.
static WHOLE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^(\d{1,3}(?:,\d{3})+|\d*)(?:\.(\d*))?(?:\s*/\s*(\d+))?$").expect("a constant that tests compile")
});

static FRACTION: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^\\[dt]?frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}$").expect("a constant that tests compile")
});

/// A fraction of decimal digit strings: any length, no rounding.
#[derive(Debug, Clone)]
struct Exact {
    negative: bool,
    above: Digits,
    below: Digits,
}

impl Exact {
    fn read(text: &str) -> Option<Self> {
        // More digits than anyone writes: comparing takes the square of their number.
        const MOST: usize = 512;
        let text = text.trim().trim_end_matches(['.', ',', ';', ':', '!', '?']);
        let text = text.trim_matches('$').trim_end_matches("\\%").trim_end_matches('%').trim();
        let (negative, text) = match text.strip_prefix(['-', '−']) {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let text = text.trim_start().trim_start_matches("\\$").trim_start_matches(['$', '€', '£']).trim_start();
        if text.len() > MOST {
            return None;
        }
        if let Some(parts) = FRACTION.captures(text) {
            return Self::new(negative, &parts[1], &parts[2]);
        }
        let parts = WHOLE.captures(text)?;
        let decimals = parts.get(2).map_or("", |part| part.as_str());
        let digits = format!("{}{decimals}", parts[1].replace(',', ""));
        let denominator = parts.get(3).map_or("1", |part| part.as_str());
        Self::new(negative, &digits, &format!("{denominator}{}", "0".repeat(decimals.len())))
    }

    fn new(negative: bool, above: &str, below: &str) -> Option<Self> {
        let exact = Self { negative, above: Digits::read(above)?, below: Digits::read(below)? };
        (!exact.below.0.is_empty()).then_some(exact)
    }

    fn to_dynamic(&self) -> Dynamic {
        let sign = if self.negative { "-" } else { "" };
        let whole = |digits: &Digits| format!("{sign}{}", digits.text()).parse::<i64>().ok();
        if let (Some(above), Ok(below)) = (whole(&self.above), self.below.text().parse::<i64>())
            && above % below == 0
        {
            return (above / below).into();
        }
        let float = |digits: &Digits| digits.text().parse::<f64>().unwrap_or(f64::NAN);
        let value = float(&self.above) / float(&self.below);
        if self.negative { (-value).into() } else { value.into() }
    }
}

impl PartialEq for Exact {
    fn eq(&self, other: &Self) -> bool {
        let zero = self.above.0.is_empty() && other.above.0.is_empty();
        // a/b = c/d where ad = cb
        let same = || self.above.times(&other.below) == other.above.times(&self.below);
        zero || (self.negative == other.negative && same())
    }
}

/// A whole number from zero on: its decimal digits, the lowest first, no zero at the high end.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Digits(Vec<u8>);

impl Digits {
    fn read(text: &str) -> Option<Self> {
        let mut digits = text.bytes().rev().map(|digit| digit.checked_sub(b'0').filter(|digit| *digit <= 9));
        let digits = digits.by_ref().collect::<Option<Vec<u8>>>()?;
        (!digits.is_empty()).then(|| Self(digits).trimmed())
    }

    fn times(&self, other: &Self) -> Self {
        let mut product = vec![0; self.0.len() + other.0.len()];
        for (i, left) in self.0.iter().enumerate() {
            let mut carry = 0;
            for (j, right) in other.0.iter().enumerate() {
                let sum = product[i + j] + left * right + carry;
                (product[i + j], carry) = (sum % 10, sum / 10);
            }
            product[i + other.0.len()] = carry;
        }
        Self(product).trimmed()
    }

    fn trimmed(mut self) -> Self {
        let length = self.0.iter().rposition(|digit| *digit != 0).map_or(0, |last| last + 1);
        self.0.truncate(length);
        self
    }

    fn text(&self) -> String {
        if self.0.is_empty() {
            return "0".into();
        }
        self.0.iter().rev().map(|digit| char::from(b'0' + digit)).collect()
    }
}

fn exact(value: &Dynamic) -> Option<Exact> {
    if let Ok(text) = value.as_immutable_string_ref() {
        return Exact::read(&text);
    }
    if let Ok(whole) = value.as_int() {
        return Exact::read(&whole.to_string());
    }
    // The shortest decimals that give this float: what a person would have written.
    Exact::read(&value.as_float().ok()?.to_string())
}

fn last_boxed(text: &str) -> Option<&str> {
    let after = &text[text.rfind("\\boxed{")? + "\\boxed{".len()..];
    let mut depth = 1;
    let mut escaped = false;
    for (place, letter) in after.char_indices() {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => (),
        }
        if depth == 0 {
            return Some(&after[..place]);
        }
    }
    None
}
