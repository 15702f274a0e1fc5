//! A length of time as people write it: `90s`, `30m`, `1h30m`, `2d`.
//! Knows nothing of what takes so long.

use std::time::Duration;

use crate::spec::tree::Shape;

/// None where it is no length of time, or none at all.
pub(super) fn read(shape: &Shape) -> Option<Duration> {
    let Shape::Text(text) = shape else { return None };
    parse(text)
}

/// A length of time on a command line.
///
/// # Errors
/// With how to write one.
pub fn read_duration(text: &str) -> Result<Duration, &'static str> {
    parse(text).ok_or("write it as `90s`, `30m`, `1h30m` or `2d`")
}

fn parse(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let (mut total, mut smallest) = (0_u64, u64::MAX);
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit())?;
        let count: u64 = rest[..digits].parse().ok()?;
        let unit = match rest[digits..].chars().next()? {
            'd' => 86_400,
            'h' => 3_600,
            'm' => 60,
            's' => 1,
            _ => return None,
        };
        // From large to small, each once: `30m1h` is a slip.
        if unit >= smallest {
            return None;
        }
        smallest = unit;
        total = total.checked_add(count.checked_mul(unit)?)?;
        rest = &rest[digits + 1..];
    }
    (total > 0).then(|| Duration::from_secs(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        let cases = [
            ("90s", Some(90)),
            ("30m", Some(1_800)),
            ("1h30m", Some(5_400)),
            ("2d", Some(172_800)),
            ("", None),
            ("0s", None),
            ("90", None),
            ("30m1h", None),
            ("1h1h", None),
            ("-1s", None),
            ("1w", None),
            ("99999999999999999999s", None),
        ];
        for (text, seconds) in cases {
            assert_eq!(parse(text), seconds.map(Duration::from_secs), "{text}");
        }
    }
}
