//! Rows, filters, pages; offline reading; verify.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use tempfile::tempdir;
use zeek_cluster_agent::api::audit::{Filter, Kind, Page, RequestState, Row};
use zeek_cluster_agent::api::event::{Dialect, Request};
use zeek_cluster_agent::api::ids::{Incarnation, Seq};
use zeek_cluster_agent::api::launch::ExitCause;
use zeek_cluster_agent::api::time::{BootTime, Timestamp};
use zeek_cluster_agent::journal::entry::{
    Answer, Entry, Goal, Numbered, Outcome, Packed, Record, Sealed, Stage, UnfinishedRecord, Verdict, digest,
};
use zeek_cluster_agent::journal::inspect::{self, InspectError, Opening};
use zeek_cluster_agent::journal::lock::StateLock;
use zeek_cluster_agent::journal::memory::MemoryJournal;

use crate::support::*;

fn nodes(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// A day in the life: each kind of row at a known place, a second apart.
fn day() -> MemoryJournal<u64> {
    let restart = Request::Restart { nodes: nodes(&["w1"]) };
    let mut restarted = response("r1", true);
    restarted.results[0].node = Some("w1".to_owned());
    let conflicting = Request::GetNodes {};
    let mut rejection = response("bad", false);
    rejection.results[0].error = Some("no such instance".to_owned());
    let mut refusal = response("r1", false);
    refusal.results[0].error = Some("conflict: r1 is another request".to_owned());
    let exit = |asked| Entry::NodeExited {
        node: node_name("w1"),
        incarnation: Incarnation(2),
        cause: ExitCause::Signal(11),
        asked,
        process: Some(process(50)),
        ran_ms: Some(2500),
        when: BootTime(1),
        verdict: if asked { Verdict::Rest } else { Verdict::RestartAt(BootTime(5)) },
    };
    let entries = vec![
        Entry::AgentStarted { boot_id: "b".to_owned(), version: "0.1.0".to_owned(), pid: 1 },
        received("r1", restart, 4242),
        Entry::RequestBegun { of: Seq(2), attempt: 1 },
        completed(Seq(2), restarted),
        Entry::DuplicateSeen { of: Seq(2), source: source(77) },
        Entry::RequestConflicted {
            reqid: reqid("r1"),
            first: Seq(2),
            digest: digest(&conflicting),
            request: Packed(conflicting),
            dialect: Dialect::Management,
            source: source(5),
            response: Packed(refusal),
        },
        received("bad", Request::SetConfiguration { config: configuration("c", 1, 0) }, 6),
        Entry::RequestCompleted {
            of: Seq(7),
            outcome: Outcome::Rejected,
            attempts: 1,
            response: Answer::Kept(rejection),
        },
        Entry::InputRejected {
            source: source(8),
            event: "nonsense".to_owned(),
            error: "unknown event".to_owned(),
            suppressed: 2,
        },
        exit(false),
        exit(true),
        received("", Request::GetNodes {}, 9),
        received("later", Request::AgentStandby {}, 9),
        Entry::RequestWaits { of: Seq(13), goal: Goal::Down, targets: vec![] },
    ];
    let mut journal = MemoryJournal::new();
    let numbered = (1..).zip(entries).map(|(seq, entry)| Numbered {
        seq: Seq(seq),
        at: Timestamp(EPOCH + (seq - 1) * 1_000_000),
        entry,
    });
    let _ = journal.stage(Sealed::new(Seq(0), numbered.collect(), vec![]));
    let waiting = Stage::Waiting { goal: Goal::Down, targets: vec![] };
    journal.commit(vec![
        Record::Unfinished(
            Seq(12),
            Some(UnfinishedRecord { lost_attempts: 0, stage: Stage::Accepted, extras: Packed::default() }),
        ),
        Record::Unfinished(
            Seq(13),
            Some(UnfinishedRecord { lost_attempts: 1, stage: waiting, extras: Packed::default() }),
        ),
    ]);
    assert_eq!(journal.verify().problems, Vec::<String>::new());
    journal
}

fn seqs(journal: &MemoryJournal<u64>, filter: &Filter) -> Vec<u64> {
    all_rows(filter, |filter, cursor| journal.page(filter, cursor)).iter().map(seq_of).collect()
}

fn seq_of(row: &Row) -> u64 {
    match row {
        Row::Request(row) => row.seq.0,
        Row::Event(row) => row.seq.0,
        Row::Unreadable(row) => row.seq.0,
    }
}

#[test]
fn a_row_has_the_shape_of_the_contract() {
    let journal = day();
    let filter = Filter { to_seq: Some(Seq(2)), ..Filter::default() };
    let page = journal.page(&filter, None);
    let request = Request::Restart { nodes: nodes(&["w1"]) };
    let hex: String = digest(&request).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        serde_json::to_value(&page.rows).unwrap(),
        json!([{
            "seq": 2,
            "reqid": "r1",
            "event": "restart_request",
            "dialect": "Management",
            "source": { "transport": "control", "peer": "uid=0 pid=4242" },
            "received_at": "2026-11-22T08:31:01.123456Z",
            "state": "completed",
            "attempts": 1,
            "duplicates": 1,
            "duplicates_first": [
                { "at": "2026-11-22T08:31:04.123456Z", "source": { "transport": "control", "peer": "uid=0 pid=77" } },
            ],
            "digest": hex,
            "request": { "nodes": ["w1"] },
            "completed_at": "2026-11-22T08:31:03.123456Z",
            "duration_ms": 2000.0,
            "success": true,
            "response": {
                "event": "deploy_response",
                "reqid": "r1",
                "results": [{
                    "reqid": "r1", "success": true, "instance": "agent-1", "data": null, "error": null, "node": "w1",
                }],
            },
        }])
    );
}

