//! Timestamps and timespans as Broker's JSON writes them.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

/// `YYYY-MM-DDThh:mm:ss.mmm` in UTC without a zone, as Zeek 8 writes it; six or nine digits after the point where three
/// would lose something.
pub fn format_timestamp(ns: i64) -> String {
    let at = Timestamp::from_nanosecond(ns.into()).expect("64 bits of nanoseconds reach from 1677 to 2262");
    let form = match ns {
        ns if ns % 1_000_000 == 0 => "%Y-%m-%dT%H:%M:%S%.3f",
        ns if ns % 1_000 == 0 => "%Y-%m-%dT%H:%M:%S%.6f",
        _ => "%Y-%m-%dT%H:%M:%S%.9f",
    };
    at.strftime(form).to_string()
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
    // Some write the 60th second of a minute with a leap second.
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let date = Date::new(year.try_into().ok()?, month.try_into().ok()?, day.try_into().ok()?).ok()?;
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
    let midnight = TimeZone::UTC.to_timestamp(date.to_datetime(jiff::civil::Time::midnight())).ok()?;
    let seconds = midnight.as_second() + hour * 3600 + minute * 60 + second - offset;
    i64::try_from(i128::from(seconds) * 1_000_000_000 + i128::from(fraction)).ok()
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
        const DAY_NS: i64 = 86_400_000_000_000;
        let mut before = String::new();
        for day in i64::MIN / DAY_NS..=i64::MAX / DAY_NS {
            let text = format_timestamp(day * DAY_NS);
            assert!(text > before && text.ends_with("T00:00:00.000"), "{text} after {before}");
            assert_eq!(parse_timestamp(&text), Some(day * DAY_NS));
            before = text;
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
        assert_eq!(parse_timestamp("2016-12-31T23:59:60"), parse_timestamp("2017-01-01T00:00:00"));
        for bad in [
            "0000-01-01T00:00:00",
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
