//! A day, and how C's `strftime` writes it. Tells no time: there is no clock here.

use std::{fmt::Write as _, str::FromStr};

use anyhow::{Context as _, Result, bail, ensure};

/// A day of the Gregorian calendar, its midnight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Date {
    year: i64,
    /// From one.
    month: i64,
    /// From one.
    day: i64,
}

const WEEKDAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

impl FromStr for Date {
    type Err = anyhow::Error;

    /// `2024-07-26`.
    fn from_str(text: &str) -> Result<Self> {
        let parts: Vec<&str> = text.split('-').collect();
        let is_plain = |part: &&str, width| part.len() == width && part.bytes().all(|byte| byte.is_ascii_digit());
        let wanted = || format!("`{text}` is not a day; a day is written as in `2024-07-26`");
        let [year, month, day] = parts[..] else { bail!(wanted()) };
        ensure!(is_plain(&year, 4) && is_plain(&month, 2) && is_plain(&day, 2), wanted());
        let number = |part: &str| part.parse::<i64>().with_context(wanted);
        let date = Self { year: number(year)?, month: number(month)?, day: number(day)? };
        ensure!((1..=12).contains(&date.month) && (1..=date.days_of_month()).contains(&date.day), wanted());
        Ok(date)
    }
}

impl Date {
    /// The day of a moment, in seconds since 1970 began in Greenwich.
    #[must_use]
    pub fn of_unix(seconds: u64) -> Self {
        let mut days = (seconds / 86_400).cast_signed();
        let mut date = Self { year: 1970, month: 1, day: 1 };
        let days_of = |year: i64| 365 + i64::from(Self::is_leap(year));
        while days >= days_of(date.year) {
            days -= days_of(date.year);
            date.year += 1;
        }
        while days >= date.days_of_month() {
            days -= date.days_of_month();
            date.month += 1;
        }
        Self { day: days + 1, ..date }
    }

