//! Times as people read and write them.
//!
//! A terminal shows `2026-11-22 09:31:00+01`: local time, and its distance from UTC, so that each moment has one text also
//! where clocks are set back. What is shown can be pasted where a time is asked for. Pipes and JSON have RFC 3339, UTC.

use jiff::civil::{DateTime, Time};
use jiff::tz::{Disambiguation, TimeZone};
use jiff::{Span, Timestamp as Moment, ZonedDateTime};

use crate::api::time::Timestamp;

/// Which end of a stretch of time is meant: of two moments that a clock shows alike, the one that leaves nothing out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    Since,
    Until,
}

/// The moment that `text` means at `now`, whose time zone is meant where none is given. A length of time means that long ago,
/// a time of day the last one that was not later than now.
pub fn parse(text: &str, now: &ZonedDateTime, bound: Bound) -> Result<Timestamp, String> {
    let text = text.trim();
    let moment = text.parse::<Moment>().ok();
    let moment = moment
        .or_else(|| text.parse::<ZonedDateTime>().ok().map(|zoned| zoned.timestamp()))
        .or_else(|| local(text.parse().ok()?, now, bound))
        .or_else(|| time_with_offset(text, now))
        .or_else(|| named(text, now, bound))
        .or_else(|| Some(now.checked_sub(text.parse::<Span>().ok()?.abs()).ok()?.timestamp()));
    let Some(moment) = moment else {
        return Err(format!(
            "{text:?} is not a time; write 2026-11-22T08:31:00Z, 2026-11-22 09:31 or 09:31 (local time), 09:31+01, 2h \
             (ago), today, yesterday or yesterday 18:00"
        ));
    };
    Ok(Timestamp(u64::try_from(moment.as_microsecond()).unwrap_or(0)))
}

fn local(time: DateTime, now: &ZonedDateTime, bound: Bound) -> Option<Moment> {
    let choice = match bound {
        Bound::Since => Disambiguation::Compatible,
        Bound::Until => Disambiguation::Later,
    };
    Some(now.time_zone().clone().into_ambiguous_zoned_datetime(time).disambiguate(choice).ok()?.timestamp())
}

/// `18:00:00+01`, `17:00Z`: the last moment not later than `now` at which clocks with this distance from UTC showed this time.
fn time_with_offset(text: &str, now: &ZonedDateTime) -> Option<Moment> {
    // The date there can be another than here, by up to two days.
    let days = (-3..=2).filter_map(|days| now.date().checked_add(Span::new().days(days)).ok());
    let moments = days.filter_map(|day| format!("{day}T{text}").parse::<Moment>().ok());
    moments.filter(|moment| *moment <= now.timestamp()).max()
}

/// `now`, `today`, `yesterday`, `yesterday 18:00`, `18:00`.
fn named(text: &str, now: &ZonedDateTime, bound: Bound) -> Option<Moment> {
    let (word, time) = text.split_once(' ').unwrap_or((text, ""));
    let day = match word {
        "now" if time.is_empty() => return Some(now.timestamp()),
        "today" => now.date(),
        "yesterday" => now.date().yesterday().ok()?,
        _ => {
            let time: Time = text.parse().ok()?;
            let today = local(now.date().to_datetime(time), now, bound)?;
            if today <= now.timestamp() {
                return Some(today);
            }
            return local(now.date().yesterday().ok()?.to_datetime(time), now, bound);
        }
    };
    match time.trim() {
        // Where midnight does not exist, the day begins later.
        "" => day.to_zoned_datetime(now.time_zone().clone()).ok().map(|start| start.timestamp()),
        time => local(day.to_datetime(time.parse().ok()?), now, bound),
    }
}

