//! Numbers in text: found, read, and compared exactly.

use std::sync::LazyLock;

use regex::Regex;
use rhai::{Array, Dynamic, EvalAltResult, Module, export_module, exported_module};

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

    /// The text (or number) as a number: whole where it is, else rounded to a float; `()` where it is none. Read are
    /// `1234`, `1,234`, `-3.5`, `.5`, `1/2`, `\frac{1}{2}`, `$18`, `50%` (as 50), with a full stop or
    /// such behind. To compare numbers, use `same_number`: it does not round.
    pub fn number(value: Dynamic) -> Dynamic {
        or_nothing(exact(&value).map(|exact| exact.to_dynamic()))
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

#[cfg(test)]
mod tests {
    use std::{io::Read, path::PathBuf};

    use flate2::read::GzDecoder;

    use super::{functions::*, *};

    #[test]
    fn numbers_are_read_as_people_write_them() {
        let whole = [
            ("7", 7),
            (" 7\n", 7),
            ("+7", 7),
            ("-7", -7),
            ("−7", -7),
            ("- 7", -7),
            ("007", 7),
            ("-0", 0),
            ("1,234", 1234),
            ("-1,234,567", -1_234_567),
            ("7.", 7),
            ("7.00", 7),
            ("7!", 7),
            ("$18", 18),
            ("-$18", -18),
            ("\\$18", 18),
            ("$18$", 18),
            ("50%", 50),
            ("50\\%", 50),
            ("14/2", 7),
            ("14 / 2", 7),
            ("\\frac{14}{2}", 7),
            ("-\\dfrac{14}{2}", -7),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
        ];
        for (text, expected) in whole {
            assert_eq!(number(text.into()).as_int(), Ok(expected), "{text:?}");
        }
        let fractions = [
            ("3.5", 3.5),
            ("-.5", -0.5),
            ("1/2", 0.5),
            ("-1/4", -0.25),
            ("9223372036854775808", 9_223_372_036_854_775_808.0),
        ];
        for (text, expected) in fractions {
            assert_eq!(number(text.into()).as_float(), Ok(expected), "{text:?}");
        }
        let none = [
            "",
            " ",
            "-",
            ".",
            "%",
            "$",
            "seven",
            "7 apples",
            "1 2",
            "12,34",
            "1,2345",
            "1/0",
            "1/",
            "/2",
            "1//2",
            "1.2.3",
            "--7",
            "7-",
            "0x10",
            "1e5",
            "inf",
            "NaN",
            "1/2/3",
            "٣",
            "\\frac{1}{0}",
            "\\frac{1}",
            "1_000",
            "x=7",
            "2^3",
        ];
        for text in none {
            assert!(number(text.into()).is_unit(), "{text:?} read as {:?}", number(text.into()));
        }
    }

    #[test]
    fn numbers_are_the_same_without_rounding() {
        let same = [
            ("7", "7.0"),
            ("1,000", "1000"),
            ("0.5", "1/2"),
            ("2/4", "1/2"),
            ("0", "-0.00"),
            ("-1/2", "-.5"),
            ("0.30", ".3"),
            ("100000000000000000000000000000000000000001", "100000000000000000000000000000000000000001.0"),
        ];
        for (left, right) in same {
            assert!(same_number(left.into(), right.into()), "{left} and {right}");
            assert!(same_number(right.into(), left.into()), "{right} and {left}");
        }
        let different = [
            ("7", "8"),
            ("7", "-7"),
            ("0.33", "1/3"),
            ("0.3333333333333333", "1/3"),
            ("1/2", "2/1"),
            ("12", "21"),
            ("9007199254740993", "9007199254740992"),
            ("100000000000000000000000000000000000000001", "100000000000000000000000000000000000000002"),
            ("seven", "seven"),
            ("", ""),
        ];
        for (left, right) in different {
            assert!(!same_number(left.into(), right.into()), "{left} and {right}");
        }
        assert!(same_number(Dynamic::from(7_i64), "7".into()));
        assert!(same_number(Dynamic::from(0.1_f64), "1/10".into()));
        assert!(!same_number(Dynamic::from(0.1_f64 + 0.2), "0.3".into()));
        assert!(!same_number(Dynamic::UNIT, Dynamic::UNIT));
    }

    #[test]
    fn endless_digits_are_no_number_and_take_no_time() {
        let long = "9".repeat(1 << 20);
        assert!(number(long.into()).is_unit());
        let most = "9".repeat(512);
        let start = std::time::Instant::now();
        assert!(same_number(most.as_str().into(), most.as_str().into()));
        assert!(start.elapsed().as_millis() < 100);
    }

    #[test]
    fn the_last_box_is_read_with_its_braces_balanced() {
        let cases = [
            (r"so \boxed{7}.", Some("7")),
            (r"\boxed{1} or \boxed{2}", Some("2")),
            (r"\boxed{\frac{1}{2}}", Some(r"\frac{1}{2}")),
            (r"\boxed{\{1, 2\}}", Some(r"\{1, 2\}")),
            (r"\boxed{}", Some("")),
            (r"\boxed{7", None),
            (r"\boxed{1} and \boxed{7", None),
            (r"\fbox{7}", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(last_boxed(text), expected, "{text:?}");
        }
    }

    #[test]
    fn the_last_number_of_a_text_is_found() {
        let cases = [
            ("I have 3 apples and 4.", Some("4")),
            ("it costs $1,234.50 in all", Some("1,234.50")),
            ("first 1, then 2, then 3, done", Some("3")),
            ("12,34", Some("34")),
            ("from 5 to -6", Some("-6")),
            ("one half is 1/2", Some("1/2")),
            ("none", None),
        ];
        for (text, expected) in cases {
            let found = last_number(text);
            assert_eq!(found.into_immutable_string().ok().as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn divisors_and_digits() {
        assert_eq!(gcd(12, -18).unwrap(), 6);
        assert_eq!(gcd(0, 5).unwrap(), 5);
        assert_eq!(gcd(0, 0).unwrap(), 0);
        assert!(gcd(i64::MIN, 0).is_err());
        let of = |number| digits(number).iter().map(|digit| digit.as_int().unwrap()).collect::<Vec<_>>();
        assert_eq!(of(-1205), [1, 2, 0, 5]);
        assert_eq!(of(0), [0]);
    }

    /// Every answer of GSM8K is a whole number; 79 of train and 14 of test carry a thousands comma
    /// (counted in shared/data/README.md).
    #[test]
    fn every_answer_of_gsm8k_is_read() {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/gsm8k");
        for (file, rows, commas) in [("train.jsonl.gz", 7473, 79), ("test.jsonl.gz", 1319, 14)] {
            let Ok(bytes) = std::fs::File::open(folder.join(file)) else {
                crate::bench::skipped(&format!("no {}", folder.join(file).display()));
                return;
            };
            let mut text = String::new();
            GzDecoder::new(bytes).read_to_string(&mut text).unwrap();
            let mut counts = (0, 0);
            for line in text.lines() {
                let row: serde_json::Value = serde_json::from_str(line).unwrap();
                let answer = row["answer"].as_str().unwrap().rsplit("#### ").next().unwrap().trim();
                let plain: i64 = answer.replace(',', "").parse().unwrap();
                assert_eq!(number(answer.into()).as_int(), Ok(plain), "{answer:?}");
                assert!(same_number(answer.into(), plain.into()), "{answer:?}");
                assert!(!same_number(answer.into(), (plain + 1).into()), "{answer:?}");
                let sentence = format!("So the answer is {answer}.");
                let found = last_number(&sentence).into_immutable_string().unwrap();
                assert!(same_number(found.into(), answer.into()), "{sentence:?}");
                counts = (counts.0 + 1, counts.1 + i32::from(answer.contains(',')));
            }
            assert_eq!(counts, (rows, commas), "{file}");
        }
    }
}