    /// The day as `strftime` writes it in the C locale, at midnight.
    ///
    /// # Errors
    /// Names a directive that is not known.
    pub fn format(self, format: &str) -> Result<String> {
        let mut out = String::new();
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let mut directive = chars.next();
            // glibc: `%-d` writes no zero or blank before the number.
            let is_bare = directive == Some('-');
            if is_bare {
                directive = chars.next();
            }
            let Some(directive) = directive else { bail!("`{format}` ends in the middle of a directive") };
            let text = self.directive(directive).with_context(|| format!("in `{format}`"))?;
            let bare = text.trim_start_matches(['0', ' ']);
            out += if !is_bare || !text.starts_with(['0', ' ']) {
                &text
            } else if bare.is_empty() {
                "0"
            } else {
                bare
            };
        }
        Ok(out)
    }

    fn directive(self, directive: char) -> Result<String> {
        let weekday = WEEKDAYS[self.weekday() as usize];
        let month = MONTHS[self.month as usize - 1];
        let (iso_year, iso_week) = self.iso_week();
        Ok(match directive {
            'd' => format!("{:02}", self.day),
            'e' => format!("{:2}", self.day),
            'm' => format!("{:02}", self.month),
            'b' | 'h' => month[..3].to_owned(),
            'B' => month.to_owned(),
            'Y' => self.year.to_string(),
            'y' => format!("{:02}", self.year % 100),
            'C' => format!("{:02}", self.year / 100),
            'a' => weekday[..3].to_owned(),
            'A' => weekday.to_owned(),
            'w' => ((self.weekday() + 1) % 7).to_string(),
            'u' => (self.weekday() + 1).to_string(),
            'j' => format!("{:03}", self.day_of_year() + 1),
            'U' => format!("{:02}", (self.day_of_year() + 7 - (self.weekday() + 1) % 7) / 7),
            'W' => format!("{:02}", (self.day_of_year() + 7 - self.weekday()) / 7),
            'V' => format!("{iso_week:02}"),
            'G' => iso_year.to_string(),
            'H' | 'M' | 'S' => "00".to_owned(),
            'f' => "000000".to_owned(),
            'I' => "12".to_owned(),
            'p' => "AM".to_owned(),
            'F' => self.format("%Y-%m-%d")?,
            'D' | 'x' => self.format("%m/%d/%y")?,
            'T' | 'X' => self.format("%H:%M:%S")?,
            'R' => self.format("%H:%M")?,
            'c' => self.format("%a %b %e %H:%M:%S %Y")?,
            // A day without a zone: Python writes nothing.
            'z' | 'Z' => String::new(),
            'n' => "\n".to_owned(),
            't' => "\t".to_owned(),
            '%' => "%".to_owned(),
            other => bail!("`%{other}` is no directive of strftime that is known here"),
        })
    }

    fn is_leap(year: i64) -> bool {
        year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
    }

    fn days_of_month(self) -> i64 {
        match self.month {
            2 => 28 + i64::from(Self::is_leap(self.year)),
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        }
    }

    /// From zero.
    fn day_of_year(self) -> i64 {
        let before: i64 = (1..self.month).map(|month| Self { month, ..self }.days_of_month()).sum();
        before + self.day - 1
    }

    /// From zero, Monday.
    fn weekday(self) -> i64 {
        let years = self.year - 1;
        // The first of January of the year one is a Monday.
        (365 * years + years / 4 - years / 100 + years / 400 + self.day_of_year()).rem_euclid(7)
    }

    /// ISO 8601: the week, and the year that it belongs to.
    fn iso_week(self) -> (i64, i64) {
        let week = (self.day_of_year() - self.weekday() + 10) / 7;
        let weeks = |year: i64| {
            let weekday = Self { year, month: 12, day: 31 }.weekday();
            // A year that ends on a Thursday, or on a Friday if it is a leap year, has one more.
            if weekday == 3 || (weekday == 4 && Self::is_leap(year)) { 53 } else { 52 }
        };
        if week < 1 {
            (self.year - 1, weeks(self.year - 1))
        } else if week > weeks(self.year) {
            (self.year + 1, 1)
        } else {
            (self.year, week)
        }
    }
}

impl std::fmt::Display for Date {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = String::new();
        write!(text, "{:04}-{:02}-{:02}", self.year, self.month, self.day)?;
        formatter.write_str(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_that_are_none_are_refused() {
        for text in ["2023-02-29", "2024-13-01", "2024-00-10", "2024-1-1", "today", "2024-07-26T00:00", "-024-07-26"] {
            let error = text.parse::<Date>().unwrap_err().to_string();
            assert_eq!(error, format!("`{text}` is not a day; a day is written as in `2024-07-26`"));
        }
        assert_eq!("2024-02-29".parse::<Date>().unwrap().to_string(), "2024-02-29");
    }

    /// Of seventy years, by `tests/reference/make_text_fixtures.py`.
    #[test]
    fn days_are_written_as_python_writes_them() {
        let expected = crate::bench::json_of(&crate::bench::fixture("dates.json"));
        let format = expected["format"].as_str().unwrap();
        for (day, text) in expected["days"].as_object().unwrap() {
            assert_eq!(day.parse::<Date>().unwrap().format(format).unwrap(), text.as_str().unwrap(), "{day}");
        }
    }

    #[test]
    fn a_moment_has_its_day() {
        // date -u -d @951782399, and the second behind it.
        for (seconds, day) in
            [(0, "1970-01-01"), (951_782_399, "2000-02-28"), (951_782_400, "2000-02-29"), (1_735_689_599, "2024-12-31")]
        {
            assert_eq!(Date::of_unix(seconds).to_string(), day);
        }
    }

    #[test]
    fn an_unknown_directive_is_named() {
        let day: Date = "2024-07-26".parse().unwrap();
        assert_eq!(
            format!("{:#}", day.format("%d %Q").unwrap_err()),
            "in `%d %Q`: `%Q` is no directive of strftime that is known here"
        );
    }
}