/// A moment in RFC 3339, for people in `zone`, with seconds or as precise as it is; anything else as it is.
pub fn show(text: &str, zone: &TimeZone, precise: bool) -> String {
    let Ok(moment) = text.parse::<Moment>() else { return text.to_owned() };
    let zoned = moment.to_zoned_datetime(zone.clone());
    let seconds = zoned.offset().seconds();
    let (sign, distance) = (if seconds < 0 { '-' } else { '+' }, seconds.unsigned_abs());
    let mut offset = format!("{sign}{:02}", distance / 3600);
    // Local mean time of long ago has seconds, too.
    for part in [distance / 60 % 60, distance % 60] {
        if part > 0 || (distance % 60 > 0 && offset.len() == 3) {
            offset.push_str(&format!(":{part:02}"));
        }
    }
    let local = zoned.datetime();
    let date = local.date();
    match precise && local.subsec_nanosecond() > 0 {
        true => format!("{date} {:.6}{offset}", local.time()),
        false => format!("{date} {}{offset}", local.time().strftime("%H:%M:%S")),
    }
}

/// A moment for people who read it at `now`, in that time zone: as [`show`], and without the date if it is today's.
pub fn show_briefly(at: Timestamp, now: &ZonedDateTime) -> String {
    let moment = i64::try_from(at.0).ok().and_then(|micros| Moment::from_microsecond(micros).ok());
    let Some(moment) = moment else { return format!("{} us after 1970", at.0) };
    let shown = show(&moment.to_string(), now.time_zone(), false);
    let is_today = moment.to_zoned_datetime(now.time_zone().clone()).date() == now.date();
    // On a day of 25 hours the first of them, with its distance from UTC, comes again before the day is over.
    let is_last = |time: &str| time_with_offset(time, now).is_some_and(|last| last.as_second() == moment.as_second());
    match shown.split_once(' ') {
        Some((_, time)) if is_today && is_last(time) => time.to_owned(),
        Some(_) | None => shown,
    }
}

