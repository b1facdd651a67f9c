//! Event time: when a line says that it happened, in milliseconds since 1970 (UTC), and event watermarks.
//!
//! An event watermark says that no line older than it is to be expected. Sources make them from the newest time that
//! they have seen; they travel with barriers, so that windows close at job epochs only, and the least of all channels
//! counts (Akidau et al., The Dataflow Model, 2015).

use serde::{Deserialize, Serialize};

/// An event watermark in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventMark {
    /// Lines go on to come from that time on.
    Live(i64),
    /// Nothing has come for a while: it holds no other channel back, but says how far it had got.
    Idle(i64),
}

impl EventMark {
    /// Of what has no times: it holds nobody back and brings nobody forward.
    pub const NONE: Self = Self::Idle(i64::MIN);

    /// Milliseconds.
    pub fn at(self) -> i64 {
        match self {
            Self::Live(at) | Self::Idle(at) => at,
        }
    }

    /// The same channel, as far as `at` makes of how far it has got.
    pub fn held(self, at: impl Fn(i64) -> i64) -> Self {
        match self {
            Self::Live(mark) => Self::Live(at(mark)),
            Self::Idle(mark) => Self::Idle(at(mark)),
        }
    }

    /// Of several channels together: the least of those that live; if none does, the greatest.
    pub fn of_all(marks: impl IntoIterator<Item = Self>) -> Self {
        marks
            .into_iter()
            .fold(Self::NONE, |all, mark| match (all, mark) {
                (Self::Live(a), Self::Live(b)) => Self::Live(a.min(b)),
                (Self::Idle(a), Self::Idle(b)) => Self::Idle(a.max(b)),
                (live @ Self::Live(_), _) | (_, live) => live,
            })
    }
}

/// How a column writes its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TimeFormat {
    /// `2026-01-31T12:00:00.5Z`, `2026-01-31 12:00:00+01:00`; without a zone it is UTC.
    Rfc3339,
    /// Seconds, perhaps with a fraction.
    Unix,
    UnixMs,
    /// `31/Jan/2026:12:00:00 +0100`, as web servers log it; brackets around it are fine.
    Clf,
}

/// Times are nearer to 1970 than this, so that the ends of windows always fit.
const TIME_MAX: u64 = 1 << 60;

impl TimeFormat {
    /// Milliseconds since 1970; `None` if the text is not of this format, or a time some 36 million years away. The same for
    /// windows and for event watermarks: what is refused by the one must not move the other.
    pub fn parse(self, text: &[u8]) -> Option<i64> {
        self.millis(text.trim_ascii())
            .filter(|time| time.unsigned_abs() < TIME_MAX)
    }

    fn millis(self, text: &[u8]) -> Option<i64> {
        match self {
            Self::Unix => {
                let units = crate::decimal::Decimal::parse(text)?.0;
                i64::try_from(units.div_euclid(1_000_000)).ok()
            }
            Self::UnixMs => std::str::from_utf8(text).ok()?.parse().ok(),
            Self::Rfc3339 => rfc3339(text),
            Self::Clf => clf(text),
        }
    }
}

fn rfc3339(text: &[u8]) -> Option<i64> {
    let (date, rest) = text.split_at_checked(10)?;
    if date[4] != b'-' || date[7] != b'-' {
        return None;
    }
    let days = days(
        number(&date[..4])?,
        number(&date[5..7])?,
        number(&date[8..])?,
    )?;
    let Some((b'T' | b't' | b' ', rest)) = rest.split_first() else {
        return rest.is_empty().then_some(days * 86_400_000);
    };
    let (clock, rest) = rest.split_at_checked(8)?;
    let mut millis = seconds_of_day(clock)? * 1000;
    let digits = match rest.strip_prefix(b".") {
        Some(part) => part.iter().take_while(|byte| byte.is_ascii_digit()).count(),
        None => 0,
    };
    if rest.first() == Some(&b'.') && digits == 0 {
        return None;
    }
    for (at, weight) in (1..=digits.min(3)).zip([100, 10, 1]) {
        millis += i64::from(rest[at] - b'0') * weight;
    }
    let zone = &rest[if digits > 0 { digits + 1 } else { 0 }..];
    Some(days * 86_400_000 + millis - offset(zone)? * 1000)
}

fn clf(text: &[u8]) -> Option<i64> {
    let text = text.strip_prefix(b"[").unwrap_or(text);
    let text = text.strip_suffix(b"]").unwrap_or(text);
    let (date, rest) = text.split_at_checked(11)?;
    let months = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let month = months
        .iter()
        .position(|name| name.as_bytes() == &date[3..6])? as i64
        + 1;
    let days = days(number(&date[7..])?, month, number(&date[..2])?)?;
    let (clock, zone) = rest.strip_prefix(b":")?.split_at_checked(8)?;
    let seconds = seconds_of_day(clock)? - offset(zone.trim_ascii())?;
    Some((days * 86_400 + seconds) * 1000)
}