#[test]
fn each_state_is_told() {
    let journal = day();
    let rows = all_rows(&Filter::default(), |filter, cursor| journal.page(filter, cursor));
    let told: Vec<_> = rows
        .iter()
        .map(|row| match row {
            Row::Request(row) => (row.seq.0, row.state, row.attempts, row.error.as_deref()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        told,
        [
            (2, RequestState::Completed, 1, None),
            (6, RequestState::Conflict, 0, Some("conflict: r1 is another request")),
            (7, RequestState::Rejected, 1, Some("no such instance")),
            (9, RequestState::Rejected, 0, Some("unknown event (and 2 more from this peer that were not recorded)")),
            (12, RequestState::Accepted, 0, None),
            (13, RequestState::Handling, 2, None),
        ]
    );
}

#[test]
fn each_filter_wants_what_it_says() {
    let journal = day();
    let filter = Filter::default;
    let at = |second: u64| Some(Timestamp(EPOCH + second * 1_000_000));
    let text = |text: &str| Some(text.to_owned());
    for (wanted, filter) in [
        (vec![2, 6, 7, 9, 12, 13], filter()),
        (vec![13, 12, 9, 7, 6, 2], Filter { reverse: true, ..filter() }),
        (vec![10, 11], Filter { kind: Kind::Node, ..filter() }),
        (vec![1, 2, 6, 7, 9, 10, 11, 12, 13], Filter { kind: Kind::All, ..filter() }),
        (vec![2, 6], Filter { reqid: text("r1"), ..filter() }),
        (vec![6, 2], Filter { reqid: text("r1"), reverse: true, ..filter() }),
        (vec![12], Filter { reqid: text(""), ..filter() }),
        (vec![], Filter { reqid: text("unheard of"), ..filter() }),
        (vec![2], Filter { event: text("restart"), ..filter() }),
        (vec![2], Filter { event: text("restart_request"), ..filter() }),
        (vec![9], Filter { event: text("nonsense"), ..filter() }),
        (vec![10, 11], Filter { event: text("node_exited"), kind: Kind::All, ..filter() }),
        (vec![7, 9], Filter { state: Some(RequestState::Rejected), kind: Kind::All, ..filter() }),
        (vec![2], Filter { source: text("pid=4242"), kind: Kind::All, ..filter() }),
        (vec![2, 6, 7, 9, 12, 13], Filter { source: text("control uid=0"), ..filter() }),
        (vec![6, 7, 9], Filter { failed: true, ..filter() }),
        (vec![6, 7, 9, 10], Filter { failed: true, kind: Kind::All, ..filter() }),
        (vec![2, 10, 11], Filter { node: text("w1"), kind: Kind::All, ..filter() }),
        (vec![7], Filter { node: text("w0000"), ..filter() }),
        (vec![7, 9], Filter { since: at(6), until: at(9), ..filter() }),
        (vec![6, 7, 9], Filter { from_seq: Some(Seq(3)), to_seq: Some(Seq(11)), ..filter() }),
        (vec![], Filter { from_seq: Some(Seq(5)), to_seq: Some(Seq(4)), ..filter() }),
    ] {
        assert_eq!(seqs(&journal, &filter), wanted, "{filter:?}");
    }
}

#[test]
fn pages_are_bounded_and_miss_nothing() {
    let mut journal = MemoryJournal::<u64>::new();
    let mut entries = Vec::new();
    for number in 1..=6000u64 {
        let entry = match number % 10 {
            0 => received(&format!("r{number}"), Request::GetNodes {}, number),
            1 if number < 400 => received(
                &format!("r{number}"),
                Request::Deploy { config: configuration("c", 1, 60_000), force: false, how: Box::default() },
                1,
            ),
            _ => Entry::AgentSettled,
        };
        entries.push(Numbered { seq: Seq(number), at: Timestamp(EPOCH), entry });
    }
    let expected: Vec<u64> =
        entries.iter().filter(|one| matches!(one.entry, Entry::RequestReceived { .. })).map(|one| one.seq.0).collect();
    let _ = journal.stage(Sealed::new(Seq(0), entries, vec![]));
    journal.commit(vec![]);
    for reverse in [false, true] {
        let filter = Filter { reverse, ..Filter::default() };
        let (mut found, mut cursor, mut pages) = (Vec::new(), None, 0);
        loop {
            let Page { rows, next, .. } = journal.page(&filter, cursor);
            assert!(rows.len() <= 256);
            assert!(serde_json::to_vec(&rows).unwrap().len() < 3 << 20);
            found.extend(rows.iter().map(seq_of));
            pages += 1;
            match next {
                Some(next) => cursor = Some(next),
                None => break,
            }
        }
        let mut expected = expected.clone();
        if reverse {
            expected.reverse();
        }
        assert_eq!(found, expected);
        assert!(pages > 3, "{pages} pages");
    }
    // As lines they are the same, in pages no larger.
    let rows = all_rows(&Filter::default(), |filter, cursor| journal.page(filter, cursor));
    let mut expected = Vec::new();
    rows.iter().for_each(|row| row.write_line(&mut expected).unwrap());
    let filter = Filter { as_lines: true, ..Filter::default() };
    let (mut lines, mut cursor) = (String::new(), None);
    loop {
        let page = journal.page(&filter, cursor);
        assert!(page.rows.is_empty() && page.lines.lines().count() <= 256 && page.lines.len() < 3 << 20);
        lines += &page.lines;
        match page.next {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    assert!(lines.as_bytes() == expected);
    // No match still ends a page, so that one call never walks all of a long journal.
    let page = journal.page(&Filter { event: Some("standby".to_owned()), ..Filter::default() }, None);
    assert!(page.rows.is_empty() && page.next.is_some());
}

#[test]
fn a_row_whose_text_is_too_long_for_a_frame_comes_as_fields() {
    let mut journal = MemoryJournal::<u64>::new();
    // Each byte is six in JSON.
    let long = "\u{1}".repeat(1 << 20);
    let numbered = ["w1", &long, "w2"].into_iter().zip(1..).map(|(node, seq)| Numbered {
        seq: Seq(seq),
        at: Timestamp(EPOCH),
        entry: received(&format!("r{seq}"), Request::Restart { nodes: nodes(&[node]) }, 1),
    });
    let _ = journal.stage(Sealed::new(Seq(0), numbered.collect(), vec![]));
    journal.commit(vec![]);
    let filter = Filter { as_lines: true, ..Filter::default() };
    let page = journal.page(&filter, None);
    assert!(page.lines.starts_with(r#"{"seq":1,"#) && page.lines.lines().count() == 1);
    assert_eq!(page.rows.iter().map(seq_of).collect::<Vec<_>>(), [2]);
    let page = journal.page(&filter, page.next);
    assert!(page.lines.starts_with(r#"{"seq":3,"#) && page.rows.is_empty() && page.next.is_none());
}

#[test]
fn of_many_duplicates_the_first_and_last_are_kept_across_commits_and_restarts() {
    let dir = tempdir().unwrap();
    let mut journal = open(dir.path()).journal;
    let mut seq = Seq(1);
    let number = |seq, entry| vec![Numbered { seq, at: Timestamp(EPOCH + seq.0), entry }];
    let _ = journal.stage(Sealed::new(Seq(0), number(seq, received("r", Request::GetNodes {}, 0)), vec![]));
    let _ = journal.stage(Sealed::new(Seq(0), number(Seq(2), completed(Seq(1), response("r", true))), vec![]));
    seq = seq.next();
    for round in 0..10 {
        for _ in 0..5 {
            seq = seq.next();
            let entry = Entry::DuplicateSeen { of: Seq(1), source: source(seq.0) };
            let _ = journal.stage(Sealed::new(Seq(0), number(seq, entry), vec![]));
        }
        journal.commit(vec![]).unwrap();
        if round == 5 {
            drop(journal);
            journal = open(dir.path()).journal;
        }
    }
    let page = journal.reader().page(&Filter { reqid: Some("r".to_owned()), ..Filter::default() }, None).unwrap();
    let [Row::Request(row)] = page.rows.as_slice() else { panic!("{page:?}") };
    assert_eq!(row.duplicates, 50);
    let peers = |seen: &[zeek_cluster_agent::api::audit::Sighting]| {
        seen.iter().map(|one| one.source.peer.clone()).collect::<Vec<_>>()
    };
    let expected = |range: std::ops::RangeInclusive<u64>| range.map(|pid| source(pid).peer).collect::<Vec<_>>();
    assert_eq!(peers(&row.duplicates_first), expected(3..=18));
    assert_eq!(peers(&row.duplicates_last), expected(37..=52));
    assert_eq!(journal.reader().verify(None).unwrap().problems, Vec::<String>::new());
}

#[test]
fn responses_that_may_not_have_left_are_taken_in_again() {
    let dir = tempdir().unwrap();
    let mut journal = open(dir.path()).journal;
    let mut entries = Vec::new();
    for number in 0..300u64 {
        let name = format!("r{number}");
        let seq = Seq(number * 2 + 1);
        let at = Timestamp(EPOCH);
        entries.push(Numbered { seq, at, entry: received(&name, Request::GetNodes {}, 0) });
        entries.push(Numbered { seq: seq.next(), at, entry: completed(seq, response(&name, true)) });
    }
    let _ = journal.stage(Sealed::new(Seq(0), entries, vec![]));
    journal.commit(vec![]).unwrap();
    drop(journal);
    let mut opened = open(dir.path());
    let unsent = &opened.recovered.unsent;
    assert_eq!(unsent.len(), 256, "the newest");
    assert_eq!(unsent.first().map(|(seq, ..)| *seq), Some(Seq(90)));
    assert_eq!(unsent.last(), Some(&(Seq(600), Dialect::Management, response("r299", true))));
    opened.journal.mark_sent(Seq(597));
    drop(opened);
    let opened = open(dir.path());
    assert_eq!(opened.recovered.unsent.iter().map(|(seq, ..)| seq.0).collect::<Vec<_>>(), [598, 600]);
}

fn written(dir: &Path) -> Seq {
    let mut journal = open(dir).journal;
    let mut writer = Writer::new(3);
    for _ in 0..60 {
        writer.commit(&mut journal);
    }
    journal.durable()
}

fn contents(dir: &Path) -> Vec<(String, Vec<u8>)> {
    names(dir)
        .into_iter()
        .map(|name| (fs::read(dir.join(&name)).unwrap_or_default(), name))
        .map(|(b, n)| (n, b))
        .collect()
}

#[test]
fn an_offline_journal_is_read_under_the_lock_and_left_as_it_is() {
    let dir = tempdir().unwrap();
    let last = written(dir.path());
    fs::write(dir.path().join("journal/snap.0000.generating"), b"half").unwrap();
    let before = contents(&dir.path().join("journal"));
    let inspection = inspect::state_dir(dir.path(), &options()).unwrap();
    assert_eq!(inspection.last().unwrap(), last);
    assert_eq!(inspection.opening(), Opening::Whole);
    let everything = Filter { kind: Kind::All, ..Filter::default() };
    assert!(!all_rows(&everything, |filter, cursor| inspection.page(filter, cursor).unwrap()).is_empty());
    let report = inspection.verify(None).unwrap();
    assert_eq!((report.problems, report.first, report.last), (Vec::new(), 1, last.0));
    // No agent may start on it meanwhile.
    assert!(StateLock::acquire(dir.path(), Duration::ZERO).is_err());
    drop(inspection);
    assert_eq!(contents(&dir.path().join("journal")), before);

    let agent = StateLock::acquire(dir.path(), Duration::ZERO).unwrap();
    let error = inspect::state_dir(dir.path(), &options()).unwrap_err();
    assert!(matches!(error, InspectError::InUse(_)), "{error}");
    drop(agent);
    let nowhere = tempdir().unwrap();
    assert!(matches!(inspect::state_dir(nowhere.path(), &options()), Err(InspectError::NoJournal(_))));
}

#[test]
fn a_copy_is_read_whether_it_is_of_the_state_directory_or_of_the_journal() {
    let dir = tempdir().unwrap();
    let last = written(dir.path());
    for copied in [dir.path().to_owned(), dir.path().join("journal")] {
        let inspection = inspect::copied_dir(&copied, &options()).unwrap();
        assert_eq!(inspection.last().unwrap(), last);
        assert_eq!(inspection.verify(None).unwrap().problems, Vec::<String>::new());
    }
    drop(open(dir.path()));
    let journal = dir.path().join("journal");
    let snapshot = names(&journal).into_iter().find(|name| name.starts_with("snap.")).unwrap();
    fs::write(journal.join(snapshot), b"damaged").unwrap();
    let inspection = inspect::copied_dir(dir.path(), &options()).unwrap();
    assert_eq!(inspection.opening(), Opening::WithoutSnapshots);
    assert_eq!(inspection.last().unwrap(), last);
}

/// Changes rows under sled's own checksums.
fn tamper(state_dir: &Path, change: impl FnOnce(&sled::Db)) {
    let db = open_sled(state_dir);
    change(&db);
    db.flush().unwrap();
}

fn key(prefix: u8, seq: u64) -> Vec<u8> {
    let mut key = vec![prefix];
    key.extend_from_slice(&seq.to_be_bytes());
    key
}

/// A journal of the day on disk.
fn day_on_disk(dir: &Path) {
    let memory = day();
    let mut journal = open(dir).journal;
    let _ = journal.stage(Sealed::new(Seq(0), memory.entries().to_vec(), vec![]));
    let recovered = memory.recover();
    let records = recovered.unfinished.into_iter().map(|(seq, (_, record))| Record::Unfinished(seq, Some(record)));
    journal.commit(records.collect()).unwrap();
    assert_eq!(journal.reader().verify(None).unwrap().problems, Vec::<String>::new());
}

#[test]
fn verify_names_each_thing_that_is_wrong() {
    type Change = Box<dyn FnOnce(&sled::Db)>;
    let remove = |key: Vec<u8>| -> Change { Box::new(move |db: &sled::Db| drop(db.remove(key).unwrap())) };
    let cases: Vec<(Change, &str)> = vec![
        (remove(key(b'L', 9)), "entry 9: this entry is missing"),
        (remove(key(b'L', 14)), "entry 14: this entry is missing"),
        (remove(b"Rr1".to_vec()), "reqid \"r1\" is not indexed"),
        (remove(key(b'P', 2)), "entry 2 of 2026-11-22T08:31:01.123456Z: it has no outcome"),
        (remove(key(b'U', 12)), "entry 12 of 2026-11-22T08:31:11.123456Z: it has no outcome"),
        (remove(key(b'X', 2)), "it is a duplicate of request 2, which is not known to have any"),
        (remove(b"F".to_vec()), "the format record is missing"),
        (
            Box::new(|db| {
                let mut value = db.get(key(b'L', 10)).unwrap().unwrap().to_vec();
                value[40] ^= 1;
                db.insert(key(b'L', 10), value).unwrap();
            }),
            "entry 10: entry 10 is damaged",
        ),
        (
            Box::new(|db| {
                let value = db.get(key(b'L', 2)).unwrap().unwrap();
                db.insert(key(b'L', 15), value).unwrap();
            }),
            "entry 15",
        ),
        (
            Box::new(|db| {
                let mut chunk = key(b'C', 2);
                chunk.extend_from_slice(&[0; 4]);
                db.insert(chunk, b"left over").unwrap();
            }),
            "piece 0 of entry 2 belongs to nothing",
        ),
    ];
    for (change, expected) in cases {
        let dir = tempdir().unwrap();
        day_on_disk(dir.path());
        tamper(dir.path(), change);
        let problems = inspect::state_dir(dir.path(), &options()).unwrap().verify(None).unwrap().problems;
        assert!(problems.iter().any(|problem| problem.contains(expected)), "{expected}: {problems:?}");
    }
}

#[test]
fn an_entry_that_does_not_read_is_a_row_and_the_others_are_still_there() {
    let dir = tempdir().unwrap();
    day_on_disk(dir.path());
    tamper(dir.path(), |db| drop(db.insert(key(b'L', 7), b"nonsense").unwrap()));
    let inspection = inspect::state_dir(dir.path(), &options()).unwrap();
    let everything = Filter { kind: Kind::All, ..Filter::default() };
    let rows = all_rows(&everything, |filter, cursor| inspection.page(filter, cursor).unwrap());
    assert_eq!(rows.iter().map(seq_of).collect::<Vec<_>>(), [1, 2, 6, 7, 9, 10, 11, 12, 13]);
    let [Row::Unreadable(row)] = &rows[3..4] else { panic!("{rows:?}") };
    assert!(row.unreadable.contains("entry 7"), "{}", row.unreadable);
}
