//! Somebody who can write to the database and knows its format: what he changes is found, and where (P12).

use std::path::Path;

use tempfile::{TempDir, tempdir};
use zeek_cluster_agent::api::event::Request;
use zeek_cluster_agent::api::head::Anchor;
use zeek_cluster_agent::api::ids::Seq;
use zeek_cluster_agent::api::time::Timestamp;
use zeek_cluster_agent::journal::entry::{Answer, Entry, Numbered, Outcome, Sealed};
use zeek_cluster_agent::journal::{Journal, inspect};

use crate::support::*;

const LAST: u64 = 40;

/// Requests that read, one of them with a large answer, and facts in between.
fn entry(seq: u64) -> Entry {
    match seq % 4 {
        0 => answered(&format!("w{seq}"), Request::AgentWelcome {}),
        1 => answered(&format!("r{seq}"), Request::GetNodes {}),
        2 => Entry::AgentStarted { boot_id: "boot".to_owned(), version: "0.1.0".to_owned(), pid: 1000 + seq as u32 },
        _ => Entry::AgentStopped { reason: format!("reason {seq}") },
    }
}

fn commit(journal: &mut Journal<u64>, entries: Vec<Entry>) {
    let last = journal.durable();
    let numbered = (last.0 + 1..).zip(entries).map(|(seq, entry)| Numbered {
        seq: Seq(seq),
        at: Timestamp(EPOCH + seq * 1_000_000),
        entry,
    });
    let _ = journal.stage(Sealed::new(last, numbered.collect(), vec![]));
    journal.commit(vec![]).unwrap();
}

fn history() -> TempDir {
    let dir = tempdir().unwrap();
    let mut journal = open(dir.path()).journal;
    commit(&mut journal, (1..=LAST).map(entry).collect());
    dir
}

fn problems(dir: &Path) -> Vec<String> {
    inspect::state_dir(dir, &options()).unwrap().verify(None).unwrap().problems
}

fn key(seq: u64) -> Vec<u8> {
    [b"L".as_slice(), &seq.to_be_bytes()].concat()
}

fn tamper(dir: &Path, change: impl FnOnce(&sled::Db)) {
    let db = open_sled(dir);
    change(&db);
    db.flush().unwrap();
}

/// The hash of an entry as it stands under `key`, by the words of FORMAT.md.
fn hash(key: &[u8], value: &[u8]) -> [u8; 32] {
    let with_payload = value[2] & 2 != 0;
    let behind = if with_payload { 55 + 36 } else { 55 };
    let length = u32::from_le_bytes(value[3..7].try_into().unwrap()) as usize;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&value[..2]).update(&(key.len() as u64).to_le_bytes()).update(key).update(&value[23..55]);
    hasher.update(&(length as u64).to_le_bytes()).update(&value[behind..behind + length]);
    if with_payload {
        hasher.update(&value[55..91]);
    }
    *hasher.finalize().as_bytes()
}

/// Gives a changed entry a checksum that fits.
fn forged(key: &[u8], mut value: Vec<u8>) -> Vec<u8> {
    let hash = hash(key, &value);
    value[7..23].copy_from_slice(&hash[..16]);
    value
}

/// Another time: eight bytes that every body has.
fn altered(db: &sled::Db, seq: u64) -> Vec<u8> {
    let mut value = db.get(key(seq)).unwrap().unwrap().to_vec();
    let behind = if value[2] & 2 != 0 { 91 } else { 55 };
    value[behind + 3] ^= 1;
    forged(&key(seq), value)
}

/// The hash that entry `seq` has in this directory.
fn stored_hash(dir: &Path, seq: u64) -> [u8; 32] {
    let key = key(seq);
    let value = open_sled(dir).get(&key).unwrap().unwrap();
    hash(&key, &value)
}

#[test]
fn an_untouched_journal_is_whole() {
    let dir = history();
    let report = inspect::state_dir(dir.path(), &options()).unwrap().verify(None).unwrap();
    assert_eq!((report.problems, report.entries), (Vec::<String>::new(), LAST));
    assert!(report.head.starts_with("40:") && report.head.len() == 3 + 64, "{}", report.head);
}