fn number(digits: &[u8]) -> Option<i64> {
    if digits.is_empty() || digits.len() > 18 {
        return None;
    }
    digits.iter().try_fold(0_i64, |value, byte| {
        byte.is_ascii_digit()
            .then(|| value * 10 + i64::from(byte - b'0'))
    })
}

/// `HH:MM:SS`; a leap second counts as the next one.
fn seconds_of_day(clock: &[u8]) -> Option<i64> {
    if clock.len() != 8 || clock[2] != b':' || clock[5] != b':' {
        return None;
    }
    let (hours, minutes, seconds) = (
        number(&clock[..2])?,
        number(&clock[3..5])?,
        number(&clock[6..])?,
    );
    (hours < 24 && minutes < 60 && seconds <= 60).then_some(hours * 3600 + minutes * 60 + seconds)
}

/// Seconds east of UTC: nothing, `Z`, `+HH:MM` or `+HHMM`.
fn offset(zone: &[u8]) -> Option<i64> {
    let (sign, rest) = match zone {
        [] | b"Z" | b"z" => return Some(0),
        [b'+', rest @ ..] => (1, rest),
        [b'-', rest @ ..] => (-1, rest),
        _ => return None,
    };
    let (hours, minutes): (i64, i64) = match rest.len() {
        4 => (number(&rest[..2])?, number(&rest[2..])?),
        5 if rest[2] == b':' => (number(&rest[..2])?, number(&rest[3..])?),
        _ => return None,
    };
    (hours < 24 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
}

/// The moment so many seconds after 1970, as `2026-11-28T09:30:00Z` (the inverse of `days`, from the same place).
pub fn utc_text(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    // Months are counted from March.
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Days since 1970 of a date of the Gregorian calendar (Howard Hinnant, chrono-compatible date algorithms).
fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    let leaps = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last = match month {
        2 if leaps => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    if !(1..=12).contains(&month) || !(1..=last).contains(&day) {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let day_of_era = of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_as_text_is_read_as_the_same() {
        assert_eq!(utc_text(951_825_600), "2000-02-29T12:00:00Z");
        for seconds in (0..5_000_000_000).step_by(86_399 * 7) {
            let text = utc_text(seconds);
            let read = TimeFormat::Rfc3339.parse(text.as_bytes());
            assert_eq!(read, Some(seconds as i64 * 1000), "{text}");
        }
    }

    #[test]
    fn times_are_read() {
        use TimeFormat::{Clf, Rfc3339, Unix, UnixMs};
        for (format, text, millis) in [
            (Rfc3339, "1970-01-01", 0),
            (Rfc3339, "2000-02-29T12:00:00Z", 951_825_600_000),
            (Rfc3339, "2000-02-29 13:00:00.5+01:00", 951_825_600_500),
            (Rfc3339, "1969-12-31T23:59:59.999999", -1),
            (Unix, "951825600.25", 951_825_600_250),
            (Unix, "-0.5", -500),
            (UnixMs, " 17 ", 17),
            (Clf, "[29/Feb/2000:07:00:00 -0500]", 951_825_600_000),
        ] {
            assert_eq!(format.parse(text.as_bytes()), Some(millis), "{text}");
        }
        for (format, text) in [
            (Rfc3339, "2000-13-01"),
            (Rfc3339, "2026-02-31"),
            (Rfc3339, "2100-02-29"),
            (Rfc3339, "2000-01-01T00:00:00+24:00"),
            (Clf, "31/Apr/2000:07:00:00 +0000"),
            (Clf, "29/Feb/2000:07:00:00 +0060"),
            (Rfc3339, "2000-01-01T25:00:00Z"),
            (Rfc3339, "2000-01-01T00:00:00.Z"),
            (Rfc3339, "yesterday"),
            (Unix, "1e9"),
            (UnixMs, "1.5"),
            (UnixMs, "1152921504606846976"),
            (UnixMs, "-9223372036854775808"),
            (Unix, "1152921504606847"),
            (Clf, "29/Foo/2000:07:00:00 -0500"),
        ] {
            assert_eq!(format.parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn those_that_live_count_first() {
        use EventMark::{Idle, Live};
        assert_eq!(EventMark::of_all([Live(3), Idle(-9), Live(-1)]), Live(-1));
        assert_eq!(EventMark::of_all([Idle(9), Live(3), Idle(12)]), Live(3));
        assert_eq!(EventMark::of_all([Idle(9), Idle(12)]), Idle(12));
        assert_eq!(EventMark::of_all([]), EventMark::NONE);
    }
}
