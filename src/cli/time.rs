//! Times as people write them: `2026-11-22T08:31:00Z`, `2026-11-22 08:31`, `2h`, `yesterday`.

use jiff::civil::DateTime;
use jiff::{Span, Timestamp as Moment, ZonedDateTime};

use crate::api::time::Timestamp;

/// The moment that `text` means at `now`, whose time zone dates without one are in. A length of time means that long ago.
pub fn parse(text: &str, now: &ZonedDateTime) -> Result<Timestamp, String> {
    let text = text.trim();
    let moment = match text {
        "now" => Some(now.timestamp()),
        "today" => now.start_of_day().ok().map(|day| day.timestamp()),
        "yesterday" => now.yesterday().and_then(|day| day.start_of_day()).ok().map(|day| day.timestamp()),
        _ => None,
    };
    let moment = moment
        .or_else(|| text.parse::<Moment>().ok())
        .or_else(|| text.parse::<ZonedDateTime>().ok().map(|zoned| zoned.timestamp()))
        .or_else(|| Some(text.parse::<DateTime>().ok()?.to_zoned_datetime(now.time_zone().clone()).ok()?.timestamp()))
        .or_else(|| Some(now.checked_sub(text.parse::<Span>().ok()?.abs()).ok()?.timestamp()));
    let Some(moment) = moment else {
        return Err(format!(
            "{text:?} is no time; possible are 2026-11-22T08:31:00Z, 2026-11-22 08:31 (local), 2h (ago), today, yesterday"
        ));
    };
    Ok(Timestamp(u64::try_from(moment.as_microsecond()).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> String {
        let now: ZonedDateTime = "2026-11-22T08:31:00+01:00[Europe/Berlin]".parse().unwrap();
        let micros = parse(text, &now).unwrap().0;
        Moment::from_microsecond(i64::try_from(micros).unwrap()).unwrap().to_string()
    }

    #[test]
    fn moments_days_and_lengths_are_understood() {
        for (text, moment) in [
            ("2026-11-22T08:31:00Z", "2026-11-22T08:31:00Z"),
            ("2026-11-22T08:31:00.123456+02:00", "2026-11-22T06:31:00.123456Z"),
            ("2026-11-22 08:31", "2026-11-22T07:31:00Z"),
            ("2026-11-22", "2026-11-21T23:00:00Z"),
            ("2h", "2026-11-22T05:31:00Z"),
            ("90 min", "2026-11-22T06:01:00Z"),
            ("1d", "2026-11-21T07:31:00Z"),
            ("now", "2026-11-22T07:31:00Z"),
            ("today", "2026-11-21T23:00:00Z"),
            ("yesterday", "2026-11-20T23:00:00Z"),
            ("1960-01-01T00:00:00Z", "1970-01-01T00:00:00Z"),
        ] {
            assert_eq!(at(text), moment, "{text}");
        }
    }

    #[test]
    fn anything_else_says_what_is_possible() {
        let now: ZonedDateTime = "2026-11-22T08:31:00+01:00[Europe/Berlin]".parse().unwrap();
        for bad in ["", "soon", "25:99", "2026-13-01", "-", "9999999999999999h"] {
            assert!(parse(bad, &now).unwrap_err().contains("yesterday"), "{bad}");
        }
    }
}