#[test]
fn an_altered_entry_with_a_checksum_that_fits_is_named() {
    for seq in [1, 2, 17, 20, 38, LAST - 1, LAST] {
        let dir = history();
        tamper(dir.path(), |db| {
            let forged = altered(db, seq);
            db.insert(key(seq), forged).unwrap();
        });
        let problems = problems(dir.path());
        assert!(problems.iter().all(|problem| problem.starts_with(&format!("entry {seq} of "))), "{seq}: {problems:?}");
        assert!(problems.iter().any(|problem| problem.contains("it was altered")), "{seq}: {problems:?}");
    }
}

#[test]
fn an_altered_entry_is_named_although_the_ones_after_it_were_made_to_fit() {
    let dir = history();
    // From entry 20 on everything is rewritten, up to 30: there the new chain meets the old one.
    tamper(dir.path(), |db| {
        let first = altered(db, 20);
        let mut previous = hash(&key(20), &first);
        db.insert(key(20), first).unwrap();
        for seq in 21..=30 {
            let mut value = db.get(key(seq)).unwrap().unwrap().to_vec();
            value[23..55].copy_from_slice(&previous);
            let value = forged(&key(seq), value);
            previous = hash(&key(seq), &value);
            db.insert(key(seq), value).unwrap();
        }
    });
    let problems = problems(dir.path());
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].starts_with("entry 30 of "), "where the rewriting ends: {problems:?}");
}

/// Whoever can rewrite everything is found out by a head that was noted elsewhere, and by nothing else.
#[test]
fn a_journal_that_was_rewritten_to_its_end_does_not_continue_the_head_that_was_noted() {
    let dir = history();
    let noted = |seq| Anchor { seq: Some(Seq(seq)), hash: stored_hash(dir.path(), seq) };
    let (before, at, after) = (noted(19), noted(20), noted(30));
    let verify = |anchor: &Anchor| inspect::state_dir(dir.path(), &options()).unwrap().verify(Some(anchor)).unwrap();
    for anchor in [&before, &at, &after, &Anchor { seq: None, ..after }] {
        let report = verify(anchor);
        assert_eq!(report.problems, Vec::<String>::new());
        assert_eq!(report.anchor.unwrap().parse(), Ok(Anchor { seq: report_seq(anchor, 30), ..*anchor }));
    }
    let beyond = Anchor { seq: Some(Seq(LAST + 1)), hash: [1; 32] };
    assert!(verify(&beyond).problems[0].contains("its newest entries are lost"));

    tamper(dir.path(), |db| {
        let first = altered(db, 20);
        let mut previous = hash(&key(20), &first);
        db.insert(key(20), first).unwrap();
        for seq in 21..=LAST {
            let mut value = db.get(key(seq)).unwrap().unwrap().to_vec();
            value[23..55].copy_from_slice(&previous);
            let value = forged(&key(seq), value);
            previous = hash(&key(seq), &value);
            db.insert(key(seq), value).unwrap();
        }
        // The record of history: the hash of the newest entry lies behind two numbers.
        let mut history = db.get(b"H").unwrap().unwrap().to_vec();
        history[23 + 16..23 + 48].copy_from_slice(&previous);
        let mut hasher = blake3::Hasher::new();
        hasher.update(&history[..2]).update(&1_u64.to_le_bytes()).update(b"H").update(&history[23..]);
        history[7..23].copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        db.insert(b"H", history).unwrap();
    });
    std::fs::remove_file(dir.path().join("journal.mark")).unwrap();
    assert_eq!(problems(dir.path()), Vec::<String>::new(), "the forger has done all he could");
    assert_eq!(verify(&before).problems, Vec::<String>::new(), "what came before it was not touched");
    for anchor in [&at, &after] {
        let report = verify(anchor);
        let seq = anchor.seq.unwrap();
        let told = format!("entry {seq}: it is not the entry whose hash was noted elsewhere: it was rewritten");
        assert_eq!((report.anchor, report.problems), (None, vec![told]));
    }
    assert!(verify(&Anchor { seq: None, ..after }).problems[0].contains("no entry has the hash"));
}

