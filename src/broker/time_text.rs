//! Timestamps and timespans as Broker's JSON writes them.

const NS: i128 = 1_000_000_000;
const DAY: i128 = 86_400;

/// Days since 1970-01-01 of a date in the proleptic Gregorian calendar (Howard Hinnant's `days_from_civil`).
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The reverse of [`days`].
fn date(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// `YYYY-MM-DDThh:mm:ss.mmm` in UTC without a zone, as Zeek 8 writes it; six or nine digits after the point where three
/// would lose something.
pub fn format_timestamp(ns: i64) -> String {
    let seconds = ns.div_euclid(1_000_000_000);
    let fraction = ns.rem_euclid(1_000_000_000);
    let (year, month, day) = date(seconds.div_euclid(86_400));
    let second = seconds.rem_euclid(86_400);
    let head = format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60);
    if fraction % 1_000_000 == 0 {
        format!("{head}.{:03}", fraction / 1_000_000)
    } else if fraction % 1_000 == 0 {
        format!("{head}.{:06}", fraction / 1_000)
    } else {
        format!("{head}.{fraction:09}")
    }
}

/// Reads what any Zeek or Python client writes: `T` or a blank between date and time, up to nine digits of a fraction,
/// and `Z`, `±hh:mm`, `±hhmm` or no zone, which is UTC.
pub fn parse_timestamp(text: &str) -> Option<i64> {
    let mut rest = Text(text.as_bytes());
    let year = rest.number(4)?;
    rest.one(b"-")?;
    let month = rest.number(2)?;
    rest.one(b"-")?;
    let day = rest.number(2)?;
    rest.one(b"T ")?;
    let hour = rest.number(2)?;
    rest.one(b":")?;
    let minute = rest.number(2)?;
    rest.one(b":")?;
    let second = rest.number(2)?;
    let length = match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=length).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let fraction = match rest.one(b".") {
        Some(_) => rest.fraction()?,
        None => 0,
    };
    let offset = match rest.one(b"Z+-") {
        None | Some(b'Z') => 0,
        Some(sign) => {
            let hours = rest.number(2)?;
            rest.one(b":");
            let minutes = rest.number(2)?;
            if hours > 23 || minutes > 59 {
                return None;
            }
            let offset = hours * 3600 + minutes * 60;
            if sign == b'-' { -offset } else { offset }
        }
    };
    if !rest.0.is_empty() {
        return None;
    }
    let seconds = i128::from(days(year, month, day)) * DAY + i128::from(hour * 3600 + minute * 60 + second - offset);
    i64::try_from(seconds * NS + i128::from(fraction)).ok()
}

struct Text<'a>(&'a [u8]);

impl Text<'_> {
    fn one(&mut self, of: &[u8]) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        of.contains(first).then(|| {
            self.0 = rest;
            *first
        })
    }

    fn number(&mut self, digits: usize) -> Option<i64> {
        let (number, rest) = self.0.split_at_checked(digits)?;
        self.0 = rest;
        number.iter().try_fold(0, |number, digit| digit.is_ascii_digit().then(|| number * 10 + i64::from(digit - b'0')))
    }

    /// One to nine digits, as nanoseconds.
    fn fraction(&mut self) -> Option<i64> {
        let digits = self.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if !(1..=9).contains(&digits) {
            return None;
        }
        let value = self.number(digits)?;
        Some((digits..9).fold(value, |value, _| value * 10))
    }
}

/// An integer with the largest unit that keeps it exact: s, ms or ns. Not us, which zeek-client does not read.
pub fn format_timespan(ns: i64) -> String {
    if ns % 1_000_000_000 == 0 {
        format!("{}s", ns / 1_000_000_000)
    } else if ns % 1_000_000 == 0 {
        format!("{}ms", ns / 1_000_000)
    } else {
        format!("{ns}ns")
    }
}

/// A number, with a fraction or not, and ns, us, ms, s, min, h or d.
pub fn parse_timespan(text: &str) -> Option<i64> {
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic() && !matches!(c, 'e' | 'E'))?;
    let (number, unit) = text.split_at_checked(unit_at)?;
    let unit: i64 = match unit {
        "ns" => 1,
        "us" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "min" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        "d" => 86_400_000_000_000,
        _ => return None,
    };
    if let Ok(whole) = number.parse::<i64>() {
        return whole.checked_mul(unit);
    }
    let ns = (number.parse::<f64>().ok()? * unit as f64).round();
    // The bounds of i64 are powers of two, so they are exact as doubles; the upper one is no i64.
    (ns >= i64::MIN as f64 && ns < i64::MAX as f64).then_some(ns as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_go_both_ways() {
        for (ns, text) in [
            (0, "1970-01-01T00:00:00.000"),
            (1_000_000_000, "1970-01-01T00:00:01.000"),
            (1_700_000_000_500_000_000, "2023-11-14T22:13:20.500"),
            (1_709_208_000_000_001_000, "2024-02-29T12:00:00.000001"),
            (-1, "1969-12-31T23:59:59.999999999"),
            (i64::MAX, "2262-04-11T23:47:16.854775807"),
            (i64::MIN, "1677-09-21T00:12:43.145224192"),
        ] {
            assert_eq!(format_timestamp(ns), text);
            assert_eq!(parse_timestamp(text), Some(ns), "{text}");
        }
    }

    #[test]
    fn every_day_is_its_own_date() {
        for day in -800_000..800_000 {
            let (year, month, of_month) = date(day);
            assert_eq!(days(year, month, of_month), day);
        }
    }

    #[test]
    fn zones_and_fractions_are_read_leniently() {
        let noon = parse_timestamp("2024-01-02T12:00:00").unwrap();
        for same in
            ["2024-01-02 12:00:00", "2024-01-02T12:00:00.0Z", "2024-01-02T13:30:00+01:30", "2024-01-02T10:00:00-0200"]
        {
            assert_eq!(parse_timestamp(same), Some(noon), "{same}");
        }
        for bad in [
            "",
            "2024",
            "2024-13-01T00:00:00",
            "2024-00-01T00:00:00",
            "2023-02-29T00:00:00",
            "1900-02-29T00:00:00",
            "2024-01-02T24:00:00",
            "2024-01-02T00:60:00",
            "2024-01-02T00:00:00.",
            "2024-01-02T00:00:00.1234567890",
            "2024-01-02T00:00:00+1",
            "2024-01-02T00:00:00x",
            "9999-01-01T00:00:00",
            "２024-01-02T00:00:00",
        ] {
            assert_eq!(parse_timestamp(bad), None, "{bad}");
        }
    }

    #[test]
    fn timespans_go_both_ways() {
        for (ns, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1500ns"),
            (1_500_000_000, "1500ms"),
            (-2_000_000_000, "-2s"),
            (i64::MIN, "-9223372036854775808ns"),
        ] {
            assert_eq!(format_timespan(ns), text);
            assert_eq!(parse_timespan(text), Some(ns), "{text}");
        }
        for (text, ns) in [
            ("1.5s", 1_500_000_000),
            ("2us", 2_000),
            ("1min", 60_000_000_000),
            ("0.5h", 1_800_000_000_000),
            ("1d", 86_400_000_000_000),
            ("1e3ms", 1_000_000_000),
        ] {
            assert_eq!(parse_timespan(text), Some(ns), "{text}");
        }
        for bad in ["", "1", "s", "1x", "1 s", "nans", "infs", "1e300s", "9223372036854775808ns", "106752d"] {
            assert_eq!(parse_timespan(bad), None, "{bad}");
        }
    }
}
