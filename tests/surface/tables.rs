//! Tables as terminals of some widths show them, in some time zones.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;
use zeek_cluster_agent::api::audit::{Filter, Row};
use zeek_cluster_agent::api::time::Timestamp;

use super::{PROGRAM, Served};

/// The part of a filter that says when.
pub fn is_in(row: &Row, filter: &Filter) -> bool {
    let at = match row {
        Row::Request(row) => &row.received_at,
        Row::Event(row) => &row.at,
        Row::Unreadable(_) => return filter.since.is_none(),
    };
    let at: jiff::Timestamp = at.parse().unwrap();
    let at = Timestamp(u64::try_from(at.as_microsecond()).unwrap());
    filter.since.is_none_or(|since| at >= since) && filter.until.is_none_or(|until| at < until)
}

/// A journal with a bit of everything.
fn mixed() -> Vec<Row> {
    let request = |seq: u64, at: &str, event: &str, reqid: &str, state: &str| {
        let done = !["accepted", "handling"].contains(&state);
        json!({"seq": seq, "reqid": reqid, "event": event, "dialect": "Management",
            "source": {"transport": "control", "peer": "uid=0 pid=4242"}, "received_at": at, "state": state, "attempts": 1,
            "duplicates": 0, "digest": "00", "request": {}, "completed_at": done.then_some(at),
            "duration_ms": done.then_some(812.4), "success": done.then_some(true), "response": null})
    };
    let mut failed =
        request(12, "2026-10-31T22:40:07.5Z", "deploy_request", "3f2a9c1e-1d5b-4b39-8f6c-0a1b2c3d4e5f", "completed");
    failed["success"] = false.into();
    failed["attempts"] = 2.into();
    failed["response"] = json!({"event": "deploy_response", "reqid": "r", "results": [{"reqid": "r", "success": false,
        "instance": "a1", "data": null, "error": "cannot find node program zeek in PATH", "node": "worker-1"}]});
    let mut conflict = request(15, "2026-11-01T05:29:59Z", "agent_standby_request", "first", "conflict");
    conflict["success"] = false.into();
    conflict["duplicates"] = 3.into();
    conflict["error"] = "conflict: the reqid is taken by the deploy of 2026-10-31".into();
    let event = |seq: u64, at: &str, event: &str, summary: &str| json!({"seq": seq, "at": at, "event": event, "node": "worker-1", "incarnation": 3, "detail": {}, "summary": summary});
    let rows = [
        request(9, "2026-10-31T22:31:00Z", "set_configuration_request", "first", "completed"),
        failed,
        event(13, "2026-11-01T05:10:00Z", "node_exited", "ended after 6.6 s: signal 11; to be restarted"),
        conflict,
        json!({"seq": 17, "unreadable": "its checksum is wrong"}),
        request(1018, "2026-11-01T06:30:00Z", "get_nodes_request", "0c9e2b1a-1d5b-4b39-8f6c-0a1b2c3d4e5f", "handling"),
    ];
    rows.into_iter().map(|row| serde_json::from_value(row).unwrap()).collect()
}

fn shown(served: &Served, zone: &str, columns: usize, args: &str) -> String {
    let mut shell = Command::new("script");
    let command = format!("stty cols {columns}; exec {PROGRAM} {args} --state-dir {}", served.scratch.path().display());
    shell.args(["-qec", &command, "/dev/null"]).env("TZ", zone).env("NO_COLOR", "1").env_remove("ZCA_CONFIG");
    let output = shell.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().replace("\r\n", "\n")
}

/// Holds text against a file of `tests/data/tables`.
fn same_as(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tables").join(name);
    if std::env::var_os("ZCA_TEST_WRITES_SNAPSHOTS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, expected, "{} is another; this is what was shown:\n{text}", path.display());
}

#[test]
fn a_mixed_journal_fits_terminals_of_80_and_120_columns() {
    let served = Served::start();
    served.fake.rows.set(mixed()).unwrap();
    for columns in [80, 120] {
        let table = shown(&served, "Europe/Berlin", columns, "journal dump --format table --kind all");
        assert!(table.lines().all(|line| line.chars().count() <= columns), "{table}");
        same_as(&format!("journal-{columns}.txt"), &table);
    }
}

#[test]
fn a_time_that_was_shown_finds_its_row_across_a_change_of_the_clock() {
    let served = Served::start();
    // Both hours that New York calls 1:30, and moments around Berlin's and Lord Howe's changes (the latter by half an hour).
    let moments = [
        "2026-03-29T00:59:59Z",
        "2026-03-29T01:00:00Z",
        "2026-04-04T14:59:00Z",
        "2026-04-04T15:29:00Z",
        "2026-10-25T00:30:00Z",
        "2026-10-25T01:30:00Z",
        "2026-11-01T05:30:00Z",
        "2026-11-01T06:30:00Z",
    ];
    let rows = moments.iter().zip(1_u64..).map(|(at, seq)| {
        let row = json!({"seq": seq, "at": at, "event": "agent_started", "detail": {}, "summary": "x"});
        serde_json::from_value(row).unwrap()
    });
    served.fake.rows.set(rows.collect()).unwrap();
    for zone in ["America/New_York", "Europe/Berlin", "Australia/Lord_Howe"] {
        let table = shown(&served, zone, 100, "journal dump --kind all");
        let rows: Vec<&str> = table.lines().skip(1).collect();
        assert_eq!(rows.len(), moments.len(), "{table}");
        let mut times = std::collections::BTreeSet::new();
        for (at, row) in rows.iter().enumerate() {
            let words: Vec<&str> = row.split_whitespace().collect();
            let time = format!("{} {}", words[1], words[2]);
            let since = shown(&served, zone, 100, &format!("journal dump --kind all --since '{time}'"));
            let until = shown(&served, zone, 100, &format!("journal dump --kind all --until '{time}'"));
            // Columns are as wide as what is in them.
            let words = |table: &str| -> Vec<String> {
                table.lines().skip(1).map(|row| row.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
            };
            let all = words(&table);
            assert_eq!(words(&since), all[at..], "{zone} {time}");
            assert_eq!(words(&until), all[..at], "{zone} {time}");
            times.insert(time);
        }
        assert_eq!(times.len(), moments.len(), "{zone}: {times:?}");
    }
}

#[test]
fn what_is_said_on_a_terminal_is_folded_between_words() {
    let mut shell = Command::new("script");
    let command = format!("stty cols 60; exec {PROGRAM} status --control-socket /nonexistent/socket");
    shell.args(["-qec", &command, "/dev/null"]).env_remove("ZCA_CONFIG").env("NO_COLOR", "1");
    let output = shell.stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let shown = String::from_utf8(output.stdout).unwrap().replace("\r\n", "\n");
    assert!(shown.lines().count() > 2 && shown.lines().all(|line| line.chars().count() <= 60), "{shown}");
    let direct = Command::new(PROGRAM).args(["status", "--control-socket", "/nonexistent/socket"]).output().unwrap();
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(&shown), words(std::str::from_utf8(&direct.stderr).unwrap()));
}