/// The number that a found head has, if the anchor did not say.
fn report_seq(anchor: &Anchor, otherwise: u64) -> Option<Seq> {
    anchor.seq.or(Some(Seq(otherwise)))
}

/// Retention removes from the oldest on and says what it removed last: more than that cannot be taken away.
#[test]
fn an_anchor_of_retention_that_does_not_fit_is_named() {
    let dir = history();
    let mut journal = open(dir.path()).journal;
    commit(
        &mut journal,
        vec![Entry::Pruned { upto: Seq(12), hash: [9; 32], trimmed: Seq(0), entries: 12, requests: 6 }],
    );
    let problems = journal.reader().verify(None).unwrap().problems;
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(
        problems[0].starts_with("entry 13 of ") && problems[0].contains("does not continue the newest entry"),
        "{problems:?}"
    );
}

/// The answer to a change is no read's: retention leaves it alone, so that it is gone is somebody's work.
#[test]
fn a_dropped_response_that_is_no_reads_is_named_even_where_retention_has_been() {
    let dir = history();
    let mut journal = open(dir.path()).journal;
    commit(
        &mut journal,
        vec![Entry::Pruned { upto: Seq(0), hash: [0; 32], trimmed: Seq(29), entries: 0, requests: 0 }],
    );
    assert_eq!(journal.reader().verify(None).unwrap().problems, Vec::<String>::new());
    drop(journal);
    tamper(dir.path(), |db| {
        let mut value = db.get(key(20)).unwrap().unwrap().to_vec();
        let length = u32::from_le_bytes(value[3..7].try_into().unwrap()) as usize;
        value[2] |= 4;
        value.truncate(91 + length);
        db.insert(key(20), value).unwrap();
    });
    let problems = problems(dir.path());
    assert!(problems[0].starts_with("entry 20 of ") && problems[0].contains("retention keeps such"), "{problems:?}");
}

#[test]
fn a_removed_entry_is_named() {
    for seq in [1, 2, 17, LAST] {
        let dir = history();
        tamper(dir.path(), |db| drop(db.remove(key(seq)).unwrap()));
        let problems = problems(dir.path());
        let missing = format!("entry {seq}: this entry is missing");
        assert!(problems.contains(&missing), "{problems:?}");
    }
}

#[test]
fn swapped_entries_are_named() {
    for fitting in [false, true] {
        let dir = history();
        tamper(dir.path(), |db| {
            let (first, second) = (db.get(key(18)).unwrap().unwrap(), db.get(key(27)).unwrap().unwrap());
            let put = |seq: u64, value: &[u8]| {
                let value = if fitting { forged(&key(seq), value.to_vec()) } else { value.to_vec() };
                db.insert(key(seq), value).unwrap();
            };
            put(18, &second);
            put(27, &first);
        });
        let problems = problems(dir.path());
        assert!(problems[0].starts_with("entry 18"), "{problems:?}");
        assert!(problems.iter().any(|problem| problem.starts_with("entry 27")), "{problems:?}");
    }
}

#[test]
fn a_cut_tail_is_named_even_if_the_record_of_history_was_made_to_fit() {
    let dir = history();
    let before = tempdir().unwrap();
    let mut journal = open(before.path()).journal;
    commit(&mut journal, (1..=LAST - 3).map(entry).collect());
    drop(journal);
    let record = open_sled(before.path()).get(b"H").unwrap().unwrap();
    tamper(dir.path(), |db| {
        for seq in LAST - 2..=LAST {
            db.remove(key(seq)).unwrap();
        }
    });
    let missing = format!("entry {}: the entries from here to {LAST} are missing", LAST - 2);
    assert!(problems(dir.path()).contains(&missing), "{:?}", problems(dir.path()));
    tamper(dir.path(), |db| drop(db.insert(b"H", record).unwrap()));
    let problems = problems(dir.path());
    let lost = format!("entry {}: the journal ends at {}, and had come to {LAST}", LAST - 2, LAST - 3);
    assert!(problems.iter().any(|problem| problem.starts_with(&lost)), "{problems:?}");
}

