//! Times as people say them: `3 h ago`.

use std::time::{Duration, SystemTime};

/// How long ago a time such as `2026-11-23T18:06:56Z` was, in one unit; the text itself where it is no such time.
pub fn ago(utc: &str) -> String {
    let Some(then) = seconds(utc) else { return utc.to_owned() };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    match now.saturating_sub(then) {
        0..60 => "just now".into(),
        past @ 60..3_600 => format!("{} min ago", past / 60),
        past @ 3_600..172_800 => format!("{} h ago", past / 3_600),
        past => format!("{} days ago", past / 86_400),
    }
}

/// Seconds since 1970.
fn seconds(utc: &str) -> Option<u64> {
    let number = |from: usize, to: usize| utc.get(from..to)?.parse::<u64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    // Howard Hinnant, "chrono-compatible low-level date algorithms": years begin in March.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year.checked_sub(1)?, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day.checked_sub(1)?;
    Some(days.checked_sub(719_468)? * 86_400 + hour * 3_600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_gnu_date_reads_them() {
        // date -u -d 2026-11-23T18:06:56Z +%s
        let published = [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T00:00:00Z", 951_782_400),
            ("2000-03-01T00:00:00Z", 951_868_800),
            ("2026-11-23T18:06:56Z", 1_795_457_216),
        ];
        for (text, expected) in published {
            assert_eq!(seconds(text), Some(expected), "{text}");
        }
        assert_eq!(seconds("yesterday"), None);
    }

    #[test]
    fn what_is_no_time_is_told_as_it_is() {
        assert_eq!(ago("yesterday"), "yesterday");
    }
}