/// A moment in RFC 3339 without the parts of seconds.
pub fn to_the_second(text: &str) -> String {
    match text.parse::<Moment>() {
        Ok(moment) => moment.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        Err(_) => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meant(text: &str, now: &str, bound: Bound) -> String {
        let now: ZonedDateTime = now.parse().unwrap();
        let micros = parse(text, &now, bound).unwrap().0;
        Moment::from_microsecond(i64::try_from(micros).unwrap()).unwrap().to_string()
    }

    fn at(text: &str) -> String {
        meant(text, "2026-11-22T08:31:00+01:00[Europe/Berlin]", Bound::Since)
    }

    #[test]
    fn moments_days_and_lengths_are_understood() {
        for (text, moment) in [
            ("2026-11-22T08:31:00Z", "2026-11-22T08:31:00Z"),
            ("2026-11-22T08:31:00.123456+02:00", "2026-11-22T06:31:00.123456Z"),
            ("2026-11-22 09:31:00+01", "2026-11-22T08:31:00Z"),
            ("2026-11-22 08:31", "2026-11-22T07:31:00Z"),
            ("2026-11-22", "2026-11-21T23:00:00Z"),
            ("2h", "2026-11-22T05:31:00Z"),
            ("90 min", "2026-11-22T06:01:00Z"),
            ("1d", "2026-11-21T07:31:00Z"),
            ("now", "2026-11-22T07:31:00Z"),
            ("today", "2026-11-21T23:00:00Z"),
            ("yesterday", "2026-11-20T23:00:00Z"),
            ("yesterday 18:00", "2026-11-21T17:00:00Z"),
            ("today 07:00", "2026-11-22T06:00:00Z"),
            // The last one: of today, or of yesterday if that is still to come.
            ("08:06", "2026-11-22T07:06:00Z"),
            ("17:06", "2026-11-21T16:06:00Z"),
            ("17:06:30", "2026-11-21T16:06:30Z"),
            ("1960-01-01T00:00:00Z", "1970-01-01T00:00:00Z"),
            // With a distance from UTC, the last one as well.
            ("08:06:07+01", "2026-11-22T07:06:07Z"),
            ("09:06:07+01", "2026-11-21T08:06:07Z"),
            ("13:01+05:30", "2026-11-22T07:31:00Z"),
            ("21:30:00+14", "2026-11-22T07:30:00Z"),
            ("19:30:00-12", "2026-11-22T07:30:00Z"),
            ("07:31:00Z", "2026-11-22T07:31:00Z"),
        ] {
            assert_eq!(at(text), moment, "{text}");
        }
    }

    #[test]
    fn a_time_of_day_that_was_twice_or_never() {
        let (back, forth) = ("2026-10-25T12:00:00+01:00[Europe/Berlin]", "2026-03-29T12:00:00+02:00[Europe/Berlin]");
        assert_eq!(meant("02:30", back, Bound::Since), "2026-10-25T00:30:00Z");
        assert_eq!(meant("02:30", back, Bound::Until), "2026-10-25T01:30:00Z");
        assert_eq!(meant("2026-10-25 02:30:00+01", back, Bound::Since), "2026-10-25T01:30:00Z");
        assert_eq!(meant("02:30", forth, Bound::Since), "2026-03-29T01:30:00Z");
        assert_eq!(meant("yesterday", forth, Bound::Since), "2026-03-27T23:00:00Z");
        // An hour is an hour, a day is until the same time of day.
        assert_eq!(meant("24h", forth, Bound::Since), "2026-03-28T10:00:00Z");
        assert_eq!(meant("1d", forth, Bound::Since), "2026-03-28T11:00:00Z");
    }

    #[test]
    fn what_is_shown_means_the_same_moment_when_it_is_pasted() {
        for zone in
            ["America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Kolkata", "UTC", "Africa/Monrovia"]
        {
            let zone = TimeZone::get(zone).unwrap();
            // Steps of an hour and a bit through a year, with both changes of the clock.
            let start: Moment = "2026-01-01T00:00:07.123456Z".parse().unwrap();
            for step in 0..8_700 {
                let moment = start + jiff::SignedDuration::from_secs(3623 * step);
                let shown = show(&moment.to_string(), &zone, false);
                let now = moment.to_zoned_datetime(zone.clone());
                let micros = parse(&shown, &now, Bound::Since).unwrap().0;
                assert_eq!(micros, (moment.as_second() * 1_000_000).unsigned_abs(), "{shown}");
                let at = Timestamp(moment.as_microsecond().unsigned_abs());
                for later in [0, 7 * 3600, 24 * 3600 + 1800, 49 * 3600] {
                    let reader = (moment + jiff::SignedDuration::from_secs(later)).to_zoned_datetime(zone.clone());
                    let brief = show_briefly(at, &reader);
                    let is_apart = reader.date() != now.date() || later > 24 * 3600;
                    assert_eq!(brief.contains(' '), is_apart, "{brief}");
                    let micros = parse(&brief, &reader, Bound::Since).unwrap().0;
                    assert_eq!(micros, (moment.as_second() * 1_000_000).unsigned_abs(), "{brief}");
                }
                let precise = show(&moment.to_string(), &zone, true);
                let micros = parse(&precise, &now, Bound::Since).unwrap().0;
                assert_eq!(micros, moment.as_microsecond().unsigned_abs(), "{precise}");
            }
        }
    }

    #[test]
    fn times_are_shown_with_their_distance_from_utc() {
        let show = |zone: &str| show("2026-07-01T08:31:00.5Z", &TimeZone::get(zone).unwrap(), false);
        assert_eq!(show("Europe/Berlin"), "2026-07-01 10:31:00+02");
        assert_eq!(show("America/New_York"), "2026-07-01 04:31:00-04");
        assert_eq!(show("Asia/Kolkata"), "2026-07-01 14:01:00+05:30");
        assert_eq!(super::show("never", &TimeZone::UTC, false), "never");
        assert_eq!(to_the_second("2026-07-01T08:31:00.5Z"), "2026-07-01T08:31:00Z");
    }

    #[test]
    fn anything_else_says_what_is_possible() {
        let now: ZonedDateTime = "2026-11-22T08:31:00+01:00[Europe/Berlin]".parse().unwrap();
        for bad in ["", "soon", "25:99", "2026-13-01", "-", "9999999999999999h", "yesterday soon"] {
            assert!(parse(bad, &now, Bound::Since).unwrap_err().contains("yesterday"), "{bad}");
        }
    }
}