#[test]
fn a_response_that_retention_did_not_drop_is_missed() {
    let dir = history();
    tamper(dir.path(), |db| {
        let mut value = db.get(key(21)).unwrap().unwrap().to_vec();
        let length = u32::from_le_bytes(value[3..7].try_into().unwrap()) as usize;
        value[2] |= 4;
        value.truncate(91 + length);
        db.insert(key(21), value).unwrap();
    });
    let problems = problems(dir.path());
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(
        problems[0].starts_with("entry 21 of ") && problems[0].contains("its response was removed"),
        "{problems:?}"
    );
}

#[test]
fn what_retention_removes_is_accounted_for_and_no_more() {
    let dir = history();
    let hash = stored_hash(dir.path(), 12);
    let mut journal = open(dir.path()).journal;
    let head = journal.reader().verify(None).unwrap().head;
    commit(&mut journal, vec![Entry::Pruned { upto: Seq(12), hash, trimmed: Seq(29), entries: 12, requests: 6 }]);
    let reader = journal.reader();
    let report = reader.verify(None).unwrap();
    assert_eq!(report.problems, Vec::<String>::new());
    assert_eq!((report.first, report.last, report.entries), (13, LAST + 1, LAST + 1 - 12));
    assert_eq!(report.notes, ["retention has removed the entries up to 12"]);
    assert_ne!(report.head, head);
    // A head noted before is continued, the newest that is gone too; of an older one nothing can be said.
    let removed = Anchor { seq: Some(Seq(12)), hash };
    for anchor in [head.parse().unwrap(), removed, Anchor { seq: None, hash }] {
        let report = reader.verify(Some(&anchor)).unwrap();
        assert_eq!(report.problems, Vec::<String>::new());
        assert_eq!(report.anchor.unwrap().parse::<Anchor>().unwrap().hash, anchor.hash);
    }
    let report = reader.verify(Some(&Anchor { seq: Some(Seq(11)), hash: [7; 32] })).unwrap();
    assert!(report.anchor.is_none() && report.problems[0].contains("retention has removed it"), "{report:?}");
    // A reqid older than that is new again; a read's answer is a digest only; a welcome's and a younger one are there.
    assert_eq!(journal.lookup(&reqid("r9")).unwrap(), None);
    let outcome = |name: &str| journal.lookup(&reqid(name)).unwrap().unwrap().outcome.unwrap().answer;
    assert!(matches!(outcome("r29"), Answer::Dropped { .. }));
    assert!(matches!(outcome("w28"), Answer::Kept(_)));
    assert!(matches!(outcome("r33"), Answer::Kept(_)));
    drop(journal);
    drop(reader);
    let opened = open(dir.path());
    assert_eq!(opened.journal.reader().verify(None).unwrap().problems, Vec::<String>::new());
    drop(opened);
    // Somebody takes away one more.
    tamper(dir.path(), |db| drop(db.remove(key(13)).unwrap()));
    assert!(problems(dir.path()).contains(&"entry 13: this entry is missing".to_owned()), "{:?}", problems(dir.path()));
}

/// Retention after a request that is one entry of two: outcome and request go their ways by themselves.
#[test]
fn a_change_whose_request_is_pruned_before_its_outcome_leaves_a_whole_journal() {
    let dir = tempdir().unwrap();
    let mut journal = open(dir.path()).journal;
    let change = received("c", Request::Restart { nodes: Default::default() }, 1);
    let outcome = Answer::Kept(response("c", true));
    commit(
        &mut journal,
        vec![
            change,
            Entry::AgentSettled,
            Entry::RequestCompleted { of: Seq(1), outcome: Outcome::Completed, attempts: 1, response: outcome },
            Entry::DuplicateSeen { of: Seq(1), source: source(2) },
        ],
    );
    commit(&mut journal, vec![Entry::Pruned { upto: Seq(2), hash: [0; 32], trimmed: Seq(0), entries: 2, requests: 1 }]);
    assert_eq!(journal.reader().verify(None).unwrap().problems, Vec::<String>::new());
    assert_eq!(journal.lookup(&reqid("c")).unwrap(), None);
    commit(&mut journal, vec![received("c", Request::AgentStandby {}, 1)]);
    assert_eq!(journal.lookup(&reqid("c")).unwrap().unwrap().seq, Seq(6));
}
